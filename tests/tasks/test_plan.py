"""`qkv plan RECIPE`: the numbers of a small recipe, and what is refused."""

import json

import pytest
import torch
from tests.tasks.small import sentences, write_base, write_recipe, write_table

from qkv.cli import main
from qkv.errors import ConfigError
from qkv.tasks.means import machine_memory, measured_flops, read_size
from qkv.tasks.plan import without_numbers
from qkv.tasks.pretrained import load


@pytest.fixture
def recipe(tmp_path):
    base = write_base(tmp_path / "base")
    path, made = write_recipe(
        tmp_path, base=base, data=write_table(tmp_path / "my.csv", sentences(32))
    )
    yield path
    assert not made.exists()  # a plan writes nothing
    assert not made.with_name("made.training").exists()


def planned(capsys, *arguments):
    assert main(["plan", *arguments, "--flops", "7e9", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_plan_as_data(recipe, capsys, tmp_path):
    found = planned(capsys, recipe, "--gpus", "2", "--memory", "1GB", "--utilization", "0.5")
    base = load(str(tmp_path / "base")).model.config
    assert found["model"]["class"] == "SequenceClassifier"
    assert found["model"]["sizes"]["d_model"] == base.d_model
    assert found["model"]["trained"] == found["model"]["parameters"]
    cases = [(one["sharding"], one["precision"]) for one in found["memory"]]
    precisions = "float32", "bfloat16"
    assert cases == [(how, one) for one in precisions for how in ("none", "fsdp2")]
    n_bytes = 4 * found["model"]["parameters"]
    for one in found["memory"]:
        assert one["gradients"] == n_bytes // (1 if one["sharding"] == "none" else 2)
        parts = [one[name] for name in ("weights", "copies", "gradients", "optimizer")]
        assert one["total"] == sum(parts) + one["exchange"] + one["activations"]
    assert found["changes"] == []
    time, machine = found["time"], found["machine"]
    assert (machine["processes"], machine["memory"], machine["measured"]) == (2, 10**9, False)
    assert time["steps_per_day"] == pytest.approx(2 * 7e9 * 0.5 * 86400 / time["flops_per_step"])
    assert time["days"] == pytest.approx(time["steps"] / time["steps_per_day"])


def test_changes_follow_each_other_until_the_recipe_fits(recipe, capsys):
    [alone] = [
        one["total"] for one in planned(capsys, recipe)["memory"] if one["precision"] == "float32"
    ]
    changes = planned(capsys, recipe, "--memory", "1KB")["changes"]
    assert [one["change"] for one in changes] == [
        "--training.recompute",
        "--finetuning.train lora",  # no batch is small enough
    ]
    assert not any(one["fits"] for one in changes)
    assert changes[-1]["total"] < alone
    [recomputed, *_] = changes
    assert recomputed["total"] <= alone
    assert planned(capsys, recipe, "--memory", f"{alone // 1000 + 1}KB")["changes"] == []


def test_fields_of_the_recipe_and_another_size(recipe, capsys):
    small = planned(capsys, recipe, "--training.batch_size", "3", "--finetuning.train", "head")
    assert small["batch"]["rows"] == 3
    assert small["model"]["trained"] < small["model"]["parameters"]
    large = planned(capsys, recipe, "--parameters", "2e6")
    assert large["model"]["parameters"] == pytest.approx(2e6, rel=0.2)
    assert large["model"]["rule"].startswith("one layer for each 128 of the width")


def test_tables_for_people(recipe, capsys):
    assert main(["plan", recipe, "--memory", "1GB", "--flops", "1e9"]) == 0
    text = capsys.readouterr().out
    for part in (
        "allocators keep more",
        "memory of one process at its peak",
        "activations",
        "steps per day",
        "fits into",
    ):
        assert part in text
    assert main(["plan", recipe, "--memory", "1KB", "--gpus", "2", "--flops", "1e9"]) == 0
    text = capsys.readouterr().out
    assert "what to change, one after the other" in text
    assert "--training.sharding fsdp2" in text
    assert "does not fit into 1.0 kB, with no change either" in text


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--gpus", "0", "--gpus = 0; expected at least 1"),
        ("--gpus", "1.5", "--gpus = 1.5; expected a whole number"),
        ("--gpus", "1000000", "1,000,000 processes share a batch of "),
        ("--memory", "80", "--memory 80; expected a number above 0 with its unit, such as 80GB"),
        ("--memory", "0GB", "--memory 0GB; expected a number above 0 with its unit"),
        ("--utilization", "2", "--utilization = 2.0; expected a share above 0, at most 1"),
        ("--flops", "0", "--flops = 0.0; expected at least 1"),
        ("--flops", "inf", "--flops = inf; expected a finite number, such as 989e12"),
        ("--parameters", "nan", "--parameters = nan; expected at least 1"),
        ("--parameters", "inf", "--parameters = inf; expected at most 1e+15"),
        ("--parameters", "101", "the vocabulary and the positions are not scaled"),
    ],
)
def test_what_is_refused(recipe, capsys, option, value, message):
    assert main(["plan", recipe, option, value]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("verb", ["plan", "train"])
def test_help_says_where_the_options_are(capsys, verb):
    assert main([verb, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"qkv {verb} RECIPE --help lists" in shown


def test_recipes_that_do_not_exist(capsys):
    assert main(["plan", "nothing"]) == 2
    assert "'nothing' is neither a YAML file nor the name" in capsys.readouterr().err
    assert main(["plan"]) == 2
    assert "the recipe comes first, as in qkv plan classify" in capsys.readouterr().err


def test_sizes_have_units():
    assert read_size("80GB") == 80 * 10**9
    assert read_size(" 1.5 gib ") == 3 * 2**29
    with pytest.raises(ConfigError, match="--memory GB; expected a number"):
        read_size("GB")


def test_this_machine():
    assert machine_memory() > 10**8
    assert measured_flops(0.01) > 10**6


def test_a_model_without_numbers_keeps_its_ties():
    layer, tied = torch.nn.Linear(3, 5), torch.nn.Linear(3, 5)
    tied.weight = layer.weight
    empty = without_numbers(torch.nn.Sequential(layer, tied))
    assert all(p.is_meta for p in empty.parameters())
    assert empty[0].weight is empty[1].weight
    assert not layer.weight.is_meta
