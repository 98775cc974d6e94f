"""Train the codec: multi-resolution spectral loss, waveform L1 and a small KL term.

    python -m training.codec --config training/configs/codec-small.yaml --out runs/codec

On a GPU (``data.on_device``) crops are stereo, so that sum and difference of the ears count too, and from
``discriminator.start`` (a share of the training) on, a discriminator judges what is decoded.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smartdj_agent.models.codec import (
    Codec,
    ResidualUnit,
    WeightNormConv,
    kl_divergence,
    sample_posterior,
)
from training.clips import SAMPLE_RATE, open_store
from training.discriminator import Discriminator, discriminator_loss, generator_losses
from training.gpu_mixing import DeviceClips, make_scenes
from training.loop import command_line
from training.metrics import si_sdr_db
from training.mixing import NONE, Variation, make_scene
from training.stft_loss import multi_resolution_loss

SIZES = (2048, 512, 128)
"""Resolutions of the training loss, samples."""


def lapped_cosines(hop: int, count: int) -> Tensor:
    """The lowest `count` functions of the sine-windowed MDCT (Princen & Bradley 1986), shape (2 · hop, count)."""
    at = torch.arange(2 * hop, dtype=torch.float64)[:, None] + 0.5
    frequency = torch.arange(count, dtype=torch.float64)[None] + 0.5
    window = (math.pi * at / (2 * hop)).sin()
    return (window * (math.pi / hop * (at + hop / 2) * frequency).cos() * math.sqrt(2 / hop)).float()


def _set_weight(conv: WeightNormConv, rows: Tensor, used: int, unused_gain: float) -> None:
    """Give the first `used` rows of `conv` these weights, and leave the others random, `unused_gain` long."""
    weight = conv.weight_v.data
    weight[:used] = rows[:used]
    lengths = weight.flatten(1).norm(dim=1)
    lengths[used:] = unused_gain
    conv.weight_g.data.copy_(lengths[:, None, None])
    if conv.bias is not None:
        conv.bias.data.zero_()


def filter_bank(model: Codec) -> None:
    """Initialise a codec as a lapped transform that keeps the lowest `latent_dim` bands, with a narrow posterior.

    The strided convolutions before the last one only sort samples into channels; the last one is a sine-windowed MDCT
    of the whole hop, and the decoder undoes both. Snakes on that way are almost straight, residual branches a fiftieth.
    So a codec starts at what a linear transform of its rate can do (15 dB SI-SDR on our validation scenes with 128
    features at 50 Hz, 5 dB with 64), where 650 steps from orthogonal filters had come to −0.8 dB.

    Raises
    ------
    ValueError
        If a layer is too narrow for the samples that it would have to hold, or a stride is odd.
    """
    encoder, decoder = list(model.encoder.layers), list(model.decoder.layers)
    for unit in model.modules():
        if isinstance(unit, ResidualUnit):
            unit.layers[3].weight_g.data.mul_(0.02)
            for conv in (unit.layers[1], unit.layers[3]):
                conv.bias.data.zero_()
    downs = [block.layers[-1] for block in encoder[1:-2]]
    ups = [block.layers[1] for block in decoder[1:-2]][::-1]
    straight = [*(block.layers[-2] for block in encoder[1:-2]), encoder[-2], decoder[-2]]
    straight += [block.layers[0] for block in decoder[1:-2]]
    for snake in straight:
        snake.beta.data.fill_(5.0)
    features = model.config.latent_dim
    held = 1  # samples in one frame of channels so far
    for index, (down, up) in enumerate(zip(downs, ups, strict=True)):
        stride, last = down.stride, index + 1 == len(downs)
        wide, narrow = down.weight_v.shape[:2]
        kept = features if last else held * stride
        if stride % 2 or narrow < held or wide < kept:
            raise ValueError(f"a block of stride {stride} from {narrow} to {wide} channels can't hold {kept} of them")
        rows = torch.zeros(wide, narrow, 2 * stride)
        if last:
            basis = lapped_cosines(held * stride, kept)
            rows[:kept, :held] = basis.T.reshape(kept, 2 * stride, held).transpose(1, 2)
        else:
            for offset in range(stride):
                for channel in range(held):
                    rows[offset * held + channel, channel, stride // 2 + offset] = 1.0
        _set_weight(down, rows, kept, 1.0)
        _set_weight(up, rows, kept, 0.01)
        held *= stride
    first = torch.zeros_like(encoder[0].weight_v)
    first[0, 0, 3] = 1.0
    _set_weight(encoder[0], first, 1, 1.0)
    centre = torch.zeros_like(encoder[-1].weight_v)
    centre[range(features), range(features), 1] = 1.0
    _set_weight(encoder[-1], centre, features, 0.01)
    encoder[-1].bias.data[features:] = -6.0
    centre = torch.zeros_like(decoder[0].weight_v)
    centre[range(features), range(features), 3] = 1.0
    _set_weight(decoder[0], centre, features, 1.0)
    final = torch.zeros_like(decoder[-1].weight_v)
    final[0, 0, 3] = 1.0
    _set_weight(decoder[-1], final, 1, 1.0)


class CodecTask:
    """Crops of scenes in, reconstruction losses out."""

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        self.train = open_store(settings["data"], "train")
        self.clips_on_device = DeviceClips(self.train, device) if settings["data"].get("on_device") else None
        self.weights = settings["loss"]
        self.device = device
        self.model = Codec(**settings["model"])
        filter_bank(self.model)
        if start := settings.get("start_from"):
            self.model.load_state_dict(Codec.from_pretrained(start).state_dict())
        self.sizes = tuple(self.weights.get("sizes", SIZES))
        self.progress = 0.0
        self.judge: Discriminator | None = None
        judged = settings.get("discriminator")
        if judged:
            self.judge_from = float(judged["start"])
            self.judge = Discriminator(int(judged["channels"])).to(device)
            self.judge_optimiser = torch.optim.AdamW(
                self.judge.parameters(), lr=float(judged["learning_rate"]), betas=(0.8, 0.99), weight_decay=1e-3
            )
        self.crop = round(settings["data"]["crop_s"] * SAMPLE_RATE) // self.model.hop * self.model.hop
        valid = open_store(settings["data"], "valid")
        scenes = [make_scene(valid, np.random.default_rng([998, i]), duration_s=4.0, variation=NONE) for i in range(12)]
        self.validation = torch.from_numpy(np.stack([scene.mixture for scene in scenes])).to(device)

    def extra_state(self) -> dict[str, Any]:
        """The discriminator and its optimiser."""
        if self.judge is None:
            return {}
        return {"judge": self.judge.state_dict(), "judge_optimiser": self.judge_optimiser.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Undo `extra_state`."""
        if self.judge is not None and state:
            self.judge.load_state_dict(state["judge"])
            self.judge_optimiser.load_state_dict(state["judge_optimiser"])

    def _device_batch(self, rng: np.random.Generator, size: int) -> Tensor:
        """Stereo crops, shape (size, 2, crop), both ears of which count as one sample."""
        assert self.clips_on_device is not None
        scenes = make_scenes(
            self.clips_on_device,
            (int(rng.integers(2**62)),),
            -(-size // 2),
            duration_s=2.0,
            count_shares=(0.35, 0.25, 0.2, 0.1, 0.1),
            variation=Variation(),
        )
        mixture = scenes.mixture
        start = rng.integers(0, mixture.shape[-1] - self.crop, size)
        at = torch.from_numpy(start).to(self.device, non_blocking=True)[:, None, None]
        place_of = (at + torch.arange(self.crop, device=self.device)).expand(-1, 2, -1)
        return mixture.repeat_interleave(2, dim=0)[:size].gather(2, place_of)

    def batch(self, rng: np.random.Generator, size: int) -> Tensor:
        """Crops of single channels, shape (size, 1, crop): scenes of one to five sounds, never silent."""
        if self.clips_on_device is not None:
            return self._device_batch(rng, size)
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

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Spectral, waveform and KL terms with the configured weights; batch is (B, 1 or 2 ears, crop)."""
        ears = batch.shape[1]
        wave = batch.flatten(0, 1)
        mean, scale = self.model.posterior(wave[:, None])
        mean, scale = mean.float(), scale.float()
        latent = sample_posterior(mean, scale, torch.randn_like(mean))
        decoded = self.model.decoder(latent).float()[:, 0]
        with torch.autocast(self.device.split(":")[0], enabled=False):
            level = wave.square().mean(1, keepdim=True).sqrt() + 2e-2
            ours, theirs = decoded / level, wave / level
            perceptual = bool(self.weights.get("perceptual", False))
            spectral = multi_resolution_loss(ours, theirs, self.sizes, perceptual=perceptual)
            difference = (ours - theirs).abs().mean()
            divergence = kl_divergence(mean, scale)
            figures = {"spectral": spectral, "wave": difference, "kl": divergence}
            if ears == 2 and self.weights.get("stereo"):
                # Sum and difference: where the ears' errors would move a sound.
                both = [torch.stack([x[0::2] + x[1::2], x[0::2] - x[1::2]]).flatten(0, 1) / 2 for x in (decoded, wave)]
                shared = level.reshape(-1, 2).amax(1, keepdim=True).repeat(2, 1)
                figures["stereo"] = multi_resolution_loss(
                    both[0] / shared, both[1] / shared, self.sizes, perceptual=perceptual
                )
            if self.weights.get("distortion"):
                error = (decoded - wave).square().mean(1)
                figures["distortion"] = torch.log10(error / level[:, 0].square() + 1e-3).mean()
        if self.judge is not None and self.progress >= self.judge_from:
            figures.update(self._judged(decoded / level, wave / level))
        loss = sum((self.weights.get(name, 0.0) * value for name, value in figures.items()), torch.zeros_like(spectral))
        return loss, {name: value.detach() for name, value in figures.items()}

    def _judged(self, made: Tensor, real: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator, then what it says about the codec: not its own gradient any more."""
        assert self.judge is not None
        self.judge.requires_grad_(True)
        judged = discriminator_loss(self.judge(real), self.judge(made.detach()))
        self.judge_optimiser.zero_grad(set_to_none=True)
        judged.backward()
        torch.nn.utils.clip_grad_norm_(self.judge.parameters(), 1.0)
        self.judge_optimiser.step()
        self.judge.requires_grad_(False)
        adversarial, feature = generator_losses(self.judge(real), self.judge(made))
        return {"adversarial": adversarial, "feature": feature, "judged": judged.detach()}

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
            mean = self.model.compress(self.model.posterior(self.validation.flatten(0, 1)[:, None])[0])
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
