"""One page that shows examples: waveform and spectrogram before and after, what was asked, and the steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.signal
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.clips import SAMPLE_RATE
from training.drawing import save_png

if TYPE_CHECKING:
    from training.dataset import StoredExample

WINDOW, HOP = 1024, 480
FLOOR_DB, TOP_DB = -90.0, -20.0
LEFT, RIGHT = "#1f6fb4", "#d9541e"


def _waveform(axes: Axes, audio: np.ndarray, limit: float) -> None:
    """Draw the outline of both ears, left in blue and right, mirrored below, in orange."""
    columns = 600
    size = audio.shape[1] // columns
    outline = np.abs(audio[:, : size * columns]).reshape(2, columns, size).max(axis=2)
    time = np.arange(columns) * size / SAMPLE_RATE
    axes.fill_between(time, outline[0], color=LEFT, linewidth=0)
    axes.fill_between(time, -outline[1], color=RIGHT, linewidth=0)
    axes.set_xlim(0, audio.shape[1] / SAMPLE_RATE)
    axes.set_ylim(-limit, limit)
    axes.axhline(0, color="black", linewidth=0.4)
    axes.tick_params(labelsize=6, length=2)


def _spectrogram(axes: Axes, audio: np.ndarray) -> None:
    """Draw the level of both ears together in dB over time and frequency."""
    frequency, time, spectrum = scipy.signal.stft(
        audio, SAMPLE_RATE, nperseg=WINDOW, noverlap=WINDOW - HOP, boundary=None, padded=False
    )
    level_db = 10 * np.log10(np.square(np.abs(spectrum)).mean(axis=0) + 1e-12)
    axes.pcolormesh(time, frequency / 1000, level_db, vmin=FLOOR_DB, vmax=TOP_DB, cmap="magma", rasterized=True)
    axes.set_ylim(0, SAMPLE_RATE / 2000)
    axes.set_yticks([0, 4, 8, 12])
    axes.tick_params(labelsize=6, length=2)


def _text(axes: Axes, example: StoredExample) -> None:
    about = example.about
    heard = ", ".join(
        f"{event['label']} ({event['azimuth_deg']:+.0f}°)" for event in about["events"] if event["added_by"] is None
    )
    lines = textwrap.wrap(f"{about['index']}: “{about['instruction']}”", 54)
    lines += ["", *textwrap.wrap(f"Heard: {heard}", 56), ""]
    for number, step in enumerate(about["steps"], 1):
        lines += textwrap.wrap(f"{number}. {step}", 56, subsequent_indent="   ")
    if about["question"]:
        lines += textwrap.wrap(f"? {about['question']}", 56, subsequent_indent="   ")
    if about["absent"]:
        lines.append("(the sound is not there)")
    axes.axis("off")
    axes.text(0, 1.0, "\n".join(lines[:14]), va="top", fontsize=7, transform=axes.transAxes)


def draw_gallery(path: Path, examples: Sequence[StoredExample]) -> None:
    """Draw examples, one a row, as a PNG; the file appears only when it is whole.

    Parameters
    ----------
    path
        Where to.
    examples
        At least one.
    """
    rows = len(examples)
    figure = Figure(figsize=(16, 1.9 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 5, squeeze=False, width_ratios=(1.25, 1, 1, 1, 1))
    for row, example in zip(grid, examples, strict=True):
        before, after = example.trajectory[0], example.trajectory[-1]
        limit = 1.05 * max(float(np.abs(before).max()), float(np.abs(after).max()), 1e-3)
        _text(row[0], example)
        _waveform(row[1], before, limit)
        _waveform(row[2], after, limit)
        _spectrogram(row[3], before)
        _spectrogram(row[4], after)
    titles = (
        "",
        "before (left ear up, right ear down)",
        "after the last step",
        "before, kHz",
        "after the last step, kHz",
    )
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    for axes in grid[-1][1:]:
        axes.set_xlabel("seconds", fontsize=7)
    save_png(figure, path, dpi=90)
