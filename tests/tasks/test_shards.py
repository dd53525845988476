"""Parts of a result: together they are the whole, in order, whenever their processes are killed."""

import json
import re
import signal
import subprocess
import sys

import pytest
import torch
from tests.tasks.small import load_in_float64, sentences, write_base, write_classifier, write_table

from qkv.cli import main
from qkv.data.labels import Labels
from qkv.data.tables import count_rows, iterate_table
from qkv.tasks import shards, streams
from qkv.tasks.inputs import pick_device

KILLED = """
import os, signal, sys
from qkv.cli import main
from qkv.tasks import shards

shards.BLOCK, left, write = 5, [int(sys.argv[1])], shards.write_atomically

def write_or_die(path, content):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, content)

shards.write_atomically = write_or_die
raise SystemExit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = write_base(folder / "base")
    labels = Labels(["bad", "good", "mixed"])
    return [str(write_classifier(folder / str(n), labels, base, n)) for n in (13, 11)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    load_in_float64(monkeypatch)
    monkeypatch.setattr(shards, "BLOCK", 5)
    monkeypatch.setattr(streams, "FIRST_SPEAKS", 0.0)


@pytest.fixture
def qkv(capsys, monkeypatch, tmp_path):
    """Run a command line in a folder of its own; returns its status and what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        return status, capsys.readouterr().err

    return run


def classify(model, file="in.csv", output="out", **options):
    more = [part for name, value in options.items() for part in (f"--{name}", value)]
    return ["classify", "--model", model, "--file", file, "--output", output, *more]


