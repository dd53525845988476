"""Our own models without a published counterpart: all names are ours."""

import dataclasses
from typing import Any, get_type_hints

from torch import nn

from qkv.checkpoints.family import OF_TYPE, REQUIRED, Architecture, Family, Field
from qkv.checkpoints.table import row
from qkv.json_fields import COUNT, TEXT, kind_of, list_of
from qkv.models.hybrid import Hybrid, HybridConfig
from qkv.models.pointer_generator import PointerGenerator, PointerGeneratorConfig
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig

FROM_0 = ("first_position", "window")  # integers that may be 0


def own(model_type: str, model: type[nn.Module], config: Any) -> Family:
    """Return the family of a model whose config.json and tensors have our names."""
    annotations = get_type_hints(config)
    return Family(
        model_type=model_type,
        config=config,
        fields=[_field(one, annotations[one.name]) for one in dataclasses.fields(config)],
        architectures=(
            Architecture(
                name=model.__name__,
                model=model,
                build=lambda config, n_classes: model(config),
                rows=lambda model: [row(name, name) for name, _ in model.named_parameters()],
            ),
        ),
    )


def _field(one: "dataclasses.Field[Any]", annotation: Any) -> Field:
    default = REQUIRED if one.default is dataclasses.MISSING else one.default
    if annotation == tuple[str, ...]:
        kind = list_of(TEXT)
        return Field(one.name, one.name, default, decode=tuple, encode=list, kind=kind)
    kinds = OF_TYPE | ({int: COUNT} if one.name in FROM_0 else {})
    return Field(one.name, one.name, default, kind=kind_of(annotation, kinds))


FAMILIES = (
    own("qkv_transformer", Transformer, TransformerConfig),
    own("qkv_rnn", RNNSeq2Seq, RNNConfig),
    own("qkv_hybrid", Hybrid, HybridConfig),
    own("qkv_pointer_generator", PointerGenerator, PointerGeneratorConfig),
)
