"""The sizes we know by name. A preset is data: sizes and places of weights, never another code path."""

from __future__ import annotations

from dataclasses import dataclass

from smartdj_agent.errors import ErrorCode, SmartDJError

SAMPLE_RATE = 24_000
WINDOW_S = 10.0


@dataclass(frozen=True)
class Preset:
    """One set of networks.

    Attributes
    ----------
    name
        As given to ``--preset``.
    text_encoder
        ``minilm`` or ``t5``.
    solver, steps, eta, guidance_scale
        Defaults of the denoising loop.
    shipped
        True if the weights come with the package.
    """

    name: str
    text_encoder: str
    solver: str
    steps: int
    eta: float
    guidance_scale: float
    shipped: bool


PRESETS: dict[str, Preset] = {
    "small": Preset("small", "minilm", "ddim", 1, 0.0, 1.0, True),
    "paper": Preset("paper", "t5", "ddim", 50, 0.8, 4.0, False),
}


def get_preset(name: str) -> Preset:
    """Look a preset up.

    Raises
    ------
    SmartDJError
        USAGE if there is no preset of that name.
    """
    if name not in PRESETS:
        raise SmartDJError(
            ErrorCode.USAGE, f"There is no preset named {name!r}.", f"Known presets: {', '.join(PRESETS)}."
        )
    return PRESETS[name]
