"""What listening to results gains and costs: the same steps with and without it, on held-out mixtures.

    python -m training.relisten_gain --out runs/relisten --count 40 --cache data/clips --markdown docs/planner.md

Each mixture of unseen clips gets one step (add, remove or extract) through the agent, in preserve mode. Written are the
result's quality without and with listening, how often it warns, and whether what it warns of is really worse: its
warnings are worth something only as far as the two last columns differ. Figures go to ``relisten.json`` and between
``<!-- relisten -->`` and ``<!-- /relisten -->`` of the file given by ``--markdown``.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio
from smartdj_agent.events import Finished, Notice
from smartdj_agent.files import write_file
from smartdj_agent.models.presets import SAMPLE_RATE
from smartdj_agent.plan import Plan, PlanStep
from smartdj_agent.steps import Operation
from training.evaluate import Case, LabelRanker, make_case, open_clips, replace_anchored
from training.metrics import si_sdr_db

OPERATIONS = (Operation.ADD, Operation.REMOVE, Operation.EXTRACT)
WARNINGS = frozenset({"still_heard", "not_heard"})
FOLDERS = (Path("../shared/bank"), Path("../shared/esc10"))


@dataclass(frozen=True)
class Run:
    """One step carried out.

    Attributes
    ----------
    figure
        SI-SDR improvement in dB; of an addition the label's place among all, 1 is best.
    warned
        Whether the agent says that the change can't be heard.
    seconds
        How long it took.
    """

    figure: float
    warned: bool
    seconds: float


def carry_out(agent: Agent, case: Case, ranker: LabelRanker) -> Run:
    """Carry out a case's step through the agent."""
    audio = Audio(case.source, SAMPLE_RATE)
    started = time.perf_counter()
    warned, samples = False, case.source
    for event in agent.apply(audio, Plan((PlanStep("s1", case.step),)), seed=case.seed):
        if isinstance(event, Notice):
            warned |= event.code in WARNINGS
        elif isinstance(event, Finished):
            samples = event.audio.samples
    seconds = time.perf_counter() - started
    if case.step.operation is Operation.ADD:
        figure = float(ranker.rank(samples, case.step.target))
    else:
        figure = si_sdr_db(samples, case.truth) - si_sdr_db(case.source, case.truth)
    return Run(figure, warned, seconds)


def summary(plain: Sequence[Run], heard: Sequence[Run]) -> dict[str, float | None]:
    """Figures of one operation."""
    warned = [run.figure for run in heard if run.warned]
    silent = [run.figure for run in heard if not run.warned]
    changed = [new.figure - old.figure for old, new in zip(plain, heard, strict=True) if new.figure != old.figure]

    def median(values: Sequence[float]) -> float | None:
        return round(statistics.median(values), 2) if values else None

    return {
        "without": median([run.figure for run in plain]),
        "with": median([run.figure for run in heard]),
        "second try taken": len(changed) / len(plain),
        "gain where taken": median(changed),
        "warned": len(warned) / len(plain),
        "figure where warned": median(warned),
        "figure where not": median(silent),
        "seconds without": median([run.seconds for run in plain]),
        "seconds with": median([run.seconds for run in heard]),
    }


def table(found: dict[str, dict[str, float | None]]) -> str:
    """All figures as Markdown."""
    names = list(next(iter(found.values())))
    lines = [f"| operation | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for operation, values in found.items():
        cells = []
        for name in names:
            value = values[name]
            share = name in ("second try taken", "warned")
            cells.append("–" if value is None else f"{100 * value:.0f} %" if share else f"{value:.2f}")
        lines.append(f"| {operation} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
    count: Annotated[int, typer.Option(min=1, help="Mixtures per operation.")] = 40,
    seed: Annotated[int, typer.Option(help="The same seed gives the same mixtures.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded clips.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table there, too.")] = None,
) -> None:
    """Measure what listening to results gains and costs."""
    console = Console(stderr=True)
    store = open_clips(FOLDERS, "test", cache)
    agents = {relisten: Agent(relisten=relisten) for relisten in (False, True)}
    listener, encoder = agents[True].editor.listener, agents[True].editor.encoder
    labels = sorted(store.labels)
    with torch.inference_mode():
        ranker = LabelRanker(listener, encoder.vectors(labels), labels)
    runs: dict[str, dict[bool, list[Run]]] = {}
    for operation in OPERATIONS:
        both: dict[bool, list[Run]] = {False: [], True: []}
        for index in track(range(count), operation, console=console):
            case = make_case(store, operation, index, seed)
            for relisten in (True, False) if index % 2 else (False, True):
                both[relisten].append(carry_out(agents[relisten], case, ranker))
        runs[operation] = both
    found = {operation: summary(both[False], both[True]) for operation, both in runs.items()}
    text = table(found)
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"count": count, "seed": seed, "figures": found}
    write_file(out / "relisten.json", (json.dumps(record, indent=1) + "\n").encode(), overwrite=True)
    if markdown is not None:
        note = (
            f"{count} mixtures per operation. Figures are the SI-SDR improvement in dB; of `add`, the asked label's"
            f" place among {len(labels)} (1 is best)."
        )
        whole = replace_anchored(markdown.read_text(encoding="utf-8"), "relisten", f"{text}\n\n{note}")
        write_file(markdown, whole.encode(), overwrite=True)
    print(text)
    if not np.isfinite([value for row in found.values() for value in row.values() if value is not None]).all():
        console.print("some figures are not finite: look at the mixtures")


if __name__ == "__main__":
    typer.run(main)
