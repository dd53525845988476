"""Decoding settings from a model's own files, for every task that generates text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from qkv.errors import LengthError
from qkv.generation.constraints import (
    bad_words,
    forbid,
    forbid_at,
    force_at,
    minimum_length,
    no_ngram_of,
    renormalize,
    source_penalty,
)
from qkv.generation.processors import Processor, no_repeat_ngram, repetition_penalty
from qkv.generation.ranking import Beam
from qkv.generation.sampling import Sampling

GREEDY = Sampling(temperature=0.0)
ONE = Beam(size=1, length_penalty=1.0, length_rule="power")


class Limits(NamedTuple):
    """Length limits of one output.

    Args:
        least: minimum number of new tokens.
        most: maximum number of new tokens.
        forced: whether the first new token is forced.
    """

    least: int
    most: int
    forced: bool


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """A model's decoding settings; `read_decoding` reads them from its files.

    Lengths are those of transformers: `max_length` and `min_length` include the tokens that
    decoding starts from; `max_new_tokens` and `min_new_tokens` do not, and take precedence. None
    means that the files do not set the field.

    Args:
        start: id of the decoder's first input token.
        stops: ids that end the output.
        draws: whether to sample.
        sampling: how to sample; greedy unless `draws` is true.
        beam: how to search.
        max_length: maximum total length, in tokens.
        max_new_tokens: maximum number of new tokens.
        min_length: minimum total length, in tokens.
        min_new_tokens: minimum number of new tokens.
        forced_first: first new token after a single start token, such as a target language.
        forced_last: ids of which one ends an output that reaches `max_length`.
        bad_words: token sequences that are never generated.
        suppressed: ids that are never generated.
        suppressed_first: ids that are not generated first (after a forced first token).
        source_ngram: forbid copying n-grams of this length from the source; 0 allows all.
        source_penalty: values above 1 make the tokens of the source more probable.
        output_penalty: values above 1 make tokens of the output (not of a prompt) less probable.
        output_ngram: forbid repeating n-grams of this length in the output; 0 allows all.
        renormalized: whether to renormalize log-probabilities after all rules were applied.
        stop_strings: strings that end the output and are not part of it.
    """

    start: int | None = None
    stops: tuple[int, ...] = ()
    draws: bool | None = None
    sampling: Sampling = GREEDY
    beam: Beam = ONE
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    forced_first: int | None = None
    forced_last: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    source_ngram: int = 0
    source_penalty: float = 1.0
    output_penalty: float = 1.0
    output_ngram: int = 0
    renormalized: bool = False
    stop_strings: tuple[str, ...] = ()

    @property
    def reads_source(self) -> bool:
        """Whether a rule depends on the source; each source is then decoded on its own."""
        return self.source_ngram > 0 or self.source_penalty != 1

    def limits(self, read: int, *, usual: int, most: int | None = None) -> Limits:
        """Return the length limits of an output that starts from `read` tokens.

        Args:
            read: number of tokens that decoding starts from.
            usual: maximum number of new tokens if the files set none.
            most: maximum number of new tokens, overriding the files.

        Raises:
            LengthError: the start already reaches `max_length`.
        """
        if most is None and self.max_new_tokens is not None:
            most = self.max_new_tokens
        elif most is None and self.max_length is not None:
            most = self.max_length - read
            if most < 1:
                raise LengthError(
                    f"decoding begins with {read} tokens, but the model's files say max_length = "
                    f"{self.max_length}, which counts them; expected another max_length"
                )
        least = self.min_length - read if self.min_new_tokens is None else self.min_new_tokens
        return Limits(
            max(0, least),
            usual if most is None else most,
            forced=self.forced_first is not None and read == 1,
        )

    def processors(
        self,
        limits: Limits,
        *,
        begun: int,
        source: Sequence[int] = (),
        sampling: Sampling | None = None,
        first: Sequence[Processor] = (),
        stops: Sequence[int] | None = None,
    ) -> list[Processor]:
        """Return the processors of all settings, in the order of transformers.

        Args:
            limits: length limits of the outputs.
            begun: number of tokens that decoding starts from, padding included.
            source: token ids of the source, if `reads_source`.
            sampling: how tokens are sampled, overriding the files.
            first: processors that come before those that force tokens.
            stops: ids that end an output, overriding the files.
        """
        processors, stops = list(first), self.stops if stops is None else stops
        if self.output_penalty != 1:
            processors.append(repetition_penalty(self.output_penalty, begun=max(0, begun)))
        if self.output_ngram:
            processors.append(no_repeat_ngram(self.output_ngram, begun=max(0, begun)))
        if self.source_penalty != 1:
            processors.append(source_penalty(source, self.source_penalty))
        if self.source_ngram:
            processors.append(no_ngram_of(source, self.source_ngram))
        # A bad word that is a stop token alone stays possible: it is how outputs end.
        if words := [word for word in self.bad_words if word not in {(stop,) for stop in stops}]:
            processors.append(bad_words(words))
        if limits.least:
            processors.append(minimum_length(limits.least, stops, begun=begun))
        if limits.forced and self.forced_first is not None:
            processors.append(force_at([self.forced_first], place=0, begun=begun))
        if self.forced_last:
            processors.append(force_at(self.forced_last, place=limits.most - 1, begun=begun))
        if self.suppressed:
            processors.append(forbid(self.suppressed))
        if self.suppressed_first:
            processors.append(
                forbid_at(self.suppressed_first, place=int(limits.forced), begun=begun)
            )
        processors = (sampling or self.sampling).processors(processors)
        return [*processors, renormalize] if self.renormalized else processors

    def searched(self) -> Sampling:
        """Return the sampling for beam search: the same penalties, and no random choice."""
        return replace(self.sampling, temperature=1.0, top_k=None, top_p=None, min_p=None)

    def greedy(self) -> Sampling:
        """Return the sampling for greedy decoding, with the same penalties."""
        return replace(self.searched(), temperature=0.0)
