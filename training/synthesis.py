"""Training examples as pure functions of a seed: a recording, what is asked, and what each step makes of it.

An example starts as 2 to 5 sounds, each with a parameter set of its own: which clip, how varied, when it
starts, how loud, and where. A step changes one sound's parameters; then its stem is made anew and the mixture
is the sum of all stems, so ``a_i − a_(i−1)`` is exactly the change of that one stem. Nothing is ever
normalised after the start.

Levels (paper.md §3.2): the peaks of the first sounds sum to 0.5 before placement, spread within ±3.5 dB; an
edit multiplies by 10^(dB/20); an added sound has the peak 0.5·10^(dB/20).

All stems lie on a grid of 2⁻¹⁵ (that of 16-bit audio, which the published demo recordings are): sums and
differences of such samples are exact in float32, and so are the files that `training.dataset` writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from smartdj_agent.render import ADDED_PEAK, amplitude, apply_to_stem
from smartdj_agent.spatial import place, room_place
from smartdj_agent.steps import Operation, Step, Timbre, format_step
from training.clips import SAMPLE_RATE, SPLITS, ClipStore
from training.designer import SceneKnowledge, ScenePresent, design
from training.mixing import AZIMUTHS_DEG, Variation, laid_out, make_scene, varied
from training.spelling import spelled

GRID = 2.0**-15
VARIATION = Variation(noise_floor=0.0, level_db=0.0)
"""Clips are varied as for training, without noise or a change of the whole level: the law of levels holds."""

RT60_S = (0.3, 1.2)
ABSENT_SHARE = 0.04
"""How often a single step names a sound that is not there."""
NAMED_AZIMUTH_SHARE = 0.5
"""How often a single step says where the sound is that it names."""
WORDING_SHARE = 0.5
"""How often a single step names its sound by another wording than the bank's label."""
SINGLE_COUNT_SHARES = (0.1, 0.3, 0.3, 0.2, 0.1)
"""How many sounds a single step's recording has: shares of 1 to 5."""


class ExampleKind(StrEnum):
    """What an example is for: the planner (an instruction, several steps) or the editor (one step)."""

    DECLARATIVE = "declarative"
    SINGLE = "single"


class Placement(StrEnum):
    """How a sound is given its direction: the released rule, or a simulated room (the paper's text)."""

    RELEASED = "released"
    ROOM = "room"


@dataclass(frozen=True)
class SoundEvent:
    """One sound of an example, as it started.

    Attributes
    ----------
    label
        The clip's label.
    name
        How the example's steps call it.
    clip
        Folder and file of the clip.
    azimuth_deg
        Where it started, −90 (left) to 90 (right).
    peak
        Peak amplitude before placement.
    onsets_s
        Where the clip starts, seconds.
    added_by
        Index of the step that added it; None for a sound of the source.
    """

    label: str
    name: str
    clip: str
    azimuth_deg: float
    peak: float
    onsets_s: tuple[float, ...]
    added_by: int | None = None


@dataclass(frozen=True)
class Example:
    """A recording, what is asked, and what becomes of it.

    Attributes
    ----------
    seed, kind, split, placement
        What it is a function of, besides the clips and the knowledge.
    instruction
        What a person says; for a single step, the step in one of its published spellings.
    events
        All sounds, those of the source first.
    source
        a0, shape (2, n), float32, 24 kHz.
    trajectory
        Each step with the recording after it, shape (2, n); empty where the answer is a question.
    stems
        For each moment 0…len(trajectory), the stems of all events, shape (moments, events, 2, n) as nested
        tuples that share arrays; silent for an event that is not (or no longer) there.
    scene, design_kind, question, choices
        As the designer gives them; `design_kind` is ``single`` for a single step.
    absent
        Whether the single step names a sound that is not there.
    rt60_s
        Reverberation time of the room, seconds; 0 for the released rule.
    """

    seed: int
    kind: ExampleKind
    split: str
    placement: Placement
    instruction: str
    events: tuple[SoundEvent, ...]
    source: np.ndarray
    trajectory: tuple[tuple[Step, np.ndarray], ...]
    stems: tuple[tuple[np.ndarray, ...], ...] = field(repr=False)
    scene: str = ""
    design_kind: str = ""
    question: str = ""
    choices: tuple[str, ...] = ()
    absent: bool = False
    rt60_s: float = 0.0

    @property
    def steps(self) -> tuple[Step, ...]:
        """The plan."""
        return tuple(step for step, _ in self.trajectory)

    @property
    def final(self) -> np.ndarray:
        """The recording after the last step (the source, where there is none)."""
        return self.trajectory[-1][1] if self.trajectory else self.source


