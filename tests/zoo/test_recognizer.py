"""The shipped recognizer on digits that this page draws: any colors, thickness, place and size."""

import pytest

from qkv.data.sets import load_set
from qkv.errors import DataError
from qkv.tasks.images import Recognizer

pillow = pytest.importorskip("PIL.Image")
from PIL import ImageDraw  # noqa: E402 - after the check that Pillow is there

# Lines through points in a box of 6 x 10; "o" is an ellipse, from corner to corner.
DIGITS = {
    0: ["o", (0, 0), (6, 10)],
    1: [(1, 2.5), (4, 0), (4, 10)],
    2: [(0, 2), (1, 0.3), (4, 0), (6, 1.5), (5.5, 4), (0, 10), (6, 10)],
    3: [(0, 1), (3, 0), (5.5, 1.5), (5, 4), (2.5, 4.8), (5.5, 6), (6, 8.5), (3, 10), (0, 9)],
    4: [(4.5, 10), (4.5, 0), (0, 6.5), (6.3, 6.5)],
    5: [(5.5, 0), (1, 0), (0.5, 4.5), (3.5, 3.8), (6, 6), (5, 9), (2.5, 10), (0, 9)],
    6: [(5, 0), (2, 2.5), (0.2, 6.5), (1, 9.3), (3, 10), (5.7, 8.5), (5, 5.8), (3, 5.2), (0.6, 7)],
    7: [(0, 0), (6, 0), (2.5, 10)],
    9: [(5.7, 2.5), (3, 5), (0.7, 4), (0.7, 1.2), (3, 0), (5.5, 1), (5.7, 3), (5, 10)],
}


def drawn(digit, *, height=120, at=(50, 40), size=(240, 220), width=8, ink=0, paper=255, mode="L"):
    image = pillow.new(mode, size, paper)
    pen = ImageDraw.Draw(image)
    kind, *points = DIGITS[digit]
    points = points if kind == "o" else [kind, *points]
    points = [(at[0] + x * height / 10, at[1] + y * height / 10) for x, y in points]
    if kind == "o":
        pen.ellipse((*points[0], *points[1]), outline=ink, width=width)
    else:
        pen.line(points, fill=ink, width=width, joint="curve")
    return image


@pytest.fixture(scope="module")
def recognizer():
    return Recognizer.load("recognizer")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ink": 255, "paper": 0},
        {"ink": 90, "paper": 200},
        {"width": 2},
        {"width": 18},
        {"height": 180, "at": (100, 20), "width": 12},
        {"height": 24, "at": (200, 190), "width": 2},
        {"size": (1_200, 700), "height": 600, "at": (700, 50), "width": 14},
        {"mode": "RGB", "ink": "navy", "paper": "beige"},
        {"mode": "RGBA", "ink": "white", "paper": (0, 0, 0, 0)},
    ],
    ids=str,
)
def test_it_reads_digits_however_they_are_drawn(recognizer, options):
    found = recognizer([drawn(digit, **options) for digit in DIGITS])
    wrong = {d: one.label for d, one in zip(DIGITS, found, strict=True) if one.label != str(d)}
    assert len(wrong) <= 1, wrong


def test_dark_on_light_and_light_on_dark_are_the_same_to_it(recognizer):
    dark, light = (
        recognizer.probabilities([drawn(digit, ink=ink, paper=255 - ink) for digit in DIGITS])
        for ink in (0, 255)
    )
    assert (dark - light).abs().max() < 1e-3


def test_an_image_without_a_digit_is_not_guessed(recognizer):
    with pytest.raises(DataError, match="an image: nothing is drawn: it has one color, or only"):
        recognizer(pillow.new("L", (90, 60), 255))


@pytest.mark.parametrize(("split", "least"), [("dark", 90), ("light", 90), ("mouse", 17)])
def test_its_test_sets(recognizer, split, least):
    scores = recognizer.evaluate(load_set("recognize", "written_digits", split))
    assert scores.accuracy * scores.count >= least
