"""The denoising loop as a generator: the caller owns progress, preview and cancel.

Schedules are the released one (1000 steps, scaled linear, v-prediction, zero terminal SNR, trailing). DDIM is there for
fidelity; UniPC reaches the same place in about a third of the steps and is the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from smartdj_agent.errors import ErrorCode, SmartDJError

if TYPE_CHECKING:
    from smartdj_agent.models.dit import EditDiT

TRAIN_STEPS = 1000

SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": TRAIN_STEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


@dataclass(frozen=True)
class SamplerConfig:
    """How latents are denoised.

    Attributes
    ----------
    solver
        ``unipc`` (fast multistep) or ``ddim`` (as the release).
    steps
        Network evaluations; with ``ddim`` a divisor of 1000 (diffusers' DDIM steps to the wrong time otherwise).
    guidance_scale
        Weight ω of the text; 1 switches guidance off and halves the cost.
    guidance_rescale
        Share φ of the guided prediction that is rescaled to the conditional one's deviation.
    guidance_interval
        Part of the loop, as fractions from its start, in which guidance is applied.
    eta
        DDIM only: 0 is deterministic, 1 adds as much noise as DDPM.
    """

    solver: Literal["unipc", "ddim"] = "unipc"
    steps: int = 16
    guidance_scale: float = 4.0
    guidance_rescale: float = 0.8
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    eta: float = 0.0


def make_scheduler(config: SamplerConfig) -> Any:
    """Build the diffusers scheduler and set its timesteps.

    Raises
    ------
    SmartDJError
        USAGE if the step count is out of range, or does not divide 1000 with DDIM.
    """
    if not 1 <= config.steps <= TRAIN_STEPS:
        raise SmartDJError(ErrorCode.USAGE, f"{config.steps} denoising steps are out of range.", "Give 1 to 1000.")
    if config.solver == "ddim":
        if TRAIN_STEPS % config.steps:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"DDIM can't take {config.steps} steps: the number must divide {TRAIN_STEPS}.",
                "Use 10, 20, 25, 40, 50 or 100, or the unipc solver.",
            )
        return ddim_scheduler(config.steps)
    from diffusers import UniPCMultistepScheduler

    scheduler = UniPCMultistepScheduler(**SCHEDULE, solver_order=2, lower_order_final=True)
    scheduler.set_timesteps(config.steps)
    return scheduler


def ddim_scheduler(steps: int, **overrides: Any) -> Any:
    """The release's DDIM scheduler with timesteps set; `overrides` replace entries of `SCHEDULE`."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**{**SCHEDULE, "clip_sample": False, **overrides})
    scheduler.set_timesteps(steps)
    return scheduler


def guided(conditional: Tensor, unconditional: Tensor, scale: float, rescale: float) -> Tensor:
    """Classifier-free guidance with rescaling (Lin et al. 2024, eq. 15–16); deviations over all but the batch axis."""
    mixed = unconditional + scale * (conditional - unconditional)
    axes = tuple(range(1, conditional.ndim))
    deviation = mixed.std(dim=axes, keepdim=True)
    # A constant prediction has nothing to rescale.
    ratio = torch.where(deviation > 0, conditional.std(dim=axes, keepdim=True) / deviation, 1.0)
    return rescale * mixed * ratio + (1 - rescale) * mixed


@dataclass(frozen=True)
class Conditioning:
    """Text states with and without the step's text, in one batch: rows [text…, empty…].

    Attributes
    ----------
    states
        Shape (2·B, S, width).
    mask
        Shape (2·B, S), True where attended.
    """

    states: Tensor
    mask: Tensor


@torch.inference_mode()
def denoise(
    model: EditDiT,
    source: Tensor,
    noise: Tensor,
    text: Conditioning,
    scheduler: Any,
    config: SamplerConfig,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[int, int, Tensor]]:
    """Carry a latent from noise to the edit, one network evaluation per yield.

    Parameters
    ----------
    source, noise
        Shape (B, latent_dim, T).
    text
        Text states for B steps and their empty counterparts.
    scheduler
        From `make_scheduler`.

    Yields
    ------
    tuple
        Steps done, steps in all, latent so far (the last one is the result).
    """
    count = len(source)
    projected = model.text_keys_values(text.states)
    conditional = [(key[:count], value[:count]) for key, value in projected]
    both = torch.cat([source, source])
    latent = noise * scheduler.init_noise_sigma
    total = len(scheduler.timesteps)
    extra = {"eta": config.eta, "generator": generator} if config.solver == "ddim" else {}
    times = scheduler.timesteps.to(latent.device)  # one copy: each would make a GPU wait
    for index, timestep in enumerate(scheduler.timesteps):
        position = index / total
        start, stop = config.guidance_interval
        model_input = scheduler.scale_model_input(latent, timestep)
        if config.guidance_scale != 1.0 and start <= position < stop:
            time = times[index].expand(2 * count)
            prediction = model(torch.cat([model_input, model_input]), both, time, projected, text.mask)
            with_text, without = prediction.float().chunk(2)
            prediction = guided(with_text, without, config.guidance_scale, config.guidance_rescale)
        else:
            time = times[index].expand(count)
            prediction = model(model_input, source, time, conditional, text.mask[:count]).float()
        latent = scheduler.step(prediction, timestep, latent, return_dict=False, **extra)[0]
        yield index + 1, total, latent
