"""Position encodings: added to embeddings, rotating queries and keys, or as a bias of the scores.

Shapes: B batch, H heads, L length, D width (of the model or of a head), Q queries, K keys.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.errors import ConfigError, LengthError

Layout = Literal["interleaved", "halves"]
# One frequency per pair (D/2,), their base, positions (*batch, L) -> scaled frequencies, (D/2,) or
# (*batch, 1, D/2), and a factor for the rotated vectors.
Scaling = Callable[[Tensor, float, Tensor], tuple[Tensor, float]]


def sinusoids(
    positions: Int[Tensor, "*any"],
    d_model: int,
    *,
    layout: Layout = "interleaved",
    divisor: float | None = None,
    first: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*any D"]:
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(the same).

    Vaswani et al. 2017, section 3.5.

    Args:
        positions: counted from 0.
        d_model: D, even.
        layout: "interleaved" as in the paper; "halves" has all sines, then all cosines (Marian).
        divisor: the exponent of 10000 is -i / divisor; D / 2 in the paper, D / 2 - 1 in
            tensor2tensor.
        first: index of the first position (OpenNMT counts from 1).
        dtype: dtype of the result; half precision is computed in float32 and rounded.

    Raises:
        ConfigError: if d_model is odd, as sines and cosines come in pairs.
    """
    if d_model % 2:
        raise ConfigError(f"d_model = {d_model} is odd; sines and cosines come in pairs")
    working = torch.promote_types(dtype, torch.float32)
    divisor = d_model / 2 if divisor is None else divisor
    pairs = torch.arange(d_model // 2, device=positions.device, dtype=working)
    angles = (positions + first).to(working)[..., None] * torch.exp(
        pairs * (-math.log(10_000) / divisor)
    )
    waves = (angles.sin(), angles.cos())
    table = torch.stack(waves, -1).flatten(-2) if layout == "interleaved" else torch.cat(waves, -1)
    return table.to(dtype)


class SinusoidalPositions(nn.Module):
    """Adds `sinusoids` to the embeddings; without parameters or a maximum length."""

    def __init__(
        self,
        d_model: int,
        *,
        layout: Layout = "interleaved",
        divisor: float | None = None,
        first: int = 0,
    ):
        super().__init__()
        if d_model % 2:
            raise ConfigError(f"d_model = {d_model} is odd; sines and cosines come in pairs")
        self.d_model, self.divisor, self.first = d_model, divisor, first
        self.layout: Layout = layout

    def forward(
        self, x: Float[Tensor, "B L D"], positions: Int[Tensor, "*batch L"]
    ) -> Float[Tensor, "B L D"]:
        """Add the sinusoids of each position."""
        return x + sinusoids(
            positions,
            self.d_model,
            layout=self.layout,
            divisor=self.divisor,
            first=self.first,
            dtype=x.dtype,
        )


class LearnedPositions(nn.Module):
    """Adds a learned vector for each position (Gehring et al. 2017; BERT, GPT-2).

    Args:
        max_length: positions in the table, not counting the offset.
        d_model: width D.
        offset: unused rows at the start of the table (BART: 2).

    Raises:
        LengthError: in `forward` on a CPU, if a position is outside the table.
    """

    def __init__(self, max_length: int, d_model: int, *, offset: int = 0):
        super().__init__()
        self.max_length, self.offset = max_length, offset
        self.table = nn.Embedding(max_length + offset, d_model)

    def forward(
        self, x: Float[Tensor, "B L D"], positions: Int[Tensor, "*batch L"]
    ) -> Float[Tensor, "B L D"]:
        """Add the vector of each position."""
        try:
            return x + self.table(positions + self.offset)
        except IndexError:
            raise LengthError(
                f"got position {int(positions.max())}, but only positions 0 to "
                f"{self.max_length - 1} were learned; cut the input to {self.max_length} tokens, "
                "or use positions without a table (sinusoidal, rotary, ALiBi)"
            ) from None


def rotate(
    x: Float[Tensor, "B H L D"],
    positions: Int[Tensor, "*batch L"],
    *,
    base: float = 10_000.0,
    layout: Layout = "halves",
    scaling: Scaling | None = None,
) -> Float[Tensor, "B H L D"]:
    """Rotate each pair i of coordinates by the angle position * base^(-2i/D).

    Su et al. 2021, eq. 15 and 34. The dot product of a rotated query and a rotated key depends only
    on their distance.

    Args:
        x: queries or keys.
        positions: (L,) or (B, L), counted from 0.
        base: a larger base rotates more slowly.
        layout: pair i is (i, i + D/2) for "halves" (Hugging Face's Llama files), (2i, 2i + 1) for
            "interleaved" (the paper, and Meta's own files).
        scaling: changes the frequencies base^(-2i/D) for inputs longer than in training.
    """
    working = torch.promote_types(x.dtype, torch.float32)
    pairs = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=working)
    frequencies, magnitude = base ** (-pairs / x.shape[-1]), 1.0
    if scaling is not None:
        frequencies, magnitude = scaling(frequencies, base, positions)
    angles = positions.to(working)[..., None] * frequencies  # (*batch, L, D/2)
    if angles.ndim == 3:
        angles = angles.unsqueeze(1)  # (B, 1, L, D/2), the same for every head
    cos, sin = ((magnitude * wave).to(x.dtype) for wave in (angles.cos(), angles.sin()))
    if layout == "interleaved":
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Rotary(nn.Module):
    """Rotary positions for the queries and keys of self-attention; see `rotate`.

    Args:
        d_head: width D of a head.
        base: as in `rotate`.
        layout: as in `rotate`.
        scaling: as in `rotate`.
        width: number of coordinates that rotate, the first ones; None means all (Black et al. 2022,
            section 2.1.1: a quarter).

    Raises:
        ConfigError: if the width is odd or not between 2 and D, or if the base is not a finite
            number above 0.
    """

    def __init__(
        self,
        d_head: int,
        *,
        base: float = 10_000.0,
        layout: Layout = "halves",
        scaling: Scaling | None = None,
        width: int | None = None,
    ):
        super().__init__()
        self.width = d_head if width is None else width
        if self.width % 2:
            name = "d_head" if width is None else "width"
            raise ConfigError(
                f"{name} = {self.width} is odd; rotary positions rotate pairs of coordinates"
            )
        if not 2 <= self.width <= d_head:
            raise ConfigError(
                f"width = {width} of rotary positions; expected 2 to d_head = {d_head}"
            )
        if layout not in ("interleaved", "halves"):
            raise ConfigError(f"layout = {layout!r}; expected 'interleaved' or 'halves'")
        if not 0 < base < math.inf:
            raise ConfigError(f"base = {base} of rotary positions; expected a finite one above 0")
        if base == 1 and scaling is not None:
            raise ConfigError(
                "base = 1 rotates all pairs at the same rate, so no scaling can slow some; "
                "expected a larger one, such as 10000"
            )
        self.base, self.scaling = base, scaling
        self.layout: Layout = layout

    def forward(
        self, x: Float[Tensor, "B H L D"], positions: Int[Tensor, "*batch L"]
    ) -> Float[Tensor, "B H L D"]:
        """Rotate by the given positions."""
        turned = rotate(
            x[..., : self.width],
            positions,
            base=self.base,
            layout=self.layout,
            scaling=self.scaling,
        )
        if self.width == x.shape[-1]:
            return turned
        return torch.cat((turned, x[..., self.width :]), -1)


