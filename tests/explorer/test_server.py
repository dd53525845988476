"""The server: the page live, and what it refuses."""

import base64
import http.client
import io
import json

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from tests.explorer.conftest import draw_seven, looked_at

from qkv.errors import ConfigError, DataError
from qkv.explorer.engine import EXAMPLES, Engine, read_picture
from qkv.explorer.record import Record
from qkv.explorer.views import VIEWS

NAMES = {"sentiment-small": "classify", "generator": "generate", "recognizer": "recognize"}


@pytest.fixture
def ask(port):
    """Send a request; return status, headers and body."""

    def send(method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        if body is not None:
            headers = {"Content-Type": "application/json", **headers}
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    return send


def events(content):
    parts = content.decode().strip().split("\n\n")
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: ")))
        for lines in (part.split("\n") for part in parts)
    ]


def look(ask, **request):
    status, _, content = ask("POST", "/explorer/look", request)
    assert status == 200, content
    found = events(content)
    assert found[-1][0] == "record", found
    return found, found[-1][1]["id"]


def test_the_page_and_the_menu(ask):
    status, headers, page = ask("GET", "/")
    assert status == 200
    assert b"<!-- record -->" in page
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control")]
    _, _, menu = ask("GET", "/explorer/models")
    models = {one["name"]: one for one in json.loads(menu)["models"]}
    assert {name: models[name]["task"] for name in NAMES} == NAMES
    assert all(one["example"]["text"] for one in models.values())


def test_a_look_is_the_record_that_python_makes(ask):
    text = looked_at("classify").record.header["task"]["inputs"]["text"]
    _, key = look(ask, model="sentiment-small", inputs={"text": text}, effects=True)
    _, _, content = ask("GET", f"/explorer/records/{key}")
    record, ours = Record.decode(content), looked_at("classify").record
    assert {**record.header, "made": 0} == {
        **json.loads(json.dumps(ours.header)),
        "made": 0,
        "format": "qkv-record",
        "version": 1,
    }
    for name, tensor in ours.tensors.items():
        assert np.allclose(record.tensors[name], tensor, atol=1e-5), name
    _, _, page = ask("GET", f"/explorer/records/{key}/page")
    assert base64.b64encode(content) in page


def test_tokens_and_effects_come_as_events(ask):
    found, _ = look(ask, model="generator", inputs={"text": "Return"}, effects=True)
    kinds = [event for event, _ in found]
    assert kinds[0] == "start"
    assert 0 < kinds.count("token") <= 24
    assert kinds.count("effect") == 4
    assert kinds[-1] == "record"


def test_changes_are_those_of_python(ask):
    pairs = [[0, 1], [5, 2]]
    request = {"model": "sentiment-small", "inputs": {"text": "A film."}, "mask": "window"}
    _, key = look(ask, **request, ablate=pairs)
    record = Record.decode(ask("GET", f"/explorer/records/{key}")[2])
    assert (record.header["changes"]["ablate"], record.header["changes"]["mask"]) == (
        pairs,
        "window",
    )


def test_an_image_is_its_content_and_never_a_path(ask, tmp_path):
    file = io.BytesIO()
    draw_seven().save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode()
    for inputs in ({"text": "/etc/passwd", "image": content}, {"text": str(tmp_path)}):
        _, key = look(ask, model="recognizer", inputs=inputs)
        record = Record.decode(ask("GET", f"/explorer/records/{key}")[2])
        assert record.header["task"]["output"] == "7"
        assert "/" not in record.header["task"]["inputs"]["text"]


def test_one_head_on_request(ask, monkeypatch):
    monkeypatch.setattr("qkv.explorer.view.LONG", 4)
    _, key = look(ask, model="sentiment-small", inputs={"text": "A film of some length."})
    record = Record.decode(ask("GET", f"/explorer/records/{key}")[2])
    layer = record.header["attention"][2]
    assert layer["long"]
    status, _, content = ask("GET", f"/explorer/records/{key}/2/3")
    assert status == 200
    weights = load_tensors(content)["weights"].astype(np.float64)
    assert np.abs(weights.sum(-1) - 1).max() < 2e-3
    assert ask("GET", f"/explorer/records/{key}/99/0")[0] == 400
    assert ask("GET", f"/explorer/records/{key}/2/99")[0] == 400


def test_only_the_latest_records_are_kept(ask):
    keys = [look(ask, model="generator", inputs={"text": f"x{i}"})[1] for i in range(5)]
    assert [ask("GET", f"/explorer/records/{key}")[0] for key in keys] == [404, 200, 200, 200, 200]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_another_host_is_refused(ask, host):
    for method, path in (("GET", "/"), ("GET", "/explorer/models"), ("POST", "/explorer/look")):
        assert ask(method, path, Host=host)[0] == 400