@dataclass(frozen=True)
class _Voice:
    """The parameters of a sound at one moment; its stem is a function of them."""

    event: SoundEvent
    line: np.ndarray
    azimuth_deg: float
    changes: tuple[Step, ...] = ()
    sounding: bool = True


@dataclass(frozen=True)
class _Stage:
    """Where an example plays: everything but the sounds' own parameters."""

    placement: Placement
    rt60_s: float
    room_seed: int

    def stem(self, voice: _Voice, slot: int) -> np.ndarray:
        """Render one sound, shape (2, n), on the grid."""
        if not voice.sounding:
            return np.zeros((2, voice.line.size), np.float32)
        if self.placement is Placement.ROOM:
            # One seed for all sounds of an example puts them into the same room.
            rng = np.random.default_rng(self.room_seed)
            stem = room_place(voice.line, voice.azimuth_deg, SAMPLE_RATE, self.rt60_s, rng)
        else:
            stem = place(voice.line, voice.azimuth_deg, SAMPLE_RATE)
        for index, step in enumerate(voice.changes):
            stem = apply_to_stem(stem, step, SAMPLE_RATE, seed=self.room_seed + 16 * slot + index)
        return (np.rint(stem * np.float32(1 / GRID)) * np.float32(GRID)).astype(np.float32)


