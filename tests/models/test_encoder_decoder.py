"""What a family owes to the skeleton that all encoder-decoders share."""

import pytest
import torch

from qkv.models.encoder_decoder import EncoderDecoder, shift_right


@pytest.mark.parametrize("method", ["embed_source", "embed_target"])
def test_a_family_that_embeds_nothing_says_so(method):
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(NotImplementedError, match=f"^EncoderDecoder does not define {method}$"):
        getattr(EncoderDecoder(), method)(tokens, torch.arange(3))


@pytest.mark.parametrize(
    ("mask", "start", "expected"),
    [
        (None, 3, [[3, 5, 7, 11], [3, 13, 17, 19]]),
        (
            None,
            None,
            [[2, 5, 7, 11], [23, 13, 17, 19]],
        ),  # as MBart, whose texts end with a language
        ([[1, 1, 1, 0], [0, 0, 1, 1]], 3, [[3, 5, 7], [3, 19]]),
        ([[1, 1, 1, 0], [0, 0, 1, 1]], None, [[11, 5, 7], [23, 19]]),
        ([[1, 0, 1, 0], [0, 1, 0, 1]], 3, [[3, 5], [3, 17]]),
    ],
)
def test_shifted_by_a_token_that_is_real(mask, start, expected):
    tokens = torch.tensor([[5, 7, 11, 2], [13, 17, 19, 23]])
    real = torch.ones(2, 4, dtype=torch.bool) if mask is None else torch.tensor(mask).bool()
    shifted = shift_right(tokens, None if mask is None else real, start=start)
    assert [row[one].tolist() for row, one in zip(shifted, real, strict=True)] == expected
