"""Choose how sharp masks are, on validation mixtures: the table behind `separation.SHARPNESS`.

    python -m training.mask_sharpness --count 120 --cache data/clips

A sharp mask takes more of what it is sure of and leaves more of what it is not. What is removed must not take others
along; what is extracted is alone, and a mistaken decision is heard all the more. One sharpness serves both, so that
what is extracted and what is left make the recording. Printed are medians and means of the
SI-SDR improvement in dB, bounded to ±20 in the means, of the stem (extract) and of what is left (remove).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from smartdj_agent.models.listener import Listener
from smartdj_agent.models.presets import SAMPLE_RATE
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import load_network
from smartdj_agent.separation import apply_mask, estimate_masks, hear_window
from smartdj_agent.steps import Operation
from training.evaluate import Case, make_case, open_clips
from training.metrics import si_sdr_db
from training.relisten_gain import FOLDERS

CHOICES = (0.5, 0.75, 1.0, 1.5, 2.0)
BOUND_DB = 20.0
LOST_DB = -50.0
"""Stands for a stem of silence, whose SI-SDR is none."""


def improvements(case: Case, listener: Listener, vector: torch.Tensor) -> list[tuple[float, float]]:
    """SI-SDR improvement of stem and rest, dB, for each of `CHOICES`."""
    window = hear_window(listener, case.source)
    before = si_sdr_db(case.source, case.stem), si_sdr_db(case.source, case.rest)
    found = []
    for sharpness in CHOICES:
        (mask,) = estimate_masks(listener, window, vector[None], sharpness)
        stem = apply_mask(case.source, SAMPLE_RATE, mask, listener)
        taken = si_sdr_db(stem, case.stem) - before[0] if np.any(stem) else LOST_DB
        found.append((taken, si_sdr_db(case.source - stem, case.rest) - before[1]))
    return found


def table(rows: Sequence[Sequence[tuple[float, float]]]) -> str:
    """Medians and bounded means for every choice, as Markdown."""
    values = np.array(rows)  # (cases, choices, 2)
    lines = ["| sharpness | extract, median | mean | remove, median | mean |", "| ---: | ---: | ---: | ---: | ---: |"]
    for place, sharpness in enumerate(CHOICES):
        cells = []
        for which in range(2):
            column = values[:, place, which]
            cells += [f"{np.median(column):.2f}", f"{np.clip(column, -BOUND_DB, BOUND_DB).mean():.2f}"]
        lines.append(f"| {sharpness:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    count: Annotated[int, typer.Option(min=1, help="Mixtures.")] = 120,
    seed: Annotated[int, typer.Option(help="The same seed gives the same mixtures.")] = 77,
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded clips.")] = None,
) -> None:
    """Print the table."""
    store = open_clips(FOLDERS, "valid", cache)
    listener: Listener = load_network("small", "listener", "cpu")
    encoder = SentenceEncoder()
    rows = []
    for index in track(range(count), "mixtures", console=Console(stderr=True)):
        case = make_case(store, Operation.EXTRACT, index, seed)
        rows.append(improvements(case, listener, encoder.vectors([case.step.target])[0]))
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
