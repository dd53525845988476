"""Reranking: a translator of the opposite direction helps to choose among the candidates.

A translation is faithful if the source can be predicted from it:

    score(y) = log P(y | x) / |y|^penalty + weight * log P(x | y) / |x|

The noisy channel of Yee et al. 2019, https://arxiv.org/abs/1908.05731, without its language model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from qkv.data.batches import collate_pairs
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.generation.answer import Answer
from qkv.inference.optimize import made_of
from qkv.json_fields import NUMBER, OBJECT, TEXT, check_kinds
from qkv.models.modes import evaluating
from qkv.tasks.pipeline import OURS, PARAMETERS, recorded, with_parameters
from qkv.tasks.pretrained import Loaded

FIELD = "reverse"  # in the settings of our tasks in config.json
WEIGHT = 0.5  # if only a model is named
NONE = "none"  # the beam alone chooses
KINDS = {"model": TEXT, "weight": NUMBER}
LOGITS = 2**22  # in memory at one time


@dataclass(frozen=True)
class Reverse:
    """A translator of the opposite direction, and the weight of its scores.

    Args:
        name: the model: a folder, a shipped model, or an id of the Hub.
        translator: the model.
        weight: weight of its mean log-probability per source token.
    """

    name: str
    translator: Any  # a Translator, whose module needs this one
    weight: float

    @classmethod
    def named(cls, name: str | None, loaded: Loaded, kind: type[Any]) -> "Reverse | None":
        """Load the reverse model of a translator, without a reverse model of its own.

        Args:
            name: the model, or "none"; None: the one that the translator's config.json names.
            loaded: the translator's model.
            kind: the class that loads it.

        Raises:
            ConfigError: its entry in config.json is malformed, or it is not a translator.
            DataError: there is no such model.
        """
        named, weight = (name, WEIGHT) if name is not None else _stored(loaded)
        if named == NONE:
            return None
        device, made = next(loaded.model.parameters()).device, made_of(loaded.model)
        dtype = None if made is None else made.dtype
        try:
            other = kind.load(named, device=device, dtype=dtype, reverse=NONE)
        except (ConfigError, DataError) as error:
            raise type(error)(
                f"the reverse model, which reranks the translations: {error} (reverse = {NONE!r} "
                "turns reranking off)"
            ) from error
        return cls(named, other, weight)

    def rank(
        self,
        tokenizers: tuple[Tokenizer, Tokenizer],
        sources: Sequence[Sequence[int]],
        answers: Sequence[Sequence[Answer]],
    ) -> list[list[Answer]]:
        """Reorder the answers to each source by the score of both directions.

        The answers to a source keep their order and scores if the source or one of them is empty,
        or longer than the reverse model's positions.

        Args:
            tokenizers: tokenizers of the sources and of the answers.
            sources: token ids of the sources.
            answers: candidates for each source.
        """
        source, target = tokenizers
        texts = [source.decode(ids) for ids in sources]
        pairs = [
            (target.decode(one.text), text)
            for text, some in zip(texts, answers, strict=True)
            for one in some
        ]
        scores = iter(mean_log_probabilities(self.translator, pairs))
        return [reranked(some, [next(scores) for _ in some], self.weight) for some in answers]


def reranked(
    answers: Sequence[Answer], scores: Sequence[float | None], weight: float
) -> list[Answer]:
    """Reorder candidates by their score plus the weighted score of the reverse model.

    Args:
        answers: candidates for one source.
        scores: mean log-probabilities (nats) of the reverse model; if one is None, because it
            cannot read the text, the candidates are unchanged.
        weight: weight of these scores.
    """
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return list(answers)
    changed = [
        replace(one, score=one.score + weight * score)
        for one, score in zip(answers, known, strict=True)
    ]
    return sorted(changed, key=lambda one: -one.score)


def _stored(loaded: Loaded) -> tuple[str, float]:
    """Return the reverse model and the weight from config.json, or "none" and 0."""
    stored = recorded(loaded.config).get(FIELD)
    if stored is None:
        return NONE, 0.0
    where = f"{PARAMETERS}.{OURS} of config.json"
    check_kinds({FIELD: stored}, {FIELD: OBJECT}, where=where)
    if set(stored) != set(KINDS):
        raise ConfigError(
            f"{FIELD} in {where} has the fields {', '.join(stored) or 'none'}; expected "
            f"{', '.join(KINDS)}"
        )
    check_kinds(stored, KINDS, where=f"{FIELD} in {where}")
    return stored["model"], stored["weight"]


def with_reverse(loaded: Loaded, reverse: Reverse | None) -> Loaded:
    """Return a model whose config.json names this reverse model, or none."""
    ours = recorded(loaded.config)
    stored = None if reverse is None else {"model": reverse.name, "weight": reverse.weight}
    if ours.get(FIELD) == stored:
        return loaded
    kept = {name: value for name, value in ours.items() if name != FIELD}
    return with_parameters(loaded, **{OURS: kept if stored is None else {**kept, FIELD: stored}})


def mean_log_probabilities(translator: Any, pairs: Sequence[tuple[str, str]]) -> list[float | None]:
    """Return the mean log-probability (nats) per token of each target, including the stop token.

    Args:
        translator: the model.
        pairs: sources and targets; one that is empty or too long for the model gets None.
    """
    encoded = translator.encode(pairs)
    lengths = [max(len(source), len(target) + 1) for source, target in encoded]
    limit = translator.limit or max(lengths, default=0)
    known = [i for i, (text, _) in enumerate(pairs) if text.strip() and lengths[i] <= limit]
    scores: list[float | None] = [None] * len(pairs)
    order = sorted(known, key=lambda i: -lengths[i])
    model, device = translator.model, translator.device
    first = 0
    with evaluating(model), torch.inference_mode():
        while first < len(order):
            size = max(1, LOGITS // (lengths[order[first]] * translator.target.vocab_size))
            some = order[first : first + size]
            batch = collate_pairs(
                [encoded[i] for i in some],
                pad=translator.target.pad,
                start=translator.decoder.start,
                stop=translator.decoder.stops[0],
            ).to(device)
            logits = model(batch.source, batch.target_input, source_mask=batch.source_mask)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            losses = F.cross_entropy(logits.transpose(1, 2), batch.target, reduction="none")
            means = (losses * batch.target_mask).sum(1) / batch.target_mask.sum(1)
            for i, mean in zip(some, means.tolist(), strict=True):
                scores[i] = -mean
            first += size
    return scores
