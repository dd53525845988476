"""The commands `qkv info`, `models`, `inspect` and `convert`."""

import importlib.metadata
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from qkv.blocks.embedding import TokenEmbedding
from qkv.checkpoints.gguf import Entry, GGUFFile
from qkv.checkpoints.overview import (
    FORMATS,
    list_architectures,
    list_families,
    list_fields,
    list_refused,
)
from qkv.checkpoints.registry import FAMILIES, family_of
from qkv.errors import ConfigError
from qkv.inference.optimize import made_of
from qkv.models.inspection import (
    Rows,
    describe_attention,
    describe_blocks,
    describe_memory,
    describe_parameters,
    name_positions,
    shared_parameters,
    size,
)
from qkv.tasks.console import show_table
from qkv.tasks.conversion import Format, convert_model, read_model
from qkv.tasks.options import AllowDownload, JsonTables
from qkv.tasks.outputs import dumps
from qkv.tasks.pretrained import GGUF, Loaded
from qkv.zoo.catalog import ZOO, list_zoo, read_card, zoo_table


def info(*, json: JsonTables = False) -> None:
    """Show the versions, the devices and the extras of this installation."""
    facts = {
        "qkv": importlib.metadata.version("qkv"),
        "Python": f"{platform.python_version()} on {platform.platform(terse=True)}",
        "torch": f"{torch.__version__}, {(n := torch.get_num_threads())} thread{'s' * (n > 1)}",
        "devices": ", ".join(_devices()),
    }
    for extra, missing in _extras().items():
        facts[f"extra {extra}"] = f"without {', '.join(missing)}" if missing else "installed"
    rows = [{"what": what, "value": value} for what, value in facts.items()]
    show_tables({"installed": rows}, json)


def models(
    name: str | None = None, /, *, family: str | None = None, json: JsonTables = False
) -> None:
    """List shipped models, families and file formats, or show one model's card.

    Args:
        name: a shipped model, such as sentiment: shows its card.
        family: a model_type, such as bert: shows what is implemented and what is rejected.
    """
    if name is not None and family is not None:
        raise ConfigError(f"both a model, {name}, and --family {family}; expected one of them")
    if name is not None:
        print(read_card(name))
    elif family is not None:
        described = family_of(family)
        tables = {
            "architectures of config.json": list_architectures(described),
            "fields of config.json": list_fields(described),
            "rejected unless": list_refused(described),
        }
        show_tables(tables, json)
    else:
        tables = {
            "shipped models (qkv models NAME shows a card)": list_zoo() if json else zoo_table(),
            "families": list_families(FAMILIES.values()),
            "formats that qkv convert reads as well": FORMATS,
        }
        show_tables(tables, json)


def inspect(
    model: str, /, *, json: JsonTables = False, allow_download: AllowDownload = False
) -> None:
    """Show a model's blocks, attention, parameters by part, and memory by dtype.

    Args:
        model: a checkpoint's folder, a shipped model, an id of the Hugging Face Hub, or a file of
            GGUF (.gguf), llama2.c (.bin) or CTranslate2 (model.bin).
    """
    tables = inspect_model(read_model(model, allow_download=allow_download))
    path = ZOO[model].locate() if model in ZOO else Path(model)
    if path.suffix == GGUF and path.is_file():
        tables = {f"tensors of {path.name}": describe_tensors(GGUFFile(path)), **tables}
    show_tables(tables, json)


