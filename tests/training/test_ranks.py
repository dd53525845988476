"""Several processes, each with its share of every batch, make the steps of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.rank_cases import CASES, STEPS, run
from tests.training.toy import toy_batch

from qkv.data.classification import ClassificationBatch
from qkv.data.conversations import PackedBatch
from qkv.data.pretraining import collate_causal
from qkv.errors import ConfigError
from qkv.training import ranks

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


@pytest.mark.parametrize("case", RESUMED)
def test_a_run_of_two_processes_goes_on_to_the_bit(folder, case):
    one, two = (load_file(folder / where / case) for where in ("two", "two twice"))
    for name, tensor in one.items():
        assert torch.equal(two[name], tensor), name


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


def test_the_first_rank_with_other_data_than_the_second(tmp_path):
    work = tmp_path / "differ.py"
    work.write_text(
        "from qkv.errors import ConfigError\n"
        "from qkv.training import ranks\n"
        "from qkv.training.loop import connected\n"
        "with connected('cpu'):\n"
        "    try:\n"
        "        ranks.check_same('data: checksums', f'sum {ranks.rank()}')\n"
        "    except ConfigError as error:\n"
        "        print('said:', error, flush=True)\n"
    )
    done = torchrun("differ", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("said: the processes of this training have different data") == 2
    assert "process 0 has sum 0, process 1 has sum 1" in done.stdout
