"""Beam search over the most probable hypotheses (Wu et al. 2016, section 7, "GNMT")."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.record import record_attention
from qkv.errors import ShapeError
from qkv.generation.answer import Answer
from qkv.generation.processors import FORBIDDEN, Processor, no_token_left
from qkv.generation.ranking import Beam
from qkv.generation.state import Decodable
from qkv.generation.stepping import Start, Stop, check_max_length, read, read_start, read_stop


def beam_search(
    model: Decodable,
    source: Int[Tensor, "batch source"],
    *,
    token_mask: Bool[Tensor, "batch source"] | None = None,
    start: Start,
    stop: Stop,
    max_length: int,
    beam: Beam,
    processors: Sequence[Processor] = (),
    observe: "Observer | None" = None,
) -> list[list[Answer]]:
    """Search for the answers with the highest score, log P / lp + cp (eq. 14 and 15).

    At each step, every hypothesis of a source is extended by every token. Those of the `size` best
    extensions that end become answers; the `size` best of the others are kept. Hypotheses are
    compared by log-probability alone, answers by score. At `max_length` unfinished hypotheses
    become answers, with `ended` False. A source leaves the batch when its search ends.

    Args:
        model: model in evaluation mode.
        source: source ids, one search per row.
        token_mask: True = a real token of the source; None means all.
        start: initial ids of the decoder; see `Stepper`.
        stop: id or ids that end an answer.
        max_length: maximum number of tokens of an answer, including `stop`.
        beam: size, penalties and stopping rule.
        processors: applied to log-probabilities, which are not renormalized: forbidding a token
            does not make others more probable. They must not raise any above 0.
        observe: called at each step with the hypotheses and their best extensions.

    Raises:
        ConfigError: `max_length` is below 1, or the model does not have the coverage layer.
        LengthError: a row of `start` is empty.
        VocabularyError: the processors leave a source without continuation and answer.

    Returns:
        For each source at most `n_best` different answers, best first.
    """
    check_max_length(max_length)
    with torch.inference_mode():
        search = Search(
            model,
            source,
            token_mask,
            begun=read_start(start, source),
            stops=read_stop(stop, source),
            max_length=max_length,
            beam=beam,
            processors=processors,
        )
        while len(search.sources):
            candidates = search.candidates()
            if observe is not None:
                observe(search.tokens, candidates)
            search.finish(candidates)
            search.extend(candidates)
    return [answers[: beam.n_best] for answers in search.answers]


class Candidates(NamedTuple):
    """The best extensions of each source's hypotheses, best first."""

    totals: Float[Tensor, "sources c"]  # log-probabilities of the hypotheses, after processors
    rows: Int[Tensor, "sources c"]  # the hypotheses that they extend
    tokens: Int[Tensor, "sources c"]
    logprobs: Float[Tensor, "sources c"]  # of the token alone, before processors
    finished: Bool[Tensor, "sources c"]


Observer = Callable[[Int[Tensor, "rows t"], Candidates], None]


