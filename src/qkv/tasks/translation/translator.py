"""Translation: any text to any text, by a model with an encoder, a decoder and two tokenizers."""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import torch
from torch import nn

from qkv.attention.record import record_attention
from qkv.data.batches import Batches, Batching, PairBatch, pair_batches
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
from qkv.evaluation.exact_match import exact_match
from qkv.evaluation.translation import TranslationScores, translation_scores
from qkv.generation.ranking import Beam
from qkv.generation.stepping import check_max_length
from qkv.models.modes import evaluating
from qkv.tasks.decoding import Decoding
from qkv.tasks.generation_config import read_decoding
from qkv.tasks.pretrained import Loaded, load, save
from qkv.tasks.translation.data import TextPair
from qkv.tasks.translation.inputs import describe, fit_source, read_limit
from qkv.tasks.translation.results import Alignment, Translation, put_together
from qkv.tasks.translation.search import GREEDY, PLAIN, Search, check_search

USUAL_LENGTH = 256  # tokens of a translation, where the model's files say nothing


@dataclasses.dataclass(frozen=True)
class Translator:
    """A trained (or still to be trained) model between two vocabularies.

    Args:
        model: Transformer or RNN; whatever has `hidden`, `head`, `start` and `step`.
        source: tokenizer of the inputs.
        target: tokenizer of the outputs.
        max_length: tokens after which an output is cut, if it has not ended by itself.
        limit: tokens of an input; a longer one is split at its sentences, and a longer sentence
            cut. None where there is no limit.
        beam: how to search; greedily by default.
        decoding: the model's other rules; what its decoder begins and ends with is by default the
            tokenizer's start and stop.
        loaded: what model and tokenizers came from.

    Raises:
        ConfigError: lengths that leave no place for a token.
    """

    model: nn.Module
    source: Tokenizer
    target: Tokenizer
    max_length: int = 256
    _: dataclasses.KW_ONLY
    limit: int | None = None
    beam: Beam = GREEDY
    decoding: Decoding = PLAIN
    loaded: Loaded | None = None

    def __post_init__(self) -> None:
        """Check what no text has to be read for."""
        check_max_length(self.max_length)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        beam: Beam | int | None = None,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        allow_download: bool = False,
    ) -> "Translator":
        """Load a model that reads a text and writes another; see `qkv.load`.

        Args:
            path: a folder, a name of the zoo or an id of the Hub.
            beam: how to search, or how wide; as generation_config.json or config.json says if not
                given, greedily if they say nothing.
            max_length: most tokens of a translation; as those files say if not given, else 256.
            device: of the model.
            allow_download: whether the Hub may be asked for a base that a file of it names.

        Raises:
            ConfigError: the model is of another kind, or its files say what is not implemented.
            DataError: there is no such model.
        """
        loaded = load(path, dtype=torch.float32, device=device, allow_download=allow_download)
        return cls.of(loaded, beam=beam, max_length=max_length, name=os.fspath(path))

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        *,
        beam: Beam | int | None = None,
        max_length: int | None = None,
        name: str = "this",
    ) -> "Translator":
        """Make a translator of what `qkv.load` returned; `name` is what errors call it."""
        limit, decoding = read_limit(loaded, name), read_decoding(loaded)
        assert loaded.tokenizer is not None
        check_search(decoding, chosen=beam is not None, name=name)
        if beam is None or isinstance(beam, int):
            beam = replace(decoding.beam, size=decoding.beam.size if beam is None else beam)
        return cls(
            loaded.model,
            loaded.tokenizer,
            loaded.tokenizer.target,
            decoding.limits(1, usual=USUAL_LENGTH, most=max_length).most,
            limit=limit,
            beam=beam,
            decoding=decoding,
            loaded=loaded,
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write model, tokenizer and how to decode in the Hugging Face layout; see `load`.

        Raises:
            ConfigError: the tokenizers are two, or the files cannot say what the model or the beam
                is.
        """
        if self.loaded is not None:
            return save(self.loaded, folder)
        if self.source is not self.target:
            raise ConfigError(
                "this translator has one tokenizer for its inputs and another for its outputs; a "
                "folder holds one: train it on both languages"
            )
        config = describe(self.target, self.beam, self.max_length)
        return save(Loaded(self.model, self.target, config=config), folder)

    def batches(
        self,
        pairs: Sequence[TextPair],
        *,
        max_tokens: int,
        seed: int = 0,
    ) -> Batches[PairBatch]:
        """Yield training batches without end, epoch after epoch; see `pair_batches`."""
        sources = self.source.encode_batch(source for source, _ in pairs)
        targets = self.target.encode_batch(target for _, target in pairs)
        return pair_batches(
            [
                (self.source.add_special_tokens(s).ids, t)
                for s, t in zip(sources, targets, strict=True)
            ],
            pad=self.target.pad,
            start=self.target.start,
            stop=self.target.stop,
            batching=Batching(max_tokens=max_tokens, seed=seed, epochs=None),
        )

    @overload
    def __call__(self, texts: str, *, rows: int = 256, progress: bool = False) -> Translation: ...
    @overload
    def __call__(
        self, texts: Sequence[str], *, rows: int = 256, progress: bool = False
    ) -> list[Translation]: ...
    def __call__(
        self, texts: str | Sequence[str], *, rows: int = 256, progress: bool = False
    ) -> Translation | list[Translation]:
        """Translate a text, or several, in their order.

        Args:
            texts: one, or a list.
            rows: of a batch, at most; inputs of like length share one.
            progress: show a bar, where the errors go.

        Raises:
            DataError: a text is empty.
        """
        if isinstance(texts, str):
            return self([texts], rows=rows, progress=progress)[0]
        sources = [fit_source(text, self.source, self.limit) for text in texts]
        pieces = [ids for one in sources for ids in one.pieces]
        with evaluating(self.model):
            answers = iter(self._search(self.model, pieces, rows=rows, progress=progress))
        return [
            put_together(
                text,
                list(itertools.islice(answers, len(source.pieces))),
                decode=self.target.decode,
                note=source.note(self.limit),
            )
            for text, source in zip(texts, sources, strict=True)
        ]

    def exact_match(self, pairs: Sequence[TextPair]) -> float:
        """Return the share of sources whose translation is the target, character for character."""
        return exact_match(self([source for source, _ in pairs]), [target for _, target in pairs])

    def evaluate(
        self,
        examples: Sequence[TextPair],
        *,
        progress: bool = False,
        tokenizer: str = "13a",
        samples: int = 1_000,
    ) -> TranslationScores:
        """Score the translations of sentences whose translations are known.

        Args:
            examples: (source, target).
            progress: show a bar, where the errors go.
            tokenizer: of BLEU, see `translation_scores`.
            samples: of the bootstrap.
        """
        said = self([source for source, _ in examples], progress=progress)
        targets = [target for _, target in examples]
        return translation_scores(
            list(map(str, said)), targets, tokenizer=tokenizer, samples=samples
        )

    def align(self, text: str, *, layers: Sequence[str] | None = None) -> Alignment:
        """Translate one text, then record one pass over it: row t is the look before token t.

        Args:
            text: the source; what the model does not read at once is left out.
            layers: which attention modules to record; None records all.
        """
        source = fit_source(text, self.source, self.limit).pieces[0]
        device = next(self.model.parameters()).device
        search = self._search
        with evaluating(self.model):
            [[best, *_]] = search(self.model, [source], rows=1)
        output = [*best.tokens, *([] if best.ended else [search.stops[0]])]
        source_ids = torch.tensor([source], device=device)
        target_ids = torch.tensor([[search.start, *output[:-1]]], device=device)
        with (
            evaluating(self.model),
            torch.inference_mode(),
            record_attention(self.model, layers=layers) as weights,
        ):
            self.model(source_ids, target_ids)
        return Alignment(self.source.tokens(source), self.target.tokens(output), weights)

    @property
    def _search(self) -> Search:
        return Search(
            pad=self.source.pad,
            start=self.target.start if self.decoding.start is None else self.decoding.start,
            stops=self.decoding.stops or (self.target.stop,),
            max_length=self.max_length,
            beam=self.beam,
            decoding=self.decoding,
        )
