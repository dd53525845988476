"""Every published architecture against transformers: hidden states, logits and gradients.

Small models with random weights are made by transformers, saved by it, and loaded by qkv; both
read the same texts or images, with and without padding, in float32.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers
from _common import DOCS, RESULTS, arguments, load, machine, provenance, publish, save
from rich.progress import track
from torch import Tensor, nn

from qkv.blocks.stack import Stack
from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint
from qkv.checkpoints.family import Family
from qkv.checkpoints.overview import base_model, list_fields, list_refused
from qkv.checkpoints.registry import FAMILIES
from qkv.checkpoints.tables.rotary import SCALINGS
from qkv.models.heads import ModelWithHead, MultipleChoice
from qkv.models.t5 import T5Encoder
from qkv.tutorial.tables import markdown_table, show_table

sys.path.append(str(Path(__file__).parent.parent))  # where the parity tests have the comparisons
from tests.checkpoints.tiny import TINY
from tests.helpers import right_mask
from tests.parity.encoder_decoder import states_of
from tests.parity.published import gradients, through_a_file
from tests.parity.weights import measure

PATH = RESULTS / "parity.json"
DOCUMENT = DOCS / "families.md"
KINDS = ("hidden states", "logits", "gradients")
PADDINGS = ("none", "right")
SEEDS = (0, 1, 2)
PAD, END, CLASSES, CHOICES = 1, 2, 5, 3
LENGTHS, TARGET_LENGTHS = [13, 5, 8], [5, 7, 2]
# Wider than for the laws of tables: in heads of two numbers gradients are little but rounding.
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd"), 66),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_heads", "n_head"), 3),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 3),
    **dict.fromkeys(("d_kv", "head_dim"), 22),
    "num_key_value_heads": 1,
}
# What code refuses, where no list of values says so: by the field that it stands in.
NOTES = {
    "rope_scaling": f"`rope_scaling`, of type: default, {', '.join(SCALINGS)}",
    "max_window_layers": "`layer_types`: layers without a window, then those with",
}

Inputs = dict[str, Tensor]
Masks = list[Tensor | None]  # one a stack
Pairs = list[tuple[Tensor, Tensor]]  # ours and theirs


def published(families: dict[str, Family]) -> list[tuple[Family, str]]:
    """Every architecture that transformers has as well."""
    return [
        (family, shape.name)
        for family in families.values()
        for shape in family.architectures
        if hasattr(transformers, shape.name)
    ]


def make(family: Family, architecture: str, folder: Path) -> tuple[Any, Checkpoint]:
    """Make a model of theirs with random weights, and load it from its file."""
    n_labels = 2 if architecture.endswith("QuestionAnswering") else CLASSES
    tokens = {"pad_token_id": PAD, "bos_token_id": None, "eos_token_id": None}
    tokens["decoder_start_token_id"] = PAD
    if reads_twice(family, architecture):
        # Not the id of padding, of whose vector their embedding computes no gradient.
        tokens |= {"eos_token_id": END, "decoder_start_token_id": END}
    said = {**TINY[family.model_type], **tokens, "num_labels": n_labels}
    said |= {name: size for name, size in SIZES.items() if name in said}
    config = transformers.AutoConfig.for_model(family.model_type, **said)
    theirs = getattr(transformers, architecture)(config)
    scaled = getattr(config, "scale_decoder_outputs", family.model_type != "mt5")
    if not scaled and hasattr(theirs, "lm_head"):
        # T5 1.1 and mT5: transformers ties the output layer when it makes a model, and not when
        # it loads one.
        theirs.lm_head.weight = nn.Parameter(torch.empty_like(theirs.lm_head.weight))
    through_a_file(theirs, folder)
    for name, parameter in theirs.named_parameters():
        if name.endswith(".q.weight"):  # of T5, where nothing divides the scores
            parameter.data.mul_(config.d_kv**-0.5)
    theirs.save_pretrained(folder)
    return theirs, load_checkpoint(folder)


def reads_twice(family: Family, architecture: str) -> bool:
    """Whether both stacks of an encoder-decoder read the one text that a head is for."""
    model = family.architecture(architecture).model
    return issubclass(model, ModelWithHead) and hasattr(family.config, "n_decoder_layers")


def draw(vocab_size: int, lengths: list[int], padding: str) -> tuple[Tensor, Tensor]:
    """Draw texts and their mask; no real token has the id of padding."""
    mask = right_mask([max(lengths)] * len(lengths) if padding == "none" else lengths, max(lengths))
    ids = torch.randint(END + 1, vocab_size, mask.shape)
    ids[torch.arange(len(mask)), mask.sum(1) - 1] = END
    return torch.where(mask, ids, PAD), mask


def draw_inputs(
    config: Any, padding: str, model: nn.Module
) -> tuple[list[Tensor], Inputs, Inputs, Masks]:
    """What ours reads, by place and by name, what theirs reads, and which tokens are real."""
    if hasattr(config, "num_channels"):
        size = config.image_size
        size = size if isinstance(size, list | tuple) else [size, size]
        images = torch.randn(3, config.num_channels, *size)
        return [images], {}, {"pixel_values": images}, [None]
    ids, mask = draw(config.vocab_size, LENGTHS, padding)
    texts, masks, theirs = [ids], [mask], {"input_ids": ids, "attention_mask": mask.long()}
    ours = {"token_mask": mask}
    if config.is_encoder_decoder and isinstance(model, ModelWithHead):
        masks = [mask, mask]
    elif config.is_encoder_decoder and not isinstance(model, T5Encoder):
        vocab_size = getattr(config, "decoder_vocab_size", None) or config.vocab_size
        target, target_mask = draw(vocab_size, TARGET_LENGTHS, padding)
        texts, masks = [ids, target], [mask, target_mask]
        ours = {"source_mask": mask, "target_mask": target_mask}
        theirs |= {"decoder_input_ids": target, "decoder_attention_mask": target_mask.long()}
    elif getattr(config, "type_vocab_size", 1) > 1:
        ours["segments"] = theirs["token_type_ids"] = torch.randint(0, 2, ids.shape)
    if padding == "none":
        ours, theirs = ({k: v for k, v in x.items() if "mask" not in k} for x in (ours, theirs))
    return texts, ours, theirs, masks


def run(model: nn.Module, theirs: Any, padding: str) -> tuple[Pairs, Pairs]:
    """Let both read the same: hidden states, and what the models return, of real tokens."""
    inputs, options, given, masks = draw_inputs(theirs.config, padding, model)
    if isinstance(model, MultipleChoice):  # each text beside its neighbors
        pick = (torch.arange(3)[:, None] + torch.arange(CHOICES)) % 3
        inputs = [one[pick] for one in inputs]
        options, given = ({k: x[pick] for k, x in each.items()} for each in (options, given))
        masks = [None if mask is None else mask[pick].flatten(0, 1) for mask in masks]
    stacks = [module for module in model.modules() if isinstance(module, Stack)]
    with ExitStack() as hooks:
        states = [hooks.enter_context(states_of(stack)) for stack in stacks]
        found = model(*inputs, **options)
    output = theirs(**given, output_hidden_states=True)
    names = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")
    references = [list(output[name]) for name in names if name in output]
    hidden: Pairs = []
    for stack, ours, expected, mask in zip(stacks, states, references, masks, strict=True):
        if "pixel_values" in given:
            expected[-1] = stack.norm(expected[-1])  # ViT's last state is that before it
        hidden += [(real(a, mask), real(b, mask)) for a, b in zip(ours, expected, strict=True)]
    answers = [(real(a, masks[-1]), real(b, masks[-1])) for a, b in returned(model, found, output)]
    return hidden, answers


def real(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """Leave padding out, where there are tokens."""
    return tensor if mask is None or tensor.ndim < 3 else tensor[mask]


def returned(model: Any, found: Any, output: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """What both models return, in the same shapes."""
    match output:
        case {"start_logits": start, "end_logits": end}:
            yield found, torch.stack((start, end), -1)
        case {"prediction_logits": tokens, "seq_relationship_logits": pairs}:
            yield from zip(found, (tokens, pairs), strict=True)
        case {"logits": logits}:
            yield found, logits
        case {"last_hidden_state": last}:
            yield found, last
            if output.get("pooler_output") is not None:
                yield model.pool(found), output.pooler_output


def compare(family: Family, architecture: str, padding: str, seed: int) -> dict[str, float]:
    """Measure max|a - b| / max|b| of every tensor, and keep the worst of each kind."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        theirs, checkpoint = make(family, architecture, Path(folder, "theirs"))
        buffers = [b for b in theirs.buffers() if b.is_floating_point()]
        for buffer in buffers:  # such as a bias of the logits, which ours trains
            buffer.requires_grad_()
        hidden, logits = run(checkpoint.model, theirs, padding)
        upstreams = [torch.randn_like(b) for _, b in logits]
        for side in (0, 1):
            parts = zip(logits, upstreams, strict=True)
            sum((pair[side] * upstream).sum() for pair, upstream in parts).backward()
        for buffer in buffers:
            buffer.requires_grad_(False)
            if buffer.grad is not None:
                buffer.copy_(buffer.grad)
        pairs = gradients(checkpoint.model, theirs, checkpoint.config, Path(folder, "gradients"))
    return {
        "hidden states": max(measure(a, b) for a, b in hidden),
        "logits": max(measure(a, b) for a, b in logits),
        "gradients": max(distance(*pair) for pair in pairs.values()),
    }


