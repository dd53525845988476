"""Heads for tokens, answers, classes and choices against transformers, through files."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.helpers import randomized, right_mask, to_left
from tests.parity.causal import compare_logits
from tests.parity.published import comes_back, gradients, through_a_file
from tests.parity.reference import agree, both_gradients

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError

VOCAB, PAD, END, START, CLASSES = 37, 1, 2, 3, 5
B, N, L = 3, 2, 13
LENGTHS = [13, 5, 8]
ROWS = {"vocab_size": VOCAB, "num_labels": CLASSES, "pad_token_id": PAD, "bos_token_id": None}
GPT = dict(ROWS, n_embd=22, n_head=11, n_layer=3, n_inner=29, n_positions=41, eos_token_id=None)
LLAMA = {
    **ROWS,
    "hidden_size": 24,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 29,
    "eos_token_id": None,
}
BART = {
    **ROWS,
    "d_model": 22,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 11,
    "decoder_attention_heads": 11,
    "encoder_ffn_dim": 29,
    "decoder_ffn_dim": 29,
    "max_position_embeddings": 41,
    "eos_token_id": END,
    "decoder_start_token_id": START,
}
MBART = {name: value for name, value in BART.items() if name != "decoder_start_token_id"}
BERT = {
    **ROWS,
    "hidden_size": 22,
    "num_hidden_layers": 3,
    "num_attention_heads": 11,
    "intermediate_size": 29,
    "max_position_embeddings": 41,
}
DISTILBERT = dict(ROWS, dim=22, n_layers=3, n_heads=11, hidden_dim=29, max_position_embeddings=41)
T5 = {
    **ROWS,
    "d_model": 23,
    "num_heads": 11,
    "d_kv": 5,
    "d_ff": 29,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 7,
}
CASES = {
    "GPT2ForTokenClassification": GPT,
    "GPT2ForQuestionAnswering": GPT,
    **{
        f"{family}For{head}": LLAMA
        for family in ("Llama", "Mistral", "Qwen2")
        for head in ("TokenClassification", "QuestionAnswering")
    },
    "BartForSequenceClassification": BART,
    "BartForQuestionAnswering": BART,
    "MBartForSequenceClassification": MBART,
    "MBartForQuestionAnswering": MBART,
    "T5EncoderModel": T5,
    "MT5EncoderModel": T5,
    "BertForMultipleChoice": BERT,
    "RobertaForMultipleChoice": BERT,
    "DistilBertForMultipleChoice": DISTILBERT,
    "XLMRobertaForMultipleChoice": BERT,
    "CamembertForMultipleChoice": BERT,
}
each = pytest.mark.parametrize("name", CASES)
CHOICES = [name for name in CASES if name.endswith("MultipleChoice")]


def make(name, folder, **changes):
    theirs_class = getattr(transformers, name)
    config = theirs_class.config_class(**{**CASES.get(name, LLAMA), **changes})
    if name.endswith("QuestionAnswering"):
        config.num_labels = 2
    theirs = theirs_class(config)
    return theirs, through_a_file(theirs, folder)


def texts(name, padding):
    """Ids that end with the end token, their mask, and segments; choices have an axis."""
    n = N * B if name in CHOICES else B
    lengths = [L] * n if padding == "none" else (LENGTHS * N)[:n]
    mask = right_mask(lengths, L)
    ids = torch.randint(4, VOCAB, (n, L))
    ids[torch.arange(n), torch.tensor(lengths) - 1] = END
    if name.startswith("MBart"):  # whose texts end with a language, which differs
        ids[torch.arange(n), torch.tensor(lengths) - 2] = END
        ids[torch.arange(n), torch.tensor(lengths) - 1] = torch.arange(n) + 4
    segments = (torch.arange(L) > 3).expand(n, L).long()
    if padding == "left":
        (ids, _), (segments, _) = to_left(ids, mask), to_left(segments, mask)
        mask = to_left(mask, mask)[1]
    batch = torch.where(mask, ids, PAD), mask, segments
    return [one.view(B, N, L) for one in batch] if name in CHOICES else batch


def both(name, ours, theirs, padding):
    """What ours and theirs return for the same texts, at real tokens."""
    ids, mask, segments = texts(name, padding)
    options, given = {"token_mask": mask}, {"attention_mask": mask.long()}
    if name.startswith("Bert"):
        options["segments"] = given["token_type_ids"] = segments
    if padding == "left" and not name.startswith(("Bart", "MBart", "T5", "MT5")):
        given["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    found, output = ours(ids, **options), theirs(ids, **given)
    if "start_logits" in output:
        expected = torch.stack((output.start_logits, output.end_logits), -1)
    else:
        expected = output.last_hidden_state if "last_hidden_state" in output else output[0]
    by_token = found.ndim == 3
    return (found[mask], expected[mask]) if by_token else (found, expected)


@each
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_numbers(name, padding, tmp_path):
    if padding == "left" and (name.startswith(("Bart", "MBart")) or name in CHOICES):
        padding = "right"  # their positions and poolers count padding
    theirs, checkpoint = make(name, tmp_path / "theirs")

    def numbers(ours, theirs, dtype):
        pairs = {"output": both(name, ours, theirs, padding)}
        both_gradients(pairs.values())
        return pairs | gradients(ours, theirs, checkpoint.config, tmp_path / "gradients")

    agree(numbers, checkpoint.model, theirs)


@torch.no_grad()
def compare_outputs(name, ours, theirs, padding):
    def numbers(ours, theirs, dtype):
        return {"output": both(name, ours, theirs, padding)}

    agree(numbers, ours, theirs)


@each
def test_saving_back(name, tmp_path):
    theirs, checkpoint = make(name, tmp_path / "theirs")
    again = comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")
    for mine, expected in zip(again.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, expected)


@each
def test_a_model_that_was_never_loaded_is_read_by_transformers(name, tmp_path):
    model_type = getattr(transformers, name).config_class.model_type
    family = FAMILIES[model_type]
    shape = family.architecture(name)
    n_classes = 2 if name.endswith("QuestionAnswering") else CLASSES
    config = family.read_config({k: v for k, v in CASES[name].items() if v is not None}, shape)
    ours = randomized(shape.build(config, n_classes), torch.float32, std=0.2)
    save_checkpoint(Checkpoint(ours, {"model_type": model_type, "pad_token_id": PAD}), tmp_path)
    theirs, report = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    compare_outputs(name, ours, theirs.eval(), "right")


@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_answers_of_llama_stand_on_either_name_of_the_body(family, tmp_path):
    """Their classes for answers call `transformer` what the others call `model`."""
    name = f"{family}ForQuestionAnswering"
    theirs, _ = make(name, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert "transformer.norm.weight" in weights
    renamed = {n.replace("transformer.", "model."): x for n, x in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = load_checkpoint(tmp_path)
    compare_outputs(name, checkpoint.model, theirs, "none")
    save_checkpoint(checkpoint, tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == renamed.keys()


@pytest.mark.parametrize("start", ["LlamaForCausalLM", "LlamaModel", "LlamaForQuestionAnswering"])
@pytest.mark.parametrize("end", ["LlamaForTokenClassification", "LlamaForQuestionAnswering"])
def test_a_head_goes_on_the_body_of_another(start, end, tmp_path):
    _, checkpoint = make(start, tmp_path / "theirs")
    other = load_checkpoint(tmp_path / "theirs", architecture=end, new=["classifier"])
    body = getattr(checkpoint.model, "encoder", checkpoint.model)
    for (name, ours), mine in zip(
        body.stack.named_parameters(), other.model.encoder.stack.parameters(), strict=True
    ):
        assert torch.equal(ours, mine), name
    save_checkpoint(other, tmp_path / "ours")
    _, report = getattr(transformers, end).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(report.values())


def test_the_encoder_of_a_whole_t5(tmp_path):
    """The decoder stays in the file, and nothing reads it."""
    theirs = transformers.T5Model(transformers.T5Config(**T5))
    whole = through_a_file(theirs, tmp_path / "t5").model
    ids, mask, _ = texts("T5EncoderModel", "right")
    encoder = load_checkpoint(tmp_path / "t5", architecture="T5EncoderModel")
    with torch.no_grad():
        assert torch.equal(encoder.model(ids, token_mask=mask), whole.encode(ids, mask))
    save_checkpoint(encoder, tmp_path / "again")
    first, second = (load_file(tmp_path / f / "model.safetensors") for f in ("t5", "again"))
    assert first.keys() == second.keys()
    assert json.loads((tmp_path / "again" / "config.json").read_text())["architectures"] == [
        "T5EncoderModel"
    ]


def test_the_last_end_token_is_classified(tmp_path):
    """Of a pair, whose first text ends with one too; and of a text that something follows."""
    name = "BartForSequenceClassification"
    theirs, checkpoint = make(name, tmp_path)
    ids = torch.randint(4, VOCAB, (B, L))
    ids[:, 4] = ids[:, 5] = ids[:, 9] = END
    compare_logits(checkpoint.model, theirs, ids)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("SequenceClassification", {"eos_token_id": None}, "eos_token_id = None; expected the id"),
        ("SequenceClassification", {"eos_token_id": [2, 5]}, r"eos_token_id = \(2, 5\); expected"),
        ("QuestionAnswering", {"decoder_start_token_id": None}, "decoder_start_token_id = None;"),
    ],
)
def test_tokens_that_a_head_of_bart_needs(name, fields, message, tmp_path):
    make(f"BartFor{name}", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ConfigError, match=message):
        load_checkpoint(tmp_path)
