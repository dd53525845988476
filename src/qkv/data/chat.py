"""Chat templates: how a model's files turn messages into one text.

A template is a program in a file of the model, in the language of Jinja2. It runs in a sandbox, and
with a budget: it cannot read files, and neither an endless loop nor a text without end stops us.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from qkv.errors import ConfigError
from qkv.json_fields import shown

Message = Mapping[str, Any]  # with the keys "role" and "content"

FILE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
BUDGET = 50_000_000  # characters of one rendering; a round of a loop, or a call, counts as STEP
STEP = 50
TICK = "__tick"

_left: ContextVar[int] = ContextVar("budget")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template, rendered as transformers' `apply_chat_template` does.

    Args:
        source: the template.
        tokens: special tokens by the names of tokenizer_config.json, such as "bos_token".

    Raises:
        ConfigError: the template is not valid Jinja2.
    """

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Compile the template."""
        try:
            object.__setattr__(self, "_template", _compile(self.source))
        except (TemplateError, RecursionError) as error:
            raise ConfigError(f"the chat template is not valid: {error}") from error

    def render(self, messages: Sequence[Message], *, reply: bool = False) -> str:
        """Return the text of a conversation, with the special tokens that the model expects.

        Args:
            messages: mappings with a role, such as "user", and a content.
            reply: end with the beginning of an answer, which the model continues.

        Raises:
            ConfigError: the template rejects the messages, fails, or does not end.
        """
        template: Template = vars(self)["_template"]
        token = _left.set(BUDGET)
        try:
            return template.render(
                messages=list(messages),
                add_generation_prompt=reply,
                tools=None,
                documents=None,
                **self.tokens,
            )
        except _TooMuchError as error:
            raise ConfigError(
                f"the chat template took more than {BUDGET // STEP:,} steps, or wrote more than "
                f"{BUDGET:,} characters; expected a template that ends"
            ) from error
        except TemplateError as error:
            raise ConfigError(f"the chat template rejects the messages: {error}") from error
        except Exception as error:  # a program of a file: it may fail in any way
            raise ConfigError(
                f"the chat template fails with {type(error).__name__}: {error}"
            ) from error
        finally:
            _left.reset(token)


def read_template(files: Mapping[str, bytes]) -> ChatTemplate | None:
    """Return the chat template in the files of a model, by name; None if there is none.

    Raises:
        ConfigError: the template is not valid, or the field chat_template has another form.
    """
    settings = json.loads(files.get(SETTINGS, b"{}"))
    stored = files.get(FILE)
    source = stored.decode() if stored else choose_template(settings.get("chat_template"))
    if source is None:
        return None
    known = {name: settings.get(name) for name in TOKENS}
    texts = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in known.items()
    }
    return ChatTemplate(source, {name: text for name, text in texts.items() if text is not None})


def choose_template(stored: Any, *, name: str = "default") -> str | None:
    """Return the chat template in a tokenizer_config.json; None if there is none.

    Args:
        stored: a template, or a list of {"name": ..., "template": ...}.
        name: the template to choose from a list.

    Raises:
        ConfigError: the field has another form, or no template of this name.
    """
    if stored is None or isinstance(stored, str):
        return stored
    try:
        known = {one["name"]: one["template"] for one in stored}
    except (TypeError, KeyError) as error:
        raise ConfigError(
            f"chat_template is {shown(stored, 60)}; expected a text, or a list of objects with a "
            "name and a template"
        ) from error
    if not isinstance(known.get(name), str):
        raise ConfigError(
            f"chat_template has {', '.join(map(str, known))}; expected one called {name!r}"
        )
    return known[name]


class _TooMuchError(Exception):
    """The template has used its budget."""


def _spend(amount: int) -> None:
    left = _left.get() - amount
    if left < 0:
        raise _TooMuchError
    _left.set(left)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox: calls, joined texts and output are paid for from the budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _spend(STEP)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) if hasattr(side, "__len__") else 0 for side in (left, right)]
        counts = [side for side in (left, right) if isinstance(side, int)]
        if operator == "*" and any(sizes):
            _spend(max(sizes) * max([*counts, 1]))
        elif operator == "**" and any(abs(count) > 1_000 for count in counts):
            raise SecurityError("a power of large numbers")
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("formatting by %")
        _spend(STEP + sum(sizes))
        return super().call_binop(context, operator, left, right)


class _Guard(NodeTransformer):
    """Let each round of a loop spend from the budget, and each text that is joined by ~."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - the name of a node
        self.generic_visit(node)
        tick = nodes.Call(nodes.Name(TICK, "load"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(tick))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        parts = [nodes.Filter(one, "string", [], [], None, None) for one in node.nodes]
        joined: nodes.Expr = parts[0]
        for part in parts[1:]:
            joined = nodes.Add(joined, part)
        return joined


class _Generation(Extension):
    """The tag {% generation %} of transformers, which marks answers: only its body matters here."""

    tags = {"generation"}  # noqa: RUF012 - an interface of Jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _compile(source: str) -> Template:
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,  # constants are computed when there is a budget
        finalize=_paid,
        extensions=[loopcontrols, _Generation],
    )
    environment.filters["tojson"] = _to_json
    del environment.filters["format"]  # its widths have no limit
    for name in ("center", "indent", "wordwrap"):  # they make long texts of short ones
        environment.filters[name] = partial(_sized, environment.filters[name])
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
        TICK: lambda: _spend(STEP),
    }
    tree = _Guard().visit(environment.parse(source)).set_environment(environment)
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.make_globals(None))


def _paid(value: Any) -> Any:
    """Pay for an output; in front of the first rendering there is no budget yet."""
    if _left.get(None) is not None:
        _spend(len(value) if isinstance(value, str) else 1)
    return value


def _sized(apply: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Apply a filter whose numbers, such as a width, are small."""
    if any(isinstance(one, int) and abs(one) > 1_000 for one in (*args, *kwargs.values())):
        raise SecurityError("a width above 1,000")
    return apply(*args, **kwargs)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without escapes for HTML, as transformers does."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
