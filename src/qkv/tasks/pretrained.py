"""Load and save published models: the weights, the tokenizer or preprocessor, the config."""

import difflib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from qkv.checkpoints.adapters import CONFIG as ADAPTER
from qkv.checkpoints.adapters import load_adapter
from qkv.checkpoints.building import count_classes, named_architecture
from qkv.checkpoints.checkpoint import (
    SHARD_BYTES,
    Checkpoint,
    Origin,
    load_checkpoint,
    save_checkpoint,
)
from qkv.checkpoints.gguf import GGUFFile
from qkv.checkpoints.gguf_model import GENERATION, load_gguf
from qkv.checkpoints.gguf_model import read_config as gguf_config
from qkv.checkpoints.harmless import kinds_of, read_labels
from qkv.checkpoints.hub import HUB_ID, download
from qkv.checkpoints.reader import CONFIG, INDEX, WEIGHTS
from qkv.checkpoints.registry import family_of
from qkv.data.image_config import FILE_NAME as IMAGES_FILE
from qkv.data.images import ImageProcessor
from qkv.data.tokenizers import TOKENIZER_FILES, Tokenizer
from qkv.data.tokenizers.gguf import gguf_tokenizer_files
from qkv.errors import ConfigError, DataError, QKVError
from qkv.files import whole_folder
from qkv.inference.optimize import Choice, check_dtype, is_optimized, optimize
from qkv.json_fields import NULL, TEXT, check_kinds, quoted, read_json
from qkv.models.heads import MaskedLM, ModelWithHead, PreTraining
from qkv.models.lora import merge_lora
from qkv.tasks.beside import read_preprocessor, read_tokenizer, write_preprocessor
from qkv.tasks.packing import is_packed, load_packed, load_packed_gguf, save_packed
from qkv.zoo.catalog import ZOO, own_files

GGUF = ".gguf"


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer or preprocessor; `dataclasses.replace` changes one of them.

    Args:
        model: the model, in evaluation mode; its `config` uses our field names.
        tokenizer: None if the folder has none.
        preprocessor: preprocessor of images; None if the folder has none or the model reads text.
        config: the content of config.json; empty for a model that was never saved.
        origin: the files that the model was loaded from.
        read: the tokenizer that was read from those files.
        extra: further files to write beside the weights, by name.
    """

    model: Any  # an nn.Module
    tokenizer: Tokenizer | None = None
    preprocessor: ImageProcessor | None = None
    config: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = field(default=None, repr=False)
    read: Tokenizer | None = field(default=None, repr=False)
    extra: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def files(self) -> dict[str, bytes]:
        """The files beside config.json and the weights, by name."""
        return {**(self.origin.files if self.origin is not None else {}), **self.extra}

    def with_files(self, files: Mapping[str, bytes]) -> "Loaded":
        """Return the same model with other files, without the unused tensors of its weight file."""
        if self.origin is None:
            return self
        return replace(self, origin=replace(self.origin, files=files, kept={}))


def load(
    path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | Choice | None = None,
    device: torch.device | str | None = None,
    new: Iterable[str] | str = (),
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    allow_download: bool = False,
    ignore: Iterable[str] | str = (),
) -> Loaded:
    """Load a published model: a folder, a GGUF file, a shipped model, or an id of the Hub.

    If the folder has only a PEFT adapter, its base is loaded too, and the adapter is merged into
    it. A config.json beside the adapter describes the resulting model, such as its new head.

    Args:
        path: path or name, such as "models/bert", "model.gguf", "all-MiniLM-L6-v2" or
            "google-bert/bert-base-uncased".
        dtype: dtype of the parameters; None: as in the file, float32 if it is quantized. A name,
            such as "int8", returns an optimized model (see `optimize`); a GGUF file is packed
            tensor by tensor, without ever expanding the whole model.
        device: device of the parameters; on a CPU the weights stay mapped to the file.
        new: modules to initialize, such as "classifier".
        architecture: overrides that of config.json, such as "BertForSequenceClassification".
        labels: names of the classes; they override those of config.json.
        allow_download: whether to look on the Hub for a base that a file names; `path` itself is
            always looked up.
        ignore: unknown fields of config.json to ignore, if you know that they are harmless.

    Raises:
        ConfigError: if the model or an option is not implemented.
        DataError: if there is no such model, a file is broken, or files are inconsistent.
    """
    path = locate(path)
    if isinstance(dtype, str):
        check_dtype(dtype)
    options: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "new": new,
        "architecture": architecture,
        "labels": labels,
        "ignore": ignore,
    }
    if path.suffix == GGUF and path.is_file():
        loaded, name = _load_gguf(path, options), _shipped_as(path)
        return _with_settings(loaded, own_files(name)) if name else loaded
    if isinstance(dtype, str):
        options["dtype"] = torch.float32
    if is_adapted(path):
        options = {"dtype": options["dtype"], "device": device, "allow_download": allow_download}
        loaded = _load_adapted(path, **options)
    else:
        loaded = _load_folder(path, options)
    if not isinstance(dtype, str):
        return loaded
    try:
        return replace(loaded, model=optimize(loaded.model, dtype))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _load_folder(path: Path, options: Mapping[str, Any]) -> Loaded:
    folder = path.parent if path.is_file() else whole_folder(path)
    packed = is_packed(folder)
    checkpoint = load_packed(folder, **options) if packed else load_checkpoint(path, **options)
    tokenizer = read_tokenizer(folder, checkpoint)
    return Loaded(
        checkpoint.model,
        tokenizer,
        read_preprocessor(folder, checkpoint),
        config=checkpoint.config,
        origin=checkpoint.origin,
        read=tokenizer,
    )


def _shipped_as(file: Path) -> str:
    """Return the name of the shipped model at a path, which an adapter may name; "" if none is."""
    return next((n for n, one in ZOO.items() if one.path == file.name and one.locate() == file), "")


def _with_settings(loaded: Loaded, folder: Path) -> Loaded:
    """Add our settings for a shipped model, since a GGUF file has none."""
    settings = read_json(folder / GENERATION) | json.loads(loaded.files[GENERATION])
    files = {**loaded.files, GENERATION: json.dumps(settings, indent=2).encode()}
    return replace(loaded.with_files(files), config=loaded.config | read_json(folder / CONFIG))


def read_config(model: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the config.json of a model, also of one in a GGUF file; empty if there is none.

    Raises:
        ConfigError: the architecture of a GGUF file is not implemented.
        DataError: there is no such model, or the file is broken.
    """
    path = whole_folder(locate(model))
    if path.suffix == GGUF and path.is_file():
        return gguf_config(GGUFFile(path))
    return read_json(path / CONFIG) if (path / CONFIG).is_file() else {}


