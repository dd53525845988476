"""Records of the shipped models, one of each kind of input."""

from functools import cache

import pytest
from PIL import Image, ImageDraw

from qkv.explorer.look import look, make_view
from qkv.tasks.task import find_task

INPUTS = {
    "classify": ("sentiment-small", {"text": "The film was a wonderful surprise."}),
    "answer": (
        "answerer",
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
