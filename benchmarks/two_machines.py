"""Train on two machines: two network namespaces that a virtual cable joins. Needs Linux and root.

Each runs torchrun --nnodes 2 with two processes, of which one is killed in a second run. The
weights are compared with those of one process, in float64.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import RESULTS, arguments, machine, save
from killed_ranks import differences, finish, steps_of, workers
from safetensors.torch import load_file

PATH = RESULTS / "two_machines.json"
NAMES, ADDRESSES, PORT = ("qkv-a", "qkv-b"), ("10.79.83.1", "10.79.83.2"), 29511


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def joined() -> Iterator[None]:
    """Make two network namespaces, each with one end of a cable."""
    for name in NAMES:
        ip("netns", "add", name)
    try:
        ip("link", "add", NAMES[0], "type", "veth", "peer", "name", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            ip("link", "set", name, "netns", name)
            inside = ("netns", "exec", name, "ip")
            ip(*inside, "addr", "add", f"{address}/24", "dev", name)
            ip(*inside, "link", "set", name, "up")
            ip(*inside, "link", "set", "lo", "up")
        yield
    finally:
        for name in NAMES:
            ip("netns", "delete", name)


def start(folder: Path, sharding: str) -> list[subprocess.Popen[bytes]]:
    """Start torchrun on both machines."""
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("killed_ranks.py")
    started = []
    for number, name in enumerate(NAMES):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
        command += ["--nnodes=2", "--nproc-per-node=2", "--rdzv-backend=c10d"]
        command += [f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}", f"--local-addr={ADDRESSES[number]}"]
        command += [f"--rdzv-conf=is_host={number == 0}"]  # both have this host's name
        command += [str(script), "--work", str(folder), sharding]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": name}
        with (folder / f"{name}.log").open("ab") as log:
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return started


def wait(started: list[subprocess.Popen[bytes]]) -> list[int]:
    return [one.wait(timeout=600) for one in started]


def compare(folder: Path, sharding: str) -> dict[str, Any]:
    """Train on two machines, and on one; then kill a process of the second, and go on."""
    alone = finish(folder / f"{sharding}-alone", sharding, 1)
    if any(wait(start(folder / sharding, sharding))):
        raise SystemExit(f"the training failed; see {folder / sharding}")
    killed = folder / f"{sharding}-killed"
    agents = start(killed, sharding)
    while steps_of(killed) < 20:
        time.sleep(0.01)
    os.kill(workers(agents[1].pid)[0], signal.SIGKILL)
    begun = time.monotonic()
    statuses = wait(agents)
    ended = time.monotonic() - begun
    if any(wait(start(killed, sharding))):
        raise SystemExit(f"the training did not go on; see {killed}")
    ends = {name: load_file(folder / name / "end") for name in (sharding, killed.name)}
    return {
        "two machines": differences(ends[sharding], alone),
        "two machines, killed": differences(ends[killed.name], alone),
        "statuses after a kill": statuses,
        "seconds until both had ended": round(ended, 1),
    }


def main() -> None:
    arguments(__doc__ or "").parse_args()
    with joined(), tempfile.TemporaryDirectory() as folder:
        cases = {kind: compare(Path(folder), kind) for kind in ("none", "fsdp2")}
    print(cases)
    save(PATH, {"machine": machine("accelerate"), "cases": cases})


if __name__ == "__main__":
    main()
