"""`qkv train classify.yaml`: what trains, what is written, and runs that are killed."""

import itertools
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints.folders import contents
from tests.helpers import assert_as_exact, unchecked
from tests.tasks.small import (
    results,
    sentences,
    tensors,
    write_base,
    write_recipe,
    write_table,
)

import qkv.tasks.classification as page
from qkv.cli import main
from qkv.data.labels import TextExample
from qkv.errors import ConfigError
from qkv.models.lora import LoRAConfig
from qkv.tasks.classification import TASK, ClassificationRecipe, TextClassifier
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.splits import DataConfig, read_splits
from qkv.tasks.train import train
from qkv.training import loop
from qkv.training.settings import Training

ROWS = sentences(32)
# 24 texts to learn from: 4 batches of 6 an epoch.
TRAINING = {
    "epochs": 2.0,
    "batch_size": 6,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "save_every": 2,
}
HEAD = ("pooler.", "classifier.")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("data") / "my.csv", ROWS)


@pytest.fixture
def fit(base, table):
    """Train into a folder; returns it."""

    def run(
        output,
        *,
        fresh=False,
        finetuning=None,
        data=None,
        max_length=13,
        several=False,
        calibrate=False,
        **training,
    ):
        texts = {"train": (str(table),), "validation_fraction": 0.25} | (data or {})
        recipe = ClassificationRecipe(
            output=output,
            base=str(base),
            data=DataConfig(**texts),
            finetuning=finetuning or FineTuning(),
            training=Training(**TRAINING | training),
            max_length=max_length,
            several=several,
            calibrate=calibrate,
            device="cpu",
            fresh=fresh,
        )
        with unchecked():
            train(TASK, recipe)
        return output

    return run


@pytest.fixture
def kill(fit, monkeypatch):
    """Train until the n-th call of the loss raises."""

    def run(at, output, **options):
        calls, original = itertools.count(1), page.classification_loss

        def loss(*arguments, **names):
            if next(calls) == at:
                raise ZeroDivisionError("killed")
            return original(*arguments, **names)

        with monkeypatch.context() as patch:
            patch.setattr(page, "classification_loss", loss)
            with pytest.raises(ZeroDivisionError):
                fit(output, **options)

    return run


@pytest.fixture
def no_training(monkeypatch):
    """From here on no step may be made."""

    def loss(*arguments, **names):
        raise AssertionError("a step was made")

    return lambda: monkeypatch.setattr(page, "classification_loss", loss)


WAYS = {
    "head": ({"train": "head"}, HEAD),
    "top": ({"train": "top", "n_layers": 1}, (*HEAD, "encoder.layer.2.")),
    "top of two": ({"train": "top"}, (*HEAD, "encoder.layer.2.", "encoder.layer.1.")),
    # The head alone for 3 steps of 8, then with one layer, then with two.
    "gradual": (
        {"train": "gradual", "unfreeze_every": 3},
        (*HEAD, "encoder.layer.2.", "encoder.layer.1."),
    ),
    "all": ({"train": "all"}, ("",)),
    "slower below": ({"train": "all", "layer_decay": 0.5}, ("",)),
    "lora": (
        {"train": "lora", "lora": LoRAConfig(rank=3, pattern="query", dropout=0.1)},
        ("classifier.", "attention.self.query.weight"),
    ),
    "scratch": ({"train": "scratch"}, ("",)),
}


def changed_by(way, folder, base):
    before, after = tensors(base), tensors(folder)
    assert after.keys() - before.keys() == {"classifier.weight", "classifier.bias"}
    return {n for n, x in after.items() if n not in before or not torch.equal(x, before[n])}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_to_train_changes_what_it_says(fit, base, tmp_path, way, kill):
    options, parts = WAYS[way]
    # One evaluation, at the end: the weights that are kept have seen all steps.
    options = {"finetuning": FineTuning(**options), "evaluate_every": 8}
    whole = fit(tmp_path / "whole", **options)
    every = set(tensors(whole))
    expected = {name for name in every if any(part in name for part in parts)}
    assert changed_by(way, whole, base) == expected
    trained = results(whole)["trained_parameters"]
    if way == "lora":
        assert trained == 3 * 3 * (22 + 22) + 2 * 22 + 2
        adapter = whole.with_name("whole.training") / "adapter"
        assert set(load_file(adapter / "adapter_model.safetensors")) >= {
            f"base_model.model.bert.encoder.layer.{i}.attention.self.query.lora_{x}.weight"
            for i in range(3)
            for x in "AB"
        }
    elif way != "gradual":  # whose lowest layers would train, were there more steps
        assert trained == sum(tensors(whole)[name].numel() for name in expected)
    if way in ("all", "gradual", "lora"):
        killed = tmp_path / "killed"
        for at in (4, 3):  # at step 4, and at step 5, whose two before are repeated
            kill(at, killed, **options)
            assert not killed.exists()
        fit(killed, **options)
        assert_same_run(whole, killed)


