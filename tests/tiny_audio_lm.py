"""Tiny random audio language models of the families that planners can be made of, with processors, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    AutoTokenizer,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from smartdj_agent.models.planner_lm import base_folder

FAMILIES = ("audioflamingo3", "qwen2_audio", "qwen2_5_omni_thinker")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'audio' %}AUDIO{% else %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As the published processors' templates lay turns out."""
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    # Of the usual size, a fixed random output layer could say nothing whatever is learned before it.
    "initializer_range": 0.2,
}


def _tower(**changes: Any) -> dict[str, Any]:
    """Settings of a Whisper-like encoder."""
    return {"d_model": 16, "num_mel_bins": 16, "max_source_positions": 1500, **changes}


def build(family: str, folder: Path) -> Path:
    """Write a tiny model of a family, with its processor, into a folder, and return the folder."""
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(base_folder())
    features = WhisperFeatureExtractor(feature_size=16)
    processor: Any
    model: Any
    if family == "audioflamingo3":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<sound>"]})
        text = TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)}
        audio = _tower(intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, hidden_size=16)
        processor = AudioFlamingo3Processor(features, tokenizer, chat_template=TEMPLATE.replace("AUDIO", "<sound>"))
        config = AudioFlamingo3Config(
            text_config=text, audio_config=audio, audio_token_id=tokenizer.convert_tokens_to_ids("<sound>")
        )
        model = AudioFlamingo3ForConditionalGeneration(config)
    else:
        inner = ("AUDIO", "IMAGE", "VIDEO", "audio_bos", "audio_eos", "vision_bos", "vision_eos")
        names = [f"<|{name}|>" for name in inner]
        tokenizer.add_special_tokens({"additional_special_tokens": names})
        template = TEMPLATE.replace("AUDIO", "<|audio_bos|><|AUDIO|><|audio_eos|>")
        # Omni's own processor wants torchvision for its pictures; of sounds it makes the same.
        processor = Qwen2AudioProcessor(features, tokenizer, chat_template=template)
        if family == "qwen2_audio":
            text = TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)}
            audio = _tower(encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24)
            token = tokenizer.convert_tokens_to_ids("<|AUDIO|>")
            config = Qwen2AudioConfig(text_config=text, audio_config=audio, audio_token_index=token)
            model = Qwen2AudioForConditionalGeneration(config)
        else:
            model = Qwen2_5OmniThinkerForConditionalGeneration(_omni(tokenizer))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _omni(tokenizer: Any) -> Any:
    index = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("AUDIO", "IMAGE", "VIDEO")}
    return Qwen2_5OmniThinkerConfig(
        audio_config=_tower(encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24, output_dim=32),
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32},
        text_config=TEXT
        | {
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        audio_token_index=index["AUDIO"],
        image_token_index=index["IMAGE"],
        video_token_index=index["VIDEO"],
        # The published settings have them, the class has no defaults.
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_bos|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_eos|>"),
        audio_start_token_id=tokenizer.convert_tokens_to_ids("<|audio_bos|>"),
        audio_end_token_id=tokenizer.convert_tokens_to_ids("<|audio_eos|>"),
        position_id_per_seconds=25,
        seconds_per_chunk=2,
    )
