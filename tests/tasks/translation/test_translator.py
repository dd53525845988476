"""A translator: texts in, texts out, in the order of the input, saved and loaded whole."""

import json
import pickle
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.folders import model as tiny_model
from tests.tasks.translators import KINDS, PAIRS, TEXTS, make_translator
from torch import nn

from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkv.data.batches import Batching
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.generation.beam import beam_search
from qkv.generation.decoding import Decoding
from qkv.generation.greedy import greedy
from qkv.generation.ranking import Beam
from qkv.models.modes import evaluating
from qkv.tasks.pretrained import Loaded, load, save
from qkv.tasks.translation import Translator
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.settings import Training

BEAM = Beam(size=3, n_best=3, length_penalty=1.0, length_rule="power")


def texts_of(translations):
    return [one.translation for one in translations]


@pytest.fixture(params=KINDS)
def translator(request: pytest.FixtureRequest) -> Translator:
    return make_translator(request.param)


@pytest.fixture(scope="module", params=["rnn", "transformer"])
def trained(request: pytest.FixtureRequest) -> Translator:
    translator = make_translator(request.param, shared=False)
    train(
        translator.model,
        translator.batches(PAIRS, Batching(max_tokens=50, epochs=None)),
        pair_loss,
        Training(steps=180, learning_rate=1e-2, schedule="constant", warmup=20),
        device="cpu",
    )
    return translator


@pytest.mark.parametrize("beam", [Beam(size=1), BEAM])
def test_outputs_come_in_the_order_of_the_inputs_whatever_the_batches(trained, beam):
    translator = replace(trained, beam=beam)
    translator.model.double()
    alone = [translator(text) for text in TEXTS]
    for rows in (256, 6, 2):
        together = translator(TEXTS, rows=rows)
        assert texts_of(together) == texts_of(alone)
        assert [one.text for one in together] == TEXTS
        for one, other in zip(together, alone, strict=True):
            scores = [[c.score for c in result.n_best] for result in (one, other)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-9)
    translator.model.float()
    assert len(set(map(str, alone))) > 1  # else the order could not show


def test_greedy_is_a_beam_of_one_with_its_scores(translator: Translator):
    one = Beam(size=1, length_penalty=0.7, length_rule="power")
    source, model = translator.tokenizer, translator.model.double().eval()
    how = {"start": source.start, "stop": source.stop, "max_length": 7}
    for text in TEXTS:
        found = replace(translator, beam=one)(text)
        ids = torch.tensor([source.encode(text)])
        assert found.translation == source.decode(greedy(model, ids, **how)[0].tolist())
        [[answer]] = beam_search(model, ids, **how, beam=one)
        assert found.translation == source.decode(answer.tokens)
        assert found.score == pytest.approx(answer.score, rel=1e-9)


def test_a_translation_has_its_candidates_the_best_first(trained: Translator):
    found = replace(trained, beam=BEAM)("cabba")
    assert (found.translation, found.text, str(found)) == ("abbac", "cabba", "abbac")
    assert found.n_best[0].translation == found.translation
    assert found.n_best[0].score == found.score
    scores = [one.score for one in found.n_best]
    assert scores == sorted(scores, reverse=True)
    assert len({one.translation for one in found.n_best}) == 3
    assert json.loads(json.dumps(asdict(found)))["n_best"][0]["translation"] == "abbac"
    assert pickle.loads(pickle.dumps(found)) == found


def test_dropout_is_off_while_translating_and_the_mode_is_put_back(translator: Translator):
    translator.model.train()
    assert len({tuple(texts_of(translator(["abc", "cab"]))) for _ in range(3)}) == 1
    assert translator.model.training
    with evaluating(translator.model):
        assert not translator.model.training
    assert translator.model.training


def test_it_learns_to_reverse_and_scores_itself(trained: Translator):
    assert trained.exact_match(PAIRS) == 1
    assert trained.exact_match([*PAIRS, ("b", "c")]) == pytest.approx(5 / 6)
    scores = trained.evaluate(PAIRS, tokenizer="char", samples=2)
    assert (scores.count, scores.chrf.score) == (5, pytest.approx(100))
    assert "tok:char" in scores.bleu.signature