def assert_same_run(one, other):
    """The same files, to the byte; the same results, but for times and the folder's name."""
    files = [contents(folder) for folder in (one, other)]
    for content in files:
        del content["results.json"]
    assert files[0] == files[1]
    assert results(one) == results(other)
    adapters = [folder.with_name(f"{folder.name}.training") / "adapter" for folder in (one, other)]
    assert adapters[0].exists() == adapters[1].exists()
    if adapters[0].exists():
        assert contents(adapters[0]) == contents(adapters[1])


def test_a_run_that_is_over_is_not_trained_again(fit, tmp_path, no_training, capsys):
    fit(tmp_path / "made")
    first = contents(tmp_path / "made")
    no_training()
    fit(tmp_path / "made")
    again = contents(tmp_path / "made")
    assert first["model.safetensors"] == again["model.safetensors"]
    assert (
        "has 8 of 8 steps, which are not repeated; --fresh starts over" in capsys.readouterr().out
    )


def test_the_best_weights_by_the_validation_texts_are_kept(fit, tmp_path, monkeypatch, capsys):
    scores = iter([0.3, 0.8, 0.8, 0.7, 0.6])
    monkeypatch.setattr(
        ClassificationRecipe, "metrics", lambda recipe, _: {"accuracy": next(scores)}
    )
    fit(tmp_path / "best", evaluate_every=1, patience=3)
    out = capsys.readouterr().out
    assert "step 2 of 8, validation: accuracy 0.8000\n" in out
    assert (
        "stopped early, after step 5: accuracy was 0.8 at best, and no better in the last 3 " in out
    )
    assert "the weights are those of step 2, the best by accuracy\n" in out
    monkeypatch.undo()
    fit(tmp_path / "two", epochs=None, steps=2)
    assert torch.equal(
        tensors(tmp_path / "best")["classifier.weight"],
        tensors(tmp_path / "two")["classifier.weight"],
    )


def test_the_average_is_that_of_the_last_checkpoints(fit, tmp_path):
    made = fit(tmp_path / "made", average_last=3)
    kept = sorted((tmp_path / "made.training" / "checkpoints").glob("step-*"))
    assert [int(path.name[-2:]) for path in kept] == [4, 6, 8]
    saved = [load_file(path / "model.safetensors") for path in kept[::-1]]
    for name, parameter in TextClassifier.load(made).model.named_parameters():
        mean = torch.stack([one[name].double() for one in saved]).mean(0)
        assert torch.equal(parameter, mean.float())


