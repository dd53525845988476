"""Scores of finished outputs."""
