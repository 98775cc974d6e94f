"""Train the codec: multi-resolution spectral loss, waveform L1 and a small KL term.

python -m training.codec --config training/configs/codec-small.yaml --out runs/codec
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smartdj_agent.models.codec import (
    Codec,
    ResidualUnit,
    SnakeBeta,
    WeightNormConv,
    kl_divergence,
    sample_posterior,
)
from training.clips import SAMPLE_RATE, ClipStore
from training.loop import command_line
from training.metrics import si_sdr_db
from training.mixing import NONE, Variation, make_scene
from training.stft_loss import multi_resolution_loss

SIZES = (2048, 512, 128)
"""Resolutions of the training loss, samples."""


def near_linear(model: Codec) -> None:
    """Initialise a codec as a nearly linear filter bank with a narrow posterior.

    Strided and outer convolutions become orthogonal, snakes almost straight and residual branches a tenth: from there,
    40 steps on a fixed batch brought the loss to 2.2, from the default initialisation to 4.2.
    """
    outer = (model.encoder.layers[0], model.encoder.layers[-1], model.decoder.layers[0], model.decoder.layers[-1])
    for module in model.modules():
        if isinstance(module, SnakeBeta):
            module.beta.data.fill_(3.0)
        elif isinstance(module, ResidualUnit):
            module.layers[3].weight_g.data.mul_(0.1)
        elif isinstance(module, WeightNormConv):
            if module.bias is not None:
                module.bias.data.zero_()
            if module.stride > 1 or module in outer:
                weight = module.weight_v.data
                nn.init.orthogonal_(weight.view(len(weight), -1))
                module.weight_g.data.copy_(weight.flatten(1).norm(dim=1)[:, None, None])
    scale = model.encoder.layers[-1].bias.data
    scale[len(scale) // 2 :] = -4.0


class CodecTask:
    """Crops of scenes in, reconstruction losses out."""

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        folders = [Path(folder) for folder in settings["data"]["folders"]]
        cache = Path(settings["data"]["cache"])
        self.train = ClipStore.open(folders, "train", cache)
        self.weights = settings["loss"]
        self.device = device
        self.model = Codec(**settings["model"])
        near_linear(self.model)
        self.crop = round(settings["data"]["crop_s"] * SAMPLE_RATE) // self.model.hop * self.model.hop
        valid = ClipStore.open(folders, "valid", cache)
        scenes = [
            make_scene(valid, np.random.default_rng([998, i]), duration_s=4.0, variation=NONE)
            for i in range(12)
        ]
        self.validation = torch.from_numpy(np.stack([scene.mixture for scene in scenes])).to(device)

    def batch(self, rng: np.random.Generator, size: int) -> Tensor:
        """Crops of single channels, shape (size, 1, crop): scenes of one to five sounds, never silent."""
        crops: list[np.ndarray] = []
        while len(crops) < size:
            scene = make_scene(
                self.train, rng, duration_s=4.0, count=int(rng.integers(1, 6)), variation=Variation()
            ).mixture
            for _ in range(4):
                start = int(rng.integers(0, scene.shape[1] - self.crop))
                crop = scene[int(rng.integers(0, 2)), start : start + self.crop]
                if np.abs(crop).max() > 1e-2:
                    crops.append(crop)
        return torch.from_numpy(np.stack(crops[:size]))[:, None].to(self.device)

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Spectral, waveform and KL terms with the configured weights."""
        mean, scale = self.model.posterior(batch)
        mean, scale = mean.float(), scale.float()
        latent = sample_posterior(mean, scale, torch.randn_like(mean))
        decoded = self.model.decoder(latent).float()[:, 0]
        with torch.autocast(self.device.split(":")[0], enabled=False):
            level = batch[:, 0].square().mean(1, keepdim=True).sqrt() + 2e-2
            spectral = multi_resolution_loss(decoded / level, batch[:, 0] / level, SIZES, perceptual=False)
            wave = ((decoded - batch[:, 0]) / level).abs().mean()
            divergence = kl_divergence(mean, scale)
        loss = (
            self.weights["spectral"] * spectral
            + self.weights["wave"] * wave
            + self.weights["kl"] * divergence
        )
        return loss, {
            "spectral": float(spectral.detach()),
            "wave": float(wave.detach()),
            "kl": float(divergence.detach()),
        }

    def evaluate(self) -> dict[str, float]:
        """Round trip of held-out scenes: SI-SDR, spectral loss, level error."""
        ratios, spectral, level = [], [], []
        for wave in self.validation:
            decoded = self.model.decode_stereo(self.model.encode_stereo(wave[None]))[0, :, : wave.shape[1]]
            ratios.append(si_sdr_db(decoded, wave))
            spectral.append(
                float(multi_resolution_loss(decoded / wave.std(), wave / wave.std(), SIZES, perceptual=False))
            )
            level.append(float(20 * torch.log10(decoded.std() / wave.std())))
        return {
            "si_sdr_db": float(np.median(ratios)),
            "spectral": float(np.mean(spectral)),
            "level_error_db": float(np.median(np.abs(level))),
        }

    def save(self, folder: Path) -> None:
        """Write the codec with the per-feature statistics of its latents."""
        with torch.no_grad():
            mean, _ = self.model.posterior(self.validation.flatten(0, 1)[:, None])
        flat = mean.float().permute(1, 0, 2).flatten(1)
        self.model.register_to_config(
            latent_mean=[round(v, 5) for v in flat.mean(1).tolist()],
            # A feature that the KL term switched off must not be divided by zero.
            latent_std=[round(max(v, 1e-3), 5) for v in flat.std(1).tolist()],
        )
        self.model.save_pretrained(folder)
        self.model.register_to_config(latent_mean=None, latent_std=None)


def main() -> None:
    """Command line."""
    command_line(__doc__, CodecTask)


if __name__ == "__main__":
    main()
