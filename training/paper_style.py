"""The paper's figures (paper.md §4 and §5) of all rows: per pair of clips, and between sets of clips.

FD, FAD and FSAD compare the set of a row's outputs with the set of their truths; all others are means over clips, as in
the paper's tables. Which network a figure looked through is part of its title.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.drawing import save_png
from training.embedders import Heard, Judges, at_rate
from training.metrics import (
    frechet_distance,
    fsad,
    itd_error,
    kl_divergence,
    lsd_published,
    si_sdr_db,
    spatial_feature,
)

LEAST_CLIPS = 2
EXACT_SI_SDR_DB = 100.0
"""Above this an output is the truth but for rounding; tables say so instead of a number."""


@dataclass(frozen=True)
class Impression:
    """What all judges make of one recording.

    Attributes
    ----------
    heard
        By the embedder's key.
    itds_s
        By StereoCRW, shape (frames, ITDs); None without it.
    """

    heard: dict[str, Heard]
    itds_s: np.ndarray | None


Sets = dict[tuple[str, str, str], list[tuple[np.ndarray, np.ndarray]]]
"""What distances between sets need, by task, row and figure: truth's and output's vectors, (n, d), of each clip."""


class Tally:
    """Lets the judges hear every truth and output, and keeps what the sets' distances need.

    Parameters
    ----------
    judges
        The networks that are there.
    sample_rate
        Of all recordings, Hz.

    Attributes
    ----------
    sets
        What was kept so far.
    """

    def __init__(self, judges: Judges, sample_rate: int) -> None:
        self.judges = judges
        self.sample_rate = sample_rate
        self.sets: Sets = {}

    def hear(self, stereo: np.ndarray) -> Impression:
        """Let all judges hear a recording, shape (2, n)."""
        heard = {
            judge.key: judge.embed(at_rate(stereo, self.sample_rate, judge.sample_rate))
            for judge in self.judges.embedders
        }
        crw = self.judges.crw
        itds_s = None if crw is None else crw.itds(stereo, self.sample_rate)
        return Impression(heard, itds_s)

    def figures(
        self, task: str, row: str, truth: np.ndarray, impression: Impression, output: np.ndarray, text: str
    ) -> dict[str, float]:
        """Figures of one output beyond the evaluation's own, which has LSD and GCC, and its place in the sets.

        Parameters
        ----------
        task, row
            Which table and row it belongs to.
        truth, impression
            What it should be, shape (2, n), and what `hear` made of that.
        output
            What it is, shape (2, n).
        text
            What was asked.
        """
        ours = impression if output is truth else self.hear(output)
        found = {
            "si_sdr_db": si_sdr_db(output, truth),
            "lsd_published": lsd_published(truth, output, self.sample_rate),
        }
        for judge in self.judges.embedders:
            reference, estimate = impression.heard[judge.key], ours.heard[judge.key]
            self._keep(task, row, f"{judge.distance.lower()}_{judge.key}", reference.vectors, estimate.vectors)
            if reference.logits is not None and estimate.logits is not None:
                found[f"kl_{judge.key}"] = kl_divergence(reference.logits, estimate.logits)
        for reader in self.judges.texts:
            found[f"text_{reader.key}"] = reader.likeness(at_rate(output, self.sample_rate, reader.sample_rate), text)
        if impression.itds_s is not None and ours.itds_s is not None:
            found["crw_error"] = itd_error(*(1000 * float(each.mean()) for each in (impression.itds_s, ours.itds_s)))
            features = [spatial_feature(each)[None] for each in (impression.itds_s, ours.itds_s)]
            self._keep(task, row, "fsad", *features)
        return found

    def _keep(self, task: str, row: str, key: str, reference: np.ndarray, estimate: np.ndarray) -> None:
        self.sets.setdefault((task, row, key), []).append((reference, estimate))


def joined(parts: Iterable[Sets]) -> Sets:
    """The sets of several tallies as those of one that has heard all their clips, in this order."""
    whole: Sets = {}
    for part in parts:
        for name, pairs in part.items():
            whole.setdefault(name, []).extend(pairs)
    return whole


def set_distances(sets: Sets) -> list[dict[str, Any]]:
    """Distances between the sets: task, row, key, number of clips and value; none for a single clip."""
    found = []
    for (task, row, key), pairs in sets.items():
        if len(pairs) < LEAST_CLIPS:
            continue
        both = [np.concatenate([pair[side] for pair in pairs]) for side in (0, 1)]
        value = fsad(*both) if key == "fsad" else frechet_distance(*both)
        found.append({"task": task, "row": row, "key": key, "clips": len(pairs), "value": value})
    return found


def describe_judges(judges: Judges) -> dict[str, Any]:
    """What ``results.json`` says of the judges: names by key, digests of their files, what is left out."""
    return {
        "embedders": [{"key": judge.key, "name": judge.name, "distance": judge.distance} for judge in judges.embedders],
        "texts": [{"key": judge.key, "name": judge.name} for judge in judges.texts],
        "sha256": dict(judges.sha256),
        "missing": list(judges.missing),
    }


@dataclass(frozen=True)
class PaperColumn:
    """One figure: its key, its heading, decimals, and whether it is one of a set."""

    key: str
    title: str
    digits: int
    of_set: bool = False


def paper_columns(about: dict[str, Any]) -> list[PaperColumn]:
    """All figures that the judges of a run may have given, in the order of the paper's tables."""
    judges = about.get("judges", {})
    embedders, texts = judges.get("embedders", []), judges.get("texts", [])
    columns = [
        PaperColumn(f"{kind.lower()}_{judge['key']}", f"{kind} ({judge['name']}) ↓", 2, True)
        for kind in ("FD", "FAD")
        for judge in embedders
        if judge["distance"] == kind
    ]
    columns += [PaperColumn(f"kl_{judge['key']}", f"KL ({judge['name']}) ↓", 2) for judge in embedders]
    columns += [PaperColumn("lsd", "LSD ↓", 2), PaperColumn("lsd_published", "LSD, published floors ↓", 2)]
    for judge in texts:
        what = "CLAP" if judge["key"] == "clap" else "text likeness"
        columns.append(PaperColumn(f"text_{judge['key']}", f"{what} ({judge['name']}) ↑", 2))
    return [
        *columns,
        PaperColumn("gcc_error", "GCC, 10⁻³ ms² ↓", 1),
        PaperColumn("crw_error", "CRW (StereoCRW), 10⁻³ ms² ↓", 1),
        PaperColumn("fsad", "FSAD (StereoCRW) ↓", 3, True),
        PaperColumn("si_sdr_db", "SI-SDR, dB ↑", 1),
    ]