def relative_buckets(
    distances: Int[Tensor, "*any"], *, n_buckets: int, max_distance: int, bidirectional: bool
) -> Int[Tensor, "*any"]:
    """Return the bucket of each distance, key - query position (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each; the others grow logarithmically up to max_distance,
    beyond which all distances share the last bucket. If bidirectional, the upper half of the
    buckets is for later keys.
    """
    if bidirectional:
        n_buckets //= 2
        later, back = (distances > 0) * n_buckets, distances.abs()
    else:
        later, back = torch.zeros_like(distances), (-distances).clamp(min=0)
    exact = n_buckets // 2
    growth = torch.log(back.clamp(min=1) / exact) / math.log(max_distance / exact)
    logarithmic = exact + (growth * (n_buckets - exact)).long()
    return later + torch.where(back < exact, back, logarithmic.clamp(max=n_buckets - 1))


class RelativeBias(nn.Module):
    """A learned bias per head and distance bucket, added to the scores (T5)."""

    def __init__(
        self, n_heads: int, *, n_buckets: int = 32, max_distance: int = 128, bidirectional: bool
    ):
        super().__init__()
        exact = n_buckets // (4 if bidirectional else 2)
        if not 0 < exact < max_distance:
            raise ConfigError(
                f"n_buckets = {n_buckets} makes {exact} buckets of one distance each; expected at "
                f"least 1, and fewer than max_distance = {max_distance}"
            )
        self.n_buckets, self.max_distance = n_buckets, max_distance
        self.bidirectional = bidirectional
        self.table = nn.Embedding(n_buckets, n_heads)

    def forward(
        self, queries: Int[Tensor, "*batch Q"], keys: Int[Tensor, "*batch K"]
    ) -> Float[Tensor, "*batch H Q K"]:
        """Look up the bias for the positions of queries and keys."""
        # All distances from max_distance on share a bucket, so few logarithms are needed.
        furthest = self.max_distance
        buckets = relative_buckets(
            torch.arange(-furthest, furthest + 1, device=keys.device),
            n_buckets=self.n_buckets,
            max_distance=furthest,
            bidirectional=self.bidirectional,
        )
        by_distance = self.table(buckets).T  # (H, 2 * furthest + 1)
        distances = keys[..., None, :] - queries[..., :, None]
        at = distances.clamp(-furthest, furthest) + furthest
        # `gather` has a faster gradient than a second embedding lookup.
        at = at.flatten(-2).unsqueeze(-2).expand(*at.shape[:-2], len(by_distance), -1)
        bias = by_distance.expand(*at.shape[:-2], -1, -1).gather(-1, at)
        return bias.unflatten(-1, distances.shape[-2:])


def alibi_slopes(n_heads: int) -> Float[Tensor, " H"]:
    """2^(-8/H), 2^(-16/H), ... (Press et al. 2022, section 3).

    If H is not a power of two: the slopes for the next lower power, then every second slope for the
    next higher power.
    """
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = 2.0 ** (-8.0 / power * torch.arange(1, power + 1, dtype=torch.float64))
    between = 2.0 ** (-4.0 / power * torch.arange(1, 2 * power, 2, dtype=torch.float64))
    return torch.cat((slopes, between))[:n_heads].to(torch.get_default_dtype())


class ALiBi(nn.Module):
    """A fixed bias per head, -slope * distance (Press, Smith and Lewis 2022)."""

    slopes: Tensor

    def __init__(self, n_heads: int):
        super().__init__()
        self.register_buffer("slopes", alibi_slopes(n_heads), persistent=False)

    def forward(
        self, queries: Int[Tensor, "*batch Q"], keys: Int[Tensor, "*batch K"]
    ) -> Float[Tensor, "*batch H Q K"]:
        """Compute the bias for the positions of queries and keys."""
        distances = (keys[..., None, :] - queries[..., :, None]).abs()
        return -self.slopes[:, None, None] * distances[..., None, :, :]
