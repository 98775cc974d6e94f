"""Two processes train as one does with twice the batch, and go on where they were stopped."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_training_loop import CONFIG, Line, log_of, state_of
from training.loop import train

ROOT = Path(__file__).parent.parent


def run(folder: Path, *, die_at: int = -1) -> list[int]:
    """Run two processes that are connected by gloo; returns how they ended. The second may die."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.loop_child", str(folder)],
            cwd=ROOT,
            env={
                **os.environ,
                **shared,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "DIE_AT": str(die_at * rank or -1),
            },
            stderr=subprocess.DEVNULL if die_at > 0 else None,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    return [child.wait(600) for child in children]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    assert run(folder) == [0, 0]
    return folder


def test_two_processes_are_one_with_twice_the_batch(together: Path, tmp_path: Path) -> None:
    alone = replace(CONFIG, log_every=1, accumulate=2)
    train(Line(), alone, tmp_path)
    for ours, theirs in zip(state_of(together)["parameters"], state_of(tmp_path)["parameters"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(
        state_of(together)["average"]["shadow_params"], state_of(tmp_path)["average"]["shadow_params"], strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    own, other = log_of(together), log_of(tmp_path)
    assert [line["samples"] for line in own] == [line["samples"] for line in other]
    losses = [[line["loss"] for line in log if "loss" in line] for log in (own, other)]
    assert len(losses[0]) == CONFIG.steps
    np.testing.assert_allclose(losses[0], losses[1], atol=2e-5)

    # Other weights than one process alone with half the data would have.
    train(Line(), replace(CONFIG, log_every=1), tmp_path / "half")
    half = state_of(tmp_path / "half")["parameters"]
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(half, state_of(together)["parameters"], strict=True))


def test_processes_that_were_killed_go_on_with_the_same_curve(together: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, die_at=7)
    assert ended[1] == 9
    assert ended[0] != 0  # nobody goes on alone
    assert state_of(tmp_path)["step"] == 4
    assert run(tmp_path) == [0, 0]
    for ours, theirs in zip(state_of(tmp_path)["parameters"], state_of(together)["parameters"], strict=True):
        assert torch.equal(ours, theirs)
    curves = [
        {line["step"]: line["loss"] for line in log_of(folder) if "loss" in line} for folder in (tmp_path, together)
    ]
    assert curves[0] == curves[1]
