"""GGUF files that qkv writes, run by llama.cpp: the same greedy tokens as qkv on 20 prompts?

Each model is saved as a folder, converted to a GGUF file of each type, and continued from the same
token ids by qkv and by llama.cpp, both reading that file. qkv computes in float32. llama.cpp
rounds what it multiplies with a matrix to the matrix's type, or to 8 bits for quantized ones. So
tokens part where two are almost equally probable: the table says how many continuations agree to
the end, and how far apart the two tokens' probabilities are, under qkv, where others part. To see
how much the rounding explains, qkv also rounds in that way, and reads llama.cpp's tokens: each
should be the most probable one, or nearly so.

A quantized file is also expanded to float32 and compared once more: there llama.cpp has nothing to
round, so the tokens must be equal if both read the same weights.

    python benchmarks/gguf_files.py --python PYTHON    PYTHON has llama-cpp-python

Rows that are there already are kept; delete results/gguf_files.json to measure them again.
"""

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from _common import DOCS, RESULTS, arguments, load, machine, provenance, publish, save
from torch import nn

import qkv
from qkv.checkpoints.gguf import GGUFFile
from qkv.generation.greedy import greedy
from qkv.tasks.conversion import convert_model
from qkv.tutorial.tables import markdown_table, show_table
from qkv.zoo.catalog import SMOLLM2, ZOO

PATH, DOCUMENT = RESULTS / "gguf_files.json", DOCS / "families.md"
MODELS = (SMOLLM2, "generator")
TYPES = ("float32", "float16", "bfloat16", "q8_0", "q4_0", "q4_1")
QUANTIZED = ("q8_0", "q4_0", "q4_1")
PUBLISHED, EXPANDED = "as published", "{} expanded to float32"
NEW = 32  # tokens of a continuation
PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "Dear Sir or Madam,\n\nI am writing to",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "In the year 1969, the first",
    "Return the number of",
    "My favorite recipe begins with two onions and",
    "1, 2, 3, 4, 5,",
    "The old lighthouse keeper looked out at the sea and",
    "To install the program, first",
    "She opened the letter, read it twice, and then",
    "Photosynthesis is the process by which",
    "import numpy as np\n\n",
    "Question: Why is the sky blue?\nAnswer:",
    "Roses are red,\nviolets are blue,",
    "Die Hauptstadt von Deutschland ist",
    "The meeting is on Tuesday at 10:30, so please",
    "<|im_start|>user\nName three fruits.",
    "It was raining when the train finally",
)
# What the other interpreter runs: a file and rows of ids, to rows of ids. Keys and values are
# float32, as here; by default they are float16 there.
THEIRS = """
import json, sys
from itertools import islice
import llama_cpp
job = json.load(sys.stdin)
found = {"version": llama_cpp.__version__, "ids": [], "rows": []}
for path in job["paths"]:
    model = llama_cpp.Llama(
        path, n_ctx=job["context"], n_threads=job["threads"], n_threads_batch=job["threads"],
        type_k=0, type_v=0, flash_attn=False, verbose=False,
    )
    texts = [text.encode() for text in job["prompts"]]
    # "special" false: text is never parsed as a special token.
    found["ids"].append([model.tokenize(text, add_bos=True, special=False) for text in texts])
    greedy = dict(temp=0.0, top_k=1, repeat_penalty=1.0, reset=True)
    found["rows"].append(
        [list(islice(model.generate(row, **greedy), job["new"])) for row in job["rows"]]
    )
    model.close()
json.dump(found, sys.stdout)
"""


def files_of(name: str, folder: Path) -> dict[str, Path]:
    """Write the GGUF files of a model, by their types."""
    source = ZOO[name].locate()
    convert_model(source, folder / name)
    files = {PUBLISHED: source} if source.suffix == ".gguf" else {}
    for kind in TYPES:
        files[kind] = folder / f"{name}-{kind}.gguf"
        convert_model(folder / name, files[kind], dtype=kind)
    for kind in QUANTIZED:
        expanded = EXPANDED.format(kind)
        files[expanded] = folder / f"{name}-{kind}-expanded.gguf"
        convert_model(files[kind], files[expanded], dtype="float32")
    return files


