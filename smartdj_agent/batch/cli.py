"""``smartdj batch FOLDER "instruction"``: survey, plans, one question, work, summary."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smartdj_agent.cli import (
    AddSource,
    AddSourceOption,
    Device,
    DeviceOption,
    JsonOption,
    LibraryOption,
    Mode,
    ModeOption,
    PlannerName,
    PlannerOption,
    Preset,
    PresetOption,
    RelistenOption,
    SeedOption,
    agent_options,
    check_instruction,
)
from smartdj_agent.errors import ErrorCode, SmartDJError

if TYPE_CHECKING:
    from smartdj_agent.batch.manifest import Manifest
    from smartdj_agent.batch.run import Batch
    from smartdj_agent.batch.summary import Ending
    from smartdj_agent.batch.survey import LeftOut, Project, Request, Survey, Unit
    from smartdj_agent.cli import AgentLike
    from smartdj_agent.console import Screen
    from smartdj_agent.plan import Plan

ATTEMPTS = 10
"""Unusable answers in a row that end the question."""


def batch(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Recordings and REAPER projects, in folders inside it too."),
    ],
    instruction: Annotated[
        str | None,
        typer.Argument(
            metavar="INSTRUCTION", help='What each shall become, e.g. "make this sound like a rainy morning".'
        ),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", metavar="YAML", help="Carry out this plan on each instead of planning."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Carry the plans out without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="NAME", help="Only tracks of this name or pattern (Amb*); several allowed."),
    ] = None,
    with_media: Annotated[
        bool, typer.Option("--with-media", help="Also edit recordings by themselves that a project uses.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            max=4096,
            show_default=False,
            help="How many at a time, as far as the device allows: a core each, 0.4 GB each. [1; the cluster's cores]",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Let a Ray cluster compute; local: a Ray of one's own."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where manifest and summary go; else FOLDER/smartdj-batch. Results lie beside their sources.",
        ),
    ] = None,
    mode: ModeOption = Mode.PRESERVE,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    preset: PresetOption = Preset.SMALL,
    add_source: AddSourceOption = AddSource.AUTO,
    library: LibraryOption = None,
    relisten: RelistenOption = True,
    planner: PlannerOption = PlannerName.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Edit a whole folder: audio files, and items in REAPER projects. Run it again to go on where it stopped.

    Nothing is overwritten: walk.wav becomes walk-smartdj.wav, scene.RPP becomes scene-smartdj.RPP with a new take for
    each step.

    Example: smartdj batch recordings "make this sound like a rainy morning" --yes
    """
    from contextlib import ExitStack

    from smartdj_agent import cli
    from smartdj_agent.batch.manifest import Manifest
    from smartdj_agent.batch.run import Batch, cores
    from smartdj_agent.batch.survey import BATCH_FOLDER, survey
    from smartdj_agent.console import Screen, can_ask

    sounds = agent_options(add_source, library, relisten, planner)
    request = _request(instruction, plan_file, seed, mode, preset, track or [], sounds)
    root = folder.absolute()
    own = out.absolute() if out is not None else root / BATCH_FOLDER
    with Screen(as_json=as_json) as screen:
        screen.status("looking through the folder")
        found = survey(root, request, with_media=with_media, apart=own)
        screen.rest()
        if dry_run:
            with Manifest(own, root, write=False) as manifest:
                _show_dry_run(found, manifest, screen)
            return
        asks = request.plan is None and not yes
        if asks and not can_ask():
            with Manifest(own, root, write=False) as manifest:
                _refuse_unseen(found, manifest)
        with Manifest(own, root) as manifest, ExitStack() as stack:
            manifest.recover()
            watch = Watch(screen)
            make: Callable[[], AgentLike] = partial(cli.make_agent, preset.value, device.value, **sounds)
            if ray is not None:
                from smartdj_agent.batch.ray_agent import RayAgent
                from smartdj_agent.scatter import connected

                if "library" in sounds:  # workers have another working folder
                    sounds["library"] = [path.absolute() for path in sounds["library"]]
                make = partial(cli.make_agent, preset.value, device.value, **sounds)
                screen.status("connecting to the cluster")
                gpus = 1.0 if device is Device.CUDA else 0.0
                shared = RayAgent(stack.enter_context(connected(ray, jobs)), make, gpus=gpus)
                screen.rest()
                jobs = min(jobs or shared.max_parallel, shared.max_parallel)
                make = partial(_same, shared)
            jobs = jobs or 1
            if jobs > 1:  # each edit gets its share of the cores; read by the libraries when they are loaded
                os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
            run = Batch(found, request, manifest, make, watch)
            left = run.left()
            watch.begin(left)
            screen.emit(
                {
                    "event": "batch_started",
                    "folder": str(root),
                    "units": [unit.id for unit in left],
                    "found": len(found.units),
                    "left_out": len(found.left_out),
                    "audio_s": sum(unit.duration_s for unit in left),
                }
            )
            _run(run, left, jobs, asks, watch, screen, own)


