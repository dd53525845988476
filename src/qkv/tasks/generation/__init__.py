"""Texts from language models."""
