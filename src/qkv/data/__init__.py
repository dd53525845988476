"""Tokenizers, batches and corpora."""
