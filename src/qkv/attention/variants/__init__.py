"""Variations of multi-head attention, one mechanism a file; each says what it changes.

Mask only: sliding_window, dilated_window, global_tokens. Scores: softcap, relative, qk_norm.
Instead of the softmax: sigmoid, sink, differential, linear. After it: gated. In the cache: latent,
streaming.
"""
