"""Held-out figures of every operation, beside copying the input, folding the truth to mono and an ideal mask.

    python -m training.evaluate --out runs/evaluation

One seeded command: scenes of two to four test clips, placed by the released rule and unvaried, one exact step each, and
what our editor makes of it. Writes ``results.json`` (every case), ``tables.md`` and ``plots.png``; with
``--markdown-into FILE`` also the short table between ``<!-- figures -->`` and ``<!-- /figures -->`` of that file. Equal
seeds give equal results but for the seconds.

``--workers N`` works on several cases at a time, ``--ray ADDRESS`` on a cluster. A worker computes with one thread, or
with ``--threads``: another number gives other last bits, and without these options all cores compute one case. What is
finished stands in ``cases.jsonl`` until the results are written, and the same command goes on from there.

What the rows are:

- **copy**: the recording as it was. What doesn't beat this row did nothing useful.
- **dual mono**: the truth with both ears averaged: what an editor without directions could reach at best.
- **oracle**: the share that the named sound truly has in each of the listener's bands and frames, through the same
  projection as ours: what a perfect listener would reach. None for ``add``, which separates nothing.
- **truth** (``add`` only): the recording with the test clip placed and levelled by the published law.
- **preserve**, **generate**: our editor's two modes.

``absent`` is no operation: a step names a sound that isn't there, and the right answer is the recording as it was.
``plan`` is a whole plan of two to six steps (`training.whole_plans`).

The paper's figures (`training.paper_style`) stand in a table and a plot (``paper.png``) of their own. Networks that
some of them look through are given as local files: ``--panns``, ``--vggish``, ``--clap``, ``--stereocrw``, ``--yamnet``
(`training.embedders`); columns of those that aren't given are left out.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from smartdj_agent.audio import Audio
from smartdj_agent.editor import MODES, Chain, Editor, Layers, StepOutcome, StepProgress, choose_device
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import file_sha256, write_file
from smartdj_agent.library import SoundLibrary
from smartdj_agent.models.listener import Listener
from smartdj_agent.models.presets import get_preset
from smartdj_agent.models.weights import role_folder
from smartdj_agent.render import ADDED_PEAK, amplitude, apply_to_stem, render_added
from smartdj_agent.scatter import Work, scatter, versions
from smartdj_agent.spatial import gcc_itd_ms, measure_azimuth
from smartdj_agent.steps import Operation, Step, Timbre, format_step
from training.clips import SAMPLE_RATE, SPLITS, ClipStore
from training.dataset import catalogue_sha256
from training.designer import default_knowledge
from training.drawing import save_png
from training.embedders import Judges, OurListener, load_judges
from training.metrics import (
    LEVEL_FLOOR_DB,
    band_error_db,
    change_db,
    changed_outside,
    envelope_error_db,
    itd_error,
    lsd,
    measured_shift_s,
    multi_resolution_distance,
    projected_gain_db,
    si_sdr_db,
    wet_ratio_db,
)
from training.mixing import AZIMUTHS_DEG, NONE, make_scene
from training.oracle import oracle_step
from training.paper_style import (
    PAPER_NOTES,
    Sets,
    Tally,
    describe_judges,
    draw_paper,
    joined,
    paper_grid,
    set_distances,
)
from training.whole_plans import PlanCase, make_plan_case, oracle_plan

ABSENT = "absent"
PLAN = "plan"
STEP_TASKS = (*(operation.value for operation in Operation), ABSENT)
"""Tasks of one step."""
TASKS = (*STEP_TASKS, PLAN)
DURATION_S = 10.0
ROWS = ("copy", "dual mono", "oracle", "truth", *MODES)
GAINS_DB = (3.0, 12.0)
"""Range of the amount by which a sound is turned up or down."""
ADDED_GAINS_DB = (-6.0, 6.0)
SHIFTS_S = (0.25, 2.0)


@dataclass(frozen=True)
class Column:
    """One figure of a table.

    Attributes
    ----------
    key
        Its name in ``results.json``.
    title
        Its heading, with the unit.
    tasks
        Where it applies.
    digits
        After the decimal point.
    """

    key: str
    title: str
    tasks: tuple[str, ...]
    digits: int = 1


_EDITS = tuple(task for task in TASKS if task not in (Operation.ADD, ABSENT))
COLUMNS = (
    Column("si_sdr_improvement_db", "SI-SDR improvement, dB ↑", _EDITS),
    Column("lsd", "LSD ↓", _EDITS, 2),
    Column("gcc_error", "GCC error, 10⁻³ ms² ↓", (*_EDITS, "add"), 1),
    Column("stft_distance", "STFT distance ↓", _EDITS, 2),
    Column("volume_error_db", "volume error, dB ↓", ("volume",)),
    Column("azimuth_error_deg", "azimuth error, ° ↓", ("direction", "add")),
    Column("shift_error_ms", "shift error, ms ↓", ("shift",)),
    Column("wet_error_db", "wet level error, dB ↓", ("reverb",)),
    Column("envelope_error_db", "envelope error, dB ↓", ("reverb",)),
    Column("band_error_db", "band level error, dB ↓", ("timbre",)),
    Column("level_error_db", "level error, dB ↓", ("add",)),
    Column("relative_level_error_db", "level error by our law, dB ↓", ("add",)),
    Column("label_rank", "label's rank ↓", ("add",), 0),
    Column("label_first", "label first in the result, share ↑", ("add",), 2),
    Column("added_first", "label first in what was added, share ↑", ("add",), 2),
    Column("change_db", "change, dB ↓", (ABSENT,)),
    Column("not_found", "not found, share", (*_EDITS, ABSENT), 2),
    Column("changed_outside", "changed outside the spans", TASKS, 0),
    Column("seconds", "s per step", TASKS, 2),
    Column("real_time", "× real time", TASKS),
)
SHARES = frozenset({"not_found", "label_first", "added_first"})
"""Figures of 0 or 1, given as means."""
LARGEST = frozenset({"changed_outside"})
"""Figures given as their largest value."""
OWN_FIGURE = {
    "add": "level_error_db",
    "volume": "volume_error_db",
    "direction": "azimuth_error_deg",
    "shift": "shift_error_ms",
    "reverb": "wet_error_db",
    "timbre": "band_error_db",
    ABSENT: "change_db",
}
"""The one figure that says most about an operation, where SI-SDR alone doesn't."""
SHORT_FIGURES = {
    task: (
        *(("si_sdr_improvement_db",) if task in _EDITS else ()),
        *((OWN_FIGURE[task],) if task in OWN_FIGURE else ()),
        *(("label_first", "added_first") if task == Operation.ADD else ()),
        *(("not_found",) if task == ABSENT else ()),
    )
    for task in TASKS
}
"""What the short table shows of a task."""
TIMINGS = frozenset({"seconds", "real_time"})
"""The only figures that differ between runs with equal seeds."""


