"""QAMR: questions on single sentences, and pairs of a question and a sentence to classify.

Michael et al. 2018, https://arxiv.org/abs/1711.05885. The published training file is not in the
data folder: "train" and "validation" are nine and one tenth of the articles of the dev file.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import groupby

from qkv.data.labels import PairExample
from qkv.data.parts import hold_out_groups
from qkv.data.questions import Answer, Question
from qkv.data.sets import Folder, NamedSet
from qkv.data.text import find_data, read_tsv
from qkv.data.unanswerable import Passages
from qkv.errors import DataError
from qkv.json_fields import shown

YES, NO = "answers", "does not answer"
# Tokens of the Penn Treebank: their spelling in text, and which sides have no space.
WRITTEN = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "``": '"',
    "''": '"',
    "`": "'",
}
JOINS_LEFT = frozenset(
    ", . ; : ? ! % ) ] } ... '' ' 's 'S 'm 're 've 'll 'd n't -RRB- -RSB- -RCB-".split()  # noqa: SIM905
)
JOINS_RIGHT = frozenset("`` ` $ £ € # ( [ { -LRB- -LSB- -LCB-".split())  # noqa: SIM905 - as above
COLUMNS = (0, 1, 2, 3, 5, 6, 7, 8)  # all but the target word


def read_qamr(path: str | os.PathLike[str], sentences: str | os.PathLike[str]) -> list[Question]:
    """Read QAMR's filtered questions, on detokenized sentences.

    The question writer's answer comes first, then validators' answers that differ. The source of a
    question is its article.

    Args:
        path: path of the questions, such as filtered_dev.tsv.gz.
        sentences: path of wiki-sentences.tsv.

    Raises:
        DataError: a file cannot be read, a sentence is missing, or an answer refers to words
            beyond the end of its sentence.
    """
    contexts = {key: join_tokens(text.split(" ")) for key, text in read_tsv(sentences)}
    questions = []
    for line, row in enumerate(read_tsv(path, columns=COLUMNS), start=1):
        key, question, answers = (
            row[0],
            row[4],
            [row[5], *(answer.split(":")[-1] for answer in row[6:])],
        )
        where = f"{path}, line {line}"
        if key not in contexts:
            raise DataError(
                f"{where}: no sentence {shown(key)} in {sentences} (is it another version?)"
            )
        if not question.strip():
            raise DataError(f"{where}: the question is empty")
        context, spans = contexts[key]
        read = [_read_answer(answer, context, spans, where) for answer in answers]
        questions.append(
            Question(
                id="/".join(row[:4]),
                question=question,
                context=context,
                answers=tuple(dict.fromkeys(read)),
                source=":".join(key.split(":")[:3]),
            )
        )
    return questions


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Join tokens of the Penn Treebank to a text; return it and the span of each token.

    No space follows an opening single quote. A closing one cannot be distinguished from the
    apostrophe of a genitive; neither has a space before it.
    """
    text, spans, glued = "", list[tuple[int, int]](), True
    for token in tokens:
        if not glued and token not in JOINS_LEFT:
            text += " "
        written = WRITTEN.get(token, token.replace("\\/", "/").replace("\\*", "*"))
        spans.append((len(text), len(text) + len(written)))
        text, glued = text + written, token in JOINS_RIGHT
    return text, spans


def _read_answer(answer: str, context: str, spans: Sequence[tuple[int, int]], where: str) -> Answer:
    try:
        words = sorted({int(word) for word in answer.split(" ")})
    except ValueError as error:
        raise DataError(
            f"{where}: the answer {shown(answer)} is not a list of word indices, such as '3 4 5' "
            "(is this the filtered version?)"
        ) from error
    if not 0 <= words[0] <= words[-1] < len(spans):
        raise DataError(
            f"{where}: the answer has the words {answer}, but the sentence has {len(spans)}, "
            "counted from 0 (are these the right sentences?)"
        )
    # Within a run of adjacent words, the difference between word and index is constant.
    runs = [
        [word for _, word in run] for _, run in groupby(enumerate(words), lambda at: at[1] - at[0])
    ]
    texts = [context[spans[run[0]][0] : spans[run[-1]][1]] for run in runs]
    return Answer(" ".join(texts), spans[words[0]][0] if len(runs) == 1 else None)


def answerable_pairs(questions: Sequence[Question]) -> list[PairExample]:
    """Pair questions alternately with their own passage and with a similar other one.

    Similar to QNLI (Wang et al. 2019, GLUE, section 3.3), which pairs SQuAD's questions with
    sentences. The other passage is the one that shares the most words with the question, weighted
    by their rarity: a passage with nothing in common would be too easy to tell.

    Args:
        questions: on at least two different passages.

    Raises:
        DataError: fewer than two passages.
    """
    passages = list(dict.fromkeys(one.context for one in questions))
    if len(passages) < 2:
        raise DataError(
            f"{len(questions)} questions on {len(passages)} passages; expected at least two "
            "passages, as every second question is paired with another passage"
        )
    known = Passages(passages)
    pairs = []
    for i, one in enumerate(questions):
        if i % 2 == 0:
            pairs.append(PairExample(one.question, YES, one.context))
            continue
        similar = known.most_similar(one.question, unlike=one.context)
        pairs.append(PairExample(one.question, NO, similar))
    return pairs


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Question]:
    folder = find_data("qamr", data_dir)
    file = folder / f"filtered_{'test' if split == 'test' else 'dev'}.tsv.gz"
    questions = read_qamr(file, folder / "wiki-sentences.tsv.gz")
    if split == "test":
        return questions
    train, validation = hold_out_groups(questions, [one.source for one in questions], 0.1)
    return validation if split == "validation" else train


def _read_pairs(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[PairExample]:
    return answerable_pairs(_read(split, data_dir, columns))


SETS = (
    NamedSet(
        name="qamr",
        task="answer",
        splits=("train", "validation", "test"),
        read=_read,
        summary="37,678 questions on sentences of Wikipedia (Michael et al. 2018); MIT",
    ),
    NamedSet(
        name="qamr_sentences",
        task="classify",
        splits=("train", "validation", "test"),
        read=_read_pairs,
        summary="37,678 pairs: does the sentence answer the question? From qamr; MIT",
    ),
)
