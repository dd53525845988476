"""The Hub, without a network: what is asked of it, and what is said when it cannot be had."""

import sys

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from qkv.checkpoints.hub import HUB_ID, download
from qkv.errors import DataError, MissingDependencyError


def test_safetensors_and_companions_are_asked_for_and_no_pickle(tmp_path, monkeypatch):
    asked = []

    def snapshot(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert download("google-bert/bert-base-uncased") == tmp_path
    name, patterns = asked[0]
    assert name == "google-bert/bert-base-uncased"
    assert {"*.safetensors", "*.json", "*.txt", "*.model"} <= set(patterns)
    assert not any(pattern.endswith(("bin", "pt", "*")) for pattern in patterns)


def test_no_network_and_nothing_cached(monkeypatch):
    def snapshot(name, *, allow_patterns):
        raise LocalEntryNotFoundError("no way to the Hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(DataError, match=r"'a/b' is not a folder, .* no way to the Hub"):
        download("a/b")


def test_a_hub_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"huggingface_hub: pip install 'qkv\[hub\]'"):
        download("a/b")


@pytest.mark.parametrize("name", ["a/b", "google-bert/bert_base.v2"])
def test_hub_ids(name):
    assert HUB_ID.fullmatch(name)


@pytest.mark.parametrize("name", ["a", "a/b/c", "/a/b", "../b/", "a b/c", ""])
def test_what_is_no_hub_id(name):
    assert not HUB_ID.fullmatch(name)