class StepEditor(Protocol):
    """What is evaluated: `smartdj_agent.editor.Editor`, or a fake of it in tests."""

    def preserve(
        self, audio: Audio, step: Step, *, seed: int, layers: Layers | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        """Carry out one step, keeping what is not asked about; `layers` are the last step's, within a plan."""
        ...

    def generate(
        self, audio: Audio, step: Step, *, seed: int, chain: Chain | None = None
    ) -> Iterator[StepProgress | StepOutcome]:
        """Carry out one step by regenerating everything; `chain` is the last step's, within a plan."""
        ...


class Ranker(Protocol):
    """Tells how surely a label is heard, compared with all others."""

    def rank(self, samples: np.ndarray, label: str) -> int:
        """Place of a label among all, 1 is the surest."""
        ...


class LabelRanker:
    """Ranks labels by how surely the listener hears them at their surest half second.

    Parameters
    ----------
    listener
        The trained listener.
    vectors
        Sentence vectors of the labels, shape (labels, text_width).
    labels
        As many names.
    """

    def __init__(self, listener: Listener, vectors: torch.Tensor, labels: Sequence[str]) -> None:
        self.listener = listener
        self.labels = list(labels)
        with torch.inference_mode():
            self.texts = listener.text_embeddings(vectors.to(listener.logit_scale.device))

    @torch.inference_mode()
    def rank(self, samples: np.ndarray, label: str) -> int:
        """Place of a label among all, 1 is the surest; samples are (2, n) at 24 kHz."""
        wave = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None].to(self.texts.device)
        senses = self.listener.sense(wave, self.listener.spectrum(wave))
        frames = self.listener.frame_embeddings(self.listener.hear(senses))
        heard = torch.sigmoid(self.listener.presence_logits(frames, self.texts)[0])
        best = torch.nn.functional.avg_pool1d(heard, min(25, heard.shape[1]), 1).amax(dim=1)
        return int((best > best[self.labels.index(label)]).sum()) + 1


@dataclass(frozen=True)
class Case:
    """One recording, one step and its exact result; arrays have the shape (2, n), at 24 kHz.

    Attributes
    ----------
    task
        An operation, or ``absent``.
    index, seed
        Which case of the task it is; `seed` also chooses the room of a reverb.
    step
        What is asked.
    sounds
        Names and directions of what is there.
    source
        The recording.
    truth
        What it should become.
    stem
        The sound that the step names, alone; for ``add`` the added one; silence if it is absent.
    changed
        That sound after the step.
    """

    task: str
    index: int
    seed: int
    step: Step
    sounds: tuple[tuple[str, float], ...]
    source: np.ndarray
    truth: np.ndarray
    stem: np.ndarray
    changed: np.ndarray

    @property
    def rest(self) -> np.ndarray:
        """The recording without the named sound."""
        return self.source if self.task == Operation.ADD else self.source - self.stem


def case_seed(seed: int, task: str, index: int) -> int:
    """Seed of one case, 0 to 2³² − 1, whatever the number of cases."""
    digest = hashlib.sha256(f"smartdj evaluate {seed} {task} {index}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _unlike(label: str, present: Sequence[str]) -> bool:
    """Whether a label shares no word with any that is there ("rain" is in "rain on a window")."""
    words = {word for other in present for word in other.split()}
    return label not in present and not any(word in words for word in label.split() if len(word) > 2)


def _drawn_step(operation: Operation, target: str, azimuth_deg: float, rng: np.random.Generator) -> Step:
    sign = float(rng.choice((-1.0, 1.0)))
    match operation:
        case Operation.ADD:
            gain_db = round(float(rng.uniform(*ADDED_GAINS_DB)), 1)
            return Step(operation, target, azimuth_deg=float(rng.choice(AZIMUTHS_DEG)), gain_db=gain_db)
        case Operation.VOLUME:
            return Step(operation, target, gain_db=round(sign * float(rng.uniform(*GAINS_DB)), 1))
        case Operation.DIRECTION:
            goals = [goal for goal in AZIMUTHS_DEG if goal != azimuth_deg]
            return Step(operation, target, to_azimuth_deg=float(rng.choice(goals)))
        case Operation.SHIFT:
            return Step(operation, target, shift_s=round(sign * float(rng.uniform(*SHIFTS_S)), 2))
        case Operation.REVERB:
            return Step(operation, target, reverb_level=int(rng.integers(1, 11)))
        case Operation.TIMBRE:
            return Step(operation, target, timbre=list(Timbre)[int(rng.integers(len(Timbre)))])
        case _:
            return Step(operation, target)


def make_case(store: ClipStore, task: str, index: int, seed: int, *, duration_s: float = DURATION_S) -> Case:
    """Make one case: a pure function of the store, the task, the index and the seed.

    Parameters
    ----------
    store
        Clips of the split that is evaluated.
    task
        One of `STEP_TASKS`.
    index, seed
        Which case.
    duration_s
        Length of the recording, seconds.
    """
    own_seed = case_seed(seed, task, index)
    rng = np.random.default_rng(own_seed)
    count = int(rng.integers(2, 5))
    scene = make_scene(store, rng, duration_s=duration_s, count=count, variation=NONE)
    source = scene.mixture
    present = [event.label for event in scene.events]
    sounds = tuple((event.label, event.azimuth_deg) for event in scene.events)
    chosen = int(rng.integers(count))
    if task in (Operation.ADD, ABSENT):
        others = [label for label in store.labels if _unlike(label, present)]
        if not others:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"All {len(store.labels)} labels of the clips sound in one scene; none is left for {task!r}.",
                "Give clip folders with more labels.",
            )
        label = str(rng.choice(others))
    if task == ABSENT:
        asked = [operation for operation in Operation if operation not in (Operation.ADD, Operation.EXTRACT)]
        step = _drawn_step(asked[index % len(asked)], label, 0.0, rng)
        silence = np.zeros_like(source)
        return Case(task, index, own_seed, step, sounds, source, source, silence, silence)
    if task == Operation.ADD:
        step = _drawn_step(Operation.ADD, label, 0.0, rng)
        clip = int(rng.choice(store.by_label[label]))
        mono = store.samples(clip)
        loop = store.clips[clip].kind == "continuous"
        spare_s = max(0.0, duration_s - len(mono) / SAMPLE_RATE)
        onset_s = 0.0 if loop else float(rng.uniform(0.05, 0.6)) * spare_s
        added = render_added(mono, step, SAMPLE_RATE, source.shape[1], onset_s=onset_s, loop=loop)
        return Case(task, index, own_seed, step, sounds, source, source + added, added, added)
    step = _drawn_step(Operation(task), present[chosen], scene.events[chosen].azimuth_deg, rng)
    stem = scene.stems[chosen]
    changed = apply_to_stem(stem, step, SAMPLE_RATE, seed=own_seed)
    rest = source - stem
    truth = changed if step.operation is Operation.EXTRACT else rest + changed
    return Case(task, index, own_seed, step, sounds, source, truth, stem, changed)


