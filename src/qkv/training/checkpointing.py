"""Checkpoints of a training run: written atomically, verified, and resumed bit for bit.

A folder `step-00000100` has model.safetensors (the weights alone), training.safetensors (the
other tensors: optimizer, averages, random states), state.json (everything else, with the recipe and
the versions) and checksums.json. Sharded runs have one file of tensors per rank instead of the two.
Nothing is unpickled.
"""

import hashlib
import json
import platform
import re
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from qkv.errors import ConfigError, Interrupted, StorageError, TrainingError
from qkv.files import checksum, clear_unfinished, only_writer, remove_folder, replace_folder
from qkv.training import ranks
from qkv.training.packing import pack, unpack
from qkv.training.run import Callback, Run
from qkv.training.sharding import is_sharded
from qkv.training.shards import read_shards, write_shards

WEIGHTS, TENSORS, STATE, CHECKSUMS = (
    "model.safetensors",
    "training.safetensors",
    "state.json",
    "checksums.json",
)
NAME = re.compile(r"step-(\d{8,})")
DAMAGED = ".damaged"  # suffix of a checkpoint that was set aside
MISSING = object()
LISTEN_EVERY = 50  # steps between checks whether a signal told any rank to stop
# The numbers depend on these; a run resumes only under the same versions.
PACKAGES = ("qkv", "torch", "numpy", "accelerate")


