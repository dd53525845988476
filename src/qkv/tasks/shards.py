"""Predictions for a large file, in parts made by many processes, each of which may be killed.

Part k of n contains the predictions for the k-th of n equal ranges of rows; its process reads no
other rows. The parts, in the order of their names, form the result. A part is written in blocks of
rows to a hidden folder; a killed run resumes after its last block. A complete part appears under
its final name, with a record of its settings, its inputs and its checksum.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qkv.checkpoints.adapters import CONFIG as ADAPTER
from qkv.checkpoints.reader import OWN_FILES
from qkv.errors import ConfigError, DataError
from qkv.files import checksum, replace_file, whole_folder, write_atomically
from qkv.json_fields import read_json
from qkv.tasks.console import progress_bar
from qkv.tasks.outputs import SUFFIXES, fields_of, more_fields, results_of
from qkv.tasks.pretrained import is_adapted, locate, locate_base
from qkv.tasks.streams import complain, quiet
from qkv.tasks.task import Task
from qkv.training import ranks
from qkv.zoo.catalog import Entry

if TYPE_CHECKING:
    from qkv.tasks.commands import Predict

BLOCK = 512  # rows that a killed run predicts again, at most
SHARD = re.compile(r"([1-9]\d{0,4})/([1-9]\d{0,4})")
# Options that say where predictions are made, or of what, which is recorded by its content.
ELSEWHERE = {
    *("model", "file", "columns", "output", "shard", "span", "json", "device", "allow_download"),
}


@dataclass(frozen=True)
class Part:
    """One of the parts of a result.

    Args:
        folder: folder of all parts.
        number: number of the part, from 1.
        count: number of parts.
    """

    folder: Path
    number: int
    count: int

    @property
    def name(self) -> str:
        """The name of the part, without a suffix."""
        return f"part-{self.number:05}-of-{self.count:05}"

    @property
    def path(self) -> Path:
        """The file of results, which exists once the part is complete."""
        return self.folder / f"{self.name}.jsonl"

    @property
    def record(self) -> Path:
        """The file that records the settings and inputs of the part."""
        return self.folder / f"{self.name}.json"

    @property
    def blocks(self) -> Path:
        """The folder with the blocks of an incomplete part."""
        return self.folder / f".{self.name}.blocks"

    def rows(self, n_rows: int) -> range:
        """Return the part's row numbers, out of `n_rows`."""
        before, until = (n_rows * k // self.count for k in (self.number - 1, self.number))
        return range(before, until)

    def read(self) -> dict[str, Any]:
        """Return the part's record; empty if there is none."""
        return read_json(self.record, missing_ok=True)

    @property
    def is_whole(self) -> bool:
        """Whether the results are complete and unchanged."""
        return self.path.exists() and checksum(self.path) == self.read().get("checksum")


def part_of(options: "Predict[Any]") -> Part | None:
    """Return the part set by --shard or torchrun; None if predictions are not divided.

    Raises:
        ConfigError: the shard is not K/N, or there is no file, or no folder for the parts.
    """
    output, file = options.output, options.file
    to_folder = output is not None and (output.is_dir() or not output.suffix)
    if options.shard is not None:
        match = SHARD.fullmatch(options.shard)
        number, count = map(int, match.groups()) if match else (1, 0)
        if number > count:
            raise ConfigError(f"--shard {options.shard}; expected K/N with K from 1 to N")
        divided = f"--shard {options.shard}"
    elif "RANK" in os.environ and (to_folder or ranks.n_ranks() > 1):
        number, count = ranks.rank() + 1, ranks.n_ranks()
        divided = f"{count} processes of torchrun"
    else:
        return None
    if output is None or file is None or (output.suffix in SUFFIXES and not output.is_dir()):
        given = {"file": file, "output": output}
        said = (f"--{name} {path}" if path else f"no --{name}" for name, path in given.items())
        raise ConfigError(
            f"{divided} with {' and '.join(said)}; expected a file of inputs and a folder for the "
            "parts of the result"
        )
    return Part(output, number, count)


def write_part(
    part: Part,
    options: "Predict[Any]",
    task: Task[Any, Any],
    inputs: Sequence[str],
    shipped: Entry | None,
) -> None:
    """Write a part of the predictions for a file, unless it is already complete.

    Args:
        part: the part.
        options: options of the command.
        task: task of the command.
        inputs: arguments in addition to the file, which are an error.
        shipped: the model's entry in the catalog if it is a shipped one.

    Raises:
        ConfigError: the options do not allow parts, or differ from those of earlier parts.
        DataError: the file cannot be read, or has changed.
    """
    if options.apart:
        raise ConfigError(
            "a part of the texts with --labels, where groups among all texts count; expected "
            "--independent beside it"
        )
    columns = options.columns_of(task)
    first = next(iter(options.items(inputs, columns)))
    made_of = _made_of(part, options, task, columns, first.files)
    _check_same(part.folder, made_of)
    if not part.is_whole:
        blocks = _write_blocks(part, options, task, columns, shipped, made_of)
        _join(part, blocks)
    shutil.rmtree(part.blocks, ignore_errors=True)
    record = part.read()
    errors = f", {record['errors']:,} of them errors" if record["errors"] else ""
    complain(f"{part.path} is whole: {record['results']:,} results{errors}")


def _write_blocks(
    part: Part,
    options: "Predict[Any]",
    task: Task[Any, Any],
    columns: Mapping[str, str],
    shipped: Entry | None,
    made_of: Mapping[str, Any],
) -> list[Path]:
    """Write the missing blocks of a part; return all of them."""
    rows = part.rows(options.count())
    files = [part.blocks / f"{start:012}.jsonl" for start in rows[::BLOCK]]
    done = next((i for i, file in enumerate(files) if not file.exists()), len(files))
    pipeline = options.load(task) if done < len(files) else None
    record = {"file": str(options.file), "model": options.model_of(task), "made_of": made_of}
    write_atomically(part.record, json.dumps(record, indent=1) + "\n")
    if pipeline is None:
        return files
    if done:
        complain(f"{part.path} goes on after {done * BLOCK:,} of {len(rows):,} rows")
    rows = rows[done * BLOCK :]
    items = iter(replace(options, span=(rows.start, rows.stop)).items((), columns))
    for file in progress_bar(files[done:], part.name, show=True):
        some, rows = list(islice(items, BLOCK)), rows[BLOCK:]
        if len(some) < BLOCK and rows:
            raise DataError(f"{options.file} has fewer rows than a moment ago; did it change?")
        with quiet():
            results = results_of(
                options.repeated(some), lambda fields: options.noted(pipeline, fields, shipped)
            )
        objects = (fields_of(one, more_fields(shipped)) for one in results)
        lines = (json.dumps(one, ensure_ascii=False) for one in objects)
        write_atomically(file, "".join(f"{line}\n" for line in lines))
    return files


def _join(part: Part, blocks: Iterable[Path]) -> None:
    """Write a part from its blocks, and then its record."""
    results = errors = 0
    with replace_file(part.path) as fresh, fresh.open("xb") as whole:
        for block in blocks:
            content = block.read_bytes()
            whole.write(content)
            results += content.count(b"\n")
            errors += sum(line.startswith(b'{"error": ') for line in content.splitlines())
    counted = {"results": results, "errors": errors, "checksum": checksum(part.path)}
    write_atomically(part.record, json.dumps(part.read() | counted, indent=1) + "\n")


def _made_of(
    part: Part,
    options: "Predict[Any]",
    task: Task[Any, Any],
    columns: Mapping[str, str],
    files: Iterable[Path],
) -> dict[str, Any]:
    """Return the settings and inputs that all parts must share, as JSON values."""
    model = options.model_of(task)
    return {
        "version of qkv": version("qkv"),
        "version of torch": torch.__version__,
        "command": task.name,
        "model": _model_checksum(model, options) if model else "",
        "input": " ".join(checksum(file) for file in files),
        **{f"column of {role}": column for role, column in columns.items()},
        **_settings(options),
        "number of parts": part.count,
        "block": BLOCK,
    }


def _settings(options: Any) -> dict[str, Any]:
    """Return the options that affect predictions; nested dataclasses are flattened."""
    found = dict[str, Any]()
    for name in (one.name for one in fields(options) if one.name not in ELSEWHERE):
        value = getattr(options, name)
        found |= _settings(value) if is_dataclass(value) else {f"option {name}": value}
    return json.loads(json.dumps(found, default=str))


def _model_checksum(name: str, options: "Predict[Any]") -> str:
    """Return a checksum of the files of a model, and of the base of an adapter."""
    path = whole_folder(locate(name))
    files = [path] if path.is_file() else sorted(path.iterdir())
    own = [one for one in files if one.name in OWN_FILES or one.suffix in (".safetensors", ".gguf")]
    sums = [f"{one.name} {checksum(one)}" for one in own]
    if path.is_dir() and is_adapted(path):
        base = read_json(path / ADAPTER).get("base_model_name_or_path") or ""
        folder = locate_base(base, path / ADAPTER, allow_download=options.allow_download)
        sums.append(_model_checksum(str(folder), options))
    return sha256("\n".join(sums).encode()).hexdigest()


def _records(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the records of the parts in a folder.

    Raises:
        DataError: a file with a record's name is not a record.
    """
    records = {path: read_json(path) for path in sorted(folder.glob("part-*-of-*.json"))}
    for path, record in records.items():
        if not isinstance(record, dict) or not isinstance(record.get("made_of"), dict):
            raise DataError(f"{path} is no record of a part; expected what --shard wrote")
    return records


def _check_same(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Check that all parts in a folder have the same settings and inputs.

    Raises:
        ConfigError: one has others.
    """
    for path, record in _records(folder).items():
        other = record["made_of"]
        for name in dict.fromkeys((*made_of, *other)):
            one, two = other.get(name), made_of.get(name)
            if one != two:
                raise ConfigError(
                    f"{path} has another {name}: {one!r}, not {two!r}; expected parts of the same "
                    f"file, made by the same model, options and versions (choose another folder, "
                    f"or remove {folder} to begin anew)"
                )


def merge(folder: Path, result: Path, /) -> None:
    """Join the parts that a command with --shard wrote, in the order of the rows.

    Args:
        folder: folder with all the parts.
        result: the .jsonl file to write; not one of the parts.

    Raises:
        ConfigError: the result is not a .jsonl file or is one of the parts, or the parts do not
            belong together.
        DataError: a part is missing or damaged; or, after the result is written, rows have no
            prediction.
    """
    if result.suffix != ".jsonl":
        raise ConfigError(f"the result {result} has the suffix {result.suffix!r}; expected .jsonl")
    records = _records(folder)
    if not records:
        what = "has no parts" if folder.is_dir() else "is no folder"
        raise DataError(f"{folder} {what}; expected a folder that --shard K/N wrote to")
    made_of = next(iter(records.values()))["made_of"]
    _check_same(folder, made_of)
    count = made_of["number of parts"]
    parts = [Part(folder, number, count) for number in range(1, count + 1)]
    if result.resolve() in {one.path.resolve() for one in parts}:
        raise ConfigError(f"the result {result} is a part itself; expected another file")
    if missing := [one for one in parts if not one.is_whole]:
        raise DataError(
            f"of {count} parts, {len(missing)} {'is' if len(missing) == 1 else 'are'} not whole: "
            f"{', '.join(one.path.name for one in missing[:9])}; expected all (run the command "
            f"that made the others with --shard {missing[0].number}/{count})"
        )
    with replace_file(result) as fresh, fresh.open("xb") as whole:
        for part in parts:
            with part.path.open("rb") as file:
                shutil.copyfileobj(file, whole)
    results, errors = (sum(part.read()[name] for part in parts) for name in ("results", "errors"))
    complain(f"{results:,} results written to {result}")
    if errors:
        raise DataError(
            f"{errors:,} of {results:,} rows have no prediction; {result} has the reason for each"
        )
