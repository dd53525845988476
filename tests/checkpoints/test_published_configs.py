"""config.json of published models, as a file has it: which load, and why others do not.

The files in `published/` were written from memory of the published ones; of images' classes only a
few are named. The numbers of parameters are those of the models' authors, where they say any.
"""

import json
from pathlib import Path

import pytest

from qkv.checkpoints.building import build, named_architecture
from qkv.checkpoints.registry import family_of
from qkv.errors import ConfigError

FOLDER = Path(__file__).parent / "published"
MINI = {"d_model": 384, "n_heads": 12, "d_ff": 1536}
BASE = {"d_model": 768, "n_heads": 12, "d_ff": 3072, "n_layers": 12, "n_segments": 2}
LLAMA2 = {"d_model": 4096, "n_layers": 32, "n_kv_heads": 32, "tied_output": False}
QWEN = {"n_kv_heads": 2, "qkv_bias": True, "tied_output": True, "window": None}
# What loads: the number of parameters, and numbers of our config.
LOADS = {
    "BAAI--bge-small-en-v1.5": (33_360_000, MINI),
    "FacebookAI--roberta-base": (124_697_433, {"first_position": 2, "norm_eps": 1e-5}),
    "FacebookAI--xlm-roberta-base": (278_295_186, {"vocab_size": 250_002}),
    "Helsinki-NLP--opus-mt-en-de": (73_944_309, {"feed_forward": "silu", "n_positions": 512}),
    "HuggingFaceTB--SmolLM2-135M-Instruct": (134_515_008, {"n_kv_heads": 3, "rotary_base": 1e5}),
    "Qwen--Qwen2-0.5B": (494_032_768, QWEN),
    "Qwen--Qwen2.5-0.5B": (494_032_768, QWEN),
    "Qwen--Qwen2.5-0.5B-Instruct": (494_032_768, QWEN),
    "TinyLlama--TinyLlama-1.1B-Chat-v1.0": (1_100_048_384, {"n_kv_heads": 4, "n_layers": 22}),
    "Xenova--all-MiniLM-L6-v2": (22_713_216, MINI),
    "almanach--camembert-base": (110_655_493, {"vocab_size": 32_005}),
    "bert-base-chinese": (102_290_312, BASE),
    "cardiffnlp--twitter-roberta-base-sentiment-latest": (124_647_939, {"n_segments": 1}),
    "cross-encoder--ms-marco-MiniLM-L-6-v2": (22_713_601, MINI),
    "deepset--roberta-base-squad2": (124_056_578, {"first_position": 2}),
    "distilbert--distilbert-base-cased-distilled-squad": (65_192_450, {"n_layers": 6}),
    "distilbert--distilbert-base-uncased-finetuned-sst-2-english": (66_955_010, {"n_segments": 0}),
    "distilbert--distilgpt2": (81_912_576, {"n_layers": 6}),
    "dslim--bert-base-NER": (107_726_601, BASE),
    "facebook--bart-large-cnn": (406_290_432, {"n_decoder_layers": 12, "norm_first": False}),
    "facebook--bart-large-mnli": (407_344_131, {"end_token": 2}),
    "facebook--deit-small-distilled-patch16-224": (21_667_972, {"distillation_token": True}),
    "facebook--mbart-large-50-many-to-many-mmt": (610_879_488, {"norm_first": True}),
    "google--flan-t5-small": (76_961_152, {"feed_forward": "geglu_tanh", "tied_output": False}),
    "google--mt5-small": (300_176_768, {"feed_forward": "geglu_tanh", "n_heads": 6}),
    "google--vit-base-patch16-224": (85_800_963, {"norm_eps": 1e-12}),
    "google--vit-base-patch16-224-in21k": (86_389_248, {"pooler": True}),
    "google-bert--bert-base-multilingual-cased": (177_974_523, BASE),
    "google-bert--bert-base-uncased": (109_514_298, BASE),
    "google-bert--bert-large-uncased-whole-word-masking-finetuned-squad": (334_094_338, {}),
    "google-t5--t5-small": (60_506_624, {"feed_forward": "relu", "tied_output": True}),
    "hfl--chinese-roberta-wwm-ext": (102_290_312, BASE),
    "intfloat--e5-small-v2": (33_360_000, {**MINI, "n_layers": 12}),
    "intfloat--multilingual-e5-small": (117_653_760, {**MINI, "vocab_size": 250_037}),
    "lmsys--vicuna-7b-v1.5": (6_738_415_616, LLAMA2),
    "meta-llama--Llama-2-7b-hf": (6_738_415_616, LLAMA2),
    "meta-llama--Llama-3.2-1B-Instruct": (1_235_814_400, {"tied_output": True, "d_head": 64}),
    "microsoft--DialoGPT-small": (124_439_808, {}),
    "mistralai--Mistral-7B-Instruct-v0.3": (7_248_023_552, {"window": None, "rotary_base": 1e6}),
    "mistralai--Mistral-7B-v0.1": (7_241_732_096, {"window": 4096, "rotary_base": 1e4}),
    "nlptown--bert-base-multilingual-uncased-sentiment": (167_360_261, BASE),
    "openai-community--gpt2": (124_439_808, {"n_positions": 1024}),
    "openai-community--gpt2-medium": (354_823_168, {"n_layers": 24}),
    "sentence-transformers--all-MiniLM-L6-v2": (22_713_216, MINI),
    "sentence-transformers--multi-qa-MiniLM-L6-cos-v1": (22_713_216, MINI),
    "sshleifer--distilbart-cnn-12-6": (305_510_400, {"n_decoder_layers": 6}),
    "togethercomputer--LLaMA-2-7B-32K": (6_738_415_616, {"n_positions": 32_768}),
    "unsloth--Llama-3.2-1B-Instruct": (1_235_814_400, {"rotary_base": 5e5}),
}
REFUSED = {
    "google--gemma-2b": "model_type = 'gemma' is not implemented",
    "jinaai--jina-embeddings-v2-small-en": "architecture 'JinaBertForMaskedLM' of bert is not impl",
    "microsoft--Phi-3-mini-4k-instruct": "model_type = 'phi3' is not implemented",
    "unnamed--bert-as-a-decoder": "architecture 'BertLMHeadModel' of bert is not implemented",
    "unsloth--Llama-3.2-1B-Instruct-bnb-4bit": r"quantization_config = \{.*: unknown for llama",
}


