"""Carries a survey out: plans, edits, names results, writes projects; whatever is done stays done.

A unit goes: plan (recorded) → steps (each recorded, its audio kept) → result (recorded, then named). A project is
written when all its units have ended.

Several units at a time: an agent that can do that by itself, as a server's may, says how many by its attribute
``max_parallel`` and is shared. On a CPU every unit under way has an agent of its own, at most one per core: the small
networks gain little from more threads inside one edit, and much from several edits beside each other. A GPU has one.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smartdj_agent.batch.manifest import Manifest, copy_file
from smartdj_agent.batch.patch import ItemEdit, NewTake, add_takes, take_name
from smartdj_agent.batch.rpp import Document
from smartdj_agent.batch.segment import cut
from smartdj_agent.batch.survey import Project, Request, Survey, Unit, file_stamp, key_of, read_project
from smartdj_agent.console import PipeClosedError, one_line
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.plan import Plan, plan_from_dict, plan_to_dict
from smartdj_agent.steps import format_step

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio
    from smartdj_agent.cli import AgentLike
    from smartdj_agent.events import Event, Question, StepFinished

STOPPING = frozenset(
    {
        ErrorCode.MODEL_MISSING,
        ErrorCode.MODEL_CORRUPT,
        ErrorCode.MODEL_MISMATCH,
        ErrorCode.DEVICE_UNAVAILABLE,
        ErrorCode.DISK_FULL,
        ErrorCode.SERVER_UNREACHABLE,
        ErrorCode.SERVER_STOPPING,
        ErrorCode.SERVER_CONFIG,
        ErrorCode.UNAUTHENTICATED,
    }
)
"""Failures that every other unit would meet too: the run ends, and can be taken up again."""


class Reporter(Protocol):
    """Who is told; called from one thread at a time."""

    def planned(self, unit: Unit, plan: Plan) -> None:
        """A plan is there."""

    def progress(self, unit: Unit, fraction: float, doing: str) -> None:
        """A part of a unit, 0 to 1, is done."""

    def finished(self, unit: Unit, record: dict[str, Any]) -> None:
        """A unit is done; its record as in the manifest."""

    def failed(self, unit: Unit, error: SmartDJError) -> None:
        """A unit could not be done; the others go on."""

    def project_written(self, project: Project, path: Path) -> None:
        """A project's copy with its new takes is there."""

    def project_failed(self, project: Project, error: SmartDJError) -> None:
        """A project's copy could not be written."""


class _StoppedError(Exception):
    """Somebody else failed for good, or the person stopped the run."""


