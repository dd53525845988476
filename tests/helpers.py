"""What the tests of attention, blocks and models share: the measure of parity, and tiny models.

All sizes are different primes (or the smallest products of them that a model allows), so that no
axis can stand in for another: B 3, source 5, target 7, vocabularies 17 and 19.
"""

import numpy as np
import torch
from tests.checking import unchecked as unchecked  # for the tests that use both
from torch import nn

from qkv.attention.masks import attention_mask, token_positions
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.dilated_window import DilatedWindowAttention
from qkv.attention.variants.global_tokens import GlobalTokensAttention
from qkv.attention.variants.relative import RelativeAttention
from qkv.attention.variants.streaming import StreamingAttention
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.positions import ALiBi, RelativeBias
from qkv.blocks.rotary_scaling import TurnsScaling
from qkv.blocks.stack import Stack
from qkv.blocks.state import DecodingState
from qkv.models.bart import Bart, BartConfig
from qkv.models.causal import CausalLM
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.hybrid import Hybrid, HybridConfig
from qkv.models.llama import Llama, LlamaConfig
from qkv.models.marian import Marian, MarianConfig
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.t5 import T5, T5Config
from qkv.models.transformer import Transformer, TransformerConfig

B, S, T, SOURCE_VOCAB, TARGET_VOCAB = 3, 5, 7, 17, 19
SCORES = ("additive", "dot", "general", "concat", "location")


def distance(ours, theirs):
    """max|a - b| / max|b|, the design's measure."""
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def assert_close(ours, theirs, bound=1e-12):
    assert ours.isfinite().all()
    assert distance(ours, theirs) <= bound


def assert_as_exact(ours, theirs, reference, scale=None):
    """Raise where ours, in float32, is much further than theirs from a reference in float64.

    How far two results in float32 lie apart depends on the processor, the number of threads and
    the depth of the network, so no constant bounds it. Theirs, computed beside ours on the same
    machine, says what float32 can know here: the largest error of ours may be 4 times the largest
    of theirs, plus 8 ulp of the tensor's largest value.

    Args:
        ours: in float32, or made of float32.
        theirs: likewise; never a copy of ours.
        reference: the same numbers in float64.
        scale: stands for the tensor's largest value where that is 0 but for rounding.
    """
    assert ours.shape == theirs.shape == reference.shape
    assert reference.dtype == torch.float64
    assert ours.isfinite().all()
    largest = reference.abs().max().item() if scale is None else scale
    ulp = np.spacing(np.float32(largest)).item() if largest else 0.0
    error, their_error = ((x - reference).abs().max().item() for x in (ours, theirs))
    allowed = 4 * their_error + 8 * ulp
    assert error <= allowed, f"error {error:.2e}; theirs {their_error:.2e}, ulp {ulp:.2e}"


