from dataclasses import replace

import pytest
import torch
from tests.helpers import assert_close, randomized, unchecked
from torch import nn

from qkv.data.augmentation import ImageBatch
from qkv.data.classification import ClassificationBatch
from qkv.errors import DataError
from qkv.models.bert import Bert, BertConfig
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.heads import NextSentence, SequenceClassifier
from qkv.training.classification import classification_loss, image_loss

B, L, N_CLASSES = 3, 7, 5


def batch(n_classes=N_CLASSES, segments=True):
    torch.manual_seed(1)
    mask = torch.arange(L) < torch.tensor([[7], [2], [5]])
    return ClassificationBatch(
        tokens=torch.randint(17, (B, L)),
        token_mask=mask,
        segments=torch.randint(2, (B, L)) if segments else None,
        classes=torch.randint(n_classes, (B,)),
        rows=tuple(range(B)),
    )


def bert():
    sizes = {"d_model": 22, "n_heads": 11, "d_ff": 13, "n_layers": 2}
    config = BertConfig(vocab_size=17, n_positions=11, dropout=0.0, attention_dropout=0.0, **sizes)
    return Bert(config)


def logits_of(model, given):
    return model(given.tokens, token_mask=given.token_mask, segments=given.segments)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_the_sum_written_out(smoothing):
    model, given = randomized(SequenceClassifier(bert(), N_CLASSES)), batch()
    logs = logits_of(model, given).log_softmax(-1)
    wanted = torch.full_like(logs, smoothing / N_CLASSES)
    wanted[range(B), given.classes] += 1 - smoothing
    assert_close(classification_loss(model, given, smoothing=smoothing), -(wanted * logs).sum())


def test_without_smoothing_by_default():
    model, given = randomized(SequenceClassifier(bert(), N_CLASSES)), batch()
    unsmoothed = classification_loss(model, given, smoothing=0.0)
    assert torch.equal(classification_loss(model, given), unsmoothed)
    assert not torch.equal(classification_loss(model, given, smoothing=0.1), unsmoothed)


def test_a_batch_is_the_sum_of_its_rows_without_their_padding():
    model, given = randomized(SequenceClassifier(bert(), N_CLASSES)), batch()
    rows = []
    for i, n in enumerate(given.token_mask.sum(1)):
        row = ClassificationBatch(
            tokens=given.tokens[i : i + 1, :n],
            token_mask=given.token_mask[i : i + 1, :n],
            segments=given.segments[i : i + 1, :n],
            classes=given.classes[i : i + 1],
            rows=(i,),
        )
        rows.append(classification_loss(model, row, smoothing=0.1))
    assert_close(classification_loss(model, given, smoothing=0.1), torch.stack(rows).sum())


def test_single_texts_have_no_segments():
    config = GPTConfig(vocab_size=17, n_positions=11, d_model=22, n_heads=11, d_ff=13, n_layers=2)
    gpt = SequenceClassifier(GPT(config).without_head(), N_CLASSES, pool="last")
    model, given = randomized(gpt), batch(segments=False)
    logs = logits_of(model, given).log_softmax(-1)
    expected = -logs[range(B), given.classes].sum()
    assert_close(classification_loss(model, given), expected)


def test_pairs_of_sentences_are_two_classes():
    model, given = randomized(NextSentence(bert())), batch(2)
    logs = logits_of(model, given).log_softmax(-1)
    expected = -logs.gather(1, given.classes[:, None]).sum()
    assert_close(classification_loss(model, given), expected)


@pytest.mark.parametrize("wrong", [-1, N_CLASSES])
def test_a_class_that_the_model_does_not_have(wrong):
    model, given = randomized(SequenceClassifier(bert(), N_CLASSES)), batch()
    given.classes[:] = torch.tensor([0, wrong, 2])
    given_range = f"classes range from {min(wrong, 0)} to {max(wrong, 2)}"
    message = f"{given_range}, but the model has 5, counted from 0"
    with unchecked(), pytest.raises(DataError, match=message):
        classification_loss(model, given)


def test_a_batch_without_classes():
    model, given = randomized(SequenceClassifier(bert(), N_CLASSES)), replace(batch(), classes=None)
    with pytest.raises(DataError, match="the batch has no classes: it was made for prediction"):
        classification_loss(model, given)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_sum_over_images_written_out(smoothing):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 7, N_CLASSES)).double()
    given = ImageBatch(torch.rand(B, 2, 5, 7).double(), torch.tensor([4, 0, 2]))
    logs = model(given.pixels).log_softmax(-1)
    wanted = torch.full_like(logs, smoothing / N_CLASSES)
    wanted[range(B), given.classes] += 1 - smoothing
    assert_close(image_loss(model, given, smoothing=smoothing), -(wanted * logs).sum())
