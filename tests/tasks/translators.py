"""Small translators that turn words around, of every kind, and what they learn from."""

import torch
from torch import nn

from qkv.data.tokenizers import Tokenizer
from qkv.models.marian import Marian, MarianConfig
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks.pretrained import Loaded
from qkv.tasks.translation import Translator

PAIRS = [("abc", "cba"), ("b", "b"), ("cabba", "abbac"), ("bc", "cb"), ("aacb", "bcaa")]
TEXTS = [text for text, _ in PAIRS]
KINDS = ["rnn", "transformer", "marian"]
SIZES = {"d_model": 24, "n_heads": 3, "d_ff": 40, "n_encoder_layers": 1, "n_decoder_layers": 1}


def make_translator(kind: str, *, shared: bool = True, **options) -> Translator:
    """Random weights; two tokenizers of different size unless they are shared."""
    torch.manual_seed(0)
    letters = "abc. "
    source = Tokenizer.train_characters([letters])
    target = source if shared else Tokenizer.train_characters([letters.upper() + letters])
    sizes = {"source_vocab_size": source.vocab_size, "target_vocab_size": target.vocab_size}
    if kind == "rnn":
        model: nn.Module = RNNSeq2Seq(RNNConfig(**sizes, d_embedding=6, d_hidden=10))
    elif kind == "transformer":
        model = Transformer(TransformerConfig(**sizes, **SIZES, dropout=0.0))
    else:
        model = Marian(MarianConfig(**sizes, **SIZES, dropout=0.0, n_positions=13))
    return Translator(Loaded(model, source), target=target, **{"max_length": 7} | options)
