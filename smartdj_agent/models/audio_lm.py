"""The planner's network of preset `paper`: any audio language model of transformers, with LoRA and its adapter tuned.

Audio Flamingo 3, Qwen2-Audio, Qwen2.5-Omni (its thinker) and what else `AutoModelForMultimodalLM` loads: the recording
goes in as sound, what our listener measured of it as text, directions above all, since these models hear one channel.
The paper's own base, Audio Flamingo 2, is not in transformers; these take its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.models.planner_lm import HEAR_RATE, Decoding, Prompt
from smartdj_agent.models.prompts import planner_rules, request_text

LORA_TARGETS = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Linear layers of the language model, not those of the audio encoder, which have the same names."""
ADAPTERS = re.compile(r"(.*\.)?(multi_modal_projector|audio_tower\.proj)")
"""What lies between audio encoder and language model, by family."""
IGNORED = -100
"""Label of what the loss leaves out."""


class AudioPlannerLM(nn.Module):
    """Audio language model and its processor.

    Parameters
    ----------
    lm
        A model of transformers that takes `input_ids` and `input_features`, possibly wrapped by peft.
    processor
        Its processor: text and sound in, inputs out.
    """

    def __init__(self, lm: Any, processor: Any) -> None:
        super().__init__()
        self.lm = lm
        self.processor = processor
        self.tokenizer = processor.tokenizer

    @classmethod
    def fresh(
        cls, base: str, *, rank: int, alpha: int, dropout: float, dtype: torch.dtype = torch.bfloat16
    ) -> AudioPlannerLM:
        """Published model with new LoRA matrices, its adapter free to learn, all else fixed; for training.

        Parameters
        ----------
        base
            Folder or hub name of the model.
        rank, alpha, dropout
            Of the LoRA matrices.

        Raises
        ------
        SmartDJError
            MODEL_MISSING or MODEL_MISMATCH.
        """
        from peft import LoraConfig, get_peft_model

        model, processor = _load_base(base, dtype)
        adapters = [name for name, _ in model.named_modules() if ADAPTERS.fullmatch(name)]
        if not adapters:
            raise SmartDJError(
                ErrorCode.MODEL_MISMATCH,
                f"{base} has no adapter between sound and language that we know.",
                "Use Audio Flamingo 3, Qwen2-Audio, Qwen2.5-Omni or another model with a multi_modal_projector.",
            )
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            task_type="CAUSAL_LM",
            target_modules=LORA_TARGETS,
            modules_to_save=adapters,
        )
        lm = get_peft_model(model, config)
        for parameter in lm.parameters():
            if parameter.requires_grad:  # in bfloat16, small steps would round to nothing
                parameter.data = parameter.data.float()
        return cls(lm, processor)

    @classmethod
    def load(cls, folder: Path, device: str) -> AudioPlannerLM:
        """Trained planner (LoRA and adapter beside the name of their base), or a published model as it is.

        Raises
        ------
        SmartDJError
            MODEL_MISSING, MODEL_MISMATCH or MODEL_CORRUPT.
        """
        adapter = folder / "adapter_config.json"
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        if not adapter.exists():
            model, processor = _load_base(str(folder), dtype)
        else:
            from peft import PeftModel

            try:
                base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
            except (OSError, ValueError, LookupError) as error:
                raise _unreadable(str(folder), error) from error
            model, processor = _load_base(base, dtype)
            try:
                model = PeftModel.from_pretrained(model, folder).merge_and_unload()
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise _unreadable(str(folder), error) from error
        return cls(model.eval().requires_grad_(False).to(device), processor)

    def save(self, folder: Path) -> None:
        """Write the LoRA matrices and the adapter, with the name of their base."""
        folder.mkdir(parents=True, exist_ok=True)
        self.lm.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # peft's has nothing in it

    @cached_property
    def end(self) -> str:
        """What ends an answer in the model's chat layout, often not the tokenizer's own end of text."""
        chat = [
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "ANSWER"}]},
        ]
        rest = self.processor.apply_chat_template(chat, tokenize=False).rpartition("ANSWER")[2]
        found = (self.tokenizer.convert_ids_to_tokens(token) for token in self.tokenizer(rest).input_ids[:1])
        return next((token for token in found if token in self.tokenizer.all_special_tokens), self.tokenizer.eos_token)

    @property
    def end_token(self) -> int:
        """What ends a plan."""
        return int(self.tokenizer.convert_tokens_to_ids(self.end))

    @property
    def hears_s(self) -> float:
        """Longest sound that one prompt takes, seconds."""
        window = float(self.processor.feature_extractor.chunk_length)
        return float(getattr(self.processor, "max_audio_len", window))

    def prompt_text(self, prompt: Prompt) -> str:
        """The prompt in the model's own chat layout, the plan's standing lines at its end."""
        request = request_text(prompt.events, prompt.instruction)
        content: list[dict[str, str]] = [{"type": "text", "text": f"{planner_rules()}\n\n{request}"}]
        if prompt.mono is not None:
            content.insert(0, {"type": "audio"})
        chat = [{"role": "user", "content": content}]
        laid_out: str = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return laid_out + prompt.written

    def inputs(self, prompts: Sequence[Prompt], answers: Sequence[str] = ()) -> dict[str, Tensor]:
        """Inputs of one pass; with answers (each ends its text) also ``labels``, which leave the prompts out.

        All prompts have sound, or none.
        """
        texts = [self.prompt_text(prompt) for prompt in prompts]
        sounds = [prompt.mono for prompt in prompts if prompt.mono is not None]
        # Only texts are filled up: sounds have the length that the audio encoder wants.
        told: dict[str, Any] = {"return_tensors": "pt", "text_kwargs": {"padding": True, "padding_side": "left"}}
        if sounds:
            told |= {"audio": sounds, "sampling_rate": HEAR_RATE}
        whole = [f"{text}{answer}{self.end}" for text, answer in zip(texts, answers, strict=True)] if answers else texts
        made = self.processor(text=whole, **told)
        device = next(self.lm.parameters()).device
        inputs = {
            name: (value.to(self.dtype) if value.is_floating_point() else value).to(device)
            for name, value in made.items()
        }
        if answers:
            # Counted from the end: what stands before the answer is filled up with sound, whose length differs.
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            labels = torch.full_like(ids, IGNORED)
            for row, answer in enumerate(answers):
                count = len(self.tokenizer(f"{answer}{self.end}", add_special_tokens=False).input_ids)
                last = int(mask[row].nonzero()[-1]) + 1
                labels[row, last - count : last] = ids[row, last - count : last]
            inputs["labels"] = labels
        return inputs

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers that the model is given."""
        return next(parameter.dtype for parameter in self.lm.parameters() if not parameter.requires_grad)

    def begin(self, prompt: Prompt) -> Decoding:
        """Read a prompt and be ready to write."""
        inputs = self.inputs([prompt])
        inputs.pop("attention_mask")  # one text, nothing is filled up
        return Decoding(self.lm, **inputs)


def _load_base(base: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and processor of a folder or hub name."""
    import transformers
    from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor

    try:
        with _quiet():
            config = AutoConfig.from_pretrained(base)
            processor = AutoProcessor.from_pretrained(base)
            try:
                model = AutoModelForMultimodalLM.from_pretrained(base, dtype=dtype)
            except ValueError as error:
                if "Unrecognized configuration class" not in str(error) or not config.architectures:
                    raise
                # Audio Flamingo 3 is not on that list, but says itself what it is.
                model = getattr(transformers, config.architectures[0]).from_pretrained(base, dtype=dtype)
    except ImportError as error:
        what = " ".join(str(error).split())[:120]
        raise SmartDJError(
            ErrorCode.MODEL_MISSING,
            f"{base} needs a package that isn't installed: {what}",
            "Qwen2.5-Omni's processor wants torchvision and Pillow: pip install them.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _unreadable(base, error) from error
    # Of an Omni model only the part that hears and writes is used, not the one that speaks.
    return getattr(model, "thinker", model), processor


@contextmanager
def _quiet() -> Any:
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _unreadable(base: str, error: Exception) -> SmartDJError:
    return SmartDJError(
        ErrorCode.MODEL_CORRUPT,
        f"The audio language model {base} can't be loaded: {(str(error) or type(error).__name__).splitlines()[0]}",
        "Name a whole folder of a model that transformers' AutoModelForMultimodalLM loads, with its processor.",
    )
