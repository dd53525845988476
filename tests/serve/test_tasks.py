"""POST /v1/tasks/NAME answers what the command NAME prints with --json, byte for byte."""

import base64
import io
import json

import pytest
from PIL import Image, ImageDraw
from tests.serve.conftest import Server, served

from qkv.cli import main
from qkv.serve.models import Models, read_models
from qkv.serve.tasks import MOST_OF_OTHERS, options_of
from qkv.tasks.task import commands, find_task

PASSAGE = "Ada Lovelace was a mathematician. The first program was written by Ada Lovelace in 1843."
MODELS = {
    "translate": "translator-en-de",
    "summarize": "all-MiniLM-L6-v2",
    "answer": "answerer-small",
    "classify": "sentiment-small",
    "tag": "tagger",
    "generate": "generator",
    "recognize": "recognizer",
}
LINES = ["The film was a wonderful surprise.", "A dull film.", "I lost my key in Łódź.", "é"]
MAIL = "The meeting is on Monday. Please bring the report. The coffee is on us. Thanks a lot."
# Of each command: inputs, options of the request, and the same on the command line.
CASES = [
    ("translate", ["I don't know.", "Good morning!"], {"beam": 3, "n_best": 2}, []),
    ("translate", ["I don't know."], {}, []),
    ("summarize", [MAIL], {"method": "extract", "sentences": 2}, []),
    ("summarize", [MAIL, "Short."], {"method": "lead"}, []),
    ("answer", ["Who wrote the program?", "When?"], {"context": PASSAGE, "n_best": 2}, []),
    ("classify", LINES, {}, []),
    ("classify", [LINES[0]], {"max_length": 7}, []),
    ("classify", LINES[:2], {"labels": "praise, complaint", "model": "all-MiniLM-L6-v2"}, []),
    ("tag", ["Ada Lovelace lived in London.", LINES[2]], {}, []),
    ("generate", ["Return the", ""], {"max_length": 11, "temperature": 0.7, "seed": 5, "n": 2}, []),
    ("generate", ["Return"], {"max_length": 9, "stop": ["e", "zz"]}, []),
    ("embed", LINES, {}, []),
    ("search", ["a film"], {"top_k": 2}, []),
]


@pytest.fixture(scope="module")
def shipped():
    names = [*MODELS.values(), "all-MiniLM-L6-v2"]
    models = read_models(list(dict.fromkeys(names)), device="cpu", dtype=None, allow_download=False)
    running = Server(models)
    yield running
    running.close()


@pytest.fixture
def printed(capsys):
    def run(*arguments):
        capsys.readouterr()
        status = main([str(one) for one in arguments])
        return status, capsys.readouterr().out.encode()

    return run


def arguments(options):
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            yield from (f"--{name.replace('_', '-')}", one)


@pytest.mark.parametrize(("task", "inputs", "options", "more"), CASES, ids=range(len(CASES)))
def test_the_answer_is_what_the_command_prints(
    shipped, printed, tmp_path, task, inputs, options, more
):
    given = dict(options)
    if options.get("method") != "lead":
        default = MODELS.get(task, "all-MiniLM-L6-v2")
        given = {"model": default, **given}
    extra = []
    body = {"inputs": inputs, **given}
    if task == "search":
        file = tmp_path / "docs.txt"
        file.write_text("\n".join(LINES), encoding="utf-8")
        body["documents"], extra = LINES, ["--file", file]
    as_json = [] if task == "embed" else ["--json"]
    status, expected = printed(task, *as_json, *arguments(given), *extra, "--", *inputs)
    assert status == 0
    got, headers, content = shipped.ask("POST", f"/v1/tasks/{task}", body)
    assert (got, content) == (200, expected)
    assert headers["content-type"] == "application/x-ndjson"
    if len(inputs) == 1 and options.get("n", 1) == 1:
        body["inputs"] = inputs[0]
        _, headers, content = shipped.ask("POST", f"/v1/tasks/{task}", body)
        assert content == expected
        assert headers["content-type"] == "application/json"


def test_every_command_is_compared_or_has_a_test_here():
    assert {one[0] for one in CASES} | {"recognize", "chat"} == set(commands())