def read(name, **changes):
    raw = json.loads((FOLDER / f"{name}.json").read_text()) | changes
    family = family_of(raw["model_type"])
    shape = family.architecture(named_architecture(raw))
    config = family.read_config(raw, shape)
    return config, build(shape, config, raw)


def test_every_file_is_expected_to_load_or_not():
    files = {path.stem for path in FOLDER.glob("*.json")}
    assert files == LOADS.keys() | REFUSED.keys()
    assert len(files) >= 40


@pytest.mark.parametrize("name", LOADS)
def test_loads(name):
    n_parameters, numbers = LOADS[name]
    config, model = read(name)
    assert {key: getattr(config, key) for key in numbers} == numbers
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(ConfigError, match=REFUSED[name]):
        read(name)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Qwen--Qwen2.5-0.5B", {"use_mrope": True}, "use_mrope = True: unknown for qwen2"),
        (
            "HuggingFaceTB--SmolLM2-135M-Instruct",
            {"rope_interleaved": True},
            "rope_interleaved = True: unknown for llama",
        ),
        ("openai-community--gpt2", {"is_decoder": True}, "is_decoder = True: unknown for gpt2"),
        ("google--mt5-small", {"is_decoder": True}, "is_decoder = True is not implemented for mt5"),
        (
            "google-bert--bert-base-uncased",
            {"position_embedding_type": "relative_key"},
            "position_embedding_type = 'relative_key' is not implemented for bert",
        ),
    ],
)
def test_what_changes_numbers_is_refused(name, changes, message):
    """The harmless values of these files do not make every value harmless."""
    with pytest.raises(ConfigError, match=message):
        read(name, **changes)
