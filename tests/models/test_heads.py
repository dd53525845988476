"""Heads: what each reads, where padding may be, and that they go on any encoder."""

import pytest
import torch
from tests.helpers import assert_close, randomized, right_mask, to_left, unchecked
from tests.models.test_bert import LENGTHS, B, L, bert, texts
from torch import nn

from qkv.errors import ConfigError
from qkv.models.bart import Bart, BartConfig
from qkv.models.heads import (
    MaskedLM,
    ModelWithHead,
    MultipleChoice,
    NextSentence,
    PreTraining,
    QuestionAnswering,
    SequenceClassifier,
    TokenClassifier,
)
from qkv.models.pooling import first_token, last_token, mean_token

C = 5
HEADS = {
    "tokens": lambda e: TokenClassifier(e, C),
    "answers": QuestionAnswering,
    "pooler": lambda e: SequenceClassifier(e, C),
    "first, tanh": lambda e: SequenceClassifier(e, C, pool="first", hidden_layer="tanh"),
    "first, relu": lambda e: SequenceClassifier(e, C, pool="first", hidden_layer="relu"),
    "last, no bias": lambda e: SequenceClassifier(e, C, pool="last", bias=False),
    "mean": lambda e: SequenceClassifier(e, C, pool="mean"),
    "next sentence": NextSentence,
    "masked": MaskedLM,
    "pre-training": PreTraining,
    "last end token": lambda e: SequenceClassifier(e, C, pool="last", end=11),
}
each = pytest.mark.parametrize("name", HEADS)


def make(name, encoder=None):
    return randomized(HEADS[name](encoder or bert()))


def outputs(model, *args, **options):
    logits = model(*args, **options)
    return logits if isinstance(logits, tuple) else (logits,)


@each
def test_padding_and_its_side_change_nothing(name):
    model, (ids, mask, segments) = make(name), texts()
    left_ids, left_mask = to_left(ids, mask)
    left_segments, _ = to_left(segments, mask)
    right = outputs(model, ids, token_mask=mask, segments=segments)
    left = outputs(model, left_ids, token_mask=left_mask, segments=left_segments)
    for mine, other in zip(right, left, strict=True):
        by_token = mine.ndim == 3
        assert_close(*((mine[mask], other[left_mask]) if by_token else (mine, other)))
    for row, length in enumerate(LENGTHS):
        one = slice(row, row + 1)
        alone = outputs(model, ids[one, :length], segments=segments[one, :length])
        for mine, other in zip(right, alone, strict=True):
            assert_close(mine[one, :length] if mine.ndim == 3 else mine[one], other)


@each
def test_forward_is_the_score_of_hidden(name):
    model, (ids, mask, segments) = make(name), texts()
    hidden = model.hidden(ids, token_mask=mask, segments=segments)
    assert_close(hidden, model.encoder(ids, token_mask=mask, segments=segments))
    scores = model.score(hidden, mask)
    scores = scores if isinstance(scores, tuple) else (scores,)
    for mine, other in zip(
        scores, outputs(model, ids, token_mask=mask, segments=segments), strict=True
    ):
        assert torch.equal(mine, other)


class Images(nn.Module):
    """An encoder that takes nothing but its input."""

    def __init__(self):
        super().__init__()
        self.config = bert().config
        self.project = nn.Linear(13, 22)

    def forward(self, images):
        return self.project(images)


class Language(nn.Module):
    """A language model: its hidden states are taken before its own head."""

    def __init__(self):
        super().__init__()
        self.config = bert().config
        self.embedding, self.head = nn.Embedding(37, 22), nn.Linear(22, 37)

    def hidden(self, tokens, *, token_mask=None):
        return self.embedding(tokens)

    def forward(self, tokens, *, token_mask=None):
        return self.head(self.hidden(tokens))


@pytest.mark.parametrize("name", ["tokens", "answers", "first, tanh", "last, no bias", "mean"])
def test_a_head_goes_on_any_encoder(name):
    classes = 2 if name == "answers" else C
    pooled = name not in ("tokens", "answers")
    images = make(name, Images())(torch.randn(B, L, 13, dtype=torch.float64))
    assert images.shape == ((B, classes) if pooled else (B, L, classes))
    ids, mask, _ = texts()
    language = make(name, Language())(ids, token_mask=mask)
    assert language.shape == ((B, classes) if pooled else (B, L, classes))


def test_a_head_without_a_score_says_so():
    head = ModelWithHead(Images()).double()
    with pytest.raises(NotImplementedError, match=r"^ModelWithHead does not define score$"):
        head(torch.randn(B, L, 13, dtype=torch.float64))


