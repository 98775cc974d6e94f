"""The report of a run: one self-contained HTML page with the plan, pictures, players and measurements.

`RunCollector` takes events as they come and reduces each step at once to what the page shows (an envelope, a
spectrogram of fixed size, bounded players, a few numbers), so that a long recording with many steps needs the
memory of two states, not of all. `build_report` is a pure function of the resulting `RunRecord`.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from smartdj_agent import __version__
from smartdj_agent.audio import Audio, audio_sha256, resample, to_stereo
from smartdj_agent.errors import SmartDJError
from smartdj_agent.events import (
    Event,
    Finished,
    Heard,
    Listened,
    Notice,
    PlanReady,
    StepFinished,
    StepStarted,
)
from smartdj_agent.plan import Plan
from smartdj_agent.spatial import measure_ild_db, measure_itd_s
from smartdj_agent.steps import direction_name, format_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

PLAYERS_PCM_BYTES = 30 * 2**20
"""Budget that all players of a page share, as 16-bit samples; FLAC and base64 come to about as much."""

COLUMNS = 700
"""Most columns of a picture."""

ROWS = 160
"""Rows of a spectrogram, evenly spaced in the logarithm of frequency."""

LOWEST_HZ = 50.0
"""Lower edge of a spectrogram."""

DYNAMIC_RANGE_DB = 80.0
"""Span of the colour scale."""

_FLOOR_DB = -160.0
_WINDOW_S = 0.046  # 2048 samples at 44.1 kHz: resolves both a dog's bark in time and a hum in frequency
_EARS_S = 20.0


@dataclass(frozen=True)
class Player:
    """Audio to listen to on the page.

    Attributes
    ----------
    flac
        Encoded audio, 16 bit.
    note
        How it differs from the file (rate, channels, excerpt); empty where it doesn't.
    """

    flac: bytes
    note: str


@dataclass(frozen=True, eq=False)
class Picture:
    """What is drawn of one state of the recording.

    Attributes
    ----------
    duration_s
        Seconds.
    lanes
        Names of the waveforms: ``L`` and ``R``, ``mono``, or ``all channels``.
    envelope
        (lanes, 2, columns): smallest and largest sample per column, full scale ±1.
    spectrogram_db
        (ROWS, columns): level of the strongest frequency in each cell, mean power of all channels, dB
        relative to a full-scale sine; the first row is the lowest frequency.
    lowest_hz, highest_hz
        Outer edges of the first and last row.
    """

    duration_s: float
    lanes: tuple[str, ...]
    envelope: np.ndarray
    spectrogram_db: np.ndarray
    lowest_hz: float
    highest_hz: float


@dataclass(frozen=True)
class Measures:
    """What a step changed, measured on the samples.

    Attributes
    ----------
    changed, total
        Samples of all channels that differ, and all.
    changed_outside
        Those that differ outside the spans that the step declares as touched; 0 in preserve mode.
    difference_dbfs, difference_peak_dbfs
        RMS over the whole length and peak of after − before, dB re full scale; −inf where nothing changed.
    peak_before_dbfs, peak_after_dbfs
        Largest sample.
    itd_before_ms, itd_after_ms, ild_before_db, ild_after_db
        Time and level difference between the ears within the touched spans; positive = left first, left
        louder. None where the recording is not stereo or nothing can be measured.
    """

    changed: int
    total: int
    changed_outside: int
    difference_dbfs: float
    difference_peak_dbfs: float
    peak_before_dbfs: float
    peak_after_dbfs: float
    itd_before_ms: float | None
    itd_after_ms: float | None
    ild_before_db: float | None
    ild_after_db: float | None


@dataclass(frozen=True, eq=False)
class StepRecord:
    """One step that was carried out."""

    step_id: str
    text: str
    device: str
    method: str
    confidence: float
    seconds: float
    realtime_factor: float
    touched_s: tuple[tuple[float, float], ...]
    measures: Measures
    before: Picture
    after: Picture
    difference: Picture
    player_before: Player | None  # None where it would repeat the one after the step before
    player_after: Player
    player_difference: Player


@dataclass(frozen=True)
class SourceFacts:
    """The recording that was edited."""

    name: str
    sha256: str
    duration_s: float
    sample_rate: int
    channels: int
    container: str
    subtype: str


@dataclass(frozen=True)
class ModelFacts:
    """A network that was installed for this run."""

    name: str
    role: str
    parameters: int
    sha256: str


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Everything that the report shows of one run."""

    command: str
    instruction: str
    source: SourceFacts
    heard: tuple[Heard, ...]
    listening_s: float
    planning_s: float
    plan: Plan | None
    steps: tuple[StepRecord, ...]
    whole_difference: Picture | None
    player_source: Player
    notices: tuple[Notice, ...]
    device: str
    seed: int
    mode: str
    preset: str
    editing_s: float
    realtime_factor: float
    models: tuple[ModelFacts, ...]
    version: str
    machine: str
    created: str


