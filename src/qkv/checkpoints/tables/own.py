"""Models of our own that no published table covers: every name is ours."""

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from qkv.checkpoints.family import OF_TYPE, REQUIRED, Architecture, Family, Field
from qkv.checkpoints.table import row
from qkv.json_fields import COUNT, NULL, Kind, either
from qkv.models.pointer_generator import PointerGenerator, PointerGeneratorConfig
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig

FROM_0 = ("first_position", "window")  # whole numbers that may be 0


def kind_of(name: str, annotation: Any) -> Kind:
    """Return what a field of one of our configs may be in config.json, by its type."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind_of(name, one) for one in get_args(annotation)]
        first, *others = kinds
        for other in others:
            first = first | other
        return first
    if get_origin(annotation) is Literal:
        return either(*get_args(annotation))
    if annotation is type(None):
        return NULL
    return COUNT if name in FROM_0 else OF_TYPE[annotation]


def own(model_type: str, model: type[nn.Module], config: Any) -> Family:
    """Describe a model whose config.json and tensors have the names that we give them."""
    annotations = get_type_hints(config)
    return Family(
        model_type=model_type,
        config=config,
        fields=[
            Field(
                one.name,
                one.name,
                REQUIRED if one.default is dataclasses.MISSING else one.default,
                kind=kind_of(one.name, annotations[one.name]),
            )
            for one in dataclasses.fields(config)
        ],
        architectures=(
            Architecture(
                name=model.__name__,
                model=model,
                build=lambda config, n_classes: model(config),
                rows=lambda model: [row(name, name) for name, _ in model.named_parameters()],
            ),
        ),
    )


FAMILIES = (
    own("qkv_transformer", Transformer, TransformerConfig),
    own("qkv_rnn", RNNSeq2Seq, RNNConfig),
    own("qkv_pointer_generator", PointerGenerator, PointerGeneratorConfig),
)
