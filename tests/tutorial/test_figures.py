"""Figures: what is drawn, read back from the axes."""

import importlib.util
import io
from functools import partial

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from qkv.explorer.notebook import explore_weights
from qkv.tutorial.figures import (
    WIDGET,
    draw_curves,
    draw_weights,
    figure,
    new_figure,
    save_figure,
    show_curves,
    show_weights,
    smooth,
    with_palette,
)


@pytest.fixture(autouse=True)
def no_window():
    with mpl.rc_context():
        mpl.use("Agg")
        yield


def test_weights_are_drawn_with_a_row_for_each_query():
    figure, axes = new_figure(2, 3, size=(6.0, 4.0))
    assert axes.shape == (2, 3)
    weights = np.arange(6.0).reshape(2, 3) / 6
    draw_weights(axes[1, 2], weights, ["x", "y"], ["a", " ", "c"], "what to see")
    drawn = axes[1, 2]
    np.testing.assert_array_equal(drawn.images[0].get_array(), weights)
    assert drawn.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in drawn.get_xticklabels()] == ["a", "␣", "c"]
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["x", "y"]
    assert drawn.get_title() == "what to see"
    mpl.pyplot.close(figure)


def test_curves_have_a_legend_where_there_are_two():
    figure, axes = new_figure(1, 2, size=(6.0, 3.0))
    draw_curves(axes[0, 0], {"one": ([1, 2], [3, 4])}, x="step", y="loss", title="falls")
    two = {"one": ([1, 2], [3, 4]), "two": ([1, 2], [5, 6])}
    draw_curves(axes[0, 1], two, x="step", y="loss", title="falls")
    assert axes[0, 0].get_legend() is None
    assert [text.get_text() for text in axes[0, 1].get_legend().get_texts()] == ["one", "two"]
    np.testing.assert_array_equal(axes[0, 1].lines[1].get_ydata(), [5, 6])
    mpl.pyplot.close(figure)


def test_smoothing_looks_back_only():
    np.testing.assert_allclose(smooth([4.0, 2.0, 0.0, 6.0, 8.0], 3), [4, 3, 2, 8 / 3, 14 / 3])
    np.testing.assert_allclose(smooth([4.0, 2.0], 1), [4, 2])