def _same(agent: AgentLike) -> AgentLike:
    return agent


def _refuse_unseen(found: Survey, manifest: Manifest) -> None:
    """Refuse to carry out plans that nobody can look at; where all is done there is nothing to refuse."""
    if not all(manifest.is_done(unit.id, unit.key) for unit in found.units):
        raise SmartDJError(
            ErrorCode.USAGE,
            "nobody is there to look at the plans; nothing was carried out",
            "give --yes to carry them out unseen, --plan for one plan for all, or --dry-run to look",
            field="--yes",
        )


def _request(
    instruction: str | None,
    plan_file: Path | None,
    seed: int,
    mode: Mode,
    preset: Preset,
    tracks: list[str],
    sounds: dict[str, Any],
) -> Request:
    from smartdj_agent.batch.survey import Request
    from smartdj_agent.plan import read_plan

    if (instruction is None) == (plan_file is None):
        raise SmartDJError(
            ErrorCode.USAGE,
            "give an instruction or --plan" if instruction is None else "give an instruction or --plan, not both",
            'for example: smartdj batch FOLDER "make this sound like a rainy morning"',
            field="instruction",
        )
    plan: Plan | None = None
    if plan_file is not None:
        plan = read_plan(plan_file)
        if not plan.enabled_steps():
            raise SmartDJError(
                ErrorCode.PLAN_INVALID,
                "the plan has no step that is switched on",
                "write 'enabled: true' at a step, or add one",
                field="plan.steps",
            )
    text = check_instruction(instruction) if instruction is not None else ""
    unheard = () if sounds.get("relisten", True) else ("no-relisten",)
    written = (f"planner-{sounds['planner']}",) if "planner" in sounds else ()
    told = (
        *unheard,
        *written,
        sounds.get("add_source", ""),
        *(str(folder.absolute()) for folder in sounds.get("library", ())),
    )
    return Request(text, plan, seed, mode.value, preset.value, tuple(tracks), told if sounds else ())


def _run(run: Batch, left: list[Unit], jobs: int, asks: bool, watch: Watch, screen: Screen, own: Path) -> None:
    """Plan, ask, carry out; whatever happens, write the summary of it."""
    from smartdj_agent.batch.summary import Ending

    began = time.monotonic()
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    before = frozenset(unit.id for unit in run.found.units) - {unit.id for unit in left}
    error: SmartDJError | None = None
    try:
        chosen = left
        if asks and left:
            plans = run.plan_all(left)
            chosen = _choose(plans, watch, screen) if plans else []
        if jobs > 1 and chosen and run.parallel() < jobs:
            screen.line(f"note: {run.parallel()} at a time is what the device allows")
        run.carry_out(chosen, jobs)
    except KeyboardInterrupt:
        error = _stopped(run)
    except SmartDJError as failure:
        if failure.code is ErrorCode.CANCELLED:
            error = failure
        else:
            error = SmartDJError(
                failure.code, failure.message, f"{failure.hint}; then run the same command to go on", failure.field
            )
    state = "finished" if error is None else "stopped" if error.code is ErrorCode.CANCELLED else "failed"
    ending = Ending(state, time.monotonic() - began, started, error)
    failed = _write_summary(run, before, ending, watch, screen, own)
    if error is not None:
        raise error
    if failed:
        raise SmartDJError(
            ErrorCode.BATCH_PARTIAL,
            f"{failed} could not be done; everything else is",
            f"see {own / 'summary.html'}; run the same command to try {'them' if failed > 1 else 'it'} again",
        )


def _stopped(run: Batch) -> SmartDJError:
    left = len(run.left())
    done = len(run.found.units) - left
    return SmartDJError(
        ErrorCode.CANCELLED,
        f"stopped; {done} of {len(run.found.units)} are done",
        "run the same command again to go on",
    )


