"""Distil the editor to a few denoising steps without guidance (progressive distillation, Salimans & Ho 2022).

    python -m training.distil --config training/configs/distil-small.yaml --out runs/distil

From the noised truth at one of the student's times, the teacher takes `distil.teacher_steps` guided DDIM steps to the
student's next time; the student learns the prediction that gets there in one, with the text alone. So it needs neither
the second pass for guidance nor the steps between: 4 passes through the network instead of 32.

The student's sampler is ``ddim`` with `distil.steps` steps and a guidance scale of 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smartdj_agent.models.dit import EditDiT
from smartdj_agent.sampling import TRAIN_STEPS, Conditioning, SamplerConfig, denoise, guided, make_scheduler
from training.editor import Batch, EditorTask
from training.loop import command_line


def times(steps: int) -> list[int]:
    """The trailing times of so many steps, and −1 for the clean end."""
    return [TRAIN_STEPS - 1 - index * TRAIN_STEPS // steps for index in range(steps)] + [-1]


def ddim_step(noisy: Tensor, prediction: Tensor, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]) -> Tensor:
    """One deterministic DDIM step (Song et al. 2021) by a v-prediction; `here` and `there` are (√ᾱ, √(1−ᾱ))."""
    clean = here[0] * noisy - here[1] * prediction
    noise = here[1] * noisy + here[0] * prediction
    return there[0] * clean + there[1] * noise


def one_step_target(noisy: Tensor, end: Tensor, here: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor]) -> Tensor:
    """The v-prediction with which one DDIM step leads from `noisy` to `end` (Salimans & Ho 2022, appendix G)."""
    ratio = there[1] / here[1]
    clean = (end - ratio * noisy) / (there[0] - ratio * here[0])
    return (here[0] * noisy - clean) / here[1]


class DistilTask(EditorTask):
    """Single-step pairs in; the student's prediction against the teacher's several."""

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        super().__init__(settings, device)
        own = settings["distil"]
        self.steps, self.teacher_steps = int(own["steps"]), int(own["teacher_steps"])
        self.guidance = (float(own["guidance_scale"]), float(own["guidance_rescale"]))
        self.teacher = EditDiT.from_pretrained(own["teacher"]).eval().requires_grad_(False).to(device)
        self.model.load_state_dict(self.teacher.state_dict())
        # At −1 everything is clean.
        self.levels = torch.cat([self.alphas, torch.ones(1, device=device)])
        self.empty = self.encoder.states([""])

    def level(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1−ᾱ) at times (B,), each (B, 1, 1)."""
        alpha = self.levels[time][:, None, None]
        return alpha.sqrt(), (1 - alpha).sqrt()

    def without(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The empty text's states and mask, as many and as long as the batch's."""
        states, mask = self.empty
        missing = batch.states.shape[1] - states.shape[1]
        states, mask = functional.pad(states, (0, 0, 0, missing)), functional.pad(mask, (0, missing))
        return states.expand(len(batch.source), -1, -1), mask.expand(len(batch.source), -1)

    @torch.no_grad()
    def taught(self, batch: Batch, noisy: Tensor, start: Tensor) -> Tensor:
        """Where the teacher gets in its guided steps from `noisy` at `start`, times (B,) of the student."""
        between = TRAIN_STEPS // self.steps // self.teacher_steps
        scale, rescale = self.guidance
        without = self.without(batch)
        latent = noisy
        for index in range(self.teacher_steps):
            here = start - index * between
            there = torch.where(here - between < 0, -1, here - between)
            prediction = self.teacher(latent, batch.source, here, batch.states, batch.mask).float()
            if scale != 1.0:
                bare = self.teacher(latent, batch.source, here, *without).float()
                prediction = guided(prediction, bare, scale, rescale)
            latent = ddim_step(latent, prediction, self.level(here), self.level(there))
        return latent

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the student's v at its own times."""
        places = batch.timesteps * self.steps // TRAIN_STEPS
        grid = torch.tensor(times(self.steps), device=self.device)
        start, stop = grid[places], grid[places + 1]
        here, there = self.level(start), self.level(stop)
        noisy = here[0] * batch.edited + here[1] * batch.noise
        wanted = one_step_target(noisy, self.taught(batch, noisy, start), here, there)
        predicted = self.model(noisy, batch.source, start, batch.states, batch.mask).float()
        loss = (predicted - wanted).square().mean()
        return loss, {}

    def evaluate(self) -> dict[str, float]:
        """Held-out pairs from noise to the end: error of the student's, the teacher's and the copied latent."""
        found: dict[str, list[float]] = {"student_error": [], "teacher_error": [], "copy_error": []}
        samplers = {
            "student_error": (self.model, SamplerConfig("ddim", self.steps, 1.0)),
            "teacher_error": (self.teacher, SamplerConfig("unipc", 16, *self.guidance)),
        }
        for batch in self.validation:
            both = zip((batch.states, batch.mask), self.without(batch), strict=True)
            text = Conditioning(*(torch.cat(pair) for pair in both))
            for name, (model, config) in samplers.items():
                *_, (_, _, latent) = denoise(model, batch.source, batch.noise, text, make_scheduler(config), config)
                found[name].append(float((latent - batch.edited).square().mean()))
            found["copy_error"].append(float((batch.source - batch.edited).square().mean()))
        return {name: float(np.mean(values)) for name, values in found.items()}

    def save(self, folder: Path) -> None:
        """Write config and weights in diffusers layout."""
        self.model.save_pretrained(folder)


def main() -> None:
    """Command line."""
    command_line(__doc__, DistilTask)


if __name__ == "__main__":
    main()
