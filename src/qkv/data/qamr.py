"""QAMR: questions on single sentences, whose answers are given as numbers of words.

Michael et al. 2018, https://arxiv.org/abs/1711.05885.
"""

import os
from collections.abc import Sequence
from itertools import groupby

from qkv.data.questions import Answer, Question
from qkv.data.text import read_tsv
from qkv.errors import DataError
from qkv.json_fields import shown

# Of the Penn Treebank's tokens: what a token stands for, and which sides have no space.
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
    """Read QAMR's filtered questions, with the sentences as one writes them.

    The first answer is that of who asked; the validators' follow where they differ. The source of a
    question is the article.

    Args:
        path: of the questions, such as filtered_dev.tsv.gz.
        sentences: path of wiki-sentences.tsv.

    Raises:
        DataError: a file cannot be read, a sentence is missing, or an answer names words that the
            sentence has not.
    """
    contexts = {key: join_tokens(text.split(" ")) for key, text in read_tsv(sentences)}
    questions = []
    for line, row in enumerate(read_tsv(path, columns=COLUMNS), start=1):
        key, question, answers = (
            row[0],
            row[4],
            [row[5], *(said.split(":")[-1] for said in row[6:])],
        )
        where = f"{path}, line {line}"
        if key not in contexts:
            raise DataError(
                f"{where}: no sentence {shown(key)} in {sentences} (is it another version?)"
            )
        if not question.strip():
            raise DataError(f"{where}: the question is empty")
        context, spans = contexts[key]
        found = [_read_answer(given, context, spans, where) for given in answers]
        questions.append(
            Question(
                id="/".join(row[:4]),
                question=question,
                context=context,
                answers=tuple(dict.fromkeys(found)),
                source=":".join(key.split(":")[:3]),
            )
        )
    return questions


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Tokens of the Penn Treebank as one text, and the characters of each, from and to.

    The single quote that opens is taken for a double one's kin: no space follows it; the one that
    closes cannot be told from the genitive's, and neither has a space before it.
    """
    text, spans, glued = "", list[tuple[int, int]](), True
    for token in tokens:
        if not glued and token not in JOINS_LEFT:
            text += " "
        written = WRITTEN.get(token, token.replace("\\/", "/").replace("\\*", "*"))
        spans.append((len(text), len(text) + len(written)))
        text, glued = text + written, token in JOINS_RIGHT
    return text, spans


def _read_answer(given: str, context: str, spans: Sequence[tuple[int, int]], where: str) -> Answer:
    try:
        words = sorted({int(word) for word in given.split(" ")})
    except ValueError as error:
        raise DataError(
            f"{where}: the answer {shown(given)} is no list of numbers of words, such as '3 4 5' "
            "(is this the filtered version?)"
        ) from error
    if not 0 <= words[0] <= words[-1] < len(spans):
        raise DataError(
            f"{where}: the answer has the words {given}, but the sentence has {len(spans)}, "
            "counted from 0 (are these the right sentences?)"
        )
    # Words of one run rise as fast as their places do.
    runs = [
        [word for _, word in run] for _, run in groupby(enumerate(words), lambda at: at[1] - at[0])
    ]
    texts = [context[spans[run[0]][0] : spans[run[-1]][1]] for run in runs]
    return Answer(" ".join(texts), spans[words[0]][0] if len(runs) == 1 else None)
