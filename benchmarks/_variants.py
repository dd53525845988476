"""The mechanisms that `variants.py` compares, and the two tasks that they learn.

A mechanism takes the place of self-attention in every block. All else, the first weights included,
is that of multi-head attention: a tensor that both have under one name and in one shape begins
equal. Cross-attention stays multi-head.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.differential import DifferentialAttention, initial_lambda
from qkv.attention.variants.differential_v2 import DifferentialV2Attention
from qkv.attention.variants.dilated_window import DilatedWindowAttention
from qkv.attention.variants.gated import GatedAttention
from qkv.attention.variants.gated_delta import GatedDeltaAttention
from qkv.attention.variants.global_tokens import GlobalTokensAttention
from qkv.attention.variants.latent import LatentAttention
from qkv.attention.variants.linear import LinearAttention
from qkv.attention.variants.qk_norm import QKNormAttention
from qkv.attention.variants.relative import RelativeAttention
from qkv.attention.variants.sigmoid import SigmoidAttention
from qkv.attention.variants.sink import SinkAttention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.attention.variants.softcap import SoftcapAttention
from qkv.attention.variants.streaming import StreamingAttention
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.positions import Rotary, SinusoidalPositions
from qkv.blocks.stack import Stack
from qkv.data.batches import Batching
from qkv.data.dates import TUTORIAL_LOCALES, date_pairs
from qkv.data.tokenizers import Tokenizer
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks.pretrained import Loaded
from qkv.tasks.translation import Translator
from qkv.training.loop import History, train
from qkv.training.losses import linear_cross_entropy, pair_loss
from qkv.training.progress import Bar
from qkv.training.settings import Training

# ---------------------------------------------------------------------------------- mechanisms


@dataclass(frozen=True)
class Place:
    """Where a mechanism is put: the sizes of its stack, its layer, and how wide a window is."""

    d_model: int
    n_heads: int
    causal: bool
    layer: int  # from 1
    window: int

    @property
    def sizes(self) -> tuple[int, int]:
        return self.d_model, self.n_heads

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


Make = Callable[[Place], nn.Module]
BASELINE, STREAMING, DELTA = "multi-head", "streaming, 4 sinks", "gated delta"

MECHANISMS: dict[str, Make] = {
    BASELINE: lambda p: MultiHeadAttention(*p.sizes, causal=p.causal),
    "multi-head, rotary": lambda p: MultiHeadAttention(
        *p.sizes, causal=p.causal, rotary=Rotary(p.d_head)
    ),
    "sliding window": lambda p: SlidingWindowAttention(*p.sizes, window=p.window, causal=p.causal),
    # Gaps in the upper layer only, as in the paper.
    "dilated window": lambda p: DilatedWindowAttention(
        *p.sizes, window=p.window, dilation=1 if p.layer == 1 else 4, causal=p.causal
    ),
    "global token": lambda p: GlobalTokensAttention(
        *p.sizes, n_global=1, window=p.window, causal=p.causal
    ),
    STREAMING: lambda p: StreamingAttention(*p.sizes, n_sinks=4, window=p.window),
    "relative": lambda p: RelativeAttention(*p.sizes, max_distance=16, causal=p.causal),
    "soft cap": lambda p: SoftcapAttention(*p.sizes, cap=50.0, causal=p.causal),
    "query-key norm": lambda p: QKNormAttention(*p.sizes, causal=p.causal),
    "sigmoid": lambda p: SigmoidAttention(*p.sizes, causal=p.causal),
    "learned sink": lambda p: SinkAttention(*p.sizes, causal=p.causal),
    "differential": lambda p: DifferentialAttention(
        p.d_model, p.n_heads // 2, lambda_init=initial_lambda(p.layer), causal=p.causal
    ),
    "differential V2": lambda p: DifferentialV2Attention(*p.sizes, causal=p.causal),
    "linear": lambda p: LinearAttention(*p.sizes, causal=p.causal),
    DELTA: lambda p: GatedDeltaAttention(*p.sizes, causal=p.causal),
    "gated": lambda p: GatedAttention(*p.sizes, causal=p.causal),
    "latent, rotary": lambda p: LatentAttention(
        *p.sizes,
        d_latent=p.d_model // 2,
        d_rotary=p.d_head // 2,
        rotary=Rotary(p.d_head // 2),
        causal=p.causal,
    ),
}


def rebuild(stack: Stack, config: BlockConfig, make: Make, window: int) -> Stack:
    """Build a stack around a mechanism, with the weights of `stack` where both have them."""

    def make_block(i: int) -> Block:
        place = Place(config.d_model, config.n_heads, config.causal, i + 1, window)
        return Block(config, self_attention=make(place))

    rebuilt = Stack(config, len(stack.blocks), make_block=make_block)
    initialize(rebuilt)
    shapes = {name: tensor.shape for name, tensor in rebuilt.state_dict().items()}
    shared = {
        name: tensor
        for name, tensor in stack.state_dict().items()
        if shapes.get(name) == tensor.shape
    }
    rebuilt.load_state_dict(shared, strict=False)
    return rebuilt


def initialize(stack: Stack) -> None:
    """Draw the matrices as `Transformer` does."""
    for module in stack.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)


# --------------------------------------------------------------------------------------- dates

DATES = {
    "locales": list(TUTORIAL_LOCALES),
    "training pairs": 60_000,
    "test pairs": 1_000,
    "d_model": 128,
    "heads": 4,
    "d_ff": 512,
    "layers": "2+2",
    "window": 4,
    "steps": 350,
    "positions a batch": 3_000,
    "learning rate": 2e-3,
}


class DateTransformer(Transformer):
    """The encoder-decoder of the tutorial's section 7 around a mechanism."""

    def __init__(self, config: TransformerConfig, make: Make):
        super().__init__(config)
        window = DATES["window"]
        self.encoder = rebuild(self.encoder, config.block(decoder=False), make, window)
        self.decoder = rebuild(self.decoder, config.block(decoder=True), make, window)


