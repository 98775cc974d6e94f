"""Where weights live, and how they are loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import file_sha256
from smartdj_agent.models.presets import PRESETS

SHIPPED = Path(__file__).resolve().parent.parent / "weights"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"

ROLES = {
    "codec": "codec.Codec",
    "editor": "dit.EditDiT",
    "listener": "listener.Listener",
    "generator": "generator.GenerateDiT",
    "generator_codec": "codec.Codec",
}
"""Modules and classes of the networks by role; imported when one is loaded, since diffusers takes a second and more."""


@dataclass(frozen=True)
class ModelInfo:
    """One installed network."""

    name: str
    preset: str
    role: str
    parameters: int
    size_bytes: int
    sha256: str
    path: Path
    card: Path | None


def user_folder() -> Path:
    """Folder of imported and pulled weights: ``SMARTDJ_MODELS``, else the user's data folder."""
    configured = os.environ.get("SMARTDJ_MODELS")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "smartdj" / "models"


def role_folder(preset: str, role: str) -> Path:
    """Folder of one network's weights.

    Raises
    ------
    SmartDJError
        MODEL_MISSING if it is not installed.
    """
    hint = "Reinstall the package; its weights are missing."
    if preset == "paper" and role == "planner":
        hint = "Run `smartdj models import DIR` with an audio language model's folder, or use --planner small."
    elif preset == "paper":
        pair = role in ("generator", "generator_codec")
        files = "add_model.pt audio-vae.ckpt" if pair else "smartdj_editor.pt 24k_mono_latent64.ckpt"
        hint = f"Run `smartdj models import {files}` with the released files"
        hint += ", or use --add-source library or edit." if pair else "."
    for base in (user_folder(), SHIPPED):
        folder = base / preset / role
        if (folder / "config.json").exists() or (folder / "adapter_config.json").exists():
            return folder
    raise SmartDJError(ErrorCode.MODEL_MISSING, f"The {role} of preset {preset!r} is not installed.", hint)


def is_installed(preset: str, role: str) -> bool:
    """Whether a network's weights are there."""
    try:
        role_folder(preset, role)
    except SmartDJError:
        return False
    return True


def network_id(preset: str, role: str) -> str:
    """SHA-256 of a network's weights: what was made with it is of use as long as this stays.

    Raises
    ------
    SmartDJError
        MODEL_MISSING or MODEL_CORRUPT.
    """
    folder = role_folder(preset, role)
    try:
        return file_sha256(folder / WEIGHTS_FILE)
    except OSError as error:
        raise SmartDJError(
            ErrorCode.MODEL_CORRUPT,
            f"The weights in {folder} can't be read: {error.strerror}",
            "Run `smartdj doctor`; reinstall or import the weights again.",
        ) from error


def load_network(preset: str, role: str, device: str = "cpu") -> Any:
    """Load a network in float32, ready to infer.

    Raises
    ------
    SmartDJError
        MODEL_MISSING or MODEL_CORRUPT.
    """
    folder = role_folder(preset, role)
    module, name = ROLES[role].split(".")
    network: Any = getattr(import_module(f"smartdj_agent.models.{module}"), name)
    try:
        model, report = network.from_pretrained(
            folder, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
        # diffusers only warns of these and leaves random numbers in their place.
        kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
        wrong = sorted(str(key) for kind in kinds for key in report[kind])
        if wrong:
            raise ValueError(f"{len(wrong)} tensors are missing, unknown or of another shape, such as {wrong[0]}")
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError) as error:
        raise SmartDJError(
            ErrorCode.MODEL_CORRUPT,
            f"The weights in {folder} can't be loaded: {str(error).splitlines()[0]}",
            "Run `smartdj doctor`; reinstall or import the weights again.",
        ) from error
    return model.float().eval().requires_grad_(False).to(device)


def list_installed() -> list[ModelInfo]:
    """All networks that are installed, shipped ones first."""
    found = []
    for base in (SHIPPED, user_folder()):
        for preset in PRESETS:
            for folder in sorted((base / preset).glob("*/")):
                for path in sorted(folder.glob("*.safetensors")):
                    card = folder / "README.md"
                    found.append(
                        ModelInfo(
                            name=f"{preset}/{folder.name}",
                            preset=preset,
                            role=folder.name,
                            parameters=_count_parameters(path),
                            size_bytes=path.stat().st_size,
                            sha256=file_sha256(path),
                            path=path,
                            card=card if card.exists() else None,
                        )
                    )
    return found


def _count_parameters(path: Path) -> int:
    try:
        with safe_open(path, "pt") as file:
            return sum(torch.Size(file.get_slice(key).get_shape()).numel() for key in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SmartDJError(
            ErrorCode.MODEL_CORRUPT, f"{path} is not a whole safetensors file.", "Install the weights again."
        ) from error


def load_strictly(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Load a state dict in which every key and shape must match.

    Raises
    ------
    SmartDJError
        MODEL_MISMATCH naming the first keys that differ.
    """
    own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    if own != given:
        missing = sorted(own.keys() - given.keys())[:3]
        unknown = sorted(given.keys() - own.keys())[:3]
        shapes = sorted(key for key in own.keys() & given.keys() if own[key] != given[key])[:3]
        raise SmartDJError(
            ErrorCode.MODEL_MISMATCH,
            f"{name} does not fit the network: missing {missing}, unknown {unknown}, other shape {shapes}.",
            "Check that the file is the released one and that it is whole.",
        )
    model.load_state_dict(state, strict=True)
