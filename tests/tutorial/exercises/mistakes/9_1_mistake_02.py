def learning_rates(names: list[str], n_layers: int, top: int, rate: float, decay: float) -> dict[str, float]:
    out = {}
    for n in names:
        head, *tail = n.split(".")
        if head in ("classifier", "pooler"):
            out[n] = rate
        elif head == "layers":
            below = n_layers - 1 - int(tail[0])
            if below < top:
                out[n] = rate * decay ** below
    return out
