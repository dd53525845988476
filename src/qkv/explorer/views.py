"""What the explorer shows of each task: sequences, predictions, and the pass that computes them.

Shapes: R rows (copies of the input), S steps (predictions), V candidates, L tokens, D d_model.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.blocks.stack import Stack
from qkv.data.images import pillow_modules
from qkv.data.windows import make_windows
from qkv.errors import ConfigError, DataError
from qkv.explorer.tree import BeamTree
from qkv.generation.stepping import Stepper
from qkv.models.vit import grid, pair
from qkv.tasks.pipeline import check_strings, tells_texts_apart
from qkv.tasks.sources import read_source
from qkv.tasks.tagging import WORD

NEW_TOKENS = 24
LONG = 512  # positions beyond which heads are sent as thumbnails, and one by one on request
LAST = 128  # steps of a long text: the last ones
Told = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One prediction.

    Args:
        name: what is predicted; "" where the position says it.
        sequence: the sequence with the position.
        position: the token whose state makes the prediction.
        chosen: id of the candidate that was chosen.
    """

    name: str
    sequence: str
    position: int
    chosen: int


@dataclass(frozen=True, kw_only=True)
class View:
    """One input of a model, ready to be looked at.

    Args:
        kind: name of the task.
        inputs: the input, by role.
        output: the prediction as text.
        note: what a reader should know, such as that the input was truncated.
        sequences: tokens as (text, whether it is special): "source", and "target" of a decoder.
        steps: the predictions.
        candidates: what is chosen among.
        name: text of a candidate.
        logits: computes the logits (R, S, V) in one pass over R copies of the input.
        read: maps states (L, D) of any layer of the last stack to logits (S, V); None if the head
            cannot be applied to them.
        image: the prepared image, and its grid of patches.
        beam: the tree of beam search.
    """

    kind: str
    inputs: dict[str, str]
    output: str
    note: str = ""
    sequences: dict[str, list[tuple[str, bool]]]
    steps: list[Step]
    candidates: Literal["classes", "positions", "tokens"]
    name: Callable[[int], str]
    logits: Callable[[int], Float[Tensor, "R S V"]]
    read: Callable[[Float[Tensor, "L D"]], Float[Tensor, "S V"]] | None = None
    image: dict[str, Any] | None = None
    beam: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def last_stack(model: nn.Module) -> tuple[str, Stack] | None:
    """Return the name and the module of the stack that is computed last; None if there is none."""
    stacks = [(name, one) for name, one in model.named_modules() if isinstance(one, Stack)]
    return stacks[-1] if stacks else None


