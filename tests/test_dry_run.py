"""The dry run of a training: operations and memory by hand for a tiny network, and the projection's arithmetic."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.dit import EditDiT
from training import dry_run
from training.dry_run import TRAINING_BYTES, Analysis, Machine, analyse, kept_bytes, project
from training.loop import LoopConfig, read_config

MODEL: dict[str, Any] = {
    "width": 16, "depth": 2, "heads": 2, "mlp_ratio": 2.0, "rank": 2, "alpha": 2, "context_width": 8
}  # fmt: skip
LATENT, FRAMES, TOKENS = 6, 10, 3
CONFIG = """
data: {duration_s: 0.5}
model: {width: 16, depth: 2, heads: 2, mlp_ratio: 2.0, rank: 2, alpha: 2, context_width: 8}
loop: {steps: 100, batch_size: 8, learning_rate: 1.0e-3}
"""
LOOP = LoopConfig(steps=1000, batch_size=256, learning_rate=1e-4)
LARGE = Analysis((), 1_000_000, 10**12, 3 * 10**12, 2 * dry_run.GIB, dry_run.GIB // 4)
MACHINE = Machine("X", 4, 100.0, 40.0, 2.0)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(MODEL, LATENT, FRAMES, TOKENS)


def test_operations_are_those_of_the_matrices(analysis: Analysis) -> None:
    d, t, s, blocks = 16, FRAMES, TOKENS, 3
    rank, hidden = 2, 32
    of_frames = blocks * (4 * d * d + 2 * d * d + 3 * d * hidden) + 2 * d * d  # one out-block merges a skip
    ends = 2 * LATENT * d + d * LATENT + 3 * LATENT * LATENT
    of_text = blocks * 2 * d * d + 8 * d + d * d
    of_time = 256 * d + d * d + 6 * d * d + 2 * d * d + blocks * (d * 6 * rank + 6 * rank * 6 * d)
    attention = blocks * (2 * t * t * d + 2 * t * s * d)
    assert analysis.forward_flops == 2 * (t * (of_frames + ends) + s * of_text + of_time + attention)
    assert 2.8 * analysis.forward_flops < analysis.training_flops <= 3 * analysis.forward_flops


def test_parts_are_the_whole_network(analysis: Analysis) -> None:
    model = EditDiT(latent_dim=LATENT, **MODEL)
    assert analysis.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(part.parameters for part in analysis.parts) == analysis.parameters
    assert analysis.parts[-1].output == (1, LATENT, FRAMES)
    names = [part.name for part in analysis.parts]
    assert names[-4:] == ["in_blocks", "mid_block", "out_blocks", "final_block"]


def test_kept_activations_are_counted_once_and_without_weights() -> None:
    with FakeTensorMode():
        layer = nn.Linear(4, 8)
        x = torch.zeros(2, 4)
        # The linear layer keeps its input, GELU its own; the second layer's input is what GELU returned.
        assert kept_bytes(layer, lambda: nn.functional.gelu(layer(x))) == 4 * (2 * 4 + 2 * 8)
        assert kept_bytes(layer, lambda: layer(x) + layer(x)) == 4 * 2 * 4


def test_computing_blocks_again_keeps_less(analysis: Analysis) -> None:
    # At the least the blocks' inputs.
    assert 3 * FRAMES * 16 * 4 < analysis.kept_checkpointed_bytes < analysis.kept_bytes


def test_projection_by_hand() -> None:
    # 36 GiB usable less 0.02: 17 samples of 2 GiB, of 64 that each GPU has to do.
    found = project(LARGE, LOOP, MACHINE, 0.5)
    assert (found.checkpointed, found.accumulate, found.samples_at_once) == (False, 4, 16)
    assert found.step_s == pytest.approx(64 * 3 / (100 * 0.5))
    assert found.days == pytest.approx(found.step_s * 1000 / 86_400)
    assert found.dollars == pytest.approx(found.days * 24 * 4 * 2)


def test_blocks_are_computed_again_where_little_fits() -> None:
    small = replace(MACHINE, memory_gib=10.0)  # 4 samples as they are, 35 if blocks are computed again
    found = project(LARGE, LOOP, small, 0.5)
    assert (found.checkpointed, found.accumulate, found.samples_at_once) == (True, 2, 32)
    assert found.step_s == pytest.approx(64 * 4 / (100 * 0.5))


def test_what_does_not_fit_is_refused() -> None:
    weights_gib = sum(TRAINING_BYTES.values()) * LARGE.parameters / dry_run.GIB
    with pytest.raises(SmartDJError) as refused:
        project(LARGE, LOOP, replace(MACHINE, memory_gib=weights_gib), 0.5)
    assert refused.value.code is ErrorCode.USAGE


@pytest.mark.parametrize("text", ["L40S", "L40S:4:362:45", "L40S:x:362:45:1", "L40S:0:362:45:1", "L40S:4:0:45:1"])
def test_machines_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="L40S"):
        Machine.parse(text)


def test_default_machines_can_be_read() -> None:
    first = Machine.parse(dry_run.MACHINES[0])
    assert str(first) == f"4× {dry_run.PAPER_GPU}"


def test_paper_settings_are_the_released_network_s() -> None:
    loop, settings = read_config(dry_run.config_path("paper"))
    assert (loop.steps, loop.samples_per_step) == (500_000, 256)
    with torch.device("meta"):
        ours, released = EditDiT(latent_dim=128, **settings["model"]), EditDiT()
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in released.state_dict().items()
    }


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    (tmp_path / "codec.yaml").write_text(
        "model: {channels: 2, multiples: [1, 1], strides: [24, 20], latent_dim: 3}\n"
        "loop: {steps: 2, batch_size: 1, learning_rate: 1.0e-3}\n"
    )
    (tmp_path / "cost.md").write_text("# Cost\n\n<!-- training-cost -->\n")
    names = {"--config": "tiny.yaml", "--codec": "codec.yaml", "--out": "out.json", "--markdown-into": "cost.md"}
    return [word for option, name in names.items() for word in (option, str(tmp_path / name))]


def test_command_writes_figures_and_tables(tmp_path: Path, files: list[str]) -> None:
    listing = tmp_path / "shapes.json"
    model = EditDiT(latent_dim=LATENT, **MODEL)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    listing.write_text(json.dumps({"shapes": shapes}))
    extra = ["--tokens", "3", "--shapes", str(listing), "--measure", "cpu", "--largest", "2"]
    assert dry_run.main([*files, *extra]) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["about"]["frames"] == 25
    assert results["codec"]["latent_bytes"] == LATENT * 25 * 2
    assert [row["machine"] for row in results["projections"]] == ["4× L40S", "1× H100", "8× H100"]
    assert [(row["batch"], row["checkpointed"]) for row in results["measured"]] == [(2, False), (2, True)]
    text = (tmp_path / "cost.md").read_text()
    assert "every key and shape is the same" in text
    assert "| 4× L40S (the paper's) |" in text
    assert "| CPU, blocks again |" in text
    assert text.startswith("# Cost\n")


def test_other_shapes_are_named(tmp_path: Path) -> None:
    shapes = {key: list(value.shape) for key, value in EditDiT(latent_dim=LATENT, **MODEL).state_dict().items()}
    shapes["final_block.linear.bias"] = [99]
    shapes["new"] = [1]
    listing = tmp_path / "shapes.json"
    listing.write_text(json.dumps({"shapes": shapes}))
    assert dry_run.differing_shapes(MODEL, LATENT, listing) == ["final_block.linear.bias", "new"]


def test_unknown_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run.main(["--config", "nothing"]) == 2
    assert "paper" in capsys.readouterr().err
