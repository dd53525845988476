"""Small GGUF files, written by the package `gguf`."""

import io
import json

import gguf
import numpy as np
import sentencepiece
import tokenizers
from tests.parity.hard_lines import hard_lines
from tokenizers import models, pre_tokenizers, trainers

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")
ARCHITECTURES = ("llama", "qwen2", "gpt2")
D, D_FF, LAYERS, HEADS, KEY_HEADS, LENGTH = 256, 512, 3, 4, 2, 71
CONTROL, USER_DEFINED = 3, 4
SCALES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}  # bytes of a block that are float16


def blocks(kind, shape, rng):
    """Numbers in a type: quantized by gguf, or random blocks of a type that it only reads."""
    kind_of = gguf.GGMLQuantizationType[kind]
    if kind not in SCALES:
        return gguf.quantize((rng.standard_normal(shape) / 8).astype(np.float32), kind_of)
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[kind_of]
    raw = rng.integers(0, 256, (*shape[:-1], shape[-1] // n_elements, n_bytes), dtype=np.uint8)
    for at in SCALES[kind]:
        scale = rng.uniform(1e-4, 3e-4, raw.shape[:-1]).astype("<f2")
        raw[..., at : at + 2] = scale[..., None].view(np.uint8)
    return raw.reshape(*shape[:-1], -1)


def shapes(architecture, rows):
    """The tensors of a small model: their names and shapes."""
    d_key = D // HEADS * KEY_HEADS
    found = {"token_embd.weight": (rows, D), "output_norm.weight": (D,)}
    for i in range(LAYERS):
        names = {"attn_norm": (D,), "ffn_norm": (D,), "attn_output": (D, D)}
        names |= {"ffn_up": (D_FF, D), "ffn_down": (D, D_FF)}
        if architecture == "gpt2":
            names["attn_qkv"] = (3 * D, D)
        else:
            names |= {"attn_q": (D, D), "attn_k": (d_key, D), "attn_v": (d_key, D)}
            names["ffn_gate"] = (D_FF, D)
        for name, shape in names.items():
            found[f"blk.{i}.{name}.weight"] = shape
            biased = name in ("attn_q", "attn_k", "attn_v") and architecture == "qwen2"
            if architecture == "gpt2" or biased:
                found[f"blk.{i}.{name}.bias"] = shape[:1]
    if architecture == "gpt2":
        found |= {"position_embd.weight": (LENGTH, D), "output_norm.bias": (D,)}
    else:
        found["output.weight"] = (rows, D)
    return found


def add_sizes(writer, architecture):
    writer.add_context_length(LENGTH)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(D_FF)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(KEY_HEADS)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(5_000.0)


def byte_level(pre, size=701):
    """Metadata of a byte-level vocabulary that was trained on hard lines."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = split
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    trained.train_from_iterator(hard_lines() + ["1234 5678 " * 9, "DON'T you'LL"] * 9, trainer)

    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [CONTROL if token in special else 1 for token in tokens],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def pieces(size=1009):
    """Metadata of a SentencePiece vocabulary with bytes, as of Llama 2, and the model itself."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in hard_lines() if line.strip()] * 2),
        model_writer=out,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    model = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    everything = range(len(model))
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in everything
    ]
    metadata = {
        "model": "llama",
        "tokens": [model.id_to_piece(i) for i in everything],
        "scores": [model.get_score(i) for i in everything],
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return metadata, model


def write(
    path,
    architecture="llama",
    kind="F32",
    *,
    tokenizer=None,
    rows=37,
    extra=None,
    factors=None,
    split=0,
    seed=0,
):
    """Write a small model, with `split` tensors in each of several parts; returns its tensors."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    add_sizes(writer, architecture)
    if tokenizer:
        rows = len(tokenizer["tokens"])
        for name, value in tokenizer.items():
            add(writer, f"tokenizer.ggml.{name}", value)
    for name, value in (extra or {}).items():
        add(writer, name, value)
    written = {}
    for name, shape in shapes(architecture, rows).items():
        own = kind if len(shape) > 1 else "F32"
        written[name] = blocks(own, shape, rng), own
        if "norm" in name and name.endswith("weight"):
            written[name] = written[name][0] + 1, own
        writer.add_tensor(name, written[name][0], raw_dtype=gguf.GGMLQuantizationType[own])
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def add(writer, name, value):
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(name, value)
