"""Tiny models in float64 behind a server on a real socket."""

import http.client
import json
import threading
import time

import pytest
import torch
from tests.helpers import randomized
from tests.tasks.small import write_base, write_classifier

from qkv.data.labels import Labels
from qkv.data.tokenizers import Tokenizer
from qkv.models.llama import Llama, LlamaConfig
from qkv.serve.app import make_app
from qkv.serve.engine import Engine
from qkv.serve.models import Models, Served
from qkv.tasks.pretrained import Loaded, load
from qkv.web.guards import LOCAL
from qkv.web.running import listen, make_server

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
WORDS = "Is it blue? It is red. Is it old? It is new, and so it was before. "


def language_model(template=TEMPLATE, n_positions=211):
    """A Llama of 2 layers that knows bytes and some words."""
    tokenizer = Tokenizer.train_bpe([WORDS + TEMPLATE] * 3, 293)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        d_model=24,
        n_heads=6,
        n_kv_heads=2,
        d_ff=29,
        n_layers=2,
        n_positions=n_positions,
    )
    fields = {"eos_token_id": tokenizer.stop, "pad_token_id": tokenizer.pad, "do_sample": False}
    extra = {"chat_template.jinja": template.encode()} if template else {}
    model = randomized(Llama(config), std=0.5)
    return Loaded(model, tokenizer, config=fields, extra=extra)


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="package")
def encoder(folder):
    return load(write_base(folder / "encoder"), dtype=torch.float64)


@pytest.fixture(scope="package")
def classifier(folder, encoder):
    path = write_classifier(folder / "opinions", Labels(["bad", "good"]), folder / "encoder")
    return path


@pytest.fixture(scope="package")
def talker():
    return language_model()


def served(name, task, loaded, **options):
    return Served(name, name, task, Engine(name, lambda: loaded, **options))


class Server:
    """A server that runs, and requests to it."""

    def __init__(self, models, key="", hosts=LOCAL):
        self.models, self.key = models, key
        self.app = make_app(models, hosts, key)
        self._listening = listen("127.0.0.1", 0)
        self.port = self._listening.getsockname()[1]
        self._server = make_server(self.app, models.stop)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listening]}
        )
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    @property
    def base(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method, path, body=None, **headers):
        """Return status, headers and content."""
        connection = self.connect()
        if body is not None:
            headers = {"Content-Type": "application/json", **headers}
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content

    def post(self, path, **body):
        """Return status and JSON."""
        status, _, content = self.ask("POST", path, body)
        return status, json.loads(content)

    def close(self):
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._listening.close()


@pytest.fixture(scope="package")
def server(talker, encoder, classifier):
    """A server of a language model, one without a template, an encoder and a classifier."""
    plain = language_model(template=None)
    models = Models(
        [
            served("talker", "chat", talker),
            served("plain", "generate", plain),
            served("encoder", "embed", encoder),
            served("opinions", "classify", load(classifier)),
        ]
    )
    running = Server(models)
    yield running
    running.close()