def test_an_alignment_has_a_row_for_each_output_token(trained: Translator):
    alignment = trained.align("cabba")
    assert alignment.source == list("cabba")
    assert alignment.output[-1] == "</s>"
    assert "".join(alignment.output[:-1]) == trained(["cabba"])[0].translation
    name = next(name for name in alignment.weights if name.startswith("decoder"))
    name = name.replace("self_attention", "cross_attention")
    weights = alignment.weights[name]
    assert weights.shape[2:] == (len(alignment.output), 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


def test_what_is_too_long_is_split_at_sentences_or_cut_and_said(translator: Translator):
    translator = replace(translator, limit=9)
    translator.model.double()
    whole = translator("abc. abc.")
    assert whole.note in ("", "truncated after 7 tokens (max_length), before its end")
    found = translator("abc. abc. cabba. b. cb.")
    parts = [translator(part) for part in ("abc. abc.", "cabba. b.", "cb.")]
    assert str(found) == " ".join(map(str, parts))
    assert found.score == pytest.approx(sum(part.score for part in parts), rel=1e-9)
    assert found.note.startswith("23 tokens, but the model reads at most 9: split into 3 parts")
    found = translator("b. aaaaabbbbbccc.")
    assert str(found) == " ".join(str(translator(part)) for part in ("b.", "aaaaabbbb"))
    assert "split into 2 parts, 5 tokens of a long sentence left out" in found.note


def test_what_has_no_end_is_cut_and_said(translator: Translator):
    translator = replace(translator, decoding=Decoding(suppressed=(translator.target.stop,)))
    assert translator("abc").note == "truncated after 7 tokens (max_length), before its end"


@pytest.mark.parametrize("text", ["", " \n"])
def test_no_text_is_refused(translator: Translator, text):
    with pytest.raises(DataError, match="is empty; expected words"):
        translator(["abc", text])
    with pytest.raises(DataError, match="text 2 is a int; expected a string"):
        translator(["abc", 7])
    assert translator([]) == []


def test_an_answer_without_a_token_is_refused(translator: Translator):
    with pytest.raises(ConfigError, match="max_length is 0"):
        replace(translator, max_length=0)


@pytest.mark.parametrize("beam", [Beam(size=1), replace(BEAM, n_best=1, early_stopping=True)])
def test_saved_and_loaded_it_is_the_same(translator: Translator, beam, tmp_path):
    translator = replace(translator, beam=beam)
    translator.save(tmp_path / "new" / "folder")
    loaded = Translator.load(tmp_path / "new" / "folder")
    for name, tensor in translator.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    translator.model.double()
    loaded.model.double()
    assert texts_of(loaded(TEXTS)) == texts_of(translator(TEXTS))
    scores = [one.score for one in translator(TEXTS)]
    assert [one.score for one in loaded(TEXTS)] == pytest.approx(scores, rel=1e-9)
    assert (loaded.max_length, loaded.beam.size) == (7, beam.size)
    assert loaded.beam.early_stopping == beam.early_stopping
    assert loaded.decoding.start == translator.target.start
    assert loaded.tokenizer.start == translator.tokenizer.start  # in a Marian's folder, too
    assert not loaded.model.training
    again = Translator.of(load(tmp_path / "new" / "folder"), beam=BEAM, max_length=3)
    assert (again.max_length, again.beam) == (3, BEAM)
    loaded.save(tmp_path / "again")
    again = Translator.load(tmp_path / "again")
    again.model.double()
    assert texts_of(again(TEXTS)) == texts_of(translator(TEXTS))


def test_a_folder_says_how_long_an_input_may_be(tmp_path):
    make_translator("marian").save(tmp_path)
    assert Translator.load(tmp_path).limit == 13
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 11}')
    assert Translator.load(tmp_path).limit == 11
    (tmp_path / "tokenizer_config.json").write_text(f'{{"model_max_length": {10**30}}}')
    assert Translator.load(tmp_path).limit == 13
    make_translator("transformer").save(tmp_path / "endless")
    assert Translator.load(tmp_path / "endless").limit is None


