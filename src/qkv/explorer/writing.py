"""Views of models that write: translators, summarizers and language models.

Shapes: S steps (predictions), V candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qkv.errors import ConfigError
from qkv.explorer.tree import BeamTree
from qkv.explorer.view import (
    LAST,
    LONG,
    NEW_TOKENS,
    Step,
    Told,
    View,
    closing_norm,
    labeled,
    last_stack,
)
from qkv.generation.stepping import Stepper
from qkv.tasks.pipeline import check_strings
from qkv.tasks.sources import read_source


def view_translation(translator: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a text with its translation, and the search for it."""
    text = inputs["text"]
    check_strings([text])
    source = read_source(text, translator.tokenizer, translator.limit, translator.copying)
    part, model, device = source.parts[0], translator.model, translator.device
    target, tree = translator.target, BeamTree(translator.beam.size)
    decoder = replace(translator.decoder, observe=tree)
    [answers] = decoder(model, [part.tokens], rows=1)
    best = answers[0]
    output = [*best.tokens, *([] if best.ended else [decoder.stops[0]])]

    def restored(tokens: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
        copy = translator.copying
        return [
            (text if copy is None else copy.restore(text, part.values, translated=False), special)
            for text, special in tokens
        ]

    def name(i: int) -> str:
        return restored(labeled(target, [i]))[0][0]

    def logits(rows: int) -> Tensor:
        sources = torch.tensor([part.tokens] * rows, device=device)
        targets = torch.tensor([[decoder.start, *output[:-1]]] * rows, device=device)
        return model(sources, targets)

    written, norm = target.decode(best.text), closing_norm(model)
    copy, stacked = translator.copying, last_stack(model) is not None
    more = f"shown is the first of {len(source.parts)} parts" if len(source.parts) > 1 else ""
    return View(
        kind="translate",
        inputs=dict(inputs),
        output=written if copy is None else copy.restore(written, part.values),
        note="; ".join(filter(None, (source.note, more))),
        sequences={
            "source": restored(labeled(translator.tokenizer, part.tokens)),
            "target": restored(labeled(target, [decoder.start, *output[:-1]])),
        },
        steps=[Step("", "target", i, token) for i, token in enumerate(output)],
        candidates="tokens",
        name=name,
        logits=logits,
        read=(lambda states: model.head(norm(states))) if stacked else None,
        beam=tree.describe(answers, decoder.beam, name) if tree.nodes else None,
        extra={"answer": best},
    )


def view_summary(summarizer: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a text with its summary, and the search for it."""
    if summarizer.method != "model":
        raise ConfigError(
            f"a summarizer by the method {summarizer.method}; expected one that was trained"
        )
    check_strings([inputs["text"]])
    encoded, tokenizer = summarizer.encode([inputs["text"]]), summarizer.tokenizer
    model, device, source = summarizer.model, summarizer.device, encoded.ids[0]
    tree = BeamTree(summarizer.decoder.beam.size)
    decoder = replace(summarizer.decoder, observe=tree)
    [answers] = decoder(model, [source], rows=1)
    best, norm = answers[0], closing_norm(model)
    output = [*best.tokens, *([] if best.ended else [decoder.stops[0]])]

    def logits(rows: int) -> Tensor:
        sources = torch.tensor([source] * rows, device=device)
        targets = torch.tensor([[decoder.start, *output[:-1]]] * rows, device=device)
        return model(sources, targets)

    def name(i: int) -> str:
        return tokenizer.tokens([i])[0]

    return View(
        kind="summarize",
        inputs=dict(inputs),
        output=tokenizer.decode(best.text).strip(),
        note=encoded.note(0),
        sequences={
            "source": labeled(tokenizer, source),
            "target": labeled(tokenizer, [decoder.start, *output[:-1]]),
        },
        steps=[Step("", "target", i, token) for i, token in enumerate(output)],
        candidates="tokens",
        name=name,
        logits=logits,
        read=(lambda states: model.head(norm(states))) if hasattr(model, "head") else None,
        beam=tree.describe(answers, decoder.beam, name) if tree.nodes else None,
        extra={"answer": best},
    )


def view_generation(generator: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a prompt, without the prefix of `qkv generate`, and its most probable continuation."""
    check_strings([inputs["text"]], "prompt")
    generator = getattr(generator, "generator", generator)  # of one that chats
    model, device, tokenizer = generator.model, generator.device, generator.tokenizer
    prompt = generator.encode_plain(inputs["text"])[-(generator.context - 1) :]
    most = min(int(inputs.get("new_tokens", NEW_TOKENS)), generator.context - len(prompt))
    ids = torch.tensor([prompt], device=device)
    stepper = Stepper(
        model, ids[:, :-1], start=[prompt[-1:]], stop=generator.stops, max_length=most
    )
    written = list[int]()
    with torch.inference_mode():
        while stepper.unfinished:
            token = stepper.logits().argmax(-1)
            stepper.append(token)
            written.append(int(token))
            told(tokenizer.tokens(written[-1:])[0])
    row, norm = [*prompt, *written], closing_norm(model)
    first = 0 if len(row) <= LONG else max(0, len(row) - 1 - LAST)

    def logits(rows: int) -> Tensor:
        hidden = model.hidden(torch.tensor([row] * rows, device=device))
        return model.head(hidden[:, first:-1])

    return View(
        kind="generate",
        inputs=dict(inputs),
        output=tokenizer.decode(written),
        sequences={"source": labeled(tokenizer, row)},
        steps=[Step("", "source", i, row[i + 1]) for i in range(first, len(row) - 1)],
        candidates="tokens",
        name=lambda i: tokenizer.tokens([i])[0],
        logits=logits,
        read=lambda states: model.head(norm(states[first:-1])),
        extra={"prompt": max(0, len(prompt) - first)},
    )
