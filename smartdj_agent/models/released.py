"""The released networks: their checkpoint files become a preset, and vectors prove that ours equal them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.codec import Codec
from smartdj_agent.models.dit import EditDiT
from smartdj_agent.models.generator import CODEC_SETTINGS, GenerateDiT, is_generator, read_generator
from smartdj_agent.models.presets import PRESETS
from smartdj_agent.models.weights import ModelInfo, list_installed, load_strictly, user_folder
from smartdj_agent.sampling import Conditioning, SamplerConfig, ddim_scheduler, denoise

TOLERANCE = 1e-4
"""Largest absolute difference from a vector file that still counts as equal (float32)."""


@dataclass(frozen=True)
class TensorDifference:
    """How far one tensor lies from what the vector file says."""

    file: str
    tensor: str
    max_abs_difference: float

    @property
    def equal(self) -> bool:
        """Whether the difference is within tolerance (and is a number)."""
        return self.max_abs_difference <= TOLERANCE


def editor_from_release(config: dict[str, Any]) -> EditDiT:
    """Build the editor from the release's ``model`` settings.

    Raises
    ------
    SmartDJError
        MODEL_MISMATCH if the settings ask for something that the released editor does not have.
    """
    expected = {
        "patch_size": 1,
        "input_type": "1d",
        "qkv_bias": False,
        "qk_norm": "layernorm",
        "norm_layer": "layernorm",
        "act_layer": "geglu",
        "context_norm": True,
        "time_fusion": "ada_sola_bias",
        "context_fusion": "cross",
        "context_pe_method": "none",
        "pe_method": "none",
        "rope_mode": "shared",
        "use_conv": True,
        "skip": True,
        "skip_norm": True,
    }
    wrong = {key: config[key] for key, value in expected.items() if key in config and config[key] != value}
    if wrong or config["in_chans"] != 2 * config["out_chans"]:
        raise SmartDJError(
            ErrorCode.MODEL_MISMATCH,
            f"The editor settings differ from the released design: {wrong or 'in_chans is not twice out_chans'}.",
            "Only checkpoints of the released SmartDJ editor's design can be used.",
        )
    return EditDiT(
        latent_dim=config["out_chans"],
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=config["mlp_ratio"],
        rank=config["ada_sola_rank"],
        alpha=config["ada_sola_alpha"],
        context_width=config["context_dim"],
    )


def codec_from_release(config: dict[str, Any]) -> Codec:
    """Build the codec from the release's ``model`` settings."""
    encoder = config["encoder"]["config"]
    return Codec(
        channels=encoder["channels"],
        multiples=tuple(encoder["c_mults"]),
        strides=tuple(encoder["strides"]),
        latent_dim=config["latent_dim"],
    )


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")


def _state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}


def _read_vectors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SmartDJError(
            ErrorCode.MODEL_CORRUPT,
            f"{path} is not a whole safetensors file.",
            "Fetch the vector file again.",
        ) from error


