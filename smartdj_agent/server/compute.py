"""The process in which the models live: one per device, started and fed by `smartdj_agent.server.worker`.

It reads tasks from its standard input and writes reports to its standard output. When the input ends, for whatever
reason the server is gone, it ends too, at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import logging
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import soundfile

from smartdj.v1 import audio_pb2, event_pb2, step_pb2
from smartdj_agent.audio import (
    Audio,
    AudioFormat,
    audio_sha256,
    clipped_samples,
    file_sha256,
    output_format,
    read_audio,
    read_format,
    suffix_of,
    write_audio,
)
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import (
    Event,
    Finished,
    Listening,
    Notice,
    PlanReady,
    Progress,
    StepFinished,
    StepStarted,
    Writing,
)
from smartdj_agent.plan import Plan, make_plan
from smartdj_agent.server.tasks import ApplyTask, FileInfo, Pipe, PlanTask, Produced, Report, Task
from smartdj_agent.wire import event_to_proto, plan_from_proto

PROGRESS_INTERVAL_S = 0.05
"""Least time between two progress events of a task."""

log = logging.getLogger(__name__)

ErrorText = tuple[str, str, str, str]


class EditingAgent(Protocol):
    """What a worker asks of an agent; `smartdj_agent.agent.Agent` has it. Closing a generator cancels."""

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """See `smartdj_agent.agent.Agent.plan`."""
        ...

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """See `smartdj_agent.agent.Agent.apply`."""
        ...


def real_agent(
    device: str,
    preset: str,
    library: Path | Sequence[Path] | None,
    max_batch: int,
    add_source: str = "auto",
    relisten: bool = True,
    planner: str = "auto",
) -> EditingAgent:
    """Return the agent with all its networks loaded and used once.

    Parameters
    ----------
    device, preset, library, add_source, relisten, planner
        As `smartdj_agent.agent.Agent` takes them.
    max_batch
        Tasks at a time. Above 1, calls of the diffusion transformer that come together are made as one; results then
        differ from those of one task at a time by rounding (about 1e-5).

    Raises
    ------
    SmartDJError
        As `Agent`; MODEL_MISSING, MODEL_CORRUPT.
    """
    from smartdj_agent.agent import Agent

    agent = Agent(preset, device, library, add_source, relisten, planner)
    _warm_up(agent)
    if max_batch > 1:
        from smartdj_agent.server.batching import share_calls

        return share_calls(agent, max_batch)
    return agent


def _warm_up(agent: EditingAgent) -> None:
    """Have every network loaded and run once, so that the first person doesn't wait for it."""
    noise = np.random.default_rng(0).standard_normal((2, 24_000)).astype(np.float32) * 0.1
    audio = Audio(noise, 24_000)
    changes = make_plan(("turn down the volume of rain by 1 dB", "add the sound of rain"))
    for events, enough in (
        (agent.plan(audio, "make it quieter"), Writing),
        (agent.apply(audio, changes), Finished),
        (agent.apply(audio, changes, mode="generate"), Progress),
    ):
        with _closing(events) as stream:
            for event in stream:
                if isinstance(event, enough):
                    break


def _closing(events: Iterator[Event]) -> contextlib.closing[Generator[Event, None, None]]:
    return contextlib.closing(cast("Generator[Event, None, None]", events))


# --- one task ----------------------------------------------------------------


class _CancelledError(Exception):
    """The task is to stop here."""


def carry_out(agent: EditingAgent, task: Task, stop: threading.Event, send: Callable[[Report], None]) -> Report:
    """Carry out one task.

    Parameters
    ----------
    agent
        Who does it.
    task
        What to do.
    stop
        Set by another thread to cancel. Looked at between any two events of the agent and between files.
    send
        Takes the events as they happen.

    Returns
    -------
    Report
        How it ended: ``done``, or ``failed`` with CANCELLED, the agent's `SmartDJError`, OUT_OF_MEMORY, or INTERNAL for
        anything unforeseen, whose traceback is logged. Files that were not reported are deleted.
    """
    work = _Work(agent, task, stop, send)
    try:
        if isinstance(task, PlanTask):
            work.plan(task)
        else:
            work.apply(task)
    except _CancelledError:
        error: ErrorText = (ErrorCode.CANCELLED.value, "The job was cancelled.", "", "")
    except SmartDJError as failure:
        error = _without_paths(failure, task)
    except Exception as failure:
        error = _foreign_error(failure, task.task_id)
    else:
        return Report(task.task_id, "done", source_audio_sha256=work.source_sha256)
    return Report(task.task_id, "failed", error=error, source_audio_sha256=work.source_sha256)


