"""Decoding: what turns logits into sequences, written against the state protocol alone."""
