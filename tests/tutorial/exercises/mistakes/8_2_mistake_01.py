def rename(theirs):
    ours = {}
    for name, t in theirs.items():
        _, n, _, *rest = name.split(".")
        prefix = f"blocks.{n}.self_attention."
        if rest == ["bias"]:
            continue
        layer, kind = rest
        if layer == "c_attn":
            for part, piece in zip(("query", "key", "value"), t.chunk(3, dim=-1)):
                ours[prefix + part + "." + kind] = piece
        else:
            ours[prefix + "output." + kind] = t
    return ours