def test_it_learns_and_results_say_what_was_measured(fit, tmp_path, table, capsys):
    made = fit(
        tmp_path / "made",
        data={"test": str(write_table(tmp_path / "new.csv", sentences(80)[40:]))},
        epochs=20.0,
        learning_rate=3e-3,
    )
    said = results(made)
    assert said["test"]["accuracy"] >= 0.9
    assert said["train_examples"] == 24
    assert said["validation"]["count"] == 8
    assert said["test"]["count"] == 40
    assert said["parameters"] == sum(x.numel() for x in tensors(made).values())
    recipe = said["recipe"]
    assert recipe["training"]["learning_rate"] == 3e-3
    assert recipe["data"]["train"] == [str(table)]
    assert {"torch", "qkv", "python"} <= said["versions"].keys()
    rest = json.loads((made / "results.json").read_text())
    assert rest["train_seconds"] > 0
    assert "git" in rest
    examples = [TextExample(*row) for row in sentences(80)[40:]]
    classifier = TextClassifier.load(made)
    scores = classifier.evaluate(examples)
    assert scores.accuracy == said["test"]["accuracy"]
    classifier.model.double()
    errors = scores.calibration_error, said["test"]["calibration_error"]
    exact = classifier.evaluate(examples).calibration_error
    errors = torch.tensor((*errors, exact), dtype=torch.float64)
    assert_as_exact(*errors, scale=1.0)  # that of the probabilities
    out = capsys.readouterr().out
    for line in (
        "2 classes: bad (12), good (12)\n",
        "24 texts, the longest of 12 tokens; none was cut\n",
        "24 examples to train on, 8 to validate, 40 to test; ",
        f"80 steps, about 4 per epoch -> {made}\n",
        f"try it: qkv classify --model {made} 'a text'\n",
    ):
        assert line in out
    assert "what trains" in out
    assert "memory expected" in out


def test_another_recipe_in_the_same_place_is_refused_by_its_fields(fit, tmp_path, kill):
    kill(4, tmp_path / "made")
    with pytest.raises(ConfigError) as error:
        fit(tmp_path / "made", learning_rate=0.5, seed=3, finetuning=FineTuning(train="head"))
    assert (
        "belongs to another run: recipe finetuning.train was 'all' and is 'head'; "
        "training.learning_rate was 0.001 and is 0.5; training.seed was 0 and is 3"
    ) in str(error.value)
    assert not (tmp_path / "made").exists()
    anew = fit(tmp_path / "made", learning_rate=0.5, fresh=True)
    assert_same_run(anew, fit(tmp_path / "other", learning_rate=0.5))


def test_other_texts_under_the_same_name_are_another_run(fit, tmp_path, kill):
    table = write_table(tmp_path / "mine.csv", ROWS)
    kill(4, tmp_path / "made", data={"train": (str(table),)})
    write_table(table, [*ROWS[:-1], ("the soup was superb !", "good")])
    with pytest.raises(ConfigError, match=r"recipe data_checksum was '[0-9a-f]{16}' and is"):
        fit(tmp_path / "made", data={"train": (str(table),)})


def test_a_fresh_start_that_cannot_be_made_leaves_the_old_run(fit, tmp_path, kill):
    kill(4, tmp_path / "made")
    before = contents(tmp_path)
    for wrong in (
        {"data": {"train": (str(tmp_path / "nothing.csv"),)}},
        {"data": {"limit": 1}},
        {"max_length": 99},
    ):
        with pytest.raises(ValueError, match=r"nothing\.csv|limit|max_length"):
            fit(tmp_path / "made", fresh=True, **wrong)
    assert contents(tmp_path) == before


def test_a_folder_with_other_things_is_refused_before_training(fit, tmp_path, base, no_training):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    no_training()
    with pytest.raises(ValueError, match="notes has files, but no checkpoint"):
        fit(tmp_path / "notes")
    with pytest.raises(ValueError, match=r"diary\.txt is not a folder; expected a folder"):
        fit(tmp_path / "notes" / "diary.txt")
    with pytest.raises(ConfigError, match=r"output and base are both .*; expected another folder"):
        fit(base)


def test_steps_and_evaluations_of_an_epoch(fit, tmp_path, capsys):
    fit(tmp_path / "a", epochs=1.5)  # 6 steps, 4 an epoch
    out = capsys.readouterr().out
    assert "step 4 of 6, validation" in out
    assert out.count(", validation: accuracy") == 2
    fit(tmp_path / "b", epochs=2.0, accumulate=3)  # 8 batches, 3 an update, 4 / 3 an epoch
    out = capsys.readouterr().out
    assert "3 steps, about 1 per epoch" in out
    assert out.count(", validation: accuracy") == 3


def test_options_reach_the_loop(fit, tmp_path, monkeypatch):
    seen = {}

    def spy(model, batches, loss, training, **options):
        seen.update(vars(training))
        return original(model, batches, loss, training, **options)

    original = loop.train
    monkeypatch.setattr(loop, "train", spy)
    compiled = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda module: compiled.append(module))
    options = {"clip": 0.7, "accumulate": 2, "ema": 0.8, "compile": True, "evaluate_every": 3}
    fit(tmp_path / "made", precision="bfloat16", schedule="linear", warmup=0.25, **options)
    for name, value in options.items():
        assert seen[name] == value
    assert seen["precision"] == "bfloat16"
    assert len(compiled) == 1


