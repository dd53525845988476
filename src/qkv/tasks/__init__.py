"""Tasks: where data, model, training and decoding meet."""
