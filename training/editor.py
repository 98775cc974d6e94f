"""Train the editor: v-prediction of the edited latent from source latent and step text (paper.md §1.5).

    python -m training.editor --config training/configs/editor-small.yaml --out runs/editor

Plain mean squared error on v at uniform times. No min-SNR weighting: with zero terminal SNR it would weigh the first
sampling step by zero (models.md §7.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.sampling import TRAIN_STEPS, ddim_scheduler
from smartdj_agent.steps import format_step
from training.clips import ClipStore
from training.designer import default_knowledge
from training.loop import command_line
from training.synthesis import ExampleKind, make_example


@dataclass(frozen=True)
class Batch:
    """Latents of pairs and how they are noised.

    Attributes
    ----------
    source, edited
        Shape (B, latent_dim, T).
    texts
        B step texts; empty where the text is dropped.
    noise
        Shape of the latents.
    timesteps
        Shape (B,).
    """

    source: Tensor
    edited: Tensor
    texts: list[str]
    noise: Tensor
    timesteps: Tensor


class EditorTask:
    """Single-step pairs in, v-loss out."""

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        data = settings["data"]
        folders = [Path(folder) for folder in data["folders"]]
        self.knowledge = default_knowledge()
        self.train = ClipStore.open(folders, "train", Path(data["cache"]))
        self.valid = ClipStore.open(folders, "valid", Path(data["cache"]))
        self.duration_s = float(data["duration_s"])
        self.text_drop = float(data["text_drop"])
        self.device = device
        self.codec = Codec.from_pretrained(data["codec"]).eval().requires_grad_(False).to(device)
        self.encoder = SentenceEncoder().to(device)
        self.model = EditDiT(latent_dim=2 * self.codec.config.latent_dim, **settings["model"])
        self.alphas = ddim_scheduler(1).alphas_cumprod.to(device)
        self.validation = [
            self._make(np.random.default_rng([996, index]), 8, self.valid, "valid", drop=False)
            for index in range(max(1, int(data["validation"]) // 8))
        ]

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Make, render and encode `size` training pairs."""
        return self._make(rng, size, self.train, "train", drop=True)

    @torch.no_grad()
    def _make(self, rng: np.random.Generator, size: int, store: ClipStore, split: str, *, drop: bool) -> Batch:
        waves, texts = [], []
        for _ in range(size):
            example = make_example(
                int(rng.integers(2**62)), ExampleKind.SINGLE, store, self.knowledge, split, duration_s=self.duration_s
            )
            waves += [example.source, example.final]
            spelled = example.instruction if rng.random() < 0.5 else format_step(example.steps[0])
            texts.append("" if drop and rng.random() < self.text_drop else spelled)
        wave = torch.from_numpy(np.stack(waves)).to(self.device)
        with torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16):
            latents = self.codec.encode_stereo(wave).float().unflatten(0, (size, 2))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(latents[:, 0].shape, generator=generator).to(self.device)
        timesteps = torch.randint(0, TRAIN_STEPS, (size,), generator=generator).to(self.device)
        return Batch(latents[:, 0], latents[:, 1], texts, noise, timesteps)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of v = √ᾱ·ε − √(1−ᾱ)·x₀ (Salimans & Ho 2022)."""
        alpha = self.alphas[batch.timesteps][:, None, None]
        noisy = alpha.sqrt() * batch.edited + (1 - alpha).sqrt() * batch.noise
        wanted = alpha.sqrt() * batch.noise - (1 - alpha).sqrt() * batch.edited
        states, mask = self.encoder.states(batch.texts)
        predicted = self.model(noisy, batch.source, batch.timesteps, states, mask).float()
        loss = (predicted - wanted).square().mean()
        clean = alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
        return loss, {
            "clean_error": float((clean.detach() - batch.edited).square().mean()),
            "copy_error": float((batch.source - batch.edited).square().mean()),
        }

    def evaluate(self) -> dict[str, float]:
        """Held-out pairs at fixed noise: v-loss, and the error of the clean latent beside copying the source."""
        losses, clean, copy = [], [], []
        for batch in self.validation:
            loss, extra = self.loss(batch)
            losses.append(float(loss))
            clean.append(extra["clean_error"])
            copy.append(extra["copy_error"])
        return {
            "v_loss": float(np.mean(losses)),
            "clean_error": float(np.mean(clean)),
            "copy_error": float(np.mean(copy)),
        }

    def save(self, folder: Path) -> None:
        """Write config and weights in diffusers layout."""
        self.model.save_pretrained(folder)


def main() -> None:
    """Command line."""
    command_line(__doc__, EditorTask)


if __name__ == "__main__":
    main()