def parsed(path):
    """The texts with their labels and rounded probabilities, or the errors."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        row.get("error") or (row["text"], row["label"], round(row["probability"], 9))
        for row in rows
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("n_rows", [2, 13, 31])
def test_the_parts_in_order_are_the_whole(qkv, tmp_path, models, count, n_rows):
    rows = sentences(n_rows)
    rows[1] = ("", "good")
    write_table(tmp_path / "in.csv", rows)
    assert qkv(*classify(models[0], output="whole.jsonl"))[0] == 2
    for k in range(count, 0, -1):
        assert qkv(*classify(models[0], shard=f"{k}/{count}"))[0] == 0
    status, said = qkv("merge", "out", "joined.jsonl")
    assert status == 2
    assert f"{n_rows} results written to joined.jsonl" in said
    assert f"1 of {n_rows} rows have no prediction; " in said
    assert parsed(tmp_path / "joined.jsonl") == parsed(tmp_path / "whole.jsonl")
    assert len(parsed(tmp_path / "joined.jsonl")) == n_rows
    parts = sorted((tmp_path / "out").glob("part-*.jsonl"))
    assert [one.name for one in parts] == [
        f"part-{k:05}-of-{count:05}.jsonl" for k in range(1, count + 1)
    ]
    assert "".join(one.read_text() for one in parts) == (tmp_path / "joined.jsonl").read_text()
    sizes = [len(parsed(one)) for one in parts]
    assert max(sizes) - min(sizes) <= 1
    assert (
        sorted(one.suffix for one in (tmp_path / "out").iterdir())
        == [".json"] * count + [".jsonl"] * count
    )


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "txt"])
def test_every_format_is_divided(qkv, tmp_path, models, kind):
    texts = [text for text, _ in sentences(17)]
    path = tmp_path / f"in.{kind}"
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=3)
    else:
        lines = [json.dumps({"text": one}) if kind == "jsonl" else one for one in texts]
        head = ["text"] if kind in ("csv", "tsv") else []
        path.write_text("\n".join([*head, *lines]) + "\n\n")
    for k in (1, 2, 3):
        assert qkv(*classify(models[0], path.name, shard=f"{k}/3"))[0] == 0
    assert qkv("merge", "out", "joined.jsonl")[0] == 0
    assert [row[0] for row in parsed(tmp_path / "joined.jsonl")] == texts


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7, 10])
def test_a_span_of_rows_is_a_slice(tmp_path, start):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [f'{i},\n"{i}"' for i in range(11)]
    table = pyarrow.table({"text": texts, "label": ["a"] * 11})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    write_table(tmp_path / "a.csv", [(text, "a") for text in texts])
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps({"text": one}) for one in texts))
    for path in tmp_path.iterdir():
        every = list(iterate_table(path, {"text": "text"}))
        assert count_rows(path) == len(every) == 11
        for stop in range(start + 1, 12):
            some = list(iterate_table(path, {"text": "text"}, span=(start, stop)))
            assert some == every[start:stop]


def test_whenever_it_is_interrupted_it_goes_on(qkv, tmp_path, models, monkeypatch):
    write_table(tmp_path / "in.csv", sentences(29))
    assert qkv(*classify(models[0], output="never", shard="2/2"))[0] == 0
    expected = (tmp_path / "never" / "part-00002-of-00002.jsonl").read_bytes()
    write, predict, predicted = shards.write_atomically, shards.results_of, []

    def count(rows, answer):
        predicted.append(len(rows))
        return predict(rows, answer)

    monkeypatch.setattr(shards, "results_of", count)
    for n in range(1, 6):
        left = [n]
        predicted.clear()

        def stop_at(path, content, left=left):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            write(path, content)

        monkeypatch.setattr(shards, "write_atomically", stop_at)
        output = f"out{n}"
        assert qkv(*classify(models[0], output=output, shard="2/2"))[0] == 130
        assert sum(predicted) <= 15
        monkeypatch.setattr(shards, "write_atomically", write)
        status, said = qkv(*classify(models[0], output=output, shard="2/2"))
        assert status == 0
        assert ("goes on after" in said) == (2 < n < 5)
        assert sum(predicted) in (15, 20)  # a block is predicted twice at most
        assert (tmp_path / output / "part-00002-of-00002.jsonl").read_bytes() == expected
        predicted.clear()
        assert qkv(*classify(models[0], output=output, shard="2/2"))[0] == 0
        assert predicted == []  # a whole part is not made again


def test_a_killed_process_leaves_no_part_and_goes_on(qkv, tmp_path, models):
    write_table(tmp_path / "in.csv", sentences(29))
    command = classify(models[0], shard="1/1")
    done = subprocess.run([sys.executable, "-c", KILLED, "4", *command], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [one.suffix for one in (tmp_path / "out").glob("part*")] == [".json"]
    status, said = qkv("merge", "out", "joined.jsonl")
    assert status == 2
    assert "of 1 parts, 1 is not whole: part-00001-of-00001.jsonl" in said
    status, said = qkv(*command)
    assert status == 0
    assert "part-00001-of-00001.jsonl goes on after 10 of 29 rows" in said
    assert qkv("merge", "out", "joined.jsonl")[0] == 0
    assert [row[0] for row in parsed(tmp_path / "joined.jsonl")] == [t for t, _ in sentences(29)]


def test_other_options_input_and_model_are_refused(qkv, tmp_path, models):
    write_table(tmp_path / "in.csv", sentences(7))
    write_table(tmp_path / "other.csv", sentences(8))
    assert qkv(*classify(models[0], shard="1/2"))[0] == 0
    for command, message in [
        (classify(models[1], shard="2/2"), r"has another model: '\w{64}', not '\w{64}'; expected"),
        (classify(models[0], "other.csv", shard="2/2"), r"has another input: '\w{64}', not"),
        (classify(models[0], shard="2/3"), "has another number of parts: 2, not 3; expected"),
        ([*classify(models[0], shard="1/2"), "--max-length", 9], "another option max_length: None"),
        ([*classify(models[0], shard="2/2"), "--columns.text", "label"], "another column of text"),
    ]:
        status, said = qkv(*command)
        assert status == 2
        assert re.search(rf"error: out/part-00001-of-00002.json {message}|{message}", said)
        assert not (tmp_path / "out" / "part-00002-of-00002.jsonl").exists()


def test_only_whole_parts_of_the_same_are_joined(qkv, tmp_path, models):
    write_table(tmp_path / "in.csv", sentences(7))
    (tmp_path / "empty").mkdir()
    assert "empty has no parts; expected a folder that" in qkv("merge", "empty", "a.jsonl")[1]
    assert "absent is no folder; expected a folder that" in qkv("merge", "absent", "a.jsonl")[1]
    for k in (1, 3):
        assert qkv(*classify(models[0], shard=f"{k}/3"))[0] == 0
    status, said = qkv("merge", "out", "a.jsonl")
    assert status == 2
    assert "of 3 parts, 1 is not whole: part-00002-of-00003.jsonl; expected all" in said
    assert "with --shard 2/3" in said
    assert qkv(*classify(models[0], shard="2/3"))[0] == 0
    path = tmp_path / "out" / "part-00003-of-00003.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert "1 is not whole: part-00003-of-00003.jsonl" in qkv("merge", "out", "a.jsonl")[1]
    assert qkv(*classify(models[0], shard="3/3"))[0] == 0  # made again
    assert path.read_bytes() == whole
    record = path.with_suffix(".json")
    content = json.loads(record.read_text())
    content["made_of"]["version of qkv"] = "0.1.2"
    record.write_text(json.dumps(content))
    assert "another version of qkv: '0.1.2', not '" in qkv("merge", "out", "a.jsonl")[1]
    record.write_text("[]")
    assert qkv("merge", "out", "a.jsonl")[0] == 2
    record.write_text("{}")
    assert "is no record of a part" in qkv("merge", "out", "a.jsonl")[1]
    assert "has the suffix '.csv'; expected .jsonl" in qkv("merge", "out", "a.csv")[1]
    assert not (tmp_path / "a.jsonl").exists()


def test_a_part_is_not_replaced_by_the_result(qkv, tmp_path, models):
    write_table(tmp_path / "in.csv", sentences(7))
    for k in (1, 2):
        assert qkv(*classify(models[0], shard=f"{k}/2"))[0] == 0
    part = tmp_path / "out" / "part-00001-of-00002.jsonl"
    before = part.read_bytes()
    status, said = qkv("merge", "out", f"out/{part.name}")
    assert status == 2
    assert f"the result out/{part.name} is a part itself; expected another file" in said
    assert part.read_bytes() == before
    assert qkv("merge", "out", "out/all.jsonl")[0] == 0


def test_without_an_output_the_message_says_so(qkv):
    status, said = qkv("classify", "--model", "any", "--file", "in.csv", "--shard", "1/3")
    assert status == 2
    assert "--shard 1/3 with --file in.csv and no --output; expected a file of inputs" in said


def test_torchrun_names_the_part(qkv, tmp_path, models, monkeypatch):
    write_table(tmp_path / "in.csv", sentences(7))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert qkv(*classify(models[0]))[0] == 0
        status, said = qkv(*classify(models[0], output="all.jsonl"))
        assert status == 2
        assert "2 processes of torchrun with --file in.csv and --output all.jsonl; expected" in said
    assert qkv("merge", "out", "joined.jsonl")[0] == 0
    assert [row[0] for row in parsed(tmp_path / "joined.jsonl")] == [t for t, _ in sentences(7)]


@pytest.mark.parametrize(
    ("changes", "inputs", "message"),
    [
        ({"shard": "0/3"}, [], "--shard 0/3; expected K/N with K from 1 to N"),
        ({"shard": "4/3"}, [], "--shard 4/3; expected K/N with K from 1 to N"),
        ({"shard": "1:3"}, [], "--shard 1:3; expected K/N with K from 1 to N"),
        ({"output": "a.jsonl"}, [], "--output a.jsonl; expected a file of inputs"),
        ({}, ["a text"], "inputs as arguments (1) and --file in.csv; expected one"),
        ({"file": "no.csv"}, [], "cannot read no.csv: "),
        ({"file": "empty.csv"}, [], "empty.csv has only a header"),
        ({"labels": "a, b"}, [], "groups among all texts count; expected --independent"),
        ({"model": "no"}, [], "'no' is neither a folder"),
    ],
)
def test_what_cannot_be_divided_is_refused(qkv, tmp_path, models, changes, inputs, message):
    write_table(tmp_path / "in.csv", sentences(7))
    write_table(tmp_path / "empty.csv", [])
    options = {"model": models[0], "shard": "1/3", **changes}
    status, said = qkv(*classify(**options), *inputs)
    assert status == 2
    assert message in said
    assert not (tmp_path / "out").exists()


def test_prompts_are_repeated_with_the_same_seeds(qkv, tmp_path):
    (tmp_path / "in.txt").write_text("".join(f"prompt {i}\n" for i in range(7)))
    command = ["generate", "--model", "generator", "--file", "in.txt", "--n", "2"]
    command += ["--max-length", "3", "--seed", "5"]
    assert qkv(*command, "--output", "whole.jsonl")[0] == 0
    for k in (1, 2, 3):
        assert qkv(*command, "--output", "out", "--shard", f"{k}/3")[0] == 0
    assert qkv("merge", "out", "joined.jsonl")[0] == 0
    whole, joined = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("whole", "joined")
    )
    assert [(one["prompt"], one["seed"]) for one in joined] == [
        (f"prompt {i}", seed) for i in range(7) for seed in (5, 6)
    ]
    assert [one["text"] for one in joined] == [one["text"] for one in whole]


def test_other_tasks_refuse_what_they_do_not_divide(qkv):
    status, said = qkv("search", "--file", "a.txt", "--shard", "1/2", "query")
    assert (status, "--shard 1/2 for qkv search" in said) == (2, True)
    status, said = qkv("recognize", "--shard", "1/2", "a.png")
    assert (status, "shard = 1/2; expected images" in said) == (2, True)


def test_each_process_of_a_machine_has_its_own_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert pick_device("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == torch.device("cuda", 1)
    assert pick_device("cpu") == torch.device("cpu")