def test_images_come_as_their_content(shipped, printed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = Image.new("L", (60, 60), 255)
    ImageDraw.Draw(image).line([(20, 15), (40, 15), (28, 48)], fill=0, width=5)
    content = io.BytesIO()
    image.save(content, "PNG")
    (tmp_path / "seven.png").write_bytes(content.getvalue())
    (tmp_path / "eight.png").write_bytes(content.getvalue())
    data = base64.b64encode(content.getvalue()).decode()
    names = ["seven.png", "eight.png"]
    _, expected = printed("recognize", "--json", "--top", 3, "--model", "recognizer", *names)
    inputs = [{"data": data, "name": name} for name in names]
    status, _, got = shipped.ask("POST", "/v1/tasks/recognize", {"inputs": inputs, "top": 3})
    assert (status, got) == (200, expected)
    status, answer = shipped.post("/v1/tasks/recognize", inputs={"data": data})
    assert (status, answer["image"], answer["label"]) == (200, "an image", "7")
    for wrong in ("seven.png", str(tmp_path / "seven.png"), "AAAA", "%"):
        status, answer = shipped.post("/v1/tasks/recognize", inputs={"data": wrong})
        assert (status, "cannot be read" in answer["error"]["message"]) == (400, True)


def test_a_model_of_ones_own_is_called_by_its_folder(classifier, printed):
    models = read_models([str(classifier)], device="cpu", dtype=None, allow_download=False)
    running = Server(models)
    try:
        texts = ["the film was fine", "the soup was dull . the"]
        _, expected = printed("classify", "--model", classifier, "--json", *texts)
        body = {"inputs": texts, "model": "opinions"}
        assert running.ask("POST", "/v1/tasks/classify", body)[2] == expected
        del body["model"]  # it is the only one
        assert running.ask("POST", "/v1/tasks/classify", body)[2] == expected
    finally:
        running.close()


def test_a_chat_answers_each_message(talker, server, printed, folder):
    from qkv.tasks.chat import Chat

    status, _, content = server.ask(
        "POST",
        "/v1/tasks/chat",
        {"inputs": ["Is it old?", "Is it?"], "system": "Be new.", "max_length": 7, "seed": 3},
    )
    assert status == 200
    alone = Chat(talker)(["Is it old?", "Is it?"], system="Be new.", max_length=7, seed=3)
    assert [json.loads(line)["text"] for line in content.splitlines()] == [o.text for o in alone]


def test_one_bad_input_among_others_has_its_error(server):
    body = {"inputs": ["fine", " ", "dull"], "model": "opinions"}
    status, _, content = server.ask("POST", "/v1/tasks/classify", body)
    lines = [json.loads(line) for line in content.splitlines()]
    assert status == 200
    assert lines[1] == {"error": "argument 2: empty; expected a text"}
    assert [one["text"] for one in lines[::2]] == ["fine", "dull"]
    status, answer = server.post("/v1/tasks/classify", inputs=" ", model="opinions")
    assert (status, answer["error"]["message"]) == (400, "argument 1: empty; expected a text")


WRONG = [
    ("classify", {"inputs": ["x"], "model": "x"}, 404, "the model 'x' is not served"),
    ("classify", {"inputs": ["x"], "model": "talker"}, 400, "talker: the model is a Llama"),
    ("classify", {"inputs": []}, 400, "inputs"),
    ("classify", {"inputs": ["x"], "file": "/etc/passwd"}, 400, "file is not supported"),
    ("classify", {"inputs": ["x"], "output": "/tmp/x"}, 400, "output is not supported"),
    ("classify", {"inputs": ["x"] * 257}, 400, "inputs"),
    ("classify", {"inputs": "x" * 20_001}, 400, "inputs"),
    ("classify", {"inputs": "x", "independent": True}, 400, "--independent without --labels"),
    ("classify", {"inputs": "x", "max_length": 10**6}, 400, "less than or equal to 4096"),
    ("translate", {"inputs": "x"}, 404, "no model for translate is served; expected model, one"),
    ("translate", {"inputs": "x", "beam": 10**9}, 400, "less than or equal to 16"),
    ("translate", {"inputs": "x", "reverse": "/etc"}, 400, "reverse is not supported"),
    ("answer", {"inputs": "x", "model": "encoder"}, 400, "expected context"),
    ("search", {"inputs": "x", "model": "encoder"}, 400, "(documents, in a request)"),
    ("search", {"inputs": "x", "vectors": "/etc/passwd"}, 400, "vectors is not supported"),
    ("dates", {"inputs": "x"}, 404, "there is no such path"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "body", "status", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_says_so(server, task, body, status, message):
    got, answer = server.post(f"/v1/tasks/{task}", **body)
    assert (got, message in answer["error"]["message"]) == (status, True), answer


def test_no_text_is_looked_up_on_the_disk(server, folder, monkeypatch):
    """On the command line, the name of a file as a text is a mistake; here it is a text."""
    status, answer = server.post("/v1/tasks/classify", inputs=str(folder), model="opinions")
    assert (status, answer["text"]) == (200, str(folder))
    secret = folder / "secret.txt"
    secret.write_text("the film was superb", encoding="utf-8")
    status, answer = server.post(
        "/v1/tasks/search", inputs="film", documents=[str(secret)], model="encoder"
    )
    assert (status, answer["hits"][0]["text"]) == (200, str(secret))


@pytest.mark.parametrize("name", commands())
def test_no_option_is_a_file_or_a_number_without_limit(name):
    kind = find_task(name).predict
    for option, (hint, _) in options_of(kind).items():
        assert "Path" not in str(hint), option
        if "int" in str(hint):
            assert "le=" in str(hint) or "Le(" in str(hint), option
    assert MOST_OF_OTHERS < 10_000


def test_two_models_with_one_name_are_refused(classifier):
    from qkv.errors import ConfigError

    with pytest.raises(ConfigError, match="two models have the same name: a, a"):
        Models([served("a", "classify", None), served("a", "classify", None)])
