"""`qkv train RECIPE`: what a folder holds afterwards, and what is refused before."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from tests.helpers import randomized, right_mask
from tests.tasks.small import sentences, write_base, write_recipe, write_table

from qkv.cli import main
from qkv.errors import ConfigError, DataError
from qkv.models.bert import Bert, BertConfig
from qkv.models.heads import SequenceClassifier
from qkv.models.lora import LoRAConfig
from qkv.tasks.classification import TASK, ClassificationRecipe
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.recipes import find_recipe, read_recipe, shipped_recipes
from qkv.tasks.splits import DataConfig
from qkv.tasks.train import open_run
from qkv.training.loop import recompute_activations
from qkv.training.settings import Training


class Recipes:
    """Command lines of `qkv train` about a small recipe of classification."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys
        table = write_table(folder / "my.csv", sentences(32))
        base = write_base(folder / "base")
        self.recipe, self.made = write_recipe(folder, base=base, data=table)

    def write(self, **changes):
        """Another recipe: fields replaced, or taken out where None."""
        content = yaml.safe_load(Path(self.recipe).read_text()) | changes
        other = self.folder / "other.yaml"
        other.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
        return str(other)

    def refused(self, *arguments):
        """What is said of a command line that is wrong, in one line, before anything is made."""
        status = main(["train", *map(str, arguments)])
        captured = self.capsys.readouterr()
        assert status == 2
        assert captured.err.startswith("qkv: error: ")
        assert captured.err.count("\n") == 1
        assert not self.made.exists()
        assert not self.made.with_name("made.training").exists()
        return captured.err


@pytest.fixture
def classify(tmp_path, capsys):
    return Recipes(tmp_path, capsys)


def test_the_printed_config_is_complete_and_is_accepted_again(classify, tmp_path, capsys):
    options = ["--training.learning_rate", "5e-4", "--finetuning.train", "lora"]
    options += ["--finetuning.lora.rank", "3", "--print-config"]
    assert main(["train", classify.recipe, *options]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    content = yaml.safe_load(printed.read_text())
    for part, kind in (("data", DataConfig), ("training", Training), ("finetuning", FineTuning)):
        assert content[part].keys() == {field.name for field in fields(kind)}
    assert content["finetuning"]["lora"].keys() == {field.name for field in fields(LoRAConfig)}
    assert content["task"] == "classify"
    assert content["training"]["learning_rate"] == 5e-4
    assert content["training"]["epochs"] == 2

    assert main(["train", str(printed)]) == 0
    said = json.loads((classify.made / "results.json").read_text())["recipe"]
    assert said["finetuning"]["lora"]["rank"] == 3
    for part in ("data", "training", "finetuning"):
        assert said[part] == json.loads(json.dumps(content[part]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--training.stepz 5", "--training.stepz"),
        ("--stepz 5", "--stepz"),
        ("--finetuning.lora.ranks 5", "--finetuning.lora.ranks"),
        ("--training.epochs many", "--training.epochs"),
        ("--training.batch_size 2.5", "--training.batch-size = 2.5; expected a whole number"),
        ("--training.schedule steep", "--training.schedule"),
        ("--finetuning.train some", "--finetuning.train"),
        ("--fresh perhaps", "perhaps"),
        ("--training.accumulate 0", "training.accumulate = 0; expected at least 1"),
        ("--training.schedule linear --training.warmup 8", "warmup is 8 of 8 steps"),
        ("--finetuning.n_layers 1", "finetuning.n_layers is set, but finetuning.train = all"),
        ("--device abacus", 'device is "abacus", but the accelerator here is'),
        ("--base nothing", "'nothing' is neither a folder, nor a shipped model"),
        ("--data.train no.csv", "no.csv"),
        ("--data.columns.text review", "has no column 'review'; its columns are 'text', 'label'"),
        ("--max_length 99", "max_length = 99, but this SequenceClassifier has learned"),
    ],
)
def test_an_option_that_is_wrong_is_named(classify, options, words):
    assert words in classify.refused(classify.recipe, *options.split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"epochs": 1, "stepz": 5}}, "stepz"),
        ({"trainings": {"epochs": 1}}, "trainings"),
        ({"training": {"epochs": "many"}}, "epochs"),
        ({"data": {"pairs": 300}}, "pairs"),
        ({"data": ["my.csv"]}, "data is a list; expected fields with names"),
        ({"task": "recognize"}, 'Unknown option: "[max_length]"'),
        (
            {"task": None},
            "has task: None; expected one of translate, summarize, answer, classify, tag",
        ),
        ({"task": "clasify"}, "has task: clasify; expected one of translate, summarize"),
        ({"task": ["classify"]}, "has task: ['classify']; expected one of"),
        ({"output": None}, "output"),
    ],
)
def test_a_recipe_that_is_wrong_is_answered_by_the_field(classify, changes, words):
    assert words in classify.refused(classify.write(**changes))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read as a recipe: [Errno 2] No such file"),
        ("task: [classify\nbase: x", "cannot be read as a recipe: while parsing"),
        (b"task: caf\xe9", "cannot be read as a recipe: 'utf-8' codec can't decode"),
        ("", "has task: None; expected one of translate, summarize"),
        ("- task\n- classify", "has task: None; expected one of"),
    ],
)
def test_a_file_that_is_no_recipe(classify, content, words):
    file = classify.folder / "odd.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = classify.refused(file)
    assert words in said
    assert str(file) in said


