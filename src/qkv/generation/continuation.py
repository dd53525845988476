"""Continuations of prompts: in one batch, or one by one and beyond the model's context."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qkv.generation.answer import Token
from qkv.generation.decoding import Decoding, Limits
from qkv.generation.drafts import PromptLookup
from qkv.generation.processors import Processor
from qkv.generation.sampling import Sampling, sample
from qkv.generation.speculative import speculate
from qkv.generation.stepping import Ends
from qkv.generation.streaming import stream
from qkv.models.causal import CausalLM

PLAIN = Decoding()
TURN = 2**32  # between the seeds of two contexts, far from the seeds of other outputs


@dataclass(frozen=True)
class Continuation:
    """Continues prompts with a language model.

    Args:
        model: language model in evaluation mode.
        context: number of tokens that the model saw at once in training.
        stops: ids that end an output.
        sampling: how tokens are sampled.
        decoding: the model's other decoding settings.
    """

    model: CausalLM
    context: int
    stops: Sequence[int]
    sampling: Sampling
    decoding: Decoding = PLAIN

    def answers(
        self, ids: Sequence[list[int]], limits: Limits, seeds: Sequence[int]
    ) -> list[list[Token]]:
        """Continue all prompts in one batch; all must fit the context.

        Args:
            ids: token ids of the prompts.
            limits: length limits of all outputs.
            seeds: one seed per prompt.
        """
        outputs = sample(
            self.model,
            self._no_source(len(ids)),
            start=ids,
            stop=self.stops,
            max_length=limits.most,
            seeds=seeds,
            processors=self.processors(limits, begun=max(map(len, ids))),
        )
        return [list(map(Token, one.tokens, one.logprobs)) for one in outputs]

    def tokens(
        self, ids: Sequence[int], limits: Limits, seed: int, *, lookup: bool = False
    ) -> Iterator[Token]:
        """Yield the tokens of one output; whenever the context is full, keep its last half.

        Args:
            ids: token ids of the prompt.
            limits: length limits of the output.
            seed: random seed.
            lookup: speculative decoding with drafts from the text so far (see `PromptLookup`).
        """
        draw = partial(speculate, draft=PromptLookup()) if lookup else stream
        text, room = list(ids), limits.most
        for turn in itertools.count():
            if len(text) >= self.context:
                text = text[-max(1, self.context // 2) :]
            tokens = draw(
                self.model,
                self._no_source(1),
                start=[text],
                stop=self.stops,
                max_length=min(room, max(1, self.context - len(text))),
                seed=seed + TURN * turn,
                processors=self.processors(
                    limits, begun=len(text) - (limits.most - room), source=ids
                ),
            )
            for token in tokens:
                yield token
                text = [*text, token.id]
                room -= 1
                if token.id in self.stops or not room:
                    return

    def processors(
        self, limits: Limits, *, begun: int, source: Sequence[int] = ()
    ) -> list[Processor]:
        """Return the processors of outputs that start from `begun` tokens; see `Decoding`."""
        return self.decoding.processors(
            limits, begun=begun, source=source, sampling=self.sampling, stops=self.stops
        )

    def _no_source(self, rows: int) -> Tensor:
        """Return an empty source: decoding starts with the prompts, so that processors see them."""
        device = next(self.model.parameters()).device
        return torch.zeros(rows, 0, dtype=torch.long, device=device)


def until(tokens: Iterable[Token], end: Ends) -> Iterator[Token]:
    """Yield the tokens up to the end of an output."""
    taken: list[int] = []
    for token in tokens:
        taken.append(token.id)
        yield token
        if end(taken):
            return
