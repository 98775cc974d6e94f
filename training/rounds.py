"""Ten rounds of adding a sound and removing it again: how far a recording drifts from the original.

    python -m training.rounds --rounds 10 --out runs/rounds

Mixtures of two to four test clips, placed by the released rule and unvaried. A round is one plan of two steps: add a
sound that isn't there, remove it again. Each round starts from what the round before left, so whatever an edit does to
the rest adds up (paper.md §4.5 has five rounds, values only in a figure). Writes ``rounds.csv`` (every mixture and
round), ``curve.csv`` (what is drawn) and ``rounds.png``. Equal seeds give equal files.

The bar: in preserve mode the log-spectral distance to the original is no higher after the last round than after the
first. The exit status is 1 where it is.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from smartdj_agent.audio import Audio
from smartdj_agent.editor import Chain, Editor, Layers, StepOutcome, StepProgress, choose_device
from smartdj_agent.errors import SmartDJError
from smartdj_agent.files import write_file
from smartdj_agent.library import SoundLibrary
from smartdj_agent.models.presets import get_preset
from smartdj_agent.steps import Operation, Step
from training.clips import SAMPLE_RATE, SPLITS, ClipStore
from training.drawing import save_png
from training.evaluate import Case, StepEditor, make_case, open_clips
from training.metrics import change_db, lsd

TASK = Operation.ADD.value
"""The mixtures are those of the evaluation's cases of this operation, which name a sound that isn't there."""
FIRST_PANEL, SECOND_PANEL = ("lsd", "LSD to the original"), ("change_db", "change, dB of the original's energy")
ROUND_MODES = ("preserve", "separate", "generate")
"""``preserve`` is one plan, in which what was added is kept apart; ``separate`` is preserve mode with every step a run
of its own, which must find in the mixture what an earlier one added."""
COLOURS = {"preserve": "#1f6fb4", "separate": "#3a9d5d", "generate": "#d9541e"}


@dataclass(frozen=True)
class Round:
    """One round of one mixture.

    Attributes
    ----------
    mode
        One of `ROUND_MODES`.
    mixture
        Which one, from 0.
    sound
        What is added and removed.
    number
        Of the round, from 1.
    lsd
        Log-spectral distance of what the round left to the original (`training.metrics.lsd`).
    change_db
        Energy of the difference to the original relative to the original's, dB.
    confidence
        Of the removing step, 0 to 1; 0 where the sound was not found.
    """

    mode: str
    mixture: int
    sound: str
    number: int
    lsd: float
    change_db: float
    confidence: float


@dataclass(frozen=True)
class Point:
    """The rounds of one mode and number over all mixtures: mean, median and quartiles of one figure."""

    mode: str
    figure: str
    number: int
    mixtures: int
    mean: float
    median: float
    low: float
    high: float


def last_outcome(run: Iterator[StepProgress | StepOutcome]) -> StepOutcome:
    """Run a step to its end."""
    outcome: StepProgress | StepOutcome | None = None
    for item in run:
        outcome = item
    assert isinstance(outcome, StepOutcome)  # the last item, by the editor's contract
    return outcome


def play_rounds(editor: StepEditor, mode: str, case: Case, rounds: int) -> Iterator[Round]:
    """Add the case's sound and remove it again, `rounds` times, each time from what the last left.

    In generate mode a round's two steps are chained in latent space, as those of one plan are; rounds are not.

    Parameters
    ----------
    editor
        What is tried.
    mode
        One of `ROUND_MODES`.
    case
        A recording, and an add step of a sound that it doesn't hold.
    rounds
        1 or more.
    """
    removal = Step(Operation.REMOVE, case.step.target)
    audio = Audio(case.source, SAMPLE_RATE)
    layers: Layers | None = None
    for number in range(1, rounds + 1):
        seed = case.seed + number
        if mode != "generate":
            added = last_outcome(editor.preserve(audio, case.step, seed=seed, layers=layers))
            after = replace(audio, samples=added.samples)
            known = added.layers if mode == "preserve" else None
            removed = last_outcome(editor.preserve(after, removal, seed=seed, layers=known))
            layers = removed.layers if mode == "preserve" else None
        else:
            added = last_outcome(editor.generate(audio, case.step, seed=seed))
            chain: Chain | None = added.chain
            after = replace(audio, samples=added.samples)
            removed = last_outcome(editor.generate(after, removal, seed=seed, chain=chain))
        audio = replace(audio, samples=removed.samples)
        yield Round(
            mode,
            case.index,
            case.step.target,
            number,
            lsd(case.source, audio.samples, SAMPLE_RATE),
            change_db(case.source, audio.samples),
            removed.confidence,
        )


def curve(rounds: Sequence[Round]) -> list[Point]:
    """Mean, median and quartiles by mode, figure and round."""
    points = []
    for mode in ROUND_MODES:
        for figure, _ in (FIRST_PANEL, SECOND_PANEL):
            for number in sorted({each.number for each in rounds if each.mode == mode}):
                values = [getattr(each, figure) for each in rounds if (each.mode, each.number) == (mode, number)]
                low, median, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
                points.append(Point(mode, figure, number, len(values), float(np.mean(values)), median, low, high))
    return points


def holds_bar(points: Sequence[Point]) -> bool:
    """Whether preserve mode's mean LSD is no higher after the last round than after the first."""
    means = [point.mean for point in points if (point.mode, point.figure) == ("preserve", "lsd")]
    return not means or means[-1] <= means[0]


