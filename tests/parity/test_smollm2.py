"""The shipped language model against transformers.

Its loader of GGUF takes a minute for this model; test_gguf.py compares it with ours on small ones.
"""

import pytest
import torch
from tests.helpers import assert_as_exact
from tests.parity.hard_lines import hard_lines
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from qkv.generation.decoding import GREEDY
from qkv.tasks.chat import Chat
from qkv.tasks.generation import Generator
from qkv.tasks.pretrained import load, save
from qkv.zoo.catalog import ZOO

TALK = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of  Spain?\n"},
]


@pytest.fixture(scope="module")
def ours():
    return load("smollm2", dtype=torch.float32)


@pytest.fixture(scope="module")
def theirs(ours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    save(ours, folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    file = ZOO["smollm2"].locate()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The loader leaves numbers whole, which SmolLM2's tokenizer.json does not.
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    return tokenizer


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_logits_and_greedy_tokens(ours, theirs):
    chat = Chat.of(ours)
    ids = torch.tensor([chat.generator.encode(chat.template.render(TALK, reply=True))])
    with torch.no_grad():
        found, expected = ours.model(ids), theirs(ids).logits
        reply = chat(TALK, max_length=7, sampling=GREEDY)
        plain = GenerationConfig(max_new_tokens=7, eos_token_id=2, pad_token_id=2)
        generated = theirs.generate(ids, generation_config=plain)[0, ids.shape[1] :]
        reference = theirs.double()(ids).logits
    assert_as_exact(found, expected, reference)
    assert reply.text.split() == chat.tokenizer.decode(generated.tolist()).split()


def test_token_ids(ours, tokenizer):
    lines = hard_lines()
    assert len(lines) >= 1_000
    for line in lines:
        expected = tokenizer(line, add_special_tokens=False).input_ids
        assert ours.tokenizer.parse(line)[0] == expected, line
    chat = Chat.of(ours)
    for talk in (TALK, TALK[:1], [{"role": "system", "content": "Be brief."}, *TALK]):
        rendered = chat.template.render(talk, reply=True)
        expected = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)
        assert chat.generator.encode(rendered) == expected["input_ids"]


def test_its_settings_come_with_its_name(ours):
    generator = Generator.of(ours)
    assert generator.sampling.temperature == 0
    assert (generator.decoding.output_penalty, generator.decoding.output_ngram) == (1.1, 6)
    assert generator.prompting.end == "```"
    prefix = generator.tokenizer.tokens(generator.encode("Once"))
    assert prefix[0] == "<|im_start|>"
    assert "".join(prefix).endswith("<|im_start|>assistant\nOnce")
    assert Chat.of(ours)("What is the capital of France?").text == "The capital of France is Paris."