class _Work:
    def __init__(self, agent: EditingAgent, task: Task, stop: threading.Event, send: Callable[[Report], None]) -> None:
        self.agent = agent
        self.task = task
        self.stop = stop
        self.send = send
        self.source_sha256 = ""
        self.last_progress = -PROGRESS_INTERVAL_S

    def check(self) -> None:
        if self.stop.is_set():
            raise _CancelledError

    def plan(self, task: PlanTask) -> None:
        self.check()
        audio = read_audio(task.audio)
        for event in self.events(self.agent.plan(audio, task.instruction, seed=task.seed)):
            if isinstance(event, PlanReady):
                self.source_sha256 = event.plan.source_sha256
            self.tell(event)
        self.source_sha256 = self.source_sha256 or audio_sha256(audio)

    def apply(self, task: ApplyTask) -> None:
        self.check()
        plan = plan_from_proto(step_pb2.Plan.FromString(task.plan))
        audio = read_audio(task.audio)
        if task.audio != task.source:
            own, tags = read_format(task.source)
            audio = replace(audio, format=own, tags=tags)
        produced: tuple[Produced, ...] = ()
        step: int | None = None
        run = self.agent.apply(audio, plan, mode=task.mode, seed=task.seed, done=task.done)
        for event in self.events(run):
            # The agent has compared it before the first event.
            self.source_sha256 = plan.source_sha256
            if isinstance(event, StepStarted):
                step = event.index
            if isinstance(event, StepFinished):
                produced = self.produce(task, f"step{event.index}", event.audio, step=step)
                self.tell(event, produced, step=step)
            elif isinstance(event, Finished) and not produced:
                # No step was left to do: nobody has the result in its encoding yet.
                result = self.produce(task, "result", event.audio, step=None)
                self.tell(event, tuple(item for item in result if item.role == "delivered"))
            else:
                self.tell(event, step=step)
        if not self.source_sha256 and not task.done:
            self.source_sha256 = audio_sha256(audio)

    def events(self, events: Iterator[Event]) -> Iterator[Event]:
        self.check()
        with _closing(events) as stream:
            for event in stream:
                self.check()
                yield event
                self.check()

    def tell(self, event: Event, produced: tuple[Produced, ...] = (), *, step: int | None = None) -> None:
        progress = isinstance(event, Progress | Listening | Writing)
        if progress:
            now = time.monotonic()
            if now - self.last_progress < PROGRESS_INTERVAL_S:
                return
            self.last_progress = now
        audio = _to_proto(produced[0].info) if produced and isinstance(event, StepFinished) else None
        message: event_pb2.JobEvent = event_to_proto(event, audio)
        if isinstance(event, Notice) and step is not None:
            message.warning.step_index = step
        self.send(
            Report(
                self.task.task_id,
                "event",
                message.SerializeToString(),
                progress,
                produced,
                source_audio_sha256=self.source_sha256,
            )
        )

    def produce(self, task: ApplyTask, name: str, audio: Audio, *, step: int | None) -> tuple[Produced, ...]:
        """Write a recording as it is delivered, and as it is resumed from where that is another file."""
        self.check()
        exact = replace(audio, format=AudioFormat("WAV", "DOUBLE" if audio.samples.dtype == np.float64 else "FLOAT"))
        wanted = exact if task.encoding == "float" else audio
        stem = task.folder / f"{task.task_id}.{name}"
        files: list[Path] = []
        try:
            delivered, written = _write_nearest(stem, "delivered", (wanted, exact))
            files.append(delivered)
            self.check()
            clipped = clipped_samples(audio, written.subtype)
            same = written == exact.format
            sounds_like = audio_sha256(exact if same else read_audio(delivered))
            result = Produced(delivered, _info(delivered, sounds_like), "delivered")
            self.check()
            if same:
                resume = replace(result, role="resume")
            else:
                path, _ = _write_nearest(stem, "resume", (exact,))
                files.append(path)
                resume = Produced(path, _info(path, ""), "resume")
            self.check()
        except BaseException:
            for file in files:
                file.unlink(missing_ok=True)
            raise
        if clipped:
            self.tell(
                Notice(
                    "clipped",
                    f"{clipped:,} sample{'' if clipped == 1 else 's'} beyond full scale were clipped",
                    "add sounds more softly, or ask for WAV with float samples",
                ),
                step=step,
            )
        return result, resume


