"""Attention: scores, then bias, then mask, then softmax, then mix."""
