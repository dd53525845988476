"""Generators: what one row writes depends on nothing else, contexts follow each other, scores."""

import dataclasses
import json
import math

import pytest
import torch
from tests.helpers import randomized

from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError, LengthError
from qkv.generation.continuation import Continuation
from qkv.generation.decoding import Limits
from qkv.generation.sampling import Sampling
from qkv.models.bert import Bert, BertConfig
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.llama import Llama, LlamaConfig
from qkv.tasks.generation import Generator
from qkv.tasks.likelihood import negative_log_likelihoods
from qkv.tasks.pretrained import Loaded

TEXT = "to be or not to be, that is the question: whether 'tis nobler ćć in the mind to suffer"
PROMPTS = ["to be", "the question: ", "or"]


def generator(kind="llama", context=31, tokenizer=None, **config):
    tokenizer = tokenizer or Tokenizer.train_bpe([TEXT] * 3, 290).begin_with_stop()
    sizes = {"vocab_size": tokenizer.vocab_size, "d_model": 24, "n_layers": 2}
    if kind == "llama":
        model = Llama(LlamaConfig(**sizes, n_heads=6, n_kv_heads=2, d_ff=29, n_positions=context))
    else:
        model = GPT(GPTConfig(**sizes, n_heads=4, n_positions=context))
    said = {"eos_token_id": tokenizer.stop} | config
    return Generator(Loaded(randomized(model, torch.float64, std=0.3), tokenizer, config=said))


@pytest.mark.parametrize("kind", ["llama", "gpt"])
@pytest.mark.parametrize("max_length", [7, 37])  # within the context, and over several
def test_a_list_is_as_one_by_one_and_as_the_stream(kind, max_length):
    model = generator(kind)
    options = {"max_length": max_length, "sampling": Sampling(temperature=0.9, top_k=11)}
    together = model(PROMPTS, seed=5, **options)
    assert [one.prompt for one in together] == PROMPTS
    for prompt, found in zip(PROMPTS, together, strict=True):
        alone = model(prompt, seed=5, **options)
        assert alone.tokens == found.tokens
        assert alone.logprobs == pytest.approx(found.logprobs, abs=1e-9)
        assert "".join(model.stream(prompt, seed=5, **options)) == found.text
        assert len(found.tokens) == max_length or found.ended
        assert all(x <= 0 for x in found.logprobs)
        assert json.loads(json.dumps(dataclasses.asdict(found)))["seed"] == 5
    assert model(PROMPTS[0], seed=6, **options).tokens != together[0].tokens
    two = model([PROMPTS[0]] * 2, seed=[5, 6], **options)
    assert two[0].tokens == together[0].tokens
    assert two[1].tokens != two[0].tokens


def test_beyond_a_context_it_goes_on_from_its_last_half():
    model, greedy = generator(context=13), Sampling(temperature=0.0)
    ids = model.encode("to be or not to")
    assert 3 < len(ids) < 13
    continuation = Continuation(model.model, 13, model.stops, greedy)
    found = list(continuation.tokens(ids, Limits(0, 23, False), 0))
    if found[-1].id in model.stops:  # the seed of the weights says otherwise
        raise AssertionError("it ended early")
    text = list(ids)
    for token in found:
        if len(text) >= 13:
            text = text[-6:]
        with torch.inference_mode():
            assert int(model.model(torch.tensor([text]))[0, -1].argmax()) == token.id
        text.append(token.id)


def test_lookup_is_greedy_decoding_at_temperature_0():
    model, options = generator(), {"max_length": 53, "sampling": Sampling(temperature=0.0)}
    plain = "".join(model.stream("to be", **options))
    assert "".join(model.stream("to be", lookup=True, **options)) == plain
    assert plain


def test_stop_strings_end_a_text_and_are_no_part_of_it():
    model = generator()
    whole = model("to be", max_length=29, seed=3)
    stop = whole.text[3:5]
    at = whole.text.find(stop)
    cut = model("to be", max_length=29, seed=3, stop_strings=[stop, "never there"])
    assert cut.text == whole.text[:at]
    assert cut.ended
    assert len(cut.tokens) < len(whole.tokens)
    assert "".join(model.stream("to be", max_length=29, seed=3, stop_strings=[stop])) == cut.text
    assert model(["to be"], max_length=29, seed=3, stop_strings=[stop]) == [cut]