class Batch:
    """One run over a survey.

    Parameters
    ----------
    found
        What there is to do.
    request
        What shall be done to it.
    manifest
        Open for writing.
    agent
        Makes the agent, when it is first needed.
    reporter
        Is told what happens.
    """

    def __init__(
        self,
        found: Survey,
        request: Request,
        manifest: Manifest,
        agent: Callable[[], AgentLike],
        reporter: Reporter,
    ) -> None:
        self.found = found
        self.request = request
        self.manifest = manifest
        self.reporter = reporter
        self.project_outputs: dict[str, Path] = {}
        self.project_errors: dict[str, SmartDJError] = {}
        self._make_agent = agent
        self._idle: list[AgentLike] = []
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._projects = {project.id: project for project in found.projects}
        self._units = {unit.id: unit for unit in found.units}

    # --- what is left

    def left(self) -> list[Unit]:
        """Return the units that aren't done, in order."""
        return [unit for unit in self.found.units if not self.manifest.is_done(unit.id, unit.key)]

    def parallel(self) -> int:
        """Return how many units can be worked on at a time."""
        with self._borrowed() as agent:
            shared = getattr(agent, "max_parallel", None)
            if shared is not None:
                return max(1, int(shared))
            return cores() if getattr(agent, "device", "") == "cpu" else 1

    @contextmanager
    def _borrowed(self) -> Generator[AgentLike, None, None]:
        """Lend an agent that nobody else uses, or the one that all share; made when there is none."""
        with self._lock:
            agent = self._idle.pop() if self._idle else self._make_agent()
            shared = getattr(agent, "max_parallel", None) is not None
            if shared:
                self._idle.append(agent)
        try:
            yield agent
        finally:
            if not shared:
                with self._lock:
                    self._idle.append(agent)

    # --- planning beforehand

    def plan_all(self, units: Sequence[Unit]) -> list[tuple[Unit, Plan]]:
        """Make every unit's plan before anything is carried out, so that a person can look at them.

        A unit whose plan can't be made is recorded as failed and left out.

        Raises
        ------
        SmartDJError
            One of `STOPPING`.
        """
        plans: list[tuple[Unit, Plan]] = []
        for unit in units:
            with self._failures(unit):
                known = self._known_plan(unit)
                plans.append((unit, known if known is not None else self._plan(unit, self._load(unit))))
        return plans

    # --- carrying out

    def carry_out(self, units: Sequence[Unit], jobs: int = 1) -> None:
        """Edit units and write the projects that become complete.

        Parameters
        ----------
        units
            What is left, or a part of it.
        jobs
            How many at a time; no more than `parallel` says.

        Raises
        ------
        SmartDJError
            One of `STOPPING`. Everything done before it is kept.
        KeyboardInterrupt
            The person stopped the run; the step under way was given up.
        """
        if units:
            jobs = min(jobs, self.parallel())
        if jobs <= 1:
            for unit in units:
                self._one(unit)
                self._finish_projects(unit.project)
        else:
            self._carry_out_beside(units, jobs)
        self._finish_projects(None)

    def _carry_out_beside(self, units: Sequence[Unit], jobs: int) -> None:
        waiting = list(units)
        with self._borrowed() as agent:
            alone = getattr(agent, "max_parallel", None) is None
        if alone and waiting:  # the libraries below must not be imported by two threads at once
            unit = waiting.pop(0)
            self._one(unit)
            self._finish_projects(unit.project)
        running: dict[Future[None], Unit] = {}
        with ThreadPoolExecutor(jobs, thread_name_prefix="smartdj-batch") as pool:
            try:
                while waiting or running:
                    busy = {unit.key for unit in running.values()}  # what is alike waits, and is copied
                    while len(running) < jobs:
                        following = next((unit for unit in waiting if unit.key not in busy), None)
                        if following is None:
                            break
                        busy.add(following.key)
                        waiting.remove(following)
                        running[pool.submit(self._one, following)] = following
                    ended, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    for future in ended:
                        unit = running.pop(future)
                        future.result()
                        self._finish_projects(unit.project)
            except BaseException:
                self._stop.set()
                raise

    def _one(self, unit: Unit) -> None:
        with self._failures(unit):
            record = self._copied(unit) or self._edited(unit)
            with self._lock:
                self.manifest.publish(record["outputs"])
                self.manifest.clear(record["work"])
                self.reporter.finished(unit, record)

    @contextmanager
    def _failures(self, unit: Unit) -> Generator[None, None, None]:
        """Record what goes wrong with one unit and go on, unless it would go wrong with all."""
        try:
            yield
        except _StoppedError:
            return
        except SmartDJError as error:
            if error.code in STOPPING or error.code is ErrorCode.CANCELLED:
                raise
            self._fail(unit, error)
        except PipeClosedError:
            raise
        except Exception as failure:
            self._fail(unit, _explained(failure))

    def _fail(self, unit: Unit, error: SmartDJError) -> None:
        with self._lock:
            self.manifest.append(
                {
                    "record": "failed",
                    "unit": unit.id,
                    "key": unit.key,
                    "code": str(error.code),
                    "message": error.message,
                    "hint": error.hint,
                }
            )
            self.reporter.failed(unit, error)

    # --- one unit

    def _load(self, unit: Unit) -> Audio:
        """Read a unit's samples: the whole recording, or what its item plays."""
        from smartdj_agent.audio import AudioFormat, read_audio

        try:
            touched = file_stamp(unit.path) != unit.stamp
        except OSError:
            touched = True
        if touched:
            raise SmartDJError(
                ErrorCode.AUDIO_UNREADABLE,
                f"{unit.label} changed while the batch was at work",
                "run again when nothing writes to it any more",
            )
        audio = read_audio(unit.path)
        if unit.segment is None:
            return audio
        if audio.n_samples < unit.segment.start + unit.segment.frames and not unit.segment.looped:
            raise SmartDJError(
                ErrorCode.AUDIO_UNREADABLE,
                f"{unit.label}: its media holds less than its header promises",
                "export the media again",
            )
        subtype = "DOUBLE" if audio.samples.dtype.itemsize == 8 else "FLOAT"
        return replace(audio, samples=cut(audio.samples, unit.segment), format=AudioFormat("WAV", subtype), tags=())

    def _known_plan(self, unit: Unit) -> Plan | None:
        if self.request.plan is not None:
            return replace(self.request.plan, source_sha256="", source_name="")
        stored = self.manifest.plan(unit.key)
        return plan_from_dict(stored) if stored is not None else None

    def _plan(self, unit: Unit, audio: Audio) -> Plan:
        """Let the agent plan, and keep the plan."""
        from smartdj_agent.events import Listening, PlanReady, Question, Writing

        self._tell(unit, 0.0, "listening")
        plan: Plan | None = None
        with self._borrowed() as agent:
            for event in self._events(agent.plan(audio, self.request.instruction, seed=self.request.seed)):
                if isinstance(event, PlanReady):
                    plan = event.plan
                elif isinstance(event, Question):
                    raise _unclear(unit, event)
                elif isinstance(event, Listening):
                    self._tell(unit, 0.0, f"listening {event.fraction:.0%}")
                elif isinstance(event, Writing):
                    self._tell(unit, 0.0, "planning")
        if plan is None:
            raise RuntimeError("the planner ended with neither a plan nor a question")
        plan = replace(plan, source_name=plan.source_name or one_line(unit.path.name))
        with self._lock:
            self.manifest.append({"record": "plan", "key": unit.key, "plan": plan_to_dict(plan)})
            self.reporter.planned(unit, plan)
        return plan

    def _copied(self, unit: Unit) -> dict[str, Any] | None:
        """Use the result of another unit that holds the same samples, if there is one."""
        with self._lock:
            same = self.manifest.same_work(unit.key)
            if same is None:
                return None
            work = _work_name(unit)
            own = self._finals(unit, work, len(same["outputs"]))
            shared = bool(unit.project) and same["unit"].split("#")[0] == unit.project
            outputs = []
            for index, (output, final) in enumerate(zip(same["outputs"], own, strict=True)):
                source = self.manifest.root / output["final"]
                if shared:
                    outputs.append(self.manifest.output(None, source))
                    continue
                staged = self.manifest.staged(work, f"copy-{index}{source.suffix}")
                staged.unlink(missing_ok=True)
                copy_file(source, staged)
                outputs.append(self.manifest.output(staged, final))
            twin = self._units.get(same["unit"])
            like: dict[str, Any] = {"seconds": 0.0, "notices": [], "like": same["unit"] if twin is None else twin.label}
            record = {**same, "unit": unit.id, "work": work, "outputs": outputs, **like}
            self.manifest.append(record)
            return record

    def _edited(self, unit: Unit) -> dict[str, Any]:
        """Plan and edit a unit, or go on where an earlier run was stopped; returns the record of its result."""
        from smartdj_agent.audio import AudioFormat, clipped_samples, output_format, write_audio
        from smartdj_agent.outputs import Outputs, check_disk_space, check_holds

        started = time.monotonic()
        audio = self._load(unit)
        plan = self._known_plan(unit) or self._plan(unit, audio)
        steps = plan.enabled_steps()
        work = _work_name(unit)
        folder = self.manifest.staged(work, "")
        folder.mkdir(parents=True, exist_ok=True)
        whole = unit.segment is None
        result = folder / f"result{unit.path.suffix}"
        if whole:
            check_holds(result, audio)
        exact = replace(audio, format=AudioFormat("WAV", "FLOAT"))  # what is kept of each step
        check_disk_space(Outputs(audio=result if whole else None, steps_dir=folder), exact, len(steps))
        infos, notices, current = self._carry_out_steps(unit, audio, plan, work)
        if not whole and unit.path.suffix.lower() == ".mp3":
            notices.append("its media is MP3: where it begins may differ from REAPER's decoder by some milliseconds")
        outputs: list[dict[str, str]] = []
        if steps and whole:
            clipped = clipped_samples(current, output_format(result, current.format).subtype)
            if clipped:
                notices.append(f"{clipped:,} samples beyond full scale were clipped")
            self._tell(unit, 1.0, "writing")
            write_audio(result, current, overwrite=True)  # a leftover of ours at most
            staged = [result]
        else:
            staged = [folder / info["file"] for info in infos]
        with self._lock:  # two units must not choose the same name
            finals = self._finals(unit, work, len(staged))
            outputs = [self.manifest.output(*pair) for pair in zip(staged, finals, strict=True)]
            record = {
                "record": "done",
                "unit": unit.id,
                "key": unit.key,
                "work": work,
                "outputs": outputs,
                "takes": [info["take"] for info in infos],
                "steps": [info["step"] for info in infos],
                "methods": [info["method"] for info in infos],
                "notices": notices,
                "plan": plan_to_dict(plan),
                "seconds": round(time.monotonic() - started, 3),
                "duration_s": unit.duration_s,
            }
            self.manifest.append(record)
        return record

    def _carry_out_steps(
        self, unit: Unit, audio: Audio, plan: Plan, work: str
    ) -> tuple[list[dict[str, Any]], list[str], Audio]:
        """Carry out what is left of a plan, keeping the audio after each step."""
        from smartdj_agent.audio import AudioFormat, read_audio, write_audio
        from smartdj_agent.events import Finished, Notice, Progress, StepFinished, StepStarted

        steps = plan.enabled_steps()
        notices: list[str] = []
        # Generate mode keeps more between its steps than their audio, so there a stopped plan begins again.
        infos = self.manifest.steps(work)[: len(steps)] if self.request.mode == "preserve" else []
        current = audio
        if infos:
            kept = read_audio(self.manifest.staged(work, infos[-1]["file"]))
            current = replace(audio, samples=kept.samples)
            notices = list(infos[-1]["notices"])
        if len(infos) == len(steps):
            return infos, notices, current
        self._tell(unit, len(infos) / len(steps), "starting")
        more = {"done": len(infos)} if infos else {}
        with self._borrowed() as agent:
            stream = agent.apply(current, plan, mode=self.request.mode, seed=self.request.seed, **more)
            for event in self._events(stream):
                if isinstance(event, StepStarted):
                    doing = f"{event.index + 1}/{event.count} {format_step(event.plan_step.step)}"
                    self._tell(unit, event.index / event.count, doing)
                elif isinstance(event, Progress):
                    self._tell(unit, (event.index + event.fraction) / event.count, "")
                elif isinstance(event, Notice):
                    notices.append(event.message)
                elif isinstance(event, StepFinished):
                    current = replace(audio, samples=event.audio.samples)
                    name = f"{event.index + 1:02d}.wav"
                    subtype = "DOUBLE" if current.samples.dtype.itemsize == 8 else "FLOAT"
                    exact = replace(current, format=AudioFormat("WAV", subtype), tags=())
                    write_audio(self.manifest.staged(work, name), exact, overwrite=True)
                    infos.append(_step_info(event, name, notices))
                    with self._lock:
                        self.manifest.append({"record": "step", "work": work, **infos[-1]})
                elif isinstance(event, Finished):
                    current = replace(audio, samples=event.audio.samples)
        if len(infos) != len(steps):
            raise RuntimeError("the editor ended without a result")
        return infos, notices, current

    def _finals(self, unit: Unit, work: str, count: int) -> list[Path]:
        """Choose names that nobody has: beside the recording, or in the project's folder of takes."""
        if not unit.project:
            path = unit.path
            return [free_name(path.with_name(f"{path.stem}-smartdj{path.suffix}"))] if count else []
        folder = takes_folder(self._projects[unit.project].path)
        base = f"{slug(unit.name)}-smartdj-{work[:8]}"
        return [free_name(folder / f"{base}-{number}.wav") for number in range(1, count + 1)]

    def _events(self, stream: Iterator[Event]) -> Iterator[Event]:
        """Pass events on; however the loop ends, the stream is closed, which cancels the work inside."""
        try:
            for event in stream:
                if self._stop.is_set():
                    raise _StoppedError
                yield event
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def _tell(self, unit: Unit, fraction: float, doing: str) -> None:
        with self._lock:
            self.reporter.progress(unit, fraction, doing)

    # --- projects

    def _finish_projects(self, only: str | None) -> None:
        """Write the projects all of whose units have ended."""
        for project in self.found.projects:
            if (only is not None and project.id != only) or project.id in self.project_errors:
                continue
            records = [self.manifest.unit(id, self._units[id].key) for id in project.units]
            if any(record is None for record in records):
                continue
            done = [record for record in records if record is not None and record["record"] == "done"]
            if not any(record["outputs"] for record in done):
                continue
            key = key_of([project.sha256, self.request.digest, [[r["unit"], r["outputs"]] for r in done]])
            written = self.manifest.project(project.id, key)
            with self._lock:
                try:
                    if written is None:
                        written = self._write_project(project, done, key)
                        self.manifest.publish([written["output"]])
                        path = self.manifest.root / written["output"]["final"]
                        self.reporter.project_written(project, path)
                except SmartDJError as error:
                    if error.code in STOPPING:
                        raise
                    self.project_errors[project.id] = error
                    self.reporter.project_failed(project, error)
                    continue
            self.manifest.clear(key[:24])
            self.project_outputs[project.id] = self.manifest.root / written["output"]["final"]

    def _write_project(self, project: Project, done: list[dict[str, Any]], key: str) -> dict[str, Any]:
        from smartdj_agent.files import write_file

        data = read_project(project.path)
        if hashlib.sha256(data).hexdigest() != project.sha256:
            raise SmartDJError(
                ErrorCode.RPP_INVALID,
                f"{project.id} changed while the batch was at work",
                "run again when it is saved; its items' results are kept",
            )
        document = Document.parse(data)
        items = {item.block.start: item for track in document.tracks for item in track.items}
        edits: list[ItemEdit] = []
        for record in done:
            unit = self._units[record["unit"]]
            assert unit.segment is not None
            takes = tuple(
                NewTake(name, self._seen_from(project, output["final"]), unit.segment.offset_s, unit.segment.chanmode)
                for name, output in zip(record["takes"], record["outputs"], strict=True)
            )
            edits.append(ItemEdit(items[unit.item], takes, record["work"]))
        patched = add_takes(document, edits)
        Document.parse(patched)
        staged = self.manifest.staged(key[:24], "project.rpp")
        staged.parent.mkdir(parents=True, exist_ok=True)
        write_file(staged, patched, overwrite=True)
        path = project.path
        final = free_name(path.with_name(f"{path.stem}-smartdj{path.suffix}"))
        record = {
            "record": "project",
            "id": project.id,
            "key": key,
            "output": self.manifest.output(staged, final),
        }
        self.manifest.append(record)
        return record

    def _seen_from(self, project: Project, final: str) -> str:
        """Return a take's file as the project names it: relative, with slashes, which every system reads."""
        return (self.manifest.root / final).relative_to(project.path.parent).as_posix()


