"""Pairs of latents get another recording mixed in: both sides the same one, but not where the step leaves one sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from smartdj_agent.models.codec import Codec
from training.codec import filter_bank
from training.editor import EditorTask


@pytest.fixture
def task() -> EditorTask:
    torch.manual_seed(0)
    made = EditorTask.__new__(EditorTask)
    made.device, made.mix = "cpu", 1.0
    made.codec = Codec(
        channels=8,
        multiples=(2, 4),
        strides=(4, 6),
        latent_dim=12,
        latent_power=0.5,
        latent_mean=[0.0] * 12,
        latent_std=[0.3] * 12,
    )
    filter_bank(made.codec)
    return made


def waves(seed: int) -> Tensor:
    return torch.from_numpy(0.1 * np.random.default_rng(seed).standard_normal((3, 2, 480))).float()


@torch.no_grad()
def test_the_sum_of_latents_is_the_latent_of_the_sum(task: EditorTask) -> None:
    source, edited, other = waves(1), waves(2), waves(3)
    alone = torch.tensor([False, True, False])
    encoded = [task.codec.encode_stereo(wave) for wave in (source, edited, other)]
    mixed = task._mixed(*encoded, alone, np.random.default_rng(4))

    # The same chance, on waves.
    rng = np.random.default_rng(4)
    sign = rng.choice([-1.0, 1.0], (2, 3))
    gain = torch.from_numpy(sign * 10 ** (np.stack([rng.uniform(-9, 6, 3), rng.uniform(-15, 0, 3)]) / 20)).float()
    own, share = gain[:, :, None, None]
    before = task.codec.encode_stereo(own * (source + share * other))
    after = task.codec.encode_stereo(own * (edited + torch.where(alone[:, None, None], 0.0, share) * other))
    for ours, theirs in zip(mixed, (before, after), strict=True):
        # Roots of what is nearly zero differ most.
        assert (ours - theirs).square().mean() < 0.01 * theirs.square().mean()


def test_without_another_recording_only_the_level_changes(task: EditorTask) -> None:
    task.mix = 0.0
    latent = torch.randn(3, 24, 5)
    source, edited = task._mixed(
        latent, latent, torch.randn(3, 24, 5), torch.zeros(3, dtype=torch.bool), np.random.default_rng(0)
    )
    assert torch.equal(source, edited)
    ratio = source / latent
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    assert (ratio[:, 0, 0].abs() - 1).abs().min() > 1e-3
