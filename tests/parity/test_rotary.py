"""Rotary positions that few models have, against transformers: angles, and logits through files."""

import json

import pytest
import torch
import transformers
from tests.parity.causal import LAYERS, PAD, VOCAB, compare_decoding, compare_logits, texts
from tests.parity.published import comes_back, through_a_file
from tests.parity.reference import widened
from tests.parity.weights import measure, randomize
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama import modeling_llama
from transformers.models.nemotron import modeling_nemotron

from qkv.blocks.rotary_scaling import DynamicScaling, LongRopeScaling, YaRNScaling
from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import LengthError
from qkv.models.llama import Llama, LlamaConfig

ORIGINAL, L = 8, 13  # of training, and of the longest text
DYNAMIC = {"rope_type": "dynamic", "factor": 3.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.25, 1.5, 2.0, 2.5],
    "long_factor": [1.0, 3.0, 5.0, 7.0, 11.0],
    "original_max_position_embeddings": ORIGINAL,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
# Their lengths apart, which `config` gives each.
KINDS = {
    "dynamic": DYNAMIC,
    "longrope": LONGROPE,
    "longrope, by its own factor": {**LONGROPE, "factor": 5.0},
    "longrope, of a magnitude": {**LONGROPE, "attention_factor": 1.7},
}
MSCALES = {
    "both": {"mscale": 1.3, "mscale_all_dim": 0.7},
    "the same": {"mscale": 0.707, "mscale_all_dim": 0.707},
    "one alone": {"mscale": 1.3},
    "the other alone": {"mscale_all_dim": 1.3},
    "after the magnitude": {"mscale": 1.3, "mscale_all_dim": 0.7, "attention_factor": 1.2},
    "none": {"mscale": 0.0, "mscale_all_dim": 0.0},
}
by_kind = pytest.mark.parametrize("kind", list(KINDS))


def config(rope, **options):
    longest = ORIGINAL if rope["rope_type"] == "dynamic" else 32
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 24,
        "head_dim": 10,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 29,
        "max_position_embeddings": longest,
    }
    tokens = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None}
    parameters = {"rope_theta": 500.0, **rope}
    return transformers.LlamaConfig(**{**sizes, **tokens, **options}, rope_parameters=parameters)


def make(rope, folder, **options):
    theirs = transformers.LlamaForCausalLM(config(rope, **options))
    return theirs, through_a_file(theirs, folder)


def read(said):
    family = FAMILIES["llama"]
    return family.read_config(json.loads(said.to_json_string()), family.architectures[0])


def frequencies_of(scaling, length, pairs=5, base=500.0):
    plain = base ** (-torch.arange(pairs).double() / pairs)
    found, magnitude = scaling(plain, base, torch.arange(length))
    return found.flatten(), magnitude


@by_kind
@pytest.mark.parametrize("length", [1, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 32, 1009])
def test_angles(kind, length):
    said = config(KINDS[kind])
    with widened():
        init = ROPE_INIT_FUNCTIONS[said.rope_parameters["rope_type"]]
        expected, magnitude = init(said, seq_len=length)
    ours, found = frequencies_of(read(said).rotary_scaling, length)
    assert measure(ours, expected) <= 1e-12
    assert ((ours - expected).abs() / expected).max() <= 1e-12
    assert found == pytest.approx(magnitude, rel=1e-14)


@pytest.mark.parametrize("name", list(MSCALES))
def test_magnitudes_of_yarn(name):
    said = config({**YARN, **MSCALES[name]})
    with widened():
        expected, magnitude = ROPE_INIT_FUNCTIONS["yarn"](said)
    ours, found = frequencies_of(read(said).rotary_scaling, L)
    assert ((ours - expected).abs() / expected).max() <= 1e-12
    assert found == pytest.approx(magnitude, rel=1e-14)


@by_kind
@pytest.mark.parametrize("length", [ORIGINAL, ORIGINAL + 1, L])
def test_logits(kind, length, tmp_path):
    theirs, checkpoint = make(KINDS[kind], tmp_path)
    compare_logits(checkpoint.model, theirs, torch.randint(2, VOCAB, (3, length)))


def test_logits_of_yarn(tmp_path):
    theirs, checkpoint = make({**YARN, **MSCALES["both"]}, tmp_path / "theirs")
    compare_logits(checkpoint.model, theirs, texts("none")[0])
    compare_decoding(checkpoint.model, theirs)
    comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")


@by_kind
def test_each_row_of_a_batch_has_the_angles_of_its_own_length(kind, tmp_path):
    """Theirs gives all rows those of the longest: a text's numbers depend on its neighbors."""
    theirs, checkpoint = make(KINDS[kind], tmp_path)
    model = checkpoint.model.double()
    for padding in ("right", "left"):
        ids, mask = texts(padding)  # of 13, 5 and 8 tokens
        with torch.no_grad():
            batch = model(ids, token_mask=mask)
            rows = [model(row[real][None])[0] for row, real in zip(ids, mask, strict=True)]
        assert measure(batch[mask], torch.cat(rows)) <= 1e-12
    with torch.no_grad():
        short = theirs(ids[1:2, mask[1]]).logits
        beside = theirs(ids, attention_mask=mask.long()).logits[1:2, mask[1]]
    assert measure(short, beside) > 1e-3


