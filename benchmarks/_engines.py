"""What inference.py measures: kinds of work, and engines that do them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkv.generation.beam import beam_search
from qkv.generation.greedy import greedy
from qkv.generation.ranking import Beam
from qkv.inference.optimize import optimize
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.marian import Marian, MarianConfig
from qkv.tasks.export import export_gguf
from qkv.tasks.pretrained import load, save

Run = Callable[[], list[Any]]
QKV = ("qkv", "qkv float32", "qkv bfloat16", "qkv int8")
CT2 = ("CTranslate2 float32", "CTranslate2 int8")
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 5 / 8}
GGUF = {"float32": "float32", "bfloat16": "bfloat16", "int8": "q8_0", "int4": "q4_1"}
LLAMA = tuple(f"llama.cpp {dtype}" for dtype in GGUF)


@dataclass(frozen=True)
class Work:
    """A model and what it is asked for."""

    name: str
    model: str
    title: str
    short: str
    engines: tuple[str, ...]
    n_rows: int = 1
    n_steps: int = 0  # of decoding
    beam: int = 1
    parameters: int = 0  # that a step reads

    def bytes_of(self, engine: str) -> float:
        """Return the bytes of weights that all steps together read."""
        dtype = engine.split()[-1]
        return self.n_steps * self.parameters * BYTES.get(dtype, 4)

    @cached_property
    def tokens(self) -> torch.Tensor:
        """Random input of 32 tokens per row."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(5, 30_000, (self.n_rows, 32), generator=generator)


PROMPTS = [
    "The history of the printing press begins",
    "To bake bread at home, first",
    "The main difference between a lake and a sea is",
]
WORK = {
    work.name: work
    for work in (
        Work(
            *("gpt2", "gpt2", "GPT-2 124M, 32 + 128 tokens, batch 1", "GPT-2, batch 1"),
            engines=("transformers", *QKV, "qkv int4", *CT2, *LLAMA),
            n_steps=128,
            parameters=123_500_000,
        ),
        Work(
            *("gpt2-8", "gpt2", "GPT-2 124M, 32 + 128 tokens, batch 8", "GPT-2, batch 8"),
            engines=("transformers", *QKV, *CT2),
            n_rows=8,
            n_steps=128,
            parameters=123_500_000,
        ),
        Work(
            *("smollm2", "smollm2", "SmolLM2-135M, 3 prompts, 64 tokens each", "SmolLM2"),
            engines=("transformers", *QKV, "qkv int4", *LLAMA),
            n_rows=3,
            n_steps=3 * 64,
            parameters=134_500_000,
        ),
        Work(
            *("marian", "marian", "Marian's shape, 64 sentences, greedy", "Marian, greedy"),
            engines=("transformers", *QKV, *CT2),
            n_rows=64,
        ),
        Work(
            *("marian-4", "marian", "Marian's shape, 64 sentences, beam 4", "Marian, beam 4"),
            engines=("transformers", *QKV, *CT2),
            n_rows=64,
            beam=4,
        ),
        Work(
            *("minilm", "minilm", "MiniLM, 512 sentences", "MiniLM"),
            engines=("transformers", "sentence-transformers", *QKV, *CT2),
        ),
    )
}
LENGTH = 32  # of a translation


def sentences() -> list[str]:
    """512 sentences of many lengths, from the shipped opinions."""
    path = Path(__file__).parent.parent / "src/qkv/data/sets/opinions/train.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()[1:513]
    return [line.split("\t")[-1] for line in lines]


def prepare(work: str, folder: str) -> None:
    """Write the models that the engines load, unless they are there."""
    name, root = WORK[work].model, Path(folder)
    path = root / name
    if not path.exists() and name != "minilm":
        root.mkdir(parents=True, exist_ok=True)
        _write(name, path)
    for dtype in ("float32", "int8"):
        converted = root / f"{name}-ct2-{dtype}"
        if f"CTranslate2 {dtype}" in WORK[work].engines and not converted.exists():
            _convert(Path(_minilm_path()) if name == "minilm" else path, converted, dtype)
    for dtype, kind in GGUF.items():
        converted = root / f"{name}-{dtype}.gguf"
        if f"llama.cpp {dtype}" in WORK[work].engines and not converted.exists():
            loaded = load(path, dtype=torch.float32)
            export_gguf(replace(loaded, tokenizer=None), converted, kind=kind)


