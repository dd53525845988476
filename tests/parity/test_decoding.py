"""Greedy answers, beams and logit processors against transformers; beams against CTranslate2."""

import json
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import right_mask, to_left
from tests.parity.encoder_decoder import SIZES, TOKENS
from tests.parity.published import through_a_file
from tests.parity.reference import in_float64
from transformers.generation import logits_process as theirs_of

from qkv.checkpoints.convert import convert
from qkv.generation.beam import beam_search
from qkv.generation.greedy import greedy
from qkv.generation.processors import (
    min_p,
    no_repeat_ngram,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
)
from qkv.generation.ranking import Beam

VOCAB, PAD, START = 37, 1, 3  # as in SIZES and TOKENS
B, S, LENGTHS = 3, 11, [11, 4, 7]
CAUSAL = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None}
FAMILIES = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=22, n_head=11, n_layer=2, n_positions=41, **CAUSAL)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=24,
            num_attention_heads=6,
            num_key_value_heads=2,
            num_hidden_layers=2,
            intermediate_size=29,
            max_position_embeddings=41,
            **CAUSAL,
        )
    ),
    "bart": lambda: transformers.BartForConditionalGeneration(
        transformers.BartConfig(**SIZES, **TOKENS)
    ),
    "marian": lambda: transformers.MarianMTModel(
        transformers.MarianConfig(**SIZES, **TOKENS, scale_embedding=True)
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=VOCAB, d_model=61, num_heads=3, d_kv=23, d_ff=97, num_layers=2, **TOKENS
        )
    ),
}
every_family = pytest.mark.parametrize("family", list(FAMILIES))


@cache
def build(family):
    """Theirs and ours, with the same random weights, in float64.

    Which of two tokens is a little more probable must not depend on the processor.
    """
    torch.manual_seed(0)
    theirs = FAMILIES[family]()
    with TemporaryDirectory() as folder:
        ours = through_a_file(theirs, Path(folder, "theirs")).model
    return in_float64(theirs), ours.double()


def problem(family):
    """What each of the two is given: texts of different lengths, on the side that theirs needs."""
    torch.manual_seed(1)
    mask = right_mask(LENGTHS, S)
    ids = torch.where(mask, torch.randint(4, VOCAB, (B, S)), PAD)
    if family in ("gpt2", "llama"):
        # Theirs count a prompt as said: so do ours where decoding starts with all of it.
        left, left_mask = to_left(ids, mask)
        prompts = [ids[row, :n].tolist() for row, n in enumerate(LENGTHS)]
        return (left, left_mask), torch.empty(B, 0, dtype=torch.int64), {"start": prompts}
    return (ids, mask), ids, {"start": START, "token_mask": mask}


