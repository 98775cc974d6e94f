"""How fast SmartDJ is on this machine: loading, listening, planning, one step in either mode; and how much memory.

    python benchmarks/speed.py

Works on the demo recording, repeated to 10 and to 60 seconds. Prints a table and writes
``benchmarks/results/speed.json`` with facts about the machine. Stays below three minutes: what would take longer is
left out and said to be.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from smartdj_agent.agent import Agent
from smartdj_agent.audio import Audio, read_audio
from smartdj_agent.editor import StepOutcome
from smartdj_agent.errors import SmartDJError
from smartdj_agent.events import Heard, Listened
from smartdj_agent.steps import Operation, Step, format_step

HERE = Path(__file__).resolve().parent
RECORDING = HERE.parent / "examples" / "demo.wav"
INSTRUCTION = "make this sound like a rainy harbour"
LENGTHS_S = (10, 60)
BUDGET_S = 120.0
"""What is expected to end later than this isn't begun; other work on the machine may make it a third slower."""
REPEAT_S = 6.0
"""A measurement is repeated, at most `REPEATS` times, until it has taken this long."""
REPEATS = 3


@dataclass(frozen=True)
class Measurement:
    """One row.

    Attributes
    ----------
    what
        What was measured.
    duration_s
        Length of the recording, seconds; None where it plays no part.
    seconds
        Median of the repeats; None if it was left out.
    real_time
        Seconds of audio per second; None where it has no meaning.
    repeats
        How often it ran.
    note
        How it was done, or why it was left out.
    peak_memory_mib
        Largest memory of the process until then.
    """

    what: str
    duration_s: int | None
    seconds: float | None
    real_time: float | None
    repeats: int
    note: str
    peak_memory_mib: int