class Search:
    """The state of the search: an equal number of hypotheses (batch rows) per active source."""

    def __init__(
        self,
        model: Decodable,
        source: Int[Tensor, "batch source"],
        token_mask: Bool[Tensor, "batch source"] | None,
        *,
        begun: Int[Tensor, "batch n"],
        stops: Int[Tensor, " stops"],
        max_length: int,
        beam: Beam,
        processors: Sequence[Processor],
    ):
        self._model, self._beam, self._processors = model, beam, processors
        self._stops, self._max_length, self._begun = stops, max_length, begun.shape[1]
        self._real = torch.ones_like(source).bool() if token_mask is None else token_mask
        self._state = model.start(source, token_mask)
        self.tokens = begun  # (rows, t)
        self._logprobs: Tensor | None = None  # (rows, written)
        self._covered: Tensor | None = None  # (rows, source): the sum of eq. 15
        self._totals: Tensor | None = None  # (sources, hypotheses of each)
        self._space: Tensor | None = None
        self.sources = torch.arange(len(source), device=source.device)
        self.answers: list[list[Answer]] = [[] for _ in source]

    def candidates(self) -> Candidates:
        """Extend each hypothesis by each token; keep enough for `size` unfinished ones."""
        logits = self._step()  # (rows, V)
        logprobs = self._distributions(logits)
        if self._totals is None:
            self._totals = logprobs.new_zeros(len(self.sources), 1)
        # Reuses the memory of the logits, which the search may modify.
        processed = logits.copy_(logprobs) if self._processors else logprobs
        for processor in self._processors:
            processed = processor(self.tokens, processed)
        n, width = self._totals.shape
        # Each hypothesis may end with every stop.
        enough = self._beam.size * (1 + len(self._stops))
        best, tokens = processed.topk(min(enough, processed.shape[1]))  # of each hypothesis
        sums = (self._totals[..., None] + best.view(n, width, -1)).flatten(1)
        totals, indices = sums.topk(min(enough, sums.shape[1]))  # of each source
        first = torch.arange(n, device=indices.device)[:, None] * width
        rows, tokens = first + indices // best.shape[1], tokens.view(n, -1).gather(1, indices)
        finished = torch.isin(tokens, self._stops)
        if self.tokens.shape[1] + 1 == self._begun + self._max_length:
            finished = torch.ones_like(finished)
        return Candidates(totals, rows, tokens, logprobs[rows, tokens], finished)

    def _distributions(self, logits: Float[Tensor, "rows V"]) -> Float[Tensor, "rows V"]:
        """Return the log-probabilities, in memory of the last step: allocating takes longer."""
        if self._space is None or self._space.numel() < logits.numel():
            self._space = torch.empty_like(logits)
        return torch.log_softmax(
            logits, -1, out=self._space.view(-1)[: logits.numel()].view_as(logits)
        )

    def _step(self) -> Float[Tensor, "rows V"]:
        new, layer = self.tokens[:, self._state.length :], self._beam.coverage_layer
        if layer is None:
            return read(self._model, new, self._state)
        with record_attention(cast(nn.Module, self._model), layers=[layer]) as weights:
            logits = read(self._model, new, self._state)
        looked = weights[layer][:, :, -1].mean(1)  # (rows, keys)
        if looked.shape[1] != self._real.shape[1]:
            raise ShapeError(
                f"{layer!r} attends to {looked.shape[1]} keys, but the source has "
                f"{self._real.shape[1]} tokens: coverage_layer must attend to the source"
            )
        self._covered = looked if self._covered is None else self._covered + looked
        return logits

    def finish(self, candidates: Candidates) -> None:
        """Collect the answers among the `size` best extensions."""
        ended = candidates.finished & (candidates.totals > FORBIDDEN)
        for i, k in ended[:, : self._beam.size].nonzero().tolist():
            row, token = int(candidates.rows[i, k]), int(candidates.tokens[i, k])
            before = [] if self._logprobs is None else self._logprobs[row].tolist()
            tokens = [*self.tokens[row, self._begun :].tolist(), token]
            score = self._beam.normalized(float(candidates.totals[i, k]), len(tokens))
            if self._covered is not None:
                score += self._beam.coverage(self._covered[row, self._real[self.sources[i]]])
            answer = Answer(
                tokens=tokens,
                logprobs=[*before, float(candidates.logprobs[i, k])],
                score=score,
                ended=token in self._stops,
            )
            answers = self.answers[int(self.sources[i])]
            answers.append(answer)
            answers.sort(key=lambda answer: -answer.score)
            del answers[self._beam.size :]

    def extend(self, candidates: Candidates) -> None:
        """Keep the best unfinished extensions, and drop sources whose search has ended."""
        order = candidates.finished.long().argsort(dim=1, stable=True)[:, : self._beam.size]
        totals = candidates.totals.masked_fill(candidates.finished, FORBIDDEN).gather(1, order)
        # An impossible extension is replaced by a copy of the best, with a score of -inf.
        order = torch.where(totals == FORBIDDEN, order[:, :1], order)
        rows, tokens, logprobs = (
            x.gather(1, order) for x in (candidates.rows, candidates.tokens, candidates.logprobs)
        )
        best = totals[:, 0].tolist()
        kept = [i for i in range(len(best)) if not self._ends(i, best[i], int(rows[i, 0]))]
        rows, tokens, logprobs = rows[kept].flatten(), tokens[kept], logprobs[kept]
        self._state.reorder(rows)
        self.tokens = torch.cat((self.tokens[rows], tokens.view(-1, 1)), 1)
        self._logprobs = torch.cat(
            [*([] if self._logprobs is None else [self._logprobs[rows]]), logprobs.view(-1, 1)], 1
        )
        self._covered = None if self._covered is None else self._covered[rows]
        self._totals, self.sources = totals[kept], self.sources[kept]

    def _ends(self, i: int, best: float, row: int) -> bool:
        """Return whether the search of the i-th source has ended; see `Beam`."""
        answers = self.answers[int(self.sources[i])]
        length = self.tokens.shape[1] + 1 - self._begun
        if best == -math.inf:
            if not answers:
                raise no_token_left(self.tokens[row])
            return True
        if self._beam.early_stopping:
            return len(answers) >= self._beam.size
        enough = len(answers) >= self._beam.n_best
        bar = self._beam.attainable(best, length, self._max_length)
        return enough and answers[self._beam.n_best - 1].score >= bar
