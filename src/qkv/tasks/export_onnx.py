"""Export a model to ONNX: graphs that ONNX Runtime and other engines run.

Files, inputs and outputs have the names of Hugging Face's tools. Batch size and text length are
dynamic; images have the training size. There are no caches: a decoder computes all tokens in each
call.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv.attention.masks import attention_mask, token_positions
from qkv.checkpoints.table import listed
from qkv.errors import ConfigError
from qkv.models.bert import Bert
from qkv.models.encoder_decoder import EncoderDecoder
from qkv.models.gpt import GPT
from qkv.models.heads import POOLS, ModelWithHead, MultipleChoice, PreTraining, QuestionAnswering
from qkv.models.llama import Llama
from qkv.models.modes import evaluating
from qkv.models.t5 import T5Encoder
from qkv.models.vit import ViT, pair
from qkv.tasks.embedding import MODULES, read_pool
from qkv.tasks.export_folder import describe_plain, engine, replace_export
from qkv.tasks.pretrained import Loaded

MODEL, ENCODER, DECODER = "model.onnx", "encoder_model.onnx", "decoder_model.onnx"
MARKS = (MODEL, ENCODER)
OPSET = 20
LARGEST = 1_500_000_000  # bytes of weights inside a graph's file, which has at most 2 GiB
TRACED, CHECKED = (2, 7), (3, 5)  # rows and length of the examples
BOUND = 1e-4  # relative, in float32, whose operations are reordered

TOKENS, MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
MEMORY, MEMORY_MASK, IMAGES = "encoder_hidden_states", "encoder_attention_mask", "pixel_values"
STATES, LOGITS = "last_hidden_state", "logits"
AXES = {
    **dict.fromkeys((TOKENS, MASK, SEGMENTS), ("batch", "length")),
    **dict.fromkeys((MEMORY, MEMORY_MASK), ("batch", "source_length")),
    IMAGES: ("batch",),
}
TEXT_KINDS = (Bert, GPT, Llama, T5Encoder)
Outputs = Mapping[str, Callable[[Any, Tensor | None], Tensor]]  # of the result and the token mask


@dataclass(frozen=True)
class Graph:
    """A graph's file, its function, and the names of its inputs and outputs.

    Args:
        file: name of the file.
        run: function of the inputs; returns the result and the token mask.
        inputs: names of the inputs, in the order of `run`.
        outputs: function of the result for each output.
    """

    file: str
    run: Callable[..., tuple[Any, Tensor | None]]
    inputs: Sequence[str]
    outputs: Outputs


class _Module(nn.Module):
    """A graph as a module, for the exporter."""

    def __init__(self, model: nn.Module, graph: Graph):
        super().__init__()
        self.model, self.graph = model, graph

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in their order."""
        found, mask = self.graph.run(*inputs)
        return tuple(select(found, mask) for select in self.graph.outputs.values())