def _write(name: str, path: Path) -> None:
    torch.manual_seed(0)
    if name == "smollm2":
        save(load("smollm2"), path)
        return
    if name == "gpt2":
        model: Any = GPT(GPTConfig())
    else:
        model = Marian(MarianConfig(source_vocab_size=32_001, target_vocab_size=32_001))
        with torch.no_grad():  # CTranslate2 begins with zeros
            model.target_embedding.weight[-1] = 0
    save_checkpoint(Checkpoint(model), path)
    ids = {"pad_token_id": 32_000, "eos_token_id": 1, "decoder_start_token_id": 32_000}
    config = path / "config.json"
    written = json.loads(config.read_text(encoding="utf-8")) | ids | {"bos_token_id": 1}
    config.write_text(json.dumps(written), encoding="utf-8")
    _write_tokenizer(path, model.head.weight.shape[0])


def _write_tokenizer(path: Path, size: int) -> None:
    """Write one token per number, which CTranslate2 asks for."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocab = {str(i): i for i in range(size - 1)} | {"<pad>": size - 1}
    special = {"unk_token": "0", "bos_token": "1", "eos_token": "1", "pad_token": "<pad>"}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)


def _convert(path: Path, converted: Path, dtype: str) -> None:
    """Convert by CTranslate2's converter, in another process than the timed ones."""
    import subprocess
    import sys

    code = (
        "import sys, ctranslate2; ctranslate2.converters.TransformersConverter(sys.argv[1])"
        ".convert(sys.argv[2], quantization=sys.argv[3])"
    )
    command = [sys.executable, "-c", code, str(path), str(converted), dtype]
    subprocess.run(command, check=True, capture_output=True)


def _theirs(work: Work, folder: str, threads: int) -> Run:
    import transformers

    transformers.logging.set_verbosity_error()
    path = Path(folder, work.model)
    if work.model == "minilm":
        return _theirs_minilm(sorted_by_length=True)
    kind = (
        transformers.AutoModelForSeq2SeqLM
        if work.model == "marian"
        else transformers.AutoModelForCausalLM
    )
    model = kind.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
    if work.model == "smollm2":
        inputs = [torch.tensor([load("smollm2").tokenizer.encode(p)]) for p in PROMPTS]
        options: dict[str, Any] = {"max_new_tokens": 64, "min_new_tokens": 64, "do_sample": False}
        config = transformers.GenerationConfig(**options, pad_token_id=2, eos_token_id=2)
        return lambda: [
            model.generate(x, generation_config=config)[0, x.shape[1] :].tolist() for x in inputs
        ]
    new = work.n_steps or LENGTH
    config = transformers.GenerationConfig(
        max_new_tokens=new,
        min_new_tokens=new,
        do_sample=False,
        num_beams=work.beam,
        pad_token_id=32_000,
        eos_token_id=1,
        decoder_start_token_id=32_000 if work.model == "marian" else None,
    )

    def run() -> list[list[int]]:
        mask = torch.ones_like(work.tokens)
        return model.generate(work.tokens, attention_mask=mask, generation_config=config)[
            :, -new:
        ].tolist()

    return run


def _theirs_minilm(*, sorted_by_length: bool) -> Run:
    from transformers import AutoModel, AutoTokenizer

    path = _minilm_path()
    model = AutoModel.from_pretrained(path, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    texts = sentences()
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]) if sorted_by_length else 0)

    def run() -> list[list[float]]:
        vectors: list[Any] = [None] * len(texts)
        with torch.inference_mode():
            for first in range(0, len(texts), 32):
                chosen = order[first : first + 32]
                inputs = tokenizer([texts[i] for i in chosen], padding=True, return_tensors="pt")
                hidden, mask = model(**inputs)[0], inputs["attention_mask"][..., None]
                pooled = (hidden * mask).sum(1) / mask.sum(1)
                unit = torch.nn.functional.normalize(pooled)
                for i, vector in zip(chosen, unit.tolist(), strict=True):
                    vectors[i] = vector
        return vectors

    return run


def _minilm_path() -> str:
    from qkv.tasks.pretrained import locate

    return str(locate("all-MiniLM-L6-v2"))


def _sentence_transformers(work: Work, folder: str, threads: int) -> Run:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(_minilm_path(), device="cpu")
    texts = sentences()
    return lambda: model.encode(texts, batch_size=32, normalize_embeddings=True).tolist()


