"""Train the listener: hear what is where (contrastively) and mask out what a text asks for.

python -m training.listener --config training/configs/listener-small.yaml --out runs/listener
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smartdj_agent.models.listener import Listener
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.spatial import place
from smartdj_agent.steps import DIRECTIONS
from training.clips import SAMPLE_RATE, ClipStore
from training.labels import wordings
from training.loop import command_line
from training.metrics import si_sdr_db
from training.mixing import AZIMUTHS_DEG, NONE, Scene, Variation, make_scene, varied

ACTIVE_DB = -35.0
CLIP_S = 2.0


@dataclass(frozen=True)
class Batch:
    """Mixtures with what is to be found in them.

    Attributes
    ----------
    mixture
        Shape (B, 2, n).
    targets
        Shape (B, Q, 2, n): the stem of each query, zeros for a sound that isn't there.
    queries
        B × Q texts.
    vocabulary
        V texts, one wording per label.
    active
        Shape (B, V, T), 1 where the label sounds in the frame.
    placed
        Texts that name a sound and a direction, with (scene, text) truth.
    """

    mixture: Tensor
    targets: Tensor
    queries: list[list[str]]
    vocabulary: list[str]
    active: Tensor
    placed: list[str]
    placed_scene: Tensor
    placed_truth: Tensor
    placed_frames: Tensor
    placed_classes: Tensor


@dataclass(frozen=True)
class ClipBatch:
    """Single clips of the first stage.

    Attributes
    ----------
    mixture
        Shape (B, 2, n).
    active
        Shape (B, T), 1 where the clip sounds.
    classes, directions
        Shape (B,): rows of the labels and of `DIRECTIONS`.
    vocabulary
        V texts, one wording per label.
    """

    mixture: Tensor
    active: Tensor
    classes: Tensor
    directions: Tensor
    vocabulary: list[str]


def frame_activity(stem: np.ndarray, hop: int) -> np.ndarray:
    """Frames (n // hop + 1,) in which a stem (2, n) lies within 35 dB of its loudest frame, as 0 or 1."""
    power = np.square(stem).sum(axis=0)
    padded = np.pad(power, (hop // 2, hop))
    frames = padded[: (len(padded) // hop) * hop].reshape(-1, hop).mean(axis=1)[: stem.shape[1] // hop + 1]
    return (frames > max(frames.max() * 10 ** (ACTIVE_DB / 10), 1e-10)).astype(np.float32)


def nearest_direction(azimuth_deg: float) -> str:
    """The named direction closest to an azimuth."""
    return min(DIRECTIONS, key=lambda name: abs(DIRECTIONS[name] - azimuth_deg))


class ListenerTask:
    """Scenes in, listening and mask losses out."""

    def __init__(self, settings: dict[str, Any], device: str) -> None:
        folders = [Path(folder) for folder in settings["data"]["folders"]]
        cache = Path(settings["data"]["cache"])
        self.train = ClipStore.open(folders, "train", cache)
        self.valid = ClipStore.open(folders, "valid", cache)
        self.labels = self.train.labels
        self.duration_s = float(settings["data"]["duration_s"])
        self.queries = int(settings["data"]["queries"])
        self.count_shares = settings["data"]["count_shares"]
        self.variation = Variation(**settings["data"]["variation"])
        self.stage = str(settings.get("stage", "scenes"))
        self.weights = settings["loss"]
        self.device = device
        self.encoder = SentenceEncoder()
        self.model = Listener(**settings["model"])
        start = settings.get("start_from")
        if start:
            self.model.load_state_dict(Listener.from_pretrained(start).state_dict())
            self._centre_presence()
        self.validation = self._validation(int(settings["data"]["validation_scenes"]))

    @torch.no_grad()
    def _centre_presence(self) -> None:
        """Set the bias so that a name is as rarely heard as it is there: the first stage left it anywhere."""
        batch = self.clips(self.train, np.random.default_rng(0), 16, NONE)
        names, _ = self.clip_scores(batch)
        self.model.logit_bias.fill_(-5.0 - float(names.mean()))

    def _validation(self, count: int) -> list[Batch]:
        batches: list[Batch] = []
        if self.stage == "clips":
            return batches
        for index in range(0, count, 8):
            rng = np.random.default_rng([999, index])
            labels = tuple(self.valid.labels)
            scenes = [
                make_scene(
                    self.valid,
                    rng,
                    duration_s=self.duration_s,
                    count=2 + i % 3,
                    variation=NONE,
                    labels=labels,
                )
                for i in range(8)
            ]
            batches.append(self._batch(scenes, rng, plain=True))
        return batches

    def batch(self, rng: np.random.Generator, size: int) -> Batch | ClipBatch:
        """Mix `size` training scenes, or draw single clips in the first stage."""
        if self.stage == "clips":
            return self.clips(self.train, rng, size, self.variation)
        scenes = [
            make_scene(
                self.train,
                rng,
                duration_s=self.duration_s,
                count=int(rng.choice([1, 2, 3, 4], p=self.count_shares)),
                variation=self.variation,
            )
            for _ in range(size)
        ]
        return self._batch(scenes, rng, plain=False)

    def clips(self, store: ClipStore, rng: np.random.Generator, size: int, variation: Variation) -> ClipBatch:
        """Single placed clips of two seconds, classes drawn evenly."""
        length = round(CLIP_S * SAMPLE_RATE)
        waves, frames, classes, directions = [], [], [], []
        for label in map(str, rng.choice(store.labels, size)):
            sound = varied(store.samples(int(rng.choice(store.by_label[label]))), variation, rng)
            start = int(rng.integers(0, max(1, len(sound) - length)))
            line = np.zeros(length, np.float32)
            piece = sound[start : start + length]
            onset = int(rng.integers(0, length - len(piece) + 1))
            line[onset : onset + len(piece)] = piece * np.float32(10 ** (rng.uniform(-20, 0) / 20))
            direction = int(rng.integers(len(AZIMUTHS_DEG)))
            wave = place(line, AZIMUTHS_DEG[direction], SAMPLE_RATE)
            waves.append(wave)
            frames.append(frame_activity(wave, self.model.config.hop))
            classes.append(self.labels.index(label))
            directions.append(direction)
        return ClipBatch(
            torch.from_numpy(np.stack(waves)).to(self.device),
            torch.from_numpy(np.stack(frames)).to(self.device),
            torch.tensor(classes, device=self.device),
            torch.tensor(directions, device=self.device),
            [self._word(label, rng, plain=False) for label in self.labels],
        )

    def clip_scores(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Logits over all labels, (B, V), and over the five directions of the true label, (B, 5)."""
        model = self.model
        with torch.autocast(self.device.split(":")[0], enabled=False), torch.no_grad():
            spectrum = model.spectrum(batch.mixture)
        frames = model.frames(model.features(spectrum))[0]
        embedded = functional.normalize(model.embed(frames).float(), dim=-1)
        weight = batch.active / batch.active.sum(1, keepdim=True).clamp(min=1)
        pooled = torch.einsum("bt,bte->be", weight, embedded)
        vocabulary = model.text_embeddings(self.encoder.vectors(batch.vocabulary).to(self.device))
        names = [f"{self.labels[label]} at {direction}" for label in batch.classes.tolist() for direction in DIRECTIONS]
        placed = model.text_embeddings(self.encoder.vectors(names).to(self.device)).unflatten(0, (-1, len(DIRECTIONS)))
        scale = model.logit_scale.exp()
        return pooled @ vocabulary.T * scale, torch.einsum("be,bde->bd", pooled, placed) * scale

    def _batch(self, scenes: list[Scene], rng: np.random.Generator, *, plain: bool) -> Batch:
        hop = self.model.config.hop
        length = scenes[0].noise.shape[1]
        active = np.zeros((len(scenes), len(self.labels), length // hop + 1), np.float32)
        targets = np.zeros((len(scenes), self.queries, 2, length), np.float32)
        queries: list[list[str]] = []
        placed: list[str] = []
        placed_scene: list[int] = []
        placed_truth: list[float] = []
        placed_frames: list[np.ndarray] = []
        placed_classes: list[int] = []
        for index, scene in enumerate(scenes):
            asked: list[str] = []
            present = {event.label for event in scene.events}
            for slot, event in enumerate(scene.events):
                activity = frame_activity(scene.stems[slot], hop)
                row = self.labels.index(event.label)
                active[index, row] = np.maximum(active[index, row], activity)
                direction = nearest_direction(event.azimuth_deg)
                names = [direction, *rng.choice([d for d in DIRECTIONS if d != direction], 2, replace=False)]
                for name in names:
                    placed.append(f"{event.label} at {name}")
                    placed_scene.append(index)
                    placed_truth.append(float(name == direction))
                    placed_frames.append(activity)
                    placed_classes.append(row)
                if slot < self.queries - 1:
                    targets[index, slot] = scene.stems[slot]
                    text = self._word(event.label, rng, plain)
                    if not plain and rng.random() < 0.35:
                        text = f"{text} at {direction}"
                    asked.append(text)
            while len(asked) < self.queries:
                label = str(rng.choice(self.labels))
                if label not in present:
                    asked.append(self._word(label, rng, plain))
            queries.append(asked)
        mixture = np.stack([scene.mixture for scene in scenes])
        return Batch(
            torch.from_numpy(mixture).to(self.device),
            torch.from_numpy(targets).to(self.device),
            queries,
            [self._word(label, rng, plain) for label in self.labels],
            torch.from_numpy(active).to(self.device),
            placed,
            torch.tensor(placed_scene, device=self.device),
            torch.tensor(placed_truth, device=self.device),
            torch.from_numpy(np.stack(placed_frames)).to(self.device),
            torch.tensor(placed_classes, device=self.device),
        )

    def _word(self, label: str, rng: np.random.Generator, plain: bool) -> str:
        return label if plain or rng.random() < 0.4 else str(rng.choice(wordings(label)))

    def loss(self, batch: Batch | ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """Mask loss plus presence loss plus direction loss; contrastive loss alone in the first stage."""
        if isinstance(batch, ClipBatch):
            names, directions = self.clip_scores(batch)
            loss = functional.cross_entropy(names, batch.classes) + functional.cross_entropy(
                directions, batch.directions
            )
            return loss, {
                "accuracy": float((names.argmax(1) == batch.classes).float().mean()),
                "direction_accuracy": float((directions.argmax(1) == batch.directions).float().mean()),
            }
        model = self.model
        with torch.autocast(self.device.split(":")[0], enabled=False), torch.no_grad():
            spectrum = model.spectrum(batch.mixture)
            whole = model.band_power(spectrum)
            ideal = whole.new_zeros((*batch.targets.shape[:2], *whole.shape[1:]))
            scene, slot = batch.targets.flatten(2).any(-1).nonzero(as_tuple=True)
            own = model.band_power(model.spectrum(batch.targets[scene, slot]))
            # Sounds add up in power where they are incoherent, which different sounds are.
            ideal[scene, slot] = (own / (whole[scene] + 1e-10)).clamp(max=1.0)
            weight = whole.pow(float(self.weights["power"]))[:, None]
            weight = weight / (weight.mean(dim=(2, 3, 4), keepdim=True) + 1e-10) + 0.02
            vectors = torch.stack([self.encoder.vectors(texts) for texts in batch.queries]).to(self.device)
        hearing = model.hear(spectrum)
        logits = model.mask_logits(hearing, vectors).float()
        mask_loss = (
            functional.binary_cross_entropy_with_logits(logits, ideal, reduction="none") * weight
        ).mean()
        embedded = model.frame_embeddings(hearing)
        vocabulary = model.text_embeddings(self.encoder.vectors(batch.vocabulary).to(self.device))
        every = 5
        presence = model.presence_logits(embedded[:, ::every], vocabulary)
        truth = batch.active[:, :, ::every]
        presence_loss = functional.binary_cross_entropy_with_logits(presence, truth, reduction="sum") / (
            truth.sum() + 1.0
        )
        placed = model.text_embeddings(self.encoder.vectors(batch.placed).to(self.device))
        frames = batch.placed_frames / batch.placed_frames.sum(1, keepdim=True).clamp(min=1)
        pooled = torch.einsum("pt,pte->pe", frames, embedded[batch.placed_scene])
        direction = (pooled * placed).sum(-1) * model.logit_scale.exp() + model.logit_bias
        direction_loss = functional.binary_cross_entropy_with_logits(direction, batch.placed_truth)
        # Which name fits best is a sharper question than whether one fits; it also keeps what the first stage learned.
        truly = batch.placed_truth > 0
        names = pooled[truly] @ vocabulary.T * model.logit_scale.exp()
        others = batch.active.amax(-1)[batch.placed_scene[truly]].bool()
        own = functional.one_hot(batch.placed_classes[truly], len(self.labels)).bool()
        name_loss = functional.cross_entropy(
            names.masked_fill(others & ~own, -torch.inf), batch.placed_classes[truly]
        )
        loss = (
            mask_loss
            + self.weights["presence"] * presence_loss
            + self.weights["direction"] * direction_loss
            + self.weights["name"] * name_loss
        )
        return loss, {
            "mask": float(mask_loss.detach()),
            "presence": float(presence_loss.detach()),
            "name": float(name_loss.detach()),
            "direction": float(direction_loss.detach()),
        }

    def evaluate(self) -> dict[str, float]:
        """Held-out clips, unchanged: SI-SDR improvement, presence ranking, direction accuracy."""
        if self.stage == "clips":
            hits: list[float] = []
            fifth: list[float] = []
            sides: list[float] = []
            for index in range(8):
                batch = self.clips(self.valid, np.random.default_rng([995, index]), 32, NONE)
                names, directions = self.clip_scores(batch)
                hits += (names.argmax(1) == batch.classes).float().tolist()
                fifth += (names.topk(5).indices == batch.classes[:, None]).any(1).float().tolist()
                sides += (directions.argmax(1) == batch.directions).float().tolist()
            return {
                "accuracy": float(np.mean(hits)),
                "top_5": float(np.mean(fifth)),
                "direction_of_5": float(np.mean(sides)),
            }
        improvements: list[float] = []
        leaks: list[float] = []
        recall: list[float] = []
        right: list[float] = []
        for batch in self.validation:
            spectrum = self.model.spectrum(batch.mixture)
            vectors = torch.stack([self.encoder.vectors(texts) for texts in batch.queries])
            hearing = self.model.hear(spectrum)
            masks = torch.sigmoid(self.model.mask_logits(hearing, vectors.to(self.device)).float())
            gains = torch.einsum("fb,nqebt->nqeft", self.model.interpolation, masks)
            for index in range(len(batch.mixture)):
                estimate = torch.istft(
                    (gains[index] * spectrum[index]).flatten(0, 1),
                    self.model.config.n_fft,
                    self.model.config.hop,
                    window=self.model.window,
                    length=batch.mixture.shape[-1],
                ).unflatten(0, (-1, 2))
                for slot, wanted in enumerate(batch.targets[index]):
                    if wanted.square().sum() > 0:
                        improvements.append(
                            si_sdr_db(estimate[slot], wanted) - si_sdr_db(batch.mixture[index], wanted)
                        )
                    else:
                        ratio = estimate[slot].square().sum() / batch.mixture[index].square().sum()
                        leaks.append(10 * math.log10(float(ratio) + 1e-9))
            embedded = self.model.frame_embeddings(hearing)
            vocabulary = self.model.text_embeddings(self.encoder.vectors(self.labels).to(self.device))
            scores = self.model.presence_logits(embedded, vocabulary).amax(-1)
            truth = batch.active.amax(-1)
            for index in range(len(scores)):
                count = int(truth[index].sum())
                top = scores[index].topk(count).indices
                recall.append(float(truth[index, top].mean()))
            placed = self.model.text_embeddings(self.encoder.vectors(batch.placed).to(self.device))
            frames = batch.placed_frames / batch.placed_frames.sum(1, keepdim=True).clamp(min=1)
            pooled = torch.einsum("pt,pte->pe", frames, embedded[batch.placed_scene])
            right += (pooled * placed).sum(-1).reshape(-1, 3).argmax(1).eq(0).float().tolist()
        return {
            "si_sdr_improvement_db": float(np.median(improvements)),
            "above_3_db": float(np.mean(np.array(improvements) > 3)),
            "absent_leak_db": float(np.median(leaks)),
            "top_k_recall": float(np.mean(recall)),
            "direction_of_3": float(np.mean(right)),
        }

    def save(self, folder: Path) -> None:
        """Write config and weights in diffusers layout."""
        self.model.save_pretrained(folder)


def main() -> None:
    """Command line."""
    command_line(__doc__, ListenerTask)


if __name__ == "__main__":
    main()
