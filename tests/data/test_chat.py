"""Chat templates, against transformers' own, and what a template must not do."""

import json
import time

import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from qkv.data.chat import ChatTemplate, choose_template, read_template
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError

# Ten forms that published models use, written anew: turns in brackets, in tags, by headers; a
# system message that is joined to the first question, that has a default, or that is refused.
TEMPLATES = {
    "turns": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>'"
        " + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% endif %}"
    ),
    "default system": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n"
        "{% endif %}\n{%- for m in messages %}\n  {{- '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~"
        " '<|im_end|>\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}"
        "<|im_start|>assistant\n{% endif %}"
    ),
    "brackets": (
        "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = "
        "messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system = false %}"
        "{% endif %}{% for m in rest %}{% if loop.index0 == 0 and system %}{% set content = "
        "'<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}{% else %}{% set content = "
        "m['content'] %}{% endif %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + "
        "content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "headers": (
        "{{- bos_token }}{% for message in messages %}{% set content = '<|start_header_id|>' + "
        "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
        "{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "alternating": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) "
        "%}{{ raise_exception('roles must alternate') }}{% endif %}{{ '<start_of_turn>' + "
        "('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + "
        "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "tags": (
        "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + "
        "eos_token }}\n{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + "
        "eos_token }}\n{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + m['content'] "
        "+ eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n"
        "{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
    ),
    "names": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == "
        "'user' %}USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}{{ eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    ),
    "namespace": (
        "{%- set ns = namespace(system='', first=true) -%}{%- for m in messages if m.role == "
        "'system' -%}{%- set ns.system = ns.system + m.content -%}{%- endfor -%}{{ bos_token }}"
        "{{ ns.system }}{%- for m in messages -%}{%- if m.role == 'user' -%}<|User|>"
        "{{ m.content }}{%- elif m.role == 'assistant' -%}<|Assistant|>{{ m.content.split("
        "'</think>')[-1] }}{{ eos_token }}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|Assistant|>{%- endif -%}"
    ),
    "macro and json": (
        "{% macro turn(m) %}{{ '<|' ~ m.role ~ '|>' }}{{ m.content | tojson }}{% endmacro %}"
        "{% for m in messages %}{% if loop.first and not tools %}{{ bos_token }}{% endif %}"
        "{{ turn(m) }}{{ '<|end|>\n' }}{% endfor %}{{ '<|assistant|>' if add_generation_prompt "
        "else eos_token }}"
    ),
    "loops that break": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ m.role | upper | replace('ASSISTANT', 'BOT') }}: "
        "{%- if m.role == 'assistant' %}{% generation %} {{ m.content }}{{ eos_token }}"
        "{% endgeneration %}{% else %} {{ m['content'] }}{% endif %}\n\n{% endfor %}"
        "{% if add_generation_prompt %}BOT:{% endif %}"
    ),
}
SYSTEM = {"role": "system", "content": "Answer  in\tone word. "}
QUESTION = {"role": "user", "content": '  Où est l\'été \U0001f31e?\n\n"Here" <b> & {{ x }} '}
ANSWER = {"role": "assistant", "content": "Là-bas.\n"}
TALKS = (
    [QUESTION],
    [QUESTION, ANSWER],
    [QUESTION, ANSWER, {"role": "user", "content": "why"}],
    [SYSTEM, QUESTION],
    [SYSTEM, QUESTION, ANSWER, QUESTION, ANSWER],
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|start_header_id|>", "<|eot_id|>"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    ours = Tokenizer.train_bpe([json.dumps(TALKS), str(TEMPLATES)] * 3, 331)
    ours.save(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_special_tokens(
        {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": SPECIAL}
    )
    tokenizer.save_pretrained(folder)
    return folder, tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("reply", [False, True])
def test_text_and_ids_are_those_of_transformers(theirs, name, reply):
    folder, tokenizer = theirs
    ours = Tokenizer.load(folder)
    template = ChatTemplate(TEMPLATES[name], {"bos_token": "<s>", "eos_token": "</s>"})
    compared = 0
    for talk in TALKS:
        options = {"chat_template": TEMPLATES[name], "add_generation_prompt": reply}
        if name == "alternating" and talk[0]["role"] == "system":
            with pytest.raises(ConfigError, match="rejects the messages: no system"):
                template.render(talk, reply=reply)
            with pytest.raises(TemplateError, match="no system"):
                tokenizer.apply_chat_template(talk, **options)
            continue
        text = tokenizer.apply_chat_template(talk, tokenize=False, **options)
        assert template.render(talk, reply=reply) == text
        ids = tokenizer.apply_chat_template(talk, return_dict=True, **options)["input_ids"]
        assert ours.parse(text)[0] == ids
        compared += 1
    assert compared >= 3


def test_characters_of_parsed_tokens(theirs):
    folder, _ = theirs
    ours, text = Tokenizer.load(folder), "<s>été</s> x<|im_end|>"
    ids, spans = ours.parse(text)
    pairs = zip(ids, spans, strict=True)
    special = {text[first:end] for i, (first, end) in pairs if i in ours.special_ids}
    assert special == {"<s>", "</s>", "<|im_end|>"}
    assert not set(ours.encode(text)) & ours.special_ids  # a text is never parsed


ENDLESS = {
    "loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "calls": "{% macro f() %}{% endmacro %}{% for a in range(99999) %}{% for b in range(99) %}"
    "{{ f() }}{% endfor %}{% endfor %}",
    "joined": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}"
    "{% endfor %}",
    "added": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}"
    "{% endfor %}",
    "written": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set y %}{{ n.x }}"
    "{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "multiplied": "{{ 'a' * 10**9 }}",
    "replaced": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = n.x.replace('a', 'aa') %}{% endfor %}",
    "filtered": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = n.x | replace('a', 'aa') %}{% endfor %}",
    "joined in a list": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = [n.x, n.x] | join %}{% endfor %}",
    "joined by a method": "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set n.x = n.x.join([n.x, n.x]) %}{% endfor %}",
    "sliced": "{% set n = namespace(x=range(9999) | list, y=[]) %}{% for i in range(99999) %}"
    "{% set n.y = [n.y, n.x[:]] %}{% endfor %}",
    "literal": "{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}",
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_that_does_not_end_is_stopped(kind):
    template, begin = ChatTemplate(ENDLESS[kind]), time.perf_counter()
    with pytest.raises(ConfigError, match=r"took more than 1,000,000 steps, or wrote more than"):
        template.render([QUESTION])
    assert time.perf_counter() - begin < 60


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('only two roles') }}", "rejects the messages: only two roles"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails with RecursionError"),
        ("{{ messages[7].content }}", "rejects the messages: list object has no element 7"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "access to attribute 'append' of 'list'"),
        ("{{ 9**99999 }}", "rejects the messages: a power of large numbers"),
        ("{{ '%9999999d' % 1 }}", "rejects the messages: formatting by %"),
        ("{{ 'x' | center(9999999) }}", "is not valid: No filter named 'center'"),
        ("{{ 'x'.ljust(9999999) }}", "access to attribute 'ljust' of 'str' object is unsafe"),
        ("{{ '{:>9999999}'.format(1) }}", "access to attribute 'format' of 'str' object is unsafe"),
        ("{{ (1).to_bytes(9999999, 'big') }}", "access to attribute 'to_bytes' of 'int'"),
        ("{{ messages | tojson(indent=9999999) }}", "rejects the messages: an indent above 100"),
        ("{{ lipsum(n=99999) }}", "rejects the messages: 'lipsum' is undefined"),
        ("{{ raise_exception('a\\n\\x1b[31mb' * 99) }}", "rejects the messages: a ?[31mba ?[31mb"),
        ("{{ raise_exception() }}", "rejects the messages: no reason given"),
        ("", "writes ''; expected a text with the messages"),
        ("{{ '\\ud800' }}", "writes '\\ud800'; expected a text with the messages"),
        ("{{ range(10**9) | list }}", "fails with OverflowError: Range too big"),
        ("{% include '/etc/passwd' %}", "fails with TypeError: no loader for this environment"),
    ],
)
def test_a_template_that_fails(source, message):
    with pytest.raises(ConfigError, match=r"^the chat template") as caught:
        ChatTemplate(source).render([QUESTION])
    assert message in str(caught.value)


def test_a_template_that_is_not_valid():
    deep = "{% for i in [1] %}" * 25 + "{% endfor %}" * 25
    for source in ("{% if %}", "{{ 1 | format }}", "{% endfor %}", "{{", deep):
        with pytest.raises(ConfigError, match="the chat template is not valid: "):
            ChatTemplate(source)


def test_the_template_of_a_file():
    assert choose_template(None) is None
    assert choose_template("x") == "x"
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert choose_template(several) == "d"
    assert choose_template(several, name="tool_use") == "t"
    with pytest.raises(ConfigError, match="chat_template has tool_use; expected one called 'def"):
        choose_template(several[:1])
    with pytest.raises(ConfigError, match="chat_template has no template; expected one called"):
        choose_template([])
    with pytest.raises(ConfigError, match=r"chat_template\.jinja is not UTF-8"):
        read_template({"chat_template.jinja": b"\xff{{"})
    for stored in (7, [1], [{"name": "x"}]):
        with pytest.raises(ConfigError, match="expected a text, or a list of objects with a name"):
            choose_template(stored)
