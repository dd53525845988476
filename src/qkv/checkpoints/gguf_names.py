"""The names that llama.cpp gives to fields of config.json and to tensors, by architecture."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

# Token ids in the metadata, by their names in config.json.
TOKENS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
# Further tokens that end a text: the end of a turn and of a message.
ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
EMBEDDING, OUTPUT, FACTORS = "token_embd.weight", "output.weight", "rope_freqs.weight"
POSITIONS = "position_embd.weight"
# Defaults of sampling, by their names in generation_config.json.
SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
HEADS, KEY_HEADS = "attention.head_count", "attention.head_count_kv"
# Metadata of an architecture that the tensors or other fields determine.
IMPLIED = ("vocab_size", "tensor_data_layout")
SCALING = "rope.scaling."


@runtime_checkable
class Shaped(Protocol):
    """The description of a tensor: its shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@runtime_checkable
class Contents(Protocol):
    """The description of a model in GGUF: a file, or the plan of a file to write."""

    @property
    def path(self) -> Path: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def entries(self) -> Mapping[str, Shaped]: ...
    def __getitem__(self, name: str, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class GGUFArchitecture:
    """An architecture of llama.cpp in terms of one of our families.

    Args:
        model_type: the family.
        fields: name in config.json by name in the metadata.
        tensors: name in safetensors by name in GGUF.
        block: like `tensors`, for the tensors of a block.
        prefix: prefix of the names of a block in safetensors, with `{}` for the block.
        interleaved: tensors of queries and keys whose rotary pairs are adjacent.
        transposed: tensors that safetensors store as (in, out).
        width: names in config.json of the width and the number of heads.
    """

    model_type: str
    fields: Mapping[str, str]
    tensors: Mapping[str, str]
    block: Mapping[str, str]
    prefix: str
    interleaved: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    width: tuple[str, str] = ("hidden_size", "num_attention_heads")


_LLAMA = GGUFArchitecture(
    model_type="llama",
    fields={
        "context_length": "max_position_embeddings",
        "embedding_length": "hidden_size",
        "feed_forward_length": "intermediate_size",
        "block_count": "num_hidden_layers",
        HEADS: "num_attention_heads",
        KEY_HEADS: "num_key_value_heads",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
        "rope.freq_base": "rope_theta",
    },
    tensors={
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "output": "lm_head",
    },
    block={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    prefix="model.layers.{}.",
    interleaved={"attn_q": HEADS, "attn_k": KEY_HEADS},
)
ARCHITECTURES = {
    "llama": _LLAMA,
    "qwen2": GGUFArchitecture(
        model_type="qwen2",
        fields=_LLAMA.fields,
        tensors=_LLAMA.tensors,
        block=_LLAMA.block,
        prefix=_LLAMA.prefix,
    ),
    "gpt2": GGUFArchitecture(
        model_type="gpt2",
        fields={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "block_count": "n_layer",
            HEADS: "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        tensors={
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        block={
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        prefix="transformer.h.{}.",
        transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
        width=("n_embd", "n_head"),
    ),
}
