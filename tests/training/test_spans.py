"""The loss of spans."""

import math

import pytest
import torch
from torch import nn

from qkv.data.windows import SpanBatch
from qkv.errors import DataError
from qkv.training.spans import span_loss


class Fixed(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, tokens, *, token_mask, segments):
        return self.logits


def batch(starts, ends, lengths=(5, 3)):
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    return SpanBatch(
        tokens=torch.zeros(2, 5, dtype=torch.int64),
        token_mask=mask,
        segments=None,
        starts=torch.tensor(starts),
        ends=torch.tensor(ends),
    )


def test_the_mean_of_start_and_end_summed_over_the_rows():
    logits = torch.randn(2, 5, 2, dtype=torch.float64)
    expected = 0.0
    for row, (length, start, end) in enumerate([(5, 1, 3), (3, 0, 0)]):
        for kind, place in ((0, start), (1, end)):
            scores = logits[row, :length, kind].tolist()  # padding is no place
            total = math.log(sum(math.exp(x) for x in scores))
            expected += (total - scores[place]) / 2
    loss = span_loss(Fixed(logits), batch([1, 0], [3, 0]))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-12)


def test_padding_gets_no_gradient():
    model = Fixed(torch.randn(2, 5, 2))
    span_loss(model, batch([1, 0], [3, 2])).backward()
    assert (model.logits.grad[1, 3:] == 0).all()
    assert (model.logits.grad[1, :3] != 0).all()


def test_half_precision_is_summed_in_float32():
    logits = torch.randn(2, 5, 2).bfloat16()
    half, full = (span_loss(Fixed(x), batch([1, 0], [3, 2])) for x in (logits, logits.float()))
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


@pytest.mark.parametrize(
    ("starts", "ends", "said"),
    [
        ([2, 0], [1, 0], "row 0 has a span from 2 to 1, but 5 tokens"),
        ([1, 2], [3, 3], "row 1 has a span from 2 to 3, but 3 tokens"),
        ([-1, 0], [3, 0], "row 0 has a span from -1 to 3"),
    ],
)
def test_spans_that_there_are_not(starts, ends, said):
    with pytest.raises(DataError, match=said):
        span_loss(Fixed(torch.zeros(2, 5, 2)), batch(starts, ends))
