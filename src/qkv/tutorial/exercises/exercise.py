"""An exercise: a task, a solution, inputs to compare answers on, and known mistakes."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

Answer = Callable[..., Any]

IMPORTS = {
    "Any": "from typing import Any",
    "Callable": "from collections.abc import Callable",
    "Tensor": "from torch import Tensor",
    "nn.": "from torch import nn",
}


class Draw(NamedTuple):
    """Inputs for an answer, and what is special about them, worded to follow "on"."""

    label: str
    inputs: tuple[Any, ...]


class Mistake(NamedTuple):
    """A wrong answer that learners often give.

    Args:
        name: what went wrong, in a few words.
        wrong: function that makes the mistake; it is called as the solution is.
        shows: how it shows in the learner's numbers, as a sentence.
        hint: where to look, as a sentence; it does not give the solution away.
        close: absolute tolerance of a match; larger for mistakes of precision.
    """

    name: str
    wrong: Answer
    shows: str
    hint: str
    close: float = 1e-5


def call(answer: Answer, inputs: tuple[Any, ...]) -> Any:
    """Call an answer; most exercises compare what it returns."""
    return answer(*inputs)


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """An exercise, with everything needed to check it.

    Args:
        number: section and number, such as "2.2".
        title: a few words.
        task: what to write, with the shapes of the arguments and of the result.
        solve: the solution; the learner's function must have its name and its parameters.
        reference: what answers are compared with: the library's own function if there is one.
        draws: makes the inputs, the same at each call; floats are in float64.
        mistakes: known wrong answers, which differ from each other on at least one draw.
        hint: help for a learner who has not started.
        remark: a remark shown with the solution, and after a right answer.
        run: calls an answer on inputs and returns what is compared.
        close: absolute tolerance; None means that of `torch.testing` for float64.
    """

    number: str
    title: str
    task: str
    solve: Answer
    draws: Callable[[], list[Draw]]
    mistakes: Sequence[Mistake]
    hint: str
    remark: str
    reference: Answer | None = None
    run: Callable[[Answer, tuple[Any, ...]], Any] = call
    close: float | None = None

    @property
    def name(self) -> str:
        """The name that the learner's function must have."""
        return self.solve.__name__

    @property
    def expected(self) -> Answer:
        """The function that answers are compared with."""
        return self.reference or self.solve

    @property
    def signature(self) -> str:
        """The line that begins the learner's function."""
        definition = ast.parse(textwrap.dedent(inspect.getsource(self.solve))).body[0]
        assert isinstance(definition, ast.FunctionDef)
        assert definition.returns is not None
        arguments, result = ast.unparse(definition.args), ast.unparse(definition.returns)
        line = f"def {self.name}({arguments}) -> {result}:"
        if len(line) <= 88:
            return line
        each = "".join(f"    {ast.unparse(one)},\n" for one in definition.args.args)
        return f"def {self.name}(\n{each}) -> {result}:"

    @property
    def starter(self) -> str:
        """The file that a learner starts from: the signature, and the task as its docstring."""
        used = [line for word, line in IMPORTS.items() if word in self.signature]
        plain = "".join(f"{line}\n" for line in sorted(used) if "torch" not in line)
        imports = "\n".join(("import torch", *(line for line in used if "torch" in line)))
        imports = f"{plain}\n{imports}" if plain else imports
        text = textwrap.indent(f'"""{self.title}.\n\n{self.task}\n"""', " " * 4)
        text = "\n".join(line.rstrip() for line in text.splitlines())
        return (
            f"# Exercise {self.number}. Check it with: qkv exercise check {self.number}\n"
            f"{imports}\n\n\n{self.signature}\n{text}\n"
            "    raise NotImplementedError  # your code goes here\n"
        )


def together(mistakes: Sequence[Mistake], option: str, *values: Any) -> list[Mistake]:
    """Combine each mistake with a second one, keeping its name.

    A learner who overlooks a special case may make another mistake as well; the mistake that is
    wrong everywhere is named first, the special case at the next check.

    Args:
        mistakes: those that set options of one function (a `partial`); others are left out.
        option: the option that causes the second mistake.
        values: values of the option, each combined with each mistake.
    """
    return [
        mistake._replace(wrong=partial(mistake.wrong, **{option: value}))
        for mistake in mistakes
        if isinstance(mistake.wrong, partial) and option not in mistake.wrong.keywords
        for value in values
    ]


def normal(seed: int) -> Callable[..., Tensor]:
    """Return a function that draws float64 tensors of a given shape from N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(seed: int) -> Callable[..., Tensor]:
    """Return a function that draws float64 tensors of a given shape from U(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(shape, generator=generator, dtype=torch.float64)


def whole(seed: int) -> Callable[..., Tensor]:
    """Return a function that draws integers below a bound, in a given shape."""
    generator = torch.Generator().manual_seed(seed)
    return lambda bound, *shape: torch.randint(bound, shape, generator=generator)


def real(lengths: Sequence[int], longest: int) -> Tensor:
    """Return a token mask for rows of these lengths, True = a real token."""
    return torch.arange(longest) < torch.tensor(lengths)[:, None]
