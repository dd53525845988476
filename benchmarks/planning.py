"""What `qkv plan` expects of a training's memory, against what the training takes.

Each case trains in a fresh process for a few steps on a recipe's batches, the largest of which
comes first and last. The peak of the resident memory is counted from before the model is copied,
after a tiny model was trained: once as glibc manages memory, which keeps freed blocks of up to 32
MB for later, and once with blocks over 256 KB given back to the system at once.
"""

import copy
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from _common import DOCS, RESULTS, arguments, load, machine, provenance, publish, save
from rank_memory import forget_peak, learn, memory

from qkv.tasks.classification import ClassificationRecipe
from qkv.tasks.generation import DecoderSizes, GenerationRecipe
from qkv.tasks.means import DAY, Means
from qkv.tasks.plan import largest_batch, make_plan
from qkv.tasks.splits import DataConfig
from qkv.tasks.task import find_task
from qkv.tasks.train import Recipe
from qkv.tasks.translation import TranslationRecipe
from qkv.tasks.translator_sizes import TranslatorSizes
from qkv.training.loop import train
from qkv.training.settings import Training
from qkv.training.stopping import KeepBest
from qkv.tutorial.tables import markdown_table, show_table

DOCUMENT, PATH = DOCS / "scale.md", RESULTS / "planning.json"
STEPS = 8
ALLOCATORS = {"default": {}, "returned": {"MALLOC_MMAP_THRESHOLD_": str(1 << 18)}}
NOWHERE = Path("out/planning")  # nothing is written there

DECODER = GenerationRecipe(
    output=NOWHERE,
    model=DecoderSizes(d_model=512, n_heads=8, d_ff=1376, n_layers=8),
    training=Training(steps=STEPS, batch_size=8, evaluate_every=4),
)
CLASSIFIER = ClassificationRecipe(
    output=NOWHERE, training=Training(steps=STEPS, batch_size=32, evaluate_every=4)
)
TRANSLATOR = TranslationRecipe(
    output=NOWHERE,
    data=DataConfig(train=("multi30k",), columns={"source": "en", "target": "de"}),
    vocab_size=6000,
    model=TranslatorSizes(
        d_model=384, n_heads=6, d_ff=1536, n_encoder_layers=4, n_decoder_layers=4
    ),
    training=Training(steps=STEPS, max_tokens=2000, ema=0.999, smoothing=0.1, evaluate_every=4),
)
CASES: dict[str, tuple[str, Recipe[Any]]] = {
    "decoder": ("generate", DECODER),
    "classifier from MiniLM": ("classify", CLASSIFIER),
    "translator": ("translate", TRANSLATOR),
}


def work(name: str, file: Path) -> None:
    """Train one case; write its peak, and the seconds of a step."""
    learn("none", vocab_size=61, d_model=8, d_ff=8, n_layers=1)  # imports what training needs
    task, recipe = CASES[name]
    splits = recipe.read(find_task(task))
    pipeline = recipe.build(splits)
    prepared = recipe.batches(pipeline, splits)
    largest = largest_batch(prepared)
    n_batches = STEPS * recipe.training.accumulate
    batches = [largest, *islice(prepared.batches, n_batches - 2), largest]
    # Weights in a mapped file are resident once they are read.
    _ = sum(float(one.detach().sum()) for one in pipeline.model.parameters())
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    forget_peak()
    before = memory("VmRSS")
    model = copy.deepcopy(pipeline.model)
    history = train(
        model,
        batches,
        recipe.loss,
        recipe.training,
        optimizer=(recipe.prepare(model, STEPS), recipe.optimizer(model))[1],
        evaluate=lambda _: {"score": 0.0},
        callbacks=[KeepBest("score", mode="max")],
        device="cpu",
    )
    measured = {"peak": memory("VmHWM") - before, "seconds": history.seconds / STEPS}
    file.write_text(json.dumps(measured))


def measure(name: str) -> dict[str, Any]:
    """Plan one case, and train it in a process of its own."""
    task, recipe = CASES[name]
    plan = make_plan(find_task(task), recipe, Means(gpus=1))
    [planned] = [one for key, one in plan.memory.items() if key == ("none", "float32")]
    measured = {}
    for allocator, variables in ALLOCATORS.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "measured.json"
            command = [sys.executable, __file__, "--work", name, str(file)]
            env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
            subprocess.run(command, check=True, env=env)
            measured[allocator] = load(file)
    return {
        "parameters": plan.model["parameters"],
        "parts": {key: value / 1e6 for key, value in asdict(planned).items()},
        "planned": planned.total / 1e6,
        "seconds_planned": DAY / plan.time["steps_per_day"],
        "measured": measured,
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--work", nargs=2, help="be the process of one case")
    parser.add_argument("--only", nargs="*", help="names of cases", default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.work:
        work(options.work[0], Path(options.work[1]))
        return
    if not options.publish_only:
        cases = {name: measure(name) for name in options.only}
        save(PATH, {"machine": machine("accelerate"), "cases": cases})
    report(load(PATH))


def report(result: dict[str, Any]) -> None:
    """Write the table of docs/scale.md."""
    columns = {"returned": "measured, memory returned", "default": "measured, by default"}
    table = [
        {
            "training": name,
            "parameters": f"{case['parameters']:,}",
            "planned": f"{case['planned']:.0f} MB",
        }
        | {
            what: f"{case['measured'][key]['peak']:.0f} MB "
            f"({case['planned'] / case['measured'][key]['peak']:.2f})"
            for key, what in columns.items()
        }
        for name, case in result["cases"].items()
    ]
    show_table("Peak of the memory", table)
    publish("planning", f"{markdown_table(table)}\n\n{provenance(PATH, result)}", DOCUMENT)


if __name__ == "__main__":
    main()
