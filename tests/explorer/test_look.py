"""Laws: what a record says is what the model computes."""

import numpy as np
import pytest
import torch
from tests.explorer.conftest import INPUTS, looked_at, pipeline_of
from tests.tasks.translators import make_translator

from qkv.attention.heads import disable_heads
from qkv.attention.record import record_attention
from qkv.errors import ConfigError, DataError
from qkv.explorer.changes import Changes
from qkv.explorer.heads import head_effects, one_head
from qkv.explorer.look import look, make_view
from qkv.explorer.record import Record
from qkv.explorer.statistics import chosen_logprobs
from qkv.generation.beam import beam_search
from qkv.tasks.task import find_task

ROUNDING = 2**-10  # of float16, relative


def run(model, view):
    with torch.inference_mode():
        return chosen_logprobs(view.logits(1)[0], [one.chosen for one in view.steps])


def cells(record, n=10):
    """Random cells that may be attended to: (attention, head, query, key)."""
    choose = np.random.default_rng(0)
    layers = record.header["attention"]
    while n:
        i = int(choose.integers(len(layers)))
        weights = record.tensors[layers[i]["tensors"]["weights"]]
        head, query, key = (int(choose.integers(size)) for size in weights.shape)
        if not layers[i]["causal"] or key <= query:
            n -= 1
            yield i, head, query, key


def arithmetic(record, i, head, query, key):
    """The weight of one cell, as the page computes it from the float32 queries and keys."""
    layer, tensors = record.header["attention"][i], record.tensors
    q = tensors[layer["tensors"]["q"]][head, query].astype(np.float64)
    group = head * layer["kv_heads"] // layer["heads"]
    keys = tensors[layer["tensors"]["k"]][group].astype(np.float64)
    scores = keys @ q * layer["scale"]
    if layer["causal"]:
        scores = scores[: query + 1]
    exponentials = np.exp(scores - scores.max())
    return exponentials[key] / exponentials.sum()


def test_weights_sum_to_1(looked):
    for layer in looked.record.header["attention"]:
        weights = looked.record.tensors[layer["tensors"]["weights"]].astype(np.float64)
        assert np.abs(weights.sum(-1) - 1).max() < 2e-3


def test_the_arithmetic_of_random_cells_is_the_weights(looked, model):
    with record_attention(model) as exact:
        run(model, looked.view)
    for i, head, query, key in cells(looked.record):
        layer = looked.record.header["attention"][i]
        ours = arithmetic(looked.record, i, head, query, key)
        kept = float(looked.record.tensors[layer["tensors"]["weights"]][head, query, key])
        assert abs(ours - kept) <= ROUNDING * kept + 2**-24
        live = float(exact[layer["name"]][0, head, query, key])
        assert abs(ours - live) <= 1e-5 * live + 1e-9


def test_effects_are_those_of_disabled_heads(looked, model):
    ablation = looked.record.header["ablation"]
    effects = looked.record.tensors[ablation["effects"]]
    before = run(model, looked.view)
    for row in np.random.default_rng(0).integers(len(effects), size=4):
        i, head = ablation["heads"][row]
        with disable_heads(model, looked.record.header["attention"][i]["name"], [head]):
            after = run(model, looked.view)
        assert torch.allclose(torch.tensor(effects[row]), after - before, atol=1e-4)


def test_changes_are_those_of_disabled_heads(looked, model):
    layers = looked.record.header["attention"]
    changes = Changes(ablate=((0, 0), (len(layers) - 1, 1), (0, 2)))
    record = look(model, looked.view, name="x", changes=changes).record
    with (
        disable_heads(model, layers[0]["name"], [0, 2]),
        disable_heads(model, layers[-1]["name"], [1]),
    ):
        after = run(model, looked.view)
    assert torch.allclose(torch.tensor(record.tensors["output.chosen"]), after, atol=1e-5)
    before = run(model, looked.view)
    assert torch.allclose(torch.tensor(record.tensors["changes.before"]), before, atol=1e-5)
    assert record.header["task"]["output"] == looked.record.header["task"]["output"]


