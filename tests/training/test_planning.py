import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qkv.data.pretraining import collate_causal
from qkv.errors import ConfigError
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.llama import Llama, LlamaConfig
from qkv.training.finetune import top_layers
from qkv.training.planning import StepMemory, flops_per_token, plan_memory, step_memory
from qkv.training.pretraining import causal_loss
from qkv.training.scaling import scaled_model
from qkv.training.settings import Training

VOCAB, D, F, LAYERS, ROWS, LENGTH = 61, 12, 29, 3, 5, 17
BATCH = collate_causal(
    [[(7 * i + at) % 61 for at in range(LENGTH + 1)] for i in range(ROWS)], pad=0
)


def gpt(**changes):
    sizes = {"vocab_size": VOCAB, "n_positions": 19, "d_model": D, "n_heads": 3, "d_ff": F}
    torch.manual_seed(0)
    return GPT(GPTConfig(**{**sizes, "n_layers": LAYERS, **changes}))


def planned(model, *, n_processes=1, batch=BATCH, **settings):
    training = Training(steps=7, **settings)
    optimizer = training.make_optimizer(model)
    return plan_memory(model, optimizer, batch, causal_loss, training, n_processes=n_processes)


def n_bytes(model):
    return sum(p.nbytes for p in model.parameters())


def test_a_plan_counts_what_a_step_makes():
    model = gpt()
    training = Training(steps=7, average_last=7, save_every=1)
    optimizer = training.make_optimizer(model)
    memory = planned(gpt(), average_last=7, save_every=1)
    causal_loss(model, BATCH).backward()
    optimizer.step()
    state = [t for one in optimizer.state.values() for t in one.values()]
    assert memory.weights == memory.copies == n_bytes(model)
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters())
    assert memory.optimizer == sum(one.nbytes for one in state)
    assert memory.exchange == 0
    parts = memory.weights, memory.copies, memory.gradients, memory.optimizer, memory.activations
    assert memory.total == sum(parts)


def test_the_best_weights_and_an_average_are_copies_of_what_trains():
    model = gpt()
    top_layers(model, 1)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert 0 < trained < n_bytes(model)
    assert planned(model).copies == n_bytes(model) + trained
    assert planned(model, ema=0.9).copies == n_bytes(model) + 2 * trained
    assert planned(model).gradients == trained


def test_shares_of_several_processes():
    model = gpt()
    alone, ddp = planned(model), planned(model, n_processes=2)
    sharded = planned(model, n_processes=2, sharding="fsdp2")
    for part in ("weights", "copies", "gradients", "optimizer"):
        assert getattr(ddp, part) == getattr(alone, part)
        assert getattr(sharded, part) == -(-getattr(alone, part) // 2)
    assert ddp.exchange == alone.gradients
    block = n_bytes(model.stack.blocks[0])
    outside = n_bytes(model) - LAYERS * block
    assert sharded.exchange == outside + 4 * block
    assert planned(model, sharding="fsdp2") == alone


def test_a_step_peaks_where_gradients_and_the_rest_are_most():
    step = StepMemory([(0, 70), (20, 60), (50, 10)])
    assert step.peak() == 80
    assert step.peak(2) == 70
    assert step.peak(before=True) == 120
    assert step.peak(2, before=True) == 95


def test_activations_grow_with_the_rows_and_shrink_when_recomputed():
    model = gpt()
    more = [BATCH.take(slice(0, n)) for n in (1, 3, 5)]
    training = Training(steps=7)
    one, three, five = (
        step_memory(model, batch, causal_loss, training).phases[0] for batch in more
    )
    assert five[1] - three[1] == pytest.approx(three[1] - one[1], rel=0.05)
    again = step_memory(model, BATCH, causal_loss, Training(steps=7, recompute=True)).phases
    assert again[0][1] < 0.6 * five[1]
    assert again[-1][0] == n_bytes(model)


def test_16_bits_keep_less_and_change_nothing_else():
    plain, mixed = planned(gpt(d_model=48)), planned(gpt(d_model=48), precision="bfloat16")
    assert (plain.weights, plain.gradients) == (mixed.weights, mixed.gradients)
    assert mixed.activations != plain.activations


def test_a_model_without_numbers_is_planned_alike_and_a_real_one_stays_as_it_was():
    model = gpt(head_dropout=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.device("meta"):
        empty = gpt(head_dropout=0.0)
    torch.set_rng_state(state)
    assert planned(empty) == planned(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("frozen", [False, True])
def test_operations_are_those_that_torch_counts(frozen):
    dropouts = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    model = gpt(tied_output=False, **dropouts)
    if frozen:
        top_layers(model, LAYERS - 1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(BATCH.tokens).sum().backward()
    # Torch computes the scores that a causal mask hides; a frozen layer has no backward pass.
    hidden = (3 * LAYERS - 2 * frozen) * 2 * D * LENGTH
    counted = ROWS * LENGTH * (flops_per_token(model, LENGTH) + hidden)
    assert counter.get_total_flops() == counted


def test_recomputed_blocks_cost_their_forward_pass_once_more():
    model = gpt()
    head = VOCAB * D
    inside = LAYERS * (4 * D * D + 2 * D * F)
    attention = LAYERS * 2 * D * LENGTH
    assert flops_per_token(model, LENGTH) == 6 * (inside + head) + 3 * attention
    again = flops_per_token(model, LENGTH, recompute=True)
    assert again == 8 * inside + 6 * head + 4 * attention


@pytest.mark.parametrize("n", [40_000, 1_300_000, 300_000_000])
def test_a_model_is_scaled_in_its_proportions(n):
    config = LlamaConfig(vocab_size=101, d_model=32, n_heads=4, n_kv_heads=2, d_ff=88, n_layers=5)
    found = scaled_model(config, Llama, n)
    scaled = found.model.config
    count = sum(p.numel() for p in found.model.parameters())
    assert count == pytest.approx(n, rel=0.5 if n < 10**6 else 0.1)
    assert all(p.is_meta for p in found.model.parameters())
    assert scaled.d_model / scaled.n_heads == 8
    assert scaled.n_heads / scaled.n_kv_heads == 2
    assert scaled.d_ff / scaled.d_model == pytest.approx(88 / 32, rel=0.1)
    assert scaled.n_layers == max(1, round(scaled.d_model / 128))
    assert found.sizes["d_model"] == scaled.d_model


def test_what_cannot_be_scaled():
    config = LlamaConfig(vocab_size=101, d_model=32, n_heads=4, d_ff=88, n_layers=5)
    with pytest.raises(ConfigError, match=r"--parameters 17; expected at least 2,\d{3}, those of"):
        scaled_model(config, Llama, 17)
    with pytest.raises(ConfigError, match="--parameters for a Training; expected a Transformer"):
        scaled_model(Training(steps=7), Llama, 17)


def test_the_memory_of_muon_is_unknown():
    model = gpt()
    training = Training(steps=7, optimizer="muon")
    with pytest.raises(ConfigError, match="the memory of Muon"):
        plan_memory(model, training.make_optimizer(model), BATCH, causal_loss, training)
