"""Heads for any encoder, which map hidden states to logits.

An encoder has a `config` with `d_model` and returns hidden states (B, L, D) when called. For a
language model, the hidden states before its own head are used; an encoder-decoder with a method
`read` runs both of its stacks on the text.

Shapes: B batch, N choices, L tokens, D d_model, V vocabulary, C classes.
"""

from typing import Any, Literal, TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.blocks.dropout import Dropout
from qkv.blocks.feed_forward import ACTIVATIONS
from qkv.blocks.norms import LayerNorm
from qkv.errors import ConfigError
from qkv.models.initialization import initialize
from qkv.models.pooling import first_token, last_token, mean_token

POOLS = {"first": first_token, "last": last_token, "mean": mean_token}
Encoder = Any  # see the module's docstring; attributes of modules cannot be typed
HIDDEN_LAYERS = {"tanh": torch.tanh, "relu": torch.relu}
Pool = Literal["pooler", "first", "last", "mean"]


class HeadOptions(TypedDict, total=False):
    """The options of `PooledHead`."""

    pool: Pool
    hidden_layer: Literal["tanh", "relu"] | None
    dropout: float
    bias: bool


class ModelWithHead(nn.Module):
    """An encoder with a head: `forward` is `score(hidden(...))`."""

    encoder: Encoder
    config: Any

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config

    def forward(
        self,
        inputs: Tensor,
        *,
        token_mask: Bool[Tensor, "B L"] | None = None,
        segments: Int[Tensor, "B L"] | None = None,
        positions: Int[Tensor, "*B L"] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Compute logits; for the arguments, see the encoder."""
        hidden = self.hidden(inputs, token_mask=token_mask, segments=segments, positions=positions)
        return self.score(hidden, token_mask)

    def hidden(
        self,
        inputs: Tensor,
        *,
        token_mask: Bool[Tensor, "B L"] | None = None,
        segments: Int[Tensor, "B L"] | None = None,
        positions: Int[Tensor, "*B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Run the encoder; None is not passed on, as not every encoder accepts every argument."""
        options = {"token_mask": token_mask, "segments": segments, "positions": positions}
        run = getattr(self.encoder, "read", getattr(self.encoder, "hidden", self.encoder))
        return run(inputs, **{name: value for name, value in options.items() if value is not None})

    def score(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Map hidden states to logits; `PreTraining` returns two tensors."""
        raise NotImplementedError(f"{type(self).__name__} does not define score")


class TokenClassifier(ModelWithHead):
    """Token classification, such as named entities (Devlin et al. 2019, section 5.3)."""

    def __init__(self, encoder: Encoder, n_classes: int, *, dropout: float = 0.0):
        super().__init__(encoder)
        self.n_classes = n_classes
        self.dropout = Dropout(dropout)
        self.classifier = nn.Linear(encoder.config.d_model, n_classes)
        initialize(self.classifier)

    def score(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L C"]:
        """Return the logits of each token's classes."""
        return self.classifier(self.dropout(hidden))


class QuestionAnswering(TokenClassifier):
    """The start and end of an answer (Devlin et al. 2019, section 4.2).

    The logits are (B, L, 2): `start, end = logits.unbind(-1)`.
    """

    def __init__(self, encoder: Encoder, *, dropout: float = 0.0):
        super().__init__(encoder, 2, dropout=dropout)


class Classifier(nn.Module):
    """Classification of a vector, with an optional hidden layer."""

    def __init__(
        self, d_model: int, n_classes: int, *, hidden_layer: str | None, dropout: float, bias: bool
    ):
        super().__init__()
        self.dense = nn.Linear(d_model, d_model) if hidden_layer else None
        self.activation = HIDDEN_LAYERS[hidden_layer] if hidden_layer else None
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(d_model, n_classes, bias=bias)
        self.apply(initialize)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B C"]:
        """Return the logits."""
        if self.dense is not None and self.activation is not None:
            x = self.activation(self.dense(self.dropout(x)))
        return self.output(self.dropout(x))


class PooledHead(ModelWithHead):
    """Scores from one vector for the whole input, to classify texts or compare choices.

    Args:
        encoder: encoder below the head.
        n_scores: number of outputs.
        pool: "pooler" uses the encoder's own; "first", "last" and "mean" use the real tokens.
        hidden_layer: activation of a hidden layer, as in RoBERTa and BART ("tanh") and DistilBERT
            ("relu"), which have no pooler.
        dropout: dropout before each layer.
        bias: whether the last layer has a bias; GPT-2's has none.

    Raises:
        ConfigError: if the pool is unknown, or is "pooler" and the encoder has none.
    """

    def __init__(
        self,
        encoder: Encoder,
        n_scores: int,
        *,
        pool: Pool = "pooler",
        hidden_layer: Literal["tanh", "relu"] | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__(encoder)
        if pool != "pooler" and pool not in POOLS:
            raise ConfigError(f"pool = {pool!r}; expected one of pooler, {', '.join(POOLS)}")
        if pool == "pooler" and getattr(encoder, "pooler", None) is None:
            raise ConfigError(
                f"pool = 'pooler', but this {type(encoder).__name__} was built without one; "
                f"expected one of {', '.join(POOLS)}"
            )
        self.pool = pool
        self.classifier = Classifier(
            encoder.config.d_model,
            n_scores,
            hidden_layer=hidden_layer,
            dropout=dropout,
            bias=bias,
        )

    def score(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Pool the real tokens of each row and score the result."""
        pool = self.encoder.pool if self.pool == "pooler" else POOLS[self.pool]
        return self.classifier(pool(hidden, token_mask))

    def extra_repr(self) -> str:
        """Show the options that no submodule shows."""
        return f"pool={self.pool!r}"


class SequenceClassifier(PooledHead):
    """Classification of a text, a pair of texts or an image (Devlin et al. 2019, section 4.1).

    Args:
        encoder: encoder below the head.
        n_classes: C; 1 for regression.
        end: id of the end token, for a head that reads only the states at end tokens: with pool =
            "last" the last of them (Lewis et al. 2020, section 3.1), which a language code may
            follow. A row without an end token is pooled from all its tokens.
        options: see `PooledHead`.
    """

    def __init__(
        self,
        encoder: Encoder,
        n_classes: int,
        *,
        end: int | None = None,
        **options: Unpack[HeadOptions],
    ):
        super().__init__(encoder, n_classes, **options)
        self.n_classes, self.end = n_classes, end

    def forward(
        self,
        inputs: Tensor,
        *,
        token_mask: Bool[Tensor, "B L"] | None = None,
        segments: Int[Tensor, "B L"] | None = None,
        positions: Int[Tensor, "*B L"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Return the logits of each row; for the arguments, see the encoder."""
        hidden = self.hidden(inputs, token_mask=token_mask, segments=segments, positions=positions)
        return self.score(
            hidden, token_mask if self.end is None else self._ends(inputs, token_mask)
        )

    def _ends(
        self, tokens: Int[Tensor, "B L"], token_mask: Bool[Tensor, "B L"] | None
    ) -> Bool[Tensor, "B L"]:
        real = torch.ones_like(tokens, dtype=torch.bool) if token_mask is None else token_mask
        ends = real & (tokens == self.end)
        return torch.where(ends.any(1, keepdim=True), ends, real)

    def extra_repr(self) -> str:
        """Show the options that no submodule shows."""
        return super().extra_repr() + ("" if self.end is None else f", end={self.end}")


class NextSentence(SequenceClassifier):
    """Whether the second text of a pair follows the first: class 0 if so (Devlin et al. 2019)."""

    def __init__(self, encoder: Encoder):
        super().__init__(encoder, 2)


class MultipleChoice(PooledHead):
    """Choose among several continuations or answers (Radford et al. 2018, section 3.3).

    Every choice is encoded separately, after its context, and gets one score; a softmax over the
    choices gives probabilities.
    """

    def __init__(self, encoder: Encoder, **options: Unpack[HeadOptions]):
        super().__init__(encoder, 1, **options)

    def forward(
        self,
        inputs: Int[Tensor, "B N L"],
        *,
        token_mask: Bool[Tensor, "B N L"] | None = None,
        segments: Int[Tensor, "B N L"] | None = None,
        positions: Int[Tensor, "B N L"] | None = None,
    ) -> Float[Tensor, "B N"]:
        """Score each choice; for the arguments, with N texts per row, see the encoder."""
        mask, parts, places = (
            None if one is None else one.flatten(0, 1) for one in (token_mask, segments, positions)
        )
        hidden = self.hidden(
            inputs.flatten(0, 1), token_mask=mask, segments=parts, positions=places
        )
        return self.score(hidden, mask).view(inputs.shape[:2])


class MaskedHead(nn.Module):
    """Logits of the vocabulary: a layer, a norm, and the encoder's embedding as output layer.

    Args:
        encoder: encoder below the head.
        activation: activation of the layer; None means the encoder's own (RoBERTa: always "gelu").
    """

    def __init__(self, encoder: Encoder, *, activation: str | None = None):
        super().__init__()
        config = encoder.config
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.activation = ACTIVATIONS[activation or config.activation]
        self.norm = LayerNorm(config.d_model, eps=config.norm_eps)
        self.output = nn.Linear(config.d_model, config.vocab_size)
        self.apply(initialize)
        self.output.weight = encoder.embedding.weight

    def forward(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """Return the logits of the vocabulary."""
        return self.output(self.transform(hidden))

    def transform(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        """Compute the input of the output layer, for losses that avoid storing all logits."""
        return self.norm(self.activation(self.dense(hidden)))


class MaskedLM(ModelWithHead):
    """Masked language modeling (Devlin et al. 2019, section 3.1).

    A loss on masked positions only needs `model.head(hidden[masked])`.
    """

    def __init__(self, encoder: Encoder, *, activation: str | None = None):
        super().__init__(encoder)
        self.head = MaskedHead(encoder, activation=activation)

    def score(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L V"]:
        """Return the logits of the vocabulary at each position."""
        return self.head(hidden)


class PreTraining(ModelWithHead):
    """Both objectives of BERT: masked language modeling and next sentence prediction."""

    def __init__(self, encoder: Encoder):
        super().__init__(encoder)
        self.head = MaskedHead(encoder)
        self.classifier = nn.Linear(encoder.config.d_model, 2)
        initialize(self.classifier)

    def score(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> tuple[Float[Tensor, "B L V"], Float[Tensor, "B 2"]]:
        """Return the logits of the vocabulary and of whether the second text follows the first."""
        return self.head(hidden), self.score_pairs(hidden, token_mask)

    def score_pairs(
        self, hidden: Float[Tensor, "B L D"], token_mask: Bool[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B 2"]:
        """Return the logits of whether the second text follows the first."""
        return self.classifier(self.encoder.pool(hidden, token_mask))