@torch.inference_mode()
def verify_vectors(folder: Path) -> list[TensorDifference]:
    """Run every vector file of a folder through our classes.

    A ``.safetensors`` file is told by its tensors: ``in.audio`` is a codec, ``in.x`` an editor, ``in.noise`` a whole
    denoising loop over the editor that its metadata names. A ``.json`` file with ``config`` and ``shapes`` is compared
    key for key with a network built, without memory, from its settings; a differing shape counts as infinite.

    Raises
    ------
    SmartDJError
        USAGE if the folder has no vector files; MODEL_MISMATCH or MODEL_CORRUPT if one can't be loaded.
    """
    paths = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]) if folder.is_dir() else []
    if not paths:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"There are no vector files in {folder}.",
            "Name a folder of .safetensors or .json files.",
        )
    results: list[TensorDifference] = []
    for path in paths:
        try:
            results += _verify_shapes(path) if path.suffix == ".json" else _verify_tensors(path)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise SmartDJError(
                ErrorCode.MODEL_CORRUPT, f"{path.name} can't be read: {error}.", "Fetch the vector file again."
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            what = str(error).splitlines()[0][:160]
            raise SmartDJError(
                ErrorCode.MODEL_MISMATCH,
                f"{path.name} is not laid out as a vector file: {type(error).__name__} {what}.",
                "Look at the documentation of `verify_vectors` for what such a file holds.",
            ) from error
    return results


def _verify_tensors(path: Path) -> list[TensorDifference]:
    metadata, tensors = _read_vectors(path)
    if "in.audio" in tensors:
        outputs = _run_codec(path.name, metadata, tensors)
    elif "in.noise" in tensors:
        outputs = {"out.latent": _run_sampling(path, metadata, tensors)}
    elif "in.x" in tensors:
        model = editor_from_release(json.loads(metadata["config"]))
        load_strictly(model, _state(tensors), path.name)
        noisy, source = tensors["in.x"].chunk(2, dim=1)
        outputs = {"out.y": model.eval()(noisy, source, tensors["in.timesteps"], tensors["in.context"])}
    else:
        raise SmartDJError(
            ErrorCode.MODEL_MISMATCH,
            f"{path.name} holds none of in.audio, in.x and in.noise.",
            "Only vector files of the codec, the editor and its denoising loop are known.",
        )
    given = sorted(name for name in tensors if name.startswith("out."))
    if not given or set(given) - outputs.keys():
        raise SmartDJError(
            ErrorCode.MODEL_MISMATCH,
            f"{path.name} holds the outputs {given}; known are {sorted(outputs)}.",
            "A vector file says what the network returns.",
        )
    return [TensorDifference(path.name, name, _difference(outputs[name], tensors[name])) for name in given]


def _verify_shapes(path: Path) -> list[TensorDifference]:
    listing = json.loads(path.read_text(encoding="utf-8"))
    config = listing["config"].get("model", listing["config"])
    with torch.device("meta"):
        model = codec_from_release(config) if "encoder" in config else editor_from_release(config)
    own = {key: list(value.shape) for key, value in model.state_dict().items()}
    return [
        TensorDifference(path.name, key, 0.0 if own.get(key) == listing["shapes"].get(key) else float("inf"))
        for key in sorted(own.keys() | listing["shapes"].keys())
    ]


def _run_codec(name: str, metadata: dict[str, str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    model = codec_from_release(json.loads(metadata["config"])).eval()
    load_strictly(model, _state(tensors), name)
    mean, scale = model.posterior(tensors["in.audio"])
    return {
        "out.mean": mean,
        "out.scale_raw": scale,
        "out.decoded_from_mean": model.decoder(tensors["out.mean"]),
    }


def _run_sampling(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Tensor:
    editor_metadata, editor_tensors = _read_vectors(path.parent / metadata["weights"])
    model = editor_from_release(json.loads(editor_metadata["config"])).eval()
    load_strictly(model, _state(editor_tensors), metadata["weights"])
    states = torch.cat([tensors["in.context_cond"], tensors["in.context_uncond"]])
    config = SamplerConfig(
        solver="ddim",
        steps=int(metadata["steps"]),
        guidance_scale=float(metadata["guidance_scale"]),
        guidance_rescale=float(metadata["guidance_rescale"]),
        eta=float(metadata["eta"]),
    )
    # The vectors were made with diffusers as it is, also where the count does not divide 1000.
    scheduler = ddim_scheduler(config.steps, **json.loads(metadata["scheduler"]))
    text = Conditioning(states, torch.ones(states.shape[:2], dtype=torch.bool))
    *_, (_, _, latent) = denoise(model, tensors["in.source_latent"], tensors["in.noise"], text, scheduler, config)
    return latent


RELEASE_REPOSITORY = "ztlan/SmartDJ"
RELEASE_FILES = ("smartdj_editor.pt", "24k_mono_latent64.ckpt")
PAIR_FILES = ("add_model.pt", "audio-vae.ckpt")
"""The text-to-audio pair, which "add" can make sounds with."""
TEXT_REPOSITORY = "google/flan-t5-large"


def pull(name: str) -> list[ModelInfo]:
    """Fetch a preset from the model hub and make it loadable.

    ``paper`` takes the authors' editor and codec (converted by `import_released`) and the FLAN-T5-large text encoder.
    Downloads resume where they stopped and are checked against the hub's hashes by `huggingface_hub`.

    Raises
    ------
    SmartDJError
        USAGE if the preset is shipped with the package or unknown, ENDPOINT_FAILED if the hub can't be reached.
    """
    if name not in PRESETS or PRESETS[name].shipped:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"There is nothing to fetch for {name!r}.",
            "`small` comes with the package; `smartdj models pull paper` fetches the released networks.",
        )
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = [Path(hf_hub_download(RELEASE_REPOSITORY, file)) for file in RELEASE_FILES]
        snapshot_download(
            TEXT_REPOSITORY,
            local_dir=user_folder() / name / "text",
            allow_patterns=["config.json", "model.safetensors", "tokenizer*", "spiece.model", "special_tokens*"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SmartDJError(
            ErrorCode.ENDPOINT_FAILED,
            f"The model hub can't be reached: {str(error).splitlines()[0][:160]}",
            "Check the network, or download the files elsewhere and run `smartdj models import FILES`.",
        ) from error
    return import_released(files, name)


def import_released(files: Sequence[Path], preset: str = "paper") -> list[ModelInfo]:
    """Turn the authors' checkpoint files into a loadable preset under `user_folder`; a folder becomes its planner.

    The editor file holds ``model``, the codec file ``state_dict`` with keys prefixed ``autoencoder.``. The
    text-to-audio pair (``add_model.pt``, ``audio-vae.ckpt``) looks alike and is told by its tensors. Pickles are read
    with ``weights_only`` and every key must match. A folder appears only when it is whole.

    A folder is a planner that `training.planner` wrote, or an audio language model as transformers saves it; its files
    are linked where the disk allows it, as such models are large.

    Raises
    ------
    SmartDJError
        MODEL_MISSING, MODEL_CORRUPT or MODEL_MISMATCH.
    """
    preset_folder = user_folder() / preset
    staged: list[tuple[Path, Path]] = []
    try:
        for file in files:
            if file.is_dir():
                staged.append((_staged_planner(file, preset_folder), preset_folder / "planner"))
                continue
            role, model = _read_release(file)
            preset_folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{role}-", dir=preset_folder))
            staged.append((temporary, preset_folder / role))
            model.save_pretrained(temporary)
        for temporary, target in staged:
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
    except OSError as error:
        code = ErrorCode.DISK_FULL if error.errno == errno.ENOSPC else ErrorCode.OUTPUT_UNWRITABLE
        raise SmartDJError(
            code, f"{preset_folder} can't be written: {error.strerror}.", "Make room, or set SMARTDJ_MODELS."
        ) from error
    finally:
        for temporary, _ in staged:
            shutil.rmtree(temporary, ignore_errors=True)
    return [info for info in list_installed() if info.preset == preset]


def _staged_planner(folder: Path, preset_folder: Path) -> Path:
    """A planner's files beside where they are to be."""
    if not any((folder / name).exists() for name in ("adapter_config.json", "config.json")):
        raise SmartDJError(
            ErrorCode.MODEL_MISMATCH,
            f"{folder} holds no model: neither adapter_config.json nor config.json.",
            "Name the folder `model` of a planner's training, or one of an audio language model.",
        )
    preset_folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".planner-", dir=preset_folder))
    shutil.copytree(folder, temporary, dirs_exist_ok=True, copy_function=_linked)
    return temporary


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
    return target


def _read_release(file: Path) -> tuple[str, Any]:
    """Role and network of one of the authors' checkpoint files."""
    if not file.is_file():
        raise SmartDJError(ErrorCode.MODEL_MISSING, f"There is no file {file}.", "Check the path.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        what = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise SmartDJError(
            ErrorCode.MODEL_CORRUPT,
            f"{file.name} can't be read as a checkpoint: {what}",
            f"Use the released files {', '.join((*RELEASE_FILES, *PAIR_FILES))}, unchanged.",
        ) from error
    model: Any
    content = content if isinstance(content, dict) else {}
    if isinstance(content.get("model"), dict):
        state = content["model"]
        if is_generator(state):
            role, state, model = "generator", read_generator(state), GenerateDiT()
        else:
            role, model = "editor", EditDiT()
    elif isinstance(content.get("state_dict"), dict):
        state = {
            key.removeprefix("autoencoder."): value
            for key, value in content["state_dict"].items()
            if key.startswith("autoencoder.")
        }
        first = state.get("decoder.layers.0.weight_v")
        if isinstance(first, Tensor) and first.ndim == 3 and first.shape[1] == CODEC_SETTINGS["latent_dim"]:
            role, model = "generator_codec", Codec(**CODEC_SETTINGS)
        else:
            role, model = "codec", Codec()
    else:
        raise SmartDJError(
            ErrorCode.MODEL_MISMATCH,
            f"{file.name} holds neither an editor nor a codec.",
            "Use the released files smartdj_editor.pt and 24k_mono_latent64.ckpt.",
        )
    load_strictly(model, state, file.name)
    return role, model
