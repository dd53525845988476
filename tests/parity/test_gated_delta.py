"""The gated delta rule equals that of Qwen3-Next in transformers, in both of its forms."""

import pytest
import torch
from tests.helpers import assert_close
from transformers.models.qwen3_next import modeling_qwen3_next

from qkv.attention.variants.delta_rule import gated_delta_rule, unit

B, H, L, D, V = 2, 3, 71, 5, 7


class DoublePrecision:
    """`torch` for a module that casts to float32: here that is float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture
def inputs():
    torch.manual_seed(11)
    double = {"dtype": torch.float64}
    q, k = (torch.randn(B, H, L, D, **double) for _ in range(2))
    v = torch.randn(B, H, L, V, **double)
    log_alpha, beta = -torch.rand(B, H, L, **double), torch.rand(B, H, L, **double)
    return q, k, v, log_alpha, beta, torch.randn(B, H, D, V, **double)


@pytest.mark.parametrize("chunk", [1, 13, 64])
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("torch_recurrent_gated_delta_rule", {}),
        ("torch_chunk_gated_delta_rule", {}),
        ("torch_chunk_gated_delta_rule", {"chunk_size": 17}),
    ],
)
def test_equals_transformers(monkeypatch, inputs, form, options, normalized, chunk):
    """Their queries are divided by sqrt(D), and, if normalized, all have norm 1 first."""
    monkeypatch.setattr(modeling_qwen3_next, "torch", DoublePrecision())
    q, k, v, log_alpha, beta, memory = inputs
    if not normalized:
        k = k / 10  # longer keys let the memory grow without bound
    theirs = getattr(modeling_qwen3_next, form)(
        *(x.transpose(1, 2) for x in (q, k, v, log_alpha, beta)),
        initial_state=memory,
        output_final_state=True,
        use_qk_l2norm_in_kernel=normalized,
        **options,
    )
    assert theirs[0].dtype == theirs[1].dtype == torch.float64
    if normalized:
        q, k = unit(q), unit(k)
    ours = gated_delta_rule(q / D**0.5, k, v, log_alpha, beta, memory, chunk=chunk)
    assert_close(ours[0], theirs[0].transpose(1, 2))
    assert_close(ours[1], theirs[1])