def _write_nearest(stem: Path, role: str, wishes: tuple[Audio, ...]) -> tuple[Path, AudioFormat]:
    """Write the first of several formats that holds the recording, each also as WAV; return where and which."""
    tries = [(audio, suffix) for audio in wishes for suffix in (suffix_of(audio.format), ".wav")]
    for number, (audio, suffix) in enumerate(tries, start=1):
        path = stem.with_name(f"{stem.name}.{role}{suffix}")
        try:
            write_audio(path, audio, overwrite=True)
        except SmartDJError as error:
            if error.code is not ErrorCode.AUDIO_UNSUPPORTED or number == len(tries):
                raise
        else:
            return path, output_format(path, audio.format)
    raise AssertionError("there is always a wish")


def _info(path: Path, sounds_like: str) -> FileInfo:
    stored = soundfile.info(path)
    return FileInfo(
        sha256=file_sha256(path),
        audio_sha256=sounds_like,
        size_bytes=path.stat().st_size,
        sample_rate=int(stored.samplerate),
        channels=int(stored.channels),
        frames=int(stored.frames),
        container=str(stored.format),
        subtype=str(stored.subtype),
    )


def _to_proto(info: FileInfo) -> audio_pb2.AudioInfo:
    return audio_pb2.AudioInfo(
        sha256=info.sha256,
        audio_sha256=info.audio_sha256,
        size_bytes=info.size_bytes,
        sample_rate_hz=info.sample_rate,
        channels=info.channels,
        frames=info.frames,
        container=info.container,
        subtype=info.subtype,
    )


# --- what goes wrong -----------------------------------------------------------


def _without_paths(error: SmartDJError, task: Task) -> ErrorText:
    """Take the server's own paths out of a message: they tell the client nothing."""
    names = [(task.audio, "the recording")]
    if isinstance(task, ApplyTask):
        names += [(task.source, "the recording"), (task.folder, "the server's data folder")]
    message = error.message
    for path, name in names:
        message = message.replace(str(path), name)
    return error.code.value, message, error.hint, error.field


def _foreign_error(error: Exception, task_id: str) -> ErrorText:
    if _is_out_of_memory(error):
        log.warning("task %s: out of memory\n%s", task_id, _where(error))
        return (
            ErrorCode.OUT_OF_MEMORY.value,
            "The recording needs more memory than the device has.",
            "Cut it into shorter files, use preserve mode, or try again when the device is less busy.",
            "",
        )
    log.error("task %s: %s\n%s", task_id, type(error).__name__, _where(error))
    return (
        ErrorCode.INTERNAL.value,
        f"The editor failed unexpectedly ({type(error).__name__}).",
        "Please report this with the server's log.",
        "",
    )


def _where(error: BaseException) -> str:
    """Return a traceback without the messages, which may hold what the person wrote."""
    return "".join(traceback.format_tb(error.__traceback__)).rstrip()


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()  # the CPU's allocator and some libraries of CUDA raise plain RuntimeErrors
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


# --- the process ---------------------------------------------------------------


