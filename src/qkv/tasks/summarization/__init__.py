"""Texts in a line each."""