Values = dict[tuple[str, str, str], tuple[float, int]]


def paper_values(results: dict[str, Any]) -> Values:
    """Value and number of clips of every figure, by task, row and key: means, and the sets' distances."""
    columns = paper_columns(results["about"])
    single = {column.key for column in columns if not column.of_set}
    found: dict[tuple[str, str, str], list[float]] = {}
    for record in results["records"]:
        if "si_sdr_db" not in record["figures"]:
            continue  # nothing is to be compared, or the run is from before these figures
        for key in single & record["figures"].keys():
            found.setdefault((record["task"], record["row"], key), []).append(record["figures"][key])
    values = {name: (float(np.mean(each)), len(each)) for name, each in found.items()}
    for distance in results.get("distances", []):
        values[distance["task"], distance["row"], distance["key"]] = (distance["value"], distance["clips"])
    return values


def paper_cell(column: PaperColumn, value: tuple[float, int] | None) -> str:
    """A cell; – where there is no value."""
    if value is None:
        return "–"
    if column.key == "si_sdr_db" and value[0] > EXACT_SI_SDR_DB:
        return "exact"
    return f"{round(value[0], column.digits) + 0.0:.{column.digits}f}".replace("-", "−")


def paper_grid(results: dict[str, Any], tasks: Sequence[str], rows: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the paper-style table; figures that nothing has are left out."""
    values = paper_values(results)
    columns = [column for column in paper_columns(results["about"]) if any(name[2] == column.key for name in values)]
    grid = []
    for task in tasks:
        for row in rows:
            if (task, row, "si_sdr_db") in values:
                cells = [paper_cell(column, values.get((task, row, column.key))) for column in columns]
                grid.append([task, row, str(values[task, row, "si_sdr_db"][1]), *cells])
    return ["operation", "row", "clips", *(column.title for column in columns)], grid


def draw_paper(path: Path, results: dict[str, Any], tasks: Sequence[str], colours: dict[str, str]) -> None:
    """Draw every figure by operation and row as bars, as a PNG."""
    values = paper_values(results)
    columns = [column for column in paper_columns(results["about"]) if any(name[2] == column.key for name in values)]
    down = -(-len(columns) // 2)
    figure = Figure(figsize=(14, 2.6 * down + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    rows = [row for row in colours if any(name[1] == row for name in values)]
    for place, column in enumerate(columns, 1):
        axes = figure.add_subplot(down, 2, place)
        for slot, row in enumerate(rows):
            width = 0.8 / len(rows)
            found = [(index, values.get((task, row, column.key))) for index, task in enumerate(tasks)]
            bars = [(index, value[0]) for index, value in found if value is not None]
            if column.key == "si_sdr_db":
                bars = [(index, value) for index, value in bars if value <= EXACT_SI_SDR_DB]
            offset = (slot - (len(rows) - 1) / 2) * width
            axes.bar([index + offset for index, _ in bars], [value for _, value in bars], width, color=colours[row])
        axes.set_xticks(range(len(tasks)), tasks)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", linewidth=0.3)
        axes.set_axisbelow(True)
        axes.set_title(column.title, fontsize=9)
    figure.suptitle("Paper-style figures: " + ", ".join(rows), fontsize=11)
    figure.legend(
        [figure.axes[0].plot([], [], "s", color=colours[row])[0] for row in rows],
        rows,
        loc="outside lower center",
        ncols=len(rows),
        fontsize=8,
    )
    save_png(figure, path)


PAPER_NOTES = """
- Means over clips, as the paper has them; FD, FAD and FSAD are Fréchet distances between the outputs and their truths
  as sets. They grow as sets shrink, so compare rows only at equal numbers of clips.
- A figure is called after the network that it looked through and belongs to no other: FAD through YAMNet is not the
  paper's FAD through VGGish, nor are scenes of our clips the paper's. Our listener is no independent judge: it finds
  the sounds for the editor. Nor is YAMNet altogether, where that listener hears through it too.
- PANNs and VGGish hear the left channel less its mean, as in audioldm_eval; CLAP and YAMNet hear the mean of both ears;
  our listener and StereoCRW hear both. KL has audioldm_eval's floor of 10⁻⁶, by which equal clips score just below 0.
- LSD has a floor under both spectra. With the published floors a digitally silent frame of the truth counts 12 however
  good the output is; the column tells how much silence there is. Both are means of both channels.
- Text and sound: the step's sentence, or a whole plan's instruction, against the output.
- Whole plans: two to six steps by the designer, which all rows are given; clips are varied as in training. What an
  editor adds is another clip than the truth's. The oracle adds the truth's.
"""
