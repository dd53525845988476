"""Models from files and back: heads, spellings, dtypes, memory."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file
from tests.checkpoints.folders import N_CLASSES, contents, model, write
from tests.checkpoints.tiny import TINY
from torch import nn

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.reader import open_weights
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError, DataError
from qkv.models.heads import MaskedLM, SequenceClassifier, TokenClassifier

ALL = [
    pytest.param(family.model_type, shape.name, id=f"{family.model_type}-{shape.name}")
    for family in FAMILIES.values()
    for shape in family.architectures
]


def equal(first, second):
    first, second = dict(first.named_parameters()), dict(second.named_parameters())
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def rewrite(folder, change, metadata=None):
    """Put other tensors into a folder."""
    tensors = {name: tensor.clone() for name, tensor in open_weights(folder).items()}
    save_file(change(tensors), folder / "model.safetensors", metadata or {"format": "pt"})


@pytest.mark.parametrize(("model_type", "architecture"), ALL)
def test_load_save_load_is_the_identity(model_type, architecture, tmp_path):
    one = write(tmp_path / "first", model_type, architecture)
    loaded = load_checkpoint(tmp_path / "first")
    assert type(loaded.model) is type(one)
    assert loaded.model.config == one.config
    assert not loaded.model.training
    assert equal(loaded.model, one)
    save_checkpoint(loaded, tmp_path / "second")
    assert contents(tmp_path / "second") == contents(tmp_path / "first")
    again = load_checkpoint(tmp_path / "second")
    assert equal(again.model, one)


def test_a_model_becomes_the_first_family_that_can_say_what_it_is(tmp_path):
    for model_type in ("bert", "roberta", "distilbert", "qkv_transformer", "qkv_rnn"):
        save_checkpoint(Checkpoint(model(model_type)), tmp_path / model_type)
        assert load_checkpoint(tmp_path / model_type).config["model_type"] == model_type


def test_a_head_that_no_config_describes_is_refused(tmp_path):
    encoder = model("bert")
    with pytest.raises(ConfigError, match="SequenceClassifier cannot be saved as any family"):
        save_checkpoint(Checkpoint(SequenceClassifier(encoder, 3, pool="mean")), tmp_path / "x")
    with pytest.raises(ConfigError, match="Linear cannot be saved as bert"):
        save_checkpoint(Checkpoint(nn.Linear(2, 3), {"model_type": "bert"}), tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_changed_config_is_written(tmp_path):
    write(tmp_path / "bert")
    loaded = load_checkpoint(tmp_path / "bert")
    other = model("bert", layer_norm_eps=1e-7)
    save_checkpoint(dataclasses.replace(loaded, model=other), tmp_path / "other")
    raw = json.loads((tmp_path / "other" / "config.json").read_text())
    assert raw["layer_norm_eps"] == 1e-7
    assert load_checkpoint(tmp_path / "other").model.config == other.config


def test_what_config_json_says_besides_is_kept(tmp_path):
    write(tmp_path / "bert")
    raw = json.loads((tmp_path / "bert" / "config.json").read_text())
    raw |= {"_name_or_path": "somewhere", "transformers_version": "4.8.2", "torch_dtype": "float32"}
    (tmp_path / "bert" / "config.json").write_text(json.dumps(raw))
    save_checkpoint(load_checkpoint(tmp_path / "bert"), tmp_path / "same")
    assert json.loads((tmp_path / "same" / "config.json").read_text()) == raw
    half = load_checkpoint(tmp_path / "bert", dtype=torch.bfloat16)
    save_checkpoint(half, tmp_path / "half")
    raw["torch_dtype"] = "bfloat16"
    assert json.loads((tmp_path / "half" / "config.json").read_text()) == raw


def test_a_fresh_head_is_asked_for_by_name(tmp_path):
    write(tmp_path / "bert", architecture="BertForSequenceClassification")
    rewrite(
        tmp_path / "bert",
        lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("classifier")},
    )
    with pytest.raises(DataError, match=r"classifier.weight in .* is missing.*new=\['classifier"):
        load_checkpoint(tmp_path / "bert")
    assert load_checkpoint(tmp_path / "bert", new="classifier").model.n_classes == N_CLASSES
    loaded = load_checkpoint(tmp_path / "bert", new=["classifier"]).model
    weight = loaded.classifier.output.weight
    assert weight.shape == (N_CLASSES, 22)
    assert 0.01 < weight.std() < 0.03
    assert not loaded.classifier.output.bias.any()
    assert equal(loaded.encoder, model("bert", "BertForSequenceClassification").encoder)


def test_new_replaces_a_head_that_the_file_has(tmp_path):
    one = write(tmp_path / "bert", architecture="BertForTokenClassification")
    labels = ["O", "B", "I"]
    loaded = load_checkpoint(tmp_path / "bert", new=["classifier"], labels=labels)
    assert loaded.model.classifier.weight.shape == (3, 22)
    assert equal(loaded.model.encoder, one.encoder)
    save_checkpoint(loaded, tmp_path / "fresh")
    again = load_checkpoint(tmp_path / "fresh")
    assert equal(again.model, loaded.model)
    assert again.config["id2label"] == {"0": "O", "1": "B", "2": "I"}
    with pytest.raises(DataError, match=r"classifier.weight .*\(5, 22\).*expected \(3, 22\)"):
        load_checkpoint(tmp_path / "bert", labels=labels)


def test_new_names_a_part_of_the_model(tmp_path):
    write(tmp_path / "bert")
    with pytest.raises(ConfigError, match=r"'klassifier' is not a part of a Bert.*embedding, "):
        load_checkpoint(tmp_path / "bert", new=["klassifier"])


def test_another_head_on_the_encoder_of_a_file(tmp_path):
    one = write(tmp_path / "bert", architecture="BertForMaskedLM")
    options = {"architecture": "BertForTokenClassification", "labels": ["a", "b", "c"]}
    with pytest.raises(DataError, match=r"classifier.weight in .* is missing"):
        load_checkpoint(tmp_path / "bert", **options)
    loaded = load_checkpoint(tmp_path / "bert", **options, new=["classifier"])
    assert isinstance(loaded.model, TokenClassifier)
    assert equal(loaded.model.encoder, one.encoder)
    save_checkpoint(loaded, tmp_path / "saved")
    saved = load_checkpoint(tmp_path / "saved")
    assert equal(saved.model, loaded.model)
    assert saved.config["architectures"] == ["BertForTokenClassification"]
    bare = load_checkpoint(tmp_path / "bert", architecture="BertModel", new="pooler").model
    assert equal(bare.stack, one.encoder.stack)
    (tmp_path / "bert" / "config.json").write_text(
        json.dumps({**TINY["bert"], "model_type": "bert"})
    )
    assert load_checkpoint(tmp_path / "bert", **options, new=["classifier"])
    assert not any(name.startswith("cls.") for name in open_weights(tmp_path / "saved"))


def test_a_head_on_the_file_of_a_bare_encoder_gets_the_prefix(tmp_path):
    one = write(tmp_path / "bert")
    assert "embeddings.LayerNorm.bias" in open_weights(tmp_path / "bert")
    options = {"architecture": "BertForSequenceClassification", "new": ["classifier"]}
    loaded = load_checkpoint(tmp_path / "bert", **options)
    assert equal(loaded.model.encoder, one)
    save_checkpoint(loaded, tmp_path / "saved")
    names = set(open_weights(tmp_path / "saved"))
    assert {"bert.embeddings.LayerNorm.bias", "classifier.weight"} <= names
    encoder = Checkpoint(loaded.model.encoder, loaded.config, loaded.origin)
    save_checkpoint(encoder, tmp_path / "bare")
    assert (
        contents(tmp_path / "bare")["model.safetensors"]
        == (contents(tmp_path / "bert")["model.safetensors"])
    )


def test_a_file_may_lack_the_prefix_or_have_it_and_gets_it_back(tmp_path):
    for architecture in ("BertModel", "BertForMaskedLM"):
        folder = tmp_path / architecture
        one = write(folder, architecture=architecture)

        def other(name):
            return name.removeprefix("bert.") if name.startswith("bert.") else f"bert.{name}"

        rewrite(
            folder,
            lambda tensors: {
                name if name.startswith("cls.") else other(name): tensor
                for name, tensor in tensors.items()
            },
        )
        loaded = load_checkpoint(folder)
        assert equal(loaded.model, one)
        save_checkpoint(loaded, tmp_path / "saved")
        assert contents(tmp_path / "saved") == contents(folder)


def test_old_spellings_and_leftovers_come_back(tmp_path):
    """The file of the first BERT: gamma and beta, a pooler and a head that its model lacks."""
    one = write(tmp_path / "bert", architecture="BertForMaskedLM")
    extra = {
        "bert.pooler.dense.weight": torch.randn(22, 22),
        "bert.pooler.dense.bias": torch.randn(22),
        "cls.seq_relationship.weight": torch.randn(2, 22),
        "cls.seq_relationship.bias": torch.randn(2),
        "bert.embeddings.position_ids": torch.arange(41)[None],
    }

    def change(tensors):
        tensors["cls.predictions.decoder.weight"] = tensors[
            "bert.embeddings.word_embeddings.weight"
        ].clone()
        respelled = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in tensors.items()
        }
        return respelled | extra

    rewrite(tmp_path / "bert", change, {"format": "pt", "made": "long ago"})
    loaded = load_checkpoint(tmp_path / "bert")
    assert equal(loaded.model, one)
    save_checkpoint(loaded, tmp_path / "saved")
    assert open_weights(tmp_path / "saved").shards[0].metadata["made"] == "long ago"
    before, after = open_weights(tmp_path / "bert"), open_weights(tmp_path / "saved")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_tied_head_that_differs_is_refused(tmp_path):
    write(tmp_path / "bert", architecture="BertForMaskedLM")
    rewrite(
        tmp_path / "bert",
        lambda tensors: tensors | {"cls.predictions.decoder.weight": torch.zeros(37, 22)},
    )
    with pytest.raises(DataError, match=r"decoder.weight in .* differs from .*word_embeddings"):
        load_checkpoint(tmp_path / "bert")


def test_other_position_ids_are_refused(tmp_path):
    write(tmp_path / "bert")
    ids = torch.arange(41).flip(0)[None]
    rewrite(tmp_path / "bert", lambda tensors: tensors | {"embeddings.position_ids": ids})
    with pytest.raises(
        DataError, match=r"position_ids in .* differs from the constant for config.json"
    ):
        load_checkpoint(tmp_path / "bert")


def test_tied_parameters_stay_tied(tmp_path):
    write(tmp_path / "bert", architecture="BertForMaskedLM")
    loaded = load_checkpoint(tmp_path / "bert", dtype=torch.float64).model
    assert isinstance(loaded, MaskedLM)
    assert loaded.head.output.weight is loaded.encoder.embedding.weight


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype(dtype, tmp_path):
    one = write(tmp_path / "bert", architecture="BertForSequenceClassification")
    loaded = load_checkpoint(tmp_path / "bert", dtype=dtype, new=["classifier"]).model
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert equal(loaded.encoder, one.encoder.to(dtype))
    save_checkpoint(Checkpoint(loaded, {"model_type": "bert"}), tmp_path / "saved")
    assert next(load_checkpoint(tmp_path / "saved").model.parameters()).dtype == dtype


def test_device(tmp_path):
    write(tmp_path / "bert", architecture="BertForMaskedLM")
    loaded = load_checkpoint(tmp_path / "bert", device="meta").model
    assert {parameter.device.type for parameter in loaded.parameters()} == {"meta"}
    assert loaded.head.output.weight is loaded.encoder.embedding.weight


def test_a_file_of_two_dtypes_needs_one(tmp_path):
    write(tmp_path / "bert")
    rewrite(
        tmp_path / "bert",
        lambda tensors: tensors | {"pooler.dense.bias": tensors["pooler.dense.bias"].half()},
    )
    with pytest.raises(DataError, match=r"dtypes torch.float16, torch.float32; choose one"):
        load_checkpoint(tmp_path / "bert")
    loaded = load_checkpoint(tmp_path / "bert", dtype=torch.float32).model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_weights_are_mapped_and_training_them_leaves_the_file_alone(tmp_path):
    one = write(tmp_path / "bert")
    before = contents(tmp_path / "bert")
    loaded = load_checkpoint(tmp_path / "bert").model
    optimizer = torch.optim.SGD(loaded.parameters(), lr=1.0)
    loaded(torch.tensor([[3, 5, 7]])).sum().backward()
    optimizer.step()
    assert not equal(loaded, one)
    assert contents(tmp_path / "bert") == before
    assert equal(load_checkpoint(tmp_path / "bert").model, one)


def test_saving_over_the_folder_from_which_the_weights_are_mapped(tmp_path):
    one = write(tmp_path / "bert")
    before = contents(tmp_path / "bert")
    loaded = load_checkpoint(tmp_path / "bert")
    save_checkpoint(loaded, tmp_path / "bert")
    assert contents(tmp_path / "bert") == before
    assert equal(loaded.model, one)


def test_the_shards_of_a_file_come_back(tmp_path):
    one = write(tmp_path / "bert", shard_bytes=7_000)
    loaded = load_checkpoint(tmp_path / "bert")
    assert equal(loaded.model, one)
    save_checkpoint(loaded, tmp_path / "saved")
    assert contents(tmp_path / "saved") == contents(tmp_path / "bert")
    half = load_checkpoint(tmp_path / "bert", dtype=torch.float16)
    save_checkpoint(half, tmp_path / "half")
    weights = open_weights(tmp_path / "half")
    assert weights.index["total_size"] == sum(tensor.nbytes for tensor in weights.values())


def test_a_single_file_is_read_with_the_config_beside_it(tmp_path):
    one = write(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").rename(tmp_path / "bert" / "best.safetensors")
    assert equal(load_checkpoint(tmp_path / "bert" / "best.safetensors").model, one)


def test_companions_come_along(tmp_path):
    write(tmp_path / "bert")
    files = {
        "vocab.txt": b"[PAD]\n",
        "spiece.model": b"\x00\xff",
        "1_Pooling/config.json": b"{}",
    }
    for name, content in files.items():
        (tmp_path / "bert" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bert" / name).write_bytes(content)
    (tmp_path / "bert" / "pytorch_model.bin").write_bytes(b"not this")
    save_checkpoint(load_checkpoint(tmp_path / "bert"), tmp_path / "saved")
    found = contents(tmp_path / "saved")
    assert set(found) == {*files, "config.json", "model.safetensors"}
    assert all(found[name] == content for name, content in files.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bertt"}, "config.json: model_type = 'bertt' is not implemented"),
        ({"model_type": None}, "config.json: model_type = None is not implemented"),
        ({"hidden_act": "mish"}, "config.json: hidden_act = 'mish' is not implemented"),
        ({"architectures": ["BertForPoetry"]}, "config.json: architecture 'BertForPoetry'"),
        ({"num_attention_heads": 7}, "config.json: d_model = 22 is not divisible by n_heads = 7"),
    ],
)
def test_a_config_that_is_not_implemented_is_named(tmp_path, change, message):
    write(tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_checkpoint(tmp_path / "bert")


def test_a_config_of_another_size_is_a_shape_that_does_not_fit(tmp_path):
    write(tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 31}))
    with pytest.raises(DataError, match=r"intermediate.dense.weight in .*\(29, 22\).*\(31, 22\)"):
        load_checkpoint(tmp_path / "bert")


def test_no_architecture_is_the_bare_model(tmp_path):
    one = write(tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    for value in (None, []):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": value}))
        assert equal(load_checkpoint(tmp_path / "bert").model, one)
    path.write_text(json.dumps({**TINY["bert"], "model_type": "bert"}))
    assert equal(load_checkpoint(tmp_path / "bert").model, one)
