import pytest
import torch
from tests.helpers import assert_close

from qkv.blocks.embedding import TokenEmbedding
from qkv.errors import VocabularyError


def test_looks_up_and_scales():
    table = TokenEmbedding(17, 5, scale=3.0).double()
    tokens = torch.tensor([[0, 16, 4]])
    assert_close(table(tokens), 3 * table.weight[tokens])


def test_scaled_vectors_start_with_unit_variance():
    for scale in (1.0, 16.0):
        vectors = TokenEmbedding(997, 101, scale=scale)(torch.arange(997)[None])
        assert vectors.std().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("tokens", [[3, 17], [-1, 4]])
def test_ids_outside_the_vocabulary_are_refused(tokens):
    low, high = tokens if tokens[0] < 0 else sorted(tokens)
    message = rf"got token ids from {low} to {high}, .* has 17 \(ids 0 to 16\); is this the token"
    with pytest.raises(VocabularyError, match=message):
        TokenEmbedding(17, 5)(torch.tensor([tokens]))