def theirs(python: str, files: dict[str, Path], rows: list[list[int]]) -> dict[str, Any]:
    """Let llama.cpp continue the rows with each file."""
    job = {
        "paths": [str(path) for path in files.values()],
        "prompts": PROMPTS,
        "rows": rows,
        "new": NEW,
        "context": 96,  # the shortest context among the models
        "threads": torch.get_num_threads(),
    }
    run = subprocess.run(
        [python, "-c", THEIRS], input=json.dumps(job), capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"llama.cpp failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout)


def as_there(kind: str, x: torch.Tensor) -> torch.Tensor:
    """Round the input of a linear layer as llama.cpp does for a type of matrices."""
    if kind in ("F16", "BF16"):
        return x.to({"F16": torch.float16, "BF16": torch.bfloat16}[kind]).float()
    blocks = x.unflatten(-1, (-1, 32))  # Q8_0: 32 numbers of 8 bits, and their scale in float16
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    numbers = (blocks / scale.clamp_min(1e-30)).round()
    return (numbers * scale.half().float()).flatten(-2)


@torch.inference_mode()
def rounded(model: Any, path: Path, rows: list[list[int]], found: list[list[int]]) -> list[float]:
    """Return how much less probable llama.cpp's tokens are than the best, at most, row by row."""
    kinds = {one.kind.name for one in GGUFFile(path).entries.values() if len(one.shape) > 1}
    handles = [
        module.register_forward_pre_hook(lambda _, inputs, k=kind: (as_there(k, inputs[0]),))
        for kind in (kinds - {"F32"} if len(kinds) == 1 else {"Q8_0"})
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    worst = []
    for row, new in zip(rows, found, strict=True):
        p = model(torch.tensor([row + new[:-1]]))[0, len(row) - 1 :].double().softmax(-1)
        chosen = p.gather(-1, torch.tensor(new)[:, None])[:, 0]
        worst.append((p.amax(-1) - chosen).max().item())
    for handle in handles:
        handle.remove()
    return worst


@torch.inference_mode()
def ours(model: Any, row: list[int]) -> list[int]:
    """Continue a row, without an end."""
    source, last = torch.tensor([row[:-1]]), row[-1]
    return greedy(model, source, start=last, stop=-1, max_length=NEW)[0].tolist()


@torch.inference_mode()
def gap(model: Any, row: list[int], mine: list[int], other: list[int]) -> dict[str, Any] | None:
    """Describe where two continuations part: the place, and both tokens' probabilities here."""
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(mine, other, strict=True))))
    if same == NEW:
        return None
    logits = model(torch.tensor([row + mine[:same]]))[0, -1].double()
    p = logits.softmax(-1)
    return {
        "after": same,
        "ours": p[mine[same]].item(),
        "theirs": p[other[same]].item(),
        "difference": (p[mine[same]] - p[other[same]]).item(),
    }


def measure(name: str, python: str, folder: Path, known: set[str]) -> list[dict[str, Any]]:
    """Compare the continuations of one model in each type that is not known."""
    files = {kind: path for kind, path in files_of(name, folder).items() if kind not in known}
    tokenizer = qkv.load(folder / name).tokenizer
    assert tokenizer is not None
    rows = [tokenizer.add_special_tokens(tokenizer.encode(text)).ids for text in PROMPTS]
    found = theirs(python, files, rows)
    results = []
    for i, (kind, path) in enumerate(files.items()):
        model = qkv.load(path, dtype=torch.float32).model
        pairs = [(ours(model, row), found["rows"][i][j]) for j, row in enumerate(rows)]
        gaps = [gap(model, row, *pair) for row, pair in zip(rows, pairs, strict=True)]
        results.append(
            {
                "model": name,
                "type": kind,
                "file, bytes": path.stat().st_size,
                "same prompt ids": sum(a == b for a, b in zip(rows, found["ids"][i], strict=True)),
                "agree": gaps.count(None),
                "prompts": len(PROMPTS),
                "behind, rounded as there": rounded(model, path, rows, found["rows"][i]),
                "partings": [{"prompt": p, **g} for p, g in zip(PROMPTS, gaps, strict=True) if g],
                "llama_cpp": found["version"],
            }
        )
        print(f"{name}, {kind}: {gaps.count(None)} of {len(PROMPTS)}", file=sys.stderr, flush=True)
    return results


def report(result: dict[str, Any]) -> None:
    rows = []
    for one in result["results"]:
        gaps = [parting["difference"] for parting in one["partings"]]
        near = one["behind, rounded as there"]
        rows.append(
            {
                "model": one["model"],
                "type of the matrices": one["type"],
                "file": f"{one['file, bytes'] / 1e6:.1f} MB",
                "same ids of the prompt": f"{one['same prompt ids']} of {one['prompts']}",
                f"same {NEW} greedy tokens": f"{one['agree']} of {one['prompts']}",
                "largest gap": f"{max(gaps):.3f}" if gaps else "",
                "rounded as there": f"{near.count(0)} of {one['prompts']}",
                "largest gap, rounded": f"{max(near):.3f}" if any(near) else "",
            }
        )
    show_table("qkv and llama.cpp on the same GGUF file", rows)
    publish("gguf", f"{markdown_table(rows)}\n\n{provenance(PATH, result)}", DOCUMENT)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--python", help="an interpreter with llama-cpp-python; default: this one")
    options = parser.parse_args()
    if not options.publish_only:
        if options.python is None and find_spec("llama_cpp") is None:
            raise SystemExit(
                "llama-cpp-python is not installed here; expected it (pip install 'qkv[bench]'), "
                "or --python with an interpreter that has it"
            )
        torch.set_num_threads(options.threads)
        results = load(PATH)["results"] if PATH.is_file() else []
        with tempfile.TemporaryDirectory() as folder:
            for name in MODELS:
                known = {one["type"] for one in results if one["model"] == name}
                results += measure(name, options.python or sys.executable, Path(folder), known)
        described = machine("gguf")
        described["versions"]["llama-cpp-python"] = results[0]["llama_cpp"]
        described["command"] = "python benchmarks/gguf_files.py"
        save(PATH, {"results": results, "machine": described})
    report(load(PATH))


if __name__ == "__main__":
    main()
