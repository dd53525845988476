"""Chat templates: how a model's files turn messages into one text.

A template is a program in a file of the model, in the language of Jinja2. It runs in a sandbox with
a budget: it cannot read files, and endless loops and endless text are stopped.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from qkv.data.rows import NO_TEXT
from qkv.errors import ConfigError
from qkv.json_fields import quoted, shown

Message = Mapping[str, Any]  # with the keys "role" and "content"

FILE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
BUDGET = 20_000_000  # characters of one rendering; a round of a loop, or a call, counts as STEP
STEP = 20
# What templates may use. Nothing here turns a short text into a long one without being charged.
FILTERS = frozenset(
    """
    abs capitalize count d default dictsort e escape first float int items join last length list
    lower map max min reject rejectattr replace reverse round safe select selectattr sort string
    title tojson trim unique upper
    """.split()  # noqa: SIM905 - as long as the list above it
)
METHODS = frozenset(
    """
    capitalize count endswith find get index isalnum isalpha isdigit isspace items join keys lower
    lstrip partition removeprefix removesuffix replace rfind rpartition rsplit rstrip split
    splitlines startswith strip title upper values
    """.split()  # noqa: SIM905
)
TICK, PART = "__tick", "__part"

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
        except (TemplateError, RecursionError, SyntaxError) as error:  # the last: nested too deeply
            raise ConfigError(f"the chat template is not valid: {_line(error)}") from error

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
            text = template.render(
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
            raise ConfigError(f"the chat template rejects the messages: {_line(error)}") from error
        except Exception as error:  # a program from a file may fail in any way
            raise ConfigError(
                f"the chat template fails with {type(error).__name__}: {_line(error)}"
            ) from error
        finally:
            _left.reset(token)
        if (messages and not text.strip()) or NO_TEXT.search(text):
            raise ConfigError(
                f"the chat template writes {quoted(text, 60)}; expected a text with the messages"
            )
        return text


def read_template(files: Mapping[str, bytes]) -> ChatTemplate | None:
    """Return the chat template in a model's files, given by name; None if there is none.

    Raises:
        ConfigError: the template is not valid, or the field chat_template has another form.
    """
    settings = json.loads(files.get(SETTINGS, b"{}"))
    stored = files.get(FILE)
    try:
        source = stored.decode() if stored else choose_template(settings.get("chat_template"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{FILE} is not UTF-8: {error}") from error
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
        names = ", ".join(map(str, known)) or "no template"
        raise ConfigError(f"chat_template has {names}; expected one called {name!r}")
    return known[name]


def _line(error: Exception) -> str:
    """Return a message as one line that a terminal may show."""
    text = " ".join(str(error).split())[:300]
    return "".join(c if c.isprintable() else "?" for c in text) or "no reason given"


class _TooMuchError(Exception):
    """The template has used its budget."""


def _spend(amount: int) -> None:
    left = _left.get() - amount
    if left < 0:
        raise _TooMuchError
    _left.set(left)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox: calls, texts and output are charged to the budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        methods = isinstance(obj, str | bytes | int | float | list | tuple | dict)
        allowed = attr in METHODS if methods and callable(value) else True
        return allowed and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Treat `format` like any other method: its field widths have no limit."""

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            _spend(_growth(obj.__name__, owner, args))
        _spend(STEP)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        counts = [side for side in (left, right) if isinstance(side, int)]
        if operator == "*" and _size(left) + _size(right):
            _spend(max(_size(left), _size(right)) * max([*counts, 1]))
        elif operator in ("*", "**") and any(abs(count) > 2**64 for count in counts):
            raise SecurityError("arithmetic with huge numbers")
        elif operator == "**" and any(abs(count) > 1_000 for count in counts):
            raise SecurityError("a power of large numbers")
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("formatting by %")
        _spend(STEP + _size(left) + _size(right))
        return super().call_binop(context, operator, left, right)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0


def _part(value: Any, start: int | None, stop: int | None, step: int | None) -> Any:
    _spend(_size(value))
    return value[start:stop:step]


def _growth(name: str, value: Any, args: Sequence[Any]) -> int:
    """Return how many characters a method or filter of this name may produce."""
    if name == "replace":
        return (len(str(value)) + 1) * max(1, *(_size(one) for one in args), 1)
    if name == "join":
        parts = [one for some in (value, *args) if isinstance(some, list | tuple) for one in some]
        between = max(_size(one) for one in (value, *args) if isinstance(one, str | list | tuple))
        return sum(_size(one) for one in parts) + between * (len(parts) + 1)
    return _size(value)


def _paid_filter(name: str, apply: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that charges its output to the budget."""

    @wraps(apply)  # keeps the marks that make Jinja2 pass it the environment
    def paid(*args: Any, **kwargs: Any) -> Any:
        values = [one for one in args if not isinstance(one, Environment | Context | EvalContext)]
        _spend(STEP + _growth(name, values[0] if values else "", values[1:]))
        return apply(*args, **kwargs)

    return paid


class _Guard(NodeTransformer):
    """Charge each loop iteration or macro call for its steps and its literal text."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - the name of a node
        return self._ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        return self._ticking(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        parts = [nodes.Filter(one, "string", [], [], None, None) for one in node.nodes]
        joined: nodes.Expr = parts[0]
        for part in parts[1:]:
            joined = nodes.Add(joined, part)
        return joined

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [
            one or nodes.Const(None) for one in (node.arg.start, node.arg.stop, node.arg.step)
        ]
        return nodes.Call(nodes.Name(PART, "load"), [node.node, *bounds], [], None, None)

    def _ticking(self, node: Any) -> Any:
        cost = STEP + sum(len(one.data) for one in node.find_all(nodes.TemplateData))
        cost += sum(len(str(one.value)) for one in node.find_all(nodes.Const))
        self.generic_visit(node)
        tick = nodes.Call(nodes.Name(TICK, "load"), [nodes.Const(cost)], [], None, None)
        node.body.insert(0, nodes.ExprStmt(tick))
        return node


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
    known = {**environment.filters, "tojson": _to_json}
    environment.filters = {name: _paid_filter(name, known[name]) for name in FILTERS}
    environment.globals = {
        "dict": dict,
        "namespace": Namespace,
        "range": safe_range,
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(str(form)[:100]),
        TICK: _spend,
        PART: _part,
    }
    tree = _Guard().visit(environment.parse(source)).set_environment(environment)
    code = environment.compile(tree)
    return Template.from_code(environment, code, environment.make_globals(None))


def _paid(value: Any) -> Any:
    """Charge an output to the budget; before the first rendering there is none."""
    if _left.get(None) is not None:
        _spend(len(value) if isinstance(value, str) else 1)
    return value


def _raise(message: object = "no reason given") -> None:
    raise TemplateError(str(message))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without escapes for HTML, as transformers does."""
    if indent is not None and not 0 <= indent <= 100:
        raise SecurityError("an indent above 100")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