def peak_memory_mib() -> int:
    """Largest resident memory of this process so far, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10)


def of_length(audio: Audio, duration_s: int) -> Audio:
    """The recording, repeated and cut to a length."""
    length = duration_s * audio.sample_rate
    rounds = -(-length // audio.n_samples)
    return replace(audio, samples=np.tile(audio.samples, (1, rounds))[:, :length])


def measured(what: str, duration_s: int | None, run: Callable[[], str], *, repeats: int = REPEATS) -> Measurement:
    """Time `run`, which returns a note."""
    times: list[float] = []
    note = ""
    while not times or (len(times) < repeats and sum(times) < REPEAT_S):
        started = time.perf_counter()
        note = run()
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times)
    factor = duration_s / seconds if duration_s else None
    return Measurement(what, duration_s, seconds, factor, len(times), note, peak_memory_mib())


def measurements(agent: Agent) -> Iterator[Measurement]:
    """Measure everything, row by row."""
    began = time.perf_counter()
    editor = agent.editor

    def load(attributes: tuple[str, ...]) -> str:
        # The planner takes the sentence encoder along; so that one is loaded, and timed, before it.
        for name in attributes:
            operator.attrgetter(name)(agent)
        return ""

    parts = {
        "sentence encoder": ("editor.encoder",),
        "listener": ("editor.listener",),
        "planner": ("planner.model", "planner.vocabulary"),
        "codec": ("editor.codec",),
        "editor": ("editor.dit",),
    }
    for name, attributes in parts.items():
        yield measured(f"load the {name}", None, partial(load, attributes), repeats=1)
    planner = agent.planner

    recording = read_audio(RECORDING)
    pieces = {duration_s: of_length(recording, duration_s) for duration_s in LENGTHS_S}

    def heard_in(audio: Audio) -> tuple[Heard, ...]:
        return next(event.sounds for event in agent.listen(audio) if isinstance(event, Listened))

    def listen(audio: Audio) -> str:
        return f"sounds: {len(heard_in(audio))}"

    for duration_s, audio in pieces.items():
        yield measured("listen", duration_s, partial(listen, audio))

    heard = heard_in(pieces[LENGTHS_S[0]])
    first: list[float] = []

    def plan() -> str:
        started = time.perf_counter()
        count = 0
        written = (item for item in planner.write(heard, INSTRUCTION, seed=0) if not isinstance(item, str))
        for count, item in enumerate(written, 1):
            if count == 1:
                first.append(time.perf_counter() - started)
            if not isinstance(item, Step):
                return "a question"
        return f"steps: {count}"

    whole = measured("plan: all", None, plan)
    yield replace(whole, what="plan: first step or question", seconds=statistics.median(first))
    yield whole

    target = heard[0].label if heard else "rain"
    asked = (
        Step(Operation.REMOVE, target),
        Step(Operation.REVERB, target, reverb_level=5),
        Step(Operation.ADD, "rain"),
    )

    def carried_out(mode: str, audio: Audio, step: Step) -> str:
        outcome = None
        for item in (
            editor.preserve(audio, step, seed=0) if mode == "preserve" else editor.generate(audio, step, seed=0)
        ):
            outcome = item
        assert isinstance(outcome, StepOutcome)  # the last item, by the editor's contract
        return f"{format_step(step)} ({outcome.method.split(':')[0]})"

    for duration_s, audio in pieces.items():
        for step in asked:
            yield measured(
                f"preserve: {step.operation.value}",
                duration_s,
                partial(carried_out, "preserve", audio, step),
            )
    # The cost of `generate` grows with the number of 10 s windows, which overlap by 1 s.
    per_window_s = 0.0
    for duration_s, audio in pieces.items():
        windows = max(1, -(-(duration_s - 1) // 9))
        expected_s = per_window_s * windows
        if time.perf_counter() - began + expected_s > BUDGET_S:
            note = f"left out: it would take about {expected_s:.0f} s"
            yield Measurement("generate: remove", duration_s, None, None, 0, note, peak_memory_mib())
            continue
        row = measured("generate: remove", duration_s, partial(carried_out, "generate", audio, asked[0]))
        assert row.seconds is not None  # it ran
        per_window_s = row.seconds / windows
        yield row


def write_results(path: Path, rows: list[Measurement], facts: dict[str, Any]) -> None:
    """Write JSON that appears only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    content = {**facts, "measurements": [asdict(row) for row in rows]}
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "speed.json")
    chosen = parser.parse_args()
    progress, rows = Console(stderr=True), []
    started = time.perf_counter()
    try:
        agent = Agent(chosen.preset, chosen.device)
        for row in measurements(agent):
            progress.print(f"{row.what} {row.duration_s or ''}".strip(), style="dim")
            rows.append(row)
        # Only now: matplotlib and the like shall not count as our memory.
        from training.evaluate import machine, weights_used

        facts = {
            "machine": machine(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "load_average": list(os.getloadavg()),
            "preset": agent.preset.name,
            "device": agent.device,
            "weights_sha256": weights_used(agent.preset.name),
            "recording": f"{RECORDING.name}, repeated; {read_audio(RECORDING).sample_rate} Hz",
            "made": datetime.now(UTC).replace(microsecond=0).isoformat(),
            "seconds": round(time.perf_counter() - started, 1),
        }
        write_results(chosen.out, rows, facts)
    except (SmartDJError, OSError) as error:
        progress.print(f"error: {error}", style="red", highlight=False)
        return 2
    table = Table(title=f"Speed. {facts['machine']}", title_justify="left")
    for heading in ("what", "audio, s", "seconds", "× real time", "peak, MiB", "note"):
        table.add_column(heading, justify="left" if heading in ("what", "note") else "right")
    for row in rows:
        table.add_row(
            row.what,
            str(row.duration_s or ""),
            "–" if row.seconds is None else f"{row.seconds:.2f}",
            "–" if row.real_time is None else f"{row.real_time:.1f}",
            str(row.peak_memory_mib),
            row.note,
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