def example_seed(seed: int, kind: str, split: str, index: int) -> int:
    """Seed of one example of a set, 0 to 2⁶³ − 1, whatever the size of the set."""
    digest = hashlib.sha256(f"smartdj {seed} {kind} {split} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _clip_name(store: ClipStore, index: int) -> str:
    return "/".join(store.clips[index].path.parts[-3:])


def _same_sound(name: str, target: str, knowledge: SceneKnowledge) -> bool:
    """Whether a step's target means the sound called `name`."""
    return name == target or (knowledge.bank_label(name) or name) == (knowledge.bank_label(target) or target)


def _names(label: str, knowledge: SceneKnowledge) -> tuple[str, ...]:
    known = knowledge.bank_label(label)
    return knowledge.names(known) if known else (label,)


def _added_voice(
    step: Step, index: int, label: str, store: ClipStore, n_samples: int, rng: np.random.Generator
) -> _Voice:
    clip_index = int(rng.choice(store.by_label[label]))
    clip = varied(store.samples(clip_index), VARIATION, rng)
    line, onsets = laid_out(clip, n_samples, store.clips[clip_index].kind == "continuous", rng)
    peak = ADDED_PEAK * amplitude(step.gain_db or 0.0)
    line *= np.float32(peak / max(float(np.abs(line).max()), 1e-6))
    azimuth_deg = step.azimuth_deg or 0.0
    event = SoundEvent(label, step.target, _clip_name(store, clip_index), azimuth_deg, peak, onsets, index)
    return _Voice(event, line, azimuth_deg)


def _after(
    voices: Sequence[_Voice],
    step: Step,
    index: int,
    store: ClipStore,
    knowledge: SceneKnowledge,
    rng: np.random.Generator,
) -> list[_Voice]:
    """The sounds' parameters after a step.

    Raises
    ------
    ValueError
        If the step adds a sound of which there is no clip.
    """
    if step.operation is Operation.ADD:
        label = step.target if step.target in store.by_label else knowledge.bank_label(step.target)
        if label not in store.by_label:
            raise ValueError(f"no clip to add for {step.target!r}")
        return [*voices, _added_voice(step, index, label, store, voices[0].line.size, rng)]
    meant = [_same_sound(voice.event.name, step.target, knowledge) for voice in voices]
    after = []
    for voice, is_meant in zip(voices, meant, strict=True):
        match step.operation:
            case Operation.EXTRACT if voice.sounding and not is_meant:
                after.append(replace(voice, sounding=False))
            case Operation.REMOVE if voice.sounding and is_meant:
                after.append(replace(voice, sounding=False))
            case Operation.EXTRACT | Operation.REMOVE:
                after.append(voice)
            case Operation.DIRECTION if is_meant:
                assert step.to_azimuth_deg is not None
                after.append(replace(voice, azimuth_deg=step.to_azimuth_deg))
            case _ if is_meant:
                after.append(replace(voice, changes=(*voice.changes, step)))
            case _:
                after.append(voice)
    return after


def _draw_azimuth(rng: np.random.Generator, away_from: float | None = None) -> float:
    """One of the five directions (85 %) or any; at least 30° from `away_from`."""
    while True:
        azimuth = float(rng.choice(AZIMUTHS_DEG))
        if rng.random() < 0.15:
            azimuth = float(round(rng.uniform(-90, 90)))
        if away_from is None or abs(azimuth - away_from) >= 30:
            return azimuth


def _draw_step(operation: Operation, target: str, heard_at: float | None, rng: np.random.Generator) -> Step:
    """A step with parameters drawn at random; `heard_at` is where the sound is (None for one to be added)."""
    if operation is Operation.ADD:
        gain_db = float(rng.integers(-3, 4)) if rng.random() < 0.8 else round(float(rng.uniform(-6, 6)), 1)
        return Step(operation, target, azimuth_deg=_draw_azimuth(rng), gain_db=gain_db)
    said = heard_at if heard_at is not None and rng.random() < NAMED_AZIMUTH_SHARE else None
    match operation:
        case Operation.VOLUME:
            size = float(rng.integers(1, 7)) if rng.random() < 0.8 else round(float(rng.uniform(1, 12)), 1)
            return Step(operation, target, azimuth_deg=said, gain_db=size * float(rng.choice((-1, 1))))
        case Operation.DIRECTION:
            return Step(operation, target, azimuth_deg=said, to_azimuth_deg=_draw_azimuth(rng, heard_at))
        case Operation.SHIFT:
            shift_s = round(float(rng.uniform(0.2, 3.0)), 1) * float(rng.choice((-1, 1)))
            return Step(operation, target, azimuth_deg=said, shift_s=shift_s)
        case Operation.REVERB:
            return Step(operation, target, azimuth_deg=said, reverb_level=int(rng.integers(1, 11)))
        case Operation.TIMBRE:
            timbre = list(Timbre)[int(rng.integers(len(Timbre)))]
            return Step(operation, target, azimuth_deg=said, timbre=timbre)
        case _:
            return Step(operation, target, azimuth_deg=said)


@dataclass(frozen=True)
class _Request:
    """What is asked of a recording, by the designer or as a single step."""

    instruction: str
    steps: tuple[Step, ...]
    kind: str
    scene: str = ""
    question: str = ""
    choices: tuple[str, ...] = ()
    absent: bool = False


def _single_request(
    present: Sequence[ScenePresent],
    addable: Sequence[str],
    knowledge: SceneKnowledge,
    rng: np.random.Generator,
) -> _Request:
    operation = list(Operation)[int(rng.integers(len(Operation)))]
    absent = operation is not Operation.ADD and rng.random() < ABSENT_SHARE
    heard_at: float | None = None
    if operation is Operation.ADD or absent:
        target = str(rng.choice(addable))
        heard_at = _draw_azimuth(rng) if absent else None
    else:
        chosen = present[int(rng.integers(len(present)))]
        target, heard_at = chosen.label, chosen.azimuth_deg
    if rng.random() < WORDING_SHARE:
        names = _names(target, knowledge)
        target = names[int(rng.integers(len(names)))]
    step = _draw_step(operation, target, heard_at, rng)
    return _Request(spelled(step, rng), (step,), "single", absent=absent)


def make_example(
    seed: int,
    kind: ExampleKind | str,
    store: ClipStore,
    knowledge: SceneKnowledge,
    split: str,
    *,
    duration_s: float = 10.0,
    placement: Placement = Placement.RELEASED,
) -> Example:
    """Make one example.

    Parameters
    ----------
    seed
        All chance comes from here: the same seed, store and knowledge give the same bytes.
    kind
        ``declarative``: an instruction and its plan by the designer. ``single``: one step of any of the eight
        operations, all equally often; a few name a sound that is not there, which changes nothing (and leaves
        silence where it was to be extracted).
    store
        Clips of the split.
    knowledge
        Of scenes and wordings.
    split
        ``train``, ``valid`` or ``test``: which scenes and wordings are used.
    duration_s
        Length of the recording, seconds.
    placement
        The released rule, or a room with a reverberation time of 0.3 to 1.2 s.

    Raises
    ------
    ValueError
        If the store holds clips of another split or of fewer than seven labels.
    """
    kind, placement = ExampleKind(kind), Placement(placement)
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    strays = [clip.path for clip in store.clips if clip.split != split]
    if strays:
        raise ValueError(f"the store holds clips of another split than {split}, such as {strays[0]}")
    if len(store.labels) < 7:
        raise ValueError(f"examples need clips of at least seven labels, the store has {len(store.labels)}")
    rng = np.random.default_rng(seed)
    count = int(rng.choice(5, p=SINGLE_COUNT_SHARES)) + 1 if kind is ExampleKind.SINGLE else None
    scene = make_scene(store, rng, duration_s=duration_s, count=count, variation=VARIATION)
    voices = []
    for event, stem in zip(scene.events, scene.stems, strict=True):
        line = stem[0 if event.azimuth_deg <= 0 else 1]  # the nearer ear is the sound itself
        clip = _clip_name(store, event.clip_index)
        begun = SoundEvent(event.label, event.label, clip, event.azimuth_deg, event.peak, event.onsets_s)
        voices.append(_Voice(begun, line, event.azimuth_deg))
    stage = _Stage(
        placement,
        round(float(rng.uniform(*RT60_S)), 2) if placement is Placement.ROOM else 0.0,
        int(rng.integers(2**31)),
    )
    present = [ScenePresent(event.label, event.azimuth_deg) for event in scene.events]
    addable = [label for label in store.labels if not any(_same_sound(e.label, label, knowledge) for e in scene.events)]
    if kind is ExampleKind.SINGLE:
        request = _single_request(present, addable, knowledge, rng)
    else:
        made = design(rng, present, addable, knowledge, split=split)
        request = _Request(made.instruction, made.steps, made.kind, made.scene, made.question, made.choices)

    moments = [voices]
    for index, step in enumerate(request.steps):
        moments.append(_after(moments[-1], step, index, store, knowledge, rng))
    last = moments[-1]
    silence = np.zeros((2, round(duration_s * SAMPLE_RATE)), np.float32)
    stems: list[tuple[np.ndarray, ...]] = []
    rendered: dict[int, tuple[_Voice, np.ndarray]] = {}
    for moment in moments:
        for slot, voice in enumerate(moment):
            if slot not in rendered or rendered[slot][0] is not voice:
                rendered[slot] = (voice, stage.stem(voice, slot))
        tracks = [rendered[slot][1] if slot < len(moment) else silence for slot in range(len(last))]
        stems.append(tuple(tracks))
    mixtures = [np.asarray(np.sum(tracks, axis=0, dtype=np.float32)) for tracks in stems]
    return Example(
        seed=seed,
        kind=kind,
        split=split,
        placement=placement,
        instruction=request.instruction,
        events=tuple(voice.event for voice in last),
        source=mixtures[0],
        trajectory=tuple(zip(request.steps, mixtures[1:], strict=True)),
        stems=tuple(stems),
        scene=request.scene,
        design_kind=request.kind,
        question=request.question,
        choices=request.choices,
        absent=request.absent,
        rt60_s=stage.rt60_s,
    )


def describe(example: Example) -> dict[str, object]:
    """Everything about an example but its audio, for JSON."""
    return {
        "seed": example.seed,
        "kind": example.kind.value,
        "split": example.split,
        "placement": example.placement.value,
        "rt60_s": example.rt60_s,
        "instruction": example.instruction,
        "steps": [format_step(step) for step in example.steps],
        "design_kind": example.design_kind,
        "scene": example.scene,
        "question": example.question,
        "choices": list(example.choices),
        "absent": example.absent,
        "events": [
            {
                "label": event.label,
                "name": event.name,
                "clip": event.clip,
                "azimuth_deg": event.azimuth_deg,
                "peak": round(event.peak, 6),
                "onsets_s": list(event.onsets_s),
                "added_by": event.added_by,
            }
            for event in example.events
        ],
    }