def _write_summary(run: Batch, before: frozenset[str], ending: Ending, watch: Watch, screen: Screen, own: Path) -> int:
    """Write both summaries, show the last line, and return how many failed."""
    from smartdj_agent.batch.summary import STATES, duration, summarise, to_html, to_json
    from smartdj_agent.files import write_file

    summary = summarise(run, before, ending)
    files = {"summary": own / "summary.json", "page": own / "summary.html"}
    write_file(files["summary"], to_json(summary), overwrite=True)
    write_file(files["page"], to_html(summary, run.manifest.root, own), overwrite=True)
    screen.rest()
    for left_out in run.found.left_out:
        watch.left_out(left_out)
    failed = summary["counts"]["failed"] + len(run.project_errors)
    counts = ", ".join(f"{number} {STATES[state]}" for state, number in summary["counts"].items() if number)
    screen.emit(
        {
            "event": "batch_finished",
            "state": ending.state,
            "seconds": ending.seconds,
            "counts": summary["counts"],
            "projects": [str(path) for path in run.project_outputs.values()],
            **{name: str(path) for name, path in files.items()},
        }
    )
    screen.line(f"{counts} ({duration(ending.seconds)}); see {files['page']}")
    return int(failed)


def _choose(plans: list[tuple[Unit, Plan]], watch: Watch, screen: Screen) -> list[Unit]:
    """Show all plans and ask once which to carry out.

    Raises
    ------
    SmartDJError
        CANCELLED where the person says so or goes away; the plans are kept for the next run.
    """
    from rich.table import Table
    from rich.text import Text

    from smartdj_agent.cli import _ask
    from smartdj_agent.plan_text import short_step

    table = Table(title="Plans", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("", justify="right", style="bold")
    table.add_column("recording")
    table.add_column("length", justify="right")
    table.add_column("plan")
    for number, (unit, plan) in enumerate(plans, start=1):
        steps = [short_step(item.step) for item in plan.enabled_steps()]
        text = Text("\n".join(steps) if steps else "nothing to change", "" if steps else "dim")
        table.add_row(str(number), Text(unit.label), f"{unit.duration_s:.1f} s", text)
    screen.table(table)
    dropped: set[int] = set()
    for _ in range(ATTEMPTS):
        try:
            answer = _ask("[a]ccept all, [d]rop N …, [c]ancel: ").split()
        except EOFError:
            break
        word, *values = [part.lower() for part in answer] or [""]
        if word in ("a", "accept", "y", "yes"):
            kept = [unit for number, (unit, _) in enumerate(plans, start=1) if number not in dropped]
            watch.begin(kept)
            return kept
        if word in ("c", "cancel", "q", "quit", "n", "no"):
            break
        if word in ("d", "drop") and values and all(v.isdecimal() and 1 <= int(v) <= len(plans) for v in values):
            dropped |= {int(value) for value in values}
            screen.line(f"dropped for now: {', '.join(str(number) for number in sorted(dropped))}")
        else:
            screen.line(f"not understood; a number is from 1 to {len(plans)}")
    raise SmartDJError(
        ErrorCode.CANCELLED, "cancelled; nothing was carried out", "the plans are kept for the next time"
    )


def _show_dry_run(found: Survey, manifest: Manifest, screen: Screen) -> None:
    from rich.table import Table
    from rich.text import Text

    from smartdj_agent.batch.summary import duration
    from smartdj_agent.console import one_line, write_stdout

    rows: list[tuple[str, str, str]] = []
    waiting_s, waiting = 0.0, 0
    for unit in found.units:
        done = manifest.is_done(unit.id, unit.key)
        if not done:
            waiting += 1
            waiting_s += unit.duration_s
        rows.append((unit.label, f"{unit.duration_s:.1f} s", "done already" if done else "to do"))
        screen.emit(
            {"event": "unit", "unit": unit.id, "duration_s": unit.duration_s, "state": "done" if done else "to_do"}
        )
    for item in found.left_out:
        kind = "error" if item.error is not None else "left out"
        rows.append((item.label, "", f"{kind}: {item.reason}"))
        screen.emit({"event": "unit", "unit": item.id, "state": "left_out", "reason": item.reason})
    if screen.lively:
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("recording")
        table.add_column("length", justify="right")
        table.add_column("")
        for label, length, state in rows:
            table.add_row(Text(label), length, Text(state, "" if state == "to do" else "dim"))
        screen.table(table)
    elif not screen.as_json:
        write_stdout("".join("\t".join(one_line(cell) for cell in row) + "\n" for row in rows))
    audio = f"{duration(waiting_s)} of audio"
    screen.line(f"{waiting} of {len(found.units)} to do ({audio}); nothing was changed")


class Watch:
    """Shows a batch: one line for each that ends, a bar with the time left, JSON lines.

    Parameters
    ----------
    screen
        Where to.
    """

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self._total_s = 0.0
        self._ended_s = 0.0
        self._count = 0
        self._ended = 0
        self._part: dict[str, float] = {}
        self._doing: dict[str, str] = {}
        self._started = time.monotonic()

    def begin(self, units: list[Unit]) -> None:
        """Count from here: these are to be done."""
        self._total_s = sum(unit.duration_s for unit in units)
        self._count, self._ended, self._ended_s = len(units), 0, 0.0
        self._started = time.monotonic()

    def seconds_left(self) -> float | None:
        """Estimate from the pace so far, by seconds of audio; None before there is one."""
        part_s = sum(self._part.values())
        done_s = self._ended_s + part_s
        spent = time.monotonic() - self._started
        if done_s <= 0 or spent < 1:
            return None
        return spent / done_s * max(self._total_s - done_s, 0.0)

    def planned(self, unit: Unit, plan: Plan) -> None:
        """See `smartdj_agent.batch.run.Reporter`."""
        self.screen.emit({"event": "unit_planned", "unit": unit.id, "plan": plan})

    def progress(self, unit: Unit, fraction: float, doing: str) -> None:
        """See `smartdj_agent.batch.run.Reporter`."""
        self._part[unit.id] = fraction * unit.duration_s
        self._doing[unit.id] = doing or self._doing.get(unit.id, "")
        left = self.seconds_left()
        self.screen.emit(
            {
                "event": "unit_progress",
                "unit": unit.id,
                "fraction": fraction,
                "doing": self._doing[unit.id],
                "batch_seconds_left": left,
            }
        )
        done = (self._ended_s + sum(self._part.values())) / self._total_s if self._total_s else 0.0
        what = f"{self._ended + 1}/{self._count} {unit.label}"
        self.screen.progress(what, done, " · ".join(filter(None, [self._doing[unit.id], self._time_left()])))

    def finished(self, unit: Unit, record: dict[str, Any]) -> None:
        """See `smartdj_agent.batch.run.Reporter`."""
        self._end(unit)
        outputs = [output["final"] for output in record["outputs"]]
        self.screen.emit(
            {
                "event": "unit_finished",
                "unit": unit.id,
                "outputs": outputs,
                "steps": record["steps"],
                "methods": record["methods"],
                "notices": record["notices"],
                "seconds": record["seconds"],
            }
        )
        if not outputs:
            told = "nothing to change"
        elif record.get("like"):
            told = f"the same samples as {record['like']}"
        else:
            factor = unit.duration_s / max(record["seconds"], 1e-6)
            count = len(record["steps"])
            told = f"{count} step{'' if count == 1 else 's'}, {record['seconds']:.1f} s ({factor:.2f} × real time)"
        self._line(unit, told)
        for notice in record["notices"]:
            self.screen.line(f"note: {unit.label}: {notice}", "yellow")

    def failed(self, unit: Unit, error: SmartDJError) -> None:
        """See `smartdj_agent.batch.run.Reporter`."""
        self._end(unit)
        self.screen.emit(
            {
                "event": "unit_failed",
                "unit": unit.id,
                "code": str(error.code),
                "message": error.message,
                "hint": error.hint,
            }
        )
        self._line(unit, f"failed: {error.message}" + (f" ({error.hint})" if error.hint else ""), "red")

    def project_written(self, project: Project, path: Path) -> None:
        """See `smartdj_agent.batch.run.Reporter`."""
        self.screen.emit({"event": "project_written", "project": project.id, "path": str(path)})
        self.screen.line(f"wrote {path}")

    def project_failed(self, project: Project, error: SmartDJError) -> None:
        """See `smartdj_agent.batch.run.Reporter`."""
        self.screen.emit(
            {
                "event": "project_failed",
                "project": project.id,
                "code": str(error.code),
                "message": error.message,
                "hint": error.hint,
            }
        )
        self.screen.line(f"failed: {error.message} ({error.hint})", "red")

    def left_out(self, left_out: LeftOut) -> None:
        """Show what wasn't edited, and why."""
        error = left_out.error
        self.screen.emit(
            {
                "event": "left_out",
                "unit": left_out.id,
                "reason": left_out.reason,
                "code": None if error is None else str(error.code),
            }
        )
        kind = "failed" if error is not None else "left out"
        self.screen.line(f"{kind}: {left_out.label}: {left_out.reason}", "red" if error is not None else "dim")

    def _end(self, unit: Unit) -> None:
        self._part.pop(unit.id, None)
        self._doing.pop(unit.id, None)
        self._ended += 1
        self._ended_s += unit.duration_s

    def _line(self, unit: Unit, told: str, style: str = "") -> None:
        left = self._time_left()
        self.screen.line(f"{self._ended}/{self._count} {unit.label}: {told}" + (f", {left}" if left else ""), style)

    def _time_left(self) -> str:
        from smartdj_agent.batch.summary import duration

        left = self.seconds_left()
        return "" if left is None or self._ended >= self._count else f"{duration(left)} left"


def add_to(app: typer.Typer) -> None:
    """Give a command line the command ``batch``."""
    app.command()(batch)
