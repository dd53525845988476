"""`qkv generate`: continue prompts with a causal language model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from qkv.errors import ConfigError
from qkv.generation.sampling import Sampling
from qkv.tasks.generation.generator import Generation, Generator
from qkv.tasks.inputs import Item, check_texts, pick_device, text_items
from qkv.tasks.options import (
    AllowDownload,
    Columns,
    Device,
    File,
    Json,
    Model,
    Output,
    name_columns,
)
from qkv.tasks.outputs import answer_all, remark
from qkv.tasks.streams import as_text, is_interactive

DEFAULT = "generator"  # of the zoo
TEMPERATURE = 0.8  # where neither the caller nor the model's files say it


def generate(
    *prompts: str,
    model: Model = DEFAULT,
    file: File = None,
    columns: Columns = None,
    output: Output = None,
    max_length: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    no_repeat_ngram: int | None = None,
    seed: int = 0,
    n: int = 1,
    stop: list[str] | None = None,
    lookup: bool = False,
    json: Json = False,
    device: Device = "auto",
    allow_download: AllowDownload = False,
) -> None:
    """Continue prompts from arguments, a file, or standard input.

    The continuation of a single prompt is printed as it is generated; several prompts get one line
    each. An empty prompt, '', starts a text from scratch. When the text outgrows the model's
    context, generation continues from its last half. Settings that are not given come from the
    model's generation_config.json.

    Args:
        prompts: the texts to continue, one per argument.
        max_length: maximum number of new tokens; 200 if the model's files do not say.
        temperature: values below 1 sharpen the distribution; 0 is greedy decoding; 0.8 if the
            model's files do not say.
        top_k: sample from the k most probable tokens.
        top_p: sample from the smallest set of most probable tokens with this total probability.
        min_p: sample from tokens at least this fraction as probable as the most probable one.
        repetition_penalty: values above 1 make tokens that already occur less probable.
        no_repeat_ngram: forbid repeating any n-gram of this length.
        seed: random seed; the second text for a prompt uses the next number, and so on.
        n: number of texts per prompt.
        stop: a string that ends a text and is not part of it; may be given several times.
        lookup: speculative decoding with drafts copied from the text so far, which may be faster;
            for a single prompt.
    """
    options: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram": no_repeat_ngram,
    }
    given = {name: value for name, value in options.items() if value is not None}
    Sampling(**given)  # wrong values are refused before a model is loaded
    if n < 1:
        raise ConfigError(f"n = {n}; expected at least 1 text for each prompt")
    items = _prompts(prompts, file, name_columns(columns, "text"))
    if lookup and (json or len(items) > 1):
        raise ConfigError(
            f"--lookup was given for {len(items)} prompts{' with --json' * json}; expected one "
            "prompt, whose text is shown as it is written"
        )
    generator = Generator.load(model, device=pick_device(device), allow_download=allow_download)
    limits = {
        "max_length": max_length,
        "sampling": chosen_sampling(generator, given),
        "stop_strings": stop,
    }
    if len(items) == 1 and not items[0].problem and not json and output is None:
        prompt = items[0].fields["text"]
        _note_length(generator, prompt)
        for i in range(n):
            print("\n---\n" * (i > 0), end="")
            show(prompt, generator.stream(prompt, seed=seed + i, lookup=lookup, **limits))
        return

    for item in items:
        _note_length(generator, item.fields.get("text", ""))

    def answer(asked: list[dict[str, str]]) -> list[Generation]:
        seeds = [int(one["seed"]) for one in asked]
        return generator([one["text"] for one in asked], seed=seeds, progress=True, **limits)

    answer_all(_repeated(items, n, seed), answer, line=_as_line, as_json=json, output=output)


def _note_length(generator: Generator, prompt: str) -> None:
    """Say that a prompt is too long to be read as a whole, if it is."""
    if len(prompt.encode()) >= generator.context:  # a token has a byte at least
        length = len(generator.encode(prompt))
        if length > generator.context:
            remark(
                prompt,
                f"{length:,} tokens, of which the model read the last {generator.context // 2:,}",
            )


def chosen_sampling(generator: Generator, given: dict[str, Any]) -> Sampling | None:
    """How tokens are drawn by these options, and for the rest as the model's files say; or None."""
    rules, usual = generator.decoding, generator.sampling
    if not given and (rules.draws is not None or rules.beam.size > 1):
        return None
    if rules.draws is None:
        usual = replace(usual, temperature=TEMPERATURE)
    return replace(usual, **given)


def show(prompt: str, pieces: Iterator[str]) -> None:
    """Print a prompt and what follows it, each piece at once."""
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _prompts(prompts: Sequence[str], file: Path | None, columns: Mapping[str, str]) -> list[Item]:
    """As for other commands, but an argument may be empty; on a terminal no prompt is an empty one.

    Raises:
        ConfigError: both arguments and a file, or an argument that looks like a name.
        DataError: the file cannot be read, or there is nothing on standard input.
    """
    if not prompts and file is None and is_interactive():
        prompts = [""]
    if prompts and file is None:
        check_texts(prompts)
        return [
            Item(where=f"argument {i}", fields={"text": as_text(prompt)})
            for i, prompt in enumerate(prompts, start=1)
        ]
    return text_items(prompts, file, columns, what="a prompt")


def _repeated(items: Sequence[Item], n: int, seed: int) -> list[Item]:
    """Each item n times, with a seed each; what is broken once."""
    return [
        Item(
            where=item.where,
            fields={} if item.problem else {**item.fields, "seed": str(seed + i)},
            problem=item.problem,
        )
        for item in items
        for i in range(1 if item.problem else n)
    ]


def _as_line(generation: Generation) -> str:
    """The whole text; it keeps to its line."""
    return " ".join(f"{generation.prompt}{generation.text}".split())
