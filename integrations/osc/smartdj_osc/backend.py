"""Does what the core wishes: files and the agent, in one worker thread. Cancelling stops within one denoising step."""

from __future__ import annotations

import contextlib
import itertools
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import (
    Event,
    Finished,
    Listened,
    Listening,
    Notice,
    PlanReady,
    Progress,
    Question,
    StepFinished,
)
from smartdj_agent.plan import MAX_PLAN_BYTES, Plan, plan_from_json, plan_from_yaml
from smartdj_osc import effects as fx
from smartdj_osc.effects import Report

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio

_MAX_WAITING = 64


class AgentLike(Protocol):
    """What is needed of `smartdj_agent.agent.Agent`."""

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """Yield `Listened` …, then `PlanReady` or `Question`."""

    def apply(self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0) -> Iterator[Event]:
        """Yield the events of each enabled step, then `Finished`."""


class CancelledError(Exception):
    """The task was cancelled."""


@dataclass
class Task:
    """Something for the worker thread.

    Attributes
    ----------
    key
        What it is cancelled by.
    work
        Does it; asks the task whether it was cancelled.
    done
        Is told how it ended: what `work` returned, or the error.
    """

    key: Hashable
    work: Callable[[Task], Any]
    done: Callable[[Any, SmartDJError | None], None]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise `CancelledError` where it was cancelled."""
        if self.cancelled.is_set():
            raise CancelledError

    def follow(self, events: Iterator[Event]) -> Generator[Event, None, None]:
        """Pass the agent's events on; close them, which stops the work, when cancelled."""
        try:
            for event in events:
                self.check()
                yield event
                self.check()
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()