def rows_csv(rows: Sequence[Round] | Sequence[Point]) -> str:
    """Rows as CSV with a heading; floats with six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(rows[0])])
    for row in rows:
        writer.writerow([f"{value:.6f}" if isinstance(value, float) else value for value in astuple(row)])
    return text.getvalue()


def draw(path: Path, points: Sequence[Point], title: str) -> None:
    """Draw both figures over the rounds, both modes, as a PNG: means, and quartiles as a band."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (key, label) in enumerate((FIRST_PANEL, SECOND_PANEL), 1):
        axes = figure.add_subplot(1, 2, place)
        for mode, colour in COLOURS.items():
            found = [point for point in points if (point.mode, point.figure) == (mode, key)]
            if not found:
                continue
            numbers = [point.number for point in found]
            lows, highs = [point.low for point in found], [point.high for point in found]
            axes.fill_between(numbers, lows, highs, color=colour, alpha=0.15, linewidth=0)
            axes.plot(numbers, [point.mean for point in found], "o-", color=colour, markersize=3, label=f"{mode}: mean")
        axes.set_xlabel("rounds of add, then remove")
        axes.set_ylabel(label)
        axes.grid(linewidth=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_png(figure, path)


def write_results(folder: Path, rounds: Sequence[Round], split: str) -> list[Point]:
    """Write both CSV files and the plot into a folder, made where it is missing; returns the curve."""
    folder.mkdir(parents=True, exist_ok=True)
    points = curve(rounds)
    write_file(folder / "rounds.csv", rows_csv(rounds), overwrite=True)
    write_file(folder / "curve.csv", rows_csv(points), overwrite=True)
    draw(folder / "rounds.png", points, f"Adding a sound and removing it again ({split} split); bands are quartiles")
    return points


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--count", type=int, default=20, help="mixtures in preserve mode")
    parser.add_argument("--generate-count", type=int, help="mixtures in generate mode; by default as many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folders", type=Path, nargs="+", default=[Path("../shared/bank")], help="clip folders")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--cache", type=Path, help="folder for the packed clips, as in training")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--modes", nargs="+", choices=ROUND_MODES, default=list(ROUND_MODES))
    chosen = parser.parse_args(arguments)
    if min(chosen.rounds, chosen.count, chosen.generate_count or 1) < 1:
        parser.error("rounds and counts have to be at least 1")
    return chosen


def play_all(
    editor: StepEditor, store: ClipStore, counts: dict[str, int], rounds: int, seed: int, console: Console
) -> list[Round]:
    """All rounds of all mixtures, mode by mode, with a progress bar."""
    played: list[Round] = []
    for mode, count in counts.items():
        for index in track(range(count), description=mode, console=console):
            played += play_rounds(editor, mode, make_case(store, TASK, index, seed), rounds)
    return played


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if preserve mode misses the bar, 2 for errors."""
    chosen = _arguments(arguments)
    console = Console(stderr=True)
    try:
        editor = Editor(get_preset(chosen.preset), choose_device(chosen.device), SoundLibrary.starter())
        store = open_clips(chosen.folders, chosen.split, chosen.cache)
        wanted = dict.fromkeys(ROUND_MODES, chosen.count) | {"generate": chosen.generate_count or chosen.count}
        counts = {mode: count for mode, count in wanted.items() if mode in chosen.modes}
        played = play_all(editor, store, counts, chosen.rounds, chosen.seed, console)
        points = write_results(chosen.out, played, chosen.split)
    except (SmartDJError, OSError) as error:
        console.print(f"error: {error}", style="red", highlight=False)
        return 2
    for point in points:
        if point.figure == "lsd":
            print(f"{point.mode} round {point.number:2d}: LSD {point.mean:.3f} (median {point.median:.3f})")
    if not holds_bar(points):
        console.print("preserve: LSD is higher after the last round than after the first", style="red")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
