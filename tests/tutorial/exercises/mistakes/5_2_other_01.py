def n_parameters(vocab_size, n_positions, d_model, d_ff, n_layers, n_heads):
    block = 4 * d_model + 4 * d_model * (d_model + 1) + 2 * d_model * d_ff + d_ff + d_model + 7
    return (vocab_size + n_positions) * d_model + n_layers * block + 2 * d_model
