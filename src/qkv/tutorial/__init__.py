"""Tools for the tutorial: source code, sections, tables, figures."""