def test_a_folder_says_what_is_forced_and_forbidden(tmp_path):
    translator = make_translator("marian")
    translator.save(tmp_path)
    letter = translator.target.id_of("a")
    said = {"forced_bos_token_id": letter, "bad_words_ids": [[5], [6, 7]], "num_beams": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    loaded = Translator.load(tmp_path)
    assert (loaded.decoding.start, loaded.beam.size, loaded.max_length) == (1, 2, 256)
    assert loaded.decoding.bad_words == ((5,), (6, 7))
    forbidden = loaded.target.tokens([5])[0]
    with torch.no_grad():
        loaded.model.head.bias[5] = 1e9
        assert str(loaded("abc"))
        assert forbidden not in str(loaded("abc"))
        assert set(str(replace(loaded, decoding=Decoding())("abc"))) == {forbidden}
    alignment = loaded.align("abc")
    assert alignment.output[0] == "a"
    weights = alignment.weights["decoder.blocks.0.cross_attention"]
    assert weights.shape[2:] == (len(alignment.output), 3)


def test_another_kind_of_model_is_refused(tmp_path):
    one = tiny_model("bert", "BertForMaskedLM")
    save_checkpoint(Checkpoint(one, {"model_type": "bert"}), tmp_path)
    message = "expected a model that turns one text into another, with encoder, decoder and"
    with pytest.raises(ConfigError, match=message):
        Translator.load(tmp_path)
    with pytest.raises(ConfigError, match="the model is a Linear with a tokenizer"):
        Translator(Loaded(nn.Linear(1, 1), Tokenizer.train_characters("abc")))
    headless = make_translator("marian").loaded
    headless.model.without_head()
    save(headless, tmp_path / "headless")
    with pytest.raises(ConfigError, match="is a Marian without an output layer; expected a model"):
        Translator.load(tmp_path / "headless")


def test_what_no_folder_can_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="one tokenizer for its inputs and another"):
        make_translator("transformer", shared=False).save(tmp_path / "a")
    with pytest.raises(ConfigError, match="length_rule = 'gnmt' and coverage_penalty"):
        make_translator("marian", beam=Beam(length_penalty=0.6)).save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_weights_of_another_shape_are_refused_by_name(translator: Translator, tmp_path):
    translator.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"stray": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="stray"):
        Translator.load(tmp_path)


def test_settings_that_a_caller_chose_are_saved(tmp_path):
    """Beside the files of the model, which keep everything else."""
    make_translator("marian").save(tmp_path / "base")
    rules = {"num_beams": 2, "do_sample": True, "max_new_tokens": 4, "bad_words_ids": [[5]]}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(rules))
    chosen = Translator.load(tmp_path / "base", beam=BEAM, max_length=6)
    chosen.save(tmp_path / "other")
    loaded = Translator.load(tmp_path / "other")
    assert (loaded.max_length, loaded.beam) == (6, replace(BEAM, n_best=1))
    assert loaded.decoding.bad_words == ((5,),)
    Translator.load(tmp_path / "other").save(tmp_path / "same")
    for name in ("config.json", "generation_config.json"):
        written = [(tmp_path / folder / name).read_bytes() for folder in ("other", "same")]
        assert written[0] == written[1]
    gnmt = Translator.load(tmp_path / "other", beam=Beam(length_penalty=0.6))
    with pytest.raises(ConfigError, match="length_rule = 'gnmt' and coverage_penalty"):
        gnmt.save(tmp_path / "third")


@pytest.mark.parametrize("n_best", [0, 4])
def test_candidates_are_at_most_the_size_of_the_beam(n_best):
    loaded = make_translator("marian").loaded
    with pytest.raises(ConfigError, match=f"n_best is {n_best}, expected 1 to 3"):
        Translator.of(loaded, beam=3, n_best=n_best)
    assert Translator.of(loaded, beam=3, n_best=2).beam.n_best == 2
    assert Translator.of(loaded, beam=BEAM).beam.n_best == 3