def closing_norm(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the final norm of the last stack; the identity for post-norm blocks."""
    found = last_stack(model)
    norm = None if found is None else found[1].norm
    return norm if norm is not None else lambda x: x


def labeled(tokenizer: Any, ids: Sequence[int]) -> list[tuple[str, bool]]:
    """Return each token's text, and whether it is special."""
    texts = tokenizer.tokens(ids)
    return [(text, i in tokenizer.special_ids) for text, i in zip(texts, ids, strict=True)]


def view_classification(classifier: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a text, or a pair of texts, and its classes."""
    if not hasattr(classifier, "several"):
        raise ConfigError("a classifier with --labels; expected one that was trained")
    seconds = [inputs["second"]] if "second" in inputs else None
    encoded = classifier.encode([inputs["text"]], seconds)
    prediction = classifier.predict([inputs["text"]], seconds)[0]
    model, names, several = classifier.model, classifier.labels.names, classifier.several
    ids, device = encoded.ids[0], classifier.device
    parts = None if encoded.segments is None else encoded.segments[0]

    def decide(x: Float[Tensor, "R C"]) -> Float[Tensor, "R S V"]:
        return torch.stack((torch.zeros_like(x), x), -1) if several else x[:, None]

    def logits(rows: int) -> Tensor:
        tokens = torch.tensor([ids] * rows, device=device)
        segments = None if parts is None else torch.tensor([parts] * rows, device=device)
        return decide(model(tokens, segments=segments))

    norm, everything = closing_norm(model), torch.ones(1, len(ids), device=device).bool()
    chosen = [names.index(one) for one in prediction.label.split("|") if one in names]
    if several:
        steps = [Step(one, "source", 0, int(i in chosen)) for i, one in enumerate(names)]
    else:
        steps = [Step("class", "source", 0, chosen[0])]
    if getattr(model, "pool", "") == "last":
        steps = [replace(step, position=len(ids) - 1) for step in steps]
    return View(
        kind="classify",
        inputs=dict(inputs),
        output=prediction.label,
        note=encoded.note(0),
        sequences={"source": labeled(classifier.tokenizer, ids)},
        steps=steps,
        candidates="classes",
        name=["no", "yes"].__getitem__ if several else names.__getitem__,
        logits=logits,
        read=None
        if getattr(model, "end", None) is not None
        else lambda states: decide(model.score(norm(states)[None], everything))[0],
    )


def view_answer(answerer: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a question with the window of its passage that has the answer."""
    question, context = inputs["text"], inputs.get("context", "")
    if not context.strip():
        raise DataError("a question without a passage; expected --context TEXT")
    found = answerer.predict([question], context)[0]
    config, best = answerer.windows, found.n_best[0]
    windows = make_windows(
        answerer.tokenizer,
        [question],
        [context],
        max_length=config.max_length,
        stride=config.stride,
        sentences=config.sentences,
    )
    spans = [(one, one.positions(best.start, best.end)) for one in windows]
    window, span = next((x for x in spans if x[1] is not None), (windows[0], (0, 0)))
    span = (0, 0) if span is None else span
    model, device, length = answerer.model, answerer.device, len(window.ids)
    passage = torch.zeros(length, dtype=torch.bool, device=device)
    passage[window.first : window.first + len(window.spans)] = True
    passage[[0, *span]] = True  # the first token stands for "no answer"

    def decide(x: Float[Tensor, "R L 2"]) -> Float[Tensor, "R S V"]:
        return x.mT.masked_fill(~passage, -1e4)

    def logits(rows: int) -> Tensor:
        tokens = torch.tensor([window.ids] * rows, device=device)
        segments = torch.tensor([window.segments] * rows, device=device)
        return decide(model(tokens, segments=segments if tells_texts_apart(model) else None))

    norm, tokens = closing_norm(model), labeled(answerer.tokenizer, window.ids)
    return View(
        kind="answer",
        inputs=dict(inputs),
        output=found.answer or "(no answer in the passage)",
        note=f"shown is the part with the answer, of {len(windows)}" if len(windows) > 1 else "",
        sequences={"source": tokens},
        steps=[
            Step(what, "source", at, at) for what, at in zip(("start", "end"), span, strict=True)
        ],
        candidates="positions",
        name=lambda i: tokens[i][0],
        logits=logits,
        read=lambda states: decide(model.score(norm(states)[None]))[0],
    )


def view_tags(tagger: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a text and the tag of each word."""
    check_strings([inputs["text"]])
    words = [word[0] for word in WORD.finditer(inputs["text"])]
    ids, positions = tagger.encode(words)
    found = [(word, at) for word, at in zip(words, positions, strict=True) if at is not None]
    places = [at for _, at in found]
    model, names, device = tagger.model, tagger.labels.names, tagger.device

    def logits(rows: int) -> Tensor:
        return model(torch.tensor([ids] * rows, device=device))[:, places]

    with torch.inference_mode():
        best = logits(1)[0].argmax(-1).tolist()
    norm, entities = closing_norm(model), tagger.predict([inputs["text"]])[0].entities
    return View(
        kind="tag",
        inputs=dict(inputs),
        output=", ".join(f"{one.text} ({one.label})" for one in entities) or "(none)",
        sequences={"source": labeled(tagger.tokenizer, ids)},
        steps=[Step(w, "source", at, tag) for (w, at), tag in zip(found, best, strict=True)],
        candidates="classes",
        name=names.__getitem__,
        logits=logits,
        read=lambda states: model.score(norm(states)[None])[0, places],
    )


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


def view_generation(generator: Any, inputs: Mapping[str, str], told: Told) -> View:
    """View a prompt, without the prefix of `qkv generate`, and its most probable continuation."""
    check_strings([inputs["text"]], "prompt")
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


def view_image(recognizer: Any, inputs: Mapping[str, Any], told: Told) -> View:
    """View an image, as the model gets it, and its classes."""
    image = inputs.get("picture", inputs["text"])  # an open image, or the path of a file
    model, names = recognizer.model, recognizer.labels.names
    pixels = recognizer.preprocessor([image]).to(recognizer.device)
    prediction = recognizer.predict([image])[0]
    vit = model.encoder
    places = grid(pixels.shape[2:], pair(vit.config.patch_size))
    before = ["[class]"] * (vit.class_token is not None)
    before += ["[distillation]"] * (vit.distillation_token is not None)
    patches = [f"row {y + 1}, column {x + 1}" for y in range(places[0]) for x in range(places[1])]
    norm = closing_norm(model)
    return View(
        kind="recognize",
        inputs={"text": Path(str(inputs["text"])).name},
        output=prediction.label,
        sequences={"source": [(one, True) for one in before] + [(one, False) for one in patches]},
        steps=[Step("class", "source", 0, names.index(prediction.label))],
        candidates="classes",
        name=names.__getitem__,
        logits=lambda rows: model(pixels.expand(rows, -1, -1, -1))[:, None],
        read=lambda states: model.score(norm(states)[None])[:1],
        image={
            "png": _png(pixels[0], recognizer.preprocessor.config),
            "grid": list(places),
            "prefix": len(before),
        },
    )


def _png(pixels: Float[Tensor, "C H W"], config: Any) -> str:
    """Return a prepared image, with the normalization undone, as a PNG in base64."""
    mean, std = ((torch.tensor(one or (d,)).view(-1, 1, 1)) for one, d in _scales(config))
    scaled = (pixels.cpu() * std + mean) / (config.rescale_factor or 1)
    levels = scaled.round().clamp(0, 255).byte().permute(1, 2, 0)
    array = levels[..., 0].numpy() if levels.shape[2] == 1 else levels.numpy()
    file = io.BytesIO()
    pillow_modules().Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _scales(config: Any) -> tuple[tuple[Any, float], tuple[Any, float]]:
    return (config.mean, 0.0), (config.std, 1.0)


VIEWS: dict[str, Callable[[Any, Mapping[str, Any], Told], View]] = {
    "classify": view_classification,
    "answer": view_answer,
    "tag": view_tags,
    "translate": view_translation,
    "dates": view_translation,
    "generate": view_generation,
    "chat": view_generation,
    "recognize": view_image,
}
