"""Who may ask, how much, and what happens if a client leaves or the server ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.serve.conftest import Server, served

from qkv.errors import ConfigError, DataError
from qkv.serve.command import check
from qkv.serve.models import Models, shipped_models

LONG = {"model": "talker", "prompt": "Is it", "max_tokens": 190, "stop": "§§§§", "temperature": 0.9}
SHORT = {"model": "talker", "prompt": "Is it", "max_tokens": 2}


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_health_and_headers(server):
    status, headers, content = server.ask("GET", "/health")
    assert (status, json.loads(content)) == (200, {"status": "ok"})
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers
    for path in ("/", "/docs", "/redoc", "/v1", "/../../etc/passwd", "/v1/models/..%2f..", "//"):
        status, _, content = server.ask("GET", path)
        assert (status, json.loads(content)["error"]["code"] is None) in [(404, True), (404, False)]
    status, headers, _ = server.ask("GET", "/v1/completions")
    assert (status, headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_another_host_is_refused(server, host):
    for method, path in (("GET", "/health"), ("GET", "/metrics"), ("POST", "/v1/completions")):
        assert server.ask(method, path, Host=host)[0] == 400


def test_a_page_of_another_site_is_refused(server):
    body = json.dumps(SHORT).encode()
    for origin in ("https://evil.example", "null"):
        status, _, content = server.ask("POST", "/v1/completions", body, Origin=origin)
        assert (status, b"another site" in content) == (403, True)
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Host": f"127.0.0.1:{server.port}"}
    assert server.ask("POST", "/v1/completions", body, **own)[0] == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert server.ask("POST", "/v1/completions", body, **{"Content-Type": kind})[0] == 400
    status, headers, _ = server.ask("OPTIONS", "/v1/completions")
    assert status == 405
    assert "access-control-allow-origin" not in headers


WRONG = [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"a":' * 5_000, b'{"prompt": "\\ud800"}',
         b'{"model": "talker", "prompt": "x", "seed": 1' + b"0" * 5_000 + b"}",
         b'{"model": "talker", "prompt": "x", "temperature": NaN}',
         b'{"model": "talker", "prompt": "x", "temperature": 1e999}',
         b'{"model": "talker", "prompt": "\\ud800"}']  # fmt: skip


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_400_with_a_sentence(server, body):
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/tasks/tag"):
        status, _, content = server.ask("POST", path, body)
        assert status == 400, content
        assert json.loads(content)["error"]["message"]


def test_large_bodies_are_refused(server):
    status, _, content = server.ask("POST", "/v1/completions", b"x" * 10_000_001)
    assert (status, b"more than 10,000,000 bytes" in content) == (413, True)
    body = json.dumps({**SHORT, "prompt": "x" * 9_000_000}).encode()
    assert server.ask("POST", "/v1/completions", body)[0] == 400


def test_a_key_is_needed_where_there_is_one(talker):
    key = "a key of many characters"
    running = Server(Models([served("talker", "chat", talker)]), key=key)
    try:
        assert running.ask("GET", "/health")[0] == 200
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": key}):
            status, got, content = running.ask("GET", "/v1/models", **headers)
            assert (status, got["www-authenticate"]) == (401, "Bearer")
            assert "key" in json.loads(content)["error"]["message"]
        assert running.ask("GET", "/v1/models", Authorization=f"Bearer {key}")[0] == 200
    finally:
        running.close()


def test_a_full_queue_is_503_and_says_when_to_come_back(talker):
    """With one row and room for two, of 30 requests some are refused, and no other is lost."""
    models = Models([served("talker", "chat", talker, max_rows=1, max_waiting=2)])
    running, statuses = Server(models), []

    def ask():
        status, headers, content = running.ask("POST", "/v1/completions", LONG)
        statuses.append((status, headers.get("retry-after"), json.loads(content)))

    try:
        clients = [threading.Thread(target=ask) for _ in range(30)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
    finally:
        running.close()
    assert len(statuses) == 30
    refused = [one for one in statuses if one[0] == 503]
    assert refused
    assert {one[1] for one in refused} == {"1"}
    assert {one[2]["error"]["code"] for one in refused} == {"unavailable"}
    answered = [one for one in statuses if one[0] == 200]
    assert 3 <= len(answered) == 30 - len(refused)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_row(server, stream):
    engine = server.models.find("talker").engine
    wait_for(lambda: engine.n_running == 0)
    body = {**LONG, "prompt": ["Is it"] * 40, "stream": stream}  # more than there are rows
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps(body), JSON)
    wait_for(lambda: engine.n_running == 16 and engine.n_waiting)
    if stream:
        connection.getresponse().read(10)
    connection.close()
    if stream:
        connection.sock = None
    wait_for(lambda: engine.n_running == 0, 60)
    assert engine.n_waiting == 0
    assert engine._scheduler._state is None
    assert server.ask("POST", "/v1/completions", SHORT)[0] == 200


JSON = {"Content-Type": "application/json"}


def test_metrics_count(server):
    def numbers():
        page = server.ask("GET", "/metrics")[2].decode()
        lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    before = numbers()
    _, answer = server.post("/v1/completions", **SHORT, temperature=0, seed=1)
    assert server.ask("POST", "/v1/completions", {**SHORT, "stream": True})[0] == 200
    assert server.ask("GET", "/nothing/of/the/kind")[0] == 404
    after = numbers()

    def more(name):
        return after.get(name, 0) - before.get(name, 0)

    assert more('qkv_requests_total{route="/v1/completions",status="200"}') == 2
    assert more('qkv_requests_total{route="none",status="404"}') == 1
    assert more('qkv_request_seconds_count{route="/v1/completions"}') == 2
    read = answer["usage"]["prompt_tokens"]
    assert more('qkv_tokens_total{kind="prompt",model="talker"}') == 2 * read
    assert 2 <= more('qkv_tokens_total{kind="completion",model="talker"}') <= 4
    running, end = 'qkv_running{model="talker"}', time.monotonic() + 10
    while numbers()[running] and time.monotonic() < end:  # an answer is sent before its row leaves
        time.sleep(0.01)
    assert numbers()[running] == 0
    assert 'qkv_waiting{model="encoder"}' in after
    assert not [name for name in after if "nothing" in name]


def test_a_model_that_failed_to_load_is_sick():
    from qkv.serve.engine import Engine

    def load():
        raise DataError("its file is truncated")

    running = Server(Models([Serving("broken", load, Engine)]))
    try:
        status, answer = running.post("/v1/completions", model="broken", prompt="x")
        assert (status, answer["error"]["message"]) == (400, "its file is truncated")
        status, _, content = running.ask("GET", "/health")
        assert (status, json.loads(content)["models"]) == (503, ["broken"])
    finally:
        running.close()


def Serving(name, load, engine):  # noqa: N802 - a model whose loading is the test's
    from qkv.serve.models import Served

    return Served(name, name, "generate", engine(name, load))


def test_the_default_models_are_those_of_the_commands():
    assert {"all-MiniLM-L6-v2", "translator-en-de", "recognizer"} <= set(shipped_models())
    assert "dates" not in shipped_models()


@pytest.mark.parametrize(
    ("host", "names", "key", "message"),
    [
        ("0.0.0.0", [], "x" * 16, "expected --name NAME"),
        ("0.0.0.0", ["me"], "short", "a key of at least 16 characters in the environment"),
        ("10.1.2.3", [], "", "--host 10.1.2.3 is reached by others; expected a key"),
        ("my-machine", [], "x" * 16, "--host my-machine; expected an address"),
    ],
)
def test_who_can_be_reached_needs_a_key_and_a_name(host, names, key, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(host, names, key)


def test_this_computer_alone_needs_neither():
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        check(host, [], "")
    check("0.0.0.0", ["me"], "x" * 16)
    check("10.1.2.3", [], "x" * 16)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a process")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_it_cleanly_in_the_middle_of_an_answer(classifier, ending, tmp_path):
    code = "from qkv.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, "serve", str(classifier), "generator", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        lines = [process.stderr.readline() for _ in range(3)]
        port = int(re.search(r":(\d+)/v1", lines[-1])[1])
        body = json.dumps(
            {"model": "generator", "prompt": ["Return"] * 40, "max_tokens": 90, "stream": True}
        )
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            assert b"200 OK" in connection.recv(100)
            process.send_signal(ending)
            content = b""
            while part := connection.recv(65536):
                content += part
        error = process.stderr.read()
        assert process.wait(30) in (130, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM)
        assert b"the server is stopping" in content or b"[DONE]" in content
        assert error == ""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert list(Path(tmp_path).iterdir()) == []
