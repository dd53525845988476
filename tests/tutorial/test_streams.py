import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from qkv.blocks.config import BlockConfig
from qkv.blocks.positions import SinusoidalPositions
from qkv.data.tokenizers import Tokenizer
from qkv.training.settings import Training
from qkv.tutorial.streams import LanguageModel, Stream, at_start, next_token_loss

TEXTS = ["abcab", "cabca", "bc"] * 20
TOKENIZER = Tokenizer.train_characters(TEXTS)
STREAM = Stream.of(TEXTS, TOKENIZER)
CONFIG = BlockConfig(d_model=22, n_heads=2, d_ff=26, causal=True, norm_first=True)


def model(positions=None):
    torch.manual_seed(0)
    return LanguageModel(CONFIG, 3, TOKENIZER.vocab_size, positions=positions).eval()


def test_each_text_of_a_stream_ends_with_the_stop_token():
    first = TOKENIZER.encode("abcab")
    assert STREAM.tokens[:7].tolist() == [*first, TOKENIZER.stop, TOKENIZER.encode("c")[0]]
    even = Stream(torch.tensor([0, 1, 2, 3]), pad=0)
    assert even.entropy == pytest.approx(math.log(4))


def test_windows_predict_their_next_token():
    batch, again = (next(STREAM.windows(5, 3, seed=2)) for _ in range(2))
    assert torch.equal(batch.tokens, again.tokens)
    assert batch.tokens.shape == (3, 5)
    views = STREAM.tokens.unfold(0, 6, 1).tolist()
    targets = batch.targets.view(3, 5)
    for tokens, target in zip(batch.tokens, targets, strict=True):
        assert [*tokens.tolist(), int(target[-1])] in views


def test_the_loss_is_the_sum_over_tokens():
    one, batch = model(SinusoidalPositions(22)), next(STREAM.windows(5, 3, seed=2))
    logits = one(batch.tokens) @ one.embedding.weight.T
    expected = F.cross_entropy(logits.flatten(0, 1), batch.targets, reduction="sum")
    torch.testing.assert_close(next_token_loss(one, batch), expected)
    assert not torch.equal(model()(batch.tokens), one(batch.tokens))


def test_training_lowers_the_loss_at_each_position():
    one = model()
    before = STREAM.loss_by_position(one, 7)
    STREAM.learn(one, "small", Training(steps=40, learning_rate=1e-2, warmup=4), length=7)
    after = STREAM.loss_by_position(one, 7)
    assert after.shape == (7,)
    assert (after[1:] < before[1:]).all()


def test_gradients_are_of_each_block_and_alike_outputs_have_a_cosine_of_one():
    batch = next(STREAM.windows(5, 3, seed=2))
    one = model()
    norms, alike = at_start(one, batch)
    assert len(norms) == 3
    squares = (p.grad.square().sum() for p in one.stack.blocks[1].parameters())
    assert norms[1] == pytest.approx(math.sqrt(sum(squares)))
    with torch.no_grad():
        vectors = F.normalize(one(batch.tokens), dim=-1)
    pairs = itertools.product(range(5), range(5))
    cosines = [float(row[i] @ row[j]) for i, j in pairs for row in vectors]
    assert alike == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