@pytest.mark.parametrize("mask", ["causal", "window"])
def test_a_changed_mask_hides_keys_and_is_explained(mask, looked, model):
    record = look(model, looked.view, name="x", changes=Changes(mask=mask)).record
    for layer in record.header["attention"]:
        weights = record.tensors[layer["tensors"]["weights"]].astype(np.float64)
        assert np.abs(weights.sum(-1) - 1).max() < 2e-3
        assert "q" in layer["tensors"]
        if layer["kind"] == "cross":
            continue
        i, j = np.indices(weights.shape[1:])
        hidden = j > i if mask == "causal" else np.abs(i - j) > 2
        assert not weights[:, hidden].any()
        if not layer["causal"]:
            shown = record.tensors[layer["tensors"]["mask"]]
            assert np.array_equal(shown == 0, hidden)


@pytest.mark.parametrize("where", ["encoder", "decoder"])
def test_the_mask_of_one_stack_leaves_the_other(where):
    looked, model = looked_at("translate"), pipeline_of("translate").model
    changes = Changes(mask="encoder window" if where == "encoder" else "decoder window")
    record = look(model, looked.view, name="x", changes=changes).record
    for layer in record.header["attention"]:
        weights = record.tensors[layer["tensors"]["weights"]]
        far = np.abs(np.subtract.outer(*map(np.arange, weights.shape[1:]))) > 2
        if layer["kind"] == "self":
            assert (weights[:, far].max() == 0) == (layer["stack"] == where)
    with pytest.raises(ConfigError, match="without decoder"):
        look(
            pipeline_of("classify").model,
            looked_at("classify").view,
            name="x",
            changes=Changes(mask="decoder window"),
        )


def test_an_unknown_mask_or_head_is_refused(looked, model):
    with pytest.raises(ConfigError, match="expected one of own, causal, window"):
        Changes(mask="x")
    for pair in ((99, 0), (0, 99)):
        with pytest.raises(ConfigError, match="99"):
            look(model, looked.view, name="x", changes=Changes(ablate=(pair,)))


def test_looking_changes_nothing_and_leaves_no_hook(looked, model):
    first = run(model, looked.view)
    look(model, looked.view, name="x", changes=Changes(ablate=((0, 0),), mask="window"))
    head_effects(model, looked.view)
    assert torch.equal(run(model, looked.view), first)
    hooks = [one for m in model.modules() for one in (*m._forward_hooks, *m._forward_pre_hooks)]
    assert not hooks


def test_the_last_layer_of_the_lens_is_the_output(looked):
    tensors, lens = looked.record.tensors, looked.record.header["lens"]
    assert np.allclose(tensors[lens["chosen"]][-1], tensors["output.chosen"], atol=2e-3)
    assert lens["layers"][0] == "embedding"


def test_every_candidate_and_step_has_a_name(looked):
    header, tensors = looked.record.header, looked.record.tensors
    for ids in (tensors["output.ids"], tensors["lens.ids"]):
        assert {str(i) for i in ids.flatten().tolist()} <= set(header["output"]["names"])
    assert {str(one["chosen"]) for one in header["output"]["steps"]} <= set(
        header["output"]["names"]
    )


def test_statistics_are_of_the_weights(looked):
    layer = looked.record.header["attention"][0]
    weights = looked.record.tensors[layer["tensors"]["weights"]].astype(np.float64)
    entropy = -(weights * np.log(np.maximum(weights, 1e-12))).sum(-1).mean(-1)
    assert np.allclose(layer["stats"]["entropy"], entropy, atol=5e-3)
    assert np.allclose(layer["stats"]["first"], weights[..., 0].mean(-1), atol=1e-3)


def test_the_trees_best_path_is_beam_searchs_answer():
    looked, translator = looked_at("translate"), pipeline_of("translate")
    beam, decoder = looked.record.header["beam"], translator.decoder
    answer = looked.view.extra["answer"]
    [[found, *_]] = beam_search(
        translator.model,
        torch.tensor([_source(translator)]),
        start=decoder.start,
        stop=decoder.stops,
        max_length=decoder.max_length,
        beam=decoder.beam,
    )
    path = [beam["nodes"][i] for i in beam["best"]]
    assert found.tokens == answer.tokens
    assert [one["text"] for one in path] == translator.target.tokens(found.tokens)
    assert path[-1]["total"] == pytest.approx(sum(found.logprobs), abs=1e-4)
    assert path[-1]["score"] == pytest.approx(found.score, abs=1e-5)
    assert max(one["score"] for one in beam["nodes"] if one["ended"] and one["kept"]) == (
        pytest.approx(found.score)
    )
    for node in beam["nodes"]:
        parent = beam["nodes"][node["parent"]] if node["parent"] >= 0 else None
        assert (parent is None) == (node["step"] == 1)
        assert parent is None or (parent["kept"] and parent["step"] == node["step"] - 1)