class Checkpoints(Callback):
    """Save a run every `every` steps and on a signal, and resume from the last checkpoint.

    It must come last among the callbacks that have a state. SIGTERM and Ctrl-C end the run after
    the current step, with a checkpoint; a second signal ends it at once. Between `begin` and
    `close` no other process can train in the same folder.

    Args:
        folder: folder of the checkpoints.
        every: steps between checkpoints; the last step is always saved.
        keep: number of checkpoints to keep.
        recipe: the recipe of the run, JSON-serializable; compared when the run resumes.
        resumed: called with the step from which the run resumes, if it does.

    Raises:
        ConfigError: a number is below 1.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        keep: int = 2,
        recipe: Mapping[str, Any] | None = None,
        resumed: Callable[[int], object] = lambda step: None,
    ):
        if every < 1 or keep < 1:
            raise ConfigError(f"every = {every} and keep = {keep}; expected at least 1 of both")
        self.folder, self.every, self.keep = Path(folder), every, keep
        self.recipe = json.loads(json.dumps(recipe or {}))
        self.versions, self.git = versions(), git_revision()
        self.signal: int | None = None
        self.saved: int | None = None
        self.resumed = resumed
        self.handlers: dict[int, Any] = {}
        self.alone = ExitStack()

    def begin(self, run: Run) -> None:
        """Resume from the last intact checkpoint, if any; set damaged ones aside.

        Raises:
            ConfigError: the last intact checkpoint belongs to another run.
            StorageError: another process trains in this folder, or it is not writable.
        """
        if ranks.is_first():
            self.alone.enter_context(only_writer(self.folder))
            clear_unfinished(self.folder)
        ranks.wait()
        used, damaged = None, []
        for path in find_checkpoints(self.folder):
            if not _is_whole(path):
                damaged.append(path)
            elif used is None:
                self._resume(run, path)
                used = self.saved = run.step
        ranks.check_same("checkpoints: the last whole one is of step", used)
        if ranks.is_first():
            for path in damaged:
                _set_aside(path, used)
            if used is not None:
                self.resumed(used)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self.handlers[number] = signal.signal(number, self._stop)

    def after_step(self, run: Run) -> None:
        """Save if due; stop after a signal to any rank."""
        number = self._told(run)
        if run.step % self.every == 0 or run.step == run.steps or run.stop or number:
            self.save(run)
        if number and run.step < run.steps:
            raise Interrupted(
                f"stopped at step {run.step} of {run.steps} as requested, and saved in "
                f"{self.folder}; the same command again continues from there",
                signal=number,
            )

    def _told(self, run: Run) -> int:
        """Return the number of a signal that any rank has received, or 0."""
        own = self.signal or 0
        if ranks.n_ranks() == 1:
            return own
        if run.device.type != "cpu" and run.step % LISTEN_EVERY:
            return 0  # asking would make the accelerator wait
        return ranks.highest(own, run.device)

    def close(self) -> None:
        """Release the folder and restore the signal handlers."""
        self.alone.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers.clear()

    def save(self, run: Run) -> None:
        """Write one checkpoint atomically, then remove those that are too old.

        A checkpoint of a later step is damaged and could not be set aside, so it does not count
        toward `keep`.

        Raises:
            TrainingError: it cannot be written; the previous checkpoint is kept.
        """
        tensors, state = pack(run.state_dict())
        weights = _weights(run.model)
        content = {"recipe": self.recipe, "versions": self.versions, "git": self.git}
        files = {STATE: json.dumps({**content, "state": state}, indent=1).encode()}
        sharded = is_sharded(run.model)
        if not sharded and ranks.is_first():
            files |= {WEIGHTS: save(weights), TENSORS: save(tensors)}
        if sharded or ranks.is_first():
            self._write(run, files, {**weights, **tensors} if sharded else {})
        self.saved = run.step

    def _write(self, run: Run, files: dict[str, bytes], shards: dict[str, Tensor]) -> None:
        """Write a folder atomically; the first rank creates it."""
        path = self.folder / f"step-{run.step:08}"
        try:
            with replace_folder(path) if ranks.is_first() else nullcontext(path) as fresh:
                if shards:
                    write_shards(Path(ranks.of_first(str(fresh))), shards)
                if not ranks.is_first():
                    return
                # Checksums of the data in memory reveal a file that was written badly.
                checksums = {one.name: checksum(one) for one in fresh.iterdir()}
                checksums |= {
                    name: hashlib.sha256(data).hexdigest() for name, data in files.items()
                }
                files[CHECKSUMS] = json.dumps(checksums, indent=1).encode()
                for name, data in files.items():
                    (fresh / name).write_bytes(data)
        except OSError as error:
            reason = error.__cause__ if isinstance(error, StorageError) else error
            kept = f"that of step {self.saved} is whole" if self.saved else "there is none before"
            raise TrainingError(
                f"the checkpoint of step {run.step} cannot be written: {reason or error}; {kept} "
                f"(is the disk full?). With room in {self.folder} the same command continues"
            ) from error
        own = [one for one in find_checkpoints(self.folder) if step_of(one) <= run.step]
        for old in own[self.keep :]:
            try:
                remove_folder(old)
            except OSError as error:
                warnings.warn(f"{old} is no longer needed and stays: {error}", stacklevel=2)

    def _resume(self, run: Run, path: Path) -> None:
        content = json.loads((path / STATE).read_bytes())
        for what, now in (("recipe", self.recipe), ("versions", self.versions)):
            if differences := _differences(content[what], now):
                raise ConfigError(
                    f"{path} belongs to another run: {what} {'; '.join(differences)}. "
                    "Continue with the same, or choose another folder to start over"
                )
        tensors = read_shards(path, run.model)
        own = {name: tensors.pop(name) for name in [*tensors] if not name.startswith(".")}
        _load_weights(run.model, own, path)
        run.load_state_dict(unpack(tensors, content["state"]))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, intact or damaged, last first; ignore other files."""
    paths = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(paths, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint."""
    return int(path.name.removeprefix("step-"))


def average_checkpoints(model: nn.Module, folder: Path, n: int) -> None:
    """Load the mean of the last n checkpoints into the model (Vaswani et al. 2017, section 6.1).

    Raises:
        TrainingError: there are fewer intact checkpoints.
    """
    ranks.wait()  # until the first rank has written the last one
    kept = (path for path in find_checkpoints(folder) if _is_whole(path))
    weights = [load_file(path / WEIGHTS) for path in islice(kept, n)]
    if len(weights) < n:
        raise TrainingError(
            f"{folder} has {len(weights)} whole checkpoints, expected {n} to average (keep as "
            "many, and save often enough)"
        )
    mean = {
        name: torch.stack([one[name].double() for one in weights]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights[0].items()
    }
    _load_weights(model, mean, folder)


def versions() -> dict[str, str]:
    """Return the versions on which the results of a run depend."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def git_revision() -> str | None:
    """Return the commit of the working directory, with a "+" if files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, shared ones once."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    kept = tensors.keys() & model.state_dict(keep_vars=True).keys()
    own = {name: tensors[name].detach() for name in tensors if name in kept}
    return {n: t if isinstance(t, DTensor) else t.cpu().contiguous() for n, t in own.items()}


def _load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    own = _weights(model)
    if differences := _differences(
        {name: str(tuple(tensor.shape)) for name, tensor in weights.items()},
        {name: str(tuple(tensor.shape)) for name, tensor in own.items()},
    ):
        raise ConfigError(f"{path} has another model: {'; '.join(differences)}")
    model.load_state_dict(weights, strict=False)


def _is_whole(path: Path) -> bool:
    """Return whether all files of a checkpoint are there and match their checksums."""
    try:
        checksums = json.loads((path / CHECKSUMS).read_bytes())
        files = [one for one in path.iterdir() if one.name != CHECKSUMS]
        return STATE in checksums and checksums == {one.name: checksum(one) for one in files}
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def _set_aside(path: Path, used: int | None) -> None:
    """Rename a damaged checkpoint so that it is not used, and warn."""
    instead = "there is none before it" if used is None else f"that of step {used} is used"
    if used is not None and used > step_of(path):
        instead = f"that of step {used}, which is used, is whole"
    aside = path.with_name(path.name + DAMAGED)
    try:
        if aside.exists():
            remove_folder(aside)
        path.rename(aside)
        where = f"it is {aside.name} now, and may be removed"
    except OSError as error:
        where = f"it cannot be renamed: {error}"
    warnings.warn(f"{path} is damaged, {instead}; {where}", stacklevel=3)


def _differences(then: Any, now: Any, name: str = "") -> list[str]:
    """List the fields in which two nested dicts differ, at most five."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        was, has = ("missing" if value is MISSING else repr(value) for value in (then, now))
        return [] if then == now else [f"{name} was {was} and is {has}"]
    lines = []
    for key in sorted(then.keys() | now.keys()):
        inside = f"{name}.{key}" if name else key
        lines += _differences(then.get(key, MISSING), now.get(key, MISSING), inside)
    return lines if len(lines) <= 5 else [*lines[:5], f"and {len(lines) - 5} more"]
