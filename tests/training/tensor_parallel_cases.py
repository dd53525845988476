"""Forward and backward passes of divided models; run by torchrun: `tensor_parallel_cases FOLDER`.

Each rank writes, for each case, its largest difference from the whole model's loss and gradients.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh

from qkv.data.pretraining import collate_causal
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.hybrid import Hybrid, HybridConfig
from qkv.models.llama import Llama, LlamaConfig
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.training import ranks
from qkv.training.loop import connected
from qkv.training.pretraining import causal_loss
from qkv.training.sharding import is_sharded, whole
from qkv.training.tensor_parallel import parallelize

SIZES = {"vocab_size": 29, "d_model": 12, "n_heads": 6, "n_layers": 2}
STILL = dict.fromkeys(("dropout", "attention_dropout", "embedding_dropout", "head_dropout"), 0)


def models():
    """One model of each kind, with as many mechanisms as have a plan."""
    layers = ("attention", "window", "gated", "softcap", "linear")
    hybrid = {**SIZES, "n_layers": 5, "d_ff": 22, "layers": layers, "window": 3}
    yield "gpt", GPT(GPTConfig(**SIZES, **STILL, n_positions=17, d_ff=22))
    scaled = GPTConfig(**SIZES, **STILL, n_positions=17, d_ff=22, divided_by_layer=True)
    yield "scaled", GPT(scaled)
    yield "llama", Llama(LlamaConfig(**SIZES, d_ff=22, n_kv_heads=2))
    yield "hybrid", Hybrid(HybridConfig(**hybrid))
    vocab = {"source_vocab_size": 29, "target_vocab_size": 29, "d_model": 12, "n_heads": 6}
    layers = {"n_encoder_layers": 2, "n_decoder_layers": 2}
    yield "encoder-decoder", Transformer(TransformerConfig(**vocab, **layers, d_ff=22, dropout=0))


def loss_of(model):
    if isinstance(model, Transformer):
        source = torch.arange(14).reshape(2, 7)
        return model(source, source[:, :5] + 9).logsumexp(-1).square().mean()
    texts = [[(3 * i + at * at) % 29 for at in range(11 + i)] for i in range(3)]
    return causal_loss(model, collate_causal(texts, pad=0))


def difference(model):
    """Return how far the divided model's loss and gradients are from the whole model's."""
    own = copy.deepcopy(model)
    parallelize(own, init_device_mesh("cpu", (ranks.n_ranks(),)))
    assert is_sharded(own)
    losses = [loss_of(one) for one in (model, own)]
    for loss in losses:
        loss.backward()
    found = [abs(losses[0].item() - losses[1].item())]
    for (name, one), two in zip(model.named_parameters(), own.parameters(), strict=True):
        assert one.grad.abs().max() > 1e-9 or name.endswith("key.bias"), name
        found.append(float((one.grad - whole(two.grad)).abs().max()))
    return max(found)


if __name__ == "__main__":
    with connected("cpu"):
        torch.manual_seed(0)
        found = {name: difference(model.double()) for name, model in models()}
        (Path(sys.argv[1]) / f"{ranks.rank()}.json").write_text(json.dumps(found))
