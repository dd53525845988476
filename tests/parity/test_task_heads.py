"""Tasks with models that are not BERT, against transformers with its own tokenizers."""

import pytest
import torch
import transformers
from tests.tasks.byte_level import write_byte_level

from qkv.data.windows import make_windows
from qkv.tasks.answering import Answerer
from qkv.tasks.classification import TextClassifier

TEXTS = ["the film", "a fine film, and the best there is", "in short: no", "Ładny!"]
SECONDS = ["the book", "no", "a longer text than the first", "?"]
CLASSIFIERS = [
    ("gpt2", "GPT2ForSequenceClassification"),
    ("bart", "BartForSequenceClassification"),
]
ANSWERERS = [("gpt2", "GPT2ForQuestionAnswering"), ("bart", "BartForQuestionAnswering")]


def theirs_of(architecture, folder):
    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float64)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("model_type", "architecture"), CLASSIFIERS)
@pytest.mark.parametrize("seconds", [None, SECONDS])
def test_classes_of_texts_in_one_batch(model_type, architecture, seconds, tmp_path):
    write_byte_level(tmp_path, model_type, architecture)
    classifier = TextClassifier.load(tmp_path)
    classifier.model.double()
    theirs, tokenizer = theirs_of(architecture, tmp_path)
    found = classifier.probabilities(TEXTS, seconds)
    for i, row in enumerate(found):
        ids = tokenizer(TEXTS[i], seconds and seconds[i], return_tensors="pt")
        ids.pop("token_type_ids", None)
        with torch.no_grad():
            expected = theirs(**ids).logits[0].softmax(-1)
        assert (row - expected).abs().max() <= 1e-12
    assert found.std(0).max() > 1e-4


@pytest.mark.parametrize(("model_type", "architecture"), ANSWERERS)
def test_where_answers_start_and_end(model_type, architecture, tmp_path):
    write_byte_level(tmp_path, model_type, architecture)
    answerer = Answerer.load(tmp_path)
    answerer.model.double()
    theirs, tokenizer = theirs_of(architecture, tmp_path)
    question, context = "where is the cat", "the cat is in the garden"
    (window,) = make_windows(answerer.tokenizer, [question], [context], max_length=64, stride=8)
    ids = tokenizer(question, context, return_tensors="pt")
    ids.pop("token_type_ids", None)
    assert ids["input_ids"][0].tolist() == window.ids
    with torch.no_grad():
        expected = theirs(**ids)
        start, end = answerer.model(torch.tensor([window.ids])).unbind(-1)
    assert (start - expected.start_logits).abs().max() <= 1e-12
    assert (end - expected.end_logits).abs().max() <= 1e-12
    # In one batch with a longer passage, by a tokenizer that may have no token to pad with.
    both = answerer([question, question], [context, f"{context}, in the sun"])
    assert both[0].answer == answerer(question, context).answer != ""
    assert both[0].context[both[0].start : both[0].end] == both[0].answer
