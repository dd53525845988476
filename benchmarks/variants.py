"""Every variant of attention on two tasks: what each learns in a fixed budget of steps.

Every run is written to results/variants.json when it ends; what is there is not run again, so an
interrupted comparison goes on where it was. Delete the file to begin anew.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from _common import arguments, load_runs, machine, save_runs
from _variants import DELTA, MECHANISMS, STREAMING, TASKS
from _variants_report import QUALITY, report
from rich.console import Console

QUICK = Path("out/variants_quick.json")
QUICK_STEPS = 10
CONSOLE = Console()
SETTINGS = {task: setting for task, (setting, _) in TASKS.items()}


def plan(only: Sequence[str], tasks: Sequence[str], seeds: int) -> Iterator[tuple[str, str, int]]:
    """Yield task, mechanism and seed, one seed of all first."""
    for seed in range(seeds):
        for task in tasks:
            for name in only or MECHANISMS:
                # A date is no longer than four sinks and a window, and its encoder not causal.
                if task != "dates" or name not in (STREAMING, DELTA):
                    yield task, name, seed


def run_all(path: Path, todo: list[tuple[str, str, int]], *, quick: bool) -> None:
    """Run what is not there yet, and write the file after each run."""
    result = load_runs(path, SETTINGS)
    done = {(run["task"], run["mechanism"], run["seed"]) for run in result["runs"]}
    todo = [each for each in todo if each not in done]
    begin = time.perf_counter()
    for number, (task, name, seed) in enumerate(todo, 1):
        setting, learn = TASKS[task]
        run = learn(name, seed, QUICK_STEPS if quick else setting["steps"])
        result["runs"].append({"task": task, "mechanism": name, "seed": seed} | run)
        result["machine"] = machine("accelerate")
        save_runs(path, result)
        score = run["exact match" if task == "dates" else "right tokens"]
        left = (time.perf_counter() - begin) / number * (len(todo) - number) / 60
        CONSOLE.print(
            f"{number:3} of {len(todo)}  {task:5}  {name:18}  seed {seed}  {score:6.1%}  "
            f"{run['seconds']:4.0f} s  about {left:.0f} minutes left",
            highlight=False,
            soft_wrap=True,
        )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", default=[], choices=MECHANISMS, metavar="NAME")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_STEPS} steps each, into {QUICK}"
    )
    options = parser.parse_args()
    path = QUICK if options.quick else QUALITY
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        todo = list(plan(options.only, options.tasks, options.seeds))
        run_all(path, todo, quick=options.quick)
    report(load_runs(path, SETTINGS), quick=options.quick)


if __name__ == "__main__":
    main()
