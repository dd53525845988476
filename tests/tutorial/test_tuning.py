from dataclasses import replace

import pytest
import torch
from tests.tasks.small import sentences, write_base

from qkv.data.labels import Labels, TextExample
from qkv.training.finetune import everything, head_only
from qkv.tutorial.tuning import Tuner, Way

EXAMPLES = [TextExample(text, label) for text, label in sentences(40)]
HEAD = Way(head_only, rate=1e-3, epochs=2)


@pytest.fixture
def tuner(tmp_path):
    return Tuner(
        base=str(write_base(tmp_path)),
        labels=Labels(("bad", "good")),
        validation=EXAMPLES[:10],
        max_length=13,
    )


def test_only_what_the_way_prepares_trains(tuner):
    before = tuner.prepared(HEAD)[0].model.state_dict()
    tuned = tuner(HEAD, EXAMPLES, "head")
    changed = {
        name
        for name, tensor in tuned.classifier.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed
    assert all(name.startswith(("classifier", "encoder.pooler")) for name in changed)
    assert tuned.n_trained == sum(before[name].numel() for name in changed)


def test_each_epoch_is_scored(tuner):
    tuned = tuner(HEAD, EXAMPLES, "head")
    assert len(tuned.history.losses) == 4  # two epochs of 32 and 8 texts
    assert [set(scores) for _, scores in tuned.history.evaluations] == [{"accuracy"}] * 2
    unscored = replace(tuner, validation=(), epochs=1)(HEAD, EXAMPLES, "head")
    assert len(unscored.history.losses) == 2
    assert not unscored.history.evaluations


def test_gradual_unfreezing_reaches_every_layer(tuner):
    way = Way(everything, rate=1e-3, epochs=9, layer_decay=0.8, gradual=True)
    before = tuner.prepared(way)[0].model.encoder.embedding.weight.clone()
    tuned = replace(tuner, validation=())(way, EXAMPLES, "gradual")
    assert not torch.equal(before, tuned.classifier.model.encoder.embedding.weight)
    assert tuned.n_trained == sum(p.numel() for p in tuned.classifier.model.parameters())


def test_random_weights_and_equal_seeds(tuner):
    first, again = (tuner.prepared(HEAD)[0].model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    fresh = tuner.prepared(replace(HEAD, pretrained=False))[0].model.encoder.embedding.weight
    assert not torch.equal(fresh, first["encoder.embedding.weight"])


def test_the_memory_grows_with_what_trains(tuner):
    tuner = replace(tuner, validation=(), epochs=1)
    everywhere = Way(everything, rate=1e-4, epochs=1)
    assert tuner(HEAD, EXAMPLES, "").memory < tuner(everywhere, EXAMPLES, "").memory