class RunCollector:
    """Assembles a `RunRecord` from the events of `Agent.plan` and `Agent.apply`.

    Parameters
    ----------
    audio
        The recording before the first step.
    source_name, command, instruction, seed, mode, preset
        What the run was asked for; `instruction` and `plan` may be replaced while the run goes on.
    machine, models
        What does the work; None for this machine and the networks that are installed here.
    """

    def __init__(
        self,
        audio: Audio,
        *,
        source_name: str,
        command: str,
        instruction: str,
        seed: int,
        mode: str,
        preset: str,
        machine: str | None = None,
        models: tuple[ModelFacts, ...] | None = None,
    ) -> None:
        self.instruction = instruction
        self.plan: Plan | None = None
        self._command = command
        self._source_name = source_name
        self._seed, self._mode, self._preset = seed, mode, preset
        self._machine = machine or f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        self._models = models
        self._source = audio
        self._current = audio
        self._picture: Picture | None = None
        self._listened: Listened | None = None
        self._planning_s = 0.0
        self._steps: list[StepRecord] = []
        self._notices: list[Notice] = []
        self._device = ""
        self._finished: Finished | None = None

    def add(self, event: Event) -> None:
        """Take one event; the audio of finished steps is reduced here and not kept."""
        if isinstance(event, Listened):
            self._listened = event
        elif isinstance(event, PlanReady):
            self.plan = event.plan
            self._planning_s = event.seconds
        elif isinstance(event, StepStarted):
            self._device = event.device
        elif isinstance(event, StepFinished):
            self._add_step(event)
        elif isinstance(event, Notice):
            self._notices.append(event)
        elif isinstance(event, Finished):
            self._finished = event
            self.plan = event.plan

    def record(self) -> RunRecord:
        """Return what has been collected so far."""
        source, listened, finished = self._source, self._listened, self._finished
        whole = picture_of(_difference(source, self._current), source.sample_rate) if len(self._steps) > 1 else None
        return RunRecord(
            command=self._command,
            instruction=self.instruction,
            source=SourceFacts(
                self._source_name,
                audio_sha256(source),
                source.duration_s,
                source.sample_rate,
                source.channels,
                source.format.container,
                source.format.subtype,
            ),
            heard=listened.sounds if listened else (),
            listening_s=listened.seconds if listened else 0.0,
            planning_s=self._planning_s,
            plan=self.plan,
            steps=tuple(self._steps),
            whole_difference=whole,
            player_source=encode_player(source.samples, source.sample_rate, _budget(len(self._steps) or 1)),
            notices=tuple(self._notices),
            device=self._device,
            seed=self._seed,
            mode=self._mode,
            preset=self._preset,
            editing_s=finished.seconds if finished else sum(step.seconds for step in self._steps),
            realtime_factor=finished.realtime_factor if finished else 0.0,
            models=_models(self._preset) if self._models is None else self._models,
            version=__version__,
            machine=self._machine,
            created=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        )

    def _add_step(self, event: StepFinished) -> None:
        before, after, rate = self._current, event.audio, event.audio.sample_rate
        difference = _difference(before, after)
        budget = _budget(event.count)
        excerpt = _excerpt_start_s(event.touched_s)
        picture_before = self._picture or picture_of(before.samples, rate)
        picture_after = picture_of(after.samples, rate)
        player_after = encode_player(after.samples, rate, budget, excerpt)
        is_excerpt = "excerpt" in player_after.note
        self._steps.append(
            StepRecord(
                step_id=event.plan_step.id,
                text=format_step(event.plan_step.step),
                device=self._device,
                method=event.method,
                confidence=event.confidence,
                seconds=event.seconds,
                realtime_factor=event.realtime_factor,
                touched_s=event.touched_s,
                measures=measure(before, after, event.touched_s),
                before=picture_before,
                after=picture_after,
                difference=picture_of(difference, rate),
                player_before=encode_player(before.samples, rate, budget, excerpt) if is_excerpt else None,
                player_after=player_after,
                player_difference=encode_player(difference, rate, budget, excerpt),
            )
        )
        self._current, self._picture = after, picture_after


