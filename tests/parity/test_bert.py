"""BERT, RoBERTa and DistilBERT against transformers, through files, in float64 and float32."""

import pytest
import torch
import transformers
from tests.checkpoints.tiny import TINY
from tests.helpers import right_mask, to_left
from tests.parity.published import comes_back, gradients, outputs_of, through_a_file
from tests.parity.reference import agree, both_gradients
from tests.parity.weights import randomize

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.registry import FAMILIES

VOCAB, D, H, FF, LAYERS, POSITIONS, CLASSES, PAD = 37, 22, 11, 29, 3, 41, 5, 1
B, L = 3, 13
LENGTHS = [13, 5, 8]

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": H,
    "intermediate_size": FF,
    "max_position_embeddings": POSITIONS,
    "num_labels": CLASSES,
    "pad_token_id": PAD,
}
CONFIGS = {
    "Bert": lambda: transformers.BertConfig(**SIZES),
    "Roberta": lambda: transformers.RobertaConfig(**SIZES, type_vocab_size=1),
    "XLMRoberta": lambda: transformers.XLMRobertaConfig(**SIZES, type_vocab_size=1),
    "Camembert": lambda: transformers.CamembertConfig(**SIZES, type_vocab_size=1),
    "DistilBert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCAB,
        dim=D,
        n_layers=LAYERS,
        n_heads=H,
        hidden_dim=FF,
        max_position_embeddings=POSITIONS,
        num_labels=CLASSES,
        pad_token_id=PAD,
    ),
}
ANY = ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification")
ANY += ("ForQuestionAnswering",)
MODELS = [(family, head) for family in CONFIGS for head in ANY]
MODELS += [("Bert", "ForPreTraining"), ("Bert", "ForNextSentencePrediction")]
POOLED = ("ForSequenceClassification", "ForNextSentencePrediction", "ForPreTraining")
CASES = [
    pytest.param(family, head, padding, id=f"{family}{head}-{padding}")
    for family, head in MODELS
    for padding in ("none", "right", "left")
    # Their poolers read place 0, which is padding there.
    if padding != "left" or head not in POOLED
]
each = pytest.mark.parametrize(("family", "head"), MODELS, ids=map("".join, MODELS))


def model_type(family):
    return CONFIGS[family]().model_type


def make(family, head, folder):
    theirs_class = getattr(transformers, f"{family}{head}")
    config = CONFIGS[family]()
    if head == "ForQuestionAnswering":
        config.num_labels = 2
    theirs = theirs_class(config)
    checkpoint = through_a_file(theirs, folder)
    return theirs_class, theirs, checkpoint


def texts(family, padding):
    """Ids, token mask and segments, where the family has them."""
    mask = right_mask([L] * B if padding == "none" else LENGTHS, L)
    ids = torch.randint(2, VOCAB, (B, L))
    segments = torch.arange(L)[None].expand(B, L) > torch.tensor([[4], [2], [6]])
    if padding == "left":
        ids, segments = to_left(ids, mask)[0], to_left(segments, mask)[0]
        mask = to_left(mask, mask)[1]
    ids = torch.where(mask, ids, PAD)
    return ids, mask, segments.long() if family == "Bert" else None


def run_theirs(theirs, family, ids, mask, segments, padding):
    options = {"attention_mask": mask.long()} if padding != "none" else {}
    if segments is not None:
        options["token_type_ids"] = segments
    if padding == "left" and family in (
        "Bert",
        "DistilBert",
    ):  # the others count the tokens that are no padding
        options["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    return theirs(ids, **options, output_hidden_states=True)


def their_logits(output, head):
    if head == "Model":
        return (output.last_hidden_state,)
    if head == "ForQuestionAnswering":
        return (torch.stack((output.start_logits, output.end_logits), -1),)
    if head == "ForPreTraining":
        return output.prediction_logits, output.seq_relationship_logits
    return (output.logits,)


def numbers_of(family, head, padding, config=None, folder=None):
    """Make what `agree` calls: states, logits, and with a folder the gradients."""
    ids, mask, segments = texts(family, padding)

    def numbers(ours, theirs, dtype):
        encoder = getattr(ours, "encoder", ours)
        reference = run_theirs(theirs, family, ids, mask, segments, padding)
        with outputs_of([encoder.norm, *encoder.stack.blocks]) as states:
            said = ours(ids, token_mask=None if padding == "none" else mask, segments=segments)
        pairs = {
            f"state {i}": (state[mask], expected[mask])
            for i, (state, expected) in enumerate(zip(states, reference.hidden_states, strict=True))
        }
        said = said if isinstance(said, tuple) else (said,)
        expected = their_logits(reference, head)
        outputs = {
            f"output {i}": (mine[mask], other[mask]) if mine.ndim == 3 else (mine, other)
            for i, (mine, other) in enumerate(zip(said, expected, strict=True))
        }
        if head == "Model" and ours.config.pooler and padding != "left":
            outputs["pooled"] = ours.pool(said[0]), reference.pooler_output
        pairs |= outputs
        if folder:
            both_gradients(outputs.values())
            pairs |= gradients(ours, theirs, config, folder)
        return pairs

    return numbers


@pytest.mark.parametrize(("family", "head", "padding"), CASES)
def test_numbers(family, head, padding, tmp_path):
    _, theirs, checkpoint = make(family, head, tmp_path / "theirs")
    numbers = numbers_of(family, head, padding, checkpoint.config, tmp_path / "gradients")
    agree(numbers, checkpoint.model, theirs)


@each
def test_saving_back(family, head, tmp_path):
    theirs_class, theirs, checkpoint = make(family, head, tmp_path / "theirs")
    again = comes_back(checkpoint, theirs_class, tmp_path / "theirs", tmp_path / "ours")
    batch = texts(family, "right")
    with torch.no_grad():
        expected = run_theirs(theirs, family, *batch, "right")
        found = run_theirs(again, family, *batch, "right")
    for mine, other in zip(their_logits(found, head), their_logits(expected, head), strict=True):
        assert torch.equal(mine, other)


@each
def test_a_model_that_was_never_loaded_is_read_by_transformers(family, head, tmp_path):
    shape = FAMILIES[model_type(family)].architecture(f"{family}{head}")
    config = FAMILIES[model_type(family)].read_config(TINY[model_type(family)], shape)
    n_classes = 2 if head == "ForQuestionAnswering" else CLASSES
    model = shape.build(config, n_classes).eval()
    for parameter in model.parameters():
        randomize(parameter)
    save_checkpoint(Checkpoint(model, {"model_type": model_type(family)}), tmp_path)
    theirs, report = getattr(transformers, f"{family}{head}").from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    agree(numbers_of(family, head, "right"), model, theirs.eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_their_shards_come_back(dtype, tmp_path):
    theirs = transformers.BertForMaskedLM(CONFIGS["Bert"]()).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="7KB")
    checkpoint = load_checkpoint(tmp_path / "theirs")
    assert {parameter.dtype for parameter in checkpoint.model.parameters()} == {dtype}
    assert len(checkpoint.origin.layout.files) > 2
    comes_back(checkpoint, transformers.BertForMaskedLM, tmp_path / "theirs", tmp_path / "ours")
    index = "model.safetensors.index.json"
    assert (tmp_path / "ours" / index).read_text() == (tmp_path / "theirs" / index).read_text()
