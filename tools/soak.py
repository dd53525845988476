"""Kill a training run at random moments, resume it each time, and compare the weights to the bit.

    python tools/soak.py --kills 50

The run is `qkv train` on a few dates. It is killed with SIGKILL, which no process can answer; where
it ends before the next kill it is compared, and begun anew.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track

RECIPE = """
task: dates
output: {output}
device: cpu
dates: {{locales: [de, hu], pairs: 400, held_out: 20}}
model: {{d_model: 16, n_heads: 2, d_ff: 24, n_encoder_layers: 1, n_decoder_layers: 1}}
training: {{steps: 200, max_tokens: 500, evaluate_every: 100, save_every: 7, ema: 0.9}}
"""
WEIGHTS = "model.safetensors"


def start(folder: Path) -> subprocess.Popen[str]:
    """Start, or go on with, the run of a folder."""
    recipe = folder / "recipe.yaml"
    folder.mkdir(exist_ok=True)
    recipe.write_text(RECIPE.format(output=(folder / "made").as_posix()), encoding="utf-8")
    command = [sys.executable, "-c", "from qkv.cli import main; raise SystemExit(main())"]
    return subprocess.Popen(
        [*command, "train", str(recipe)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a run that nobody kills."""
    _, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the run failed with status {process.returncode}:\n{errors}")


def checkpoints(run: Path) -> set[str]:
    """The names of what the run has saved."""
    return {path.name for path in (run / "made.training" / "checkpoints").glob("step-*")}


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Wait until the process has saved one more, or has ended."""
    before = checkpoints(run)
    while process.poll() is None and checkpoints(run) <= before:
        time.sleep(0.01)


def kill(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill the process after some seconds; returns False where it had ended before."""
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    finish(process)
    return False


def soak(folder: Path, kills: int, seed: int) -> dict[str, float]:
    """Kill so many times; raise SystemExit where the weights are not those of the whole run.

    A run that ends before it is killed is compared and begun anew, so that each kill meets a run,
    and every second one a run with a checkpoint, however busy the machine is.

    Returns:
        how many runs were compared, how many kills met a run with a checkpoint, seconds of a run.
    """
    before = time.perf_counter()
    finish(start(folder / "whole"))
    duration = time.perf_counter() - before
    expected = (folder / "whole" / "made" / WEIGHTS).read_bytes()
    run, draw, compared, resumed = folder / "killed", random.Random(seed), 0, 0

    def compare(killed: int) -> int:
        if (run / "made" / WEIGHTS).read_bytes() != expected:
            raise SystemExit(f"after {killed} kills the weights in {run} differ from {folder}")
        shutil.rmtree(run)
        return 1

    for killed in track(range(kills), description="kills", transient=True):
        while True:
            process, seconds = start(run), draw.uniform(0, duration)
            if killed % 2:
                wait_for_checkpoint(process, run)
                seconds = draw.uniform(0, duration / 9)
            if kill(process, seconds):
                break
            compared += compare(killed)
        resumed += bool(checkpoints(run))
    finish(start(run))
    compared += compare(kills)
    return {"compared": compared, "resumed": resumed, "seconds of a run": duration}


def main() -> None:
    """Read the arguments, soak, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how often to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), arguments.kills, arguments.seed)
    print(
        f"{arguments.kills} kills, {found['resumed']:.0f} of them after a checkpoint; "
        f"{found['compared']:.0f} finished runs, all equal to the bit to the run that was never "
        f"killed ({found['seconds of a run']:.1f} s)"
    )


if __name__ == "__main__":
    main()