def test_the_output_layer_of_the_masked_lm_is_the_embedding():
    for name in ("masked", "pre-training"):
        model = make(name)
        assert model.head.output.weight is model.encoder.embedding.weight
        assert "head.output.weight" not in dict(model.named_parameters())


BART = {"vocab_size": 37, "n_positions": 41, "d_model": 22, "n_heads": 11, "d_ff": 29}
BART |= {"n_encoder_layers": 2, "n_decoder_layers": 3, "dropout": 0.0, "start_token": 3}


@pytest.mark.parametrize("start", [3, None])
@pytest.mark.parametrize("end", [2, None])
def test_padding_of_a_text_that_both_stacks_read(start, end):
    ids, mask, _ = texts()
    encoder = randomized(Bart(BartConfig(**{**BART, "start_token": start})).without_head())
    model = randomized(SequenceClassifier(encoder, C, pool="last", end=end))
    right = model(ids, token_mask=mask)
    left_ids, left_mask = to_left(ids, mask)
    assert_close(model(left_ids, token_mask=left_mask), right)
    for row, length in enumerate(LENGTHS):
        assert_close(model(ids[row : row + 1, :length]), right[row : row + 1])


def test_the_last_end_token_is_read_or_the_last_of_all():
    model = make("last end token", bert()).double()
    ids, mask = torch.full((3, 7), 5), right_mask([7, 5, 6], 7)
    ids[0, [1, 4]], ids[1, 6] = 11, 11  # the second row has one in its padding alone
    hidden = model.hidden(ids, token_mask=mask)
    read = torch.stack((hidden[0, 4], hidden[1, 4], hidden[2, 5]))
    assert_close(model(ids, token_mask=mask), model.classifier(read))
    assert "end=11" in repr(model)


def test_each_choice_is_read_alone():
    model = randomized(MultipleChoice(bert()))
    ids, mask, segments = (torch.stack((x, x.flip(0)), 1) for x in texts())
    scores = model(ids, token_mask=mask, segments=segments)
    assert scores.shape == (B, 2)
    for i in range(2):
        alone = {"token_mask": mask[:, i : i + 1], "segments": segments[:, i : i + 1]}
        assert_close(model(ids[:, i : i + 1], **alone), scores[:, i : i + 1])
    positions = torch.arange(L).expand(B, 2, L)
    assert_close(model(ids, token_mask=mask, segments=segments, positions=positions), scores)
    assert not isinstance(model, SequenceClassifier)


def test_masked_places_can_be_scored_alone():
    model, (ids, mask, _) = make("masked"), texts()
    assert_close(model.head(model.hidden(ids)[mask]), model(ids)[mask])


def test_pools_read_real_tokens():
    hidden, mask = torch.randn(B, L, 11, dtype=torch.float64), right_mask(LENGTHS, L)
    holes = mask & (torch.arange(L) != 1)
    for one in (mask, mask.flip(1), holes):
        rows = [hidden[i][one[i]] for i in range(B)]
        assert torch.equal(first_token(hidden, one), torch.stack([row[0] for row in rows]))
        assert torch.equal(last_token(hidden, one), torch.stack([row[-1] for row in rows]))
        assert_close(mean_token(hidden, one), torch.stack([row.mean(0) for row in rows]))
    for pool in (first_token, last_token, mean_token):
        assert_close(pool(hidden), pool(hidden, torch.ones(B, L, dtype=torch.bool)))


def test_dropout_is_where_it_is_asked_for():
    ids, _, _ = texts()
    encoder = bert(dropout=0.0, attention_dropout=0.0)
    for model in (
        TokenClassifier(encoder, C, dropout=0.5),
        SequenceClassifier(encoder, C, dropout=0.5),
        SequenceClassifier(encoder, C, pool="first", hidden_layer="tanh", dropout=0.5),
    ):
        model.double().train()
        assert not torch.equal(model(ids), model(ids))
        model.eval()
        assert torch.equal(model(ids), model(ids))


@pytest.mark.parametrize(
    ("options", "encoder", "message"),
    [
        ({}, {"pooler": False}, "pool = 'pooler', but this Bert was built without one.*first"),
        ({"pool": "max"}, {}, "pool = 'max'; expected one of pooler, first, last, mean"),
    ],
)
def test_pools_that_there_are_not(options, encoder, message):
    with unchecked(), pytest.raises(ConfigError, match=message):
        SequenceClassifier(bert(**encoder), C, **options)
