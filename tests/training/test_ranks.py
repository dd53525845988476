"""Several processes, each with its share of every batch, make the steps of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.rank_cases import CASES, SHARDS, STEPS, run
from tests.training.toy import toy_batch
from torch.distributed.checkpoint.api import CheckpointException

from qkv.cli import main
from qkv.data.classification import ClassificationBatch
from qkv.data.conversations import PackedBatch
from qkv.data.pretraining import collate_causal
from qkv.errors import ConfigError
from qkv.training import ranks, shards
from qkv.training.checkpointing import find_checkpoints
from qkv.training.finetune import GradualUnfreezing
from qkv.training.loop import connected
from qkv.training.run import Run
from qkv.training.shards import write_shards

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows: gloo needs addresses")


def torchrun(*arguments, n=2, cwd=ROOT):
    """Run a module in n processes, each with one thread."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc-per-node={n}", "-m", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=900
    )


RESUMED = "ema", "ema sharded"
HALF = 23  # steps, after the checkpoint of step 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes have written: each case, and runs that others have begun or go on with."""
    folder = tmp_path_factory.mktemp("ranks")
    jobs = [[case, "two", STEPS] for case in CASES]
    for case in RESUMED:
        with pytest.raises(InterruptedError):
            run(case, make(folder / "one then two"), HALF)
        jobs += [[case, "one then two", STEPS]]
        jobs += [
            [case, "two then one", HALF],
            [case, "two twice", HALF],
            [case, "two twice", STEPS],
        ]
        jobs += [[case, "signal", 7]]
    jobs += [
        ["stream", "two", STEPS],
        ["stream", "two twice", HALF],
        ["stream", "two twice", STEPS],
    ]
    jobs = [[case, str(make(folder / where)), end] for case, where, end in jobs]
    done = torchrun("tests.training.rank_cases", json.dumps(jobs))
    assert done.returncode == 0, done.stderr
    return folder


def make(folder):
    """Make a folder, and return it."""
    folder.mkdir(exist_ok=True)
    return folder


def assert_alike(one, two):
    one, two = load_file(one), load_file(two)
    assert one.keys() == two.keys()
    assert len(one["losses"]) == STEPS
    assert one["losses"][-1] < one["losses"][0]
    for name, tensor in one.items():
        # Losses are summed in float32; weights are as equal as sums in another order.
        bound = 1e-6 if name == "losses" else 1e-9
        torch.testing.assert_close(two[name], tensor, rtol=bound, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_steps_of_one(folder, tmp_path, case):
    run(case, tmp_path)
    assert_alike(tmp_path / case, folder / "two" / case)


@pytest.mark.parametrize("case", RESUMED)
def test_a_run_goes_on_with_another_number_of_processes(folder, tmp_path, case):
    shards = list((folder / "two then one" / f"{case}.run" / "step-00000020").glob("shard*"))
    assert len(shards) == (2 if "sharded" in case else 0)
    run(case, folder / "two then one")
    for where in ("two then one", "one then two"):
        assert_alike(folder / "two" / case, folder / where / case)


def test_a_process_that_has_read_its_share_waits_for_the_others(folder):
    end = load_file(folder / "two" / "stream")
    assert end["targets"] == sum(len(text) + 1 for shard in SHARDS for text in shard)


@pytest.mark.parametrize("case", [*RESUMED, "stream"])
def test_a_run_of_two_processes_goes_on_to_the_bit(folder, case):
    one, two = (load_file(folder / where / case) for where in ("two", "two twice"))
    for name, tensor in one.items():
        assert torch.equal(two[name], tensor), name


@pytest.mark.parametrize("case", RESUMED)
def test_a_signal_to_one_process_stops_all_after_the_same_step(folder, case):
    saved = find_checkpoints(folder / "signal" / f"{case}.run")
    assert [one.name for one in saved] == ["step-00000007"]
    run(case, folder / "signal")
    assert_alike(folder / "two" / case, folder / "signal" / case)


def test_a_rank_that_cannot_write_its_part_is_an_error_of_the_system(tmp_path, monkeypatch):
    def full(*_, **__):
        raise CheckpointException("save", {1: (OSError(28, "No space left on device"), None)})

    monkeypatch.setattr(shards, "save", full)
    with pytest.raises(OSError, match=r"process 1: .*No space left on device"):
        write_shards(tmp_path, {})


def test_a_recipe_in_two_processes_leaves_the_folder_of_one(tmp_path):
    steps = {"steps": 3, "evaluate_every": 3, "save_every": 3, "batch_size": 13}
    options = [word for name, n in steps.items() for word in (f"--training.{name}", str(n))]
    train = ["train", "digits", "--data.limit", "90", *options, "--output"]
    assert main([*train, str(tmp_path / "one")]) == 0
    for sharding in ("none", "fsdp2"):
        done = torchrun("qkv", *train, tmp_path / sharding, "--training.sharding", sharding)
        assert done.returncode == 0, done.stderr
    one, *others = (
        load_file(tmp_path / name / "model.safetensors") for name in ("one", "none", "fsdp2")
    )
    for two in others:
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            # Adam makes steps of 2e-3 also where a gradient is rounding noise: in few places, but
            # in all biases of keys, on which no softmax depends.
            if not name.endswith("key.bias"):
                assert (two[name] - tensor).abs().mean() < 1e-6, name


def test_gradual_unfreezing_needs_one_process(monkeypatch):
    monkeypatch.setattr(ranks, "n_ranks", lambda: 3)
    with pytest.raises(ConfigError, match="gradual unfreezing in 3 processes; expected one"):
        GradualUnfreezing(2).begin(None)


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    class Whole:
        n_targets = 3

    own = Run(
        torch.nn.Linear(1, 1),
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]),
        [Whole()],
        steps=1,
        device=torch.device("cpu"),
        callbacks=[],
        scaler=torch.amp.GradScaler("cpu", enabled=False),
    )
    monkeypatch.setattr(ranks, "n_ranks", lambda: 2)
    with pytest.raises(ConfigError, match=r"2 processes share a Whole; expected .* take\(rows\)"):
        own.draw()


