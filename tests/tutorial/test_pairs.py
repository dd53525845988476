import torch

from qkv.data.tokenizers import Tokenizer
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.training.settings import Training
from qkv.tutorial.pairs import batch_of, learn

PAIRS = [(f"{a}{b}", f"{b}{a}") for a in "abcd" for b in "efg"]
TOKENIZERS = (
    Tokenizer.train_characters(text for text, _ in PAIRS),
    Tokenizer.train_characters(text for _, text in PAIRS),
)


def model():
    sizes = {"source_vocab_size": TOKENIZERS[0].vocab_size, "d_embedding": 11, "d_hidden": 14}
    config = RNNConfig(
        **sizes, target_vocab_size=TOKENIZERS[1].vocab_size, score="general", decoder="luong"
    )
    torch.manual_seed(0)
    return RNNSeq2Seq(config)


def test_a_model_learns_pairs_and_is_tested():
    training = Training(steps=130, max_tokens=60, learning_rate=2e-2, evaluate_every=65)
    learned = learn("turned", model(), PAIRS, PAIRS[:5], TOKENIZERS, training)
    assert len(learned.history.losses) == 130
    assert learned.history.losses[-1] < 0.2 * learned.history.losses[0]
    assert [step for step, _ in learned.history.evaluations] == [65, 130]
    assert str(learned.translator(["cf"])[0]) == "fc"
    assert learned.hits == [True] * 5
    assert learned.exact == 1


def test_without_evaluations_there_are_none():
    learned = learn("", model(), PAIRS, PAIRS, TOKENIZERS, Training(steps=2, max_tokens=60))
    assert not learned.history.evaluations
    assert learned.exact < 1


def test_a_batch_is_padded_and_shifted():
    batch = batch_of([("ab", "ab"), ("a", "b")], (TOKENIZERS[0], TOKENIZERS[0]))
    tokenizer = TOKENIZERS[0]
    assert batch.source_mask.tolist() == [[True, True], [True, False]]
    assert batch.target_input[:, 0].tolist() == [tokenizer.start] * 2
    assert batch.target[1].tolist() == [*tokenizer.encode("b"), tokenizer.stop, tokenizer.pad]