def _budget(n_steps: int) -> int:
    """Bytes of 16-bit samples for one player: the recording's own, and up to three per step."""
    return PLAYERS_PCM_BYTES // (3 * n_steps + 1)


def _difference(before: Audio, after: Audio) -> np.ndarray:
    """after − before, (channels, n); where shapes differ, what one of them lacks counts as silence."""
    if before.samples.shape == after.samples.shape:
        return after.samples - before.samples
    channels = max(before.channels, after.channels)
    difference = np.zeros((channels, max(before.n_samples, after.n_samples)), after.samples.dtype)
    difference[: after.channels, : after.n_samples] += after.samples
    difference[: before.channels, : before.n_samples] -= before.samples
    return difference


def measure(before: Audio, after: Audio, touched_s: Sequence[tuple[float, float]]) -> Measures:
    """Measure what a step changed.

    Parameters
    ----------
    before, after
        The recording before and after the step.
    touched_s
        Spans (start, end) in seconds that the step declares as touched, rounded outwards to samples.

    Returns
    -------
    Measures
        See there for units and signs.
    """
    difference = _difference(before, after)
    inside = np.zeros(difference.shape[1], bool)
    for start_s, end_s in touched_s:
        first = max(0, math.floor(start_s * after.sample_rate + 1e-6))
        inside[first : max(first, math.ceil(end_s * after.sample_rate - 1e-6))] = True
    changed = difference != 0
    ears_before, ears_after = _ears(before, inside), _ears(after, inside)
    return Measures(
        changed=int(np.count_nonzero(changed)),
        total=int(difference.size),
        changed_outside=int(np.count_nonzero(changed[:, ~inside])),
        difference_dbfs=_dbfs(math.sqrt(float(np.mean(np.square(difference, dtype=np.float64))))),
        difference_peak_dbfs=_dbfs(_peak(difference)),
        peak_before_dbfs=_dbfs(_peak(before.samples)),
        peak_after_dbfs=_dbfs(_peak(after.samples)),
        itd_before_ms=ears_before[0],
        itd_after_ms=ears_after[0],
        ild_before_db=ears_before[1],
        ild_after_db=ears_after[1],
    )