def figures(
    case: Case, output: np.ndarray, *, copied_si_sdr_db: float, truth_itd_ms: float, ranker: Ranker | None = None
) -> dict[str, float]:
    """All figures of one output that apply to its case.

    Parameters
    ----------
    output
        Shape (2, n).
    copied_si_sdr_db
        SI-SDR of the source against the truth.
    truth_itd_ms
        `gcc_itd_ms` of the truth.
    ranker
        For ``add``.
    """
    if case.task == ABSENT:
        return {"change_db": change_db(case.source, output)}
    step = case.step
    result = {"gcc_error": itd_error(truth_itd_ms, gcc_itd_ms(output, SAMPLE_RATE))}
    # What the output holds of the named sound, if everything else is as it should be.
    heard = output - case.rest
    if step.operation is Operation.ADD:
        peak = max(float(np.abs(heard).max()), ADDED_PEAK * amplitude(LEVEL_FLOOR_DB))
        own_peak = max(float(np.abs(case.source).max()), 1e-3)
        gain_db = step.gain_db or 0.0
        result["level_error_db"] = abs(20 * math.log10(peak / (ADDED_PEAK * amplitude(gain_db))))
        relative = min(own_peak, ADDED_PEAK) * amplitude(gain_db)
        result["relative_level_error_db"] = abs(20 * math.log10(peak / relative))
        result["azimuth_error_deg"] = abs(measure_azimuth(heard, SAMPLE_RATE) - (step.azimuth_deg or 0.0))
        result["lsd"] = lsd(case.truth, output, SAMPLE_RATE)
        if ranker is not None:
            rank = ranker.rank(output, step.target)
            result["label_rank"] = float(rank)
            result["label_first"] = float(rank == 1)
            result["added_first"] = float(ranker.rank(heard, step.target) == 1)
        return result
    result["si_sdr_improvement_db"] = si_sdr_db(output, case.truth) - copied_si_sdr_db
    result["lsd"] = lsd(case.truth, output, SAMPLE_RATE)
    result["stft_distance"] = multi_resolution_distance(case.truth, output)
    match step.operation:
        case Operation.VOLUME:
            gain_db = projected_gain_db(case.source, output, case.stem)
            result["volume_error_db"] = abs(gain_db - (step.gain_db or 0.0))
        case Operation.DIRECTION:
            wanted_deg = step.to_azimuth_deg or 0.0
            result["azimuth_error_deg"] = abs(measure_azimuth(heard, SAMPLE_RATE) - wanted_deg)
        case Operation.SHIFT:
            error_s = measured_shift_s(case.stem, heard, SAMPLE_RATE) - (step.shift_s or 0.0)
            result["shift_error_ms"] = 1000.0 * abs(error_s)
        case Operation.REVERB:
            wanted_db = wet_ratio_db(case.stem, case.changed)
            result["wet_error_db"] = abs(wet_ratio_db(case.stem, heard) - wanted_db)
            result["envelope_error_db"] = envelope_error_db(case.changed, heard, SAMPLE_RATE)
        case Operation.TIMBRE:
            result["band_error_db"] = band_error_db(case.stem, case.changed, heard, SAMPLE_RATE)
    return result


def carry_out(
    editor: StepEditor, mode: str, audio: Audio, step: Step, seed: int, before: StepOutcome | None = None
) -> StepOutcome:
    """Run one step to its end; `before` is the outcome of the plan's step before."""
    if mode == "preserve":
        run = editor.preserve(audio, step, seed=seed, layers=before and before.layers)
    else:
        run = editor.generate(audio, step, seed=seed, chain=before and before.chain)
    outcome: StepProgress | StepOutcome | None = None
    for item in run:
        outcome = item
    assert isinstance(outcome, StepOutcome)  # the last item, by the editor's contract
    return outcome


def carry_out_plan(editor: StepEditor, mode: str, audio: Audio, steps: Sequence[Step], seed: int) -> list[StepOutcome]:
    """Run a plan to its end as `Agent.apply` does; returns all steps' outcomes."""
    outcomes: list[StepOutcome] = []
    for index, step in enumerate(steps):
        before = outcomes[-1] if outcomes else None
        outcomes.append(carry_out(editor, mode, audio, step, seed + index, before))
        audio = replace(audio, samples=outcomes[-1].samples)
    return outcomes


def _not_found(outcome: StepOutcome) -> bool:
    return any(code == "sound_not_found" for code, _, _ in outcome.warnings)


def _dual_mono(truth: np.ndarray) -> np.ndarray:
    return np.repeat(truth.mean(axis=0, keepdims=True), 2, axis=0)


