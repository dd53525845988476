"""Transformer blocks, their sublayers, and stacks of blocks."""
