"""Two processes, each with half of the batches, make the steps of one process with all of them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.toy import ToySeq2Seq, settings, toy_batch

from qkv.training.loop import train
from qkv.training.losses import pair_loss

ROOT = Path(__file__).parents[2]
WORK = """
import sys
import torch
from tests.training.test_ranks import work
work(sys.argv[1], rank=int(sys.argv[2]), world=int(sys.argv[3]))
"""


def work(path, *, rank=0, world=1):
    """Train on every world-th batch; rank 0 keeps the weights and the losses."""
    torch.manual_seed(1)
    batches = [toy_batch(batch=rows) for rows in (2, 5, 3, 4, 1, 6, 2, 7)]
    torch.manual_seed(0)
    model = ToySeq2Seq(vocab=11, d_model=8).double()
    history = train(
        model,
        batches[rank::world],
        pair_loss,
        settings(steps=2, accumulate=4 // world, learning_rate=0.05, clip=0.1),
        device="cpu",
    )
    if rank == 0:
        losses = torch.tensor(history.losses, dtype=torch.float64)
        torch.save({**dict(model.named_parameters()), "losses": losses}, path)
    return history


@pytest.mark.skipif(sys.platform == "win32", reason="Windows: gloo needs other addresses")
def test_two_ranks_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    processes = []
    for rank in range(2):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WORK, str(tmp_path / "two"), str(rank), "2"]
        environment = {
            **os.environ,
            **address,
            **ranks,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
        }
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    work(tmp_path / "one")
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        # The loss is a sum in float32, whose order differs: 8 of its units in the last place.
        bound = 8 * torch.finfo(torch.float32).eps if name == "losses" else 1e-9
        torch.testing.assert_close(two[name], tensor, rtol=bound, atol=1e-12, msg=name)
