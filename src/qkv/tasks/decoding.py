"""How a model is decoded by the rules in its own files, for every task that writes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from qkv.errors import LengthError
from qkv.generation import constraints
from qkv.generation.processors import Processor
from qkv.generation.ranking import Beam
from qkv.generation.sampling import Sampling

GREEDY = Sampling(temperature=0.0)
ONE = Beam(size=1, length_penalty=1.0, length_rule="power")


class Limits(NamedTuple):
    """What holds for an answer that begins with some tokens.

    Args:
        least: tokens before which it does not end.
        most: tokens that are written at most.
        forced: whether its first token is forced.
    """

    least: int
    most: int
    forced: bool


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """The rules of a model; see `read_decoding`, which finds them in its files.

    Lengths are those of transformers: `max_length` and `min_length` count what decoding begins
    with, `max_new_tokens` and `min_new_tokens` do not, and go before them.

    Args:
        start: what a decoder reads first; None where nothing says it.
        stops: ids that end an answer; none where nothing says it.
        draws: whether tokens are drawn; None where nothing says it.
        sampling: how they are drawn; greedily where `draws` is not true.
        beam: how to search.
        max_length: None where nothing says it.
        max_new_tokens: None where nothing says it.
        min_length: 0 is no rule.
        min_new_tokens: None where nothing says it.
        forced_first: the token after a single one; that of a target language, for example.
        forced_last: one of them is the last token where `max_length` is reached.
        bad_words: sequences that are never written.
        suppressed: ids that are never written.
        suppressed_first: ids that are not written first, after the one that is forced.
        source_ngram: no so many tokens of the source in the same order; 0 is no rule.
        source_penalty: above 1, what the source says becomes more probable.
        renormalized: whether what the rules leave has probabilities that sum to 1.
        stop_strings: that end a text and are no part of it.
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
    renormalized: bool = False
    stop_strings: tuple[str, ...] = ()

    @property
    def reads_source(self) -> bool:
        """Whether a rule is about the source, so that each source is decoded by itself."""
        return self.source_ngram > 0 or self.source_penalty != 1

    def limits(self, read: int, *, usual: int, most: int | None = None) -> Limits:
        """What holds after `read` tokens.

        Args:
            read: that decoding begins with.
            usual: most tokens that are written where no file says it.
            most: tokens that are written, instead of what a file says.

        Raises:
            LengthError: what decoding begins with is as long as the whole may be.
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
        """All rules, in the order of transformers.

        Args:
            limits: of the answers.
            begun: columns of tokens before the first that is written.
            source: ids that `reads_source` is about.
            sampling: how tokens are drawn, instead of what a file says.
            first: rules that come before those that force tokens.
            stops: ids that end an answer, where they are others.
        """
        found, stops = list(first), self.stops if stops is None else stops
        if self.source_penalty != 1:
            found.append(constraints.source_penalty(source, self.source_penalty))
        if self.source_ngram:
            found.append(constraints.no_ngram_of(source, self.source_ngram))
        # A word that is the end alone stays possible: it is how answers end.
        if words := [word for word in self.bad_words if word not in {(stop,) for stop in stops}]:
            found.append(constraints.bad_words(words))
        if limits.least:
            found.append(constraints.minimum_length(limits.least, stops, begun=begun))
        if limits.forced and self.forced_first is not None:
            found.append(constraints.force_at([self.forced_first], place=0, begun=begun))
        if self.forced_last:
            last = limits.most - 1
            found.append(constraints.force_at(self.forced_last, place=last, begun=begun))
        if self.suppressed:
            found.append(constraints.forbid(self.suppressed))
        if self.suppressed_first:
            place = int(limits.forced)
            found.append(constraints.forbid_at(self.suppressed_first, place=place, begun=begun))
        end = [constraints.renormalize] if self.renormalized else []
        return [*(sampling or self.sampling).processors(found), *end]

    def searched(self) -> Sampling:
        """How beam search changes probabilities: the same rules, but nothing is drawn."""
        return replace(self.sampling, temperature=1.0, top_k=None, top_p=None, min_p=None)

    def greedy(self) -> Sampling:
        """The same rules, and the most probable token that they leave."""
        return replace(self.searched(), temperature=0.0)
