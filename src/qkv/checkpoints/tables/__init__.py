"""The families that load and save: one file each.

How to add a family:

1. The model is in `models/`, and everything that its config.json can change is in its config. It
   holds no buffers (positions and masks are computed), because it is built without memory.
2. `tables/<family>.py` has the rows (`checkpoints/table.py` lists the verbs), names of the base
   model with the prefix that they have below a head ("bert.", "model."), and one `Family` a
   `model_type` (`checkpoints/family.py`): the fields of config.json, the values that are refused
   (`only`), those without effect (`harmless`), and one `Architecture` for each name in
   `architectures`.
3. `registry.py` lists the family.
4. `tests/checkpoints/tiny.py` gets a small config.json; then all laws of tables run for it: each
   table is a bijection, and what is saved and loaded is the same. Its numbers are compared with
   transformers in `tests/parity/test_<family>.py`.

A row's verbs for the common cases:

    row("h.{}.attn.c_attn.weight", (q, k, v), TRANSPOSE, split(d, d, d))   GPT-2: (in, 3 * out)
    alias("lm_head.weight", "embedding.weight")                            a tied head
    constant("embeddings.position_ids", lambda: torch.arange(n)[None])     an old buffer
    permute(0, 2, 1, rows=(n_heads, d_head // 2, 2))                       rotary pairs as halves
"""
