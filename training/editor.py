"""Train the editor: v-prediction of the edited latent from source latent and step text (paper.md §1.5).

    python -m training.editor --config training/configs/editor-small.yaml --out runs/editor

Plain mean squared error on v at uniform times. No min-SNR weighting: with zero terminal SNR it would weigh the first
sampling step by zero (models.md §7.2).

With ``data.pool`` that many pairs are made, encoded and worded once, where the network trains, and then only drawn
from: the codec costs more than the network (models.md §7.1). Pair *i* of the pool is a pure function of the clips and
*i*. With ``data.latents`` the pool is a set that `training.latents` has written before. ``data.mix`` is the share of
examples that get another recording mixed in, and all get another level: as latents, which takes an encoder that is
nearly linear (the shipped one is to −50 dB for sums and −40 dB for gains).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.sampling import TRAIN_STEPS, ddim_scheduler
from smartdj_agent.steps import Operation, format_step
from training.clips import ClipStore, open_store
from training.designer import default_knowledge
from training.gpu_mixing import DeviceClips
from training.gpu_pairs import PairMaker
from training.latents import POOL_TOKENS, Pool, read_pool
from training.loop import command_line
from training.synthesis import ExampleKind, make_example


@dataclass(frozen=True)
class Batch:
    """Latents of pairs and how they are noised.

    Attributes
    ----------
    source, edited
        Shape (B, latent_dim, T).
    states, mask
        Token states of the step texts, shape (B, S, width), and which count, shape (B, S).
    noise
        Shape of the latents.
    timesteps
        Shape (B,).
    """

    source: Tensor
    edited: Tensor
    states: Tensor
    mask: Tensor
    noise: Tensor
    timesteps: Tensor


class EditorTask:
    """Single-step pairs in, v-loss out."""

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        data = settings["data"]
        self.knowledge = default_knowledge()
        self.train = open_store(data, "train")
        self.valid = open_store(data, "valid")
        self.duration_s = float(data["duration_s"])
        self.text_drop = float(data["text_drop"])
        self.mix = float(data.get("mix", 0.0))
        self.device = device
        self.codec = Codec.from_pretrained(data["codec"]).eval().requires_grad_(False).to(device)
        self.encoder = SentenceEncoder().to(device)
        self.model = EditDiT(latent_dim=2 * self.codec.config.latent_dim, **settings["model"])
        self.alphas = ddim_scheduler(1).alphas_cumprod.to(device)
        self.validation = [
            self._make(np.random.default_rng([996, index]), 8, self.valid, "valid", drop=False)
            for index in range(max(1, int(data["validation"]) // 8))
        ]
        self.compiled = self.model.blocks()
        self.pool: Pool | None = None
        if data.get("latents"):
            self.pool = read_pool(Path(data["latents"]), self.encoder, Path(data["codec"]), device)
        elif data.get("pool"):
            maker = PairMaker(DeviceClips(self.train, device), self.knowledge, self.duration_s)
            self.pool = self._fill(maker, int(data["pool"]), int(data.get("pool_batch", 32)))

    @torch.no_grad()
    def _fill(self, maker: PairMaker, count: int, size: int) -> Pool:
        """Make, encode and word `count` pairs."""
        parts: list[tuple[Tensor, ...]] = []
        started = time.monotonic()
        for start in range(0, count, size):
            pairs = maker.make((995, start), size)
            wave = torch.cat([pairs.source, pairs.edited])
            with torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16):
                source, edited = self.codec.encode_stereo(wave).half().chunk(2)
            states, mask = self.encoder.states(pairs.texts)
            padding = (0, 0, 0, POOL_TOKENS - states.shape[1])
            parts.append(
                (
                    source,
                    edited,
                    functional.pad(states, padding)[:, :POOL_TOKENS].half(),
                    functional.pad(mask, padding[2:])[:, :POOL_TOKENS],
                    torch.tensor([step.operation is Operation.EXTRACT for step in pairs.steps], device=self.device),
                )
            )
        states, mask = self.encoder.states([""])
        empty = functional.pad(states, (0, 0, 0, POOL_TOKENS - states.shape[1])).half()
        pool = Pool(*(torch.cat(column) for column in zip(*parts, strict=True)), empty[0], mask[0])
        print(f"{count} pairs in {time.monotonic() - started:.1f} s", flush=True)
        return pool

    def _drawn(self, pool: Pool, rng: np.random.Generator, size: int) -> Batch:
        rows = torch.from_numpy(rng.integers(0, len(pool.source), size)).to(self.device)
        dropped = torch.from_numpy(rng.random(size) < self.text_drop).to(self.device)
        empty = functional.pad(pool.empty_mask, (0, POOL_TOKENS - len(pool.empty_mask)))
        states = torch.where(dropped[:, None, None], pool.empty, pool.states[rows]).float()
        mask = torch.where(dropped[:, None], empty, pool.mask[rows])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        source, edited = pool.source[rows].float(), pool.edited[rows].float()
        if self.mix:
            others = torch.from_numpy(rng.integers(0, len(pool.source), size)).to(self.device)
            source, edited = self._mixed(source, edited, pool.source[others].float(), pool.alone[rows], rng)
        noise = torch.randn(source.shape, generator=generator, device=self.device)
        timesteps = torch.randint(0, TRAIN_STEPS, (size,), generator=generator, device=self.device)
        return Batch(source, edited, states, mask, noise, timesteps)

    def _mixed(
        self, source: Tensor, edited: Tensor, other: Tensor, alone: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Pairs at other levels, and some with another recording mixed in, by latents of a nearly linear encoder."""
        size = len(source)
        sign = rng.choice([-1.0, 1.0], (2, size))
        gain = sign * 10 ** (np.stack([rng.uniform(-9, 6, size), rng.uniform(-15, 0, size)]) / 20)
        gain[1] *= rng.random(size) < self.mix
        own, others = torch.from_numpy(gain).float().to(self.device)[:, :, None, None]
        source, edited, other = (self._ears(self.codec.restore, latent) for latent in (source, edited, other))
        source = own * (source + others * other)
        edited = own * (edited + torch.where(alone[:, None, None], 0.0, others) * other)
        return self._ears(self.codec.normalise, source), self._ears(self.codec.normalise, edited)

    @staticmethod
    def _ears(function: Callable[[Tensor], Tensor], latent: Tensor) -> Tensor:
        """Apply a function of one ear's latents, (B, features, T), to both ears' (B, 2 · features, T)."""
        return function(latent.reshape(2 * len(latent), -1, latent.shape[-1])).reshape(latent.shape)

    def batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Make, render and encode `size` training pairs, or draw them from the pool."""
        if self.pool is not None:
            return self._drawn(self.pool, rng, size)
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
        return Batch(latents[:, 0], latents[:, 1], *self.encoder.states(texts), noise, timesteps)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of v = √ᾱ·ε − √(1−ᾱ)·x₀ (Salimans & Ho 2022)."""
        alpha = self.alphas[batch.timesteps][:, None, None]
        noisy = alpha.sqrt() * batch.edited + (1 - alpha).sqrt() * batch.noise
        wanted = alpha.sqrt() * batch.noise - (1 - alpha).sqrt() * batch.edited
        predicted = self.model(noisy, batch.source, batch.timesteps, batch.states, batch.mask).float()
        loss = (predicted - wanted).square().mean()
        clean = alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
        return loss, {
            "clean_error": (clean.detach() - batch.edited).square().mean(),
            "copy_error": (batch.source - batch.edited).square().mean(),
        }

    def evaluate(self) -> dict[str, float]:
        """Held-out pairs at fixed noise: v-loss, and the error of the clean latent beside copying the source."""
        losses, clean, copy = [], [], []
        for batch in self.validation:
            loss, extra = self.loss(batch)
            losses.append(float(loss))
            clean.append(float(extra["clean_error"]))
            copy.append(float(extra["copy_error"]))
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
