"""Decoding strategies, which depend on the state protocol alone."""
