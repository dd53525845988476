"""Faster models for inference: packed weights, and a decoder's step in one call."""