def _source(translator):
    ids = translator.tokenizer.encode(INPUTS["translate"][1]["text"])
    return translator.tokenizer.add_special_tokens(ids).ids


@pytest.mark.parametrize("task", ["classify", "recognize", "generate"])
def test_one_head_of_a_long_input_is_that_of_the_whole(task, monkeypatch):
    whole, model = looked_at(task), pipeline_of(task).model
    monkeypatch.setattr("qkv.explorer.view.LONG", 4)
    long = look(model, whole.view, name="x")
    layer = long.record.header["attention"][1]
    assert layer["long"]
    assert set(layer["tensors"]) == {"thumbnails"}
    head = one_head(long.layers, 1, 2)
    full = whole.record.header["attention"][1]["tensors"]
    assert np.allclose(head["weights"][0], whole.record.tensors[full["weights"]][2], atol=1e-3)
    assert np.array_equal(head["q"][0].numpy(), whole.record.tensors[full["q"]][2])
    with pytest.raises(ConfigError, match="expected 0 to"):
        one_head(long.layers, 99, 0)


def test_a_recurrent_model_has_weights_without_arithmetic():
    translator = make_translator("rnn")
    view = make_view(translator, "translate", {"text": "abc"})
    record = look(translator.model, view, name="x", effects=True).record
    (layer,) = record.header["attention"]
    assert (layer["queries"], layer["keys"], layer["kind"]) == ("target", "source", "cross")
    assert set(layer["tensors"]) == {"weights"}
    assert "lens" not in record.header
    assert record.header["states"] == []
    assert record.tensors["ablation.effects"].shape == (0, len(view.steps))


STORY = "Walk through the list from the end to the beginning, and exchange neighbors in disorder."


def test_a_summary_is_the_summarizers_and_its_weights_are_explained():
    summarizer = find_task("summarize").pipeline.load("summarizer", device="cpu")
    view = make_view(summarizer, "summarize", {"text": STORY})
    record = look(summarizer.model, view, name="summarizer", effects=True).record
    assert record.header["task"]["output"] == summarizer(STORY).summary
    assert len(record.header["beam"]["best"]) == len(view.steps)
    for i, head, query, key in cells(record):
        weights = record.tensors[record.header["attention"][i]["tensors"]["weights"]]
        kept = float(weights[head, query, key])
        assert abs(arithmetic(record, i, head, query, key) - kept) <= ROUNDING * kept + 2**-24
    kinds = {(one["stack"], one["kind"]) for one in record.header["attention"]}
    assert kinds == {("encoder.stack", "self"), ("decoder", "self"), ("decoder", "cross")}
    extract = find_task("summarize").pipeline.load("all-MiniLM-L6-v2")
    with pytest.raises(ConfigError, match="by the method extract"):
        make_view(extract, "summarize", {"text": STORY})


def test_an_embedded_text_has_attention_and_states_but_no_predictions():
    embedder = find_task("embed").pipeline.load("all-MiniLM-L6-v2", device="cpu")
    view = make_view(embedder, "embed", {"text": STORY, "second": "Bubble sort."})
    record = look(embedder.model, view, name="x", effects=True).record
    vectors = embedder.predict([STORY, "Bubble sort."])
    assert f"cosine {vectors[0] @ vectors[1]:.3f}" in record.header["task"]["output"]
    with record_attention(embedder.model) as exact:
        embedder.predict([STORY])
    for layer, weights in zip(record.header["attention"], exact.values(), strict=True):
        kept = record.tensors[layer["tensors"]["weights"]]
        assert np.allclose(kept, weights[0], atol=1e-3)
    assert record.tensors["ablation.effects"].shape == (72, 0)
    assert Record.decode(record.encode()).header["output"]["steps"] == []


def test_what_the_explorer_has_no_view_of_is_refused():
    with pytest.raises(ConfigError, match="no view of the task search"):
        make_view(pipeline_of("tag"), "search", {"text": "x"})
    with pytest.raises(DataError, match="no words"):
        make_view(pipeline_of("tag"), "tag", {"text": " "})
    with pytest.raises(DataError, match="without a passage"):
        make_view(pipeline_of("answer"), "answer", {"text": "Who?"})