def test_a_page_of_another_site_is_refused(ask, port):
    request = {"model": "generator", "inputs": {"text": "x"}}
    assert ask("POST", "/explorer/look", request, Origin="https://evil.example")[0] == 403
    assert ask("POST", "/explorer/look", request, Origin="null")[0] == 403
    own = f"http://127.0.0.1:{port}"
    assert ask("POST", "/explorer/look", request, Origin=own, Host=f"127.0.0.1:{port}")[0] == 200
    plain = json.dumps(request).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        status, _, content = ask("POST", "/explorer/look", plain, **{"Content-Type": kind})
        assert (status, b"expected application/json" in content) == (400, True)
    assert ask("OPTIONS", "/explorer/look")[0] == 405


WRONG = [
    b"",
    b"{",
    b"[]",
    b"\xff",
    b"[" * 100_000,
    {},
    {"model": "x", "inputs": {"text": "x"}},
    {"model": "../../etc", "inputs": {"text": "x"}},
    {"model": ["generator"], "inputs": {"text": "x"}},
    {"model": "generator", "inputs": "x"},
    {"model": "generator", "inputs": {}},
    {"model": "generator", "inputs": {"text": 1}},
    {"model": "generator", "inputs": {"text": "x" * 20_001}},
    {"model": "generator", "inputs": {"text": "\ud800"}},
    {"model": "generator", "inputs": {"text": "x"}, "mask": "x"},
    {"model": "generator", "inputs": {"text": "x"}, "ablate": [[0]]},
    {"model": "generator", "inputs": {"text": "x"}, "ablate": [[-1, 0]]},
    {"model": "generator", "inputs": {"text": "x"}, "effects": 1},
    {"model": "recognizer", "inputs": {"text": "x", "image": "/etc/passwd"}},
    {"model": "recognizer", "inputs": {"text": "x", "image": "AAAA"}},
]


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_400_with_a_sentence(ask, body):
    status, _, content = ask("POST", "/explorer/look", body)
    assert status == 400
    assert json.loads(content)["error"]


def test_large_bodies_are_refused(ask, port):
    status, _, content = ask("POST", "/explorer/look", b"x" * 10_000_001)
    assert (status, b"more than" in content) == (413, True)


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/explorer/records/..%2f..%2fetc", "/x", "//"]
)
def test_no_path_reaches_the_disk(ask, path):
    assert ask("GET", path)[0] == 404


def test_an_error_of_a_model_is_an_event_and_the_next_request_is_answered(ask):
    request = {"model": "tagger", "inputs": EXAMPLES["tag"]}
    status, _, content = ask("POST", "/explorer/look", request)
    assert status == 200
    assert events(content)[-1] == ("error", {"error": "the model failed: RuntimeError"})
    for inputs in ({"text": " "}, {"text": "x"}):
        request = {"model": "sentiment-small", "inputs": inputs, "ablate": [[99, 0]]}
        assert events(ask("POST", "/explorer/look", request)[2])[-1][0] == "error"
    look(ask, model="generator", inputs={"text": "x"})


def test_a_client_that_leaves_ends_its_request(port, engine, ask):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = json.dumps({"model": "sentiment-small", "inputs": {"text": "x"}, "effects": True})
    connection.request("POST", "/explorer/look", body, {"Content-Type": "application/json"})
    connection.getresponse().read(10)
    connection.close()
    look(ask, model="generator", inputs={"text": "x"})
    assert engine._waiting._value == 8


def test_a_full_queue_is_503(ask, engine):
    free = [engine._waiting.acquire(blocking=False) for _ in range(8)]
    try:
        request = {"model": "generator", "inputs": {"text": "x"}}
        status, _, content = ask("POST", "/explorer/look", request)
    finally:
        for _ in filter(None, free):
            engine._waiting.release()
    assert (status, b"requests are waiting" in content) == (503, True)


def test_a_model_without_a_view_is_refused_at_the_start(monkeypatch):
    monkeypatch.delitem(VIEWS, "embed")
    with pytest.raises(ConfigError, match="no view of all-MiniLM-L6-v2"):
        Engine(["all-MiniLM-L6-v2"])


def test_large_images_are_refused_before_they_are_decoded():
    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (6_000, 6_000)).save(file, "PNG")
    with pytest.raises(DataError, match="6000 x 6000"):
        read_picture(base64.b64encode(file.getvalue()).decode())