def _load_gguf(path: Path, options: Mapping[str, Any]) -> Loaded:
    """Load a GGUF file; its metadata becomes config.json and the files of a tokenizer."""
    load = load_packed_gguf if isinstance(options["dtype"], str) else load_gguf
    checkpoint, gguf = load(path, **options)
    try:
        files = gguf_tokenizer_files(gguf.metadata)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            tokenizer = read_tokenizer(Path(folder), checkpoint)
    except QKVError as error:
        raise type(error)(f"{path}: {error}") from error
    loaded = Loaded(
        checkpoint.model,
        tokenizer,
        config=checkpoint.config,
        origin=checkpoint.origin,
        read=tokenizer,
    )
    return loaded.with_files({**loaded.files, **files})


def is_adapted(folder: Path) -> bool:
    """Return whether a folder has an adapter of another model, and no weights of its own."""
    own = (folder / WEIGHTS, folder / INDEX)
    return (folder / ADAPTER).is_file() and not any(path.is_file() for path in own)


def _load_adapted(
    folder: Path,
    *,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    allow_download: bool,
) -> Loaded:
    """Load the base that adapter_config.json names, with the head of config.json, and merge.

    PEFT writes no config.json; without one the base keeps its own head.
    """
    adapter = read_json(folder / ADAPTER)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    check_kinds(adapter, {"base_model_name_or_path": TEXT | NULL}, where=str(folder / ADAPTER))
    check_kinds(config, kinds_of(config), where=str(folder / CONFIG))
    base, architecture = adapter.get("base_model_name_or_path"), named_architecture(config)
    if not base or not (architecture or not config):
        raise DataError(
            f"{folder} has only an adapter, and lacks base_model_name_or_path in {ADAPTER} or "
            f"architectures in {CONFIG}; expected both, to find the model that it updates"
        )
    base_folder = locate_base(base, folder / ADAPTER, allow_download=allow_download)
    if is_adapted(base_folder):
        raise DataError(
            f"{folder / ADAPTER} names the base {quoted(base)}, which has only an adapter (this "
            "one?); expected a model with weights of its own"
        )
    if is_packed(whole_folder(base_folder)):
        raise ConfigError(
            f"{folder / ADAPTER} names the base {quoted(base)}, which is optimized; an adapter "
            "needs the model that it was made of"
        )
    new_head = bool(config) and _differ_in_head(read_config(base_folder), config)
    loaded = load(
        base_folder,
        dtype=dtype,
        device=device,
        new=("classifier",) if new_head else (),  # its weights come with the adapter
        architecture=architecture,
        labels=read_labels(config),
        allow_download=allow_download,
    )
    if config:
        _check_adapted(config, loaded, folder)
    load_adapter(loaded.model, folder, model_type=config.get("model_type"))
    head = [p for name, p in loaded.model.named_parameters() if name.startswith("classifier.")]
    if new_head and not all(p.requires_grad for p in head):
        raise DataError(
            f"neither the base {base_folder} nor the adapter {folder} has the head of "
            f"{architecture}; "
            f"expected modules_to_save in {ADAPTER} to name it"
        )
    merge_lora(loaded.model)
    loaded.model.requires_grad_(True).eval()
    return replace(loaded, config=config or loaded.config)


