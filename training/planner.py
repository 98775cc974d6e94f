"""Train the planner: designs by the scene knowledge, the listener's findings with its mistakes, loss on the plan only.

    python -m training.planner --config training/configs/planner-small.yaml --out runs/planner

A configuration that names a ``base`` trains an audio language model instead: see `training.audio_planner`.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smartdj_agent.errors import SmartDJError
from smartdj_agent.models.planner_lm import EventToken, PlannerLM, prompt_text
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.plan_text import plan_text, read_plan_text
from smartdj_agent.steps import Step
from training.designer import CATEGORY_NOUNS, Design, SceneKnowledge, ScenePresent, default_knowledge, design
from training.loop import Task, command_line
from training.texts import TextTable

AZIMUTHS_DEG = (-90.0, -45.0, 0.0, 45.0, 90.0)
PART = 8
"""Examples that go through the network at a time."""


@dataclass(frozen=True)
class PlanExample:
    """One training pair: what the listener says, what the person says, what the plan is."""

    events: tuple[EventToken, ...]
    design: Design
    present: tuple[ScenePresent, ...] = ()


def heard_events(present: list[ScenePresent], rng: np.random.Generator, labels: list[str]) -> list[EventToken]:
    """Findings of an imperfect listener: true sounds mostly, a false one sometimes, surest first."""
    events = []
    for sound in present:
        start = float(rng.choice([0.0, rng.uniform(0, 7)]))
        events.append(
            EventToken(
                sound.label,
                round(float(rng.beta(5, 2)), 2),
                round(float(rng.uniform(-45, -12)), 1),
                sound.azimuth_deg,
                round(start, 1),
                round(float(rng.uniform(start + 0.5, 10)), 1),
            )
        )
    if rng.random() < 0.25:
        false = str(rng.choice(labels))
        if all(false != sound.label for sound in present):
            start = float(rng.uniform(0, 8))
            azimuth = float(rng.choice(AZIMUTHS_DEG))
            confidence = round(float(rng.beta(2, 4)), 2)
            events.append(EventToken(false, confidence, -40.0, azimuth, round(start, 1), round(start + 1.5, 1)))
    return sorted(events, key=lambda event: -event.confidence)


def make_plan_example(
    rng: np.random.Generator, knowledge: SceneKnowledge, labels: list[str], split: str
) -> PlanExample:
    """Draw sounds, let the designer write, add the listener's mistakes; a pure function of `rng`."""
    chosen = list(map(str, rng.choice(labels, size=int(rng.integers(2, 6)), replace=False)))
    if rng.random() < 0.6:
        # Among random sounds hardly any fits a scene; real recordings hold sounds that belong together.
        scenes = knowledge.scenes(split)
        scene = scenes[int(rng.integers(len(scenes)))]
        fitting = sorted({knowledge.like(entry) for entry in scene.belongs} & set(labels))
        count = min(len(fitting), len(chosen) - 1, int(rng.integers(1, 4)))
        own = list(map(str, rng.choice(fitting, size=count, replace=False))) if count else []
        chosen = own + [label for label in chosen if label not in own][: len(chosen) - count]
    present = []
    for label in map(str, rng.permutation(chosen)):
        named = str(rng.choice(knowledge.words(label))) if rng.random() < 0.2 else label
        azimuth = None if rng.random() < 0.1 else float(rng.choice(AZIMUTHS_DEG))
        present.append(ScenePresent(named, azimuth))
    written = design(rng, present, labels, knowledge, split=split)
    return PlanExample(tuple(heard_events(present, rng, labels)), written, tuple(present))


def answer_text(written: Design) -> str:
    """What the model is to write: the plan's lines, or a question with its choices."""
    if written.kind == "question":
        return plan_text((), question=written.question, choices=written.choices)
    return plan_text(written.steps)


def literal_first(written: Design) -> Design:
    """A mixed request's plan with what it asks word by word in front.

    Those steps are read, not guessed (`smartdj_agent.direct`), and the model goes on behind them.
    """
    if not written.literal:
        return written
    return replace(written, steps=(*written.literal, *(step for step in written.steps if step not in written.literal)))


def sound_names(knowledge: SceneKnowledge) -> dict[str, dict[str, object]]:
    """All names that a plan may use: label → noun and wordings, those of the scenes ("seagulls squawking") too."""
    words = {label: dict.fromkeys(knowledge.words(label)) for label in knowledge.labels}
    for split in ("train", "valid", "test"):
        for scene in knowledge.scenes(split):
            for entry in scene.belongs:
                words[knowledge.like(entry)].setdefault(entry.label)
    for moment in knowledge.moments:
        for entry in moment.belongs:
            words[knowledge.like(entry)].setdefault(entry.label)
    return {label: {"noun": knowledge.noun(label), "words": list(words[label])} for label in sorted(words)}


def prepare_examples(seed: list[int], size: int) -> list[PlanExample]:
    """Draw `size` training examples; in another process, which loads the scene knowledge once."""
    rng, knowledge = np.random.default_rng(seed), default_knowledge()
    labels = sorted(knowledge.labels)
    return [make_plan_example(rng, knowledge, labels, "train") for _ in range(size)]


