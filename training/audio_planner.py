"""Train an audio language model as planner: recordings mixed on the fly, what the listener says of them, plans.

The task behind ``python -m training.planner`` where the configuration names a base model:

    python -m training.planner --config training/configs/planner-paper.yaml --out runs/planner-paper --device cuda

Designs come from the same scene knowledge as the small planner's; their sounds are mixed to a recording that the model
hears. Levels and times in the listener's findings are those of the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional

from smartdj_agent.models.audio_lm import IGNORED, AudioPlannerLM
from smartdj_agent.models.planner_lm import HEAR_RATE, EventToken, Prompt
from smartdj_agent.spatial import place
from training.clips import SAMPLE_RATE, ClipStore, open_store
from training.designer import ScenePresent, default_knowledge
from training.mixing import AZIMUTHS_DEG, Variation, event_peaks, sounding
from training.planner import answer_text, literal_first, make_plan_example, write_knowledge

FRAME = 480
ACTIVE_DB = -35.0
"""Frames this far below a sound's loudest count as silent."""


@dataclass(frozen=True)
class HeardExample:
    """One training pair.

    Attributes
    ----------
    prompt
        What the model is told, with the recording.
    answer
        The plan's lines, or a question's.
    """

    prompt: Prompt
    answer: str


def measured(event: EventToken, stem: np.ndarray) -> EventToken:
    """The event with the level and the time span of its stem, shape (2, n)."""
    power = np.square(stem).mean(axis=0)
    frames = power[: len(power) // FRAME * FRAME].reshape(-1, FRAME).mean(axis=1)
    active = np.flatnonzero(frames > max(frames.max() * 10 ** (ACTIVE_DB / 10), 1e-12))
    if not len(active):
        return event
    level_db = 10 * np.log10(frames[active].mean())
    start, stop = active[0] * FRAME / SAMPLE_RATE, (active[-1] + 1) * FRAME / SAMPLE_RATE
    return replace(event, level_db=round(float(level_db), 1), start_s=round(start, 1), end_s=round(stop, 1))


class AudioPlannerTask:
    """Recordings and requests in, next-token loss of the plan out."""

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        self.knowledge = default_knowledge()
        data = settings["data"]
        self.stores = {split: open_store(data, split) for split in ("train", "valid")}
        # Of other clips the designer has no words to speak.
        self.labels = {
            split: sorted(set(store.labels) & set(self.knowledge.labels)) for split, store in self.stores.items()
        }
        self.duration_s = float(data["duration_s"])
        self.variation = Variation(**data.get("variation", {}))
        model = dict(settings["model"])
        checkpointing = model.pop("checkpointing", False)
        self.model = AudioPlannerLM.fresh(**model).to(device)
        if checkpointing:
            self.model.lm.enable_input_require_grads()
            self.model.lm.gradient_checkpointing_enable()
        self.validation = [
            self.example(np.random.default_rng([997, index]), "valid") for index in range(int(data["validation"]))
        ]

    def example(self, rng: np.random.Generator, split: str) -> HeardExample:
        """Draw a design and mix its sounds; a pure function of `rng`."""
        store = self.stores[split]
        example = make_plan_example(rng, self.knowledge, self.labels[split], split)
        stems = self._stems(store, split, example.present, rng)
        events = tuple(
            measured(event, stems[event.label]) if event.label in stems else event for event in example.events
        )
        mixture = np.sum([*stems.values()], axis=0)
        mono = soxr.resample(mixture.mean(axis=0), SAMPLE_RATE, HEAR_RATE, quality="HQ").astype(np.float32)
        prompt = Prompt(events, example.design.instruction, mono=mono)
        return HeardExample(prompt, answer_text(literal_first(example.design)))

    def _stems(
        self, store: ClipStore, split: str, present: tuple[ScenePresent, ...], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Stems (2, n) by the names that the design uses."""
        n_samples = round(self.duration_s * SAMPLE_RATE)
        meant = {word: label for label in self.labels[split] for word in self.knowledge.words(label)}
        stems: dict[str, np.ndarray] = {}
        for sound, peak in zip(present, event_peaks(len(present), rng), strict=True):
            line, _, _ = sounding(store, rng, meant[sound.label], n_samples, float(peak), self.variation)
            # Where the listener found no direction, the sound is somewhere nevertheless.
            azimuth = float(rng.choice(AZIMUTHS_DEG)) if sound.azimuth_deg is None else sound.azimuth_deg
            stems[sound.label] = place(line, azimuth, SAMPLE_RATE)
        return stems

    def batch(self, rng: np.random.Generator, size: int) -> list[HeardExample]:
        """Draw `size` training examples."""
        return [self.example(rng, "train") for _ in range(size)]

    def loss(self, batch: list[HeardExample]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the answers' tokens."""
        inputs = self.model.inputs([example.prompt for example in batch], [example.answer for example in batch])
        labels = inputs.pop("labels")[:, 1:]
        wanted = labels != IGNORED
        base = self.model.lm.get_base_model()
        # Of the prompt no scores are made: they would be most of the memory.
        hidden = base.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
        logits = base.lm_head(hidden[wanted]).float()
        truth = labels[wanted]
        return functional.cross_entropy(logits, truth), {"token_accuracy": (logits.argmax(-1) == truth).float().mean()}

    def evaluate(self) -> dict[str, float]:
        """Held-out scenes and clips: loss and token accuracy, teacher-forced."""
        with torch.no_grad():
            found = [self.loss([example]) for example in self.validation]
        return {
            "loss": float(np.mean([float(loss) for loss, _ in found])),
            "token_accuracy": float(np.mean([float(extra["token_accuracy"]) for _, extra in found])),
        }

    def save(self, folder: Path) -> None:
        """Write LoRA, adapter and the vocabulary that decoding is constrained to."""
        self.model.save(folder)
        write_knowledge(self.knowledge, folder)
