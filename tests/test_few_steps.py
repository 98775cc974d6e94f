"""How many denoising steps: the figures of a row and the table."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from training.few_steps import Bench, table


def test_copying_improves_nothing_and_the_truth_all() -> None:
    rng = np.random.default_rng(0)
    bench = Bench.__new__(Bench)
    bench.pairs = [
        SimpleNamespace(source=rng.standard_normal((2, 24_000)).astype(np.float32), final=final)  # type: ignore[misc]
        for final in rng.standard_normal((3, 2, 24_000)).astype(np.float32)
    ]
    copied = bench.row([pair.source for pair in bench.pairs])
    right = bench.row([pair.final for pair in bench.pairs])
    assert copied["si_sdr_improvement_db"] == 0.0
    assert copied["lsd"] > 0.5
    assert right["si_sdr_improvement_db"] > 60
    assert right["lsd"] < 1e-3


def test_table() -> None:
    rows = {
        "copy": {"si_sdr_improvement_db": 0.0, "lsd": 1.234},
        "ddim, 1 steps": {"si_sdr_improvement_db": -5.14, "lsd": 3.0, "seconds": 0.128},
    }
    lines = table(rows, "python -m x").splitlines()
    assert lines[2:4] == ["| copy | 0.0 | 1.23 | – |", "| ddim, 1 steps | −5.1 | 3.00 | 0.13 |"]
    assert lines[-1].endswith("Made by `python -m x`.")