def export(loaded: Loaded, folder: str | os.PathLike[str], *, kind: str | None = None) -> list[str]:
    """Write a model as ONNX graphs with its config.json and tokenizer, atomically.

    ONNX Runtime runs each graph on inputs of other sizes than the traced ones, and its outputs are
    compared with the model's.

    Args:
        loaded: the model, in float32.
        folder: the folder: new, empty, or an earlier export to replace.
        kind: type of the weights; only "float32", which None means.

    Returns:
        Features of the model that the format does not support: none.

    Raises:
        ConfigError: if a graph cannot express the model, or computes something else.
        DataError: if the folder has other files.
        MissingDependencyError: if ONNX or ONNX Runtime is not installed.
        StorageError: if the folder cannot be written.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        engine(package, "the format onnx")
    config = describe_plain(loaded, "ONNX")
    graphs = graphs_of(loaded)
    dtypes = {parameter.dtype for parameter in loaded.model.parameters()}
    if dtypes != {torch.float32} or kind not in (None, "float32"):
        found = kind or listed(sorted(map(str, dtypes)))
        raise ConfigError(
            f"a model in {found} for ONNX; expected float32: load it with dtype=torch.float32"
        )
    with replace_export(folder, loaded, MARKS, config=config) as fresh, evaluating(loaded.model):
        for graph in graphs:
            _write(loaded.model, graph, fresh / graph.file)
    return []


def graphs_of(loaded: Loaded) -> list[Graph]:
    """Return the graphs of a model: one, or two for an encoder-decoder.

    Raises:
        ConfigError: if the model has none.
    """
    model = loaded.model
    with_head = isinstance(model, ModelWithHead)
    encoder: Any = model.encoder if with_head else model
    if isinstance(model, EncoderDecoder):
        return _encoder_decoder(model)
    if isinstance(encoder, ViT):
        outputs = {LOGITS: _same} if with_head else _states(loaded)
        return [Graph(MODEL, lambda images: (model(images), None), (IMAGES,), outputs)]
    if isinstance(encoder, TEXT_KINDS) and not isinstance(model, MultipleChoice):
        return [_text(loaded, encoder)]
    head = f" on a {type(encoder).__name__}" if with_head else ""
    raise ConfigError(
        f"a {type(model).__name__}{head} cannot be written as ONNX; expected an encoder-decoder "
        "Transformer, or a Bert, GPT, Llama, T5Encoder or ViT, alone or with a head for tokens, "
        "sequences or answers"
    )


def _text(loaded: Loaded, encoder: Any) -> Graph:
    model = loaded.model
    segments = (SEGMENTS,) if getattr(encoder.config, "n_segments", 0) > 1 else ()

    def run(tokens: Tensor, mask: Tensor, *rest: Tensor) -> tuple[Any, Tensor]:
        real = mask.bool()
        options = dict(zip(("segments",), rest, strict=False))
        return model(tokens, token_mask=real, **options), real

    outputs: Outputs = {LOGITS: _same}
    if isinstance(model, QuestionAnswering):
        outputs = {
            "start_logits": lambda found, _: found[..., 0],
            "end_logits": lambda found, _: found[..., 1],
        }
    elif isinstance(model, PreTraining):
        outputs = {
            "prediction_logits": lambda found, _: found[0],
            "seq_relationship_logits": lambda found, _: found[1],
        }
    elif isinstance(getattr(model, "head", None), nn.Identity) or isinstance(
        model, Bert | T5Encoder
    ):
        outputs = _states(loaded)
    return Graph(MODEL, run, (TOKENS, MASK, *segments), outputs)


def _states(loaded: Loaded) -> Outputs:
    """Return the outputs of a model without a head, including the vector of `qkv embed`."""
    model, outputs = loaded.model, {STATES: _same}
    if getattr(model, "pooler", None) is not None:
        outputs["pooler_output"] = lambda found, mask: model.pool(found, mask)
    if MODULES in loaded.files:
        pool = POOLS[read_pool(loaded.files)]
        outputs["sentence_embedding"] = lambda found, mask: F.normalize(pool(found, mask), dim=-1)
    return outputs


def _same(found: Tensor, mask: Tensor | None) -> Tensor:
    return found


def _encoder_decoder(model: EncoderDecoder) -> list[Graph]:
    def encode(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return model.encode(tokens, mask.bool()), mask.bool()

    def decode(tokens: Tensor, memory: Tensor, memory_mask: Tensor) -> tuple[Tensor, None]:
        positions = token_positions(tokens, None)
        hidden = model.decoder(
            model.embed_target(tokens, positions),
            memory,
            memory_mask=attention_mask(memory_mask.bool()),
            positions=positions,
        )
        return model.head(hidden), None

    name = STATES if isinstance(model.head, nn.Identity) else LOGITS
    return [
        Graph(ENCODER, encode, (TOKENS, MASK), {STATES: _same}),
        Graph(DECODER, decode, (TOKENS, MEMORY, MEMORY_MASK), {name: _same}),
    ]


def _write(model: nn.Module, graph: Graph, path: Path) -> None:
    module = _Module(model, graph).eval()
    axes = [dict(enumerate(AXES[one])) for one in graph.inputs]
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                example(model, graph.inputs, *TRACED),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=graph.inputs,
                output_names=list(graph.outputs),
                dynamic_shapes=(tuple(axes),),
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ConfigError(
            f"a {type(model).__name__} cannot be written as ONNX: {cause}; expected a model whose "
            "operations PyTorch's exporter knows"
        ) from error
    assert program is not None
    n_bytes = sum(parameter.nbytes for parameter in model.parameters())
    program.save(path, external_data=n_bytes > LARGEST)
    _check(model, graph, module, path)


def _check(model: nn.Module, graph: Graph, module: nn.Module, path: Path) -> None:
    """Compare the outputs of ONNX Runtime with the model's.

    Raises:
        ConfigError: if they differ.
    """
    inputs = example(model, graph.inputs, *CHECKED)
    session = engine("onnxruntime", "the format onnx").InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    feed = {name: one.numpy() for name, one in zip(graph.inputs, inputs, strict=True)}
    with torch.no_grad():
        expected = module(*inputs)
    for name, ours, theirs in zip(graph.outputs, expected, session.run(None, feed), strict=True):
        error = (ours - torch.from_numpy(theirs)).abs().max() / ours.abs().max()
        if not error <= BOUND:
            raise ConfigError(
                f"{name} of {path.name} differs from this {type(model).__name__}'s by {error:.1e}; "
                f"expected at most {BOUND:.0e}: the graph computes something else"
            )


def example(model: Any, names: Sequence[str], rows: int, length: int) -> tuple[Tensor, ...]:
    """Return example inputs by name, with `rows` rows, the last of which has padding.

    Args:
        model: the model, whose config has the sizes.
        names: names of the inputs.
        rows: size of the batch.
        length: number of tokens; encoder outputs have one more.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    sizes = [value for name, value in vars(config).items() if name.endswith("vocab_size")]
    first = getattr(config, "first_position", 0)
    length = min(length, getattr(config, "n_positions", length + first) - first)

    def one(name: str) -> Tensor:
        width = length + 1 if name in (MEMORY, MEMORY_MASK) else length
        if name == IMAGES:
            shape = (rows, config.n_channels, *pair(config.image_size))
            return torch.randn(shape, generator=generator)
        if name == MEMORY:
            return torch.randn((rows, width, config.d_model), generator=generator)
        if name in (MASK, MEMORY_MASK):
            mask = torch.ones((rows, width), dtype=torch.long)
            mask[-1, (width + 1) // 2 :] = 0
            return mask
        end = config.n_segments if name == SEGMENTS else min(sizes)
        return torch.randint(end, (rows, width), generator=generator)

    return tuple(map(one, names))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages on torchvision, its own axes, and PyTorch."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", r"(?s).*The axis name: .* will not be used", UserWarning
            )
            warnings.filterwarnings("ignore", r".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
