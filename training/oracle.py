"""What a perfect listener would reach: the editor's own arithmetic on the sound's true share of each band and frame."""

from __future__ import annotations

import numpy as np
import torch

from smartdj_agent.models.listener import Listener
from smartdj_agent.render import apply_to_stem
from smartdj_agent.separation import FLOOR_DB, Mask, apply_mask
from smartdj_agent.steps import Operation, Step
from training.clips import SAMPLE_RATE


@torch.inference_mode()
def ideal_mask(stem: np.ndarray, rest: np.ndarray, listener: Listener) -> Mask:
    """The share that a sound truly has in each ear, band and frame; only the listener's bands are used, no weights.

    Parameters
    ----------
    stem, rest
        The sound and everything else, shape (2, n), at 24 kHz.
    """
    device = listener.logit_scale.device
    wave = torch.from_numpy(np.stack([stem, rest]).astype(np.float32)).to(device)
    own, other = listener.band_power(listener.spectrum(wave)).cpu().numpy()
    share = own / (own + other + 1e-10)
    loudest = (own + other).sum(axis=(0, 1)).max()
    active = own.sum(axis=(0, 1)) > loudest * 10 ** (FLOOR_DB / 10)
    return Mask(share * active, active, 1.0)


def oracle_step(
    recording: np.ndarray, step: Step, stem: np.ndarray, rest: np.ndarray, listener: Listener, *, seed: int
) -> np.ndarray:
    """Carry a step out on the ideal mask's stem, by the arithmetic of `Editor.preserve`.

    Parameters
    ----------
    recording
        What is edited, shape (2, n), at 24 kHz.
    step
        Any but ``add``, which separates nothing.
    stem, rest
        The named sound and everything else as they truly are.
    seed
        Chooses the room of a reverb.
    """
    found = apply_mask(recording, SAMPLE_RATE, ideal_mask(stem, rest, listener), listener)
    if step.operation is Operation.EXTRACT:
        return found
    return recording + (apply_to_stem(found, step, SAMPLE_RATE, seed=seed) - found)
