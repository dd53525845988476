"""Predictions for 200,000 rows in 8 shards, 5 of which are killed: every row once, in order.

Short texts, each with its number in it, are written into a parquet file, and a tiny model with
random weights into a folder. `qkv classify --shard K/8` runs in eight processes, some at a time.
Five get SIGKILL at random moments and are started again. At the end, `qkv merge` joins the parts,
and each line is compared with the text of its row. The peak memory of each process is read after a
quarter of its blocks and after the last.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow
import torch
from _common import DOCS, QKV, RESULTS, arguments, load, machine, provenance, publish, save
from pyarrow import parquet

from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkv.checkpoints.registry import family_of
from qkv.tasks.shards import BLOCK, Part
from qkv.tutorial.tables import markdown_table

PATH = RESULTS / "sharded_prediction.json"
CONFIG = {
    **{"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 64, "max_position_embeddings": 64, "type_vocab_size": 2},
    **{"hidden_act": "gelu", "layer_norm_eps": 1e-12, "id2label": {"0": "bad", "1": "good"}},
}
WORDS = (
    *("the", "film", "meal", "was", "never", "quite", "superb", "dull", "and", "we", "would"),
    *("come", "back", "for", "its", "slow", "lovely", "plot", "soup", "again", "but", "not"),
)


def texts(count: int) -> Iterator[str]:
    """Yield short texts that all differ."""
    choose = random.Random(0)
    for row in range(count):
        yield f"{row}: {' '.join(choose.choices(WORDS, k=choose.randint(3, 9)))}"


def write_model(folder: Path) -> None:
    """Write a tiny classifier with random weights: what it says is not what is measured."""
    special, digits = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "0123456789"
    vocabulary = [*special, ":", *digits, *(f"##{one}" for one in digits), *WORDS]
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 64}
    files = {
        "vocab.txt": "\n".join(vocabulary).encode() + b"\n",
        "tokenizer_config.json": json.dumps(settings).encode(),
    }
    raw = {**CONFIG, "vocab_size": len(vocabulary)}
    family = family_of("bert")
    shape = family.architecture("BertForSequenceClassification")
    torch.manual_seed(0)
    model = shape.build(family.read_config(raw, shape), 2)
    save_checkpoint(Checkpoint(model, raw), folder, files=files)


def write_rows(path: Path, count: int) -> None:
    """Write the texts into a parquet file, in several row groups."""
    schema = pyarrow.schema([("text", pyarrow.string())])
    rows = list(texts(count))
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, count, 10_000):
            part = pyarrow.table({"text": rows[start : start + 10_000]}, schema=schema)
            writer.write_table(part)


def run(part: Part, file: Path, n_blocks: int, kill_after: int | None) -> dict[str, Any]:
    """Make a part; or kill its process a moment after some blocks are written."""
    model = str(file.parent / "model")
    command = [*QKV, "classify", "--model", model, "--file", str(file), "--device", "cpu"]
    command += ["--output", str(part.folder), "--shard", f"{part.number}/{part.count}"]
    began, before = time.monotonic(), done_blocks(part)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    result: dict[str, Any] = {"shard": part.number, "blocks before": before}
    quarter = before + max(1, (n_blocks - before) // 4)
    while process.poll() is None:
        done, peak = done_blocks(part), peak_memory(process.pid)
        if peak:
            result["MiB at the end"] = peak
        if done >= quarter and "MiB at a quarter" not in result:
            result["MiB at a quarter"] = peak
        if kill_after is not None and done >= kill_after:
            time.sleep(random.uniform(0, 0.3))  # somewhere within a block
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not part.path.exists()
            result |= {"killed": process.returncode == -signal.SIGKILL, "blocks": done_blocks(part)}
        time.sleep(0.05)
    said = process.stderr.read() if process.stderr else ""
    result |= {"seconds": time.monotonic() - began, "status": process.returncode}
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(said)
    return result


def done_blocks(part: Part) -> int:
    """Return the number of blocks that are written."""
    return sum(not one.name.startswith(".") for one in part.blocks.glob("*.jsonl"))


def peak_memory(pid: int) -> float:
    """Return the most memory that a process has had so far, in MiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return round(int(peaks[0]) / 1024, 1) if peaks else 0.0


def measure(folder: Path, rows: int, shards: int, kills: int, at_once: int) -> dict[str, Any]:
    """Run all shards, some at a time; merge; compare."""
    file, output, joined = folder / "rows.parquet", folder / "out", folder / "joined.jsonl"
    write_model(folder / "model")
    write_rows(file, rows)
    parts = [Part(output, number, shards) for number in range(1, shards + 1)]
    victims = set(random.sample(range(shards), kills))

    def make(i: int) -> list[dict[str, Any]]:
        n_blocks = -(-len(parts[i].rows(rows)) // BLOCK)
        first = random.randint(1, n_blocks * 3 // 4) if i in victims else None
        runs = [run(parts[i], file, n_blocks, first)]
        if i in victims:
            runs.append(run(parts[i], file, n_blocks, None))
        print(json.dumps(runs), flush=True)
        return runs

    began = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        runs = [one for some in pool.map(make, range(shards)) for one in some]
    seconds = time.monotonic() - began
    began = time.monotonic()
    subprocess.run([*QKV, "merge", str(output), str(joined)], check=True)
    merging = time.monotonic() - began
    with joined.open(encoding="utf-8") as lines:
        for expected, line in zip(texts(rows), lines, strict=True):
            assert json.loads(line)["text"] == expected
    return {
        "rows": rows,
        "shards": shards,
        "at once": at_once,
        "killed": sum(one.get("killed", False) for one in runs),
        "seconds": seconds,
        "seconds of merging": merging,
        "runs": runs,
    }


def show(result: dict[str, Any]) -> None:
    """Publish a table of the runs."""
    rows = [
        {
            "shard": str(one["shard"]),
            "blocks before": str(one["blocks before"]),
            "ended": f"killed after {one['blocks']} blocks" if one.get("killed") else "whole",
            "peak after a quarter, MiB": f"{one['MiB at a quarter']:.0f}"
            if "MiB at a quarter" in one
            else "killed before",
            "peak at the end, MiB": f"{one['MiB at the end']:.0f}",
        }
        for one in result["runs"]
    ]
    said = (
        f"{result['rows']:,} rows in {result['shards']} shards, {result['at once']} at a time, in "
        f"{result['seconds'] / 60:.0f} minutes; {result['killed']} processes were killed. Every "
        f"row is in the result once, in order; merging took {result['seconds of merging']:.0f} "
        "seconds, most of them to start."
    )
    table = markdown_table(rows)
    publish(
        "sharded_prediction",
        "\n\n".join([said, table, provenance(PATH, result)]),
        DOCS / "scale.md",
    )


def main() -> None:
    """Measure, save, publish."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--only-show", action="store_true", help="keep and publish nothing")
    options = parser.parse_args()
    if options.publish_only:
        show(load(PATH))
        return
    random.seed(1)
    with TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rows, options.shards, options.kills, options.at_once)
    result = {"machine": machine("pyarrow"), **found}
    if options.only_show:
        json.dump(result, sys.stdout, indent=1)
    else:
        save(PATH, result)
        show(result)


if __name__ == "__main__":
    main()