class Worker:
    """One thread that does tasks one after the other, the urgent ones first."""

    def __init__(self) -> None:
        self._waiting: queue.PriorityQueue[tuple[int, int, Task | None]] = queue.PriorityQueue(_MAX_WAITING)
        self._order = itertools.count()
        self._tasks: dict[Hashable, Task] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="smartdj-osc-worker", daemon=True)
        self._thread.start()

    def submit(self, task: Task, *, urgent: bool = True) -> None:
        """Have a task done.

        Raises
        ------
        SmartDJError
            QUEUE_FULL.
        """
        with self._lock:
            self._tasks[task.key] = task
        try:
            self._waiting.put_nowait((0 if urgent else 1, next(self._order), task))
        except queue.Full:
            with self._lock:
                self._tasks.pop(task.key, None)
            raise SmartDJError(ErrorCode.QUEUE_FULL, "too much waits to be computed", "wait, or clear slots") from None

    def cancel(self, key: Hashable) -> None:
        """Cancel a task, whether it waits or runs; one that has ended is none."""
        with self._lock:
            task = self._tasks.get(key)
        if task is not None:
            task.cancelled.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Cancel everything and end the thread."""
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            task.cancelled.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait((9, next(self._order), None))
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (task := self._waiting.get()[2]) is not None:
            result: Any = None
            error: SmartDJError | None = None
            try:
                task.check()
                result = task.work(task)
            except CancelledError:
                error = SmartDJError(ErrorCode.CANCELLED, "cancelled")
            except SmartDJError as failure:
                error = failure
            except MemoryError:
                error = SmartDJError(ErrorCode.OUT_OF_MEMORY, "there is not enough memory", "edit a shorter part")
            except Exception as failure:
                text = f"{type(failure).__name__}: {failure}"
                error = SmartDJError(ErrorCode.INTERNAL, text, "please report it")
            with self._lock:
                if self._tasks.get(task.key) is task:
                    del self._tasks[task.key]
            task.done(result, error)


class Backend:
    """Carries out the core's wishes about files and the agent.

    Parameters
    ----------
    agent
        Does the work; only used in the worker thread.
    report
        Is told about jobs, in the worker thread.
    roots
        Folders below which controllers may name files.
    output
        Folder of results; None to keep them in memory.
    ready
        Is told, in the worker thread, of each recording that could be played: ``source`` or ``result``, and it.
    """

    def __init__(
        self,
        agent: AgentLike,
        report: Callable[[int, Report], None],
        *,
        roots: Sequence[Path] = (),
        output: Path | None = None,
        ready: Callable[[str, Audio], None] = lambda what, audio: None,
    ) -> None:
        self.agent = agent
        self.worker = Worker()
        self.source: Audio | None = None
        self._report = report
        self._roots = tuple(roots)
        self._output = output
        self._ready = ready
        self._numbers = itertools.count(1)
        self._started = time.strftime("%Y%m%d-%H%M%S")

    def do(self, effect: fx.Load | fx.LoadPlan | fx.MakePlan | fx.Run | fx.Cancel) -> None:
        """Begin what the core wishes; what comes of it is reported."""
        if isinstance(effect, fx.Cancel):
            self.worker.cancel(("job", effect.job))
            return
        job = effect.job

        def work(task: Task) -> Report:
            if isinstance(effect, fx.Load):
                name, audio = self._load(effect.path)
                return self._take_source(name, audio)
            if isinstance(effect, fx.LoadPlan):
                return fx.PlanMade(self._load_plan(effect.path))
            if isinstance(effect, fx.MakePlan):
                return self._plan(task, job, effect.instruction, effect.seed)
            return self._run(task, job, effect.plan, effect.mode, effect.seed)

        self._submit(job, work)

    def take(self, job: int, name: str, audio: Audio) -> None:
        """Make a captured recording the source."""
        self._submit(job, lambda task: self._take_source(name, audio))

    def render(
        self,
        key: Hashable,
        source: str | Audio,
        instruction: str,
        plan: Plan | None,
        seed: int,
        done: Callable[[Audio | None, SmartDJError | None], None],
    ) -> None:
        """Compute something ahead, when nothing more urgent is to be done; `done` is called in the worker thread.

        Parameters
        ----------
        key
            What it is cancelled by.
        source
            A recording, ``source`` for the one that is loaded, or a path.
        instruction, plan
            What it shall become; without either it stays as it is.
        seed
            Same seed, same result.
        """

        def work(task: Task) -> Audio:
            audio = self._named(source) if isinstance(source, str) else source
            wanted = plan
            if wanted is None and instruction:
                wanted = self._planned(task, audio, instruction, seed)
            if wanted is None or not wanted.enabled_steps():
                return audio
            for event in task.follow(self.agent.apply(audio, replace(wanted, source_sha256=""), seed=seed)):
                if isinstance(event, Finished):
                    return event.audio
            raise RuntimeError("the editor ended without a result")

        self.worker.submit(Task(key, work, done), urgent=False)

    def write(self, name: str, audio: Audio) -> str:
        """Write a recording to the folder of results; empty where there is none.

        Raises
        ------
        SmartDJError
            DISK_FULL, OUTPUT_UNWRITABLE.
        """
        return self._write(self._folder(), name, audio)

    def close(self) -> None:
        """Cancel everything."""
        self.worker.close()
        close = getattr(self.agent, "close", None)
        if close is not None:
            close()

    def _submit(self, job: int, work: Callable[[Task], Report]) -> None:
        def done(report: Report | None, error: SmartDJError | None) -> None:
            if error is not None:
                self._report(job, fx.Broke(error))
            elif report is not None:
                self._report(job, report)

        try:
            self.worker.submit(Task(("job", job), work, done))
        except SmartDJError as error:
            self._report(job, fx.Broke(error))

    # --- files -------------------------------------------------------------------------------------------------------

    def _load(self, path: str) -> tuple[str, Audio]:
        from smartdj_agent.audio import read_audio

        with self._opened(path) as opened, tempfile.TemporaryDirectory(prefix="smartdj-osc-") as folder:
            # The name may mean another file by now, so what was opened is what is read.
            copy = Path(folder) / f"source{opened.path.suffix}"
            with copy.open("wb") as target:
                shutil.copyfileobj(opened.file, target, 1 << 20)
            try:
                return opened.path.name, read_audio(copy)
            except SmartDJError as error:
                text = error.message.replace(str(copy), path)
                raise SmartDJError(error.code, text, error.hint, error.field) from error

    def _load_plan(self, path: str) -> Plan:
        with self._opened(path) as opened:
            if opened.size_bytes > MAX_PLAN_BYTES:
                raise SmartDJError(ErrorCode.PLAN_INVALID, f"{path} is too large for a plan", "split it")
            text = opened.file.read(MAX_PLAN_BYTES + 1).decode("utf-8", "replace")
            return plan_from_json(text) if opened.path.suffix.lower() == ".json" else plan_from_yaml(text)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Generator[Any, None, None]:
        from smartdj_agent.server.security import resolve_under_roots

        if not self._roots:
            raise SmartDJError(
                ErrorCode.PATH_FORBIDDEN, "controllers may name no files", "start with --allowed-root DIR", "path"
            )
        # A controller's text field is short: a relative path is meant below an allowed folder.
        choices = [path] if Path(path).is_absolute() else [str(root.resolve() / path) for root in self._roots]
        missing: SmartDJError | None = None
        with contextlib.ExitStack() as stack:
            for choice in choices:
                try:
                    opened = stack.enter_context(resolve_under_roots(choice, self._roots))
                    break
                except SmartDJError as error:
                    if error.code is not ErrorCode.AUDIO_NOT_FOUND:
                        raise
                    missing = error
            else:
                raise missing or SmartDJError(ErrorCode.AUDIO_NOT_FOUND, f"{path} is not there", "check the path")
            yield opened

    def _folder(self) -> Path | None:
        if self._output is None:
            return None
        folder = self._output / f"{self._started}-{next(self._numbers):03d}"
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            text = f"can't make the folder {folder}: {error.strerror or error}"
            raise SmartDJError(ErrorCode.OUTPUT_UNWRITABLE, text, "give another --output") from error
        return folder

    def _write(self, folder: Path | None, name: str, audio: Audio) -> str:
        from smartdj_agent.audio import suffix_of, write_audio

        if folder is None:
            return ""
        path = folder / f"{name}{suffix_of(audio.format)}"
        write_audio(path, audio)
        return str(path).encode("utf-8", "replace").decode()

    def _take_source(self, name: str, audio: Audio) -> fx.SourceReady:
        self.source = audio
        self._ready("source", audio)
        return fx.SourceReady(name, audio.duration_s, audio.sample_rate, audio.channels)

    def _named(self, source: str) -> Audio:
        if source not in ("", "source"):
            return self._load(source)[1]
        return self._loaded()

    def _loaded(self) -> Audio:
        if self.source is None:
            raise SmartDJError(ErrorCode.AUDIO_NOT_FOUND, "no recording is loaded", "send /smartdj/source/load s:path")
        return self.source

    # --- the agent ---------------------------------------------------------------------------------------------------

    def _plan(self, task: Task, job: int, instruction: str, seed: int) -> Report:
        for event in task.follow(self.agent.plan(self._loaded(), instruction, seed=seed)):
            if isinstance(event, Listening):
                self._report(job, fx.Fraction(None, event.fraction))
            elif isinstance(event, Listened):
                for sound in event.sounds[:16]:
                    self._report(job, fx.SoundHeard(sound))
            elif isinstance(event, Notice):
                self._report(job, fx.Note(event.code, event.message, event.hint))
            elif isinstance(event, Question):
                return fx.Asked(event.text, event.choices)
            elif isinstance(event, PlanReady):
                return fx.PlanMade(event.plan)
        raise RuntimeError("the planner ended with neither a plan nor a question")

    def _planned(self, task: Task, audio: Audio, instruction: str, seed: int) -> Plan:
        for event in task.follow(self.agent.plan(audio, instruction, seed=seed)):
            if isinstance(event, Question):
                raise SmartDJError(ErrorCode.INSTRUCTION_UNCLEAR, event.text, " / ".join(event.choices))
            if isinstance(event, PlanReady):
                return event.plan
        raise RuntimeError("the planner ended with neither a plan nor a question")

    def _run(self, task: Task, job: int, plan: Plan, mode: str, seed: int) -> Report:
        from smartdj_agent.outputs import step_file_name
        from smartdj_osc.loudness import integrated_lufs

        audio = self._loaded()
        folder = self._folder()
        for event in task.follow(self.agent.apply(audio, plan, mode=mode, seed=seed)):
            if isinstance(event, Progress):
                self._report(job, fx.Fraction(event.index, event.fraction))
            elif isinstance(event, Notice):
                self._report(job, fx.Note(event.code, event.message, event.hint))
            elif isinstance(event, StepFinished):
                name = step_file_name(event.index + 1, event.plan_step.step, "")
                path = self._write(folder, name, event.audio)
                loud = integrated_lufs(event.audio.samples, event.audio.sample_rate)
                self._report(job, fx.StepReady(event.index, path, loud))
            elif isinstance(event, Finished):
                path = self._write(folder, "result", event.audio)
                self._ready("result", event.audio)
                return fx.ResultReady(path)
        raise RuntimeError("the editor ended without a result")
