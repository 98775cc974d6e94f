"""Constraints in words that no pattern knows: a clause's sentence vector says what it forbids, if anything.

For the kinds that name no sound ("only overlays please", "the left for the narrator"); `training.forbidding` fits the
weights. Only clauses with a word that forbids are asked about, so that a scene is not taken for a constraint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open

from smartdj_agent.constraints import ConstraintKind

WEIGHTS = Path(__file__).resolve().parent / "data" / "forbidding.safetensors"
KINDS = (
    ConstraintKind.ONLY_ADD,
    ConstraintKind.NO_ADD,
    ConstraintKind.NO_ADD_SIDE,
    ConstraintKind.CLEAR_SIDE,
)
"""Kinds that name no sound; the weights' first row is for clauses that forbid nothing."""
SIDED = frozenset({ConstraintKind.NO_ADD_SIDE, ConstraintKind.CLEAR_SIDE})
SIDE = re.compile(r"\b(?:left|right)\b")
CUE = re.compile(
    r"\b(?:no|not|don't|dont|never|without|only|just|keep|keeps|kept|leave|left|right|stays?|nothing|none|untouched|intact"
    r"|preserved?|alone|remains?|unchanged|existing|original|purely|strictly|solely|hands|respect|survive|everything"
    r"|whatever|on top|overlays?|layers?|additive|additions?|forbidden|off|away)\b"
)
"""One of these stands in nearly every clause that forbids something."""


def plain(clause: str) -> str:
    """A clause as it is compared: what is said of the right holds of the left."""
    return re.sub(r"\bright\b", "left", clause.strip(" -–—\"'").lower())


@dataclass(frozen=True)
class Forbidding:
    """A linear classifier over sentence vectors.

    Attributes
    ----------
    weight
        Shape (1 + kinds, width).
    bias
        Shape (1 + kinds,).
    threshold
        Least probability of a kind.
    """

    weight: np.ndarray
    bias: np.ndarray
    threshold: float

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> Forbidding:
        """Read the shipped weights."""
        with safe_open(path, "np") as file:
            return cls(file.get_tensor("weight"), file.get_tensor("bias"), float(file.metadata()["threshold"]))

    def likeliest(self, clause: str, vector: np.ndarray) -> tuple[ConstraintKind, float]:
        """The likeliest kind of a clause with its sentence vector (width,), and how likely it is.

        Where a side is named, only kinds that speak of one come into question, and only there.
        """
        scores = self.weight @ vector + self.bias
        sided = SIDE.search(clause) is not None
        places = [place for place, kind in enumerate(KINDS, 1) if (kind in SIDED) is sided]
        best = max(places, key=lambda place: float(scores[place]))
        top = scores[[0, *places]].max()
        share = np.exp(scores[best] - top) / np.exp(scores[[0, *places]] - top).sum()
        return KINDS[best - 1], float(share)

    def guess(self, clause: str, vectors: Callable[[Sequence[str]], np.ndarray]) -> ConstraintKind | None:
        """What a clause forbids, or None; `vectors` are sentence vectors (n, width) of texts."""
        if not CUE.search(clause):
            return None
        kind, share = self.likeliest(clause, vectors([plain(clause)])[0])
        return kind if share >= self.threshold else None
