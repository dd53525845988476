"""Every mechanism has a limit in which another formula computes it, and gradients that are right.

A new file of a mechanism, or a new name of a layer, fails here until both are tested.
"""

import importlib
import pkgutil

import pytest
import torch
from tests.attention.variants import (
    test_gated_delta,
    test_latent,
    test_linear,
    test_scores,
    test_shared,
    test_top_k,
    test_weights,
    test_windows,
)
from tests.attention.variants.mechanisms import CASES, D_MODEL, MECHANISMS, build, by_the_output

from qkv.attention import variants
from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention
from qkv.attention.variants import registry
from qkv.attention.variants.explicit import ExplicitAttention
from qkv.attention.variants.self_attention import SelfAttention
from qkv.attention.variants.shared import SharedAttention

# The test, in float64 with a bound of 1e-12, of the case in which a mechanism is another formula.
LIMITS = {
    "sliding": test_windows.test_a_window_as_long_as_the_text_is_standard_attention,
    "dilated": test_windows.test_limits_of_dilated_and_global,
    "global": test_windows.test_limits_of_dilated_and_global,
    "streaming": test_windows.test_streaming_is_causal_attention_to_sinks_and_a_window,
    "linear": test_linear.test_equals_the_recurrent_form,
    "relative": test_scores.test_without_its_vectors_relative_attention_is_standard,
    "sigmoid": test_weights.test_sigmoid_of_equal_keys_nearly_averages,
    "sink": test_weights.test_without_its_sinks_sink_attention_is_standard,
    "softcap": test_scores.test_softcap_is_standard_attention_as_the_cap_grows,
    "differential": (
        test_weights.test_at_lambda_zero_differential_attention_is_standard_before_the_norm
    ),
    "differential-v2": (
        test_weights.test_as_lambda_falls_version_2_is_standard_attention_by_the_first_queries
    ),
    "gated": test_weights.test_an_open_gate_is_standard_attention_and_a_closed_one_nothing,
    "gated-delta": test_gated_delta.test_for_orthogonal_keys_it_is_linear_attention_with_decay,
    "qk-norm": test_scores.test_qk_norm_is_henrys_scaled_cosine,
    "top-k": test_top_k.test_with_k_of_all_keys_it_is_full_attention,
    "latent": (
        test_latent.test_without_a_rotary_part_it_is_standard_attention_with_composed_matrices
    ),
}
# A shared layer needs another one: it has a file of its own.
SHARED = (
    test_shared.test_equals_standard_attention_with_the_keys_and_values_of_the_earlier_layer,
    test_shared.test_gradients_are_those_of_finite_differences,
)


def kinds():
    """The mechanisms of all files, but not their bases."""
    for module in pkgutil.iter_modules(variants.__path__):
        loaded = importlib.import_module(f"{variants.__name__}.{module.name}")
        own = [kind for kind in vars(loaded).values() if isinstance(kind, type)]
        yield from (
            kind
            for kind in own
            if issubclass(kind, MultiHeadAttention)
            and kind.__module__ == loaded.__name__
            and kind not in (SelfAttention, ExplicitAttention)
        )


def test_every_mechanism_is_tested():
    tested = {type(make(True)) for make in MECHANISMS.values()} | {SharedAttention}
    assert set(kinds()) == tested
    built = {
        type(make(12, 3, 2, AttentionOptions(causal=True, rotary=None)))
        for make in registry.MECHANISMS.values()
    }
    assert built - {MultiHeadAttention} <= tested


def test_every_mechanism_has_a_limit():
    assert set(LIMITS) == set(MECHANISMS)
    assert all(callable(test) for test in (*LIMITS.values(), *SHARED))


@pytest.mark.parametrize(("name", "causal"), CASES)
def test_gradients_equal_finite_differences(name, causal):
    """Of the input, and of every parameter together, along a random direction."""
    module = build(name, causal)
    parameters = by_the_output(module)
    start = [p.detach().clone() for p in parameters]
    directions = [torch.randn_like(p) for p in parameters]
    x = torch.randn(1, 5, D_MODEL, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x, fast_mode=True)

    def value(step):
        with torch.no_grad():
            for p, p_0, direction in zip(parameters, start, directions, strict=True):
                p.copy_(p_0 + step * direction)
        return module(x.detach()).pow(3).sum()

    gradients = torch.autograd.grad(value(0.0), parameters)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    h = 1e-4  # the error of five points is of fourth order
    near, far = ((value(n * h) - value(-n * h)).item() for n in (1, 2))
    assert slope.item() == pytest.approx((8 * near - far) / (12 * h), rel=1e-6)