def _ears(audio: Audio, inside: np.ndarray) -> tuple[float | None, float | None]:
    """ITD in ms and ILD in dB within the touched spans, of their first `_EARS_S` seconds at most."""
    if audio.channels != 2 or inside.size != audio.n_samples:
        return None, None
    chosen = np.flatnonzero(inside)[: int(_EARS_S * audio.sample_rate)]
    part = np.ascontiguousarray(audio.samples[:, chosen], np.float32)
    if chosen.size < 64 or not part.any():
        return None, None
    try:
        itd_s, ild_db = float(measure_itd_s(part, audio.sample_rate)), float(measure_ild_db(part))
    except (SmartDJError, ValueError):
        return None, None
    return (1000 * itd_s if math.isfinite(itd_s) else None), (ild_db if math.isfinite(ild_db) else None)


def _peak(samples: np.ndarray) -> float:
    return float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))


def _dbfs(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf


# --- pictures -------------------------------------------------------------------------------------


def picture_of(samples: np.ndarray, sample_rate: int) -> Picture:
    """Reduce samples to what is drawn of them.

    Parameters
    ----------
    samples
        (channels, n), full scale ±1.
    sample_rate
        Hz.
    """
    channels, n_samples = samples.shape
    lanes = {1: ("mono",), 2: ("L", "R")}.get(channels, ("all channels",))
    n_columns = max(1, min(COLUMNS, n_samples))
    starts = np.arange(n_columns) * n_samples // n_columns
    lowest = np.minimum.reduceat(samples, starts, axis=1)
    highest = np.maximum.reduceat(samples, starts, axis=1)
    if len(lanes) != channels:
        lowest, highest = lowest.min(axis=0, keepdims=True), highest.max(axis=0, keepdims=True)
    nyquist_hz = sample_rate / 2
    lowest_hz = min(LOWEST_HZ, nyquist_hz / 2)
    return Picture(
        duration_s=n_samples / sample_rate,
        lanes=lanes,
        envelope=np.stack([lowest, highest], axis=1).astype(np.float32),
        spectrogram_db=_spectrogram_db(samples, sample_rate, lowest_hz),
        lowest_hz=lowest_hz,
        highest_hz=nyquist_hz,
    )


def _spectrogram_db(samples: np.ndarray, sample_rate: int, lowest_hz: float) -> np.ndarray:
    """(ROWS, columns) in dB; Hann window, levels such that a full-scale sine reads 0 dB."""
    n_samples = samples.shape[1]
    window = max(64, 1 << round(math.log2(_WINDOW_S * sample_rate)))
    hop = window // 4 if n_samples < COLUMNS * window else window // 2
    n_frames = max(1, math.ceil(n_samples / hop))
    weights = np.hanning(window + 1)[:-1].astype(np.float32)
    scale = 2.0 / float(weights.sum())
    n_columns = min(COLUMNS, n_frames)
    column_of = np.arange(n_frames) * n_columns // n_frames
    totals = np.zeros((window // 2 + 1, n_columns), np.float32)
    for channel in samples:
        padded = np.pad(np.asarray(channel, np.float32), (window // 2, window + hop))
        frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
        for first in range(0, n_frames, 512):
            block = frames[first : min(first + 512, n_frames)]
            power = np.square(np.abs(np.fft.rfft(block * weights, axis=1)) * scale).astype(np.float32)
            columns = column_of[first : first + len(block)]
            begins = np.flatnonzero(np.diff(columns, prepend=columns[0] - 1))
            totals[:, columns[begins]] += np.add.reduceat(power, begins, axis=0).T
    totals /= np.bincount(column_of, minlength=n_columns)[None, :] * samples.shape[0]
    edges = np.geomspace(lowest_hz, sample_rate / 2, ROWS + 1) * window / sample_rate
    rows = np.empty((ROWS, n_columns), np.float32)
    for row, (low, high) in enumerate(itertools.pairwise(edges)):
        if high - low >= 1.0:
            rows[row] = totals[int(low) : math.ceil(high) + 1].max(axis=0)
        else:  # several rows per frequency bin: interpolate, else the picture has steps
            position = (low + high) / 2
            below = min(int(position), len(totals) - 2)
            part = position - below
            rows[row] = (1 - part) * totals[below] + part * totals[below + 1]
    return 10 * np.log10(np.maximum(rows, 10 ** (_FLOOR_DB / 10)))


@dataclass(frozen=True)
class Colours:
    """Colours of a picture, as matplotlib takes them."""

    ink: str
    faint: str
    wave: str
    mark: str
    changed: str


SCREEN_COLOURS = Colours(ink="#010203", faint="#010204", wave="#010205", mark="#010206", changed="#010207")
"""Stand-ins that `draw_svg` replaces by the page's variables, so that a picture suits light and dark."""

PAPER_COLOURS = Colours(ink="#1c2126", faint="#c9cfd6", wave="#3b6ea8", mark="#d9480f", changed="#b0357c")
"""Fixed colours, for a picture outside the page."""


def draw(
    before: Picture,
    after: Picture,
    difference: Picture,
    touched_s: Sequence[tuple[float, float]],
    colours: Colours,
    *,
    salt: str,
    file_format: str = "svg",
) -> bytes:
    """Draw waveforms (left) and spectrograms (right) of before, after and difference, one above the other.

    Parameters
    ----------
    before, after, difference
        The three rows; they share time axis, amplitude axis and colour scale.
    touched_s
        Spans (start, end) in seconds, marked in every row.
    colours
        See `Colours`.
    salt
        Makes the ids within an SVG unique on a page, and the same for the same page.
    file_format
        ``svg`` or ``png``.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.size": 10.0,
        "axes.edgecolor": colours.faint,
        "axes.labelcolor": colours.ink,
        "text.color": colours.ink,
        "xtick.color": colours.ink,
        "ytick.color": colours.ink,
        "axes.linewidth": 0.8,
    }
    rows = (
        ("Before", before, colours.wave),
        ("After", after, colours.wave),
        ("Difference (after − before)", difference, colours.changed),
    )
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(11, 7.2), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(3, 2, sharex=True, gridspec_kw={"width_ratios": [1.0, 1.15]}, squeeze=False)
        loudest = max(float(np.abs(picture.envelope).max(initial=0.0)) for _, picture, _ in rows)
        limit = loudest if 0 < loudest < math.inf else 1.0
        top_db = 10 * math.ceil(max(float(p.spectrogram_db.max()) for _, p, _ in rows) / 10)
        top_db = max(min(top_db, 20), -80)
        image = None
        for (title, picture, colour), (left, right) in zip(rows, axes, strict=True):
            _draw_waveform(left, picture, limit, colour, colours)
            image = _draw_spectrogram(right, picture, top_db)
            left.set_title(title, loc="left", fontsize=11, fontweight="bold", color=colours.ink)
            for start_s, end_s in touched_s[:60]:
                left.axvspan(start_s, end_s, color=colours.mark, alpha=0.16, linewidth=0, zorder=0)
                for edge_s in (start_s, end_s):
                    left.axvline(edge_s, color=colours.mark, linewidth=0.9, linestyle=(0, (4, 3)))
                    right.axvline(edge_s, color="#ffffff", linewidth=1.1, linestyle=(0, (4, 3)))
        for axis in axes[-1]:
            axis.set_xlim(0, max(before.duration_s, 1e-6))
            _label_time(axis, before.duration_s)
        assert image is not None
        bar = figure.colorbar(image, ax=list(axes[:, 1]), pad=0.015, aspect=48, extend="min", extendfrac=0.02)
        bar.set_label("Level (dB re full-scale sine)")
        bar.outline.set_edgecolor(colours.faint)
        buffer = io.BytesIO()
        if file_format == "svg":
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(buffer, format=file_format)
        return buffer.getvalue()


def draw_svg(
    before: Picture,
    after: Picture,
    difference: Picture,
    touched_s: Sequence[tuple[float, float]],
    *,
    salt: str,
) -> str:
    """Draw as `draw`, as an ``<svg>`` element in the colours of the page it stands on."""
    text = draw(before, after, difference, touched_s, SCREEN_COLOURS, salt=salt).decode()
    text = text[text.index("<svg") :]
    for name, colour in vars(SCREEN_COLOURS).items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"(?<=\d) ?\n(?=[LMz])", " ", text)
    # nothing refers to these ids, and matplotlib numbers them from 1 in every picture
    text = re.sub(r'\bid="[A-Za-z0-9.]+_\d+"', "", text)
    return text


def _draw_waveform(axis: Axes, picture: Picture, limit: float, colour: str, colours: Colours) -> None:
    n_lanes, _, n_columns = picture.envelope.shape
    times_s = (np.arange(n_columns) + 0.5) * picture.duration_s / n_columns
    tick = _nice_below(limit)
    ticks: list[float] = []
    labels: list[str] = []
    for lane, (lowest, highest) in enumerate(picture.envelope):
        centre = 2.4 * limit * (n_lanes - 1 - lane)
        axis.axhline(centre, color=colours.faint, linewidth=0.6, zorder=1)
        axis.fill_between(times_s, centre + lowest, centre + highest, color=colour, linewidth=0.5, zorder=2)
        ticks += [centre - tick, centre, centre + tick]
        labels += [f"−{tick:g}", f"{picture.lanes[lane]}  0", f"{tick:g}"]
    axis.set_yticks(ticks, labels)
    axis.set_ylim(-1.15 * limit, 2.4 * limit * (n_lanes - 1) + 1.15 * limit)
    axis.set_ylabel("Amplitude (full scale = 1)")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _draw_spectrogram(axis: Axes, picture: Picture, top_db: float) -> AxesImage:
    import matplotlib

    low, high = math.log10(picture.lowest_hz), math.log10(picture.highest_hz)
    image = axis.imshow(
        np.round(picture.spectrogram_db, 1),
        origin="lower",
        aspect="auto",
        extent=(0, max(picture.duration_s, 1e-6), low, high),
        cmap=matplotlib.colormaps["magma"].resampled(64),
        vmin=top_db - DYNAMIC_RANGE_DB,
        vmax=top_db,
        interpolation="none",
    )
    marks = [
        hz for hz in (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000) if low <= math.log10(hz) <= high
    ]
    axis.set_yticks([math.log10(hz) for hz in marks], [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in marks])
    axis.set_ylabel("Frequency (Hz)")
    return image


def _label_time(axis: Axes, duration_s: float) -> None:
    if duration_s <= 120:
        axis.set_xlabel("Time (s)")
        return
    from matplotlib.ticker import FuncFormatter

    axis.set_xlabel("Time (min:s)")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value)))


def _nice_below(limit: float) -> float:
    """Largest of 1, 2, 5 times a power of ten that is not above the limit, so that axes are easy to read."""
    decade = 10.0 ** math.floor(math.log10(limit))
    return max(factor * decade for factor in (1.0, 2.0, 5.0) if factor * decade <= limit * 1.001)


# --- players --------------------------------------------------------------------------------------


def encode_player(samples: np.ndarray, sample_rate: int, budget_bytes: int, start_s: float = 0.0) -> Player:
    """Encode samples for a browser, as good as the budget allows.

    Parameters
    ----------
    samples
        (channels, n), full scale ±1; more than two channels are folded to two.
    sample_rate
        Hz.
    budget_bytes
        Most bytes as 16-bit samples. First the rate goes down to 24 and 16 kHz, then to one channel, then to
        8 kHz; a recording that is still too long is cut to an excerpt in 16 kHz mono.
    start_s
        Where an excerpt begins, seconds.
    """
    channels, n_samples = samples.shape
    duration_s = n_samples / sample_rate
    notes: list[str] = []
    if channels > 2:
        samples = to_stereo(samples)
        notes.append(f"{channels} channels folded to two")
        channels = 2
    ladder = [(48_000, channels), (24_000, channels), (16_000, channels), (16_000, 1), (8_000, 1)]
    for limit, width in ladder:
        rate = min(limit, sample_rate)
        if 2 * rate * width * duration_s <= budget_bytes:
            break
    else:
        rate, width = min(16_000, sample_rate), 1
        length = min(int(budget_bytes / (2 * rate * width) * sample_rate), n_samples)
        first = max(0, min(int(start_s * sample_rate), n_samples - length))
        samples = samples[:, first : first + length]
        notes.append(f"excerpt {_clock(first / sample_rate)}–{_clock((first + length) / sample_rate)}")
    if width < channels:
        samples = samples.mean(axis=0, keepdims=True)
        notes.append("downmixed to mono")
    if rate != sample_rate:
        samples = resample(np.ascontiguousarray(samples, np.float32), sample_rate, rate)
        notes.append(f"{rate / 1000:g} kHz")
    if _peak(samples) > 1.0:
        notes.append("clipped at full scale")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1.0, 1.0).T, rate, format="FLAC", subtype="PCM_16")
    return Player(buffer.getvalue(), ", ".join(notes))


def _excerpt_start_s(touched_s: Sequence[tuple[float, float]]) -> float:
    return max(0.0, touched_s[0][0] - 3.0) if touched_s else 0.0


# --- page -----------------------------------------------------------------------------------------


def build_report(record: RunRecord) -> str:
    """Return the page of a run: one HTML text that needs no other file and no network.

    Parameters
    ----------
    record
        What `RunCollector.record` returns.
    """
    from jinja2 import Environment, StrictUndefined

    from smartdj_agent.report_page import TEMPLATE

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        clock=_clock,
        db=_db,
        decimals=_decimals,
        flac=_data_url,
        direction=_direction,
        spans=_spans,
        integer=_integer,
    )
    pictures = {
        step.step_id: draw_svg(step.before, step.after, step.difference, step.touched_s, salt=f"step-{step.step_id}")
        for step in record.steps
    }
    whole = ""
    if record.whole_difference is not None:
        whole = draw_svg(record.steps[0].before, record.steps[-1].after, record.whole_difference, (), salt="whole")
    done = {step.step_id: step for step in record.steps}
    return environment.from_string(TEMPLATE).render(
        run=record,
        rows=[(item, format_step(item.step), done.get(item.id)) for item in record.plan.steps] if record.plan else [],
        pictures=pictures,
        whole=whole,
        slowest=max((step.seconds for step in record.steps), default=0.0),
    )


def _clock(seconds: float) -> str:
    """Seconds as ``12.3 s`` up to two minutes, else as ``2:05`` or ``1:02:05``."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds % 1 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _db(value: float | None) -> str:
    if value is None:
        return "–"
    return "−∞ dB" if value == -math.inf else _decimals(value, 1) + " dB"


def _decimals(value: float | None, digits: int = 2) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("-")


def _integer(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _direction(azimuth_deg: float | None) -> str:
    return "–" if azimuth_deg is None else direction_name(azimuth_deg)


def _spans(spans: Sequence[tuple[float, float]]) -> str:
    shown = ", ".join(f"{_clock(start)} – {_clock(end)}" for start, end in spans[:8])
    return shown + (f" and {len(spans) - 8} more" if len(spans) > 8 else "") if spans else "none"


def _data_url(player: Player) -> str:
    return "data:audio/flac;base64," + base64.b64encode(player.flac).decode()


def _models(preset: str) -> tuple[ModelFacts, ...]:
    """The installed networks of a preset; none where that can't be told, which must not stop a report."""
    try:
        from smartdj_agent.models.weights import list_installed

        installed = list(list_installed())
    except (ImportError, OSError, SmartDJError):
        return ()
    return tuple(ModelFacts(m.name, m.role, m.parameters, m.sha256) for m in installed if m.preset in (preset, ""))