@cache
def dates() -> tuple[list, list, Tokenizer, Tokenizer]:
    """Draw the tutorial's pairs: to train on and to test on, and a tokenizer for each side."""

    def draw(split: str, n_pairs: int, seed: int) -> list[tuple[str, str]]:
        endless = date_pairs(TUTORIAL_LOCALES, split=split, seed=seed)
        return [(pair.text, pair.iso) for pair in itertools.islice(endless, n_pairs)]

    pairs = draw("train", DATES["training pairs"], 1)
    source = Tokenizer.train_characters(text for text, _ in pairs)
    target = Tokenizer.train_characters(iso for _, iso in pairs)
    return pairs, draw("test", DATES["test pairs"], 2), source, target


def learn_dates(name: str, seed: int, steps: int) -> dict[str, Any]:
    """Train on dates and return the exact match on unseen ones."""
    pairs, test_pairs, source, target = dates()
    config = TransformerConfig(
        source_vocab_size=source.vocab_size,
        target_vocab_size=target.vocab_size,
        d_model=DATES["d_model"],
        n_heads=DATES["heads"],
        d_ff=DATES["d_ff"],
        n_encoder_layers=2,
        n_decoder_layers=2,
        dropout=0.0,
    )
    torch.manual_seed(seed)
    loaded = Loaded(DateTransformer(config, MECHANISMS[name]), source)
    translator = Translator(loaded, target=target, max_length=12)
    batching = Batching(max_tokens=DATES["positions a batch"], seed=seed, epochs=None)
    history = train(
        translator.model,
        translator.batches(pairs, batching),
        pair_loss,
        Training(steps=steps, learning_rate=DATES["learning rate"], warmup=steps // 8),
        device="cpu",
        callbacks=[Bar(f"dates, {name}")],
    )
    return {"exact match": translator.exact_match(test_pairs)} | numbers(translator.model, history)


# ---------------------------------------------------------------------------------------- copy

COPY = {
    "symbols": 40,
    "lengths": [4, 40],
    "d_model": 64,
    "heads": 2,
    "d_ff": 256,
    "layers": 2,
    "window": 8,
    "steps": 1_800,
    "positions a batch": 1_300,
    "learning rate": 5e-3,
    "test rows a length": 32,
}
MARK = COPY["symbols"]  # the id between a sequence and its copy
SHORTEST, LONGEST = COPY["lengths"]
REACH = COPY["layers"] * COPY["window"]  # how far back windows look, one on top of the other


@dataclass(frozen=True)
class Copies:
    """Rows `s_1 ... s_n # s_1 ... s_n` of different symbols, with one n for all."""

    tokens: Tensor  # (rows, 2n + 1)

    @classmethod
    def draw(cls, n: int, rows: int, generator: torch.Generator) -> "Copies":
        symbols = torch.rand(rows, COPY["symbols"], generator=generator).argsort(-1)[:, :n]
        return cls(torch.cat((symbols, torch.full((rows, 1), MARK), symbols), 1))

    @property
    def inputs(self) -> Tensor:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> Tensor:
        """The second half: what the tokens from the mark on have to predict."""
        return self.tokens[:, self.tokens.shape[1] // 2 + 1 :]

    @property
    def n_targets(self) -> int:
        return self.targets.numel()

    def to(self, device: torch.device | str) -> "Copies":
        return Copies(self.tokens.to(device))


class CopyModel(nn.Module):
    """A causal stack between embeddings with sinusoids and a tied output layer."""

    def __init__(self, make: Make):
        super().__init__()
        d_model, vocab_size = COPY["d_model"], COPY["symbols"] + 1
        config = BlockConfig(
            d_model=d_model,
            n_heads=COPY["heads"],
            d_ff=COPY["d_ff"],
            norm_first=True,
            causal=True,
        )
        self.embedding = TokenEmbedding(vocab_size, d_model, scale=math.sqrt(d_model))
        self.positions = SinusoidalPositions(d_model)
        plain = Stack(config, COPY["layers"])
        initialize(plain)
        self.stack = rebuild(plain, config, make, COPY["window"])
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.embedding.weight

    def hidden(self, tokens: Tensor) -> Tensor:
        """Compute what the output layer reads, where the second half is predicted."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        hidden = self.stack(self.positions(self.embedding(tokens), places))
        return hidden[:, tokens.shape[1] // 2 :]


def copy_loss(model: CopyModel, batch: Copies) -> Tensor:
    hidden = model.hidden(batch.inputs).flatten(0, 1)
    return linear_cross_entropy(hidden, model.head.weight, None, batch.targets.flatten())


def copy_batches(seed: int) -> Iterator[Copies]:
    """Yield batches without end, of a random length each and of about equal work."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        n = int(torch.randint(SHORTEST, LONGEST + 1, (1,), generator=generator))
        yield Copies.draw(n, COPY["positions a batch"] // (2 * n), generator)


@torch.no_grad()
def copied(model: CopyModel, n: int, rows: int, generator: torch.Generator) -> Tensor:
    """Say which tokens (rows, n) of new sequences are predicted right."""
    batch = Copies.draw(n, rows, generator)
    return model.head(model.hidden(batch.inputs)).argmax(-1) == batch.targets


def validate_copy(model: CopyModel) -> dict[str, float]:
    """Return the share of right tokens at four lengths, on a stream apart from the test's."""
    generator = torch.Generator().manual_seed(20_000)
    lengths = range(LONGEST // 4, LONGEST + 1, LONGEST // 4)
    shares = [float(copied(model, n, 32, generator).float().mean()) for n in lengths]
    return {"right tokens": sum(shares) / len(shares)}


def learn_copy(name: str, seed: int, steps: int) -> dict[str, Any]:
    """Train to copy; return shares of right tokens by length, and of sequences right as a whole."""
    torch.manual_seed(seed)
    model = CopyModel(MECHANISMS[name])
    history = train(
        model,
        copy_batches(seed),
        copy_loss,
        Training(
            steps=steps,
            learning_rate=COPY["learning rate"],
            evaluate_every=max(1, steps // 18),
            warmup=steps // 10,
        ),
        evaluate=validate_copy,
        device="cpu",
        callbacks=[Bar(f"copy, {name}")],
    )
    generator = torch.Generator().manual_seed(10_000)
    lengths = range(SHORTEST, LONGEST + 1)
    right = {n: copied(model, n, COPY["test rows a length"], generator) for n in lengths}
    tokens = {n: round(float(each.float().mean()), 4) for n, each in right.items()}
    whole = [float(each.all(1).float().mean()) for each in right.values()]
    beyond = [share for n, share in tokens.items() if n > REACH]
    curve = [(step, round(scores["right tokens"], 4)) for step, scores in history.evaluations]
    return {
        "right tokens": sum(tokens.values()) / len(tokens),
        "right tokens beyond the windows": sum(beyond) / len(beyond),
        "right sequences": sum(whole) / len(whole),
        "right tokens by length": tokens,
        "validation": curve,
    } | numbers(model, history)


def numbers(model: nn.Module, history: History) -> dict[str, Any]:
    """Say what both tasks record."""
    last = history.losses[-len(history.losses) // 20 :]
    return {
        "loss of the last steps": sum(last) / len(last),
        "steps": history.steps[-1],
        "seconds": round(history.seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


TASKS = {"dates": (DATES, learn_dates), "copy": (COPY, learn_copy)}
