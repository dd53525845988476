"""Tokenizer classes of published folders: files, special tokens and templates."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qkv.data.tokenizers.builders import (
    FAIRSEQ_FILE,
    Source,
    build_camembert,
    build_gpt2,
    build_llama,
    build_marian,
    build_mbart,
    build_mbart50,
    build_roberta,
    build_t5,
    build_wordpiece,
    build_xlm_roberta,
)
from qkv.data.tokenizers.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Family:
    """A tokenizer class named in tokenizer_config.json.

    Args:
        files: required files if there is no tokenizer.json.
        build: builds the vocabulary, or those of the source and the target.
        roles: its default special tokens.
        single: template of a single sequence; see `Template.parse`.
        pair: template of a pair.
        flagged: whether `add_bos_token` and `add_eos_token` of the folder replace the templates.
        language: default language of its texts, whose token is "language" in the templates.
        target_start: role of the initial token of decoding, or "language".
        only: supported values of some settings; absence is also supported.
    """

    files: tuple[str, ...]
    build: Callable[[Source], Vocabulary | tuple[Vocabulary, Vocabulary]]
    roles: Mapping[str, str]
    single: str
    pair: str
    flagged: bool = False
    language: str | None = None
    target_start: str = "start"
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


_BERT = Family(
    files=("vocab.txt",),
    build=build_wordpiece,
    roles={
        "pad": "[PAD]",
        "start": "[CLS]",
        "stop": "[SEP]",
        "unknown": "[UNK]",
        "mask": "[MASK]",
    },
    single="start A stop",
    pair="start A stop B:1 stop:1",
    only={"do_basic_tokenize": (True,), "never_split": (None, [])},
)
_ROBERTA = Family(
    files=("vocab.json", "merges.txt"),
    build=build_roberta,
    roles={"pad": "<pad>", "start": "<s>", "stop": "</s>", "unknown": "<unk>", "mask": "<mask>"},
    single="start A stop",
    pair="start A stop stop B stop",
)
_XLM_ROBERTA = Family(
    files=(FAIRSEQ_FILE,),
    build=build_xlm_roberta,
    roles=_ROBERTA.roles,
    single=_ROBERTA.single,
    pair=_ROBERTA.pair,
    only={"sp_model_kwargs": (None, {})},
)
_END = "<|endoftext|>"
_T5 = Family(
    files=("spiece.model",),
    build=build_t5,
    roles={"pad": "<pad>", "start": "<pad>", "stop": "</s>", "unknown": "<unk>"},
    single="A stop",
    pair="A stop B stop",
    only={"sp_model_kwargs": (None, {})},
)
FAMILIES = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "GPT2Tokenizer": Family(
        files=("vocab.json", "merges.txt"),
        build=build_gpt2,
        roles={"start": _END, "stop": _END, "unknown": _END},
        single="A",
        pair="A B:1",
        flagged=True,
    ),
    "T5Tokenizer": _T5,
    "MT5Tokenizer": _T5,
    "LlamaTokenizer": Family(
        files=("tokenizer.model",),
        build=build_llama,
        roles={"start": "<s>", "stop": "</s>", "unknown": "<unk>"},
        single="start A",
        pair="start A start:1 B:1",
        flagged=True,
        only={"sp_model_kwargs": (None, {}), "add_prefix_space": (None, True)},
    ),
    "XLMRobertaTokenizer": _XLM_ROBERTA,
    "CamembertTokenizer": replace(_XLM_ROBERTA, build=build_camembert),
    "MBartTokenizer": replace(
        _XLM_ROBERTA,
        build=build_mbart,
        single="A stop language",
        pair="A B stop language",
        language="en_XX",
        target_start="language",
    ),
    "MBart50Tokenizer": replace(
        _XLM_ROBERTA,
        build=build_mbart50,
        single="language A stop",
        pair="language A B stop",
        language="en_XX",
        target_start="stop",
    ),
    "MarianTokenizer": Family(
        files=("source.spm", "target.spm", "vocab.json"),
        build=build_marian,
        roles={"pad": "<pad>", "start": "<pad>", "stop": "</s>", "unknown": "<unk>"},
        single="A stop",
        pair="A B stop",
        only={"sp_model_kwargs": (None, {}), "separate_vocabs": (None, False)},
    ),
}
# For folders whose tokenizer_config.json does not name a class.
OF_MODEL = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "BartTokenizer",
    "gpt2": "GPT2Tokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "mbart": "MBartTokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "marian": "MarianTokenizer",
}
# For folders without config.json: files that identify a class.
OF_FILE = {
    "vocab.txt": "BertTokenizer",
    "merges.txt": "GPT2Tokenizer",
    "source.spm": "MarianTokenizer",
    "spiece.model": "T5Tokenizer",
    "tokenizer.model": "LlamaTokenizer",
}
