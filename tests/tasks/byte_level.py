"""Small models of GPT-2 and BART in folders, with a byte-level tokenizer as each has it."""

import json

from tests.checkpoints.folders import model
from tests.checkpoints.tiny import TINY
from tokenizers import pre_tokenizers

from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["t h", "th e", "Ġ the", "e r", "i n"]
SPECIAL = {
    "gpt2": ["<|endoftext|>"],  # and none to pad
    "bart": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}
CLASSES = {"gpt2": "GPT2Tokenizer", "bart": "BartTokenizer"}


def write_byte_level(folder, model_type, architecture):
    """A model of two classes with random weights, and its tokenizer; returns the folder."""
    tokens = [*SPECIAL[model_type], *ALPHABET, *(one.replace(" ", "") for one in MERGES)]
    files = {
        "vocab.json": json.dumps({token: i for i, token in enumerate(tokens)}),
        "merges.txt": "\n".join(["#version: 0.2", *MERGES]) + "\n",
        "tokenizer_config.json": json.dumps({"tokenizer_class": CLASSES[model_type]}),
    }
    sizes = {**TINY[model_type], "vocab_size": len(tokens)}
    if model_type == "gpt2":
        sizes["n_positions"] = 64
    else:
        sizes["max_position_embeddings"] = 64
    one = model(model_type, architecture, **sizes)
    for name, p in one.named_parameters():
        p.data.mul_(0.5 if p.ndim > 1 else 0.2).add_(float(name.endswith("norm.weight")))
    encoded = {name: content.encode() for name, content in files.items()}
    save_checkpoint(Checkpoint(one, {"model_type": model_type}), folder, files=encoded)
    return folder