def test_what_a_prompt_begins_with():
    model = generator()
    stop = model.tokenizer.stop
    assert model.encode("") == [stop]
    assert model.encode("to be") == [stop, *model.tokenizer.encode("to be")]
    plain = Tokenizer.train_bpe([TEXT] * 3, 290)
    assert generator(tokenizer=plain).encode("to") == plain.encode("to")
    assert generator(tokenizer=plain).encode("") == [plain.start]
    assert generator(tokenizer=plain, bos_token_id=7).encode("") == [7]
    assert generator(eos_token_id=[3, stop]).stops == [3, stop]
    assert model("", max_length=5).prompt == ""

    class Bare(Tokenizer):
        def _role(self, role):
            return Tokenizer._role(self, "none of these")

    bare = generator(tokenizer=plain)
    bare = Generator(dataclasses.replace(bare.loaded, tokenizer=Bare(plain._parts), config={}))
    assert bare.stops == [-1]
    with pytest.raises(DataError, match=r"the prompt is empty, and neither .* expected a prompt"):
        bare("")


def test_spaces_between_prompt_and_text_are_kept():
    """A tokenizer that drops a text's first space must not drop that between the two."""
    model = generator(tokenizer=Tokenizer.train_unigram([TEXT] * 9, 50))
    before, word = model.tokenizer.encode("to be"), model.tokenizer.encode("the")
    assert model.tokenizer.decode(word) == "the"
    assert model.decoder("to be")(word) == model.tokenizer.decode([*before, *word])[5:] == " the"


@pytest.mark.parametrize("stride", [1, 4, 11])
def test_windows_foretell_each_token_once_from_what_stands_before(stride):
    context, model = 11, generator(context=11).model
    generator_ = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 290, (n,), generator=generator_).tolist() for n in (2, 11, 12, 13, 37)]
    found = negative_log_likelihoods(model, rows, context=context, stride=stride)
    for row, loss in zip(rows, found, strict=True):
        expected, done = 0.0, 1
        while done < len(row):
            end = min(len(row), context + 1 if done == 1 else done + stride)
            read = row[max(0, end - context - 1) : end]
            with torch.inference_mode():
                logprobs = model(torch.tensor([read[:-1]]))[0].log_softmax(-1)
            new = end - done
            expected -= logprobs[range(len(read) - 1), read[1:]][-new:].sum().item()
            done = end
        assert loss == pytest.approx(expected, rel=1e-9)


def test_scores_count_tokens_and_characters_with_the_end():
    model = generator()
    texts = ["to be", "or not to be, that is the question: whether 'tis nobler"]
    scores = model.evaluate(texts)
    n_tokens = [len(model.tokenizer.encode(text)) + 1 for text in texts]
    assert scores.tokens == sum(n_tokens)
    assert scores.characters == sum(len(text) + 1 for text in texts)
    assert scores.count == 2
    alone = [model.evaluate([text]) for text in texts]
    total = sum(one.loss * n for one, n in zip(alone, n_tokens, strict=True))
    assert scores.loss * scores.tokens == pytest.approx(total)
    assert scores.perplexity == pytest.approx(math.exp(scores.loss))
    with pytest.raises(DataError, match="there are no texts to score; expected at least one"):
        model.evaluate([])
    for stride in (0, 32):
        message = f"stride = {stride}; expected from 1 to the context, 31"
        with pytest.raises(ConfigError, match=message):
            model.evaluate(texts, stride=stride)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "max_length is 0, expected at least 1"),
        ({"stop_strings": [""]}, "a stop string is empty"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompts; expected one each"),
    ],
)
def test_what_cannot_be_written_is_refused(options, message):
    model = generator()
    with pytest.raises(ConfigError, match=message):
        model(["to be"], **options)
    if "seed" not in options:
        with pytest.raises(ConfigError, match=message):
            model.stream("to be", **options)


def test_another_kind_of_model_is_refused():
    bert = Bert(BertConfig(vocab_size=7, d_model=6, n_heads=2, d_ff=5, n_layers=1, n_positions=11))
    with pytest.raises(ConfigError, match="is a Bert with no tokenizer; expected a causal"):
        Generator(Loaded(bert))
    loaded = generator().loaded
    with pytest.raises(ConfigError, match="is a Llama with no tokenizer; expected a causal"):
        Generator(dataclasses.replace(loaded, tokenizer=None))
    headless = dataclasses.replace(loaded, model=loaded.model.without_head())
    with pytest.raises(ConfigError, match="is a Llama without an output layer; expected"):
        Generator(headless)


def ids_of(model, prompt, most):
    """What is written greedily."""
    continuation = Continuation(
        model.model, model.context, model.stops, model.decoding.greedy(), model.decoding
    )
    read = model.encode(prompt)
    limits = model.decoding.limits(len(read), usual=most)
    return [token.id for token in continuation.tokens(read, limits, 0)]


def test_it_ends_at_each_end_that_its_files_say():
    model = generator("gpt", no_repeat_ngram_size=1)
    stop, ids = model.tokenizer.stop, ids_of(model, "to be", 9)
    ends = generator("gpt", no_repeat_ngram_size=1, eos_token_id=[stop, ids[4]])
    assert ids_of(ends, "to be", 9) == ids[:5]
    found = ends("to be", max_length=9, sampling=ends.decoding.greedy())
    assert (len(found.tokens), found.ended) == (5, True)