def test_the_recipe_comes_first(classify):
    for arguments in ([], ["--data.train", "x", classify.recipe]):
        said = classify.refused(*arguments)
        assert said == "qkv: error: the recipe comes first, as in qkv train classify\n"


def test_an_error_says_where_the_options_are_listed(classify):
    said = classify.refused(classify.recipe, "--training.stepz", 5)
    assert said.endswith(f"(qkv train {classify.recipe} --help lists all options)\n")


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_recipes_that_ship_are_accepted_by_name(name, capsys):
    assert main(["train", name, "--print-config"]) == 0
    task, _, fields = read_recipe(find_recipe(name))
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["task"] == task
    for section, content in fields.items():
        if isinstance(content, dict):
            train = [content["train"]] if isinstance(content.get("train"), str) else None
            content |= {"train": train} if train and section == "data" else {}
            for name, value in content.items():
                if isinstance(value, dict):
                    value = printed[section][name] | value
                assert printed[section][name] == value


def test_a_recipe_that_is_not_there_is_named_with_what_is_near(classify, capsys):
    assert "'clasify' is neither a YAML file nor" in classify.refused("clasify")
    assert "did you mean classify?" in classify.refused("clasify")
    assert "shipped are aeslc, answerer, chat, classify" in classify.refused("nothing_near")
    assert main(["train", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == shipped_recipes()


def recipe(output, **fields):
    return ClassificationRecipe(output=output, **fields)


def test_paths_in_a_recipe_are_recorded_as_text(tmp_path):
    data = DataConfig(train="x.csv", data_dir=Path("some") / "where")
    run = open_run(TASK, recipe(tmp_path / "made", data=data))
    assert run.recipe["data"]["data_dir"] == str(Path("some") / "where")
    assert run.recipe["task"] == "classify"
    assert not {"output", "device", "fresh"} & set(run.recipe)
    assert run.on_data("abc").recipe["data_checksum"] == "abc"
    assert run.folder == tmp_path / "made.training"


def test_the_seed_is_set_where_a_run_begins(tmp_path):
    drawn = []
    for seed in (3, 3, 4):
        training = Training(steps=2, batch_size=3, seed=seed)
        open_run(TASK, recipe(tmp_path, training=training))
        drawn.append(torch.rand(5).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_working_folder_is_no_place_for_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_run(TASK, recipe(Path("."))).output == tmp_path
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="has files, but no checkpoint"):
        open_run(TASK, recipe(Path(".")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base": None}, "base = null with finetuning.train = all; expected base"),
        ({"base": "out"}, "output and base are both out; expected another folder"),
        (
            {"training": Training(steps=3)},
            "training.batch_size = None and training.max_tokens = None; expected one of the two",
        ),
    ],
)
def test_what_is_refused_before_anything_is_read(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        recipe(Path("out"), **fields).check()


def encoder(dropout):
    sizes = {"vocab_size": 19, "d_model": 22, "n_heads": 11, "d_ff": 29, "n_layers": 3}
    rates = {"dropout": dropout, "attention_dropout": dropout, "head_dropout": 0.0}
    config = BertConfig(n_positions=23, **sizes, **rates)
    return randomized(SequenceClassifier(Bert(config), 5)).train()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_gradients_and_keep_less(dropout):
    tokens, mask = torch.randint(19, (3, 17)), right_mask([17, 5, 11], 17)
    gradients, kept = [], []
    for recompute in (False, True):
        model = encoder(dropout)
        if recompute:
            recompute_activations(model)
        torch.manual_seed(7)
        saved = []
        pack = torch.autograd.graph.saved_tensors_hooks(
            lambda x, saved=saved: saved.append(x.nbytes) or x, lambda x: x
        )
        with pack:
            loss = model(tokens, token_mask=mask).logsumexp(-1).sum()
        kept.append(sum(saved))
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-12)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients[0].values())
    assert kept[1] < kept[0] / 3


def printed(capsys, *arguments):
    assert main(["train", *arguments, "--print-config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_an_option_replaces_the_recipes_alternative(capsys):
    training = printed(capsys, "classify", "--training.steps", "3")["training"]
    assert (training["steps"], training["epochs"]) == (3, None)
    training = printed(capsys, "classify", "--training.max-tokens=99")["training"]
    assert (training["max_tokens"], training["batch_size"]) == (99, None)
    content = printed(capsys, "tatoeba", "--base", "translator-en-de")
    assert content["base"] == "translator-en-de"
    assert content["model"] == printed(capsys, "multi30k", "--base", "x")["model"]


def test_data_in_the_output_folder_is_never_deleted(classify, tmp_path):
    data = tmp_path / "made" / "mine.csv"
    data.parent.mkdir()
    data.write_text("text,label\n")
    run = recipe(tmp_path / "made", data=DataConfig(train=str(data)))
    (tmp_path / "made" / "config.json").write_text("{}")
    (tmp_path / "made" / "model.safetensors").write_text("")
    with pytest.raises(ConfigError, match=r"mine\.csv, which lies in the output folder .*another"):
        open_run(TASK, run)
    assert data.exists()


def test_another_way_to_fine_tune_replaces_the_settings_of_the_recipes(capsys):
    assert main(["train", "chat", "--finetuning.train", "all", "--print-config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)["finetuning"]
    assert (shown["train"], shown["lora"]["rank"]) == ("all", 8)  # 16 in the recipe
    assert main(["train", "chat", "--finetuning.lora.rank", "5", "--print-config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)["finetuning"]
    assert (shown["train"], shown["lora"]["rank"]) == ("lora", 5)
