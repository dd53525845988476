def n_parameters(vocab_size, n_positions, d_model, d_ff, n_layers, n_heads):
    embeddings = vocab_size * d_model + n_positions * d_model
    norm = 2 * d_model
    attention = 4 * (d_model * d_model + d_model)
    ff = (d_model * d_ff + d_ff) + (d_ff * d_model + d_model)
    block = 2 * norm + attention + ff
    head = d_model * vocab_size  # no bias
    return embeddings + n_layers * block + norm + head
