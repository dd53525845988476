"""Logit processors: plain functions (tokens, logits) -> logits, applied one after another.

`tokens` (rows, t) holds `start` and the answer so far of each row, padded with -1 on the left.
`logits` (rows, V) are those of the next token; beam search passes log-probabilities. A processor
sets forbidden tokens to -inf. It may modify the logits in place, but not the tokens.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.errors import ConfigError, VocabularyError

Processor = Callable[
    [Int[Tensor, "rows t"], Float[Tensor, "rows V"]],
    Float[Tensor, "rows V"],
]

FORBIDDEN = -math.inf
# Tolerance for sums of probabilities, in units in the last place of 1, so that rounding does not
# decide about tokens that meet a bound exactly.
SLACK = 16


def process(
    processors: Sequence[Processor], tokens: Int[Tensor, "rows t"], logits: Float[Tensor, "rows V"]
) -> Float[Tensor, "rows V"]:
    """Apply the processors in order; they may modify the logits.

    Raises:
        VocabularyError: if they leave a row without any token.
    """
    for processor in processors:
        logits = processor(tokens, logits)
    if processors:
        nothing = logits.amax(-1) == FORBIDDEN
        if nothing.any():
            raise no_token_left(tokens[int(nothing.int().argmax())])
    return logits


def no_token_left(tokens: Int[Tensor, " t"]) -> VocabularyError:
    """Return the error for a row in which the processors forbid every token."""
    written = [i for i in tokens.tolist() if i >= 0]
    shown = f"{'..., ' if len(written) > 8 else ''}{', '.join(map(str, written[-8:]))}"
    return VocabularyError(
        f"no token may follow [{shown}]: the processors forbid them all (does a constraint end "
        "before the answer, or is the vocabulary too small for no_repeat_ngram?)"
    )


def temperature(value: float) -> Processor:
    """Divide the logits by `value`; 0 keeps only the most probable token (greedy decoding).

    Raises:
        ConfigError: if the value is below 0 or not finite.
    """
    if not 0 <= value < math.inf:
        raise ConfigError(f"temperature is {value}, expected at least 0 (0 is greedy decoding)")

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        if value == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.full_like(logits, FORBIDDEN).scatter(-1, best, 0.0)
        return logits / value

    return processor


def top_k(k: int) -> Processor:
    """Keep the k most probable tokens, and ties with the last of them (Fan et al. 2018).

    Raises:
        ConfigError: if `k` is below 1.
    """
    if k < 1:
        raise ConfigError(f"top_k is {k}, expected at least 1; None keeps every token")

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        last = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < last, FORBIDDEN)

    return processor


def top_p(p: float) -> Processor:
    """Keep the nucleus: the smallest set of most probable tokens with total probability `p`.

    Holtzman et al. 2020, "The curious case of neural text degeneration", section 3.1.

    Raises:
        ConfigError: if `p` is outside (0, 1].
    """
    _check_share("top_p", p)

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        if p == 1:
            return logits
        ordered, order = logits.sort(descending=True, stable=True)
        # Cumulative sums from the least probable token, where sums are small. Tokens whose sum is
        # at most 1 - p, up to rounding, are removed.
        tail = _probabilities(ordered).flip(-1).cumsum(-1).flip(-1)
        dropped = tail <= 1 - p + SLACK * torch.finfo(tail.dtype).eps
        dropped[:, 0] = False
        return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), FORBIDDEN)

    return processor


def _probabilities(logits: Float[Tensor, "rows V"]) -> Float[Tensor, "rows V"]:
    """Return the softmax in at least float32: 16-bit sums would be off by whole tokens."""
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def min_p(p: float) -> Processor:
    """Keep tokens at least `p` times as probable as the most probable token.

    Nguyen et al. 2024, "Turning up the heat: min-p sampling".

    Raises:
        ConfigError: if `p` is outside (0, 1].
    """
    _check_share("min_p", p)

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        probabilities = _probabilities(logits)
        least = p * probabilities.max(-1, keepdim=True).values
        rounded = 1 - SLACK * torch.finfo(least.dtype).eps
        return logits.masked_fill(probabilities < least * rounded, FORBIDDEN)

    return processor


def _check_share(name: str, p: float) -> None:
    if not 0 < p <= 1:
        raise ConfigError(f"{name} is {p}, expected a share in (0, 1]; None keeps every token")


def repetition_penalty(penalty: float, *, begun: int = 0) -> Processor:
    """Make tokens that have occurred less probable (Keskar et al. 2019, section 4.1).

    Positive logits are divided by `penalty`, others multiplied; below 1 it favors repetition.

    Args:
        penalty: the divisor.
        begun: number of tokens at the beginning, such as a prompt, that do not count.

    Raises:
        ConfigError: if the penalty is not above 0.
    """
    check_penalty("repetition_penalty", penalty)

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        occurred = marked(tokens[:, begun:], logits)
        return torch.where(occurred, penalized(logits, penalty), logits)

    return processor


def check_penalty(name: str, penalty: float) -> None:
    """Check that a factor is above 0.

    Raises:
        ConfigError: if it is not; names the option.
    """
    if not 0 < penalty < math.inf:
        raise ConfigError(f"{name} is {penalty}, expected above 0; 1 changes nothing")


def penalized(logits: Float[Tensor, "rows V"], penalty: float) -> Float[Tensor, "rows V"]:
    """Divide positive logits by `penalty` and multiply others, which lowers them if above 1."""
    return torch.where(logits > 0, logits / penalty, logits * penalty)


def no_repeat_ngram(n: int, *, begun: int = 0) -> Processor:
    """Forbid the token that would complete an n-gram for the second time (Paulus et al. 2018).

    Args:
        n: number of tokens.
        begun: number of tokens at the beginning, such as a prompt, that do not count.

    Raises:
        ConfigError: if `n` is below 1.
    """
    if n < 1:
        raise ConfigError(f"no_repeat_ngram is {n}, expected at least 1; None allows repetition")

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        tokens = tokens[:, begun:]
        if tokens.shape[1] < n:
            return logits
        ngrams = tokens.unfold(1, n, 1)  # (rows, t - n + 1, n)
        return logits.masked_fill(completing(ngrams, tokens, logits), FORBIDDEN)

    return processor


def completing(
    ngrams: Int[Tensor, "*rows ngrams n"],
    tokens: Int[Tensor, "rows t"],
    like: Float[Tensor, "rows V"],
) -> Bool[Tensor, "rows V"]:
    """Return a mask of tokens that would complete an n-gram, per row or shared by all rows."""
    before = ngrams.shape[-1] - 1  # tokens
    begun = tokens[:, None, max(0, tokens.shape[1] - before) :]
    if begun.shape[2] < before:
        return torch.zeros_like(like, dtype=torch.bool)
    completes = (ngrams[..., :-1] == begun).all(-1)  # (rows, ngrams)
    return marked(ngrams[..., -1].expand_as(completes).masked_fill(~completes, -1), like)


def marked(tokens: Int[Tensor, "rows t"], like: Float[Tensor, "rows V"]) -> Bool[Tensor, "rows V"]:
    """Return a mask of the tokens in each row, ignoring -1."""
    size = like.shape[1]
    marked = torch.zeros(len(tokens), size + 1, dtype=torch.bool, device=like.device)
    return marked.scatter(1, tokens.masked_fill(tokens < 0, size), True)[:, :size]


def allowed_tokens(allowed: Callable[[list[int]], Iterable[int]]) -> Processor:
    """Allow only the ids that `allowed` returns for a row's tokens, including `start`.

    Raises:
        VocabularyError: when applied, if an id is not in the vocabulary.
    """

    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        size = logits.shape[1]
        forbidden = torch.ones_like(logits, dtype=torch.bool)
        for row, written in enumerate(tokens.tolist()):
            ids = list(allowed([i for i in written if i >= 0]))
            if ids and not 0 <= min(ids) <= max(ids) < size:
                raise VocabularyError(
                    f"the constraint allows ids from {min(ids)} to {max(ids)}, but the vocabulary "
                    f"has {size} (ids 0 to {size - 1}); does it belong to another tokenizer?"
                )
            forbidden[row, ids] = False
        return logits.masked_fill(forbidden, FORBIDDEN)

    return processor


def forbid_tokens(ids: Sequence[int], vocab_size: int) -> Processor:
    """Forbid tokens, and ids beyond a tokenizer's vocabulary.

    Args:
        ids: the forbidden ids.
        vocab_size: size of the tokenizer's vocabulary; the model's may be larger.
    """
    forbidden = list(ids)

    def forbid(
        tokens: Int[Tensor, "rows t"], logits: Float[Tensor, "rows V"]
    ) -> Float[Tensor, "rows V"]:
        logits[:, forbidden] = FORBIDDEN
        logits[:, vocab_size:] = FORBIDDEN
        return logits

    return forbid
