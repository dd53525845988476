"""Variants of multi-head attention, one per file; each overrides the step that it changes.

Mask: sliding_window, dilated_window, global_tokens (by chunks), streaming (with streaming_cache),
top_k. Scores: softcap, relative, qk_norm. Instead of the softmax: sigmoid, sink, differential,
linear (with feature_sums, linear_state), gated_delta (with delta_rule). After it: gated. In the
cache: latent. Shared code: self_attention, explicit, chunks, recurrent. By name: registry.
"""
