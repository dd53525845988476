"""Whole models, one family a file."""
