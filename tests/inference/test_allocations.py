"""A step of decoding allocates the same at every length, and little."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from qkv.generation.stepping import Stepper
from qkv.inference.build import kernel
from qkv.inference.optimize import optimize
from qkv.models.gpt import GPT, GPTConfig

VOCAB, ROWS = 1009, 3


def allocations(stepper) -> list[int]:
    """Return the sizes of what a greedy step allocates."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        logits = stepper.apply_processors(stepper.logits())
        stepper.append(logits.argmax(-1))
    events = recorded.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return sorted(size for size in sizes if size > 0)


@pytest.mark.skipif(not kernel(), reason="there is no C++ compiler")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_step_allocates_the_same_at_every_length(dtype):
    config = GPTConfig(
        vocab_size=VOCAB, n_positions=256, d_model=16, n_heads=2, d_ff=32, n_layers=3
    )
    model = optimize(GPT(config).eval(), dtype)
    found = []
    with torch.inference_mode():
        stepper = Stepper(
            *(model, torch.randint(VOCAB, (ROWS, 1))), start=1, stop=-1, max_length=200
        )
        for step in range(101):
            if step in (10, 100):
                found.append(allocations(stepper))
            else:
                stepper.append(stepper.logits().argmax(-1))
    assert len(found[0]) == len(found[1])
    assert sum(found[0]) == sum(found[1])
    assert ROWS * VOCAB * 4 <= sum(found[0]) <= 2 * ROWS * VOCAB * 4
