"""Transformer blocks: sublayers wired by one residual rule, and the stacks built of them."""