def test_what_is_not_given_is_as_the_files_say():
    said = {"do_sample": True, "top_k": 1, "max_new_tokens": 9, "stop_strings": ["never there"]}
    model, greedy = generator(**said), Sampling(temperature=0.0)
    expected = generator()("to be", max_length=9, sampling=greedy)
    assert model.sampling == Sampling(top_k=1)
    for one in (model("to be"), model("to be", seed=7)):
        assert (one.tokens, one.text) == (expected.tokens, expected.text)
    assert "".join(model.stream("to be")) == expected.text
    assert len(model("to be", max_length=4).tokens) == 4
    assert generator(do_sample=False)("to be", max_length=9).tokens == expected.tokens
    assert generator(repetition_penalty=1.5).sampling == Sampling(repetition_penalty=1.5)
    assert generator(top_k=1, temperature=0.1).sampling == Sampling()  # nothing says to draw


def test_lengths_of_the_files_count_the_prompt_and_hold_across_contexts():
    for context in (11, 61):
        model = generator(context=context, max_length=23, min_length=23)
        # The space at the end of the second one is generated again.
        read = [len(model.encode(prompt.rstrip())) for prompt in PROMPTS]
        assert len(set(read)) == 3
        together = model(PROMPTS, seed=3)
        assert [len(one.tokens) for one in together] == [23 - n for n in read]
        assert [model(prompt, seed=3).tokens for prompt in PROMPTS] == [
            one.tokens for one in together
        ]
    said = {"max_new_tokens": 17, "min_new_tokens": 17, "forced_eos_token_id": 5}
    ids = ids_of(generator(context=11, **said), "to be", 99)
    assert (len(ids), ids.index(5)) == (17, 16)
    with pytest.raises(LengthError, match="begins with 8 tokens, but the model's files say"):
        generator(max_length=8)(PROMPTS)


def test_beams_are_refused_where_the_caller_says_nothing_else():
    model = generator(num_beams=4)
    for write in (model, lambda prompt: list(model.stream(prompt))):
        with pytest.raises(ConfigError, match="num_beams = 4, but this task samples or decodes"):
            write("to be")
    assert model("to be", max_length=3, sampling=Sampling()).tokens


def test_a_prefix_in_the_files_comes_before_prompts_but_is_no_part_of_texts():
    plain = generator()
    stop = plain.tokenizer.tokens([plain.tokenizer.stop])[0]
    params = {"text-generation": {"prefix": f"the question{stop}be"}}
    framed = generator(task_specific_params=params)
    before = [*plain.tokenizer.encode("the question"), plain.tokenizer.stop]
    before += plain.tokenizer.encode("be")
    assert framed.encode(" not") == [*before, *plain.tokenizer.encode(" not")]
    assert framed.encode("") == before
    out = framed(" not", max_length=7, sampling=Sampling(temperature=0.0))
    assert (out.prompt, out.text) == (" not", plain.tokenizer.decode(ids_of(framed, " not", 7)))
    assert framed.evaluate([TEXT]) == plain.evaluate([TEXT])  # a likelihood has no prompt
    with pytest.raises(ConfigError, match=r"text-generation of config\.json"):
        generator(task_specific_params={"text-generation": {"prefix": 7}})("a")


def test_a_string_of_the_files_ends_continuations_and_is_no_part_of_them():
    plain = generator()
    whole = plain("to be", max_length=23, sampling=Sampling(), seed=5)
    end = whole.text[4:6]
    params = {"text-generation": {"end": end}}
    model = generator(task_specific_params=params)
    options = {"max_length": 23, "sampling": Sampling(), "seed": 5}
    assert model("to be", **options).text == whole.text[: whole.text.index(end)]
    assert "".join(model.stream("to be", **options)) == whole.text[: whole.text.index(end)]
    assert model("to be", **options, stop_strings=()).text == whole.text  # the caller's come first


def test_rules_for_the_output_do_not_count_the_prompt():
    prompt = "to be or not to be"
    for name, value in (("output_no_repeat_ngram_size", 1), ("output_repetition_penalty", 1e6)):
        model, plain = generator(**{name: value}), generator()
        ids, read = ids_of(model, prompt, 9), plain.encode(prompt)
        assert len(set(ids)) == len(ids)  # nothing is written twice
        assert ids[0] == ids_of(plain, prompt, 1)[0]  # as if there were no rule
        theirs = generator(**{name.removeprefix("output_"): value})
        assert not set(ids_of(theirs, prompt, 9)) & set(read)  # transformers' rule counts it
