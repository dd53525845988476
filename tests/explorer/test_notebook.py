"""`explore` and `explore_weights`: what they show, where, and what they refuse."""

import base64
import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.explorer.conftest import draw_seven, pipeline_of

import qkv
from qkv import explore, explore_weights
from qkv.errors import ConfigError, DataError, QKVError, ShapeError
from qkv.explorer.record import Record

TEXT = "The film was a wonderful surprise."


@pytest.fixture
def kernel(monkeypatch):
    """As in a notebook."""
    pytest.importorskip("anywidget")
    monkeypatch.setattr("qkv.explorer.notebook.in_notebook", lambda: True)


@pytest.fixture
def widget(kernel):
    """A widget, and the messages that it sends."""
    made, sent = explore(pipeline_of("classify"), TEXT), []
    made.send = lambda content, buffers=(): sent.append((content, list(buffers)))
    return made, sent


def test_outside_of_a_notebook_it_is_a_figure_and_says_so(capsys, tmp_path):
    shown = explore("sentiment-small", TEXT, layer=1, head=3)
    assert "this is not a notebook" in capsys.readouterr().err
    bundle = shown._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert TEXT in bundle["text/plain"]
    focus = shown.figure().axes[-1]
    weights = shown.record.tensors["a1.weights"][3].astype(np.float32)
    assert focus.get_title().startswith("encoder.stack.blocks.1.self_attention, head 3")
    np.testing.assert_array_equal(focus.images[0].get_array(), weights)
    shown.save(tmp_path / "x.html")
    shown.save(tmp_path / "x.png")
    shown.save(tmp_path / "x.record")
    assert 'id="record"' in (tmp_path / "x.html").read_text("utf-8")
    assert Record.load(tmp_path / "x.record").header["task"]["output"] == "positive"


def test_a_page_is_written_without_any_extra(tmp_path):
    optional = ("anywidget", "IPython", "matplotlib", "PIL", "starlette", "transformers")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({optional}))\nimport qkv\n"
        "qkv.explore('dates', '23 February 2081').save('page.html')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert 'id="record"' in (tmp_path / "page.html").read_text("utf-8")


def test_without_anywidget_a_notebook_gets_the_figure(capsys, monkeypatch):
    monkeypatch.setattr("qkv.explorer.notebook.in_notebook", lambda: True)
    monkeypatch.setattr("qkv.explorer.notebook.find_spec", lambda name: None)
    assert "image/png" in explore_weights(torch.eye(2), "ab")._repr_mimebundle_()
    assert 'pip install "qkv[tutorial]"' in capsys.readouterr().err


@pytest.mark.parametrize("task", ["classify", "answer", "translate", "generate"])
def test_pipelines_and_what_load_returns_are_taken(task, capsys):
    pipeline = pipeline_of(task)
    more = {"context": "It was written by Ada."} if task == "answer" else {}
    for model in (pipeline, pipeline.loaded):
        record = explore(model, "Who wrote it?", **more, new_tokens=3).record
        assert record.header["task"]["kind"] == task
        assert record.header["model"]["name"] == type(pipeline.model).__name__


def test_an_image_may_be_a_file_or_open(capsys, tmp_path):
    draw_seven().save(tmp_path / "seven.png")
    records = [
        explore("recognizer", image).record for image in (draw_seven(), tmp_path / "seven.png")
    ]
    first, second = (one.tensors["a0.weights"] for one in records)
    np.testing.assert_array_equal(first, second)


