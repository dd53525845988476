"""The drawing of the Transformer: its boxes, shapes and lines, read back from the axes."""

import matplotlib as mpl
import pytest
import torch

from qkv.errors import ConfigError
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tutorial.architecture import HEIGHT, draw_transformer
from qkv.tutorial.figures import new_figure
from qkv.tutorial.shapes import record_shapes

BATCH, SOURCE, TARGET, WIDTH, WORDS = 2, 5, 3, 22, 13


@pytest.fixture(autouse=True)
def no_window():
    with mpl.rc_context():
        mpl.use("Agg")
        yield
    mpl.pyplot.close("all")


def record(**settings):
    """All modules of a run of a small model: two encoder blocks, three decoder blocks."""
    config = TransformerConfig(
        source_vocab_size=WORDS,
        target_vocab_size=WORDS,
        d_model=WIDTH,
        n_heads=2,
        d_ff=7,
        n_encoder_layers=2,
        n_decoder_layers=3,
        **settings,
    )
    model = Transformer(config)
    with record_shapes(model) as shapes:
        model(torch.randint(WORDS, (BATCH, SOURCE)), torch.randint(WORDS, (BATCH, TARGET)))
    return shapes


def draw(**settings):
    _, axes = new_figure(size=(9.0, 8.5))
    draw_transformer(axes[0, 0], record(**settings))
    return axes[0, 0]


def texts_at(axes, left: bool) -> list[tuple[float, str]]:
    """Height and text of all that is written in one column; arrows are empty texts."""
    x = 2.5 if left else 8.0
    places = ((text.get_position(), text.get_text()) for text in axes.texts if text.get_text())
    return sorted((place[1], text) for place, text in places if place[0] == x)


def column(axes, left: bool) -> list[tuple[str, str]]:
    """The texts of one column's boxes from below: what a box says, and its shape."""
    boxes = [text for _, text in texts_at(axes, left) if "tokens" not in text and text != "logits"]
    return list(zip(boxes[1::2], boxes[::2], strict=True))


def middles(axes, left: bool) -> list[tuple[str, float]]:
    """What each box of one column says, and the height of its middle."""
    labels = {label for label, _ in column(axes, left)}
    return [(text, y - 0.17) for y, text in texts_at(axes, left) if text in labels]


def test_a_post_norm_model_is_the_figure_of_the_paper():
    axes = draw()
    sublayer = ["Add & norm", "Feed-forward", "Add & norm"]
    encoder = ["Embedding", "Add positions", "Self-attention", *sublayer]
    decoder = ["Embedding", "Add positions", "Masked self-attention", "Add & norm"]
    decoder += ["Cross-attention", *sublayer, "Output layer"]
    assert [label for label, _ in column(axes, left=True)] == encoder
    assert [label for label, _ in column(axes, left=False)] == decoder


def test_a_pre_norm_model_is_drawn_as_it_runs():
    axes = draw(norm_first=True)
    encoder = ["Embedding", "Add positions", "Norm", "Self-attention", "Add"]
    encoder += ["Norm", "Feed-forward", "Add", "Norm"]
    assert [label for label, _ in column(axes, left=True)] == encoder
    decoder = [label for label, _ in column(axes, left=False)]
    assert decoder[5:8] == ["Norm", "Cross-attention", "Add"]
    assert decoder[-3:] == ["Add", "Norm", "Output layer"]


@pytest.mark.parametrize("settings", [{}, {"norm_first": True}, {"shared_embeddings": True}])
def test_each_box_has_the_shape_of_the_run(settings):
    axes = draw(**settings)
    assert {shape for _, shape in column(axes, left=True)} == {str((BATCH, SOURCE, WIDTH))}
    *inside, (_, last) = column(axes, left=False)
    assert {shape for _, shape in inside} == {str((BATCH, TARGET, WIDTH))}
    assert last == str((BATCH, TARGET, WORDS))
    texts = [text.get_text() for text in axes.texts]
    assert f"tokens {(BATCH, SOURCE)}" in texts
    assert f"tokens {(BATCH, TARGET)}" in texts
    assert f"memory {(BATCH, SOURCE, WIDTH)}" in texts
    assert {"encoder\n2 ×", "decoder\n3 ×"} <= set(texts)


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_memory_enters_cross_attention(norm_first):
    axes = draw(norm_first=norm_first)
    (arrow,) = (a for a in axes.texts if hasattr(a, "xyann") and a.xyann[0] == 5.25)
    assert arrow.xy[1] == pytest.approx(dict(middles(axes, left=False))["Cross-attention"])
    assert arrow.xy[0] < 8.0


def test_a_residual_leaves_below_its_sublayer_and_ends_at_the_sum():
    axes = draw(norm_first=True)
    ways = [
        line.get_xydata()
        for line in axes.lines
        if len(line.get_xydata()) == 3 and line.get_xydata()[-1][0] < 2.5  # encoder, to the left
    ]
    drawn = [y for _, y in middles(axes, left=True)]
    assert len(ways) == 2
    for way, first, last in zip(
        sorted(ways, key=lambda way: way[0][1]), (2, 5), (4, 7), strict=True
    ):
        assert drawn[first - 1] + HEIGHT / 2 < way[0][1] < drawn[first] - HEIGHT / 2
        assert way[-1][1] == pytest.approx(drawn[last])


def test_a_partial_record_is_refused():
    _, axes = new_figure(size=(2.0, 2.0))
    part = [row for row in record() if not row["module"].startswith("encoder")]
    with pytest.raises(ConfigError, match="recorded modules lack encoder; expected all"):
        draw_transformer(axes[0, 0], part)
