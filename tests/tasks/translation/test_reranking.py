"""Candidates that are reranked by a translator of the opposite direction."""

import json
from dataclasses import replace

import pytest
import torch
from tests.tasks.translators import TEXTS, make_translator

from qkv.cli import main
from qkv.data.copying import NAMES
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.generation.answer import Answer
from qkv.generation.ranking import Beam
from qkv.inference.optimize import made_of
from qkv.tasks.reranking import Reverse, mean_log_probabilities
from qkv.tasks.translation import Translator

BEAM = Beam(size=4, n_best=4, length_penalty=1.0, length_rule="power")
PAIRS = [("abc", "cba"), ("b", ""), ("ab", "a"), ("cabba", "abbac"), ("c", "cc")]


def translator(kind="marian", seed=0, **options):
    made = make_translator(kind, beam=BEAM, **options)
    torch.manual_seed(seed)
    for parameter in made.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made.model.double().eval()
    return made


def with_reverse(weight, **options):
    return replace(translator(), reverse=Reverse("other", translator("rnn", 1, **options), weight))


@torch.no_grad()
def by_hand(model, source, target):
    """The mean log-probability of one pair, a token at a time."""
    [(ids, wanted)], decoder = model.encode([(source, target)]), model.decoder
    written, total = [decoder.start], 0.0
    for token in [*wanted, decoder.stops[0]]:
        logits = model.model(torch.tensor([ids]), torch.tensor([written]))
        total += float(logits[0, -1].log_softmax(-1)[token])
        written.append(token)
    return total / (len(wanted) + 1)


@pytest.mark.parametrize("kind", ["marian", "transformer", "rnn"])
def test_probabilities_are_those_of_each_pair_alone(kind, monkeypatch):
    model = translator(kind)
    expected = [by_hand(model, *pair) for pair in PAIRS]
    assert mean_log_probabilities(model, PAIRS) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr("qkv.tasks.reranking.LOGITS", 1)  # one pair at a time
    assert mean_log_probabilities(model, PAIRS) == pytest.approx(expected, rel=1e-9)


def test_what_a_model_cannot_read_has_no_probability():
    model = replace(translator(), limit=4)
    found = mean_log_probabilities(model, [("abca", "a"), ("abcab", "a"), ("a", "abca"), (" ", "")])
    assert [score is None for score in found] == [False, True, True, True]
    assert mean_log_probabilities(model, []) == []


@pytest.mark.parametrize("weight", [0.0, 0.5, 20.0])
def test_the_best_candidate_has_the_best_sum(weight):
    model = with_reverse(weight)
    assert model.reverse is not None
    plain = replace(model, reverse=None)
    changed = 0
    for text in TEXTS:
        candidates, found = plain(text).n_best, model(text).n_best
        if not all(one.translation.strip() for one in candidates):
            assert found == candidates  # the reverse model reads no empty text
            continue
        sums = {
            one.translation: one.score
            + weight * by_hand(model.reverse.translator, one.translation, text)
            for one in candidates
        }
        assert {one.translation: one.score for one in found} == pytest.approx(sums, rel=1e-9)
        best_first = sorted(sums.values(), reverse=True)
        assert [one.score for one in found] == pytest.approx(best_first, rel=1e-9)
        changed += found[0].translation != candidates[0].translation
    assert changed > 0 or weight < 20
    assert changed == 0 or weight > 0


def test_together_as_alone():
    model = with_reverse(3.0)
    alone = [model(text) for text in TEXTS]
    for rows in (256, 8):
        together = model(TEXTS, rows=rows)
        assert list(map(str, together)) == list(map(str, alone))


def test_one_answer_is_chosen_among_all_candidates():
    many = with_reverse(20.0)
    one = replace(many, beam=replace(BEAM, n_best=1))
    for text in TEXTS:
        assert len(one(text).n_best) == 1
        assert str(one(text)) == str(many(text))
        tokens = one.align(text).output
        assert "".join(tokens[:-1]) == str(one(text)) or len(str(one(text))) == one.max_length


def test_candidates_that_the_reverse_model_cannot_read_keep_their_order():
    short, kept = with_reverse(20.0, limit=3), 0
    for text in TEXTS:
        plain = replace(short, reverse=None)(text)
        if max(map(len, [text, *(one.translation for one in plain.n_best)])) > 2:
            assert short(text) == plain
            kept += 1
    assert kept > 0


