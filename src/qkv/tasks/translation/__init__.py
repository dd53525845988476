"""Texts into other texts."""
