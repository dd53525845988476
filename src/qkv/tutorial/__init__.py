"""The tools of the tutorial: shown source, sections, tables, figures, timers."""