@by_kind
def test_decoding_up_to_the_length_of_training(kind, tmp_path):
    theirs, checkpoint = make(KINDS[kind], tmp_path)
    model, ids = checkpoint.model.double(), torch.randint(2, VOCAB, (3, ORIGINAL))
    with torch.no_grad():
        state, steps = model.start(ids[:, :3]), []
        for tokens in ids[:, 3:].split([1, 2, 2], 1):
            steps.append(model.step(tokens, state))
        assert measure(torch.cat(steps, 1), model(ids)[:, 3:]) <= 1e-12
        again = theirs.generate(
            ids[:, :3], attention_mask=torch.ones(3, 3).long(), max_new_tokens=5, do_sample=False
        )
        assert again.shape == (3, ORIGINAL)
        message = (
            rf"{ORIGINAL + 1} tokens, of which the cache holds {ORIGINAL}: beyond {ORIGINAL} this "
            "model rotates all keys by other angles"
        )
        with pytest.raises(LengthError, match=message):
            model.step(ids[:, :1], state)
        # A step that was refused has changed nothing.
        assert state.length == ORIGINAL - 3
        state.rewind(3)
        assert measure(model.step(ids[:, 6:], state), model(ids)[:, 6:]) <= 1e-12


@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_row_that_is_short_goes_on_beside_one_that_is_long(padding, tmp_path):
    """Of prompts of 13, 5 and 8 tokens, the first is long from the start."""
    model = make(LONGROPE, tmp_path)[1].model.double()
    ids, mask = texts(padding)
    with torch.no_grad():
        state = model.start(ids, mask)
        step = torch.randint(2, VOCAB, (3, 1))
        with pytest.raises(LengthError, match="9 tokens, of which the cache holds 8"):
            model.step(step, state)
        state.reorder(torch.tensor([0, 1]))
        logits = model.step(step[:2], state)
        for row in (0, 1):
            alone = torch.cat((ids[row, mask[row]], step[row]))[None]
            assert measure(logits[row], model(alone)[0, -1:]) <= 1e-12


def test_a_long_prompt_goes_on_where_all_long_texts_have_the_same_angles(tmp_path):
    ids = torch.randint(2, VOCAB, (3, L))
    model = make(LONGROPE, tmp_path / "longrope")[1].model.double()
    with torch.no_grad():
        state = model.start(ids[:, : ORIGINAL + 1])
        assert measure(model.step(ids[:, ORIGINAL + 1 :], state), model(ids)[:, -4:]) <= 1e-12
        model = make(DYNAMIC, tmp_path / "dynamic")[1].model.double()
        state = model.start(ids[:, : ORIGINAL + 1])
        with pytest.raises(LengthError, match="10 tokens, of which the cache holds 9: beyond 8"):
            model.step(ids[:, -1:], state)
        state = model.start(ids[:, :0])  # nothing is in the cache
        assert measure(model.step(ids, state), model(ids)) <= 1e-12


@by_kind
def test_saving_back(kind, tmp_path):
    theirs, checkpoint = make(KINDS[kind], tmp_path / "theirs")
    comes_back(checkpoint, type(theirs), tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize(
    "options",
    [
        {"rotary_scaling": DynamicScaling(factor=3.0, original_length=8), "n_positions": 8},
        {
            "rotary_scaling": LongRopeScaling(
                short=(1.0, 2.0), long=(3.0, 4.0), original_length=8, factor=2.0
            )
        },
        {
            "rotary_scaling": YaRNScaling(
                factor=4.0, original_length=8, mscale=1.3, mscale_all_dim=0.7
            )
        },
    ],
)
def test_a_model_of_ours_is_one_of_theirs(options, tmp_path):
    sizes = {"d_model": 24, "n_heads": 6, "n_kv_heads": 2, "d_ff": 29, "n_layers": LAYERS}
    ours = Llama(LlamaConfig(vocab_size=VOCAB, **sizes, **options)).eval()
    for parameter in ours.parameters():
        randomize(parameter)
    save_checkpoint(Checkpoint(ours), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    compare_logits(ours, theirs.eval(), texts("none")[0])
    assert load_checkpoint(tmp_path).model.config == ours.config


@pytest.fixture
def partial(monkeypatch):
    """Llama as it would be if it turned a part of a head: so Nemotron does.

    Their Llama has the frequencies of a part in its config, and cannot apply them.
    """
    rotary = modeling_nemotron.NemotronRotaryEmbedding
    monkeypatch.setattr(
        modeling_llama, "apply_rotary_pos_emb", modeling_nemotron.apply_rotary_pos_emb
    )
    monkeypatch.setattr(
        modeling_llama.LlamaRotaryEmbedding,
        "compute_default_rope_parameters",
        staticmethod(rotary.compute_default_rope_parameters),
    )


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("share", [0.25, 0.4, 0.65, 1.0])
@pytest.mark.parametrize("kind", ["default", "linear", "yarn", "dynamic"])
def test_a_part_of_each_head(kind, share, outside, partial, tmp_path):
    rope = {"default": {"rope_type": "default"}, "linear": {"rope_type": "linear", "factor": 3.0}}
    rope = {**rope, "yarn": YARN, "dynamic": DYNAMIC}[kind]
    share = 0.45 if (kind, share) == ("dynamic", 0.25) else share  # of one pair theirs makes 0 / 0
    theirs, _ = make({**rope, "partial_rotary_factor": share}, tmp_path)
    if outside:  # as before version 5
        said = json.loads((tmp_path / "config.json").read_text())
        del said["rope_parameters"]["partial_rotary_factor"]
        (tmp_path / "config.json").write_text(json.dumps({**said, "partial_rotary_factor": share}))
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.model.stack.blocks[0].self_attention.rotary.width == int(10 * share)
    compare_logits(checkpoint.model, theirs, texts("none")[0])
    comes_back(checkpoint, type(theirs), tmp_path, tmp_path / "ours")
