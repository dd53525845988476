"""BERT: what its embeddings add, what padding and padding's side do not change."""

import pytest
import torch
from tests.helpers import assert_close, randomized, right_mask, to_left, unchecked

from qkv.errors import ConfigError, LengthError, ShapeError, VocabularyError
from qkv.models.bert import Bert, BertConfig

B, L, VOCAB = 3, 7, 37
LENGTHS = [7, 2, 5]


def bert(dtype=torch.float64, **options):
    sizes = {"vocab_size": VOCAB, "n_positions": 13, "d_model": 22, "n_heads": 11, "d_ff": 29}
    return randomized(Bert(BertConfig(n_layers=2, **{**sizes, **options})), dtype)


KINDS = {
    "bert": {},
    "roberta": {"first_position": 2, "n_segments": 1, "pooler": False},
    "distilbert": {"n_segments": 0, "pooler": False},
}
each = pytest.mark.parametrize("kind", KINDS)


def texts():
    ids, mask = torch.randint(VOCAB, (B, L)), right_mask(LENGTHS, L)
    return ids, mask, (torch.arange(L) > 2).long().expand(B, L)


@each
def test_padding_and_its_side_change_nothing(kind):
    model = bert(**KINDS[kind])
    ids, mask, segments = texts()
    segments = segments if kind == "bert" else None
    right = model(ids, token_mask=mask, segments=segments)
    for row, length in enumerate(LENGTHS):
        parts = None if segments is None else segments[row : row + 1, :length]
        alone = model(ids[row : row + 1, :length], segments=parts)
        assert_close(right[row : row + 1, :length], alone)
    shifted, left_mask = to_left(ids, mask)
    segments = None if segments is None else to_left(segments, mask)[0]
    left = model(shifted, token_mask=left_mask, segments=segments)
    assert_close(left[left_mask], right[mask])
    if kind == "bert":
        assert_close(model.pool(left, left_mask), model.pool(right, mask))


@each
def test_every_token_sees_both_directions(kind):
    model = bert(**KINDS[kind])
    ids, _, _ = texts()
    other = ids.clone()
    other[:, 3] = (other[:, 3] + 1) % VOCAB
    changed = (model(ids) != model(other)).any(-1)
    assert changed.all()


def test_embeddings_add_token_place_and_segment():
    model = bert()
    ids, _, segments = texts()
    seen = []
    model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(ids, segments=segments)
    model(ids)
    expected = model.embedding.weight[ids] + model.positions.table.weight[:L]
    assert_close(seen[0], expected + model.segments.weight[segments])
    assert_close(seen[1], expected + model.segments.weight[0])


def test_positions_may_be_given():
    model = bert(first_position=2)
    ids, _, _ = texts()
    assert_close(model(ids), model(ids, positions=torch.arange(L)))
    assert not torch.equal(model(ids), model(ids, positions=torch.arange(L) + 1))


def test_first_rows_of_the_positions_are_not_used():
    model = bert(first_position=2)
    ids, _, _ = texts()
    before = model(ids)
    model.positions.table.weight.data[:2] = 0
    assert torch.equal(model(ids), before)
    model(torch.zeros(1, 11, dtype=torch.long))
    with pytest.raises(LengthError, match=r"position 11, but only positions 0 to 10"):
        model(torch.zeros(1, 12, dtype=torch.long))


def test_the_pooler_reads_the_first_token_alone():
    model = bert()
    hidden = torch.randn(B, L, 22, dtype=torch.float64)
    expected = torch.tanh(hidden[:, 0] @ model.pooler.weight.T + model.pooler.bias)
    assert_close(model.pool(hidden), expected)


def test_what_the_model_does_not_have_is_refused():
    ids, _, segments = texts()
    with pytest.raises(ShapeError, match="segments were passed to a model without segment"):
        bert(**KINDS["distilbert"])(ids, segments=segments)
    with pytest.raises(ShapeError, match="no pooler; use the first token or the mean"):
        bert(**KINDS["roberta"]).pool(torch.zeros(B, L, 22, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"segments from 0 to 2; the model was trained with 2"):
        bert()(ids, segments=segments * 2)
    with pytest.raises(VocabularyError, match="token ids from"):
        bert()(ids + VOCAB)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size = 0; expected at least 1"),
        ({"n_layers": 0}, "n_layers = 0; expected at least 1"),
        ({"n_positions": 2, "first_position": 2}, "n_positions = 2 leaves no position after"),
        ({"activation": "mish"}, "feed_forward = 'mish' is unknown"),
    ],
)
def test_configs_that_make_no_sense(options, message):
    with unchecked(), pytest.raises(ConfigError, match=message):
        BertConfig(**options)


def test_matrices_start_small_and_biases_at_zero():
    model = Bert(BertConfig(vocab_size=997, n_layers=1))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "segments" not in name:
            assert 0.019 < parameter.std() < 0.021, name
        elif name.endswith("bias"):
            assert not parameter.any(), name