def test_shares_are_disjoint_and_make_up_the_batch():
    batch = toy_batch(batch=7)
    shares = [batch.take(slice(rank, None, 3)) for rank in range(3)]
    assert [share.n_rows for share in shares] == [3, 2, 2]
    assert sum(share.n_targets for share in shares) == batch.n_targets
    again = torch.empty_like(batch.source)
    for rank, share in enumerate(shares):
        again[rank::3] = share.source
        assert share.n_targets == int(share.target_mask.sum())
    assert torch.equal(again, batch.source)


def test_a_share_of_texts_has_the_targets_of_its_rows():
    batch = collate_causal([[1, 2, 3], [4, 5, 6, 7, 8], [9, 10]], pad=0)
    share = batch.take(slice(1, None, 2))
    alone = collate_causal([[4, 5, 6, 7, 8]], pad=0)
    assert torch.equal(share.tokens, alone.tokens)
    assert torch.equal(share.positions, alone.positions)
    assert torch.equal(share.targets, alone.targets)


def test_a_share_of_packed_rows_has_their_targets():
    at = torch.tensor([1, 4, 5, 8])
    rows = torch.arange(9).reshape(3, 3)
    batch = PackedBatch(tokens=rows, positions=rows, texts=rows, at=at, targets=at * 10)
    share = batch.take(slice(1, None))
    assert share.at.tolist() == [1, 2, 5]
    assert share.targets.tolist() == [40, 50, 80]


def test_a_share_of_classified_texts_keeps_which_they_are():
    tokens = torch.arange(10).reshape(5, 2)
    mask = tokens >= 0
    batch = ClassificationBatch(
        tokens=tokens, token_mask=mask, classes=torch.arange(5), rows=(3, 1, 4, 0, 2)
    )
    share = batch.take(slice(1, None, 2))
    assert share.rows == (1, 0)
    assert share.classes.tolist() == [1, 3]
    assert share.segments is None


def test_one_process_takes_whole_batches(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (ranks.rank(), ranks.n_ranks(), ranks.is_first()) == (0, 1, True)
    assert ranks.of_all("a") == ["a"]
    assert ranks.of_first(3) == 3
    assert ranks.highest(7) == 7
    ranks.wait()
    ranks.check_same("versions", {"torch": "2"})


def test_a_rank_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="the environment has RANK=first; expected a number"):
        ranks.rank()


def test_a_first_rank_that_cannot_be_reached(monkeypatch):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
    given = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(ranks, "PATIENCE", 0.0)
    expected = rf"process 1 of 3 cannot reach the first one at 127\.0\.0\.1:{port}: .*refused"
    with pytest.raises(ConfigError, match=expected), connected("cpu"):
        pass


def test_processes_that_accelerate_leaves_unconnected(monkeypatch):
    given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with (
        pytest.raises(ConfigError, match=r"has WORLD_SIZE=2, but Accelerate sees 1 process; .*"),
        connected("auto"),
    ):
        pass


def test_the_first_rank_with_other_data_than_the_second(tmp_path):
    work = tmp_path / "differ.py"
    work.write_text(
        "from pathlib import Path\n"
        "from qkv.errors import ConfigError\n"
        "from qkv.training import ranks\n"
        "from qkv.training.loop import connected\n"
        "with connected('cpu'):\n"
        "    try:\n"
        "        ranks.check_same('data: checksums', f'sum {ranks.rank()}')\n"
        "    except ConfigError as error:\n"
        "        Path(str(ranks.rank())).write_text(str(error))\n"
    )
    done = torchrun("differ", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in "01":  # in files: lines of two processes may mix on one stream
        said = (tmp_path / rank).read_text()
        assert said.startswith("the processes of this training have different data: checksums")
        assert "process 0 has sum 0, process 1 has sum 1" in said
