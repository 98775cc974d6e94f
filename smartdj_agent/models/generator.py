"""The released text-to-audio pair that the published "add" makes sounds with: `add_model.pt` and `audio-vae.ckpt`.

It is EzAudio's masked transformer (Hai et al. 2024): the editor's network, but beside the noisy latent it sees a latent
whose masked frames hold one learned vector, and a mask. To make a sound from text alone, all frames are masked. Its
codec is the editor's class with a latent of 128 for one channel.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT, PatchEmbed, TextKeysValues
from smartdj_agent.sampling import Conditioning, SamplerConfig, denoise, make_scheduler

GENERATOR_SAMPLER: Final = SamplerConfig(solver="ddim", steps=50, guidance_scale=5.0, guidance_rescale=0.75, eta=1.0)
"""As the published "add" runs it."""
CODEC_SETTINGS: Final[dict[str, Any]] = {
    "channels": 128,
    "multiples": (1, 2, 4, 8),
    "strides": (2, 4, 6, 10),
    "latent_dim": 128,
}
"""Of ``audio-vae.ckpt``."""


class GenerateDiT(EditDiT):
    """Predicts v for a sound's latent from the noisy latent, the time and a text; see `EditDiT` for the parameters."""

    @register_to_config
    def __init__(
        self,
        latent_dim: int = 128,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        rank: int = 32,
        alpha: float = 32.0,
        context_width: int = 1024,
    ) -> None:
        super().__init__(latent_dim, width, depth, heads, mlp_ratio, rank, alpha, context_width)
        self.patch_embed = PatchEmbed(2 * latent_dim + 1, width)
        self.mask_embed = nn.Parameter(torch.zeros(latent_dim))

    def forward(
        self,
        noisy: Tensor,
        source: Tensor,
        timesteps: Tensor,
        text: Tensor | TextKeysValues,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Predict v as `EditDiT.forward` does; of `source` nothing is used, since every frame is masked."""
        masked = self.mask_embed[None, :, None].expand_as(noisy)
        return super().forward(noisy, torch.cat([masked, torch.ones_like(noisy[:, :1])], dim=1), timesteps, text, mask)


@dataclass
class TextToAudio:
    """The pair, ready to make sounds.

    Attributes
    ----------
    network
        Text → latent.
    codec
        Latent → one channel.
    text
        Text encoder whose padding is not attended.
    device
        Where it runs.
    """

    network: GenerateDiT
    codec: Codec
    text: Any
    device: str
    sampler: SamplerConfig = GENERATOR_SAMPLER

    @torch.inference_mode()
    def make(self, words: str, duration_s: float, seed: int) -> Iterator[float | Tensor]:
        """Make a sound: the share that is done, 0 to 1, per step; at the end the samples (n,) at the codec's rate.

        Parameters
        ----------
        words
            What it is.
        duration_s
            How long; the network was trained on 10 s.
        """
        frames = max(1, round(duration_s * self.codec.config.sample_rate / self.codec.hop))
        states, mask = self.text.states([words, ""])
        # Drawn on the CPU, so that the same seed gives the same sound on every device.
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, self.network.config.latent_dim, frames), generator=generator).to(self.device)
        text = Conditioning(states.to(self.device), mask.to(self.device))
        latent = noise
        scheduler = make_scheduler(self.sampler)
        for done, count, partial in denoise(
            self.network, torch.zeros_like(noise), noise, text, scheduler, self.sampler, generator
        ):
            latent = partial
            yield 0.95 * done / count
        yield self.codec.decoder(self.codec.restore(latent))[0, 0].float().cpu()


def read_generator(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of ``add_model.pt`` as `GenerateDiT` does: the network lies below ``model.``.

    Raises
    ------
    SmartDJError
        MODEL_MISMATCH where a tensor lies elsewhere.
    """
    named = {}
    for key, value in state.items():
        if key != "mask_embed" and not key.startswith("model."):
            raise SmartDJError(
                ErrorCode.MODEL_MISMATCH,
                f"The text-to-audio checkpoint holds {key!r}, which its network doesn't have.",
                "Use the released file add_model.pt, unchanged.",
            )
        named[key.removeprefix("model.")] = value
    return named


def is_generator(keys: Container[str]) -> bool:
    """Whether the tensors' names are those of the text-to-audio network."""
    return "mask_embed" in keys