def generate(theirs, given, n, **options):
    """Their answers and scores; what fills an answer after its end is left out."""
    ids, mask = given
    output = theirs.generate(
        ids,
        attention_mask=mask.long(),
        max_new_tokens=n,
        do_sample=False,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    skipped = 1 if theirs.config.is_encoder_decoder else ids.shape[1]
    stops = options["eos_token_id"] or []
    answers = [until(row, stops) for row in output.sequences[:, skipped:].tolist()]
    return answers, getattr(output, "sequences_scores", None)


def until(tokens, stops):
    ends = [i + 1 for i, token in enumerate(tokens) if token in stops]
    return tokens[: min(ends, default=len(tokens))]


def stops_of(family, n=9):
    """Two tokens that end answers early: of those that are said where nothing is said twice."""
    _, ours = build(family)
    _, source, options = problem(family)
    said = greedy(
        ours, source, stop=-1, max_length=n, processors=[no_repeat_ngram(1)], **options
    ).tolist()
    return [said[0][3], said[1][5]]


RULES = {
    "plain": ({}, []),
    "no bigram twice": ({"no_repeat_ngram_size": 2}, [no_repeat_ngram(2)]),
    "nothing twice": (
        {"no_repeat_ngram_size": 1, "repetition_penalty": 0.8},
        [repetition_penalty(0.8), no_repeat_ngram(1)],
    ),
}


def generate_alone(theirs, given, n, **options):
    """Their answers and scores, each row alone and without padding."""
    ids, mask = given
    rows = [
        generate(theirs, (ids[row, real][None], mask[row, real][None]), n, **options)
        for row, real in enumerate(mask)
    ]
    scores = [score for _, score in rows if score is not None]
    return [answer for answers, _ in rows for answer in answers], torch.cat(scores or [mask])


@every_family
@pytest.mark.parametrize("rule", list(RULES))
def test_greedy_answers(family, rule):
    (theirs, ours), (given, source, options) = build(family), problem(family)
    their_rule, our_rule = RULES[rule]
    stops = stops_of(family)
    run = generate if rule == "plain" else generate_alone
    for stop in ([], stops):
        expected, _ = run(theirs, given, 9, eos_token_id=stop or None, **their_rule)
        found = greedy(ours, source, stop=stop or -1, max_length=9, processors=our_rule, **options)
        assert [until(row, stop) for row in found.tolist()] == expected


def test_theirs_count_padding_as_said_and_ours_do_not():
    theirs, _ = build("llama")
    given, _, _ = problem("llama")
    options = {"eos_token_id": None, **RULES["nothing twice"][0]}
    alone, _ = generate_alone(theirs, given, 9, **options)
    padded, _ = generate(theirs, given, 9, **options)
    assert padded[0] == alone[0]  # the longest, which has no padding
    assert padded[1:] != alone[1:]


BEAMS = {
    "sums": ({"length_penalty": 0.0}, {}),
    "means": ({"length_penalty": 1.0, "early_stopping": "never"}, {"length_penalty": 1.0}),
    "short": ({"length_penalty": -1.0, "early_stopping": "never"}, {"length_penalty": -1.0}),
    "early": (
        {"length_penalty": 1.0, "early_stopping": True},
        {"length_penalty": 1.0, "early_stopping": True},
    ),
}


def compare_beams(family, beam, rule, n_best, n=8):
    (theirs, ours), (given, source, options) = build(family), problem(family)
    (their_beam, our_beam), (their_rule, our_rule) = BEAMS[beam], RULES[rule]
    stops, size = stops_of(family), 4
    run = generate if rule == "plain" else generate_alone
    expected, scores = run(
        theirs,
        given,
        n,
        num_beams=size,
        num_return_sequences=n_best,
        eos_token_id=stops,
        **their_beam,
        **their_rule,
    )
    found = beam_search(
        ours,
        source,
        stop=stops,
        max_length=n,
        beam=Beam(size=size, n_best=n_best, length_rule="power", **our_beam),
        processors=our_rule,
        **options,
    )
    found = [answer for answers in found for answer in answers]
    assert [answer.tokens for answer in found] == expected
    assert [answer.score for answer in found] == pytest.approx(scores.tolist(), rel=1e-11)
    return found


@every_family
@pytest.mark.parametrize("beam", list(BEAMS))
def test_beams(family, beam):
    found = compare_beams(family, beam, "plain", n_best=4)
    if beam in ("sums", "short"):
        assert len({len(answer.tokens) for answer in found}) > 2
        assert {answer.ended for answer in found} == {True, False}


@every_family
def test_beams_with_processors_and_fewer_answers(family):
    compare_beams(family, "sums", "nothing twice", n_best=1)
    compare_beams(family, "means", "no bigram twice", n_best=2)


@every_family
def test_their_default_ends_sooner_and_is_never_better(family):
    """Without `early_stopping` theirs compares what goes on as if it ended at its present length.

    Where length is rewarded, longer answers may be worth more: ours waits for them.
    """
    (theirs, ours), (given, source, options) = build(family), problem(family)
    stops, better = stops_of(family), 0
    for length_penalty in (1.0, 3.0):
        expected, scores = generate(
            theirs,
            given,
            12,
            num_beams=3,
            eos_token_id=stops,
            length_penalty=length_penalty,
            early_stopping=False,
        )
        beam = Beam(size=3, length_penalty=length_penalty, length_rule="power")
        found = beam_search(ours, source, stop=stops, max_length=12, beam=beam, **options)
        for (answer,), tokens, score in zip(found, expected, scores.tolist(), strict=True):
            assert answer.score > score - 1e-11
            better += answer.score > score + 1e-3
            assert answer.tokens == tokens or answer.score > score + 1e-3
    assert better == {"t5": 1}.get(family, 0)


numbers = st.lists(st.floats(-9, 9, width=32), min_size=13, max_size=13)


@settings(max_examples=40)
@given(logits=st.lists(numbers, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_processors(logits, seed):
    torch.manual_seed(seed)
    logits = torch.tensor(logits).double()
    tokens = torch.randint(5, (len(logits), 7))
    share = 0.05 + 0.9 * torch.rand(()).item()
    for ours, theirs in (
        (temperature(1.7), theirs_of.TemperatureLogitsWarper(1.7)),
        (top_k(4), theirs_of.TopKLogitsWarper(4)),
        (min_p(share), theirs_of.MinPLogitsWarper(share)),
        (repetition_penalty(1.3), theirs_of.RepetitionPenaltyLogitsProcessor(1.3)),
        (no_repeat_ngram(2), theirs_of.NoRepeatNGramLogitsProcessor(2)),
        (no_repeat_ngram(3), theirs_of.NoRepeatNGramLogitsProcessor(3)),
    ):
        expected = theirs(tokens, logits.clone())
        torch.testing.assert_close(ours(tokens, logits), expected, rtol=1e-12, atol=0)


@settings(max_examples=100)
@given(seed=st.integers(0, 999), equals=st.booleans())
def test_the_nucleus(seed, equals):
    """Of equal tokens ours keeps the first ones, theirs any: only their number is compared."""
    torch.manual_seed(seed)
    logits, p = 3 * torch.randn(3, 13).double(), 0.05 + 0.9 * torch.rand(()).item()
    logits = logits.round() if equals else logits
    tokens = torch.zeros(3, 1).long()
    found, expected = top_p(p)(tokens, logits), theirs_of.TopPLogitsWarper(p)(tokens, logits)
    assert torch.equal(found.sort().values, expected.sort().values)
    assert equals or torch.equal(found, expected)


def test_a_trained_transliterator_finds_the_beams_of_its_references():
    """CTranslate2 ends a search when `size` answers have ended: with `early_stopping` so do we."""
    folder = os.environ.get("QKV_DATA")
    if not folder:
        pytest.skip("needs the named data sets: set QKV_DATA to their folder")
    folder = Path(folder, "pretrained", "aren-transliteration")
    model = convert(folder).double()
    letters, latin = (
        (folder / f"{side}_vocabulary.txt").read_text(encoding="utf-8").splitlines()
        for side in ("source", "target")
    )
    cases = json.loads((folder / "reference_outputs.json").read_text(encoding="utf-8"))["cases"]
    cases = [case for case in cases if case["model"] == folder.name]
    words = [torch.tensor([letters.index(letter) for letter in c["src"].split()]) for c in cases]
    source = torch.nn.utils.rnn.pad_sequence(words, batch_first=True)
    options = {"token_mask": source != 0, "start": 1, "stop": 2, "max_length": 40}
    early = beam_search(model, source, beam=Beam(size=4, n_best=4, early_stopping=True), **options)
    exact = beam_search(model, source, beam=Beam(size=4, n_best=4), **options)
    for case, answers, others in zip(cases, early, exact, strict=True):
        said = [" ".join(latin[i] for i in answer.tokens[:-1]) for answer in answers]
        assert said == case["beam4"]
        scores = [answer.score for answer in answers]
        assert scores == pytest.approx(case["beam4_scores"], abs=3e-4)
        # To go on until nothing better can come finds as good ones, and a better fourth once.
        assert all(a.score >= b.score for a, b in zip(others, answers, strict=True))
    assert [[a.tokens for a in row] for row in early] != [[a.tokens for a in row] for row in exact]