def convert(
    source: str,
    target: Path,
    /,
    *,
    format: Format | None = None,
    dtype: Literal["float32", "float16", "bfloat16", "float64", "int8", "q8_0", "q4_0", "q4_1"]
    | None = None,
    json: JsonTables = False,
    allow_download: AllowDownload = False,
) -> None:
    """Write a model in the Hugging Face layout, or for an engine that runs it.

    The layout is a folder with config.json, model.safetensors and the tokenizer, which transformers
    and vLLM read. A GGUF file, for llama.cpp, contains a causal language model of the Llama,
    Mistral, Qwen2 or GPT-2 family. The other formats are folders and need pip install
    "qkv[export]": onnx has graphs for ONNX Runtime, and ctranslate2 a model.bin for CTranslate2.

    Args:
        source: a checkpoint's folder, a shipped model, an id of the Hugging Face Hub, or a file of
            GGUF (.gguf), llama2.c (.bin) or CTranslate2 (model.bin).
        target: a folder: new, empty, or a converted model to replace; or a file that ends in
            .gguf, new or a GGUF file to replace. Anything else is left as it is.
        format: gguf for llama.cpp, the default for a target that ends in .gguf; huggingface for
            transformers and vLLM, the default for a folder; onnx for ONNX Runtime; ctranslate2.
        dtype: type of the weights; default: that of the source, but float32 for onnx and
            ctranslate2. int8 is a quantization of ctranslate2, the last three are of GGUF.
    """
    found = convert_model(source, target, format=format, dtype=dtype, allow_download=allow_download)
    tables = {
        "read": describe_model(found.loaded),
        "written": [{"file": str(file), "size": size(file.stat().st_size)} for file in found.files],
        "not in this format": [{"what": what} for what in found.left_out],
    }
    show_tables({title: rows for title, rows in tables.items() if rows}, json)


def describe_tensors(file: GGUFFile) -> Rows:
    """Describe how the tensors of a GGUF file are stored: a row for each type."""
    found: dict[str, list[Entry]] = {}
    for one in file.entries.values():
        found.setdefault(one.kind.name, []).append(one)
    return [
        {
            "type": name,
            "tensors": f"{len(entries):,}",
            "numbers": f"{sum(math.prod(one.shape) for one in entries):,}",
            "size": size(sum(one.end - one.start for one in entries)),
        }
        for name, entries in found.items()
    ]


def inspect_model(loaded: Loaded) -> dict[str, Rows]:
    """Describe a model as tables by title; a table without rows is left out."""
    made = made_of(loaded.model)
    if made is not None:  # the packed layers' original ones
        loaded = replace(loaded, model=made.outline)
    model, stored = loaded.model, made and {"what": "stored as", "value": made.dtype}
    tables = {
        "model": [*describe_model(loaded), *([stored] if stored else [])],
        "blocks": describe_blocks(model),
        "attention": describe_attention(model),
        "parameters": describe_parameters(model),
        "memory": describe_memory(model),
    }
    return {title: rows for title, rows in tables.items() if rows}


def describe_model(loaded: Loaded) -> Rows:
    """Describe the model, its vocabulary, and its positions."""
    model, raw = loaded.model, loaded.config
    modules = dict(model.named_modules())
    facts = {"class": type(model).__name__}
    if raw:
        facts["config.json"] = ", ".join([raw["model_type"], *(raw.get("architectures") or [])])
    if hasattr(model, "n_classes"):
        facts["classes"] = str(model.n_classes)
    for name, module in modules.items():
        if isinstance(module, TokenEmbedding):
            facts[f"vocabulary, {name}"] = (
                f"{module.num_embeddings:,} tokens of {module.embedding_dim:,} numbers"
            )
    tokenizer = loaded.tokenizer
    facts["tokenizer"] = "none" if tokenizer is None else f"{tokenizer.vocab_size:,} tokens"
    positions = {name_positions(module) for module in modules.values()} - {""}
    positions |= {
        f"learned, {parameter.shape[1]:,}"
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == "positions"
    }
    facts["positions"] = "; ".join(sorted(positions)) or "none"
    if shared := shared_parameters(model):
        facts["shared"] = ", ".join(f"{second} is {first}" for second, first in shared.items())
    return [{"what": what, "value": value} for what, value in facts.items()]


def show_tables(tables: Mapping[str, Sequence[Mapping[str, str]]], json: bool) -> None:
    """Print tables with their titles, or all of them as one JSON object."""
    if json:
        print(dumps(tables))
        return
    for title, rows in tables.items():
        show_table(title, rows)


def _devices() -> Iterator[str]:
    yield "cpu"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index} ({torch.cuda.get_device_name(index)})"
    if torch.backends.mps.is_available():
        yield "mps"


def _extras() -> dict[str, list[str]]:
    """Map each extra of the package to those of its requirements that are not installed."""
    missing: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("qkv") or []:
        match = re.match(r"([\w.-]+).*extra == ['\"](\w+)['\"]", requirement)
        if match:
            package, extra = match.groups()
            missing.setdefault(extra, [])
            if not _installed(package):
                missing[extra].append(package)
    return missing


def _installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
