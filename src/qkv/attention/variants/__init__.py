"""Variations of multi-head attention, one mechanism a file; each overrides the step it changes.

Mask: sliding_window, dilated_window, global_tokens (by chunks), streaming (with streaming_cache).
Scores: softcap, relative, qk_norm. Instead of the softmax: sigmoid, sink, differential, linear
(with feature_sums, linear_state). After it: gated. In the cache: latent. What they share:
self_attention, explicit, chunks.
"""
