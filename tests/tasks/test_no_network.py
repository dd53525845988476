"""What reaches the network: the name of a model that a user gives as one, and nothing else."""

import json
import re
import socket
from dataclasses import replace

import huggingface_hub
import pytest
from tests.tasks.small import write_base, write_classifier

from qkv.checkpoints.adapters import save_adapter
from qkv.cli import main
from qkv.data.labels import Labels
from qkv.errors import DataError
from qkv.models.lora import LoRAConfig, add_lora
from qkv.tasks.classification import TextClassifier
from qkv.tasks.conversion import convert_model, read_model
from qkv.tasks.frozen_encoder import BASE, write_decoder
from qkv.tasks.pretrained import load, save
from qkv.tasks.summarization import DecodingConfig, Summarizer
from qkv.tasks.task import task

NOWHERE = "an-owner/a-base"


@pytest.fixture
def asked(monkeypatch):
    """What the Hub is asked for; a socket that is opened is a failure."""
    names = []

    def snapshot(name, **options):
        names.append(name)
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network in tests")

    def connect(*arguments, **options):
        raise AssertionError(f"a connection was opened: {arguments}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    return names


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "bert")


@pytest.fixture
def adapted(base, tmp_path):
    """A classifier whose adapter names a base that may be on the Hub."""
    whole = write_classifier(tmp_path / "whole", Labels(["bad", "good"]), base)
    classifier = TextClassifier.load(whole)
    add_lora(classifier.model, LoRAConfig(rank=3, train=("classifier",)))
    folder = tmp_path / "adapted"
    save_adapter(classifier.model, folder, model_type="bert", base_model=NOWHERE)
    (folder / "config.json").write_bytes((whole / "config.json").read_bytes())
    return folder


@pytest.fixture
def decoder(base, tmp_path):
    """A summarizer's decoder, which names an encoder that may be on the Hub."""
    made = Summarizer.fresh(base, DecodingConfig(max_source=13)).loaded
    save(replace(made, config=made.config | {BASE: NOWHERE}), tmp_path / "made")
    (tmp_path / "decoder").mkdir()
    write_decoder(tmp_path / "made", tmp_path / "decoder")
    return tmp_path / "decoder"


TYPED = ("yes/no", "10/10", "owner/name", "either/or", "a.b/c-d")


@pytest.mark.parametrize("text", TYPED)
def test_a_text_with_a_slash_is_classified(asked, base, tmp_path, capsys, text):
    model = write_classifier(tmp_path / "model", Labels(["bad", "good"]), base)
    assert main(["classify", text, "a fine film", "--model", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[2] for line in lines] == [text, "a fine film"]
    assert asked == []


@pytest.mark.parametrize("command", ["translate", "summarize", "classify", "generate", "recognize"])
def test_no_text_of_any_command_asks_the_hub(asked, command, capsys):
    main([command, *TYPED])
    main([command, TYPED[0]])
    assert asked == []
    capsys.readouterr()


def test_no_question_and_no_passage_asks_the_hub(asked, capsys):
    main(["answer", *TYPED, "--context", "owner/name"])
    main(["answer", "owner/name"])
    assert asked == []
    capsys.readouterr()


def test_a_model_that_is_named_as_one_is_looked_up(asked, tmp_path, capsys):
    assert main(["classify", "a film", "-m", "owner/name"]) == 2
    assert main(["evaluate", "owner/name", "--data", "reviews"]) == 2
    assert main(["inspect", "owner/name"]) == 2
    assert main(["convert", "owner/name", str(tmp_path / "new")]) == 2
    with pytest.raises(DataError, match="'owner/name' is not a folder"):
        load("owner/name")
    assert asked == ["owner/name"] * 5
    capsys.readouterr()


SAID = (
    f"names the base '{NOWHERE}', which is neither a folder nor a shipped model (all-MiniLM-L6-v2"
)
ALLOWED = "looked up on the Hugging Face Hub only with --allow-download (allow_download=True)"


def reads(folder, tmp_path):
    """Each way in Python to read a model, by whether downloads are allowed."""
    kind = "classify" if folder.name == "adapted" else "summarize"
    yield lambda **options: task(kind, str(folder), **options)
    if kind == "classify":
        yield lambda **options: load(folder, **options)
        yield lambda **options: read_model(folder, **options)
        yield lambda **options: convert_model(folder, tmp_path / "new", **options)
        yield lambda **options: TextClassifier.load(folder, **options)
    else:
        yield lambda **options: Summarizer.load(folder, **options)


@pytest.mark.parametrize("which", ["adapted", "decoder"])
def test_a_base_that_a_file_names_is_downloaded_where_that_is_allowed(
    asked, request, tmp_path, which
):
    folder = request.getfixturevalue(which)
    for n, read in enumerate(reads(folder, tmp_path), start=1):
        with pytest.raises(DataError, match=re.escape(SAID)) as raised:
            read()
        assert ALLOWED in str(raised.value)
        assert len(asked) == n - 1
        with pytest.raises(DataError, match="no network in tests"):
            read(allow_download=True)
        assert asked == [NOWHERE] * n


def test_the_command_line_says_so_and_has_the_option(asked, adapted, decoder, tmp_path, capsys):
    evaluate = ["evaluate", str(adapted), "--data", "reviews"]
    for command in (
        ["classify", "a film", "-m", str(adapted)],
        ["summarize", "a film", "-m", str(decoder)],
        ["inspect", str(adapted)],
        ["convert", str(adapted), str(tmp_path / "new")],
        evaluate,
    ):
        assert main(command) == 2
        assert ALLOWED in capsys.readouterr().err
        assert asked == []
        for allowed in ("--allow-download", "--allow_download"):
            assert main([*command, allowed]) == 2
            assert "no network in tests" in capsys.readouterr().err
            assert asked == [NOWHERE]
            asked.clear()


def test_a_base_here_needs_no_permission(asked, adapted, base, monkeypatch):
    config = json.loads((adapted / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (adapted / "adapter_config.json").write_text(json.dumps(config))
    assert TextClassifier.load(adapted)("a film").label in ("bad", "good")
    assert asked == []
