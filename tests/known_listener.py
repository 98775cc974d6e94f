"""A listener whose masks are known, so that tests know which samples a step may touch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from smartdj_agent.audio import Audio
from smartdj_agent.editor import Editor, StepOutcome, StepProgress
from smartdj_agent.models.listener import Listener, Senses
from smartdj_agent.models.presets import get_preset
from smartdj_agent.separation import OVERLAP_S, WINDOW_S
from smartdj_agent.steps import parse_step

Share = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Seconds (T,) and band numbers (bands, 1) → share 0 to 1, broadcast to (bands, T)."""


def everything(seconds: np.ndarray, bands: np.ndarray) -> np.ndarray:
    return np.ones((len(bands), len(seconds)))


def nothing(seconds: np.ndarray, bands: np.ndarray) -> np.ndarray:
    return np.zeros((len(bands), len(seconds)))


def between(*stretches_s: tuple[float, float]) -> Share:
    def share(seconds: np.ndarray, bands: np.ndarray) -> np.ndarray:
        inside = np.zeros(len(seconds), bool)
        for start, stop in stretches_s:
            inside |= (seconds >= start) & (seconds < stop)
        return np.broadcast_to(inside, (len(bands), len(seconds))).astype(float)

    return share


def steady(share_of_band: np.ndarray) -> Share:
    """The same share of each band at all times."""

    def share(seconds: np.ndarray, bands: np.ndarray) -> np.ndarray:
        return np.repeat(share_of_band[:, None], len(seconds), axis=1)

    return share


class KnownListener(Listener):
    """Real spectra and band powers, but the masks are what the test says; counts how often it listens."""

    def __init__(self, share: Share, presence: float = 10.0) -> None:
        super().__init__(stem_channels=(2, 2, 2, 2), width=8, depth=1, heads=1, query_depth=1, embed_width=8)
        self.share = share
        self.presence = presence
        self.calls = 0

    def hear(self, senses: Senses) -> Tensor:  # type: ignore[override]
        self.calls += 1
        return senses.features

    def mask_logits(self, hearing: Tensor, vectors: Tensor) -> Tensor:  # type: ignore[override]
        frames = np.arange(hearing.shape[-1]) * self.config.hop / self.config.sample_rate
        seconds = frames + (self.calls - 1) * (WINDOW_S - OVERLAP_S)
        share = self.share(seconds, np.arange(self.config.n_bands)[:, None])
        return torch.logit(torch.from_numpy(share).double()).expand(1, vectors.shape[1], 2, -1, -1)

    def frame_embeddings(self, hearing: Tensor) -> Tensor:  # type: ignore[override]
        return torch.zeros(1, hearing.shape[-1], 8)

    def text_embeddings(self, vectors: Tensor) -> Tensor:
        return torch.zeros(len(vectors), 8)

    def presence_logits(self, frames: Tensor, texts: Tensor) -> Tensor:
        return torch.full((1, len(texts), frames.shape[1]), self.presence)


class KnownEncoder:
    """Sentence vectors without a network: the same text, the same direction."""

    def vectors(self, texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            row = np.random.default_rng(list(text.encode())).standard_normal(384)
            rows.append(row / np.linalg.norm(row))
        return torch.from_numpy(np.array(rows, np.float32))

    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.vectors(texts)[:, None].repeat(1, 3, 1), torch.ones(len(texts), 3, dtype=torch.bool)


def known_editor(share: Share = everything, presence: float = 10.0) -> Editor:
    """An editor that takes out what the test says, and always generates added sounds."""
    editor = Editor(get_preset("small"), "cpu", None)
    editor.__dict__["encoder"] = KnownEncoder()
    editor.__dict__["listener"] = KnownListener(share, presence)
    return editor


def do(editor: Editor, audio: Audio, step: str, *, mode: str = "preserve", seed: int = 0) -> StepOutcome:
    """Carry out one step and return its outcome; the listener's clock starts at 0."""
    editor.listener.calls = 0
    run = editor.preserve if mode == "preserve" else editor.generate
    *progress, outcome = run(audio, parse_step(step), seed=seed)
    assert isinstance(outcome, StepOutcome)
    assert all(isinstance(item, StepProgress) for item in progress)
    return outcome
