"""Whatever is damaged and wherever a process is killed: a run goes on from its last whole save."""

import os
import pathlib
import random
import signal
import warnings

import pytest
import torch
from torch import nn

from qkv import files
from qkv.training.checkpointing import Checkpoints, find_checkpoints
from qkv.training.run import Run

KEEP = 2
SYSTEM = ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir", "link")


class Kill(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing of the process runs after it."""


class Mortal:
    """The calls by which a process changes a disk, until its death; after that they do nothing."""

    def __init__(self, monkeypatch):
        self.left, self.corpses = None, []
        for module, names in ((os, SYSTEM), (pathlib.Path, ("write_bytes", "write_text"))):
            for name in names:
                real = getattr(module, name)
                if name == "fsync":
                    real = lambda descriptor: None  # noqa: E731 - this law is not about power
                monkeypatch.setattr(module, name, self.until_death(real))

    def until_death(self, real):
        def call(*args, **kwargs):
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise Kill
            return real(*args, **kwargs)

        return call

    def bury(self, checkpoints):
        """What the system does for a dead process; its own cleaning must not run at some time."""
        self.left = None
        self.corpses.append(checkpoints.alone)
        files._held.clear()
        for number, handler in checkpoints.handlers.items():
            signal.signal(number, handler)


def start(folder):
    model = nn.Linear(2, 3)
    run = Run(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        [],
        steps=10**6,
        device=torch.device("cpu"),
        callbacks=[],
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    return run, Checkpoints(folder, every=1, keep=KEEP)


def damage(rng, path):
    file = rng.choice(sorted(path.iterdir()))
    content = bytearray(file.read_bytes())
    match rng.randrange(4):
        case 0:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
        case 1:
            file.write_bytes(content[: rng.randrange(len(content))])
        case 2:
            os.unlink(file)
        case 3:
            for file in path.iterdir():
                os.unlink(file)


@pytest.mark.filterwarnings("ignore:.* is damaged")
@pytest.mark.parametrize("seed", range(12))
def test_a_run_goes_on_from_its_last_whole_save(tmp_path, monkeypatch, seed):
    rng, mortal, folder = random.Random(seed), Mortal(monkeypatch), tmp_path / "checkpoints"
    saved: list[int] = []  # of this line of steps, at most KEEP, the last at the end
    whole: dict[int, torch.Tensor] = {}
    resumed = 0
    for _ in range(12):
        run, checkpoints = start(folder)
        if rng.random() < 0.2:
            mortal.left = rng.randrange(12)
        try:
            checkpoints.begin(run)
        except Kill:
            mortal.bury(checkpoints)
            continue
        mortal.left = None
        expected = max((step for step in saved if step in whole), default=0)
        assert run.step == expected
        if expected:
            assert torch.equal(run.model.weight, whole[expected])
        resumed += expected > 0
        saved = [step for step in saved if step in whole]
        for _save in range(rng.randrange(5)):
            run.step += rng.randrange(1, 4)
            with torch.no_grad():
                run.model.weight.copy_(torch.randn(3, 2))
            dies = rng.random() < 0.3
            mortal.left = rng.randrange(40) if dies else None
            try:
                checkpoints.save(run)
            except Kill:
                break
            finally:
                before, mortal.left = mortal.left, None
            saved = [*saved, run.step][-KEEP:]
            whole[run.step] = run.model.weight.detach().clone()
            assert folder / f"step-{run.step:08}" in find_checkpoints(folder)
            mortal.left = before
        mortal.bury(checkpoints)
        # A save that was killed counts if it came as far as the rename.
        if (folder / f"step-{run.step:08}").is_dir() and run.step not in saved[-1:]:
            saved = [*saved, run.step][-KEEP:]
            whole[run.step] = run.model.weight.detach().clone()
        for path in find_checkpoints(folder):
            if rng.random() < 0.3:
                damage(rng, path)
                whole.pop(int(path.name[5:]), None)
    assert resumed
    for path in tmp_path.glob(".*"):  # a lock that was never taken is removed an hour later
        os.utime(path, (0, 0))
    run, checkpoints = start(folder)
    checkpoints.begin(run)
    checkpoints.close()
    assert not list(tmp_path.rglob(".*"))


def test_without_damage_nothing_is_said(tmp_path):
    run, checkpoints = start(tmp_path)
    run.step = 5
    checkpoints.save(run)
    run, checkpoints = start(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoints.begin(run)
        checkpoints.close()
    assert run.step == 5