def distance(ours: Tensor, theirs: Tensor, scale: float | None = None) -> float:
    """Measure max|a - b| / max|b|, or over a scale; 0 for what no loss reads."""
    if not theirs.any() and not ours.any():
        return 0.0
    return measure(ours, theirs) if scale is None else ((ours - theirs).abs().max() / scale).item()


def measure_all(families: dict[str, Family]) -> list[dict[str, Any]]:
    results = []
    for family, architecture in track(published(families), "architectures", transient=True):
        found = [compare(family, architecture, *each) for each in product(PADDINGS, SEEDS)]
        results.append(
            {
                "model_type": family.model_type,
                "architecture": architecture,
                "builds": family.architecture(architecture).model.__name__,
                **{kind: max(one[kind] for one in found) for kind in KINDS},
            }
        )
    return results


def describe_refused(family: Family) -> dict[str, str]:
    """Describe the accepted values of config.json; all others are rejected."""
    several = [
        f"`{row['config.json']}`: {row['may be']}" for row in list_fields(family) if row["may be"]
    ]
    several += [note for field, note in NOTES.items() if field in {f.theirs for f in family.fields}]
    one = [f"`{row['config.json']}`: {row['must be']}" for row in list_refused(family)]
    return {
        "model_type": f"`{family.model_type}`",
        "one of": "; ".join(several),
        "only": "; ".join(one).replace("'", ""),
    }


