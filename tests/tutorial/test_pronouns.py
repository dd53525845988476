import pytest
import torch
from torch.nn import functional as F

import qkv
from qkv.data.coreference import coreference_pair
from qkv.tutorial.pronouns import Heads

PAIR = coreference_pair(
    "The nail bent against the wall because it was *. | it | nail soft | wall hard"
)


@pytest.fixture(scope="module")
def heads():
    minilm = qkv.load("all-MiniLM-L6-v2")
    return Heads(minilm.tokenizer, minilm.model)


def test_the_weights_are_of_all_layers_and_heads(heads):
    tokens, weights = heads.look(PAIR[0])
    assert weights.shape == (6, 12, len(tokens), len(tokens))
    torch.testing.assert_close(weights.sum(-1), torch.ones(6, 12, len(tokens)))


def test_leaning_compares_the_nouns_in_both_directions(heads):
    tokens, weights = heads.look(PAIR[0])
    nail, wall, it = (tokens.index(word) for word in ("nail", "wall", "it"))
    leaning = heads.leaning(PAIR[0])
    assert leaning.shape == (2, 6, 12)
    torch.testing.assert_close(
        leaning[0], (weights[:, :, it, nail] / weights[:, :, it, wall]).log()
    )
    torch.testing.assert_close(
        leaning[1], (weights[:, :, nail, it] / weights[:, :, wall, it]).log()
    )


def test_likeness_compares_the_changed_word_with_the_nouns(heads):
    soft, hard, nail, wall = (
        heads.encoder.embedding.weight[heads.tokenizer.encode(word)[0]].detach()
        for word in ("soft", "hard", "nail", "wall")
    )
    expected = [
        F.cosine_similarity(word, nail, 0) - F.cosine_similarity(word, wall, 0)
        for word in (soft, hard)
    ]
    torch.testing.assert_close(heads.likeness(PAIR), torch.stack(expected))
