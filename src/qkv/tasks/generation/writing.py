"""Tokens of answers: drawn side by side, or one by one and on beyond the context."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qkv.generation.answer import Token
from qkv.generation.drafts import PromptLookup
from qkv.generation.processors import Processor
from qkv.generation.sampling import Sampling, sample
from qkv.generation.speculative import speculate
from qkv.generation.stepping import Ends
from qkv.generation.streaming import stream
from qkv.models.causal import CausalLM
from qkv.tasks.decoding import Decoding, Limits

PLAIN = Decoding()
TURN = 2**32  # from the seed of one context to that of the next, far from those of other answers


@dataclass(frozen=True)
class Writer:
    """How tokens are drawn.

    Args:
        model: that gives their probabilities; in evaluation mode.
        context: tokens that it saw at once in training.
        stops: ids that end an answer.
        sampling: how the probabilities are changed.
        decoding: the model's other rules.
    """

    model: CausalLM
    context: int
    stops: Sequence[int]
    sampling: Sampling
    decoding: Decoding = PLAIN

    def answers(
        self, ids: Sequence[list[int]], limits: Limits, seeds: Sequence[int]
    ) -> list[list[Token]]:
        """Draw an answer to each prompt, all at once; they fit the context, and no rule reads them.

        Args:
            ids: of the prompts.
            limits: of all answers.
            seeds: one each.
        """
        found = sample(
            self.model,
            self._nothing(len(ids)),
            start=ids,
            stop=self.stops,
            max_length=limits.most,
            seeds=seeds,
            processors=self._processors(limits, begun=max(map(len, ids))),
        )
        return [list(map(Token, one.tokens, one.logprobs)) for one in found]

    def tokens(
        self, ids: Sequence[int], limits: Limits, seed: int, *, lookup: bool = False
    ) -> Iterator[Token]:
        """Yield the tokens of one answer, in as many rounds as the context asks for.

        Args:
            ids: of the prompt.
            limits: of the answer.
            seed: of the numbers.
            lookup: let the text so far propose what comes next; see `PromptLookup`.
        """
        draw = partial(speculate, draft=PromptLookup()) if lookup else stream
        text, room = list(ids), limits.most
        for turn in itertools.count():
            if len(text) >= self.context:
                text = text[-max(1, self.context // 2) :]
            tokens = draw(
                self.model,
                self._nothing(1),
                start=[text],
                stop=self.stops,
                max_length=min(room, max(1, self.context - len(text))),
                seed=seed + TURN * turn,
                processors=self._processors(
                    limits, begun=len(text) - (limits.most - room), source=ids
                ),
            )
            for token in tokens:
                yield token
                text = [*text, token.id]
                room -= 1
                if token.id in self.stops or not room:
                    return

    def _processors(
        self, limits: Limits, *, begun: int, source: Sequence[int] = ()
    ) -> list[Processor]:
        return self.decoding.processors(
            limits, begun=begun, source=source, sampling=self.sampling, stops=self.stops
        )

    def _nothing(self, rows: int) -> Tensor:
        """The prompts are what decoding starts with, so that processors see them: no source."""
        device = next(self.model.parameters()).device
        return torch.zeros(rows, 0, dtype=torch.long, device=device)


def until(tokens: Iterable[Token], end: Ends) -> list[Token]:
    """The tokens up to the end of an answer."""
    found: list[Token] = []
    for token in tokens:
        found.append(token)
        if end([one.id for one in found]):
            break
    return found