def _differ_in_head(base: dict[str, Any], config: dict[str, Any]) -> bool:
    """Return whether a config.json has a head for classes or answers that its base lacks."""
    kind = family_of(config.get("model_type")).architecture(named_architecture(config)).model
    heads = [(named_architecture(raw), count_classes(raw)) for raw in (base, config)]
    return (
        issubclass(kind, ModelWithHead)
        and kind not in (MaskedLM, PreTraining)
        and heads[0] != heads[1]
    )


def _check_adapted(config: dict[str, Any], loaded: Loaded, folder: Path) -> None:
    """Check that the config.json beside an adapter describes the adapted base.

    Raises:
        ConfigError: if it describes another model.
    """
    try:
        family = family_of(config.get("model_type"))
        expected = family.read_config(config, family.architecture(named_architecture(config)))
    except QKVError as error:
        raise type(error)(f"{folder / CONFIG}: {error}") from error
    if expected != loaded.model.config:
        own = vars(loaded.model.config)
        differ = [name for name, value in vars(expected).items() if value != own.get(name)]
        raise ConfigError(
            f"{folder / CONFIG} contradicts the base of the adapter in {', '.join(differ)}; "
            "expected the config.json of the base, with another head"
        )


def save(loaded: Loaded, folder: str | os.PathLike[str], *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model atomically in the Hugging Face layout; what was loaded is written unchanged.

    An optimized model is written with its packed weights, which only `qkv.load` reads.

    Args:
        loaded: a loaded model, or `Loaded(model, tokenizer)` for one that was trained.
        folder: a new folder, or a checkpoint to replace.
        shard_bytes: maximum size of a file of new weights; larger ones are split.

    Raises:
        ConfigError: if no family of checkpoints can express the model.
    """
    checkpoint = Checkpoint(loaded.model, loaded.config, loaded.origin)
    write = save_packed if is_optimized(loaded.model) else save_checkpoint
    write(checkpoint, folder, files=other_files(loaded), shard_bytes=shard_bytes)


def other_files(loaded: Loaded) -> dict[str, bytes]:
    """Return the files to write beside config.json and the weights, such as the tokenizer's."""
    files = loaded.files
    if loaded.tokenizer is not loaded.read:
        files = {name: content for name, content in files.items() if name not in TOKENIZER_FILES}
        if loaded.tokenizer is not None:
            files |= loaded.tokenizer.files
    if loaded.preprocessor is not None:
        old = files.get(IMAGES_FILE)
        files[IMAGES_FILE] = write_preprocessor(loaded.preprocessor.config, loaded.config, old)
    return files


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the folder of a model: a path, a shipped model, or a Hub id, in this order.

    Only names that the user chose may be passed, because a Hub id is downloaded.

    Raises:
        DataError: if there is no such model.
        MissingDependencyError: if a package that it needs is not installed.
    """
    name = os.fspath(path)
    if (folder := _locate_offline(name)) is not None:
        return folder
    if HUB_ID.fullmatch(name):
        return download(name)
    near = difflib.get_close_matches(name, ZOO, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise DataError(
        f"{quoted(name)} is neither a folder, nor a shipped model ({', '.join(ZOO)}), nor an id of "
        f"the Hugging Face Hub (owner/name){meant}"
    )


def locate_base(name: str, file: Path, *, allow_download: bool) -> Path:
    """Return the folder of a base model that a file names, without a download unless allowed.

    Args:
        name: name of the base.
        file: the file that names it, for the error.
        allow_download: whether to look on the Hub.

    Raises:
        DataError: if there is no such model here, and a download is not allowed.
        MissingDependencyError: if a package that it needs is not installed.
    """
    folder = _locate_offline(name)
    if folder is None and allow_download:
        return locate(name)
    if folder is None:
        raise DataError(
            f"{file} names the base {quoted(name)}, which is neither a folder nor a shipped model "
            f"({', '.join(ZOO)}); it is looked up on the Hugging Face Hub only with "
            "--allow-download (allow_download=True)"
        )
    return folder


def _locate_offline(name: str) -> Path | None:
    try:
        if whole_folder(name).exists():
            return Path(name)
    except (OSError, ValueError):  # too long, or with invalid characters
        return None
    return ZOO[name].locate() if name in ZOO else None