def test_a_saved_figure_is_a_picture_and_is_closed(tmp_path):
    figure, _ = new_figure(size=(2.0, 1.0))
    save_figure(figure, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert not mpl.pyplot.fignum_exists(figure.number)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        return image.mode, np.asarray(image.convert("RGBA"))


def test_a_saved_figure_has_a_palette(tmp_path):
    figure, axes = new_figure(size=(2.0, 1.0))
    draw_curves(axes[0, 0], {"one": ([1, 2], [3, 4])}, x="step", y="loss", title="falls")
    save_figure(figure, tmp_path / "figure.png")
    assert pixels((tmp_path / "figure.png").read_bytes())[0] == "P"


def test_a_palette_keeps_the_size_and_each_of_256_colors():
    colors = np.random.default_rng(0).integers(256, size=(256, 3))
    drawn = colors[np.random.default_rng(1).integers(256, size=(23, 41))]
    mode, kept = pixels(with_palette(png(drawn)))
    assert mode == "P"
    np.testing.assert_array_equal(kept[..., :3], drawn)


def test_more_colors_than_256_move_little():
    x = np.linspace(0, 255, 512)
    drawn = np.stack(np.broadcast_arrays(x, x[:, None], 128), -1).astype(np.uint8)
    _, kept = pixels(with_palette(png(drawn)))
    assert np.abs(kept[..., :3].astype(int) - drawn).max() <= 16


def test_what_is_transparent_becomes_white():
    _, kept = pixels(with_palette(png([[[0, 0, 0, 0], [7, 5, 3, 255]]])))
    np.testing.assert_array_equal(kept, [[[255, 255, 255, 255], [7, 5, 3, 255]]])


def test_a_palette_is_made_only_once():
    small = with_palette(png([[[7, 5, 3], [11, 13, 17]]]))
    assert with_palette(small) == small


def test_a_figure_is_saved_and_its_path_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qkv.tutorial.figures.FIGURES", tmp_path)
    with figure("1_name", 1, 2, size=(4.0, 2.0), title="above") as axes:
        draw_weights(axes[0, 0], [[0.0, 1.0]], ["q"], ["a", "b"], "weights", numbers=".1f")
    drawn = axes[0, 0]
    assert (tmp_path / "1_name.png").exists()
    assert capsys.readouterr().out == f"figure: {tmp_path}/1_name.png\n"
    assert [(text.get_text(), text.get_color()) for text in drawn.texts] == [
        ("0.0", "black"),
        ("1.0", "white"),
    ]
    assert drawn.images[0].colorbar is not None
    assert not axes[0, 1].axison  # nothing was drawn there
    assert not mpl.pyplot.get_fignums()


def test_a_notebook_shows_a_figure_with_its_titles_as_text(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("qkv.tutorial.figures.FIGURES", tmp_path)
    monkeypatch.setattr("qkv.tutorial.figures.in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    with figure("2", 1, 2, size=(4.0, 2.0), title="above") as axes:
        for one in axes.flat:
            draw_curves(one, {"a": ([1, 2], [1, 8])}, x="x", y="y", title="twice", log="xy")
    assert shown[0]["text/plain"] == "Figure: above; twice"
    assert shown[0]["image/png"].startswith(b"\x89PNG")
    assert (axes[0, 0].get_xscale(), axes[0, 0].get_yscale()) == ("log", "log")


@pytest.mark.parametrize("installed", [True, False])
def test_a_notebook_gets_the_explorer_with_the_figure(tmp_path, monkeypatch, capsys, installed):
    shown, find = [], importlib.util.find_spec
    monkeypatch.setattr("qkv.tutorial.figures.FIGURES", tmp_path)
    monkeypatch.setattr("qkv.tutorial.figures.in_notebook", lambda: True)
    monkeypatch.setattr("qkv.explorer.notebook.in_notebook", lambda: True)
    monkeypatch.setattr("qkv.explorer.notebook.find_spec", lambda x: find(x) if installed else None)
    monkeypatch.setattr("IPython.display.display", lambda data, **_: shown.append(data))
    maps = {"one": (np.eye(2), "ab", "ab")}
    live = partial(explore_weights, np.eye(2), "ab")
    show_weights("5", maps, size=(2, 2), live=live)
    assert shown[0]["image/png"].startswith(b"\x89PNG")
    assert (WIDGET in shown[0]) is installed
    assert ("anywidget is not installed" in capsys.readouterr().err) is not installed


def test_a_script_makes_no_explorer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qkv.tutorial.figures.FIGURES", tmp_path)
    maps = {"one": (np.eye(2), "ab", "ab")}
    show_weights("6", maps, size=(2, 2), live=lambda: pytest.fail("called"))
    assert capsys.readouterr().out == f"figure: {tmp_path}/6.png\n"


def test_maps_are_drawn_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr("qkv.tutorial.figures.FIGURES", tmp_path)
    drawn = []
    monkeypatch.setattr(
        "qkv.tutorial.figures.save_figure", lambda figure, path, **_: drawn.append((figure, path))
    )
    maps = {name: ([[0.0, 1.0]], ["q"], ["a", "b"]) for name in ("one", "two", "three")}
    show_weights("3", maps, 2, size=(4.0, 2.0), title="above", color_bar=False, rotation=60)
    [(figure, path)] = drawn
    assert path == tmp_path / "3.png"
    assert [one.get_title() for one in figure.axes] == ["one", "two", "three", ""]
    assert [one.axison for one in figure.axes] == [True, True, True, False]
    assert figure.axes[0].get_xticklabels()[0].get_rotation() == 60
    mpl.pyplot.close(figure)


def test_curves_are_a_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qkv.tutorial.figures.FIGURES", tmp_path)
    show_curves("4", {"a": ([1, 2], [1, 8])}, x="x", y="y", title="twice", size=(4, 2), log="y")
    assert capsys.readouterr().out == f"figure: {tmp_path}/4.png\n"
    with Image.open(tmp_path / "4.png") as image:
        assert image.size == (480, 240)
