"""Exercise 9.3: choose a run and report its score."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, uniform

TASK = """
Several runs were trained with different rates. For each, you know which validation texts and
which test texts it classified correctly. Choose one run, report its accuracy on the test
set, and the 95 % interval of Wilson (1927). Choose by the accuracy on the validation texts
alone; if several runs are equal, take the first. Test texts that also occur in the training
set must not count: they are marked in seen. With a = the accuracy on the n test texts that
count and z = 1.959963984540054, the interval's ends are

    (a + z^2 / (2 n) -+ z * sqrt(a (1 - a) / n + z^2 / (4 n^2))) / (1 + z^2 / n)

runs: a list of dicts with "name", a string, "validation", a boolean tensor (V,), and "test",
    a boolean tensor (T,), True = correct
seen: a boolean tensor (T,), True = the test text is also in the training set

Return the run's name, its accuracy, and the lower and upper end of the interval, in this
order.
"""


def report(runs: list[dict[str, Any]], seen: Tensor) -> tuple[str, float, float, float]:
    """Return the name, the accuracy and its interval."""
    best = max(runs, key=lambda run: run["validation"].double().mean().item())
    right = best["test"][~seen]
    n, a, z = len(right), right.double().mean().item(), 1.959963984540054
    middle = a + z**2 / (2 * n)
    spread = z * math.sqrt(a * (1 - a) / n + z**2 / (4 * n**2))
    bottom = 1 + z**2 / n
    return best["name"], a, (middle - spread) / bottom, (middle + spread) / bottom


def draws() -> list[Draw]:
    """Runs whose order differs between validation and test, and ties."""
    draw = uniform(93)

    def inputs(*accuracies: tuple[float, float], seen: float, n: int = 97) -> tuple[Any, ...]:
        runs = [
            {"name": f"rate {i + 1}e-4", "validation": draw(61) < a, "test": draw(n) < b}
            for i, (a, b) in enumerate(accuracies)
        ]
        return runs, draw(n) < seen

    tied = inputs((0.5, 0.4), (0.9, 0.6), (0.9, 0.95), (0.3, 0.2), seen=0.2)
    tied[0][2]["validation"] = tied[0][1]["validation"].flip(0)
    easy = inputs((0.8, 0.7), (0.7, 0.9), seen=0.4)
    easy[0][0]["test"][easy[1]] = True  # texts seen in training are right
    known = inputs((0.9, 0.4), (0.5, 0.2), (0.6, 0.5), seen=0.6)
    known[0][1]["test"][known[1]] = True  # and nothing else
    nearly = inputs((0.9, 1.1), (0.4, 0.5), seen=0.0, n=31)
    nearly[0][0]["test"][3] = False
    return [
        Draw("runs in the same order on both sets", inputs((0.6, 0.6), (0.9, 0.9), seen=0.0)),
        Draw(
            "another run that is better on the test set", inputs((0.9, 0.5), (0.4, 0.95), seen=0.0)
        ),
        Draw("test texts that were seen in training", easy),
        Draw("two runs with one validation accuracy", tied),
        Draw("a run that knows the training set by heart", known),
        Draw("a run that is nearly always right", nearly),
        Draw("a run that is always right", inputs((0.5, 0.5), (1.1, 1.1), seen=0.1, n=31)),
    ]


def wrong_report(
    runs: list[dict[str, Any]],
    seen: Tensor,
    *,
    choose: str = "validation",
    count: str = "unseen",
    score: str = "test",
    interval: str = "Wilson",
    of: str = "counted",
) -> tuple[str, float, float, float]:
    """Report with one thing done in another way."""
    counted = {
        "unseen": ~seen,
        "all": torch.ones_like(seen),
        "seen": seen,
    }[count]

    def accuracy(right: Tensor) -> float:
        return right.double().mean().item()

    rank = {
        "validation": lambda run: accuracy(run["validation"]),
        "last": lambda run: accuracy(run["validation"]),
        "worst": lambda run: -accuracy(run["validation"]),
        "test": lambda run: accuracy(run["test"]),
        "unseen test": lambda run: accuracy(run["test"][counted]),
        "both": lambda run: accuracy(run["validation"]) + accuracy(run["test"]),
        "first": lambda run: 0,
    }[choose]
    best = max(reversed(runs) if choose == "last" else runs, key=rank)
    right = best["test"][counted]
    n, a, z = len(right), accuracy(right), 1.959963984540054
    if score == "validation":
        a = accuracy(best["validation"])
    elif score == "mean of all runs":
        a = sum(accuracy(run["test"][counted]) for run in runs) / len(runs)
    elif score == "wrong ones":
        a = 1 - a
    elif score == "all texts below":
        a = right.sum().item() / len(seen)
    n = {
        "counted": n,
        "all": len(seen),
        "validation": len(best["validation"]),
        "runs": len(runs),
    }[of]
    bottom = 1 + z**2 / n
    middle = a + z**2 / (2 * n)
    spread = z * math.sqrt(max(a * (1 - a), 0) / n + z**2 / (4 * n**2))
    plain = z * math.sqrt(max(a * (1 - a), 0) / n)
    low, high = {
        "Wilson": lambda: ((middle - spread) / bottom, (middle + spread) / bottom),
        "Wald": lambda: (a - plain, a + plain),
        "Wald, cut": lambda: (max(a - plain, 0.0), min(a + plain, 1.0)),
        "not divided": lambda: (middle - spread, middle + spread),
        "around a": lambda: (a - spread / bottom, a + spread / bottom),
        "one sigma": lambda: _wilson(a, n, 1.0),
        "90 %": lambda: _wilson(a, n, 1.6448536269514722),
        "2": lambda: _wilson(a, n, 2.0),
        "exchanged": lambda: ((middle + spread) / bottom, (middle - spread) / bottom),
        "no root": lambda: (
            (middle - z * (a * (1 - a) / n + z**2 / (4 * n**2))) / bottom,
            (middle + z * (a * (1 - a) / n + z**2 / (4 * n**2))) / bottom,
        ),
    }[interval]()
    if score == "percent":
        return best["name"], 100 * a, 100 * low, 100 * high
    return best["name"], a, low, high


def _wilson(a: float, n: int, z: float) -> tuple[float, float]:
    middle, bottom = a + z**2 / (2 * n), 1 + z**2 / n
    spread = z * math.sqrt(a * (1 - a) / n + z**2 / (4 * n**2))
    return (middle - spread) / bottom, (middle + spread) / bottom


MISTAKES = (
    Mistake(
        "the run is chosen by the test set",
        partial(wrong_report, choose="test"),
        "You report the run that is best on the test set: it has been fitted to it.",
        "What is the validation part for?",
    ),
    Mistake(
        "the run is chosen by the unseen test texts",
        partial(wrong_report, choose="unseen test"),
        "You report the run that is best on the test set: it has been fitted to it.",
        "What is the validation part for?",
    ),
    Mistake(
        "the run is chosen by validation and test set together",
        partial(wrong_report, choose="both"),
        "Your choice has seen the test set.",
        "What is the validation part for?",
    ),
    Mistake(
        "the worst run is chosen",
        partial(wrong_report, choose="worst"),
        "Your run has the lowest validation accuracy.",
        "True = correct.",
    ),
    Mistake(
        "the first run is chosen",
        partial(wrong_report, choose="first"),
        "You report the first run, whatever its validation accuracy.",
        "Compare the runs.",
    ),
    Mistake(
        "the last of equal runs is chosen",
        partial(wrong_report, choose="last"),
        "Of two runs with the same validation accuracy you take the second.",
        "Compare > with >=.",
    ),
    Mistake(
        "seen test texts count",
        partial(wrong_report, count="all"),
        "Your accuracy is too high where test texts were seen in training.",
        "A model may know such a text by heart.",
    ),
    Mistake(
        "only seen test texts count",
        partial(wrong_report, count="seen"),
        "Your accuracy is that of the texts that must not count, or NaN where there are none.",
        "True = the text is also in the training set.",
    ),
    Mistake(
        "the validation accuracy is reported",
        partial(wrong_report, score="validation", of="validation"),
        "Your accuracy is the one by which the run was chosen, so it is too high.",
        "The test set was kept for this.",
    ),
    Mistake(
        "the validation accuracy is reported, with the size of the test set",
        partial(wrong_report, score="validation"),
        "Your accuracy is the one by which the run was chosen, so it is too high.",
        "The test set was kept for this.",
    ),
    Mistake(
        "the mean of all runs is reported",
        partial(wrong_report, score="mean of all runs"),
        "Your accuracy is the mean over the runs.",
        "Report the run that was chosen.",
    ),
    Mistake(
        "the error rate is reported",
        partial(wrong_report, score="wrong ones"),
        "Your accuracy is 1 minus what it should be.",
        "True = correct.",
    ),
    Mistake(
        "seen texts count as wrong",
        partial(wrong_report, score="all texts below", of="all"),
        "Your accuracy is too low: seen texts are still in the denominator.",
        "They do not count at all.",
    ),
    Mistake(
        "seen texts are in the denominator of the accuracy",
        partial(wrong_report, score="all texts below"),
        "Your accuracy is too low: seen texts are still in the denominator.",
        "They do not count at all.",
    ),
    Mistake(
        "the result is in percent",
        partial(wrong_report, score="percent"),
        "Your numbers are too large by 100.",
        "An accuracy is a fraction.",
    ),
    Mistake(
        "n counts seen texts, too",
        partial(wrong_report, of="all"),
        "Your accuracy is right, and your interval too narrow.",
        "n is the number of texts that count.",
    ),
    Mistake(
        "n is the number of validation texts",
        partial(wrong_report, of="validation"),
        "Your accuracy is right, and your interval is that of the validation part.",
        "n is the number of texts that count.",
    ),
    Mistake(
        "the interval is the normal one",
        partial(wrong_report, interval="Wald"),
        "Your interval lies evenly around the accuracy, and has no width if all is right.",
        "Wilson's interval is pulled toward 1/2.",
    ),
    Mistake(
        "the interval is the normal one, cut at 0 and 1",
        partial(wrong_report, interval="Wald, cut"),
        "Your interval lies evenly around the accuracy, and has no width if all is right.",
        "Wilson's interval is pulled toward 1/2.",
    ),
    Mistake(
        "the interval is not divided",
        partial(wrong_report, interval="not divided"),
        "Your ends are too large by 1 + z^2 / n.",
        "Both ends have a denominator.",
    ),
    Mistake(
        "the interval is centered on the accuracy",
        partial(wrong_report, interval="around a"),
        "Your interval has the right width around the wrong center.",
        "The center is (a + z^2 / (2 n)) / (1 + z^2 / n).",
    ),
    Mistake(
        "z is 1",
        partial(wrong_report, interval="one sigma"),
        "Your interval is too narrow by half.",
        "z is 1.96 for 95 %.",
    ),
    Mistake(
        "z is 1.645",
        partial(wrong_report, interval="90 %"),
        "Your interval is that of 90 %.",
        "z is 1.96 for 95 %.",
    ),
    Mistake(
        "z is 2",
        partial(wrong_report, interval="2"),
        "Your interval is a little too wide.",
        "Take z with all its digits.",
    ),
    Mistake(
        "the ends are exchanged",
        partial(wrong_report, interval="exchanged"),
        "Your lower end is above the upper one.",
        "The lower end comes first.",
    ),
    Mistake(
        "the root is missing",
        partial(wrong_report, interval="no root"),
        "Your interval is far too narrow.",
        "A standard deviation is the root of a variance.",
    ),
)


EXERCISE = Exercise(
    number="9.3",
    title="Choose a run and report its score",
    task=TASK.strip(),
    solve=report,
    draws=draws,
    mistakes=MISTAKES,
    hint="max(runs, key=...) returns the first of several equal runs.",
    remark=(
        "`qkv.evaluation.intervals.proportion_interval` computes the same interval. A run chosen "
        "by its test score has been fitted to the test set."
    ),
)
