"""Fit the listener's confidence on validation scenes, and say how well it hears.

    python -m training.calibration --folders ../shared/bank ../shared/esc10

Prints SLOPE and OFFSET for `smartdj_agent.listening`, and the share of true sounds among the first K and six findings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from smartdj_agent.listening import outcome, rank
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import load_network
from training.clips import ClipStore
from training.designer import default_knowledge
from training.mixing import NONE, make_scene


def fit(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Logistic regression of right (n,) on the logarithm of scores (n,): slope and offset."""
    x = np.log(scores + 1e-6)

    def loss(parameters: np.ndarray) -> float:
        z = parameters[0] * x + parameters[1]
        return float(np.mean(np.logaddexp(0, z) - right * z) + 1e-3 * parameters[0] ** 2)

    slope, offset = minimize(loss, np.array([1.0, 0.0])).x
    return float(slope), float(offset)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folders", type=Path, nargs="+", default=[Path("../shared/bank"), Path("../shared/esc10")])
    parser.add_argument("--split", default="valid", choices=["valid", "test"])
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--cache", type=Path, default=Path("data/clips"))
    arguments = parser.parse_args()
    store = ClipStore.open(arguments.folders, arguments.split, arguments.cache)
    labels = sorted(default_knowledge().labels)
    listener, encoder = load_network("small", "listener"), SentenceEncoder()
    scores, right, first_k, first_six = [], [], [], []
    for index in range(arguments.count):
        rng = np.random.default_rng([994, index])
        known = tuple(label for label in store.labels if label in labels)
        scene = make_scene(store, rng, count=2 + index % 3, variation=NONE, labels=known)
        truth = {event.label for event in scene.events}
        findings = outcome(rank(listener, encoder, scene.mixture, labels, mono=False))
        names = [labels[finding.index] for finding in findings]
        first_k.append(len(truth & set(names[: len(truth)])) / len(truth))
        first_six.append(len(truth & set(names[:6])) / len(truth))
        scores += [finding.score for finding in findings]
        right += [float(name in truth) for name in names]
    slope, offset = fit(np.array(scores), np.array(right))
    print(f"SLOPE, OFFSET = {slope:.3f}, {offset:.3f}")
    print(f"{arguments.split}, {arguments.count} scenes of 2 to 4 sounds among {len(labels)} names:")
    print(f"true sounds among the first K findings: {np.mean(first_k):.3f}")
    print(f"true sounds among the first six findings: {np.mean(first_six):.3f}")


if __name__ == "__main__":
    main()
