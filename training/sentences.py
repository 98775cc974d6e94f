"""What the fits of sentence classifiers share: designs, vectors, a balanced logistic regression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from smartdj_agent.models.text import SentenceEncoder
from training.designer import Design, default_knowledge
from training.planner import make_plan_example

FOLDS = 5
DECAY = 3e-4


def designs(split: str, count: int, seed: int) -> Iterator[Design]:
    """Designs of a split, drawn as the planner's examples are."""
    knowledge = default_knowledge()
    labels = sorted(knowledge.labels)
    for index in range(count):
        yield make_plan_example(np.random.default_rng([seed, index]), knowledge, labels, split).design


def vectors_of(encoder: SentenceEncoder, texts: Sequence[str]) -> np.ndarray:
    """Sentence vectors, shape (texts, width)."""
    parts = [encoder.vectors(list(texts[start : start + 64])).float().numpy() for start in range(0, len(texts), 64)]
    return np.concatenate(parts) if parts else np.zeros((0, 384), np.float32)


def fit(vectors: torch.Tensor, places: torch.Tensor, count: int, none_weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a logistic regression in which every kind weighs the same.

    Parameters
    ----------
    vectors, places
        Unit vectors (n, width) and their classes (n,), 0 for none.
    count
        How many classes.
    none_weight
        How much class 0 weighs, beside each other's 1.

    Returns
    -------
    tuple of ndarray
        Shapes (count, width) and (count,).
    """
    weight = torch.zeros(count, vectors.shape[1], requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)
    each = 1.0 / torch.bincount(places, minlength=count).clamp(min=1)
    each[0] *= none_weight
    share = each[places] / each[places].sum()
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300)
    # Unit vectors of width 384: entries of order 1 make the decay mean what it usually does.
    scale = vectors.shape[1] ** 0.5

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        scores = scale * vectors @ weight.T + bias
        loss = (functional.cross_entropy(scores, places, reduction="none") * share).sum()
        loss = loss + DECAY * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return (scale * weight.detach()).numpy(), bias.detach().numpy()


def folds(count: int, seed: int) -> torch.Tensor:
    """Which of `FOLDS` parts each of `count` examples is left out with."""
    return torch.randint(0, FOLDS, (count,), generator=torch.Generator().manual_seed(seed))
