"""What a family owes to the skeleton that all encoder-decoders share."""

import pytest
import torch

from qkv.models.encoder_decoder import EncoderDecoder


@pytest.mark.parametrize(
    ("method", "place"), [("embed_source", "encoder"), ("embed_target", "decoder")]
)
def test_a_family_that_embeds_nothing_says_so(method, place):
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(
        NotImplementedError, match=f"^EncoderDecoder does not say what enters its {place}$"
    ):
        getattr(EncoderDecoder(), method)(tokens, torch.arange(3))
