"""`qkv recognize`: files and folders, what is printed, and broken images among good ones."""

import json

import numpy as np
import pytest
from tests.tasks.images.test_recognizer import NAMES, recognizer
from tests.tasks.small import load_in_float64

from qkv.cli import main
from qkv.data.images import ImageConfig, ImageProcessor
from qkv.tasks.images import Recognizer
from qkv.tasks.pretrained import Loaded, save

pillow = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "model"
    made = recognizer().loaded
    labels = {str(i): name for i, name in enumerate(NAMES)}
    save(Loaded(made.model.float(), preprocessor=made.preprocessor), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": labels, "label2id": {name: int(i) for i, name in labels.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    load_in_float64(monkeypatch)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, mode in (("b.png", "RGBA"), ("a.JPG", "RGB"), ("more/c.png", "L")):
        pixels = rng.integers(0, 256, (17, 13, 3), dtype=np.uint8)
        pillow.fromarray(pixels).convert(mode).save(folder / name)
    (folder / "notes.txt").write_text("not an image, and not asked for")
    (folder / ".hidden.png").write_text("x")
    return folder


@pytest.fixture
def qkv(capsys):
    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_name_that_is_longer_than_any_file_s(qkv, model):
    status, out, err = qkv("recognize", "-m", model, "ä" * 255)
    assert (status, out) == (2, "")
    assert "there is no such file" in err


def test_folders_files_and_top(qkv, model, photos):
    files = [str(photos / name) for name in ("a.JPG", "b.png", "more/c.png")]
    expected = Recognizer.load(model)(files)
    status, out, err = qkv("recognize", "-m", model, photos)
    assert (status, err) == (0, "")
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows == [[one.image, one.label, f"{one.probability:.4f}"] for one in expected]
    assert [row[0] for row in rows] == files
    status, out, _ = qkv("recognize", "-m", model, files[1], "--top", "2")
    best = list(expected[1].probabilities.items())[:2]
    assert out == "\t".join([files[1], *(f"{k}\t{v:.4f}" for k, v in best)]) + "\n"
    status, out, _ = qkv("recognize", "--model", model, files[1], files[0], "--json")
    said = [json.loads(line) for line in out.splitlines()]
    assert [one["image"] for one in said] == [files[1], files[0]]
    assert said[0]["probabilities"] == pytest.approx(expected[1].probabilities, abs=1e-9)
    status, out, _ = qkv("recognize", "-m", model, files[1], "--json", "--top", "2")
    assert list(json.loads(out)["probabilities"]) == [label for label, _ in best]


def test_broken_images_stop_no_others_and_are_named(qkv, model, photos):
    whole = (photos / "more" / "c.png").read_bytes()
    (photos / "more" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("no image")
    status, out, err = qkv("recognize", "-m", model, photos, photos / "gone.png")
    assert status == 2
    lines = out.splitlines()
    assert [line.split("\t")[0].rpartition("/")[2] for line in lines] == [
        "a.JPG",
        "b.png",
        "c.png",
        "",
        "",
        "",
    ]
    assert "cut.png cannot be read as an image" in err
    assert "text.png is not an image" in err
    assert "gone.png: there is no such file" in err
    assert "3 of 6 inputs have no result" in err
    status, out, _ = qkv("recognize", "-m", model, photos, photos / "gone.png", "--json")
    assert ["error" in json.loads(line) for line in out.splitlines()] == [False] * 3 + [True] * 3


def test_images_without_a_drawing_are_named_and_stop_no_others(qkv, tmp_path):
    made = recognizer(channels=1).loaded
    config = ImageConfig(ink_box=9, size=(13, 11), mean=(0.1,), std=(0.3,))
    save(Loaded(made.model.float(), preprocessor=ImageProcessor(config)), tmp_path / "model")
    drawn = pillow.new("RGB", (40, 50), "white")
    drawn.paste("navy", (12, 10, 18, 40))
    drawn.save(tmp_path / "one.png")
    pillow.new("L", (40, 50), 255).save(tmp_path / "blank.png")
    files = [tmp_path / "blank.png", tmp_path / "one.png"]
    status, out, err = qkv("recognize", "-m", tmp_path / "model", *files)
    assert status == 2
    first, second = out.splitlines()
    assert first == ""
    assert second.startswith(str(files[1]))
    name = tmp_path / "blank.png"
    assert f"{name}: nothing is drawn: it has one color, or only noise; expected a sign" in err
    assert err.count("blank.png") == 1
    assert "1 of 2 inputs have no result" in err
    status, out, err = qkv("recognize", "-m", tmp_path / "model", files[0])
    assert (status, out) == (2, "")
    assert "blank.png: nothing is drawn: it has" in err
    assert err.count("blank.png") == 1


def test_a_mode_that_is_not_converted_stops_no_others(qkv, tmp_path):
    made = recognizer(channels=1).loaded
    save(Loaded(made.model.float(), preprocessor=made.preprocessor), tmp_path / "model")
    pillow.new("LAB", (40, 50)).save(tmp_path / "a.tif")
    pillow.new("L", (40, 50)).save(tmp_path / "b.png")
    status, out, err = qkv("recognize", "-m", tmp_path / "model", tmp_path / "a.tif", tmp_path)
    assert status == 2
    assert [line.split("\t")[0] for line in out.splitlines()] == ["", "", str(tmp_path / "b.png")]
    assert "a.tif of Pillow's mode 'LAB' cannot be converted: " in err
    assert "2 of 3 inputs have no result" in err


def test_an_empty_argument_is_not_the_current_folder(qkv, model, photos, monkeypatch):
    monkeypatch.chdir(photos)
    status, out, err = qkv("recognize", "-m", model, "")
    assert (status, out) == (2, "")
    assert "argument 1 is empty; expected an image or a folder" in err
    status, out, err = qkv("recognize", "-m", model, "b.png", "")
    assert status == 2
    assert [line.split("\t")[0] for line in out.splitlines()] == ["b.png", ""]
    assert "argument 2 is empty; expected an image or a folder" in err


def test_what_cannot_be_is_refused(qkv, model, photos, tmp_path):
    for arguments, message in (
        ([model], "no input: expected image files, or folders of them"),
        ([model, photos, "--top", "0"], "top = 0; expected at least 1 class"),
        ([model, model, photos], "is a model, not an image: did you mean --model"),
        ([model, "recognizer"], "'recognizer' is a model, not an image: did you mean --model rec"),
        ([model, "--file", "a.txt"], "file = a.txt; expected images, or folders, as arguments"),
        ([model, photos, "--columns.image", "x"], "columns = {'image': 'x'}; expected images, or"),
        ([model, tmp_path / "nothing.png"], "nothing.png: there is no such file"),
    ):
        status, out, err = qkv("recognize", "--model", *arguments)
        assert (status, out) == (2, "")
        assert message in err
    (tmp_path / "empty").mkdir()
    _, _, err = qkv("recognize", "--model", model, tmp_path / "empty")
    assert err.endswith(
        "no images in this folder; expected files such as *.jpg, *.jpeg, *.png, *.bmp\n"
    )
