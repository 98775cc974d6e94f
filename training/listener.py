"""Train the listener: hear what is where (contrastively) and mask out what a text asks for.

    python -m training.listener --config training/configs/listener-small.yaml --out runs/listener

With ``data.on_device`` scenes are mixed where the network trains (`training.gpu_mixing`), with wider variation, several
sounds at once in the first stage, masked features and dropout: for a GPU, where a clip comes round hundreds of times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from smartdj_agent.models.listener import Listener
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.spatial import place
from smartdj_agent.steps import DIRECTIONS
from training import tag_head
from training.clips import SAMPLE_RATE, ClipStore, open_store
from training.gpu_mixing import DeviceClips, make_scenes
from training.gpu_mixing import frame_activity as frame_activity_on_device
from training.labels import wordings
from training.loop import command_line
from training.metrics import si_sdr_db
from training.mixing import AZIMUTHS_DEG, NONE, Scene, Variation, make_scene, varied
from training.texts import TextTable, listener_texts

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
    asked_scene, asked_slot
        Which queries ask for a sound that is there.
    placed_true
        Which of `placed` are true.
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
    asked_scene: Tensor
    asked_slot: Tensor
    placed_true: Tensor


@dataclass(frozen=True)
class ClipBatch:
    """Single clips of the first stage.

    Attributes
    ----------
    mixture
        Shape (B, 2, n).
    active
        Shape (E, T), 1 where the clip sounds; E is B unless several sound at once.
    classes, directions
        Shape (E,): rows of the labels and of `DIRECTIONS`.
    scene
        Shape (E,): row of the mixture.
    weight
        Shape (E,), of the loss.
    names
        5·E texts: each sound's label with each direction.
    vocabulary
        V texts, one wording per label.
    """

    mixture: Tensor
    active: Tensor
    classes: Tensor
    directions: Tensor
    scene: Tensor
    weight: Tensor
    names: list[str]
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
        self.train = open_store(settings["data"], "train")
        self.valid = open_store(settings["data"], "valid")
        self.labels = self.train.labels
        self.duration_s = float(settings["data"]["duration_s"])
        self.queries = int(settings["data"]["queries"])
        self.count_shares = settings["data"]["count_shares"]
        self.variation = Variation(**settings["data"]["variation"])
        self.stage = str(settings.get("stage", "scenes"))
        self.weights = settings["loss"]
        self.device = device
        self.encoder = TextTable(SentenceEncoder().to(device), listener_texts(self.labels), device)
        self.apart = {
            name: (self.train.part(name), float(share)) for name, share in settings["data"].get("apart", {}).items()
        }
        self.clips_on_device: DeviceClips | None = None
        if settings["data"].get("on_device"):
            self.clips_on_device = DeviceClips(self.train, device)
        self.masked_bands = int(settings.get("augment", {}).get("bands", 0))
        self.masked_frames = int(settings.get("augment", {}).get("frames", 0))
        self.clip_shares = settings.get("augment", {}).get("clip_shares", [1.0])
        self.model = Listener(**settings["model"])
        self.compiled = [*self.model.trunk, *self.model.query]
        start = settings.get("start_from")
        if start:
            self._start_from(Path(start))
        if settings.get("tagger"):
            assert self.model.tagged is not None
            self.model.tagged.tagger.load_state_dict(load_file(settings["tagger"]["weights"]))
            self.rates = {
                "tagged.tagger.": float(settings["tagger"]["rate"]),
                "tagged.embed.": float(settings["tagger"]["head_rate"]),
                "tagged.text.": float(settings["tagger"]["head_rate"]),
            }
            if settings["tagger"].get("fit_batches"):
                self._fit_tag_head(int(settings["tagger"]["fit_batches"]))
        self.model.to(device)
        if start and settings.get("centre", True):
            self._centre_presence()
        count = int(settings["data"]["validation_scenes"])
        self.validation = {"": self._validation(self.valid, count)}
        for name in settings["data"].get("validation_apart", []):
            self.validation[f"{name}_"] = self._validation(self.valid.part(name), count)

    def _start_from(self, folder: Path) -> None:
        """Take a trained listener's weights; one that had no tagger is given a fresh one, silent at first."""
        old = load_file(folder / "diffusion_pytorch_model.safetensors")
        missing = self.model.load_state_dict(old, strict=False).missing_keys
        if self.model.tagged is not None and "tagged.join.weight" in missing:
            nn.init.zeros_(self.model.tagged.join.weight)
            nn.init.zeros_(self.model.tagged.join.bias)
        if unknown := [key for key in missing if not key.startswith(("tagged.", "tag_share", "evidence."))]:
            raise ValueError(f"{folder} lacks {unknown[:3]}; start from a listener of this shape.")

    def _fit_tag_head(self, count: int) -> None:
        """Fit the tagger's own projection to `count` batches of 32 clips."""
        batches = (self.clips(self.train, np.random.default_rng([997, i]), 32, self.variation) for i in range(count))
        vectors, classes = tag_head.gather(self.model, ((b.mixture, b.active, b.classes) for b in batches))
        rng = np.random.default_rng(996)
        tables = [
            self.encoder.vectors([self._word(label, rng, plain=index == 0) for label in self.labels])
            for index in range(4)
        ]
        accuracy = tag_head.fit(self.model, vectors, classes, lambda step: tables[step % len(tables)])
        print(f"tag head: {len(vectors)} clips, training accuracy {accuracy:.3f}", flush=True)

    @torch.no_grad()
    def _centre_presence(self) -> None:
        """Set the bias so that a name is as rarely heard as it is there: the first stage left it anywhere."""
        batch = self.clips(self.train, np.random.default_rng(0), 16, NONE)
        names, _ = self.clip_scores(batch)
        self.model.logit_bias.fill_(-5.0 - float(names.mean()))

    def _validation(self, store: ClipStore, count: int) -> list[Batch]:
        batches: list[Batch] = []
        if self.stage == "clips":
            return batches
        for index in range(0, count, 8):
            rng = np.random.default_rng([999, index])
            labels = tuple(store.labels)
            scenes = [
                make_scene(
                    store,
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
        if self.clips_on_device is not None:
            return self._device_clips(rng, size) if self.stage == "clips" else self._device_batch(rng, size)
        if self.stage == "clips":
            return self.clips(self.train, rng, size, self.variation)
        scenes = [
            make_scene(
                self._store(rng),
                rng,
                duration_s=self.duration_s,
                count=int(rng.choice([1, 2, 3, 4], p=self.count_shares)),
                variation=self.variation,
            )
            for _ in range(size)
        ]
        return self._batch(scenes, rng, plain=False)

    def _store(self, rng: np.random.Generator) -> ClipStore:
        """The clips of one scene: all, or now and then those of one folder alone."""
        draw = rng.random() if self.apart else 1.0
        for store, share in self.apart.values():
            if draw < share:
                return store
            draw -= share
        return self.train

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
            torch.arange(size, device=self.device),
            torch.ones(size, device=self.device),
            self._placed_names(classes),
            [self._word(label, rng, plain=False) for label in self.labels],
        )

    def _placed_names(self, classes: Iterable[int]) -> list[str]:
        return [f"{self.labels[label]} at {direction}" for label in classes for direction in DIRECTIONS]

    def _device_clips(self, rng: np.random.Generator, size: int) -> ClipBatch:
        """Pieces of clips, sometimes two or three at once, mixed on the device."""
        assert self.clips_on_device is not None
        scenes = make_scenes(
            self.clips_on_device,
            (int(rng.integers(2**62)),),
            size,
            duration_s=CLIP_S,
            count_shares=self.clip_shares,
            variation=self.variation,
            single=True,
        )
        draws = scenes.draws
        scene, slot = self._index(draws.scene), self._index(draws.slot)
        stems = scenes.stems[scene, slot]
        # A sound under a louder one is a harder question and counts less.
        share = (stems.square().sum((1, 2)) / scenes.mixture.square().sum((1, 2)).clamp(min=1e-8)[scene]).clamp(max=1)
        azimuths = np.array(AZIMUTHS_DEG)
        return ClipBatch(
            scenes.mixture,
            frame_activity_on_device(stems, self.model.config.hop, ACTIVE_DB),
            self._index(draws.label),
            self._index(np.abs(draws.azimuth_deg[:, None] - azimuths).argmin(1)),
            scene,
            share.sqrt(),
            self._placed_names(draws.label.tolist()),
            [self._word(label, rng, plain=False) for label in self.labels],
        )

    def _index(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """A tensor of rows on the device, without waiting for it."""
        tensor = torch.as_tensor(np.asarray(rows), dtype=torch.int64)
        if self.device == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _device_batch(self, rng: np.random.Generator, size: int) -> Batch:
        """Training scenes mixed on the device, with what is asked of them."""
        assert self.clips_on_device is not None
        scenes = make_scenes(
            self.clips_on_device,
            (int(rng.integers(2**62)),),
            size,
            duration_s=self.duration_s,
            count_shares=self.count_shares,
            variation=self.variation,
        )
        draws, hop = scenes.draws, self.model.config.hop
        scene, slot, label = (self._index(rows) for rows in (draws.scene, draws.slot, draws.label))
        activity = frame_activity_on_device(scenes.stems[scene, slot], hop, ACTIVE_DB)
        active = activity.new_zeros(size, len(self.labels), activity.shape[1])
        active[scene, label] = activity
        asked = np.flatnonzero(draws.slot < self.queries - 1)
        targets = scenes.stems.new_zeros(size, self.queries, *scenes.stems.shape[2:])
        targets[:, : min(draws.slots, self.queries - 1)] = scenes.stems[:, : self.queries - 1]
        queries: list[list[str]] = [[] for _ in range(size)]
        present: list[set[str]] = [set() for _ in range(size)]
        placed: list[str] = []
        placed_row: list[int] = []
        directions = list(DIRECTIONS)
        for row, (index, place_of, name) in enumerate(
            zip(draws.scene.tolist(), draws.slot.tolist(), draws.label.tolist(), strict=True)
        ):
            word = self.labels[name]
            direction = nearest_direction(float(draws.azimuth_deg[row]))
            others = [other for other in directions if other != direction]
            first = int(rng.integers(len(others)))
            names = [direction, others[first], others[(first + int(rng.integers(1, len(others)))) % len(others)]]
            said = self._word(word, rng, False) if rng.random() < 0.5 else word
            placed += [f"{said} at {where}" for where in names]
            placed_row += [row] * len(names)
            present[index].add(word)
            if place_of < self.queries - 1:
                text = self._word(word, rng, False)
                queries[index].append(f"{text} at {direction}" if rng.random() < 0.35 else text)
        for texts, there in zip(queries, present, strict=True):
            while len(texts) < self.queries:
                word = self.labels[int(rng.integers(len(self.labels)))]
                if word not in there:
                    texts.append(self._word(word, rng, False))
        rows = self._index(placed_row)
        truth = torch.zeros(len(placed), device=self.device)
        truth[::3] = 1.0
        return Batch(
            scenes.mixture,
            targets,
            queries,
            [self._word(word, rng, False) for word in self.labels],
            active,
            placed,
            scene[rows],
            truth,
            activity[rows],
            label[rows],
            self._index(draws.scene[asked]),
            self._index(draws.slot[asked]),
            torch.arange(0, len(placed), 3, device=self.device),
        )

    def _masked(self, features: Tensor) -> Tensor:
        """Features (B, 5, bands, T) with two stretches of bands and two of frames blanked (SpecAugment)."""
        if not self.model.training:
            return features
        for axis, most in ((2, self.masked_bands), (3, self.masked_frames)):
            for _ in range(2 if most else 0):
                size = features.shape[axis]
                width = torch.rand(len(features), 1, device=features.device) * most
                start = torch.rand(len(features), 1, device=features.device) * (size - width)
                place_of = torch.arange(size, device=features.device)[None]
                kept = (place_of < start) | (place_of >= start + width)
                features = features * (kept[:, None, :, None] if axis == 2 else kept[:, None, None, :])
        return features

    def _voices(self, heard: Tensor, vocabulary: Tensor) -> list[Tensor]:
        """Logits (E, V) of the trunk and, where there is one, of the tagger: each must be right by itself.

        Trained by their sum alone, the surer one on clips known by heart would leave nothing to learn to the other.
        """
        width = self.model.config.embed_width
        scale = self.model.logit_scale.exp()
        return [a @ b.T * scale for a, b in zip(heard.split(width, -1), vocabulary.split(width, -1), strict=True)]

    def clip_scores(self, batch: ClipBatch) -> tuple[Tensor, Tensor]:
        """Logits over all labels, (B, V), and over the five directions of the true label, (B, 5)."""
        pooled, vocabulary, directions = self._clip_vectors(batch)
        return pooled @ vocabulary.T * self.model.logit_scale.exp(), directions

    def _clip_vectors(self, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Each sound's vector, each label's, and the logits (B, 5) of the directions of the true label."""
        model = self.model
        with torch.autocast(self.device.split(":")[0], enabled=False), torch.no_grad():
            senses = model.sense(batch.mixture, model.spectrum(batch.mixture))
            senses.features = self._masked(senses.features)
        frames, tags, _ = model.frames(senses)
        embedded = model.joint(frames, tags)[batch.scene]
        weight = batch.active / batch.active.sum(1, keepdim=True).clamp(min=1)
        pooled = torch.einsum("bt,bte->be", weight, embedded)
        vocabulary = model.text_embeddings(self.encoder.vectors(batch.vocabulary).to(self.device))
        placed = model.text_embeddings(self.encoder.vectors(batch.names).to(self.device))
        placed = placed.unflatten(0, (-1, len(DIRECTIONS)))
        return pooled, vocabulary, torch.einsum("be,bde->bd", pooled, placed) * model.logit_scale.exp()

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
            *(rows.to(self.device) for rows in torch.from_numpy(targets.any((2, 3))).nonzero(as_tuple=True)),
            torch.tensor(placed_truth).nonzero()[:, 0].to(self.device),
        )

    def _word(self, label: str, rng: np.random.Generator, plain: bool) -> str:
        return label if plain or rng.random() < 0.4 else str(rng.choice(wordings(label)))

    def loss(self, batch: Batch | ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mask loss plus presence loss plus direction loss; contrastive loss alone in the first stage."""
        if isinstance(batch, ClipBatch):
            return self._clip_loss(batch)
        model = self.model
        with torch.autocast(self.device.split(":")[0], enabled=False), torch.no_grad():
            spectrum = model.spectrum(batch.mixture)
            whole = model.band_power(spectrum)
            ideal = whole.new_zeros((*batch.targets.shape[:2], *whole.shape[1:]))
            scene, slot = batch.asked_scene, batch.asked_slot
            wanted = model.spectrum(batch.targets[scene, slot])
            own = model.band_power(wanted)
            # Sounds add up in power where they are incoherent, which different sounds are.
            ideal[scene, slot] = (own / (whole[scene] + 1e-10)).clamp(max=1.0)
            weight = whole.pow(float(self.weights["power"]))[:, None]
            weight = weight / (weight.mean(dim=(2, 3, 4), keepdim=True) + 1e-10) + 0.02
            texts = [text for texts in batch.queries for text in texts]
            vectors = self.encoder.vectors(texts).to(self.device).unflatten(0, (len(batch.queries), -1))
            senses = model.sense(batch.mixture, spectrum)
        hearing = model.hear(senses)
        logits = model.mask_logits(hearing, vectors).float()
        mask_loss = (functional.binary_cross_entropy_with_logits(logits, ideal, reduction="none") * weight).mean()
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
        truly = batch.placed_true
        there = batch.active.amax(-1)[batch.placed_scene[truly]]
        name_loss = sum(
            functional.cross_entropy(
                self._without_others(names, there, batch.placed_classes[truly]), batch.placed_classes[truly]
            )
            for names in self._voices(pooled[truly], vocabulary)
        )
        loss = (
            mask_loss
            + self.weights["presence"] * presence_loss
            + self.weights["direction"] * direction_loss
            + self.weights["name"] * name_loss
        )
        figures = {"mask": mask_loss, "presence": presence_loss, "name": name_loss, "direction": direction_loss}
        if self.weights.get("distortion"):
            figures["distortion"], figures["leak"] = self._distortion(logits, spectrum, wanted, batch)
            loss = loss + self.weights["distortion"] * (figures["distortion"] + 0.2 * figures["leak"]) / 10
        return loss, {name: value.detach() for name, value in figures.items()}

    def _clip_loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        pooled, vocabulary, directions = self._clip_vectors(batch)
        names = pooled @ vocabulary.T
        there = names.new_zeros(len(batch.mixture), len(self.labels))
        there[batch.scene, batch.classes] = 1.0
        each = functional.cross_entropy(directions, batch.directions, reduction="none")
        for voice in self._voices(pooled, vocabulary):
            wanted = self._without_others(voice, there[batch.scene], batch.classes)
            each = each + functional.cross_entropy(wanted, batch.classes, reduction="none")
        loss = (each * batch.weight).sum() / batch.weight.sum()
        return loss, {
            "accuracy": (names.argmax(1) == batch.classes).float().mean(),
            "direction_accuracy": (directions.argmax(1) == batch.directions).float().mean(),
        }

    @staticmethod
    def _without_others(names: Tensor, there: Tensor, own: Tensor) -> Tensor:
        """Logits (E, V) in which what else is there, (E, V), is no wrong answer."""
        others = there.bool() & ~functional.one_hot(own, names.shape[1]).bool()
        return names.masked_fill(others, -torch.inf)

    def _distortion(self, logits: Tensor, spectrum: Tensor, wanted: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Energy of the error of what the masks take, dB below the wanted sound; and what absent sounds are given.

        This is what the product is judged by, which the masks' cross-entropy is only a means to. At most 30 dB count.
        """
        scene, slot = batch.asked_scene, batch.asked_slot
        with torch.autocast(self.device.split(":")[0], enabled=False):
            share = torch.sigmoid(logits)
            gains = torch.einsum("fb,pebt->peft", self.model.interpolation, share[scene, slot])
            heard = spectrum[scene]
            left = torch.view_as_real(heard) * gains[..., None] - torch.view_as_real(wanted)
            error = left.square().sum((1, 2, 3, 4))
            energy = wanted.real.square().sum((1, 2, 3)) + wanted.imag.square().sum((1, 2, 3)) + 1e-6
            distortion = 10 * torch.log10(error / energy + 1e-3).mean()
            absent = torch.ones_like(share[:, :, 0, 0, 0])
            absent[scene, slot] = 0.0
            power = self.model.band_power(spectrum)[:, None]
            taken = (share.square() * power).sum((2, 3, 4)) / (power.sum((2, 3, 4)) + 1e-10)
            leak = (10 * torch.log10(taken + 1e-4) * absent).sum() / absent.sum().clamp(min=1)
        return distortion, leak

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
        figures: dict[str, float] = {}
        for name, validation in self.validation.items():
            figures.update({name + key: value for key, value in self._evaluate(validation).items()})
        return figures

    def _evaluate(self, validation: list[Batch]) -> dict[str, float]:
        improvements: list[float] = []
        leaks: list[float] = []
        recall: list[float] = []
        right: list[float] = []
        for batch in validation:
            spectrum = self.model.spectrum(batch.mixture)
            vectors = torch.stack([self.encoder.vectors(texts) for texts in batch.queries])
            hearing = self.model.hear(self.model.sense(batch.mixture, spectrum))
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
                        improvements.append(si_sdr_db(estimate[slot], wanted) - si_sdr_db(batch.mixture[index], wanted))
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
