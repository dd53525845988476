"""Make a trained model small enough to ship: 16 or 8 bits, or its update alone, for src/qkv/zoo.

    python tools/pack_zoo.py out/tatoeba translator-en-de --int8 --reverse translator-de-en:0.5
    python tools/pack_zoo.py out/sentiment sentiment --base all-MiniLM-L6-v2
    python tools/pack_zoo.py out/answerer answerer --base all-MiniLM-L6-v2 --rank 24

With --base only what was trained is kept, an adapter of LoRA or a decoder, on this base of the zoo.
With --reverse a translator names the one of the opposite direction that helps it to choose.
With --rank the adapter is the difference from the base, of a model that was fine-tuned twice.
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
from qkv.checkpoints.adapters import save_adapter
from qkv.checkpoints.int8 import MARK, quantized
from qkv.checkpoints.reader import CONFIG, WEIGHTS
from qkv.checkpoints.writer import METADATA, write_weights
from qkv.models.lora import LoRAConfig, attach_lora, lora_layers
from qkv.tasks.finetuning import HEAD
from qkv.tasks.frozen_encoder import BASE, DECODER_FILE
from qkv.tasks.pipeline import TOKENIZER_SETTINGS
from qkv.tasks.pretrained import load, save
from qkv.tasks.reranking import Reverse, with_reverse

ZOO = Path(__file__).parents[1] / "src" / "qkv" / "zoo" / "models"
CARD, RESULTS = "README.md", "results.json"


def pack_whole(source: Path, folder: Path, *, int8: bool, reverse: str | None) -> None:
    """Write the model in 16 bits or in 8, with its tokenizer."""
    loaded = load(source, dtype=torch.float32 if int8 else torch.float16)
    if reverse is not None:
        name, _, weight = reverse.partition(":")
        loaded = with_reverse(loaded, Reverse(name, None, float(weight)))
    save(loaded, folder)
    if int8:
        stored = quantized(load_file(folder / WEIGHTS))
        write_weights(stored, folder / WEIGHTS, METADATA | MARK, like=folder / CONFIG)


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
    copy_config(source, folder)


def copy_config(source: Path, folder: Path) -> None:
    """Copy config.json, with the longest input, which the base's tokenizer does not know."""
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    tokenizer = json.loads((source / TOKENIZER_SETTINGS).read_text(encoding="utf-8"))
    recorded = config.get("task_specific_params", {}).get("qkv")
    if recorded is not None and "model_max_length" in tokenizer:
        recorded["max_length"] = tokenizer["model_max_length"]
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def pack_difference(source: Path, folder: Path, base: str, rank: int) -> None:
    """Write the difference from the base as an adapter, in 16 bits.

    That of two updates of ranks r and s has at most the rank r + s, and is then exact; of a
    higher rank it is the nearest one (Eckart and Young 1936).
    """
    made = load(source, dtype=torch.float32)
    config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    plain = load(base, architecture=config["architectures"][0], new=[HEAD], dtype=torch.float32)
    before, after = dict(plain.model.named_parameters()), dict(made.model.named_parameters())
    updates = {
        name.removesuffix(".weight"): (after[name] - before[name]).detach()
        for name in after
        if not name.startswith(HEAD) and not torch.equal(after[name], before[name])
    }
    attach_lora(plain.model, dict.fromkeys(updates, LoRAConfig(rank=rank, alpha=rank)), [HEAD])
    with torch.no_grad():
        for name, layer in lora_layers(plain.model).items():
            u, s, v = torch.linalg.svd(updates[name], full_matrices=False)
            share = s[rank:].norm() / s.norm()
            if share > 1e-3:
                print(f"{name}: rank {rank} leaves out {share:.1%} of the update's norm")
            layer.B.copy_(u[:, :rank] * s[:rank].sqrt())
            layer.A.copy_(s[:rank, None].sqrt() * v[:rank])
        for name, parameter in plain.model.named_parameters():
            if name.startswith(HEAD):
                parameter.copy_(after[name])
    save_adapter(plain.model, folder, model_type=config["model_type"], base_model=base)
    small = {name: tensor.half() for name, tensor in load_file(folder / UPDATE).items()}
    save_file(small, folder / UPDATE, METADATA)
    shutil.copymode(folder / ADAPTER, folder / UPDATE)  # the library's are private (0600)
    copy_config(source, folder)


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
    parser.add_argument("--rank", type=int, help="of an adapter that is the difference")
    parser.add_argument("--int8", action="store_true", help="8-bit integers, one scale per row")
    parser.add_argument("--reverse", help="MODEL:WEIGHT that helps a translator to choose")
    arguments = parser.parse_args()
    source, folder = arguments.source, ZOO / arguments.name
    card = (folder / CARD).read_bytes() if (folder / CARD).is_file() else None
    shutil.rmtree(folder, ignore_errors=True)
    if arguments.base and arguments.rank:
        pack_difference(source, folder, arguments.base, arguments.rank)
    elif arguments.base and (trained(source) / "decoder").is_dir():
        pack_decoder(source, folder, arguments.base)
    elif arguments.base:
        pack_adapter(source, folder, arguments.base)
    else:
        pack_whole(source, folder, int8=arguments.int8, reverse=arguments.reverse)
    (folder / CARD).unlink(missing_ok=True)
    if card is not None:
        (folder / CARD).write_bytes(card)
    results = json.loads((source / RESULTS).read_text(encoding="utf-8"))
    if base := results.get("recipe", {}).get("base"):
        results["recipe"]["base"] = Path(base).name  # not where it was on this machine
    (folder / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    print(f"{folder}: {sum(sizes.values()) / 1e6:.2f} MB, {sizes}")


if __name__ == "__main__":
    main()