def test_curves_are_written(fit, tmp_path):
    fit(tmp_path / "made", tensorboard=True)
    (events,) = (tmp_path / "made.training" / "tensorboard").glob("events.*")
    content = events.read_bytes()
    for tag in (b"loss", b"learning rate", b"accuracy", b"macro F1"):
        assert tag in content


def test_names_of_classes_are_printed_as_they_are(fit, tmp_path, capsys):
    names = {"good": "[bold]:smile:", "bad": "[/x]"}
    rows = [(text, names[label]) for text, label in ROWS]
    made = fit(tmp_path / "made", data={"train": (str(write_table(tmp_path / "odd.csv", rows)),)})
    assert "2 classes: [/x] (12), [bold]:smile: (12)\n" in capsys.readouterr().out
    assert TextClassifier.load(made).labels.names == ("[/x]", "[bold]:smile:")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_layers": 1},
            "n_layers is set, but finetuning.train = all; expected finetuning.train = top",
        ),
        ({"train": "top", "unfreeze_every": 2}, r"expected finetuning\.train = gradual, the only"),
        ({"lora": LoRAConfig(rank=4)}, r"finetuning\.lora is set, .*train = lora"),
        ({"train": "gradual", "unfreeze_every": 0}, "unfreeze_every = 0; expected at least 1"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FineTuning(**options)


def test_more_layers_than_there_are(fit, tmp_path):
    with pytest.raises(ConfigError, match=r"n_layers = 4, but this .* has 3"):
        fit(tmp_path / "made", finetuning=FineTuning(train="top", n_layers=4))
    assert not (tmp_path / "made.training").exists()


def test_the_new_head_trains_beside_any_lora(fit, base, tmp_path):
    """Of --finetuning.lora.train other names, or none, the head is never left at random."""
    made = fit(tmp_path / "made", finetuning=FineTuning(train="lora", lora=LoRAConfig(rank=2)))
    assert changed_by("lora", made, base) == {"classifier.weight", "classifier.bias"} | {
        f"encoder.layer.{i}.attention.self.{x}.weight" for i in range(3) for x in ("query", "value")
    }


QKV = [sys.executable, "-c", "from qkv.cli import main; raise SystemExit(main())"]
# The signal is sent in the moment of the line: from beside, a run on a busy machine may be over.
STOPPED_AT_STEP_10 = """
import os, signal, sys
write = sys.stdout.write
def watch(text):
    written = write(text)
    if text.startswith("step 10 of"):
        os.kill(os.getpid(), signal.SIGTERM)
    return written
sys.stdout.write = watch
"""


def test_sigterm_saves_says_where_and_the_same_command_goes_on(tmp_path, base, table):
    recipe, made = write_recipe(tmp_path, base=base, data=table)
    options = ["--training.epochs", "20", "--training.evaluate_every", "10"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    how = {"capture_output": True, "text": True, "env": environment}
    command = [*QKV, "train", recipe, *options]
    stopping = [*QKV[:2], STOPPED_AT_STEP_10 + QKV[2], *command[3:]]
    stopped = subprocess.run(stopping, **how, check=False)
    assert stopped.returncode == 143
    kept = tmp_path / "made.training"
    (saved,) = (kept / "checkpoints").glob("step-*")
    step = int(saved.name.removeprefix("step-"))
    assert 10 <= step < 80
    assert stopped.stderr == (
        f"qkv: stopped at step {step} of 80 as requested, and saved in {kept}/checkpoints; "
        "the same command again continues from there\n"
    )
    assert not made.exists()

    done = subprocess.run(command, **how, check=True)
    assert f"{kept} has {step} of 80 steps, which are not repeated" in done.stdout
    assert "step 10 of" not in done.stdout
    assert done.stderr == ""
    with unchecked():
        assert main(["train", recipe, *options, "--output", str(tmp_path / "whole")]) == 0
    assert_same_run(made, tmp_path / "whole")


def test_pairs_of_texts_from_the_first_table_to_the_last_answer(fit, tmp_path, capsys):
    """The class is whether both name the same thing: no text alone tells."""
    rows = [
        (f"the {thing} was {word}", "same" if thing == other else "other", f"a {other} .")
        for thing, other in itertools.product(("film", "soup", "book"), repeat=2)
        for word in ("fine", "dull", "rude", "clever")
    ]
    table = write_table(tmp_path / "pairs.csv", rows, ("text", "label", "next"))
    data = {"train": (str(table),), "columns": {"second": "next"}, "validation_fraction": 0.25}
    folder = fit(tmp_path / "made", data=data, max_length=19, epochs=1.0)
    found = results(folder)
    assert found["recipe"]["data"]["columns"] == {"second": "next"}
    assert json.loads((folder / "tokenizer_config.json").read_text())["text_pairs"] is True
    classifier = TextClassifier.load(folder)
    held_out = read_splits(TASK, DataConfig(**data)).validation
    assert classifier.evaluate(held_out).accuracy == found["validation"]["accuracy"]

    capsys.readouterr()
    assert (
        main(["classify", "-m", str(folder), rows[0][0], rows[1][0], "--second", rows[0][2]]) == 0
    )
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    said = classifier([rows[0][0], rows[1][0]], [rows[0][2]] * 2)
    assert [(one[0], one[2], one[3]) for one in lines] == [
        (one.label, one.text, one.second) for one in said
    ]
    # The model remembers the columns of its training data, which --columns replaces.
    other = write_table(tmp_path / "other.csv", rows, ("text", "label", "b"))
    for source in ([str(table)], [str(other), "--columns.second", "b"]):
        assert main(["classify", "-m", str(folder), "--json", "--file", *source]) == 0
        shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(one["text"], one["second"]) for one in shown] == [(a, c) for a, _, c in rows]
        assert main(["evaluate", str(folder), "--json", "--data", *source]) == 0
        assert json.loads(capsys.readouterr().out)["count"] == len(rows)

    assert main(["classify", "-m", str(folder), "a text"]) == 2
    assert "the inputs are single texts; this model classifies pairs" in capsys.readouterr().err
    assert main(["classify", "-m", str(folder), "a text", "--second", " "]) == 2
    assert "--second is empty" in capsys.readouterr().err
    column = ["--second", "a soup", "--columns.second", "b"]
    assert main(["classify", "-m", str(folder), "--file", str(other), *column]) == 2
    assert "names a column of a table; expected --file TABLE, and no" in capsys.readouterr().err
    assert main(["evaluate", str(folder), "--data", str(other)]) == 2
    assert "has no column 'next'" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["all", "lora"])
