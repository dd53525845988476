"""The rivals of language_model.py: a small GPT, each in its own training loop."""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from _nanogpt import BareLoop, nanogpt_from
from torch import Tensor, nn

from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkv.data.pretraining import TokenBatch
from qkv.models.gpt import GPT
from qkv.training.loop import train
from qkv.training.optim import fused_adamw
from qkv.training.pretraining import causal_loss
from qkv.training.progress import Bar
from qkv.training.run import Callback, Run
from qkv.training.settings import Training

LEARNING_RATE, BETAS, EPS, DECAY, CLIP = 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0


class Rival(Protocol):
    """A model and its training loop."""

    losses: Sequence[Any]

    def turn(self, batches: Sequence[Any]) -> float:
        """Train on each batch once; return the seconds."""
        ...


def optimizer(model: nn.Module) -> torch.optim.AdamW:
    """Fused AdamW in nanoGPT's groups: what has two axes decays, embeddings too."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return fused_adamw(groups, learning_rate=LEARNING_RATE, betas=BETAS, eps=EPS)


class Clock(Callback):
    """Seconds from before the first step to after the last."""

    def begin(self, run: Run) -> None:
        self.seconds = -time.perf_counter()

    def end(self, run: Run) -> None:
        self.seconds += time.perf_counter()


class Ours:
    """`train`, with its looks at the loss, its copy of good weights and its callbacks."""

    def __init__(self, start: GPT, *, compiled: bool = False):
        self.model, self.compiled = copy.deepcopy(start), compiled
        self.optimizer = optimizer(self.model)
        self.losses: Sequence[float] = []

    def turn(self, batches: Sequence[TokenBatch]) -> float:
        clock = Clock()
        self.losses = train(
            self.model,
            batches,
            causal_loss,
            Training(
                steps=len(batches), clip=CLIP, compile=self.compiled, schedule="constant", warmup=0
            ),
            optimizer=self.optimizer,
            device="cpu",
            callbacks=[clock, Bar(show=False)],
        ).losses
        return clock.seconds


class TrainerClock(transformers.TrainerCallback):
    """The same seconds."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self.started


class FreeTrainer(transformers.Trainer):
    """Trainer whose batches lie ready in memory, and that says nothing at the end."""

    def get_train_dataloader(self) -> Any:
        return self.train_dataset

    def log(self, *_: Any, **__: Any) -> None:
        pass


class TheirTrainer:
    """`transformers.Trainer` without logging, saving, evaluation or a look at the loss."""

    def __init__(self, model: nn.Module, *, compiled: bool = False):
        self.model, self.optimizer = model, optimizer(model)
        self.folder = tempfile.TemporaryDirectory()
        self.options = transformers.TrainingArguments(
            output_dir=self.folder.name,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_grad_norm=CLIP,
            logging_strategy="no",
            logging_nan_inf_filter=False,
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            torch_compile=compiled,
        )
        self.losses: list[Tensor] = []

    def turn(self, batches: Sequence[TokenBatch]) -> float:
        clock, self.losses = TrainerClock(), []
        trainer = FreeTrainer(
            model=self.model,
            args=self.options,
            train_dataset=[their_batch(batch) for batch in batches],
            optimizers=(self.optimizer, None),
            callbacks=[clock],
        )
        trainer.args.max_steps = len(batches)
        hook = self.model.register_forward_hook(
            lambda _, __, output: self.losses.append(output.loss.detach())
        )
        trainer.train()
        hook.remove()
        return clock.seconds


def their_batch(batch: TokenBatch) -> dict[str, Tensor]:
    targets = batch.targets.view_as(batch.tokens)
    # The labels are only counted: the model reads those that are shifted already.
    return {"input_ids": batch.tokens, "labels": targets, "shift_labels": targets}


def theirs_from(ours: GPT, *, activation: str) -> nn.Module:
    """GPT-2 of transformers with our weights, through a file."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Checkpoint(ours), Path(folder))
        return transformers.GPT2LMHeadModel.from_pretrained(
            folder,
            activation_function=activation,
            use_cache=False,
            attn_implementation="sdpa",
        ).train()


def make_rivals(start: GPT, *, compiled: bool) -> dict[str, Rival]:
    """All in their first state; gelu_new, of GPT-2's own file, is the same GELU in many kernels."""
    fast, published = (
        partial(theirs_from, start, activation=name) for name in ("gelu_pytorch_tanh", "gelu_new")
    )

    def bare(model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> BareLoop:
        return BareLoop(model, loss, optimizer(model), learning_rate=LEARNING_RATE, clip=CLIP)

    def nano_loss(model: nn.Module, batch: TokenBatch) -> Tensor:
        return model(batch.tokens, batch.targets)

    rivals = {
        "qkv": Ours(start),
        "transformers, Trainer, GELU as published": TheirTrainer(published()),
        "transformers, Trainer": TheirTrainer(fast()),
        "transformers, bare loop": bare(fast(), lambda m, batch: m(**their_batch(batch)).loss),
        "nanoGPT": bare(nanogpt_from(start), nano_loss),
    }
    if compiled:
        nano = nanogpt_from(start)
        nano.compile()
        rivals |= {
            "qkv, compiled": Ours(start, compiled=True),
            "transformers, Trainer, compiled": TheirTrainer(fast(), compiled=True),
            "nanoGPT, compiled": bare(nano, nano_loss),
        }
    return rivals
