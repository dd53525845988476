"""Texts that a causal language model generates, and the likelihood of texts under it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from torch import nn

from qkv.errors import ConfigError, DataError, VocabularyError
from qkv.evaluation.perplexity import LanguageModelScores, language_model_scores
from qkv.generation.answer import Token
from qkv.generation.continuation import Continuation, until
from qkv.generation.decoding import Decoding, Limits
from qkv.generation.sampling import Sampling
from qkv.generation.stepping import Ends, check_max_length
from qkv.generation.streaming import check_stop_strings, cut_text, ends_at, text_pieces
from qkv.models.causal import CausalLM
from qkv.models.modes import evaluating
from qkv.tasks.console import progress_bar
from qkv.tasks.decoding import read_decoding
from qkv.tasks.likelihood import negative_log_likelihoods
from qkv.tasks.pipeline import Pipeline, check_strings, read_settings

MAX_LENGTH = 120  # tokens of an output, if neither caller nor files set a limit
PROMPTING = "text-generation"  # in task_specific_params
FINISH = 60  # more tokens than that, to finish a sentence
END = re.compile(r"""([^\d\W][.!?\u2026]+["'\u201d\u2019)*]*\s*|\n\s*)$""")  # of a sentence or line
ROWS = 32  # prompts per batch


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """The settings for continuing texts in task_specific_params of config.json.

    Args:
        prefix: text before each prompt, with special tokens; not part of the output. A model that
            was trained to answer continues a text better as its own answer.
        end: a string that ends an output and is not part of it, as a stop string.
    """

    prefix: str = ""
    end: str = ""


@dataclass(frozen=True)
class Generation:
    """The continuation of a prompt.

    Args:
        prompt: the prompt.
        text: its continuation, up to the first stop string.
        tokens: the tokens of the continuation as text; the one that ended it is the last.
        logprobs: log-probability (nats) of each token under the model, before any processor.
        ended: whether the text ended by itself or at a stop string, not at the maximum length.
        seed: random seed.
    """

    prompt: str
    text: str
    tokens: list[str]
    logprobs: list[float]
    ended: bool
    seed: int


@dataclass(frozen=True)
class Generator(Pipeline[str, Generation, LanguageModelScores]):
    """A causal language model.

    The tokenizer's special tokens are added to a prompt, except those that end a text; an empty
    prompt becomes the model's start token. White space at the end of a prompt is generated again,
    as part of a token. When prompt and output outgrow the training context, the model continues
    from the last half of a context, as often as needed; neither the model nor the processors see
    earlier tokens.

    Args:
        loaded: model and tokenizer.

    Raises:
        ConfigError: the model is of another kind, or its files request unsupported features.
    """

    usual: ClassVar = MAX_LENGTH
    kinds: ClassVar = (CausalLM,)
    expected: ClassVar = (
        "a causal language model of the families of GPT-2 or Llama, with output layer and "
        "tokenizer (qkv train tinyshakespeare trains one)"
    )

    def __post_init__(self) -> None:
        """Check the model, and read its decoding settings."""
        self.check(self.loaded)
        if isinstance(self.model.head, nn.Identity):
            raise ConfigError(
                f"the model is a {type(self.model).__name__} without an output layer; expected "
                f"{self.expected}"
            )
        _ = self.decoding

    @property
    def context(self) -> int:
        """The number of tokens of the training context."""
        return self.model.config.n_positions

    @property
    def stops(self) -> list[int]:
        """The ids that end a text; [-1], which matches no token, if there are none."""
        stop = self._special("stop")
        return list(self.decoding.stops) or [-1 if stop is None else stop]

    @cached_property
    def decoding(self) -> Decoding:
        """The decoding settings of the model's files."""
        return read_decoding(self.loaded)

    @property
    def sampling(self) -> Sampling:
        """The default sampling settings, from generation_config.json.

        Greedy decoding if it has do_sample = false; the model's own distribution if do_sample is
        not set.
        """
        rules = self.decoding
        return rules.searched() if rules.draws is None else rules.sampling

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt, after the prefix of the model's files, if there is one.

        Raises:
            DataError: the prompt is empty, and the model has neither a prefix nor a start token.
        """
        prefix = self.prompting.prefix
        if not prefix:
            return self.encode_plain(prompt)
        return [*self.tokenizer.parse(prefix)[0], *self.tokenizer.encode(prompt)]

    @cached_property
    def prompting(self) -> Prompting:
        """The settings for continuing texts in the model's config.json."""
        return Prompting(**read_settings(self.loaded, PROMPTING, Prompting))

    def encode_plain(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt without prefix, or the start token if it is empty.

        Raises:
            DataError: the prompt is empty, and the model has no start token.
        """
        ids = self.tokenizer.add_special_tokens(self.tokenizer.encode(prompt)).ids
        ends = {*self.stops, self._special("stop")}
        while len(ids) > 1 and ids[-1] in ends:
            ids = ids[:-1]
        if ids:
            return ids
        candidates = self.loaded.config.get("bos_token_id"), self._special("start")
        known = [i for i in (*candidates, self._special("stop")) if i is not None]
        if not known:
            raise DataError(
                "the prompt is empty, and neither config.json nor the tokenizer has a token that "
                "starts a text; expected a prompt"
            )
        return known[:1]

    def predict(
        self,
        prompts: Sequence[str],
        *,
        max_length: int | None = None,
        sampling: Sampling | None = None,
        seed: int | Sequence[int] = 0,
        stop_strings: Sequence[str] | None = None,
        progress: bool = False,
    ) -> list[Generation]:
        """Continue prompts, in their order; repeat a prompt, with other seeds, for more texts.

        Args:
            prompts: the prompts; may be empty texts.
            max_length: maximum number of new tokens; default: from the model's files, else
                about 120, up to the end of a sentence.
            sampling: how tokens are sampled; default: `self.sampling`.
            seed: random seed of all prompts, or one per prompt; a text depends on nothing else.
            stop_strings: strings that end a text and are not part of it; default: from the files.
            progress: show a progress bar on standard error.

        Raises:
            ConfigError: the maximum length is below 1, the numbers of seeds and prompts differ, or
                a stop string is empty.
            DataError: a prompt is empty, and the model has no start token.
        """
        check_strings(prompts, "prompt")
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(prompts):
            raise ConfigError(f"{len(seeds)} seeds for {len(prompts)} prompts; expected one each")
        sampling, stop_strings = self.chosen(max_length, sampling, stop_strings)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        done: dict[int, Generation] = {}
        for at in progress_bar(range(0, len(order), ROWS), "generating", show=progress):
            rows = order[at : at + ROWS]
            texts, numbers = [prompts[i] for i in rows], [seeds[i] for i in rows]
            outputs = self._continue(texts, max_length, sampling, numbers, stop_strings)
            for i, output in zip(rows, outputs, strict=True):
                done[i] = self._generation(prompts[i], output, seeds[i], stop_strings)
        return [done[i] for i in range(len(prompts))]

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
        """Yield the continuation of a prompt in pieces, as it is generated; see `predict`.

        Args:
            prompt: the prompt; may be empty.
            max_length: maximum number of new tokens.
            sampling: how tokens are sampled.
            seed: random seed.
            stop_strings: strings that end the text and are not part of it.
            lookup: speculative decoding with drafts from the text so far (see `PromptLookup`): the
                same distribution, but another text for the same seed.

        Raises:
            ConfigError: the maximum length is below 1, or a stop string is empty.
            DataError: the prompt is empty, and the model has no start token.
        """
        sampling, stop_strings = self.chosen(max_length, sampling, stop_strings)
        ids, decoding = self.begin(prompt)
        limits = self.limits(ids, max_length)
        continuation = self.continuation(sampling, decoding)
        tokens = continuation.tokens(ids, limits, seed, lookup=lookup)
        end = self.ending(prompt, limits, ()) or (lambda ids: False)
        generated = (token.id for token in until(tokens, end))
        return text_pieces(generated, self.decoder(prompt), stop_strings=stop_strings)

    def evaluate(
        self, examples: Sequence[str], *, stride: int | None = None, progress: bool = False
    ) -> LanguageModelScores:
        """Score the likelihood of texts, each from its start token to its stop token.

        Long texts are read in windows (see `negative_log_likelihoods`). The end of a text counts as
        a character.

        Args:
            examples: texts that are not empty.
            stride: number of tokens between two windows; default: half a context.
            progress: show a progress bar on standard error.

        Raises:
            DataError: there are no texts, or the model has no start token.
        """
        if not examples:
            raise DataError("there are no texts to score; expected at least one")
        start, stop = self.encode_plain(""), [i for i in self.stops[:1] if i >= 0]
        rows = [[*start, *ids, *stop] for ids in self.tokenizer.encode_batch(examples)]
        with evaluating(self.model):
            losses = negative_log_likelihoods(
                self.model,
                rows,
                context=self.context,
                stride=max(1, self.context // 2) if stride is None else stride,
                progress=progress,
            )
        tokens = [len(row) - 1 for row in rows]
        return language_model_scores(losses, tokens, [len(text) + 1 for text in examples])

    def _continue(
        self,
        prompts: Sequence[str],
        max_length: int | None,
        sampling: Sampling,
        seeds: Sequence[int],
        stop_strings: Sequence[str],
    ) -> list[list[Token]]:
        """Return the tokens of each output, computed in one batch if all fit the context."""
        begun = [self.begin(prompt) for prompt in prompts]
        ids, settings = [ids for ids, _ in begun], [decoding for _, decoding in begun]
        limits = [self.limits(row, max_length) for row in ids]
        alike = len(set(limits)) == 1 and all(one is self.decoding for one in settings)
        alike = alike and not self.decoding.reads_source
        with evaluating(self.model):
            fits = max(map(len, ids)) + limits[0].most <= self.context
            pairs = zip(prompts, limits, strict=True)
            ends = [self.ending(prompt, limit, stop_strings) for prompt, limit in pairs]
            if alike and fits and not stop_strings:
                continuation = self.continuation(sampling, self.decoding)
                outputs = continuation.answers(ids, limits[0], seeds)
            else:
                rows = zip(settings, ids, limits, seeds, strict=True)
                outputs = [
                    self.continuation(sampling, decoding).tokens(row, limit, seed)
                    for decoding, row, limit, seed in rows
                ]
            return [
                list(until(output, end) if end else output)
                for output, end in zip(outputs, ends, strict=True)
            ]

    def chosen(
        self,
        max_length: int | None,
        sampling: Sampling | None,
        stop_strings: Sequence[str] | None,
    ) -> tuple[Sampling, Sequence[str]]:
        """Check the options, and fill in those that are None."""
        if max_length is not None:
            check_max_length(max_length)
        own = (*self.decoding.stop_strings, *filter(None, (self.prompting.end,)))
        strings = own if stop_strings is None else stop_strings
        check_stop_strings(strings)
        beams = self.decoding.beam.size
        if sampling is None and beams > 1:
            raise ConfigError(
                f"the model's files have num_beams = {beams}, but this task samples or decodes "
                "greedily; expected 1, or a sampling (--temperature 0 is greedy decoding)"
            )
        return sampling or self.sampling, strings

    def limits(self, ids: Sequence[int], max_length: int | None) -> Limits:
        """Return the length limits of an output; None means the limit in the model's files."""
        return self.decoding.limits(len(ids), usual=self.usual + FINISH, most=max_length)

    def ending(self, prompt: str, limits: Limits, stop_strings: Sequence[str]) -> Ends | None:
        """Return what ends an output early; None if only its stop tokens and limits do.

        It is a stop string or, if nobody has set a limit, the end of a sentence beyond the usual
        length.
        """
        decode, finish = self.decoder(prompt), limits.most == self.usual + FINISH
        stopped = ends_at(decode, stop_strings)

        def end(ids: list[int]) -> bool:
            finished = finish and len(ids) >= self.usual and END.search(decode(ids))
            return bool(finished) or stopped(ids)

        return end if finish or stop_strings else None

    def continuation(self, sampling: Sampling, decoding: Decoding) -> Continuation:
        """Return the decoding loop with these settings."""
        return Continuation(self.model, self.context, self.stops, sampling, decoding)

    def begin(self, prompt: str) -> tuple[list[int], Decoding]:
        """Return the tokens from which decoding starts, and its settings.

        White space at the end of a prompt is often the beginning of a token, such as " the", that
        the model expects as a whole: it is generated again, as part of such a token.
        """
        ids, decoding = self.encode(prompt), self.decoding
        space = self._labels[ids[-1]]
        if len(ids) == 1 or not space.isspace():
            return ids, decoding
        others = [i for i, label in enumerate(self._labels) if not label.startswith(space)]
        if len(others) == len(self._labels) - 1:
            return ids, decoding
        forbidden = (*decoding.suppressed_first, *others)
        return ids[:-1], replace(decoding, suppressed_first=forbidden)

    @cached_property
    def _labels(self) -> list[str]:
        """The text of each token."""
        labels = self.tokenizer.tokens(range(self.tokenizer.vocab_size))
        return [label.replace("\u2581", " ") for label in labels]

    def decoder(self, prompt: str) -> Callable[[list[int]], str]:
        """Return a decoder of outputs after a prompt; alone, they might lose the first space."""
        whole, (begun, _) = self.encode(prompt), self.begin(prompt)
        special = self.tokenizer.special_ids
        after = max((i + 1 for i, token in enumerate(whole) if token in special), default=0)
        known = len(self.tokenizer.decode(whole[after:]))
        return lambda ids: self.tokenizer.decode([*begun[after:], *ids])[known:]

    def _generation(
        self, prompt: str, output: Sequence[Token], seed: int, stop_strings: Sequence[str]
    ) -> Generation:
        ids = [token.id for token in output]
        whole = self.decoder(prompt)(ids)
        text = cut_text(whole, stop_strings)
        return Generation(
            prompt=prompt,
            text=text,
            tokens=self.tokenizer.tokens(ids),
            logprobs=[token.logprob for token in output],
            ended=ids[-1] in self.stops or text != whole,
            seed=seed,
        )

    def _special(self, role: str) -> int | None:
        try:
            return getattr(self.tokenizer, role)
        except VocabularyError:
            return None
