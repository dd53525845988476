"""A tokenizer for all kinds of vocabularies, trained here or loaded from a published folder."""

from qkv.data.tokenizers.folder import FILE_NAME, TOKENIZER_FILES
from qkv.data.tokenizers.special_tokens import ModelInput
from qkv.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from qkv.data.tokenizers.training import PAD, SPECIALS, START, STOP, UNKNOWN

__all__ = [
    "FILE_NAME",
    "PAD",
    "SPECIALS",
    "START",
    "STOP",
    "TOKENIZER_FILES",
    "UNKNOWN",
    "ModelInput",
    "Tokenizer",
    "load_tokenizer",
]
