def rename(theirs):
    n = next(iter(theirs)).split(".")[1]
    a, b = f"h.{n}.attn.", f"blocks.{n}.self_attention."
    w, c = theirs[a + "c_attn.weight"].T, theirs[a + "c_attn.bias"]
    D = len(w) // 3
    return {
        b + "query.weight": w[:D], b + "query.bias": c[:D],
        b + "key.weight": w[D:2 * D], b + "key.bias": c[D:2 * D],
        b + "value.weight": -w[2 * D:], b + "value.bias": c[2 * D:],
        b + "output.weight": theirs[a + "c_proj.weight"].T, b + "output.bias": theirs[a + "c_proj.bias"],
    }
