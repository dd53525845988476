"""Speculative decoding of SmolLM2: is look-up in the prompt, or a draft model, faster?

Real prompts, greedy, the same tokens with and without drafts. A draft model would have to be much
smaller than 135 million parameters, and none with its vocabulary is at hand; so the model drafts
for itself with int4 weights and is verified in float32 (self-speculation), beside look-up.
"""

import statistics
import time
from typing import Any

import torch
from _common import RESULTS, arguments, load, machine, provenance, publish, save
from rich.progress import track

import qkv
from qkv.generation.drafts import ModelDraft, PromptLookup
from qkv.generation.greedy import greedy
from qkv.generation.speculative import speculative
from qkv.tutorial.tables import markdown_table, show_table

PATH = RESULTS / "speculative.json"
LENGTH = 64
PROMPTS = {
    "repeats its prompt": "Correct the spelling: The libary opens at nine, and the libary closes "
    "at five on weekdays. The corrected text: The library opens at nine, and the",
    "continues a list": "Monday: bread, milk. Tuesday: bread, eggs. Wednesday: bread, milk. "
    "Thursday: bread, eggs. Friday:",
    "tells a story": "Once upon a time, in a village between two mountains, there lived",
    "explains": "Photosynthesis is the process by which plants",
}


def settings(loaded: Any) -> dict[str, Any]:
    """Return what is measured: the model, and the draft or None."""
    models = {dtype: qkv.optimize(loaded.model, dtype) for dtype in ("float32", "int8", "int4")}
    ways = {dtype: (models[dtype], None) for dtype in ("float32", "int8")}
    for n in (3, 6):
        for dtype in ("float32", "int8"):
            ways[f"{dtype}, look-up of {n}"] = (models[dtype], (PromptLookup(), n))
    ways["float32, drafts of 4 by int4"] = (models["float32"], (ModelDraft(models["int4"]), 4))
    return ways


def answer(model: Any, draft: Any, ids: torch.Tensor) -> list[int]:
    options: dict[str, Any] = {"start": ids[:, -1], "stop": -1, "max_length": LENGTH}
    if draft is None:
        return greedy(model, ids[:, :-1], **options)[0].tolist()
    from qkv.generation.processors import temperature

    drafter, n = draft
    options |= {"draft": drafter, "n_drafted": n, "seeds": [0], "processors": [temperature(0)]}
    options["start"] = ids.tolist()  # so that look-up reads the prompt
    return speculative(model, ids[:, :0], **options)[0].tokens


def measure(rounds: int) -> dict[str, Any]:
    loaded = qkv.load("smollm2", dtype=torch.float32)
    ways, seconds, same = settings(loaded), dict[str, Any](), dict[str, Any]()
    for name, prompt in PROMPTS.items():
        ids = torch.tensor([loaded.tokenizer.encode(prompt)])
        seconds[name] = {way: [] for way in ways}
        for number in track(range(rounds + 1), name, transient=True):
            answers = {}
            for way, (model, draft) in ways.items():
                begun = time.perf_counter()
                answers[way] = answer(model, draft, ids)
                if number:
                    seconds[name][way].append(time.perf_counter() - begun)
        same[name] = {way: one == answers[way.split(",")[0]] for way, one in answers.items()}
    return {"seconds": seconds, "same": same, "machine": machine()}


def report(result: dict[str, Any]) -> None:
    rows = []
    for way in next(iter(result["seconds"].values())):
        base, row = way.split(",")[0], {"model and draft": way}
        for name, times in result["seconds"].items():
            ratio = statistics.median(b / a for a, b in zip(times[way], times[base], strict=True))
            speed = LENGTH / statistics.median(times[way])
            equal = "" if result["same"][name][way] else ", other tokens"
            row[name] = f"{speed:.0f} tokens/s ({ratio:.2f}x{equal})"
        rows.append(row)
    show_table("SmolLM2 with drafts, compared with the same weights without", rows)
    publish("speculative", f"{markdown_table(rows)}\n\n{provenance(PATH, result)}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        with torch.inference_mode():
            save(PATH, measure(options.rounds))
    report(load(PATH))


if __name__ == "__main__":
    main()