class _Session:
    """Tasks as they come in, and which of them are to stop."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.stops: dict[str, threading.Event] = {}
        self.running = 0
        self.lock = threading.Lock()

    def listen(self) -> None:
        """Take in tasks and cancels; never returns: ends the process when the server is gone."""
        try:
            while True:
                kind, content = self.pipe.receive()
                if kind == "task":
                    self.stops[content.task_id] = threading.Event()
                    self.tasks.put(content)
                elif (stop := self.stops.get(content)) is not None:
                    stop.set()
        except EOFError:
            os._exit(0)
        finally:  # deaf, this process would be of no use and outlive the server
            os._exit(1)

    def tell(self, kind: Literal["ready", "broken", "report", "log"], content: Any) -> None:
        try:
            self.pipe.send((kind, content))
        except OSError:  # the server is gone
            os._exit(0)

    def serve(self, agent: EditingAgent) -> None:
        """Carry out tasks, one after the other; never returns."""
        while True:
            task = self.tasks.get()
            with self.lock:
                self.running += 1
            end = carry_out(agent, task, self.stops[task.task_id], lambda report: self.tell("report", report))
            with self.lock:
                self.running -= 1
                alone = not self.running
            del self.stops[task.task_id]
            try:
                _free_memory(cache=alone)
            except RuntimeError as error:
                # After some errors a CUDA device answers nothing more until the process is started anew.
                log.error("the device is lost\n%s", _where(error))
                self.tell("report", end)
                os._exit(1)
            self.tell("report", end)


def _free_memory(*, cache: bool) -> None:
    """Give back what the last task used; `cache`: also what the device's allocator keeps for the next one."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        if cache:
            torch.cuda.empty_cache()


class _Forward(logging.Handler):
    """Sends log lines to the server, which writes them in its own format."""

    def __init__(self, session: _Session) -> None:
        super().__init__()
        self.session = session

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f"\n{type(record.exc_info[1]).__name__}\n{_where(record.exc_info[1])}"
        self.session.tell("log", (record.levelno, record.name, text))


def _take_streams() -> Pipe:
    """Take standard input and output for the pipe; what anyone prints goes to standard error from now on."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return Pipe(os.fdopen(incoming, "rb"), os.fdopen(outgoing, "wb"))


def _about(agent: EditingAgent, device: str, preset: str) -> dict[str, Any]:
    """What clients may know of this process: device, its name for people, and the installed models of the preset."""
    resolved = str(getattr(agent, "device", device))
    about: dict[str, Any] = {"device": resolved, "device_name": _cpu_name(), "models": ()}
    torch = sys.modules.get("torch")
    if torch is None:  # not our networks
        return about
    if resolved.startswith("cuda"):
        about["device_name"] = torch.cuda.get_device_name(resolved)
    from smartdj_agent.models.weights import list_installed

    installed = [info for info in list_installed() if info.preset == preset]
    about["models"] = tuple((info.role, info.name, info.sha256, info.parameters) for info in installed)
    return about


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main() -> None:
    """Run the process: returns only where the server is gone before it began."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # The server decides when work ends. A service manager's signal to the whole group reaches this process too.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    faulthandler.enable()
    pipe = _take_streams()
    try:
        settings = pipe.receive()
    except EOFError:
        return
    session = _Session(pipe)
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward(session)])
    logging.getLogger("smartdj_agent").setLevel(logging.INFO)
    logging.captureWarnings(True)
    warnings.simplefilter("ignore", FutureWarning)  # what libraries tell their own developers
    threading.Thread(target=session.listen, name="tasks", daemon=True).start()
    try:
        module, _, function = settings["agent"].partition(":")
        make: Callable[..., EditingAgent] = getattr(importlib.import_module(module), function)
        agent = make(
            settings["device"],
            settings["preset"],
            settings["library"],
            settings["max_batch"],
            settings["add_source"],
            settings["relisten"],
            settings["planner"],
        )
    except SmartDJError as error:
        session.tell("broken", (error.code.value, error.message, error.hint, error.field))
        os._exit(1)
    except Exception as error:
        session.tell("broken", _foreign_error(error, "start"))
        os._exit(1)
    # What is there now stays: it need not be searched for garbage after every task.
    gc.collect()
    gc.freeze()
    session.tell("ready", _about(agent, settings["device"], settings["preset"]))
    for _ in range(settings["max_batch"] - 1):
        threading.Thread(target=session.serve, args=(agent,), daemon=True).start()
    session.serve(agent)
