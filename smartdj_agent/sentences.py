"""Linear classifiers over sentence vectors: what a few hundred wordings teach, said in others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from safetensors import safe_open

DATA = Path(__file__).resolve().parent / "data"
"""Where fitted weights lie."""


@dataclass(frozen=True)
class SentenceClassifier:
    """A logistic regression whose first class is "none of them".

    Attributes
    ----------
    weight
        Shape (1 + kinds, width).
    bias
        Shape (1 + kinds,).
    thresholds
        Shape (kinds,): the least probability of each kind.
    """

    weight: np.ndarray
    bias: np.ndarray
    thresholds: np.ndarray

    file: ClassVar[Path]
    """The shipped weights."""

    @classmethod
    def load(cls) -> Self:
        """Read the shipped weights."""
        with safe_open(cls.file, "np") as file:
            return cls(*(file.get_tensor(name) for name in ("weight", "bias", "thresholds")))

    def best(self, vector: np.ndarray, places: Sequence[int]) -> tuple[int, float]:
        """The likeliest of some kinds, by places counted from 1, and its probability among them and none.

        Parameters
        ----------
        vector
            The text's sentence vector, shape (width,).
        places
            Which kinds come into question.
        """
        scores = self.weight @ vector + self.bias
        best = max(places, key=lambda place: float(scores[place]))
        raised = np.exp(scores[[0, *places]] - scores[[0, *places]].max())
        return best, float(raised[1 + list(places).index(best)] / raised.sum())
