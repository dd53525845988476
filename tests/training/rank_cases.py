"""Trainings that processes make alike; run by torchrun: `rank_cases JOBS`, in JSON."""

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from tests.training.toy import settings

from qkv.data.pretraining import collate_causal
from qkv.data.streamed import StreamedBatches
from qkv.errors import Interrupted
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.lora import LoRAConfig, add_lora
from qkv.training import ranks
from qkv.training.checkpointing import Checkpoints
from qkv.training.loop import connected, train
from qkv.training.pretraining import causal_loss
from qkv.training.run import Callback, Run
from qkv.training.sharding import is_sharded, whole
from qkv.training.stopping import KeepBest

STEPS = 50
CASES = {
    "plain": {},
    "accumulate": {"accumulate": 3},
    "ema": {"ema": 0.9},
    "lora": {},
    "recompute": {"recompute": True},
}
SHARDED = {f"{name} sharded": {**options, "sharding": "fsdp2"} for name, options in CASES.items()}
CASES |= SHARDED


class End(Callback):
    """End a run early: with an error in all processes, or with a signal to the second one."""

    def __init__(self, step: int, *, by_signal: bool):
        self.step, self.by_signal = step, by_signal

    def after_step(self, run: Run) -> None:
        """Raise after the step, or send the signal in it."""
        if self.by_signal and run.step == self.step and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if not self.by_signal and run.step > self.step:
            raise InterruptedError


def model_of(case: str) -> GPT:
    """A small GPT in float64 without dropout."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 29, "n_positions": 17, "d_model": 12, "n_heads": 3, "d_ff": 23}
    rates = dict.fromkeys(("dropout", "attention_dropout", "embedding_dropout", "head_dropout"), 0)
    model = GPT(GPTConfig(**sizes, **rates, n_layers=2)).double()
    if case.startswith("lora"):
        add_lora(model, LoRAConfig(rank=3, alpha=5))
    return model


# Of two processes, the first reads 50 blocks of 5 tokens, the second 9.
SHARDS = [["ab" * 40, "cde" * 18], ["xyz" * 14], ["fghi" * 27]]


def streamed() -> StreamedBatches:
    """Batches of which each process reads its own: the second one's end long before the first's."""
    return StreamedBatches(
        SHARDS,
        lambda text: [ord(character) - 96 for character in text],
        length=5,
        stop=0,
        batch_size=ranks.n_ranks(),
        rank=ranks.rank(),
        n_ranks=ranks.n_ranks(),
    )


def batches_of(case: str):
    """Batches of 1 to 7 rows: of one row a second process has nothing to compute."""
    if case == "stream":
        return streamed()
    return written(case)


def written(case: str):
    """The batches that all processes divide."""
    for i in range(STEPS * CASES[case].get("accumulate", 1)):
        starts = [(5 * i + 3 * row) % 29 for row in range(1 + i % 7)]
        texts = [[(start + at) % 29 for at in range(3 + start % 11)] for start in starts]
        yield collate_causal(texts, pad=0)


def run(case: str, folder: Path, end: int = STEPS, *, by_signal: bool = False) -> None:
    """Train one case, or begin it; the first rank writes its losses and weights.

    Another case of the same name, with other ranks, goes on where this one ended.
    """
    model = model_of(case)
    options = CASES.get(case, {})
    chosen = settings(steps=STEPS, learning_rate=0.01, clip=0.3, evaluate_every=9, **options)
    saved = Checkpoints(folder / f"{case}.run", every=10, recipe={"case": case})
    callbacks = [KeepBest("score", mode="max"), End(end, by_signal=by_signal), saved]
    history = train(
        model,
        batches_of(case),
        causal_loss,
        chosen,
        evaluate=lambda model: {"score": float(model.hidden(torch.tensor([[1, 2, 3]]))[0, 2, 5])},
        callbacks=callbacks,
        device="cpu",
    )
    assert is_sharded(model) == (case in SHARDED and ranks.n_ranks() > 1)
    tensors = {name: whole(p.detach()) for name, p in model.named_parameters()}
    if ranks.is_first():
        tensors["losses"] = torch.tensor(history.losses, dtype=torch.float64)
        tensors["targets"] = torch.tensor(history.targets)
        save_file({name: t.contiguous().clone() for name, t in tensors.items()}, folder / case)


if __name__ == "__main__":
    with connected("cpu"):
        for case, folder, end in json.loads(sys.argv[1]):
            with suppress(InterruptedError, Interrupted):
                run(case, Path(folder), end, by_signal=folder.endswith("signal"))
