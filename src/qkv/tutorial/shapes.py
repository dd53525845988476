"""What shape each module of a model puts out."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

Row = dict[str, object]


@contextmanager
def record_shapes(model: nn.Module, kinds: tuple[type, ...] | None = None) -> Iterator[list[Row]]:
    """Record the shape of what each module puts out inside the `with`, in the order it is done.

        with record_shapes(model, (nn.Linear,)) as rows:
            model(source, target)
        show_table("linear layers", rows)

    Args:
        model: whose modules are watched.
        kinds: classes of the modules to watch; None watches all. A module that puts out something
            else than one tensor has no row.

    Yields:
        Rows with "module" (its name in the model), "kind" (of its class) and "output" (the shape).
    """
    rows: list[Row] = []

    def record(name: str, module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            shape = tuple(output.shape)
            rows.append({"module": name, "kind": type(module).__name__, "output": shape})

    hooks = [
        module.register_forward_hook(partial(record, name))
        for name, module in model.named_modules()
        if kinds is None or isinstance(module, kinds)
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()
