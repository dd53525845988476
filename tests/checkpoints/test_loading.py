"""What load_checkpoint is told, and what it advises where something is missing."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.folders import write

from qkv.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from qkv.checkpoints.reader import open_weights
from qkv.errors import ConfigError, DataError
from qkv.tasks.pretrained import load, save


def rewrite(folder, keep):
    """Put only some tensors into a folder."""
    tensors = {name: tensor.clone() for name, tensor in open_weights(folder).items() if keep(name)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change(folder, **said):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))


def test_a_field_that_an_expert_ignores(tmp_path):
    one = write(tmp_path / "bert")
    change(tmp_path / "bert", use_warp_drive=False, is_decoder=True)
    with pytest.raises(ConfigError, match=r"use_warp_drive = False: .*ignore=\['use_warp_drive'\]"):
        load(tmp_path / "bert", ignore="is_decoder")
    with pytest.raises(ConfigError, match="is_decoder = True is not implemented"):
        load(tmp_path / "bert", ignore=["use_warp_drive"])
    loaded = load(tmp_path / "bert", ignore=["use_warp_drive", "is_decoder"])
    assert torch.equal(loaded.model.embedding.weight, one.embedding.weight)
    save(loaded, tmp_path / "saved")  # as a model that has no such field
    assert load(tmp_path / "saved").config == loaded.config
    assert "use_warp_drive" not in loaded.config


def test_what_is_ignored_must_be_there(tmp_path):
    write(tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"ignore = \['us_warp'\]: .*config.json has no such"):
        load_checkpoint(tmp_path / "bert", ignore=["us_warp"])


def test_a_model_that_was_saved_without_its_pooler(tmp_path):
    write(tmp_path / "bert")
    rewrite(tmp_path / "bert", lambda name: "pooler" not in name)
    with pytest.raises(
        DataError, match=r"saved without its pooler\. new=\['pooler'\] initializes one"
    ):
        load_checkpoint(tmp_path / "bert")
    loaded = load_checkpoint(tmp_path / "bert", new=["pooler"])
    tokens = torch.tensor([[3, 5, 7]])
    save_checkpoint(loaded, tmp_path / "saved")
    again = load_checkpoint(tmp_path / "saved").model
    assert torch.equal(loaded.model(tokens), again(tokens))


@pytest.mark.parametrize("model_type", ["llama", "mistral", "marian"])
def test_a_language_model_without_an_output_layer_gets_none_at_random(tmp_path, model_type):
    write(tmp_path / "x", model_type)
    change(tmp_path / "x", tie_word_embeddings=False)
    rewrite(tmp_path / "x", lambda name: not name.startswith("lm_head"))
    with pytest.raises(DataError, match=r"lm_head\.weight .*lack tie_word_embeddings = true") as e:
        load_checkpoint(tmp_path / "x")
    assert "new=" not in str(e.value)


def test_a_layer_that_is_missing_is_not_to_be_trained_anew(tmp_path):
    write(tmp_path / "bert")
    change(tmp_path / "bert", num_hidden_layers=4)
    with pytest.raises(DataError, match=r"layer\.3\..*such as its number of layers") as error:
        load_checkpoint(tmp_path / "bert")
    assert "new=" not in str(error.value)
