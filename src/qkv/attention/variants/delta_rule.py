r"""The mathematics of the gated delta rule: a memory that forgets, and corrects what it stores.

Yang, Kautz and Hatamizadeh 2025, "Gated delta networks: improving Mamba2 with delta rule":

    S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T        o_t = S_t q_t

Decay the memory by alpha, read what it returns for the key, and move that toward the value by
beta. Here S is transposed, (D, V), so that rows of queries are multiplied from the left, and alpha
is passed as its logarithm. Shapes: B batch, H heads, L tokens, D width of a key, V of a value, C
tokens of a chunk.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Keys = Float[Tensor, "B H L D"]
Values = Float[Tensor, "B H L V"]
Gates = Float[Tensor, "B H L"]
Memory = Float[Tensor, "B H D V"]


def unit(x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
    """Divide vectors by their l2 norm; 1e-6 is added to its square, so that 0 stays 0."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def gated_delta_rule(
    queries: Keys,
    keys: Keys,
    values: Values,
    log_alpha: Gates,
    beta: Gates,
    memory: Memory | None = None,
    *,
    chunk: int = 64,
) -> tuple[Values, Memory]:
    """Return outputs and the memory after the last token, the same for every chunk size.

    A chunk of 1 is the recurrent form. A larger one is the WY form: the corrections u of
    a chunk depend on each other through a unit lower triangular system, which is solved at once.
    Computed in float32 at least, also under autocast.

    Args:
        queries: queries, usually of norm 1 (`unit`).
        keys: keys of norm at most 1, for otherwise the memory may grow without bound.
        values: values.
        log_alpha: log of how much of the memory a token keeps, at most 0; -inf forgets everything.
        beta: how much of its value a token writes, from 0 (nothing) to 1 (it replaces the old one).
        memory: memory after earlier tokens; None means zeros.
        chunk: number of tokens that are computed at once.
    """
    given = queries.dtype
    with torch.autocast(queries.device.type, enabled=False):
        exact = torch.promote_types(given, torch.float32)
        inputs = [x.to(exact) for x in (queries, keys, values, log_alpha, beta)]
        if memory is None:
            memory = keys.new_zeros(*keys.shape[:2], keys.shape[3], values.shape[3])
        past: Tensor = memory.to(exact)
        if not queries.shape[2]:
            return values, past.to(exact)
        outputs = []
        for q, k, v, g, b in zip(*(x.split(chunk, 2) for x in inputs), strict=True):
            decay, from_start = decays(g), g.cumsum(-1).exp()[..., None]
            old = from_start * (k @ past)  # what the memory returns for the keys
            system = b[..., None] * decay * (k @ k.transpose(-2, -1))  # (B, H, C, C)
            u = _solve(system, b[..., None] * (v - old))
            outputs.append(from_start * (q @ past) + (decay * (q @ k.transpose(-2, -1))) @ u)
            to_end = decay[..., -1, :, None]
            past = from_start[..., -1:, :] * past + (to_end * k).transpose(-2, -1) @ u
        return torch.cat(outputs, 2).to(given), past


def decays(log_alpha: Float[Tensor, "B H C"]) -> Float[Tensor, "B H C C"]:
    """Return how much of token j is left at token i: alpha_{j+1} ... alpha_i, and 0 for j > i.

    Sums of the logs between j and i, not differences of sums from the start: these would round
    small decays after a large one, and be undefined for alpha = 0.
    """
    steps = log_alpha[..., None].expand(*log_alpha.shape, log_alpha.shape[-1])
    return steps.tril(-1).cumsum(-2).exp().tril()


def delta_weights(
    queries: Keys, keys: Keys, log_alpha: Gates, beta: Gates
) -> Float[Tensor, "B H L L"]:
    """Return the matrix by which outputs depend on values, for a recorder; entries may be negative.

    It is the chunked form with one chunk: (decay * Q K^T) (I + tril(system, -1))^-1 diag(beta).
    """
    decay = decays(log_alpha)
    scores = decay * (queries @ keys.transpose(-2, -1))
    system = beta[..., None] * decay * (keys @ keys.transpose(-2, -1))
    inverse = _solve(system, torch.diag_embed(beta))
    return scores @ inverse


def _solve(system: Tensor, right: Tensor) -> Tensor:
    """Solve (I + tril(system, -1)) u = right; the rest of the system is not read."""
    return torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
