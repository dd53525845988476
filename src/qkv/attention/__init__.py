"""Attention: scores, bias, mask, softmax, weighted sum of the values."""
