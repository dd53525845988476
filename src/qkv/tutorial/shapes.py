"""Record the output shapes of a model's modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import Tensor, nn

Row = dict[str, object]


@contextmanager
def record_shapes(model: nn.Module, kinds: tuple[type, ...] | None = None) -> Iterator[list[Row]]:
    """Record the output shape of each module called inside the `with`, in the order of completion.

        with record_shapes(model, (nn.Linear,)) as rows:
            model(source, target)
        show_table("linear layers", rows)

    Args:
        model: model whose modules are recorded.
        kinds: classes of the modules to record; None means all. Modules whose output is not a
            single tensor are skipped.

    Yields:
        Rows with "module" (its name in the model), "kind" (its class) and "output" (the shape).
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
