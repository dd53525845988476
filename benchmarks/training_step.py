"""A training step of an encoder-decoder: qkv, torch.nn.Transformer, Marian of transformers.

All three have the same shape, the same weights, the same batch, dropout 0.1 on the embeddings
and on each sublayer's output and nowhere else, label smoothing 0.1, fused AdamW. A step is forward,
loss, backward, update. Before timing, the three losses without dropout are compared.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _common import IMAGES, RESULTS, arguments, load, machine, provenance, publish, ratios, save
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from qkv.blocks.positions import sinusoids
from qkv.data.batches import PairBatch, collate_pairs
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.training.losses import pair_loss
from qkv.tutorial.figures import new_figure, save_figure
from qkv.tutorial.measure import interleave, medians
from qkv.tutorial.tables import markdown_table, show_table

D_MODEL, N_HEADS, D_FF, N_LAYERS, VOCAB = 256, 4, 1024, 3, 8000
DROPOUT, SMOOTHING, PAD = 0.1, 0.1, 0
TARGET_TOKENS, ROUNDS, TURN = 2000, 10, 4
PATH = RESULTS / "training_step.json"


def make_batch() -> PairBatch:
    """Make a batch as length sorting leaves it: like lengths together, a little padding."""
    generator = torch.Generator().manual_seed(0)

    def sentence(length: int) -> list[int]:
        return torch.randint(3, VOCAB, (length,), generator=generator).tolist()

    pairs, n_tokens = [], 0
    while n_tokens < TARGET_TOKENS:
        length = int(torch.randint(18, 23, (1,), generator=generator))
        pairs.append(
            (
                sentence(length + int(torch.randint(-2, 3, (1,), generator=generator))),
                sentence(length),
            )
        )
        n_tokens += length + 1
    return collate_pairs(pairs, pad=PAD, start=1, stop=2)


class TorchTransformer(nn.Module):
    """torch.nn.Transformer between the same embeddings, sinusoids and tied output layer."""

    def __init__(self, ours: Transformer):
        super().__init__()
        self.core = nn.Transformer(
            D_MODEL, N_HEADS, N_LAYERS, N_LAYERS, D_FF, DROPOUT, batch_first=True
        )
        # Of 2017, and hence of ours: no norm after a post-norm stack.
        self.core.encoder.norm = self.core.decoder.norm = None
        for layer in [*self.core.encoder.layers, *self.core.decoder.layers]:
            layer.dropout.p = 0.0  # inside the feed-forward network
            layer.self_attn.dropout = 0.0
            if hasattr(layer, "multihead_attn"):
                layer.multihead_attn.dropout = 0.0
        self.source = nn.Embedding(VOCAB, D_MODEL)
        self.target = nn.Embedding(VOCAB, D_MODEL)
        self.register_buffer("table", sinusoids(torch.arange(512), D_MODEL))
        copy_to_torch(ours, self)

    def embed(self, embedding: nn.Embedding, ids: Tensor) -> Tensor:
        x = embedding(ids) * math.sqrt(D_MODEL) + self.table[: ids.shape[1]]
        return F.dropout(x, DROPOUT, self.training)

    def loss(self, batch: PairBatch) -> Tensor:
        padding = ~batch.source_mask
        causal = nn.Transformer.generate_square_subsequent_mask(batch.target.shape[1])
        hidden = self.core(
            self.embed(self.source, batch.source),
            self.embed(self.target, batch.target_input),
            tgt_mask=causal,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        logits = F.linear(hidden[batch.target_mask], self.target.weight)
        return F.cross_entropy(logits, batch.target[batch.target_mask], label_smoothing=SMOOTHING)


def copy_to_torch(ours: Transformer, theirs: TorchTransformer) -> None:
    theirs.source.weight.data.copy_(ours.source_embedding.weight)
    theirs.target.weight.data.copy_(ours.target_embedding.weight)

    def copy_attention(mine: nn.Module, other: nn.MultiheadAttention) -> None:
        parts = (mine.query, mine.key, mine.value)
        other.in_proj_weight.data.copy_(torch.cat([part.weight for part in parts]))
        other.in_proj_bias.data.copy_(torch.cat([part.bias for part in parts]))
        other.out_proj.load_state_dict(mine.output.state_dict())

    for mine, other in zip(
        [*ours.encoder.blocks, *ours.decoder.blocks],
        [*theirs.core.encoder.layers, *theirs.core.decoder.layers],
        strict=True,
    ):
        copy_attention(mine.self_attention, other.self_attn)
        norms = [mine.self_attention_residual.norm, mine.feed_forward_residual.norm]
        if mine.cross_attention is not None:
            copy_attention(mine.cross_attention, other.multihead_attn)
            norms.insert(1, mine.cross_attention_residual.norm)
        for number, norm in enumerate(norms, 1):
            getattr(other, f"norm{number}").load_state_dict(norm.state_dict())
        other.linear1.load_state_dict(mine.feed_forward.up.state_dict())
        other.linear2.load_state_dict(mine.feed_forward.down.state_dict())


def make_marian(ours: Transformer) -> MarianMTModel:
    """Build Marian with our weights; its source and target vocabularies are separate too."""
    config = MarianConfig(
        vocab_size=VOCAB,
        decoder_vocab_size=VOCAB,
        share_encoder_decoder_embeddings=False,
        tie_word_embeddings=True,
        d_model=D_MODEL,
        encoder_layers=N_LAYERS,
        decoder_layers=N_LAYERS,
        encoder_attention_heads=N_HEADS,
        decoder_attention_heads=N_HEADS,
        encoder_ffn_dim=D_FF,
        decoder_ffn_dim=D_FF,
        activation_function="relu",
        dropout=DROPOUT,
        scale_embedding=True,
        max_position_embeddings=512,
        pad_token_id=PAD,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
        attn_implementation="sdpa",
        use_cache=False,
    )
    theirs = MarianMTModel(config)
    core = theirs.model
    core.encoder.embed_tokens.weight.data.copy_(ours.source_embedding.weight)
    core.decoder.embed_tokens.weight.data.copy_(ours.target_embedding.weight)
    theirs.lm_head.weight = core.decoder.embed_tokens.weight
    # Its sinusoids are in halves; the paper's are interleaved.
    for part in (core.encoder, core.decoder):
        part.embed_positions.weight.data.copy_(sinusoids(torch.arange(512), D_MODEL))
        part.embed_positions.weight.requires_grad_(False)
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    for mine, other in zip(
        [*ours.encoder.blocks, *ours.decoder.blocks],
        [*core.encoder.layers, *core.decoder.layers],
        strict=True,
    ):
        copies = [("self_attention", "self_attn"), ("cross_attention", "encoder_attn")]
        for our_name, their_name in copies[: 1 + (mine.cross_attention is not None)]:
            for a, b in names.items():
                linear = getattr(getattr(mine, our_name), a)
                getattr(getattr(other, their_name), b).load_state_dict(linear.state_dict())
            norm = getattr(mine, f"{our_name}_residual").norm
            getattr(other, f"{their_name}_layer_norm").load_state_dict(norm.state_dict())
        other.fc1.load_state_dict(mine.feed_forward.up.state_dict())
        other.fc2.load_state_dict(mine.feed_forward.down.state_dict())
        other.final_layer_norm.load_state_dict(mine.feed_forward_residual.norm.state_dict())
    return theirs


def marian_loss(model: MarianMTModel, batch: PairBatch) -> Tensor:
    logits = model(
        input_ids=batch.source,
        attention_mask=batch.source_mask,
        decoder_input_ids=batch.target_input,
    ).logits
    targets = batch.target.masked_fill(~batch.target_mask, -100)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=SMOOTHING)


def stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure() -> dict:
    torch.manual_seed(0)
    batch = make_batch()
    ours = Transformer(
        TransformerConfig(
            source_vocab_size=VOCAB,
            target_vocab_size=VOCAB,
            d_model=D_MODEL,
            n_heads=N_HEADS,
            d_ff=D_FF,
            n_encoder_layers=N_LAYERS,
            n_decoder_layers=N_LAYERS,
            dropout=DROPOUT,
        )
    )
    torch_model, marian = TorchTransformer(ours), make_marian(ours)

    def our_loss() -> Tensor:
        return pair_loss(ours, batch, smoothing=SMOOTHING) / batch.n_targets

    losses = {
        "qkv": (ours, our_loss),
        "torch.nn.Transformer": (torch_model, lambda: torch_model.loss(batch)),
        "transformers MarianMTModel": (marian, lambda: marian_loss(marian, batch)),
    }
    values = {name: loss_without_dropout(*rival) for name, rival in losses.items()}
    spread = max(values.values()) - min(values.values())
    assert spread < 1e-4, f"the rivals do not compute the same loss: {values}"
    steppers = {name: stepper(*rival) for name, rival in losses.items()}
    seconds = interleave(steppers, rounds=ROUNDS, turn=TURN, warmup=3, progress=True)
    return {
        "setting": {
            "layers": f"{N_LAYERS}+{N_LAYERS}",
            "d_model": D_MODEL,
            "heads": N_HEADS,
            "d_ff": D_FF,
            "vocabulary": VOCAB,
            "target tokens": batch.n_targets,
            "rows": len(batch.target),
            "dropout": DROPOUT,
            "rounds": ROUNDS,
            "steps a turn": TURN,
        },
        "loss without dropout": values,
        "median seconds": medians(seconds),
        "ratio to qkv (median of rounds)": ratios(seconds, "qkv"),
        "machine": machine("transformers"),
    }


def loss_without_dropout(model: nn.Module, loss: Callable[[], Tensor]) -> float:
    model.eval()
    with torch.no_grad():
        value = float(loss())
    model.train()
    return value


def report(result: dict) -> None:
    n_tokens, seconds = result["setting"]["target tokens"], result["median seconds"]
    faster = result["ratio to qkv (median of rounds)"]
    rows = [
        {
            "model": name,
            "median ms per step": f"{second * 1e3:.0f}",
            "target tokens/s": f"{n_tokens / second:,.0f}",
            "qkv is faster by": f"{faster[name]:.2f}x" if name in faster else "",
        }
        for name, second in seconds.items()
    ]
    show_table(f"training step, {n_tokens:,} target tokens", rows)
    draw(seconds, n_tokens)
    picture = "![Milliseconds per training step of the three models](images/training_step.png)"
    publish("training-step", f"{markdown_table(rows)}\n\n{picture}\n\n{provenance(PATH, result)}")


def draw(seconds: dict[str, float], n_tokens: int) -> None:
    figure, axes = new_figure(size=(7, 2.2))
    (place,) = axes.flat
    times = {name: second * 1e3 for name, second in seconds.items()}
    colors = ["tab:orange" if name == "qkv" else "tab:blue" for name in times]
    bars = place.barh(list(times), list(times.values()), color=colors)
    place.bar_label(bars, fmt="%.0f", padding=3)
    place.invert_yaxis()
    place.set_xlabel("milliseconds, median over the rounds")
    place.set_xlim(0, 1.1 * max(times.values()))
    place.set_title(f"A training step, {n_tokens:,} target tokens: shorter is faster", fontsize=10)
    save_figure(figure, IMAGES / "training_step.png")


def main() -> None:
    options = arguments(__doc__).parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        save(PATH, measure())
    report(load(PATH))


if __name__ == "__main__":
    main()
