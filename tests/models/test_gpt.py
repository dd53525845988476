"""What GPT-2 is made of, how it starts, and what it refuses."""

import pytest
import torch
from tests.helpers import assert_close, randomized, right_mask, to_left, unchecked

from qkv.blocks.dropout import Dropout
from qkv.errors import ConfigError, LengthError, ShapeError, VocabularyError
from qkv.generation.state import Decodable
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.heads import SequenceClassifier

VOCAB, B, L, D = 19, 3, 7, 22


def config(**options):
    sizes = {"vocab_size": VOCAB, "n_positions": 13, "d_model": D, "n_heads": 11, "d_ff": 29}
    return GPTConfig(**{**sizes, "n_layers": 2, **options})


def gpt(**options):
    return randomized(GPT(config(**options)))


def tokens():
    return torch.randint(VOCAB, (B, L))


def test_shapes():
    model, ids = gpt(), tokens()
    hidden, logits = model.hidden(ids), model(ids)
    assert (hidden.shape, logits.shape) == ((B, L, D), (B, L, VOCAB))
    assert torch.equal(logits, model.head(hidden))
    assert isinstance(model, Decodable)


def test_it_is_embedding_positions_stack_head():
    model, ids = gpt(), tokens()
    places = torch.tensor([3, 1, 4, 1, 5, 9, 2])
    x = model.embedding.weight[ids] + model.positions.table.weight[places]
    assert_close(model.hidden(ids, positions=places), model.stack(x))
    assert_close(model(ids), model.stack(x_at(model, ids)) @ model.embedding.weight.T)


def x_at(model, ids):
    return model.embedding.weight[ids] + model.positions.table.weight[: ids.shape[1]]


def test_the_defaults_are_the_smallest_published_model():
    with torch.device("meta"):
        model = GPT(GPTConfig())
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    assert len(model.stack.blocks) == 12


def test_tied_and_untied():
    tied, untied = gpt(), gpt(tied_output=False)
    assert tied.head.weight is tied.embedding.weight
    assert untied.head.weight is not untied.embedding.weight


def test_it_starts_as_the_paper_says():
    torch.manual_seed(0)
    model = GPT(config(d_model=220, d_ff=870, n_layers=8, vocab_size=190))
    block = model.stack.blocks[3]
    for parameter, std in (
        (model.embedding.weight, 0.02),
        (model.positions.table.weight, 0.02),
        (block.self_attention.query.weight, 0.02),
        (block.feed_forward.up.weight, 0.02),
        (block.self_attention.output.weight, 0.02 / 4),  # sqrt(16 sublayers)
        (block.feed_forward.down.weight, 0.02 / 4),
    ):
        assert parameter.std().item() == pytest.approx(std, rel=0.05)
    assert not block.feed_forward.up.bias.any()
    assert (block.feed_forward_residual.norm.weight == 1).all()


def test_each_dropout_reaches_its_place():
    rates = {"dropout": 0.1, "attention_dropout": 0.2, "embedding_dropout": 0.3}
    model = GPT(config(**rates))
    block = model.stack.blocks[1]
    sites = {name: m.p for name, m in model.named_modules() if isinstance(m, Dropout)}
    assert sites.pop("dropout") == 0.3
    assert set(sites.values()) == {0.1}
    assert len(sites) == 4
    assert block.self_attention.dropout == 0.2


def test_more_tokens_than_positions_are_refused():
    model = gpt()
    with pytest.raises(LengthError, match=r"got position 13, .* 0 to 12"):
        model(torch.zeros(1, 14).long())
    state = model.start(torch.zeros(1, 13).long())
    with pytest.raises(LengthError, match=r"got position 13"):
        model.step(torch.zeros(1, 1).long(), state)


def test_bad_input_is_refused():
    with pytest.raises(VocabularyError, match=r"to 19, but the vocabulary has 19"):
        gpt()(torch.full((1, 2), VOCAB))
    with unchecked(), pytest.raises(ShapeError, match="expected a boolean"):
        gpt()(tokens(), token_mask=torch.ones(B, L))
    with unchecked(), pytest.raises(ConfigError, match="feed_forward = 'mish' is unknown"):
        GPT(config(activation="mish"))


@pytest.mark.parametrize("left", [False, True])
def test_classes_are_read_at_the_last_real_token(left):
    model = gpt()
    classifier = randomized(SequenceClassifier(model, 5, pool="last", bias=False))
    ids, mask = tokens(), right_mask([4, L, 1], L)
    alone = [classifier(ids[row : row + 1, mask[row]]) for row in range(B)]
    last = model.hidden(ids[:1, :4])[:, -1]
    assert_close(alone[0], last @ classifier.classifier.output.weight.T)
    ids, mask = to_left(ids, mask) if left else (ids, mask)
    assert_close(classifier(ids, token_mask=mask), torch.cat(alone))


def test_without_head():
    model, ids = gpt(tied_output=False), tokens()
    n_parameters = sum(p.numel() for p in model.parameters())
    hidden = model.hidden(ids)
    assert model.extra_repr() == ""
    assert torch.equal(model.without_head()(ids), hidden)
    assert model.extra_repr() == "without head"
    assert n_parameters - sum(p.numel() for p in model.parameters()) == VOCAB * D