def randomized(model, dtype=torch.float64, seed=0, std=0.4):
    """Give every parameter a random value: biases of 0 and norm weights of 1 hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    model.to(dtype).eval()
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(noise * std)
    return model


def transformer(dtype=torch.float64, **options):
    sizes = {"d_model": 22, "n_heads": 11, "d_ff": 13, "n_encoder_layers": 2, "n_decoder_layers": 2}
    options = {"dropout": 0.0, "tied_output": False, **sizes, **options}
    config = TransformerConfig(
        source_vocab_size=SOURCE_VOCAB, target_vocab_size=TARGET_VOCAB, **options
    )
    return randomized(Transformer(config), dtype)


def marian(**options):
    sizes = {"d_model": 22, "n_heads": 11, "d_ff": 13, "n_encoder_layers": 2, "n_decoder_layers": 2}
    vocabularies = {"source_vocab_size": SOURCE_VOCAB, "target_vocab_size": TARGET_VOCAB}
    tables = {"shared_embeddings": False, "tied_output": False}
    config = MarianConfig(**{"dropout": 0.0, **vocabularies, **sizes, **tables, **options})
    return randomized(Marian(config))


def bart(**options):
    sizes = {"n_positions": 53, "d_model": 22, "n_heads": 11, "d_ff": 13}
    layers = {"n_encoder_layers": 2, "n_decoder_layers": 2}
    config = BartConfig(vocab_size=TARGET_VOCAB, **{"dropout": 0.0, **sizes, **layers, **options})
    model = Bart(config)
    # A tied output layer gives every token's vector a gradient, padding's too.
    model.head.weight = nn.Parameter(torch.empty(TARGET_VOCAB, 22))
    return randomized(model)


def t5(**options):
    sizes = {"d_model": 23, "n_heads": 3, "d_head": 5, "d_ff": 13, "n_buckets": 8}
    layers = {"n_encoder_layers": 2, "n_decoder_layers": 2, "max_distance": 11}
    rest = {"dropout": 0.0, "feed_forward": "geglu_tanh", "tied_output": False}
    return randomized(
        T5(T5Config(vocab_size=TARGET_VOCAB, **{**sizes, **layers, **rest, **options}))
    )


def rnn(dtype=torch.float64, **options):
    if options.get("score") == "location":
        options["max_source_length"] = 23
    config = RNNConfig(
        source_vocab_size=SOURCE_VOCAB,
        target_vocab_size=TARGET_VOCAB,
        d_embedding=11,
        d_hidden=26,
        **{"window": 2, **options},
    )
    return randomized(RNNSeq2Seq(config), dtype)


class DecoderOnly(nn.Module):
    """A stack over its own past, so that the state's laws reach each kind of position.

    The source is ignored: the protocol is that of the models with an encoder.
    """

    def __init__(self, config, make_bias=None):
        super().__init__()

        def block(i):
            if make_bias is None:
                return Block(config)
            attention = MultiHeadAttention(
                config.d_model, config.n_heads, causal=True, position_bias=make_bias()
            )
            return Block(config, self_attention=attention)

        self.embedding = TokenEmbedding(TARGET_VOCAB, config.d_model)
        self.stack = Stack(config, 2, make_block=block)
        self.head = nn.Linear(config.d_model, TARGET_VOCAB)

    def forward(self, source, target, *, source_mask=None, target_mask=None):
        x = self.stack(
            self.embedding(target),
            mask=attention_mask(target_mask),
            positions=token_positions(target, target_mask),
        )
        return self.head(x)

    def start(self, source, token_mask=None):
        return DecodingState(len(self.stack.blocks), n_rows=len(source))

    def step(self, tokens, state, token_mask=None):
        mask, positions = state.advance(tokens, token_mask)
        x = self.stack(self.embedding(tokens), mask=mask, positions=positions, caches=state.caches)
        return self.head(x)


def decoder_only(make_bias=None, **options):
    sizes = {"d_model": 24, "n_heads": 6, "d_ff": 13, "causal": True}
    return randomized(DecoderOnly(BlockConfig(**sizes, **options), make_bias))


class Prompted(nn.Module):
    """A causal language model where one with an encoder is expected: the source is a prompt."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, source, target, *, source_mask=None, target_mask=None):
        masks = [
            torch.ones_like(tokens).bool() if mask is None else mask
            for tokens, mask in ((source, source_mask), (target, target_mask))
        ]
        logits = self.model(torch.cat((source, target), 1), token_mask=torch.cat(masks, 1))
        return logits[:, source.shape[1] :]

    def start(self, source, token_mask=None):
        return self.model.start(source, token_mask)

    def step(self, tokens, state, token_mask=None):
        return self.model.step(tokens, state, token_mask)


def gpt(**options):
    sizes = {"n_positions": 53, "d_model": 22, "n_heads": 11, "d_ff": 13, "n_layers": 2}
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    options = {"tied_output": False, **sizes, **rates, **options}
    return randomized(Prompted(GPT(GPTConfig(vocab_size=TARGET_VOCAB, **options))))