def test_the_widget_of_an_image_takes_another_image_and_no_file(kernel, tmp_path):
    draw_seven().save(tmp_path / "seven.png")
    made, sent = explore("recognizer", tmp_path / "seven.png"), []
    made.send = lambda content, buffers=(): sent.append(Record.decode(buffers[0]))
    assert made.menu[0]["example"] == {"text": "seven.png", "image": ""}
    draw_seven().rotate(90, fillcolor=255).save(tmp_path / "other.png")
    content = base64.b64encode((tmp_path / "other.png").read_bytes()).decode()
    for image in ("", content):
        inputs = {"text": str(tmp_path / "other.png"), "image": image}
        made._receive(made, {"id": "7", "look": {"inputs": inputs}}, [])
    weights = [one.tensors["a0.weights"] for one in (Record.decode(made.content), *sent)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_a_second_text_is_compared(capsys):
    record = explore("all-MiniLM-L6-v2", "The cat sleeps.", "A kitten naps.").record
    vectors = qkv.task("embed").predict(["The cat sleeps.", "A kitten naps."])
    assert f"{float(vectors[0] @ vectors[1]):.3f}" in record.header["task"]["output"]
    assert record.header["output"]["steps"] == []
    assert len(record.header["attention"]) == 6


def test_the_widget_has_the_record_as_bytes_and_the_model_in_a_menu(widget):
    made, _ = widget
    assert Record.decode(made.content).header["task"]["inputs"] == {"text": TEXT}
    assert made.view == ""
    [entry] = made.menu
    assert (entry["task"], entry["example"]) == ("classify", {"text": TEXT})
    assert "application/vnd.jupyter.widget-view+json" in made._repr_mimebundle_()[0]
    assert "export{" in made._esm


def test_a_message_runs_the_model(widget, tmp_path):
    made, sent = widget
    request = {"inputs": {"text": "Bad."}, "ablate": [[0, 1]], "effects": True}
    made._receive(made, {"id": "7", "look": request}, [])
    *events, (last, [file]) = sent
    assert {one["event"] for one, _ in events} == {"effect"}
    assert (last["to"], last["event"]) == ("7", "record")
    header = Record.decode(file).header
    assert header["task"]["inputs"] == {"text": "Bad."}
    assert header["changes"]["ablate"] == [[0, 1]]
    assert made.record.header["task"] == header["task"]


@pytest.mark.parametrize(
    "content",
    [
        {"id": "7", "look": {"inputs": {"text": 3}}},
        {"id": "7", "look": {"inputs": {"text": ""}, "ablate": [[99, 0]]}},
        {"id": "7", "look": {"mask": "x"}},
        {"id": "7", "head": ["first", 99, 0]},
        {"id": "7", "head": ["gone", 0, 0]},
        {"id": "7", "head": "x"},
    ],
)
def test_a_wrong_message_is_answered_by_an_error(content, widget):
    made, sent = widget
    made._receive(made, content, [])
    [(answer, _)] = sent
    assert (answer["to"], answer["event"]) == ("7", "error")
    assert answer["data"]["error"]


def test_a_failure_of_the_model_is_named(widget, monkeypatch):
    made, sent = widget

    def fail(*_, told):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("qkv.explorer.running.make_view", fail)
    made._receive(made, {"id": "7", "look": {}}, [])
    assert sent[0][0]["data"]["error"] == "the model failed: RuntimeError: out of memory"


def test_a_head_of_a_long_input_comes_on_request(kernel, monkeypatch):
    from safetensors.numpy import load

    whole = explore(pipeline_of("classify"), TEXT).record
    monkeypatch.setattr("qkv.explorer.view.LONG", 4)
    made, sent = explore(pipeline_of("classify"), TEXT), []
    made.send = lambda content, buffers=(): sent.append(buffers)
    assert "weights" not in made.record.header["attention"][1]["tensors"]
    made._receive(made, {"id": "7", "head": ["first", 1, 2]}, [])
    weights = load(sent[0][0])["weights"][0]
    assert np.allclose(weights, whole.tensors["a1.weights"][2], atol=1e-3)
    assert made.figure().axes


def test_weights_of_several_modules_and_heads(capsys):
    torch.manual_seed(0)
    first, second = torch.rand(1, 2, 3, 5).softmax(-1), torch.rand(3, 5).softmax(-1)
    shown = explore_weights(
        {"a": first, "decoder.blocks.4.cross_attention": second},
        "uvw",
        list("12345"),
        layer="a",
        head=1,
        name="mine",
        text="in",
        output="out",
    )
    header, tensors = shown.record.header, shown.record.tensors
    assert [one["heads"] for one in header["attention"]] == [2, 1]
    assert [one["kind"] for one in header["attention"]] == ["cross", "cross"]
    assert header["attention"][1]["layer"] == 4
    np.testing.assert_allclose(tensors["a0.weights"], first[0], atol=1e-3)
    np.testing.assert_allclose(tensors["a1.weights"][0], second, atol=1e-3)
    assert [one["text"] for one in header["sequences"]["target"]] == list("uvw")
    entropy = torch.special.entr(first[0]).sum(-1).mean(-1)
    np.testing.assert_allclose(header["attention"][0]["stats"]["entropy"], entropy, atol=1e-5)
    assert shown.figure().get_suptitle() == "mine: in → out"
    assert explore_weights(torch.eye(2), "ab").record.header["attention"][0]["kind"] == "self"


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (torch.eye(3), ShapeError),
        (torch.zeros(2, 2, 2, 2), ShapeError),
        (torch.zeros(0, 2, 2), ShapeError),
        (torch.full((2, 2), 1.5), DataError),
        (-torch.eye(2), DataError),
        (torch.full((2, 2), torch.nan), DataError),
        ({}, DataError),
    ],
)
def test_what_is_not_weights_is_refused(weights, error):
    with pytest.raises(error, match="expected"):
        explore_weights(weights, "ab")


def test_what_explore_cannot_show_is_refused(capsys):
    for model, options in (
        (torch.nn.Linear(2, 2), {}),
        ("nowhere", {}),
        ("sentiment-small", {"context": "x"}),
        ("translator-en-de", {"second": "x"}),
        ("sentiment-small", {"layer": 6}),
        ("sentiment-small", {"layer": "stack"}),
        ("sentiment-small", {"head": 12}),
    ):
        with pytest.raises(QKVError):
            explore(model, "a text", **options)
    with pytest.raises(ConfigError, match="explore_weights"):
        explore(3, "a text")
