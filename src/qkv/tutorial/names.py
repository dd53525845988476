"""The usual names of a Transformer's parts, and where each is in the library."""

from qkv.attention.core import attention
from qkv.attention.masks import causal_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.block import Block, Residual
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.positions import SinusoidalPositions
from qkv.blocks.stack import Stack
from qkv.generation.greedy import greedy
from qkv.models.transformer import Transformer
from qkv.tutorial.source import Shown, location

# The names in Vaswani et al. (2017) and the Annotated Transformer.
USUAL_NAMES: dict[str, tuple[Shown, str]] = {
    "ScaledDotProductAttention": (attention, "attention; as the equation, explicit_attention"),
    "MultiHeadAttention": (MultiHeadAttention, "MultiHeadAttention(d_model, n_heads)"),
    "PositionalEncoding": (SinusoidalPositions, "SinusoidalPositions(d_model)"),
    "PositionwiseFeedForward": (FeedForward, "FeedForward(d_model, d_ff)"),
    "SublayerConnection": (Residual, "Residual(config)"),
    "EncoderLayer": (Block, "Block(BlockConfig(...))"),
    "DecoderLayer": (Block, "Block(BlockConfig(..., causal=True, cross_attention=True))"),
    "Encoder, Decoder": (Stack, "Stack(config, n_layers)"),
    "Embeddings": (TokenEmbedding, "TokenEmbedding(vocab_size, d_model, scale=)"),
    "subsequent_mask": (causal_mask, "causal_mask(n_queries, n_keys)"),
    "Transformer": (Transformer, "Transformer(TransformerConfig(...))"),
    "greedy_decode": (greedy, "greedy(model, source, start=, stop=, max_length=)"),
}


def usual_names() -> list[dict[str, str]]:
    """Return a row for each usual name: what it is called here, and its file."""
    return [
        {"usual name": usual, "here": here, "file": location(shown)}
        for usual, (shown, here) in USUAL_NAMES.items()
    ]
