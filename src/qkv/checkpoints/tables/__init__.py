"""The supported families, one per file.

How to add a family:

1. Put the model in `models/`, with all options of config.json in its config. It must not have
   buffers (compute positions and masks), because it is built without memory.
2. Write `tables/<family>.py` with the rows (see `checkpoints/table.py` for the verbs), in which
   base-model names have the prefix that they have below a head ("bert.", "model."), and with one
   `Family` per `model_type` (`checkpoints/family.py`): the fields of config.json, the only
   supported values (`only`), fields without effect (`harmless`), and one `Architecture` for each
   name in `architectures`.
3. List the family in `registry.py`.
4. Add a small config.json to `tests/checkpoints/tiny.py`; all laws of tables then run for it: each
   table is a bijection, and saving and loading is the identity. Compare the outputs with
   transformers in `tests/parity/test_<family>.py`.

Common rows:

    row("h.{}.attn.c_attn.weight", (q, k, v), TRANSPOSE, split(d, d, d))   GPT-2: (in, 3 * out)
    alias("lm_head.weight", "embedding.weight")                            a tied head
    constant("embeddings.position_ids", lambda: torch.arange(n)[None])     an old buffer
    permute(0, 2, 1, rows=(n_heads, d_head // 2, 2))                       rotary pairs as halves
"""