class PlannerTask:
    """Designs in, next-token loss out."""

    prepare = staticmethod(prepare_examples)

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        self.knowledge = default_knowledge()
        self.labels = sorted(label for label in self.knowledge.labels)
        self.encoder: SentenceEncoder | TextTable = SentenceEncoder()
        if device != "cpu":
            names = [word for label in self.labels for word in (label, *self.knowledge.words(label))]
            self.encoder = TextTable(self.encoder.to(device), names, device)
        self.model = PlannerLM.fresh(self.encoder.vectors, **settings["model"])
        if start := settings.get("start_from"):
            self.model.start_from(Path(start))
        self.device = device
        count = int(settings["data"].get("workers", 0))
        # Fresh processes, not forks: this one may have started the GPU.
        self.workers = ProcessPoolExecutor(count, get_context("spawn")) if count else None
        self.validation = [
            make_plan_example(np.random.default_rng([997, index]), self.knowledge, self.labels, "valid")
            for index in range(int(settings["data"]["validation"]))
        ]

    def batch(
        self, rng: np.random.Generator, size: int, prepared: list[PlanExample] | None = None
    ) -> list[PlanExample]:
        """Draw `size` examples, or take those that were drawn elsewhere."""
        if prepared is not None:
            return prepared
        return [make_plan_example(rng, self.knowledge, self.labels, "train") for _ in range(size)]

    def _tensors(self, batch: list[PlanExample]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Embeddings (B, L, width), mask (B, L), and of the answers' tokens: row, place before it, token."""
        tokenizer = self.model.tokenizer
        prompts = tokenizer([prompt_text(example.events, example.design.instruction) for example in batch]).input_ids
        answers = tokenizer([answer_text(literal_first(example.design)) for example in batch]).input_ids
        counts = [len(example.events) for example in batch]
        length = max(
            count + len(prompt) + len(answer) + 1
            for count, prompt, answer in zip(counts, prompts, answers, strict=True)
        )
        ids, mask = np.zeros((len(batch), length), np.int64), np.zeros((len(batch), length), np.int64)
        audio: list[tuple[int, int]] = []
        wanted: list[tuple[int, int, int]] = []
        for row, (count, prompt, answer) in enumerate(zip(counts, prompts, answers, strict=True)):
            answer = [*answer, tokenizer.eos_token_id]
            start = count + len(prompt)
            ids[row, count:start], ids[row, start : start + len(answer)] = prompt, answer
            mask[row, : start + len(answer)] = 1
            audio += [(row, place) for place in range(count)]
            wanted += [(row, start - 1 + place, token) for place, token in enumerate(answer)]

        def moved(values: Any) -> Tensor:
            tensor = torch.as_tensor(np.asarray(values))
            return tensor if self.device == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)

        embedded = self.model.lm.get_input_embeddings()(moved(ids))
        if audio:
            events = [event for example in batch for event in example.events]
            vectors = self.encoder.vectors([event.label for event in events]).to(self.device)
            stats = moved(np.array([event.stats() for event in events], np.float32))
            tokens = self.model.adapter(vectors[None].float(), stats[None])[0].to(embedded.dtype)
            rows, places = moved(audio).unbind(1)
            embedded = embedded.index_put((rows, places), tokens)
        rows, places, truth = moved(wanted).unbind(1)
        return embedded, moved(mask), rows, places, truth

    def loss(self, batch: list[PlanExample]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the answers' tokens.

        Examples go through the network in parts of like length, since what a short one is filled up with costs as much
        as what it says.
        """
        parts = max(1, len(batch) // PART)
        by_length = sorted(batch, key=lambda example: len(example.design.instruction) + 30 * len(example.events))
        losses, hits = [], []
        for part in range(parts):
            some = by_length[part * len(batch) // parts : (part + 1) * len(batch) // parts]
            embedded, mask, rows, places, truth = self._tensors(some)
            base = self.model.lm.get_base_model()
            hidden = base.model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
            logits = base.lm_head(hidden[rows, places]).float()
            losses.append(functional.cross_entropy(logits, truth, reduction="none"))
            hits.append((logits.argmax(-1) == truth).float())
        return torch.cat(losses).mean(), {"token_accuracy": torch.cat(hits).mean()}

    def evaluate(self) -> dict[str, float]:
        """Held-out scenes: loss and token accuracy, teacher-forced."""
        losses, accuracies = [], []
        for index in range(0, len(self.validation), 8):
            loss, extra = self.loss(self.validation[index : index + 8])
            losses.append(float(loss))
            accuracies.append(float(extra["token_accuracy"]))
        return {"loss": float(np.mean(losses)), "token_accuracy": float(np.mean(accuracies))}

    def save(self, folder: Path) -> None:
        """Write LoRA, adapter and the vocabulary that decoding is constrained to."""
        self.model.save(folder)
        write_knowledge(self.knowledge, folder)


def write_knowledge(knowledge: SceneKnowledge, folder: Path) -> None:
    """Write the vocabulary that decoding is constrained to."""
    for name, content in (("vocabulary", sound_names(knowledge)), ("groups", group_names(knowledge))):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def group_names(knowledge: SceneKnowledge) -> dict[str, list[str]]:
    """What people call several sounds at once ("voices", "animals", "music"), with the labels that it stands for."""
    named: dict[str, set[str]] = {}
    for group in knowledge.groups.values():
        named.setdefault(group.noun, set()).update(group.labels)
    for category, noun in CATEGORY_NOUNS.items():
        named.setdefault(noun, set()).update(knowledge.select(category))
    return {noun: sorted(labels) for noun, labels in sorted(named.items())}


def check_readable(example: PlanExample) -> bool:
    """Whether the text that the model learns to write reads back as the designed plan."""
    try:
        steps, question, _ = read_plan_text(answer_text(example.design))
    except SmartDJError:
        return False
    wanted: tuple[Step, ...] = example.design.steps
    return steps == wanted and bool(question) == (example.design.kind == "question")


def make_task(settings: dict[str, Any], device: str) -> Task:
    """The task of a configuration: with a `base`, an audio language model's."""
    if "base" not in settings["model"]:
        return PlannerTask(settings, device)
    from training.audio_planner import AudioPlannerTask

    return AudioPlannerTask(settings, device)


def main() -> None:
    """Command line."""
    command_line(__doc__, make_task)


if __name__ == "__main__":
    main()