def takes_folder(project: Path) -> Path:
    """Return the folder beside a project that holds its new takes' files."""
    name = f"{project.stem}-smartdj"
    if all(mark in name for mark in "\"'`"):  # no line of a project can hold all three
        name = name.replace("`", "-")
    return project.with_name(name)


def free_name(path: Path) -> Path:
    """Return the path, or the first of ``…-2``, ``…-3`` that nothing has."""
    number = 1
    candidate = path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def slug(name: str) -> str:
    """Return a name that any file system takes: letters, digits, dots and hyphens, at most 60."""
    plain = re.sub(r"[^\w.]+", "-", name, flags=re.UNICODE).strip("-._")
    return plain[:60].rstrip("-._") or "item"


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _unclear(unit: Unit, question: Question) -> SmartDJError:
    choices = " | ".join(f'"{choice}"' for choice in question.choices)
    return SmartDJError(
        ErrorCode.INSTRUCTION_UNCLEAR,
        f"{unit.label}: {question.text}",
        f"instead say for example: {choices}" if choices else "say it differently",
    )


def _step_info(event: StepFinished, file: str, notices: list[str]) -> dict[str, Any]:
    return {
        "index": event.index,
        "file": file,
        "step": format_step(event.plan_step.step),
        "take": take_name(event.index, event.count, event.plan_step.step),
        "method": event.method,
        "notices": list(notices),
    }


def _work_name(unit: Unit) -> str:
    return key_of([unit.id, unit.key])[:24]


def _explained(failure: Exception) -> SmartDJError:
    if isinstance(failure, MemoryError) or type(failure).__name__ == "OutOfMemoryError":
        return SmartDJError(
            ErrorCode.OUT_OF_MEMORY,
            "there is not enough memory for this recording",
            "close other programs, edit a shorter part, or try --device cpu",
        )
    return SmartDJError(
        ErrorCode.INTERNAL,
        f"internal error: {type(failure).__name__}: {failure}",
        "edit this recording alone with `smartdj edit` to see more, and please report it",
    )