def run_case(
    case: Case,
    editor: StepEditor,
    listener: Listener,
    modes: Sequence[str],
    ranker: Ranker | None,
    tally: Tally | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield one record per row: the case, the row's name, its figures, how it was done."""
    adding, absent = case.task == Operation.ADD, case.task == ABSENT
    text = format_step(case.step)
    common = {
        "task": case.task,
        "index": case.index,
        "seed": case.seed,
        "step": text,
        "sounds": [{"label": label, "azimuth_deg": azimuth_deg} for label, azimuth_deg in case.sounds],
    }
    impression = None if tally is None or absent else tally.hear(case.truth)
    known = {
        "copied_si_sdr_db": 0.0 if adding or absent else si_sdr_db(case.source, case.truth),
        "truth_itd_ms": 0.0 if absent else gcc_itd_ms(case.truth, SAMPLE_RATE),
    }

    def measured(row: str, output: np.ndarray) -> dict[str, float]:
        own = figures(case, output, ranker=ranker, **known)
        if tally is None or impression is None:
            return own
        return tally.figures(case.task, row, case.truth, impression, output, text) | own

    outputs = {"copy": case.source}
    if not absent:
        outputs["dual mono"] = _dual_mono(case.truth)
    if adding:
        outputs["truth"] = case.truth
    elif not absent:
        outputs["oracle"] = oracle_step(case.source, case.step, case.stem, case.rest, listener, seed=case.seed)
    for row, output in outputs.items():
        yield {**common, "row": row, "figures": measured(row, output)}
    audio = Audio(case.source, SAMPLE_RATE)
    for mode in modes:
        started = time.perf_counter()
        outcome = carry_out(editor, mode, audio, case.step, case.seed)
        seconds = time.perf_counter() - started
        result = measured(mode, outcome.samples)
        result["changed_outside"] = float(changed_outside(case.source, outcome.samples, outcome.spans))
        if not adding and mode == "preserve":
            result["not_found"] = float(_not_found(outcome))
        result["seconds"] = seconds
        result["real_time"] = audio.duration_s / seconds
        yield {
            **common,
            "row": mode,
            "method": outcome.method,
            "confidence": outcome.confidence,
            "figures": result,
        }


def run_plan(
    case: PlanCase, editor: StepEditor, listener: Listener, modes: Sequence[str], tally: Tally | None = None
) -> Iterator[dict[str, Any]]:
    """Yield one record per row of a whole plan, as `run_case` does of a step."""
    source, truth = case.example.source, case.example.final
    common = {
        "task": PLAN,
        "index": case.index,
        "seed": case.seed,
        "instruction": case.example.instruction,
        "step": case.text,
        "sounds": [{"label": label, "azimuth_deg": azimuth_deg} for label, azimuth_deg in case.sounds],
    }
    impression = None if tally is None else tally.hear(truth)
    copied_db = si_sdr_db(source, truth)
    truth_itd_ms = gcc_itd_ms(truth, SAMPLE_RATE)

    def measured(row: str, output: np.ndarray) -> dict[str, float]:
        own = {
            "si_sdr_improvement_db": si_sdr_db(output, truth) - copied_db,
            "lsd": lsd(truth, output, SAMPLE_RATE),
            "gcc_error": itd_error(truth_itd_ms, gcc_itd_ms(output, SAMPLE_RATE)),
            "stft_distance": multi_resolution_distance(truth, output),
        }
        if tally is None or impression is None:
            return own
        return tally.figures(PLAN, row, truth, impression, output, case.example.instruction) | own

    outputs = {"copy": source, "dual mono": _dual_mono(truth), "oracle": oracle_plan(case, listener)}
    for row, output in outputs.items():
        yield {**common, "row": row, "figures": measured(row, output)}
    audio = Audio(source, SAMPLE_RATE)
    for mode in modes:
        started = time.perf_counter()
        outcomes = carry_out_plan(editor, mode, audio, case.example.steps, case.seed)
        seconds = (time.perf_counter() - started) / len(outcomes)
        output = outcomes[-1].samples
        result = measured(mode, output)
        spans = [span for outcome in outcomes for span in outcome.spans]
        result["changed_outside"] = float(changed_outside(source, output, spans))
        if mode == "preserve":
            result["not_found"] = float(any(map(_not_found, outcomes)))
        result["seconds"] = seconds
        result["real_time"] = audio.duration_s / seconds
        yield {
            **common,
            "row": mode,
            "method": "; ".join(outcome.method for outcome in outcomes),
            "confidence": min(outcome.confidence for outcome in outcomes),
            "figures": result,
        }


@dataclass(frozen=True)
class Bench:
    """What every case needs.

    Attributes
    ----------
    store
        Clips of the split that is evaluated.
    editor
        What is evaluated.
    listener
        Its bands make the oracle's mask.
    ranker
        Ranks labels after an ``add``; None leaves that figure out.
    judges
        Give the paper's figures; None leaves them out.
    """

    store: ClipStore
    editor: StepEditor
    listener: Listener
    ranker: Ranker | None = None
    judges: Judges | None = None


CaseName = tuple[str, int]
"""Task and index."""


@dataclass(frozen=True)
class Choice:
    """Which cases there are.

    Attributes
    ----------
    tasks
        Of `TASKS`.
    counts
        Number of cases per mode; the other rows have as many as the largest.
    seed
        Of all cases.
    duration_s
        Length of the recordings, seconds.
    """

    tasks: tuple[str, ...]
    counts: dict[str, int]
    seed: int
    duration_s: float = DURATION_S

    def cases(self) -> list[CaseName]:
        """Every case, in the results' order."""
        return [(task, index) for task in self.tasks for index in range(max(self.counts.values()))]


@dataclass(frozen=True)
class CaseResult:
    """What came out of one case.

    Attributes
    ----------
    records
        One per row.
    sets
        What the case adds to the sets whose distances are figures.
    judges
        Which judges there were, see `describe_judges`.
    """

    records: list[dict[str, Any]]
    sets: Sets
    judges: dict[str, Any]


def measure_case(choice: Choice, bench: Bench, case: CaseName) -> CaseResult:
    """Make and measure one case: a pure function of its arguments, but for the seconds."""
    task, index = case
    modes = [mode for mode, count in choice.counts.items() if index < count]
    tally = None if bench.judges is None else Tally(bench.judges, SAMPLE_RATE)
    if task == PLAN:
        split = bench.store.clips[0].split
        plan_case = make_plan_case(bench.store, default_knowledge(), split, index, choice.seed, choice.duration_s)
        records = run_plan(plan_case, bench.editor, bench.listener, modes, tally)
    else:
        step_case = make_case(bench.store, task, index, choice.seed, duration_s=choice.duration_s)
        records = run_case(step_case, bench.editor, bench.listener, modes, bench.ranker, tally)
    return CaseResult(
        list(records),
        {} if tally is None else tally.sets,
        {} if bench.judges is None else describe_judges(bench.judges),
    )


def gathered(cases: Sequence[CaseResult]) -> dict[str, Any]:
    """What ``results.json`` has of all cases: records, in order, and the distances between sets."""
    return {
        "records": [record for case in cases for record in case.records],
        "distances": set_distances(joined(case.sets for case in cases)),
    }


class Journal:
    """The cases that are finished, one JSON line each, so that a run that was stopped goes on.

    Parameters
    ----------
    path
        The file. Cases of another evaluation than `about` says are forgotten.
    about
        What the cases are a function of.

    Attributes
    ----------
    found
        The cases that are finished.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path = path
        self.found: dict[CaseName, CaseResult] = {}
        head = json.dumps(about, sort_keys=True).encode()
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        if lines[0] != head:
            lines = [head, b""]
        for line in lines[1:-1]:  # what follows the last line's end is half a line, or nothing
            case, result = _read_case(json.loads(line))
            self.found[case] = result
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, b"\n".join([*lines[:-1], b""]), overwrite=True)

    def add(self, case: CaseName, result: CaseResult) -> None:
        """Keep a finished case."""
        self.found[case] = result
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_kept_case(case, result)) + "\n")

    def close(self) -> None:
        """Forget all: the results are written."""
        self._path.unlink(missing_ok=True)


def _kept_case(case: CaseName, result: CaseResult) -> dict[str, Any]:
    def kept(array: np.ndarray) -> list[Any]:
        return [str(array.dtype), array.shape, base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]

    sets = [[*name, [[kept(one) for one in pair] for pair in pairs]] for name, pairs in result.sets.items()]
    return {"case": case, "records": result.records, "sets": sets, "judges": result.judges}


def _read_case(line: dict[str, Any]) -> tuple[CaseName, CaseResult]:
    def read(kept: list[Any]) -> np.ndarray:
        return np.frombuffer(base64.b64decode(kept[2]), kept[0]).reshape(kept[1])

    sets: Sets = {
        (task, row, key): [(read(truth), read(output)) for truth, output in pairs]
        for task, row, key, pairs in line["sets"]
    }
    return (line["case"][0], line["case"][1]), CaseResult(line["records"], sets, line["judges"])


def carry_out_cases(
    choice: Choice,
    prepare: Callable[[], Bench],
    journal: Journal,
    *,
    ray: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    gpus: float = 0.0,
    told: Callable[[CaseName], None] = lambda case: None,
) -> list[CaseResult]:
    """Carry out the cases that the journal doesn't have, and return all, in order.

    Parameters
    ----------
    choice
        Which cases there are.
    prepare
        Makes what every case needs; picklable unless this process itself works.
    journal
        Of this evaluation.
    ray, workers, threads, gpus
        See `smartdj_agent.scatter.scatter`. Where none of the first three is given this process works, with the threads
        that it has; where one is, `threads` is 1 by default, and so is `workers` without `ray`.
    told
        Called with each case that is finished.
    """
    missing = [case for case in choice.cases() if case not in journal.found]
    if missing and ray is None and workers is None and threads is None:
        bench = prepare()
        for case in missing:
            journal.add(case, measure_case(choice, bench, case))
            told(case)
    elif missing:
        work = Work(prepare, partial(measure_case, choice))
        most = workers or (1 if ray is None else None)
        with closing(scatter(work, missing, ray=ray, workers=most, threads=threads or 1, gpus=gpus)) as finishing:
            for index, result in finishing:
                journal.add(missing[index], result)
                told(missing[index])
    return [journal.found[case] for case in choice.cases()]


@dataclass(frozen=True)
class Summary:
    """Median and quartiles of one figure over the cases that have it."""

    count: int
    median: float
    low: float
    high: float


def summarise(records: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], Summary]:
    """Summaries by (task, row, figure); shares are means, `LARGEST` ones are largest values."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        for key, value in record["figures"].items():
            values.setdefault((record["task"], record["row"], key), []).append(value)
    result = {}
    for name, found in values.items():
        if name[2] in SHARES:
            result[name] = Summary(len(found), *[float(np.mean(found))] * 3)
        elif name[2] in LARGEST:
            result[name] = Summary(len(found), *[float(np.max(found))] * 3)
        else:
            low, median, high = (float(value) for value in np.percentile(found, (25, 50, 75)))
            result[name] = Summary(len(found), median, low, high)
    return result


def _cell(summary: Summary | None, column: Column) -> str:
    if summary is None:
        return "–"

    def number(value: float) -> str:
        # Rounding leaves no "−0.0"; the minus sign is the typographic one.
        return f"{round(value, column.digits) + 0.0:.{column.digits}f}".replace("-", "−")

    if column.key in SHARES | LARGEST:
        return number(summary.median)
    return f"{number(summary.median)} ({number(summary.low)}…{number(summary.high)})"


def _grid(task: str, summaries: dict[tuple[str, str, str], Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of one task's table; columns that no row fills are left out."""
    columns = [
        column
        for column in COLUMNS
        if task in column.tasks and any((task, row, column.key) in summaries for row in ROWS)
    ]
    rows = []
    for row in ROWS:
        counts = [summary.count for (other, name, _), summary in summaries.items() if (other, name) == (task, row)]
        if counts:
            cells = [_cell(summaries.get((task, row, column.key)), column) for column in columns]
            rows.append([row, str(max(counts)), *cells])
    return ["row", "cases", *(column.title for column in columns)], rows


def _markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first `words` columns are words, set left; all others are numbers."""
    lines = [
        "| " + " | ".join(headings) + " |",
        "|" + " --- |" * words + " ---: |" * (len(headings) - words),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines)


def _tasks_of(results: dict[str, Any]) -> list[str]:
    present = {record["task"] for record in results["records"]}
    return [task for task in TASKS if task in present]


def tables_markdown(results: dict[str, Any]) -> str:
    """All tables as Markdown."""
    about = results["about"]
    summaries = summarise(results["records"])
    parts = [
        "# Held-out figures",
        f"Made by `{about['command']}`",
        f"Split `{about['split']}` ({about['clips']} clips, {about['labels']} labels), seed {about['seed']}; "
        f"recordings of {about['duration_s']:g} s with 2 to 4 sounds. {about['machine']}",
        "Medians, quartiles in brackets. ↑ higher is better, ↓ lower is better; – does not apply.",
    ]
    for task in _tasks_of(results):
        parts += [f"## {task}", _markdown_table(*_grid(task, summaries))]
    headings, rows = paper_grid(results, _tasks_of(results), ROWS)
    if rows:
        parts += ["## Paper-style figures", _markdown_table(headings, rows, words=2)]
        parts += [f"- {line}" for line in about.get("judges", {}).get("missing", [])]
        parts.append(PAPER_NOTES.strip())
    parts += ["## What the rows and columns are", NOTES.strip()]
    return "\n\n".join(parts) + "\n"


NOTES = """
- **copy** is the recording as it was, **dual mono** the truth with both ears averaged, **oracle** the same projection
  and arithmetic as ours with the true band shares, **truth** the test clip placed and levelled by the published law.
- **absent**: the step names a sound that isn't there; the right answer is no change (−120 dB).
- SI-SDR improvement: of the output against the truth, minus that of the recording as it was. A silent output scores
  −60 dB SI-SDR.
- LSD and STFT distance: against the truth (`training/metrics.py`). GCC error: squared difference of clip-mean
  interaural time differences; two equal ears against hard left score 316.
- The named sound in an output is taken to be output minus everything else as it truly is. So what an edit does to
  the rest, as `generate` does everywhere, counts against it in azimuth, shift, wet, envelope and band figures.
- Volume error: gain of the named sound by projection of the difference onto it, against what was asked.
- Wet level error: energy of what isn't the direct sound relative to the direct sound, against the truth's, from −40 dB
  upwards. Envelope error: mean difference of the levels of 20 ms frames. `preserve` puts the sound into the same
  synthetic room as the truth, because both take the case's seed.
- Band level error: mean over the octaves from 125 Hz to 8 kHz that the sound has.
- Add: another clip of the label than the truth's is added, so waveforms aren't compared. The level error is that of the
  difference's peak from 0.5 · 10^(gain/20); by our law 0 dB is the recording's own peak where that is below 0.5. The
  label's rank is the listener's, after the edit, among all labels of the clips: in the result, where the sounds of the
  recording rank too, and in what was added alone. It is our own listener that judges.
- Changed outside the spans: the largest number of samples in a case that differ from the recording outside the
  stretches that the editor reports as touched. In `preserve` it has to be 0.
- Not found: the share of cases in which `preserve` did not hear the named sound and left all as it was; of a plan, one
  of the sounds.
- **plan**: all steps of a plan one after the other; `generate` stays in latent space between them. What is added is
  another clip than the truth's, which bounds SI-SDR and LSD.
"""


def short_markdown(results: dict[str, Any]) -> str:
    """The table for a README: SI-SDR improvement and the operation's own figure, and how it was made."""
    about = results["about"]
    summaries = summarise(results["records"])
    modes = [mode for mode in MODES if any(row == mode for _, row, _ in summaries)]
    rows_shown = ["copy", "oracle", *modes]
    columns = {column.key: column for column in COLUMNS}
    rows = []
    for task in _tasks_of(results):
        for key in SHORT_FIGURES[task]:
            cells = [_cell(summaries.get((task, row, key)), columns[key]) for row in rows_shown]
            rows.append([task, columns[key].title, *cells])
    lines = [_markdown_table(["operation", "figure", *rows_shown], rows)]
    for mode in modes:
        found = [record["figures"] for record in results["records"] if record["row"] == mode]
        seconds = float(np.median([figure["seconds"] for figure in found]))
        said = (
            f"`{mode}`: {len(found)} cases, {seconds:.2f} s per step of {about['duration_s']:g} s "
            f"({about['duration_s'] / seconds:.1f} × real time)"
        )
        if mode == "preserve":
            outside = int(sum(figure["changed_outside"] for figure in found))
            said += f"; {outside} samples changed outside the stretches that the steps touched"
        lines.append(said + ".")
    lines += [
        "Medians (quartiles) over held-out cases. *copy* leaves the recording as it was; *oracle* knows the true share "
        "of the sound in every band and frame; *absent* names a sound that isn't there.",
        f"Made by `{about['command']}`. {about['machine']}",
    ]
    return "\n\n".join(lines)


def replace_anchored(text: str, anchor: str, body: str) -> str:
    """Put `body` between ``<!-- anchor -->`` and ``<!-- /anchor -->``; a missing closing mark is added.

    Raises
    ------
    SmartDJError
        USAGE if the opening mark is missing or stands there twice.
    """
    opening, closing = f"<!-- {anchor} -->", f"<!-- /{anchor} -->"
    if text.count(opening) != 1:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"The text holds {opening} {text.count(opening)} times.",
            f"Put {opening} exactly once where the figures belong.",
        )
    before, after = text.split(opening)
    if closing in after:
        after = after.split(closing, 1)[1]
    return f"{before}{opening}\n\n{body.strip()}\n\n{closing}{after}"


_COLOURS = {
    "copy": "#9a9a9a",
    "dual mono": "#c9a227",
    "oracle": "#2f8f5b",
    "truth": "#2f8f5b",
    "preserve": "#1f6fb4",
    "generate": "#d9541e",
}


SI_SDR_AXIS_DB = (-40.0, 60.0)


def _box(axes: Axes, position: float, width: float, row: str, values: Sequence[float]) -> None:
    drawn = axes.boxplot(
        [values],
        positions=[position],
        widths=width,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black", "linewidth": 1.2},
        manage_ticks=False,
    )
    for box in drawn["boxes"]:
        box.set_facecolor(_COLOURS[row])
        box.set_linewidth(0.6)


def _framed(axes: Axes, labels: Sequence[str], title: str) -> None:
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.grid(axis="y", linewidth=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.set_title(title, fontsize=9)


def draw_plots(path: Path, results: dict[str, Any]) -> None:
    """Draw SI-SDR improvement of all operations and each operation's own figure, as a PNG."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for record in results["records"]:
        for key, value in record["figures"].items():
            values.setdefault((record["task"], record["row"], key), []).append(value)
    columns = {column.key: column for column in COLUMNS}
    tasks = _tasks_of(results)
    own = [task for task in tasks if task in OWN_FIGURE]
    down = math.ceil(len(own) / 4)
    figure = Figure(figsize=(14, 4.4 + 3.0 * down), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + down, 4, height_ratios=[1.4, *[1.0] * down])
    axes = figure.add_subplot(grid[0, :])
    key = "si_sdr_improvement_db"
    groups = [task for task in tasks if task in columns[key].tasks]
    rows = [row for row in ROWS if row != "copy" and any((task, row, key) in values for task in groups)]
    for slot, row in enumerate(rows):
        width = 0.8 / len(rows)
        for index, task in enumerate(groups):
            if (task, row, key) in values:
                position = index + (slot - (len(rows) - 1) / 2) * width
                _box(axes, position, 0.85 * width, row, values[task, row, key])
        axes.plot([], [], "s", color=_COLOURS[row], label=row)
    axes.axhline(0, color=_COLOURS["copy"], linewidth=1.5, label="copy")
    axes.legend(fontsize=8, ncols=len(rows) + 1)
    axes.set_ylabel("dB", fontsize=8)
    # A front sound's dual mono is exact, an untrained editor far off: neither shall press all others together.
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, SI_SDR_AXIS_DB[0]), min(high, SI_SDR_AXIS_DB[1]))
    cut = f"{SI_SDR_AXIS_DB[0]:.0f} and {SI_SDR_AXIS_DB[1]:.0f} dB".replace("-", "−")
    _framed(axes, groups, f"SI-SDR improvement over copying the input, dB ↑ (axis cut at {cut})")
    for place, task in enumerate(own):
        axes = figure.add_subplot(grid[1 + place // 4, place % 4])
        key = OWN_FIGURE[task]
        rows = [row for row in ROWS if (task, row, key) in values]
        for index, row in enumerate(rows):
            _box(axes, index, 0.6, row, values[task, row, key])
        _framed(axes, rows, f"{task}: {columns[key].title}")
    title = f"Held-out figures ({results['about']['split']} split): boxes are quartiles, whiskers 5 and 95 %"
    figure.suptitle(title, fontsize=11)
    save_png(figure, path)


def write_all(folder: Path, results: dict[str, Any]) -> None:
    """Write ``results.json``, ``tables.md`` and the plots into a folder, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n", overwrite=True)
    write_file(folder / "tables.md", tables_markdown(results), overwrite=True)
    draw_plots(folder / "plots.png", results)
    tasks = _tasks_of(results)
    if paper_grid(results, tasks, ROWS)[1]:
        draw_paper(folder / "paper.png", results, [task for task in tasks if task != ABSENT], _COLOURS)


def print_tables(results: dict[str, Any], console: Console) -> None:
    """Print all tables."""
    summaries = summarise(results["records"])
    for task in _tasks_of(results):
        headings, rows = _grid(task, summaries)
        table = Table(title=task, title_justify="left", title_style="bold")
        for heading in headings:
            table.add_column(heading, justify="left" if heading == "row" else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in results["about"].get("judges", {}).get("missing", []):
        console.print(line)


def machine(threads: int | None = None) -> str:
    """One sentence about the machine and the software; `threads` of each worker where this process did not compute."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":", 1)[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].strip() if names else cpu
    return (
        f"Machine: {cpu}, {os.cpu_count()} cores, threads used: {threads or torch.get_num_threads()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}."
    )


def weights_used(preset: str) -> dict[str, str]:
    """SHA-256 of the weights that are evaluated, by role; a role that isn't installed is left out."""
    found = {}
    for role, owner in (("listener", "small"), ("codec", preset), ("editor", preset)):
        try:
            paths = sorted(role_folder(owner, role).glob("*.safetensors"))
        except SmartDJError:
            continue
        found[role] = " ".join(file_sha256(path) for path in paths)
    return found


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--count", type=int, default=50, help="cases per operation")
    parser.add_argument("--generate-count", type=int, help="cases for the slower mode; by default as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folders", type=Path, nargs="+", default=[Path("../shared/bank")], help="clip folders")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--cache", type=Path, help="folder for the packed clips, as in training")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="cases at a time; by default 1, or all cores of the cluster")
    parser.add_argument("--threads", type=int, help="of each worker; by default 1, or all where nothing is shared out")
    parser.add_argument("--ray", metavar="ADDRESS", help="let a Ray cluster do it; local: a Ray of one's own")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--operations", nargs="+", choices=TASKS, default=list(TASKS))
    weights = parser.add_argument_group("published weights that the paper's figures look through, as local files")
    weights.add_argument("--panns", type=Path, metavar="FILE", help="Cnn14_16k_mAP=0.438.pth or Cnn14_mAP=0.431.pth")
    weights.add_argument("--vggish", type=Path, metavar="FILE", help="vggish-10086976.pth")
    weights.add_argument("--clap", type=Path, metavar="DIR", help="folder of a CLAP model as transformers saves it")
    weights.add_argument("--stereocrw", type=Path, metavar="FILE", help="FreeMusic-StereoCRW-1024.pth.tar")
    weights.add_argument("--yamnet", type=Path, metavar="FILE", help="yamnet.safetensors of training.tagger")
    parser.add_argument("--tables-only", action="store_true", help="evaluate nothing: read the results in --out")
    parser.add_argument("--markdown-into", type=Path, help="file whose figures are replaced, such as README.md")
    parser.add_argument("--anchor", default="figures", help="what its <!-- mark --> is called")
    chosen = parser.parse_args(arguments)
    if chosen.count < 1 or (chosen.generate_count is not None and chosen.generate_count < 1):
        parser.error("a count has to be at least 1")
    if any(number is not None and number < 1 for number in (chosen.workers, chosen.threads)):
        parser.error("there has to be at least 1 worker, and 1 thread")
    return chosen


def open_clips(folders: Sequence[Path], split: str, cache: Path | None) -> ClipStore:
    """Open the clips that scenes are made of.

    Raises
    ------
    SmartDJError
        AUDIO_NOT_FOUND if a folder has no manifest, USAGE if the split has fewer labels than scenes need.
    """
    try:
        store = ClipStore.open(folders, split, cache)
    except FileNotFoundError as error:
        raise SmartDJError(
            ErrorCode.AUDIO_NOT_FOUND,
            f"There is no clip manifest {error.filename}.",
            "Name folders with a manifest.csv by --folders.",
        ) from error
    if len(store.labels) < 5:
        raise SmartDJError(
            ErrorCode.USAGE,
            f"The {split} split has {len(store.labels)} labels; scenes need at least 5.",
            "Give more clip folders.",
        )
    return store


def prepare(
    folders: Sequence[Path],
    split: str,
    cache: Path | None,
    preset: str,
    device: str,
    modes: Sequence[str],
    seed: int,
    judging: dict[str, Path | None],
) -> Bench:
    """Load clips and networks, and use them once: loading is no step's time.

    Parameters
    ----------
    folders, split, cache
        Of the clips.
    preset, device
        Of the editor.
    modes, seed
        What is tried once.
    judging
        Files for `training.embedders.load_judges`, by its arguments' names.
    """
    store = open_clips(folders, split, cache)
    editor = Editor(get_preset(preset), device, SoundLibrary.starter())
    ranker = LabelRanker(editor.listener, editor.encoder.vectors(store.labels), store.labels)
    ours = OurListener(editor.listener, editor.encoder, store.labels)
    judges = load_judges(ours, **judging, device=device)
    for mode in modes:
        warm = make_case(store, "volume", 0, seed)
        carry_out(editor, mode, Audio(warm.source, SAMPLE_RATE), warm.step, 0)
    return Bench(store, editor, editor.listener, ranker, judges)


JUDGES = ("panns", "vggish", "clap", "stereocrw", "yamnet")
"""Options that name published weights."""


def _measure(chosen: argparse.Namespace, command: str, console: Console) -> tuple[dict[str, Any], Journal]:
    """Evaluate with a progress bar; returns the results, and the journal to close once they are written."""
    preset, device = get_preset(chosen.preset), choose_device(chosen.device)
    store = open_clips(chosen.folders, chosen.split, chosen.cache)
    counts: dict[str, int] = {mode: chosen.count for mode in MODES if mode in chosen.modes}
    if "generate" in counts and chosen.generate_count is not None:
        counts["generate"] = chosen.generate_count
    choice = Choice(tuple(task for task in TASKS if task in chosen.operations), counts, chosen.seed)
    # Workers have another working folder.
    judging = {name: None if (path := getattr(chosen, name)) is None else path.absolute() for name in JUDGES}
    about = {
        "command": command,
        "seed": chosen.seed,
        "split": chosen.split,
        "folders": [str(folder) for folder in chosen.folders],
        "clips": len(store),
        "labels": len(store.labels),
        "duration_s": DURATION_S,
        "preset": preset.name,
        "device": device,
        "solver": f"{preset.solver}, {preset.steps} steps",
        "weights_sha256": weights_used(preset.name),
    }
    alone = chosen.ray is None and chosen.workers is None and chosen.threads is None
    journal = Journal(
        chosen.out / "cases.jsonl",
        {name: about[name] for name in about if name != "command"}
        | {
            "tasks": choice.tasks,
            "counts": counts,
            "clips_sha256": catalogue_sha256(store.clips),
            "judges": {name: path and str(path) for name, path in judging.items()},
            "threads": torch.get_num_threads() if alone else chosen.threads or 1,
            "versions": versions(),
        },
    )
    making = partial(
        prepare,
        [folder.absolute() for folder in chosen.folders],
        chosen.split,
        chosen.cache and chosen.cache.absolute(),
        preset.name,
        device,
        tuple(counts),
        chosen.seed,
        judging,
    )
    started = time.perf_counter()
    bar = Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        job = bar.add_task("", total=len(choice.cases()), completed=len(journal.found))
        cases = carry_out_cases(
            choice,
            making,
            journal,
            ray=chosen.ray,
            workers=chosen.workers,
            threads=chosen.threads,
            gpus=1.0 if device.startswith("cuda") else 0.0,
            told=lambda case: bar.update(job, description=case[0], advance=1),
        )
    about |= {
        "judges": cases[0].judges,
        "machine": machine(None if alone else chosen.threads or 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return {"about": about, **gathered(cases)}, journal


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if `preserve` changed what it should not, 2 for other errors."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    chosen = _arguments(given)
    console = Console(stderr=True)
    command = shlex.join(["python", "-m", "training.evaluate", *given])
    try:
        if chosen.markdown_into is not None:
            # A wrong file shall show before the long run, not after it.
            replace_anchored(chosen.markdown_into.read_text(encoding="utf-8"), chosen.anchor, "")
        journal: Journal | None = None
        if chosen.tables_only:
            results = json.loads((chosen.out / "results.json").read_text(encoding="utf-8"))
        else:
            results, journal = _measure(chosen, command, console)
        write_all(chosen.out, results)
        if journal is not None:
            journal.close()
        print_tables(results, Console(width=None if sys.stdout.isatty() else 200))
        if chosen.markdown_into is not None:
            text = chosen.markdown_into.read_text(encoding="utf-8")
            write_file(
                chosen.markdown_into, replace_anchored(text, chosen.anchor, short_markdown(results)), overwrite=True
            )
    except (SmartDJError, OSError) as error:
        console.print(f"error: {error}", style="red", highlight=False)
        return 2
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return 130
    outside = sum(record["figures"]["changed_outside"] for record in results["records"] if record["row"] == "preserve")
    if outside:
        console.print(f"preserve changed {outside:.0f} samples outside the stretches it reported", style="red")
        return 1
    return 0


if __name__ == "__main__":
    # Workers know what they run by the module's own name.
    from training.evaluate import main as command

    sys.exit(command())
