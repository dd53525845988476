"""Records of the shipped models, one of each kind of input."""

import threading
import time
from functools import cache
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from qkv.explorer.look import look, make_view
from qkv.tasks.task import find_task

INPUTS = {
    "classify": ("sentiment-small", {"text": "The film was a wonderful surprise."}),
    "answer": (
        "answerer-small",
        {
            "text": "Who wrote the first program?",
            "context": "Ada Lovelace was a mathematician. The program was written by Ada in 1843.",
        },
    ),
    "tag": ("tagger", {"text": "Ada Lovelace lived in London."}),
    "translate": ("translator-en-de", {"text": "I have never seen such a beautiful house."}),
    "generate": ("generator", {"text": "Return the", "new_tokens": "7"}),
    "recognize": ("recognizer", {"text": "a seven"}),
}
FIVE = ["classify", "answer", "translate", "recognize", "generate"]


def draw_seven():
    image = Image.new("L", (60, 60), 255)
    ImageDraw.Draw(image).line([(20, 15), (40, 15), (28, 48)], fill=0, width=5)
    return image


@cache
def pipeline_of(task):
    return find_task(task).pipeline.load(INPUTS[task][0], device="cpu")


@cache
def looked_at(task):
    pipeline, (name, inputs) = pipeline_of(task), INPUTS[task]
    fields = {**inputs, "picture": draw_seven()} if task == "recognize" else inputs
    return look(pipeline.model, make_view(pipeline, task, fields), name=name, effects=True)


@pytest.fixture(params=list(INPUTS))
def task(request):
    return request.param


@pytest.fixture
def looked(task):
    return looked_at(task)


@pytest.fixture
def model(task):
    return pipeline_of(task).model


CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, for chromium")
    found = next((path for path in CHROMIUM if Path(path).exists()), None)
    if found is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


def load(task, name):
    if name == "tagger":
        raise RuntimeError("a broken model")
    return pipeline_of(task)


@pytest.fixture(scope="module")
def engine():
    from qkv.explorer.engine import Engine

    engine = Engine([], load)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def port(engine):
    """The port of a server that runs."""
    uvicorn = pytest.importorskip("uvicorn")
    from qkv.explorer.server import make_app

    config = uvicorn.Config(make_app(engine), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()
