"""Text generation: a causal language model, its tokenizer, and what goes on a prompt."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import torch
from rich.progress import track
from torch import nn

from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError, VocabularyError
from qkv.evaluation.perplexity import LanguageModelScores, language_model_scores
from qkv.generation.answer import Token
from qkv.generation.sampling import Sampling
from qkv.generation.stepping import check_max_length
from qkv.generation.streaming import check_stop_strings, cut_text, ends_at, text_pieces
from qkv.models.causal import CausalLM
from qkv.models.modes import evaluating
from qkv.tasks.console import plain_console
from qkv.tasks.decoding import Decoding, Limits
from qkv.tasks.generation.foretelling import foretell
from qkv.tasks.generation.writing import Writer, until
from qkv.tasks.generation_config import read_decoding
from qkv.tasks.pretrained import Loaded, load

MAX_LENGTH = 200  # tokens
ROWS = 32  # answers that are written at once


@dataclass(frozen=True)
class Generation:
    """What a model wrote after a prompt.

    Args:
        prompt: as it was given.
        text: that follows it, up to the first stop string.
        tokens: as one reads them; the one that ended the text is the last.
        logprobs: the log-probability (nats) that the model gave each, before any processor.
        ended: by itself or by a stop string, and not cut off at the largest length.
        seed: of what was drawn.
    """

    prompt: str
    text: str
    tokens: list[str]
    logprobs: list[float]
    ended: bool
    seed: int


@dataclass(frozen=True)
class Generator:
    """A trained (or still to be trained) causal language model.

    A prompt gets the tokens around it that the tokenizer says, but none that ends a text; without
    any token it is the model's start token. Where prompt and answer are longer than the context of
    training, the model goes on from the last half of a context, as often as needed: it does not see
    what stands before, and neither do the processors.

    Args:
        loaded: model and tokenizer.
    """

    loaded: Loaded

    def __post_init__(self) -> None:
        """Refuse another kind of model."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        writes = isinstance(model, CausalLM) and not isinstance(model.head, nn.Identity)
        if not writes or tokenizer is None:
            raise ConfigError(
                f"a {type(model).__name__} with {'no' if tokenizer is None else 'a'} tokenizer was "
                "given; expected a causal language model, of the families of GPT-2 or Llama, with "
                "its tokenizer (qkv train tinyshakespeare makes one)"
            )
        _ = self.decoding  # read once, so that what cannot be applied is refused here

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        allow_download: bool = False,
    ) -> "Generator":
        """Load a causal language model; see `qkv.load`.

        Args:
            model: a folder, a name of the zoo or an id of the Hub.
            device: of the model.
            allow_download: whether the Hub may be asked for a base that a file of it names.

        Raises:
            ConfigError: the model is of another kind.
            DataError: there is no such model.
        """
        try:
            loaded = load(model, dtype=torch.float32, device=device, allow_download=allow_download)
            return cls.of(loaded)
        except ConfigError as error:
            raise ConfigError(f"{model}: {error}") from error

    @classmethod
    def of(cls, loaded: Loaded) -> "Generator":
        """Make one of what `qkv.load` returned."""
        return cls(loaded)

    @property
    def model(self) -> CausalLM:
        """The language model."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        assert self.loaded.tokenizer is not None
        return self.loaded.tokenizer

    @property
    def context(self) -> int:
        """Tokens that the model saw at once in training."""
        return self.model.config.n_positions

    @property
    def stops(self) -> list[int]:
        """The ids that end a text; -1, which is none, where the model has no such token."""
        stop = self._role("stop")
        return list(self.decoding.stops) or [-1 if stop is None else stop]

    @cached_property
    def decoding(self) -> Decoding:
        """The rules that the model's files say."""
        return read_decoding(self.loaded)

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn where the caller does not say it.

        As generation_config.json says, greedily where it says do_sample = false; where it does not
        say whether to draw, from the model's own distribution.
        """
        rules = self.decoding
        return rules.searched() if rules.draws is None else rules.sampling

    def encode(self, prompt: str) -> list[int]:
        """The tokens that the model reads before it writes.

        Raises:
            DataError: the prompt is empty, and the model has no token to start from.
        """
        ids = self.tokenizer.add_special_tokens(self.tokenizer.encode(prompt)).ids
        ends = {*self.stops, self._role("stop")}
        while len(ids) > 1 and ids[-1] in ends:
            ids = ids[:-1]
        if ids:
            return ids
        said = self.loaded.config.get("bos_token_id")
        known = [i for i in (said, self._role("start"), self._role("stop")) if i is not None]
        if not known:
            raise DataError(
                "the prompt is empty, and neither config.json nor the tokenizer names a token that "
                "starts a text; expected a prompt"
            )
        return known[:1]

    @overload
    def __call__(
        self,
        prompts: str,
        *,
        max_length: int | None = ...,
        sampling: Sampling | None = ...,
        seed: int = ...,
        stop_strings: Sequence[str] | None = ...,
        progress: bool = ...,
    ) -> Generation: ...
    @overload
    def __call__(
        self,
        prompts: Sequence[str],
        *,
        max_length: int | None = ...,
        sampling: Sampling | None = ...,
        seed: int | Sequence[int] = ...,
        stop_strings: Sequence[str] | None = ...,
        progress: bool = ...,
    ) -> list[Generation]: ...
    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        max_length: int | None = None,
        sampling: Sampling | None = None,
        seed: int | Sequence[int] = 0,
        stop_strings: Sequence[str] | None = None,
        progress: bool = False,
    ) -> Generation | list[Generation]:
        """Go on a prompt, or each of a list; repeat one, with other seeds, for several answers.

        Args:
            prompts: may be empty texts.
            max_length: tokens that are written at most; as the model's files say if not given,
                else 200.
            sampling: how tokens are drawn; see `sampling`.
            seed: of the numbers, of all prompts or one each; an answer depends on nothing else.
            stop_strings: that end a text, and are no part of it; as the model's files say if not
                given.
            progress: show a bar, where the errors go.

        Raises:
            ConfigError: no place for a token, not one seed a prompt, or an empty stop string.
            DataError: an empty prompt, and a model that has no token to start from.
        """
        if isinstance(prompts, str):
            only = [seed] if isinstance(seed, int) else seed
            options = {"max_length": max_length, "sampling": sampling, "progress": progress}
            return self([prompts], seed=only, stop_strings=stop_strings, **options)[0]
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(prompts):
            raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts; expected one each")
        sampling, stop_strings = self._chosen(max_length, sampling, stop_strings)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, Generation] = {}
        console = plain_console(stderr=True)
        off = not (progress and console.is_terminal)
        starts = range(0, len(order), ROWS)
        for at in track(starts, "writing", console=console, transient=True, disable=off):
            some = order[at : at + ROWS]
            rows = [prompts[i] for i in some]
            numbers = [seeds[i] for i in some]
            answers = self._answers(rows, max_length, sampling, numbers, stop_strings)
            for i, answer in zip(some, answers, strict=True):
                found[i] = self._generation(prompts[i], answer, seeds[i], stop_strings)
        return [found[i] for i in range(len(prompts))]

    def stream(
        self,
        prompt: str,
        *,
        max_length: int | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop_strings: Sequence[str] | None = None,
        lookup: bool = False,
    ) -> Iterator[str]:
        """Yield the text of an answer in pieces, as it is written; together that of a call.

        Args:
            prompt: may be empty.
            max_length: tokens that are written at most; as the model's files say if not given,
                else 200.
            sampling: how tokens are drawn; see `sampling`.
            seed: of the numbers.
            stop_strings: that end the text, and are no part of it; as the model's files say if not
                given.
            lookup: let the text so far propose what comes next (see `PromptLookup`): texts of the
                same probabilities, but other ones for a seed.

        Raises:
            ConfigError: no place for a token, or an empty stop string.
            DataError: an empty prompt, and a model that has no token to start from.
        """
        sampling, stop_strings = self._chosen(max_length, sampling, stop_strings)
        read = self.encode(prompt)
        limits = self._limits(read, max_length)
        tokens = self._writer(sampling).tokens(read, limits, seed, lookup=lookup)
        ids = (token.id for token in tokens)
        return text_pieces(ids, self._decoder(prompt), stop_strings=stop_strings)

    def evaluate(
        self, texts: Sequence[str], *, stride: int | None = None, progress: bool = False
    ) -> LanguageModelScores:
        """Score how well the model foretells texts, each from its start token to its stop token.

        Long texts are read in windows of a context, as `foretell` says. The end of a text counts as
        a character.

        Args:
            texts: not empty.
            stride: tokens from a window to the next; half a context if not given.
            progress: show a bar, where the errors go.

        Raises:
            DataError: there are no texts, or the model has no token to start from.
        """
        if not texts:
            raise DataError("no texts to foretell: expected at least one")
        start, stop = self.encode(""), [i for i in self.stops[:1] if i >= 0]
        rows = [[*start, *ids, *stop] for ids in self.tokenizer.encode_batch(texts)]
        with evaluating(self.model):
            losses = foretell(
                self.model,
                rows,
                context=self.context,
                stride=max(1, self.context // 2) if stride is None else stride,
                progress=progress,
            )
        n_tokens = [len(row) - len(start) for row in rows]
        return language_model_scores(losses, n_tokens, [len(text) + 1 for text in texts])

    def _answers(
        self,
        prompts: Sequence[str],
        max_length: int | None,
        sampling: Sampling,
        seeds: Sequence[int],
        stop_strings: Sequence[str],
    ) -> list[list[Token]]:
        """The tokens of each answer: of all at once, where prompts and answers fit the context."""
        ids = [self.encode(prompt) for prompt in prompts]
        limits = [self._limits(row, max_length) for row in ids]
        alike = len(set(limits)) == 1 and not self.decoding.reads_source
        writer = self._writer(sampling)
        with evaluating(self.model):
            fits = max(map(len, ids)) + limits[0].most <= self.context
            if alike and fits and not stop_strings:
                return writer.answers(ids, limits[0], seeds)
            ends = [ends_at(self._decoder(prompt), stop_strings) for prompt in prompts]
            rows = zip(ids, limits, seeds, ends, strict=True)
            return [until(writer.tokens(row, limit, seed), end) for row, limit, seed, end in rows]

    def _chosen(
        self,
        max_length: int | None,
        sampling: Sampling | None,
        stop_strings: Sequence[str] | None,
    ) -> tuple[Sampling, Sequence[str]]:
        """What holds of these, where some are not given."""
        if max_length is not None:
            check_max_length(max_length)
        found = self.decoding.stop_strings if stop_strings is None else stop_strings
        check_stop_strings(found)
        beams = self.decoding.beam.size
        if sampling is None and beams > 1:
            raise ConfigError(
                f"the model's files say num_beams = {beams}, but texts are drawn or written "
                "greedily; expected 1, or a sampling (--temperature 0 is greedy)"
            )
        return sampling or self.sampling, found

    def _limits(self, read: Sequence[int], max_length: int | None) -> Limits:
        return self.decoding.limits(len(read), usual=MAX_LENGTH, most=max_length)

    def _writer(self, sampling: Sampling) -> Writer:
        return Writer(self.model, self.context, self.stops, sampling, self.decoding)

    def _decoder(self, prompt: str) -> Callable[[list[int]], str]:
        """Decode an answer behind its prompt: by itself its first space might be lost."""
        before = self.tokenizer.encode(prompt)
        known = len(self.tokenizer.decode(before))
        return lambda ids: self.tokenizer.decode([*before, *ids])[known:]

    def _generation(
        self, prompt: str, answer: Sequence[Token], seed: int, stop_strings: Sequence[str]
    ) -> Generation:
        ids = [token.id for token in answer]
        whole = self._decoder(prompt)(ids)
        text = cut_text(whole, stop_strings)
        return Generation(
            prompt=prompt,
            text=text,
            tokens=self.tokenizer.tokens(ids),
            logprobs=[token.logprob for token in answer],
            ended=ids[-1] in self.stops or text != whole,
            seed=seed,
        )

    def _role(self, role: str) -> int | None:
        try:
            return getattr(self.tokenizer, role)
        except VocabularyError:
            return None
