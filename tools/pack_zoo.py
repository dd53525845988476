"""Make a trained model small enough to ship: 16 bits, or its update alone, for src/qkv/zoo.

    python tools/pack_zoo.py out/tatoeba translator-en-de
    python tools/pack_zoo.py out/sentiment sentiment --base all-MiniLM-L6-v2

With --base only what was trained is kept, an adapter of LoRA or a decoder, on this base of the zoo.
The model card, README.md, is written by hand and stays.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from qkv.checkpoints.adapters import CONFIG as ADAPTER
from qkv.checkpoints.adapters import WEIGHTS as UPDATE
from qkv.checkpoints.reader import CONFIG
from qkv.checkpoints.writer import METADATA
from qkv.tasks.frozen_encoder import BASE, DECODER_FILE
from qkv.tasks.pretrained import load, save

ZOO = Path(__file__).parents[1] / "src" / "qkv" / "zoo" / "models"
CARD, RESULTS = "README.md", "results.json"


def pack_whole(source: Path, folder: Path) -> None:
    """Write the model in 16 bits, with its tokenizer and its scores."""
    save(load(source, dtype=torch.float16), folder)


def pack_adapter(source: Path, folder: Path, base: str) -> None:
    """Write the adapter in 16 bits, and the config of the model that it makes of the base."""
    kept = trained(source) / "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((kept / ADAPTER).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    (folder / ADAPTER).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    small = {name: tensor.half() for name, tensor in load_file(kept / UPDATE).items()}
    save_file(small, folder / UPDATE, METADATA)
    shutil.copymode(folder / ADAPTER, folder / UPDATE)  # the library's are private (0600)
    shutil.copy(source / CONFIG, folder)


def pack_decoder(source: Path, folder: Path, base: str) -> None:
    """Copy the decoder, which is in 16 bits already, and the config, which names the base."""
    kept = trained(source) / "decoder"
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((kept / CONFIG).read_text(encoding="utf-8")) | {BASE: base}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / DECODER_FILE).write_bytes((kept / DECODER_FILE).read_bytes())


def trained(source: Path) -> Path:
    """Where the run keeps what is not the whole model."""
    return source.with_name(f"{source.name}.training")


def main() -> None:
    """Pack one model, and say how large it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="a folder that qkv train made")
    parser.add_argument("name", help="in the zoo")
    parser.add_argument("--base", help="keep only what was trained on this model of the zoo")
    arguments = parser.parse_args()
    source, folder = arguments.source, ZOO / arguments.name
    card = (folder / CARD).read_bytes() if (folder / CARD).is_file() else None
    shutil.rmtree(folder, ignore_errors=True)
    if arguments.base and (trained(source) / "decoder").is_dir():
        pack_decoder(source, folder, arguments.base)
    elif arguments.base:
        pack_adapter(source, folder, arguments.base)
    else:
        pack_whole(source, folder)
    (folder / CARD).unlink(missing_ok=True)
    if card is not None:
        (folder / CARD).write_bytes(card)
    results = json.loads((source / RESULTS).read_text(encoding="utf-8"))
    (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print(f"{folder}: {sum(sizes.values()) / 1e6:.2f} MB, {sizes}")


if __name__ == "__main__":
    main()
