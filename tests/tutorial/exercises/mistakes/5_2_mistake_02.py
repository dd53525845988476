def n_parameters(vocab_size: int, n_positions: int, d_model: int, d_ff: int, n_layers: int, n_heads: int) -> int:
    d = d_model
    total = (vocab_size + n_positions) * d
    for _ in range(n_layers):
        total += 2 * d                      # ln 1
        for _ in range(n_heads):            # every head has q, k, v and the output
            total += 4 * (d * d + d)
        total += 2 * d                      # ln 2
        total += d * d_ff + d_ff + d_ff * d + d
    return total + 2 * d