def test_a_calibrated_run_differs_by_its_temperature_alone(fit, tmp_path, way):
    options = {"finetuning": FineTuning(train=way), "evaluate_every": 8}
    plain, scaled = (
        fit(tmp_path / name, calibrate=name == "scaled", **options) for name in ("plain", "scaled")
    )
    before, after = tensors(plain), tensors(scaled)
    assert before.keys() == after.keys()
    ratios = [
        before[f"classifier.{name}"] / after[f"classifier.{name}"] for name in ("weight", "bias")
    ]
    assert ratios[0].std() < 1e-5 * ratios[0].mean()
    assert float(ratios[0].mean()) != pytest.approx(1, abs=1e-3)
    assert float(ratios[1].mean()) == pytest.approx(float(ratios[0].mean()), rel=1e-5)
    rest = [name for name in before if not name.startswith("classifier.")]
    assert all(torch.equal(before[name], after[name]) for name in rest)
    scores = [results(folder)["validation"] for folder in (plain, scaled)]
    assert scores[0]["accuracy"] == scores[1]["accuracy"]
    assert scores[1]["loss"] < scores[0]["loss"]
    if way == "lora":
        adapter = load_file(tmp_path / "scaled.training" / "adapter" / "adapter_model.safetensors")
        [head] = [tensor for name, tensor in adapter.items() if name.endswith("classifier.weight")]
        assert torch.equal(head, after["classifier.weight"])