def written(distance: float) -> str:
    return f"{distance:.0e}" if distance else "0"


def report(result: dict) -> None:
    rows = result["results"]
    each = [
        {
            **{name: f"`{row[name]}`" for name in ("architecture", "builds")},
            **{kind: written(row[kind]) for kind in KINDS},
        }
        for row in rows
    ]
    show_table(f"max|a - b| / max|b|, the worst of {len(SEEDS)} draws", each)
    families = [FAMILIES[name] for name in dict.fromkeys(row["model_type"] for row in rows)]
    whole = [
        {
            "model_type": f"`{family.model_type}`",
            "model": f"`{base_model(family)}`",
            "architectures": ", ".join(f"`{one.name}`" for one in family.architectures),
            **{
                kind: written(max(r[kind] for r in rows if r["model_type"] == family.model_type))
                for kind in KINDS
            },
        }
        for family in families
    ]
    publish("families", markdown_table(whole), DOCUMENT)
    publish("refused", markdown_table([describe_refused(one) for one in families]), DOCUMENT)
    publish("parity", f"{markdown_table(each)}\n\n{provenance(PATH, result)}", DOCUMENT)


def main() -> None:
    options = arguments(__doc__).parse_args()
    if not options.publish_only:
        torch.set_num_threads(options.threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        save(PATH, {"results": measure_all(FAMILIES), "machine": machine("transformers")})
    report(load(PATH))


if __name__ == "__main__":
    main()