def test_stand_ins_reach_the_reverse_model():
    seen = list[tuple[str, str]]()

    class Spy:
        limit = None

        def encode(self, pairs):
            seen.extend(pairs)
            raise RuntimeError("seen")

    tokenizer, name = Tokenizer.train_bpe(["call ruf"], 300), NAMES[0]
    source, target = (tokenizer.encode(text) for text in (f"call {name}", f"ruf {name}"))
    answer = Answer(tokens=target, logprobs=[0.0] * len(target), score=0.0, ended=False)
    with pytest.raises(RuntimeError, match="seen"):
        Reverse("spy", Spy(), 1.0).rank((tokenizer, tokenizer), [source], [[answer]])
    assert seen == [(f"ruf {name}", f"call {name}")]


def folders(path):
    """A translator whose files name another one."""
    forward, other = (replace(translator(seed=i), limit=13) for i in (0, 1))
    for one in (forward, other):
        one.model.float()
    other.save(path / "other")
    replace(forward, reverse=Reverse(str(path / "other"), other, 0.7)).save(path / "made")
    return path / "made", path / "other"


def test_the_files_name_the_reverse_model(tmp_path):
    made, other = folders(tmp_path)
    found = Translator.load(made)
    assert found.reverse is not None
    assert (found.reverse.name, found.reverse.weight) == (str(other), 0.7)
    assert found.reverse.translator.reverse is None
    found.save(tmp_path / "again")
    assert (tmp_path / "again/config.json").read_bytes() == (made / "config.json").read_bytes()
    assert Translator.load(made, reverse="none").reverse is None
    assert Translator.load(made, beam=1).reverse is None
    named = Translator.load(other, reverse=str(made)).reverse
    assert named is not None
    assert named.weight == 0.5
    assert named.translator.reverse is None
    Translator.load(made, reverse="none").save(tmp_path / "without")
    assert Translator.load(tmp_path / "without").reverse is None


def test_two_translators_may_name_each_other(tmp_path):
    made, other = folders(tmp_path)
    replace(Translator.load(other), reverse=Reverse(str(made), Translator.load(made), 0.1)).save(
        tmp_path / "both"
    )
    again = Translator.load(tmp_path / "both").reverse
    assert again is not None
    assert again.translator.reverse is None


def test_the_reverse_model_is_stored_like_the_other(tmp_path):
    made, _ = folders(tmp_path)
    found = Translator.load(made, dtype="bfloat16").reverse
    assert found is not None
    stored = made_of(found.translator.model)
    assert stored is not None
    assert stored.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("x", "reverse = 'x'; expected an object"),
        ({"model": "x"}, "has the fields model; expected model, weight"),
        ({"model": 3, "weight": 1}, "model = 3; expected a string"),
        ({"model": "x", "weight": "much"}, "weight = 'much'; expected a number"),
    ],
)
def test_a_broken_field_is_refused(tmp_path, field, message):
    made, _ = folders(tmp_path)
    config = json.loads((made / "config.json").read_text(encoding="utf-8"))
    config["task_specific_params"]["qkv"]["reverse"] = field
    (made / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        Translator.load(made)
    assert Translator.load(made, reverse="none").reverse is None


def test_bad_input(tmp_path):
    made, _ = folders(tmp_path)
    with pytest.raises(DataError, match=r"the reverse model.*reverse = 'none' turns reranking off"):
        Translator.load(made, reverse=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="the reverse model"):
        Translator.load(made, reverse="all-MiniLM-L6-v2")
    with pytest.raises(ConfigError, match=r"with a beam of 1.*expected a larger beam"):
        Translator.load(made, beam=1, reverse=str(made))


def test_the_command_has_the_option(tmp_path, capsys):
    made, other = folders(tmp_path)
    printed = []
    for name in ("none", str(other)):
        arguments = ["--model", str(made), "--beam", "4", "--reverse", name, "--json"]
        assert main(["translate", *arguments, *TEXTS]) == 0
        lines = capsys.readouterr().out.splitlines()
        printed.append([json.loads(line)["score"] for line in lines])
        expected = Translator.load(made, beam=4, reverse=name)(TEXTS)
        assert printed[-1] == pytest.approx([one.score for one in expected], rel=1e-5)
    assert printed[0] != printed[1]
