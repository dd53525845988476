"""Summaries: a model that reads a text and writes or copies what it is about."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.data.classification import encode_texts
from qkv.data.summaries import Summarized
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
from qkv.evaluation.summarization import SummaryScores, summary_scores
from qkv.files import whole_folder
from qkv.generation.processors import FORBIDDEN, Processor
from qkv.generation.ranking import Beam
from qkv.json_fields import check_kinds, kinds_of_fields
from qkv.models.bart import Bart
from qkv.models.modes import evaluating
from qkv.models.pointer_generator import PointerGenerator
from qkv.models.t5 import T5
from qkv.tasks.decoding import Decoding
from qkv.tasks.generation_config import read_decoding
from qkv.tasks.pretrained import Loaded, load, locate
from qkv.tasks.summarization.model import (
    BASE,
    DECODER,
    DECODER_FILE,
    Decoder,
    join_decoder,
    new_decoder,
)
from qkv.tasks.translation.search import PLAIN, Search, check_search

# Where config.json may say what a task needs, and no other field does.
PARAMETERS, TASK = "task_specific_params", "summarization"
ROWS = 64  # beginnings that are followed at once
KINDS = (PointerGenerator, Bart, T5)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a summary is written; config.json keeps it.

    Args:
        max_source: tokens of a text, special ones included, of which the rest is cut off.
        max_length: the most tokens of a summary.
        beam: width of the beam search; 1 is greedy.
        length_penalty: alpha of Wu et al. 2016, eq. 14; above 0 it favours longer summaries.
        prefix: put before each text, as T5 wants it.

    Raises:
        ConfigError: a number below 1.
    """

    max_source: int = 160
    max_length: int = 32
    beam: int = 4
    length_penalty: float = 1.0
    prefix: str = ""

    def __post_init__(self) -> None:
        """Check what no text has to be read for."""
        for name in ("max_source", "max_length", "beam"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1")


WRITING = Writing()


@dataclass(frozen=True)
class Summary:
    """What a summarizer says of a text.

    Args:
        text: that was read.
        summary: of it.
        score: log-probability over the length penalty, by which the beam chose.
        cut: whether the text was too long and only its beginning was read.
    """

    text: str
    summary: str
    score: float
    cut: bool


@dataclass(frozen=True)
class Summarizer:
    """A trained (or still to be trained) model that writes summaries.

    Args:
        loaded: model and tokenizer.
        writing: of summaries.
        decoding: other rules, of a published model.
    """

    loaded: Loaded
    writing: Writing = WRITING
    decoding: Decoding = PLAIN

    def __post_init__(self) -> None:
        """Check what no text has to be read for."""
        longest = getattr(self.model.config, "n_positions", None)
        if longest is not None and self.writing.max_source > longest:
            raise ConfigError(
                f"max_source = {self.writing.max_source}, but this {type(self.model).__name__} has "
                f"learned positions for {longest} tokens; expected at most as many"
            )

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        beam: int | None = None,
        device: torch.device | str | None = None,
        allow_download: bool = False,
    ) -> "Summarizer":
        """Load a model that writes summaries: of ours, or a published BART or T5.

        Args:
            model: a folder, a name of the zoo or an id of the Hub; a folder with the decoder alone
                names its encoder.
            beam: width of the search, if it is another than the model's own.
            device: of the model.
            allow_download: whether the Hub may be asked for a base that a file of it names.

        Raises:
            ConfigError: the model is of another kind, or its files say what is not implemented.
            DataError: there is no such model.
        """
        folder = whole_folder(locate(model))
        joined = (folder / DECODER_FILE).is_file()
        loaded = (
            join_decoder(folder, device=device, allow_download=allow_download)
            if joined
            else load(model, dtype=torch.float32, device=device, allow_download=allow_download)
        )
        return cls.of(loaded, beam=beam, name=os.fspath(model))

    @classmethod
    def of(cls, loaded: Loaded, *, beam: int | None = None, name: str = "this") -> "Summarizer":
        """Make a summarizer of what `qkv.load` returned; `name` is what errors call it."""
        if not isinstance(loaded.model, KINDS) or loaded.tokenizer is None:
            raise ConfigError(
                f"{name} is a {type(loaded.model).__name__} with "
                f"{'no' if loaded.tokenizer is None else 'a'} tokenizer; expected a model that "
                "writes summaries: a PointerGenerator (qkv train summarize_docstrings "
                "makes one), BART or T5"
            )
        said = dict((loaded.config.get(PARAMETERS) or {}).get(TASK) or {})
        known = {one.name: said.pop(one.name) for one in fields(Writing) if one.name in said}
        check_kinds(known, kinds_of_fields(Writing), where=f"{PARAMETERS} of {name}")
        decoding = PLAIN
        if not isinstance(loaded.model, PointerGenerator):
            known, decoding = _published(loaded, known, said, name, chosen=beam is not None)
        writing = Writing(**known)
        return cls(loaded, writing if beam is None else replace(writing, beam=beam), decoding)

    @classmethod
    def fresh(
        cls,
        base: str | os.PathLike[str],
        writing: Writing = WRITING,
        decoder: Decoder = DECODER,
    ) -> "Summarizer":
        """Put a new decoder on a pretrained BERT, which is frozen, in float32.

        Args:
            base: a checkpoint's folder, a name of the zoo or an id of the Hub.
            writing: of summaries.
            decoder: its size.

        Raises:
            ConfigError: the base is no BERT, or has no tokenizer.
        """
        loaded = new_decoder(base, decoder)
        return cls(loaded, writing).noted(str(base))

    def noted(self, base: str | None = None) -> "Summarizer":
        """Note in config.json how to write; and the encoder's name, where it is given."""
        config = {**self.loaded.config, PARAMETERS: {TASK: vars(self.writing)}}
        if base is not None:
            config[BASE] = base
        return replace(self, loaded=replace(self.loaded, config=config))

    @property
    def model(self) -> nn.Module:
        """That reads and writes."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        assert self.loaded.tokenizer is not None
        return self.loaded.tokenizer

    @overload
    def __call__(self, texts: str, *, progress: bool = False) -> Summary: ...
    @overload
    def __call__(self, texts: Sequence[str], *, progress: bool = False) -> list[Summary]: ...
    def __call__(
        self, texts: str | Sequence[str], *, progress: bool = False
    ) -> Summary | list[Summary]:
        """Summarize one text or several, in order.

        Args:
            texts: or one.
            progress: show a bar, where the errors go.

        Raises:
            DataError: a text is empty.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        found = self._summaries(given, progress) if given else []
        return found[0] if isinstance(texts, str) else found

    def evaluate(self, examples: Iterable[Summarized], *, progress: bool = False) -> SummaryScores:
        """Score the summaries of texts against all that people wrote of them.

        Raises:
            DataError: there are none.
        """
        examples = list(examples)
        said = self([one.text for one in examples], progress=progress)
        return summary_scores([one.summary for one in said], [one.summaries for one in examples])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts as the model reads them, each cut to `max_source`."""
        whole = [self.writing.prefix + text for text in texts]
        return encode_texts(self.tokenizer, whole, max_length=self.writing.max_source).ids

    def _summaries(self, texts: list[str], progress: bool) -> list[Summary]:
        sources = self.encode(texts)
        with evaluating(self.model):
            answers = self._search(self.model, sources, rows=ROWS, progress=progress)
        return [
            Summary(
                text,
                self.tokenizer.decode(best.text).strip(),
                best.score,
                self._is_cut(text, ids),
            )
            for text, ids, (best, *_) in zip(texts, sources, answers, strict=True)
        ]

    @property
    def _search(self) -> Search:
        said, beam = self.decoding, Beam(size=self.writing.beam)
        stops = said.stops or (self.tokenizer.stop,)
        if not isinstance(self.model, PointerGenerator):
            beam = replace(said.beam, size=self.writing.beam)
        return Search(
            pad=self.tokenizer.pad,
            start=self.tokenizer.start if said.start is None else said.start,
            stops=stops,
            max_length=self.writing.max_length,
            beam=replace(beam, length_penalty=self.writing.length_penalty),
            decoding=said,
            first=(_only(self.tokenizer, stops),),
        )

    def _is_cut(self, text: str, ids: Sequence[int]) -> bool:
        """Whether more of a text was left out than stands around it."""
        if len(ids) < self.writing.max_source:
            return False
        whole = self.tokenizer.add_special_tokens(self.tokenizer.encode(self.writing.prefix + text))
        return len(whole.ids) > len(ids)


def _published(
    loaded: Loaded, own: dict[str, Any], more: dict[str, Any], name: str, *, chosen: bool
) -> tuple[dict[str, Any], Decoding]:
    """How a BART or T5 writes, as its files say it.

    Args:
        loaded: the model.
        own: fields of `Writing` that config.json has for summaries.
        more: fields of generation_config.json that it has there.
        name: to call the model in errors.
        chosen: whether the caller says how wide to search.
    """
    theirs = {field: own[field] for field in ("max_length", "length_penalty") if field in own}
    decoding = read_decoding(loaded, more | theirs)
    if decoding.start is None or not decoding.stops:
        raise ConfigError(
            f"{name}: its files have decoder_start_token_id = {decoding.start} and eos_token_id = "
            f"{list(decoding.stops)}; expected an id each, to know what a summary begins and ends "
            "with"
        )
    check_search(decoding, chosen=chosen, name=name)
    writing = {
        "max_source": own.get("max_source", 512),
        "max_length": decoding.limits(1, usual=128).most,
        "beam": decoding.beam.size,
        "length_penalty": decoding.beam.length_penalty,
        "prefix": own.get("prefix", ""),
    }
    return writing, decoding


def _only(tokenizer: Tokenizer, stops: Sequence[int]) -> Processor:
    """Forbid what stands for no text, but the end: special tokens, ids beyond the vocabulary."""
    special = sorted(tokenizer.special_ids - set(stops))

    def forbid(
        tokens: Int[Tensor, "rows t"], logits: Float[Tensor, "rows V"]
    ) -> Float[Tensor, "rows V"]:
        logits = logits.clone()
        logits[:, special] = FORBIDDEN
        logits[:, tokenizer.vocab_size :] = FORBIDDEN
        return logits

    return forbid
