"""Numbers that summarize attention and hidden states.

Shapes: H heads, Q queries, K keys, L tokens, D d_model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEIGHBORS = 8
OUTLYING = 4  # times the median length of the states
THUMBNAIL = 64  # rows and columns of a head that is too long to be shown whole


class HeadStats(NamedTuple):
    """One number per head, each a mean over the queries.

    Args:
        entropy: entropy of the weights, in nats; 0 if every query attends to a single key.
        distance: expected distance from the query to the key, in tokens or patches.
        special: weight on special tokens.
        first: weight on the first key.
    """

    entropy: Float[Tensor, " H"]
    distance: Float[Tensor, " H"]
    special: Float[Tensor, " H"]
    first: Float[Tensor, " H"]


def head_stats(
    weights: Float[Tensor, "H Q K"],
    distances: Float[Tensor, "Q K"],
    special: Bool[Tensor, " K"],
) -> HeadStats:
    """Summarize each head.

    Args:
        weights: attention weights; each row sums to 1.
        distances: distance between each query and key.
        special: True = a special token.
    """
    return HeadStats(
        entropy=torch.special.entr(weights).sum(-1).mean(-1),
        distance=torch.einsum("hqk,qk->h", weights, distances) / weights.shape[1],
        special=weights.mean(1) @ special.to(weights.dtype),
        first=weights[..., 0].mean(-1),
    )


def token_distances(n_queries: int, n_keys: int) -> Float[Tensor, "Q K"]:
    """Return |i K / Q - j|: how far key j is from query i, along the diagonal of the matrix."""
    places = torch.arange(n_queries).float() * n_keys / n_queries
    return (places[:, None] - torch.arange(n_keys)).abs()


def patch_distances(grid: tuple[int, int], prefix: int) -> Float[Tensor, "L L"]:
    """Return the distances between patches, in patches; 0 to and from the tokens before them."""
    rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij")
    places = torch.stack((rows.flatten(), columns.flatten()), -1)
    return F.pad(torch.cdist(places, places), (prefix, 0, prefix, 0))


def thumbnails(weights: Float[Tensor, "H Q K"]) -> Float[Tensor, "H q k"]:
    """Reduce each head to at most 64 x 64 numbers, each the maximum of a rectangle."""
    size = tuple(min(n, THUMBNAIL) for n in weights.shape[1:])
    return F.adaptive_max_pool2d(weights, size)


class Projection(NamedTuple):
    """Hidden states of one layer in two dimensions.

    Args:
        points: coordinates on the first two principal components.
        explained: share of the variance on each of them.
    """

    points: Float[Tensor, "L 2"]
    explained: Float[Tensor, " 2"]


def principal_components(states: Float[Tensor, "L D"]) -> Projection:
    """Project hidden states on their first two principal components.

    States with an outlying norm, such as those of a first token that serves as an attention sink
    (Xiao et al. 2023), would form a component of their own, so the components are computed without
    them. Signs are chosen so that the largest coordinate of each component is positive; the picture
    does not depend on the signs of eigenvectors.
    """
    lengths = torch.linalg.vector_norm(states, dim=-1)
    usual = states[lengths <= OUTLYING * lengths.median()].double()
    centered = usual - usual.mean(0)
    if len(centered) <= centered.shape[1]:
        _, singular, directions = torch.linalg.svd(centered, full_matrices=False)
        variances = singular.square()
    else:  # of a long text, by the smaller product
        variances, vectors = torch.linalg.eigh(centered.T @ centered)
        variances, directions = variances.flip(0).clamp(min=0), vectors.T.flip(0)
    values = variances[:2]
    points = (states.double() - usual.mean(0)) @ directions[:2].T
    points = F.pad(points, (0, 2 - points.shape[1]))
    largest = points.gather(0, points.abs().argmax(0, keepdim=True))
    total = variances.sum().clamp(min=1e-30)
    explained = F.pad(values / total, (0, 2 - len(values)))
    return Projection((points * torch.where(largest < 0, -1, 1)).float(), explained.float())


class Neighbors(NamedTuple):
    """The most similar other tokens of a sequence, for each token, by cosine similarity."""

    indices: Int[Tensor, "L N"]
    similarity: Float[Tensor, "L N"]


def neighbors(states: Float[Tensor, "L D"], n: int = NEIGHBORS) -> Neighbors:
    """Find the n nearest other tokens of each token."""
    directions = F.normalize(states, dim=-1)
    similarity = directions @ directions.T
    similarity.fill_diagonal_(-2.0)
    best = similarity.topk(min(n, len(states) - 1))
    return Neighbors(best.indices, best.values)


class Distribution(NamedTuple):
    """The most probable candidates of each step, and a histogram of all others.

    Args:
        ids: candidates, most probable first.
        logits: their logits.
        tail: logits and counts of the bins; with them, the sum over all candidates of exp(logit /
            temperature) can be computed for any temperature.
    """

    ids: Int[Tensor, "S C"]
    logits: Float[Tensor, "S C"]
    tail: Float[Tensor, "S 2 bins"]


def distribution(logits: Float[Tensor, "S V"], *, most: int, bins: int = 64) -> Distribution:
    """Keep the `most` largest logits of each step, and the others as a histogram.

    A bin's logit is log(mean(exp(logit))), so that the sum is exact at temperature 1.
    """
    best = logits.sort(dim=-1, descending=True, stable=True)
    ids, kept = best.indices[:, :most], best.values[:, :most]
    rest = best.values[:, most:]
    if not rest.shape[1]:
        return Distribution(ids, kept, logits.new_zeros(len(logits), 2, 0))
    parts = rest.tensor_split(min(bins, rest.shape[1]), dim=1)  # equal numbers of candidates
    levels = [part.logsumexp(-1) - torch.tensor(part.shape[1]).log() for part in parts]
    counts = [part.new_full((len(part),), part.shape[1]) for part in parts]
    return Distribution(ids, kept, torch.stack((torch.stack(levels, 1), torch.stack(counts, 1)), 1))


def chosen_logprobs(
    logits: Float[Tensor, "*any S V"], chosen: Sequence[int]
) -> Float[Tensor, "*any S"]:
    """Return the log-probability of each step's chosen candidate."""
    index = torch.tensor(chosen, device=logits.device).view(-1, 1)
    index = index.expand(*logits.shape[:-1], 1)
    return logits.log_softmax(-1).gather(-1, index).squeeze(-1)
