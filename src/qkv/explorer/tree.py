"""The tree that beam search has seen: kept and dropped hypotheses, by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor

from qkv.generation.answer import Answer
from qkv.generation.beam import Candidates
from qkv.generation.ranking import Beam

Path = tuple[int, ...]
LOWEST = -1e30  # lower totals are those of hypotheses that the search has ruled out


@dataclass
class BeamTree:
    """Collects the hypotheses of a search for one source, as its observer.

    Args:
        size: number of hypotheses that the search keeps.
        begun: number of tokens from which the decoder starts.
    """

    size: int
    begun: int = 1
    nodes: dict[Path, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, tokens: Int[Tensor, "rows t"], candidates: Candidates) -> None:
        """Add the extensions of one step; a hypothesis that is extended was kept."""
        paths = [tuple(row[self.begun :].tolist()) for row in tokens]
        for path in paths:
            if path in self.nodes:
                self.nodes[path]["kept"] = True
        columns = (candidates.rows, candidates.tokens, candidates.totals, candidates.logprobs)
        extensions = zip(*(one[0].tolist() for one in columns), strict=True)
        finished = candidates.finished[0].tolist()
        for rank, (row, token, total, logprob) in enumerate(extensions):
            path = (*paths[row], token)
            if total > LOWEST and path not in self.nodes:
                self.nodes[path] = {
                    "token": token,
                    "step": len(path),
                    "logprob": logprob,
                    "total": total,
                    "kept": finished[rank] and rank < self.size,  # then it is an answer
                    "ended": finished[rank],
                }

    def describe(
        self, answers: Sequence[Answer], beam: Beam, label: Callable[[int], str]
    ) -> dict[str, Any]:
        """Return the tree as JSON values, each node after its parent.

        Args:
            answers: the answers of the search, the best first.
            beam: its settings, for the scores.
            label: text of a token.
        """
        order = sorted(self.nodes, key=lambda path: (len(path), -self.nodes[path]["total"]))
        ids = {path: i for i, path in enumerate(order)}
        nodes = []
        for path, i in ids.items():
            node = dict(self.nodes[path])
            text = label(node.pop("token"))
            score = beam.normalized(node["total"], len(path))
            parent = ids.get(path[:-1], -1)
            nodes.append({"id": i, "parent": parent, "text": text, **node, "score": score})
        best = answers[0].tokens
        paths = [tuple(best[:n]) for n in range(1, len(best) + 1)]
        return {
            "size": beam.size,
            "length_penalty": beam.length_penalty,
            "length_rule": beam.length_rule,
            "best": [ids[path] for path in paths],
            "nodes": nodes,
        }