def llama(**options):
    sizes = {"d_model": 24, "n_heads": 6, "n_kv_heads": 2, "d_ff": 13, "n_layers": 2}
    config = LlamaConfig(vocab_size=TARGET_VOCAB, **sizes, **options)
    return randomized(Prompted(Llama(config)))


def hybrid(*layers, **options):
    sizes = {"d_model": 24, "n_heads": 6, "d_ff": 13, "n_layers": 5}
    config = HybridConfig(vocab_size=TARGET_VOCAB, layers=layers, **sizes | options)
    return randomized(Prompted(Hybrid(config)))


def prompted(make_attention):
    """A causal language model of a mechanism that depends on positions."""
    config = BlockConfig(d_model=24, n_heads=6, d_ff=13, causal=True, norm_first=True)
    stack = Stack(config, 2, make_block=lambda i: Block(config, self_attention=make_attention()))
    return randomized(Prompted(CausalLM(TARGET_VOCAB, 24, stack, tied_output=False)))


# These read the source as a prompt, so that padding may stand between it and the target.
PROMPTED = {
    "gpt": gpt,
    "llama": lambda: llama(
        qkv_bias=True,
        rotary_scaling=TurnsScaling(factor=4.0, original_length=16),
        rotary_base=100.0,
    ),
    "hybrid": lambda: hybrid("nope", "window", window=3, n_layers=2),
    "llama-window": lambda: llama(window=3, first_window_layer=1),
    "dilated": lambda: prompted(
        lambda: DilatedWindowAttention(24, 6, window=1, dilation=2, causal=True)
    ),
    "global": lambda: prompted(
        lambda: GlobalTokensAttention(24, 6, window=2, n_global=2, causal=True)
    ),
    "shaw": lambda: prompted(lambda: RelativeAttention(24, 6, max_distance=3, causal=True)),
    "streaming": lambda: prompted(lambda: StreamingAttention(24, 6, window=2, n_sinks=1)),
    "alibi-prompt": lambda: prompted(
        lambda: MultiHeadAttention(24, 6, causal=True, position_bias=ALiBi(6))
    ),
}

MODELS = {
    "post-norm": transformer,
    "pre-norm": lambda: transformer(norm_first=True, norm="rms", feed_forward="swiglu"),
    "rotary": lambda: decoder_only(norm_first=True, rotary_base=100.0, n_kv_heads=2),
    "rotary-pairs": lambda: transformer(norm_first=True, norm="rms", rotary_base=100.0),
    "alibi": lambda: decoder_only(lambda: ALiBi(6)),
    "relative-bias": lambda: decoder_only(
        lambda: RelativeBias(6, n_buckets=8, max_distance=11, bidirectional=False)
    ),
    "marian": marian,
    "bart": bart,
    "mbart": lambda: bart(norm_first=True, scaled_embedding=True),
    "t5": t5,
    **PROMPTED,
    "bahdanau-gru": lambda: rnn(),
    "bahdanau-lstm-local-m": lambda: rnn(cell="lstm", local="local-m", score="general"),
    "luong-lstm": lambda: rnn(cell="lstm", decoder="luong", score="general"),
    "luong-gru-local-p": lambda: rnn(decoder="luong", score="dot", local="local-p"),
    "luong-not-fed": lambda: rnn(decoder="luong", score="concat", input_feeding=False),
    "no-attention": lambda: rnn(decoder="luong", score=None),
}


def problem(seed=0):
    """Source, target, and the mask of a right-padded source."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(SOURCE_VOCAB, (B, S), generator=generator)
    target = torch.randint(TARGET_VOCAB, (B, T), generator=generator)
    return source, target, right_mask([5, 2, 3], S)


def right_mask(lengths, width):
    """True on the first places of each row: right padding."""
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def to_left(tokens, mask):
    """Move each row's padding to the left; returns tokens and mask."""
    order = mask.long().argsort(dim=1, stable=True)
    return tokens.gather(1, order), mask.gather(1, order)