def _ours(work: Work, folder: str, threads: int, *, dtype: Any = None) -> Run:
    if work.model == "minilm":
        from qkv.tasks.task import task

        embedder: Any = task("embed", dtype=dtype)
        texts = sentences()
        return lambda: embedder(texts).tolist()
    if work.model == "smollm2":
        loaded = load("smollm2", dtype=torch.float32)
        model, encode = loaded.model, loaded.tokenizer.encode
        inputs = [torch.tensor([encode(prompt)]) for prompt in PROMPTS]
    else:
        model = load(Path(folder, work.model), dtype=torch.float32).model
        inputs = [work.tokens]
    if dtype is not None:
        model = optimize(model, dtype)
    if work.model == "marian":
        end = partial(_forbid, (1, 32_000))
        options: dict[str, Any] = {"start": 32_000, "stop": -1, "max_length": LENGTH}
        options["processors"] = [end]
        if work.beam == 1:
            return lambda: greedy(model, work.tokens, **options).tolist()
        beam = Beam(size=work.beam)
        return lambda: [
            answers[0].tokens for answers in beam_search(model, work.tokens, beam=beam, **options)
        ]
    length = 64 if work.model == "smollm2" else work.n_steps
    ends = [partial(_forbid, (2,) if work.model == "smollm2" else (1,))]

    def run() -> list[list[int]]:
        answers = []
        for x in inputs:
            chosen = greedy(
                *(model, x[:, :-1]),
                start=x[:, -1],
                stop=-1,
                max_length=length,
                processors=ends,
            )
            answers.extend(chosen.tolist())
        return answers

    return run


def _forbid(ids: tuple[int, ...], tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Forbid the tokens that would end an answer, as the others do by a least length."""
    logits[:, list(ids)] = float("-inf")
    return logits


def _ctranslate2_minilm(encoder: Any) -> Run:
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer, texts = AutoTokenizer.from_pretrained(_minilm_path()), sentences()
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))

    def run() -> list[list[float]]:
        vectors: list[Any] = [None] * len(texts)
        for first in range(0, len(texts), 32):
            chosen = order[first : first + 32]
            ids = tokenizer([texts[i] for i in chosen])["input_ids"]
            hidden = np.array(encoder.forward_batch(ids).last_hidden_state)
            for i, states, row in zip(chosen, hidden, ids, strict=True):
                mean = states[: len(row)].mean(0)
                vectors[i] = (mean / np.linalg.norm(mean)).tolist()
        return vectors

    return run


def _ctranslate2(work: Work, folder: str, threads: int, *, dtype: str) -> Run:
    import ctranslate2

    path = str(Path(folder, f"{work.model}-ct2-{dtype}"))
    options: dict[str, Any] = {"device": "cpu", "inter_threads": 1, "intra_threads": threads}
    if work.model == "minilm":
        return _ctranslate2_minilm(ctranslate2.Encoder(path, compute_type=dtype, **options))
    texts = [[str(i) for i in row] for row in work.tokens.tolist()]
    if work.model == "marian":
        translator = ctranslate2.Translator(path, compute_type=dtype, **options)
        chosen = {"beam_size": work.beam, "min_decoding_length": LENGTH}
        chosen |= {"max_decoding_length": LENGTH, "max_batch_size": 64}

        def translate() -> list[list[int]]:
            results = translator.translate_batch(texts, **chosen)
            return [[int(token) for token in each.hypotheses[0]] for each in results]

        return translate
    generator = ctranslate2.Generator(path, compute_type=dtype, **options)

    def generate() -> list[list[int]]:
        results = generator.generate_batch(
            texts,
            max_length=work.n_steps,
            min_length=work.n_steps,
            sampling_topk=1,
            include_prompt_in_result=False,
            end_token="1",
        )
        return [[int(token) for token in each.sequences[0]] for each in results]

    return generate


def _llama_cpp(work: Work, folder: str, threads: int, *, dtype: str) -> Run:
    from llama_cpp import Llama

    path = str(Path(folder, f"{work.model}-{dtype}.gguf"))
    rows = work.tokens.tolist()
    if work.model == "smollm2":
        shipped = load("smollm2")
        rows = [shipped.tokenizer.encode(prompt) for prompt in PROMPTS]
    model = Llama(path, n_ctx=256, n_threads=threads, n_threads_batch=threads, verbose=False)
    n = work.n_steps // len(rows)
    best: dict[str, Any] = {"temp": 0.0, "top_k": 1, "repeat_penalty": 1.0, "reset": True}
    return lambda: [list(islice(model.generate(row, **best), n)) for row in rows]


ENGINES: dict[str, Callable[[Work, str, int], Run]] = {
    "transformers": _theirs,
    "sentence-transformers": _sentence_transformers,
    "qkv": _ours,
    **{f"qkv {dtype}": partial(_ours, dtype=dtype) for dtype in BYTES},
    **{f"CTranslate2 {dtype}": partial(_ctranslate2, dtype=dtype) for dtype in ("float32", "int8")},
    **{f"llama.cpp {dtype}": partial(_llama_cpp, dtype=dtype) for dtype in GGUF},
}
