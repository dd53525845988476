"""Speculative decoding: the model verifies several cheaply drafted tokens in one step.

Leviathan et al. 2023, "Fast inference from Transformers via speculative decoding"; Chen et al.
2023, "Accelerating large language model decoding with speculative sampling". Answers have the
distribution of `sample` for any draft; a bad draft only costs time. At temperature 0 they equal
those of `greedy`.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.errors import ConfigError
from qkv.generation.answer import Answer, Token
from qkv.generation.drafts import Chooser, Draft, Drafted, Drafter
from qkv.generation.processors import Processor
from qkv.generation.state import Decodable, State
from qkv.generation.stepping import Start, Stop, check_max_length, read, read_start, read_stop


def speculative(
    model: Decodable,
    source: Int[Tensor, "batch source"],
    *,
    draft: Draft,
    n_drafted: int = 4,
    token_mask: Bool[Tensor, "batch source"] | None = None,
    start: Start,
    stop: Stop,
    max_length: int,
    seeds: Sequence[int],
    processors: Sequence[Processor] = (),
) -> list[Answer]:
    """Draw answers with the distribution of `sample` (random numbers are used in another order).

    Rows are decoded one by one: a state can be rewound only for all its rows to the same length.

    Args:
        model: model in evaluation mode.
        source: source ids, one row per answer.
        draft: `ModelDraft` or `PromptLookup`.
        n_drafted: maximum number of tokens drafted at a time.
        token_mask: True = a real token of the source; None means all.
        start: initial ids of the decoder; see `Stepper`.
        stop: id or ids that end an answer.
        max_length: maximum number of tokens of an answer, including `stop`.
        seeds: one seed per row.
        processors: as for `sample`; also applied by a `ModelDraft`.

    Raises:
        ConfigError: `max_length` or `n_drafted` is below 1, there is not one seed per row, or the
            draft has another vocabulary.
        LengthError: a row of `start` is empty.
        VocabularyError: the processors leave no token.
    """
    if len(seeds) != len(source):
        raise ConfigError(f"{len(seeds)} seeds for {len(source)} rows, expected one per row")
    begun, answers = read_start(start, source), []
    for row, seed in enumerate(seeds):
        tokens = speculate(
            model,
            source[row : row + 1],
            draft=draft,
            n_drafted=n_drafted,
            token_mask=None if token_mask is None else token_mask[row : row + 1],
            start=[begun[row, begun[row] >= 0].tolist()],
            stop=stop,
            max_length=max_length,
            seed=seed,
            processors=processors,
        )
        answers.append(Answer.of(tokens, read_stop(stop, source).tolist()))
    return answers


def speculate(
    model: Decodable,
    source: Int[Tensor, "1 source"],
    *,
    draft: Draft,
    n_drafted: int = 4,
    token_mask: Bool[Tensor, "1 source"] | None = None,
    start: Start,
    stop: Stop,
    max_length: int,
    seed: int,
    processors: Sequence[Processor] = (),
) -> Iterator[Token]:
    """Yield the tokens of one answer as they are decoded; see `speculative`."""
    check_max_length(max_length)
    if n_drafted < 1:
        raise ConfigError(f"n_drafted is {n_drafted}, expected at least 1")
    chooser = Chooser(processors, read_stop(stop, source).tolist(), seed)
    tokens = read_start(start, source)
    with torch.inference_mode():
        state, drafter = model.start(source, token_mask), draft.start(source, token_mask)
        if tokens.shape[1] > 1:
            read(model, tokens[:, :-1], state)
    return _rounds(model, state, drafter, tokens, n_drafted, max_length, chooser)


def _rounds(
    model: Decodable,
    state: State,
    drafter: Drafter,
    tokens: Int[Tensor, "1 t"],
    n_drafted: int,
    max_length: int,
    chooser: Chooser,
) -> Iterator[Token]:
    room = max_length
    while room:
        with torch.inference_mode():
            # The model's own token follows the drafted ones, so it counts as well.
            drafted = drafter.propose(tokens, min(n_drafted, room - 1), chooser)
            accepted = advance(model, state, tokens, drafted, chooser)
            new = tokens.new_tensor([[token.id for token in accepted]])
            tokens = torch.cat((tokens, new), 1)
            state.rewind(tokens.shape[1] - 1)
        yield from accepted
        room = 0 if accepted[-1].id in chooser.stops else room - len(accepted)


def advance(
    model: Decodable,
    state: State,
    tokens: Int[Tensor, "1 t"],
    drafted: list[Drafted],
    chooser: Chooser,
) -> list[Token]:
    """Verify drafted tokens in one step; return the accepted ones and a token from the model.

    Leviathan et al. 2023, algorithm 1. The first rejected token is replaced, and the drafted tokens
    after it are dropped.
    """
    ahead = tokens.new_tensor([[token for token, _ in drafted]]).long()
    new = torch.cat((tokens[:, state.length :], ahead), 1)
    logits = model.step(new, state)[:, -len(drafted) - 1 :]
    accepted: list[Token] = []
    for i, here in enumerate(logits.unbind(1)):  # (1, V)
        p = chooser.distribution(tokens, here)
        token = chooser.verify(p, *drafted[i]) if i < len(drafted) else chooser.draw(p)
        accepted.append(Token(token, float(here[0].log_softmax(-1)[token])))
        if token in chooser.stops or (i < len(drafted) and token != drafted[i].token):
            break
        tokens = torch.cat((tokens, tokens.new_tensor([[token]])), 1)
    return accepted
