"""A small config.json of each family: what the laws of all name tables run on."""

TINY = {
    "bert": {
        "vocab_size": 37,
        "max_position_embeddings": 41,
        "type_vocab_size": 2,
        "hidden_size": 22,
        "num_attention_heads": 11,
        "intermediate_size": 29,
        "num_hidden_layers": 3,
    },
    "roberta": {
        "vocab_size": 37,
        "max_position_embeddings": 43,
        "type_vocab_size": 1,
        "hidden_size": 22,
        "num_attention_heads": 11,
        "intermediate_size": 29,
        "num_hidden_layers": 3,
        "pad_token_id": 1,
    },
    "distilbert": {
        "vocab_size": 37,
        "max_position_embeddings": 41,
        "dim": 22,
        "n_heads": 11,
        "hidden_dim": 29,
        "n_layers": 3,
    },
}
