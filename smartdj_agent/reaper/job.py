"""``smartdj reaper-job DIR``: one process that plans and edits items for REAPER's scripts, which talk to it by files.

The protocol, version 1. Everything is JSON in UTF-8; whoever reads ignores keys that it doesn't know. The folder
belongs to one job: the script makes it, writes ``job.json``, starts the helper, and deletes it in the end.

``job.json``, written by the script before the start::

    {"protocol": 1, "id": "3f9a2c",            short, goes into file names: 1 to 32 letters, digits, - and _
     "instruction": "make it rain",            for all items that have neither one of their own nor a plan
     "review": true,                           wait for plan.json before anything is carried out
     "seed": 0, "mode": "preserve", "preset": "small", "device": "auto",
     "server": "", "token_file": "", "tls_ca": "",      HOST:PORT of a server that works; empty: this computer does
     "watch": {"stdin": true, "pid": 4711, "heartbeat_s": 900},     all optional, see below
     "items": [{"id": "i1", "name": "walk",    name: of the take, goes into file names
                "path": "/abs/walk.wav", "start_frame": 48000, "frames": 96000, "sample_rate": 48000,
                "folder": "/abs/project/Media",                   where the steps' files go; made if missing
                "instruction": "…",            optional
                "plan": {…}}]}                 optional: a plan (as in a JSON plan file) instead of planning

``events.jsonl``, written by the helper, only ever whole lines. Events of the core are those of
`smartdj_agent.eventjson` with the further key ``item``. In order:

* ``started`` (protocol, version, pid, items)
* phase *plan*, per item: ``listening``, ``listened``, ``step_planned``, then ``plan`` (plan: as in a JSON plan file;
  models: what it will be carried out with; given: it came from job.json) or ``question`` (text, choices) or
  ``item_failed`` (error: code, message, hint, field, title); ``notice`` anywhere
* with ``review``: ``review`` (items: ids to decide on; round), now the helper waits for ``plan.json``. What can't be
  used is told by ``plan_rejected`` (item, error), then comes the next ``review``.
* phase *apply*: ``applying`` (items), then per item ``step_started`` (device), ``progress`` (fraction, realtime_factor,
  seconds_left; at most 20 a second), ``step_finished`` (path, label, sample_rate, frames, channels, subtype,
  touched_s, method, confidence, seconds), and ``item_finished`` (plan, source_sha256, seed, mode, models, seconds,
  realtime_factor) or ``item_failed``
* the last line is ``finished`` (done, failed: ids), ``cancelled``, or ``error`` (code, message, hint, field,
  exit_code). A helper that ends without one of them has crashed; ``helper.log`` holds what it printed.

``plan.json``, written by the script under another name and then renamed, one per ``review``::

    {"protocol": 1, "items": {"i1": {"steps": [{"id": "s1", "do": "remove the sound of wind", "enabled": true}]},
                              "i2": {"skip": true}, "i3": {"instruction": "rather make it snow"},
                              "i4": {}, "i5": {"later": true}}}    {}: as it is; later: ask again

An item that isn't named is skipped.

The helper renames it to ``plan.N.json`` when it has read it. A new instruction means planning again and another review.

Cancelling: a file ``cancel`` in the folder, the end of standard input (with ``watch.stdin``), the end of the process
``watch.pid``, a file ``alive`` that nobody has touched for ``watch.heartbeat_s`` seconds, SIGINT or SIGTERM. The
work ends after the denoising step or window under way; every file that this job has made is deleted; the last event
is ``cancelled``, the exit status 130. An item that fails loses its files too, and the others go on; where ``error``
ends the job, items that were finished keep theirs.

Files of steps are called ``<take>-smartdj-<job id>-<step>.wav`` such as ``walk-smartdj-3f9a2c-01-add-rain.wav``. They
have the source's bit depth where it is PCM or float, unless samples would clip; else 32-bit float. They appear whole or
not at all and never replace a file.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from smartdj_agent import __version__
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.eventjson import error_to_dict, event_to_dict, to_line
from smartdj_agent.instruction import check_instruction

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio
    from smartdj_agent.cli import AgentLike
    from smartdj_agent.events import Event, Finished, StepFinished
    from smartdj_agent.plan import Plan
    from smartdj_agent.steps import Step

PROTOCOL = 1
"""Version of the job protocol; raised when a key changes its meaning."""

PROGRESS_PER_S = 20.0
POLL_S = 0.05
INTERRUPT_AFTER_S = 3.0
"""How long after a cancellation work is interrupted that hasn't come to its next event, such as a model's loading."""

MAX_ITEMS = 1000
MAX_JSON_BYTES = 64 * 1024 * 1024
HALF_WRITTEN_S = 2.0
"""How long a decision that isn't JSON may still be under way, from a script that doesn't rename."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_EXACT = {"PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"}


@dataclass(frozen=True)
class JobItem:
    """One item's part of a recording; see the module's text for the fields."""

    id: str
    name: str
    path: Path
    start_frame: int
    frames: int
    sample_rate: int
    folder: Path
    instruction: str
    plan: Plan | None = None


@dataclass(frozen=True)
class JobRequest:
    """What ``job.json`` says; see the module's text for the fields."""

    id: str
    items: tuple[JobItem, ...]
    review: bool = True
    seed: int = 0
    mode: str = "preserve"
    preset: str = "small"
    device: str = "auto"
    server: str = ""
    token_file: str = ""
    tls_ca: str = ""
    watch_stdin: bool = False
    watch_pid: int = 0
    heartbeat_s: float = 0.0


# Reading -----------------------------------------------------------------------------------------------------


def read_request(folder: Path) -> JobRequest:
    """Read and check ``job.json``.

    Raises
    ------
    SmartDJError
        USAGE with the field that is wrong; those of the instruction and the plan.
    """
    document = _Fields(_read_json(folder / "job.json"), "job")
    if document.take("protocol", int) != PROTOCOL:
        raise _wrong(
            "job.protocol", f"the job is of protocol {document.take('protocol', int)}; this is smartdj {__version__}",
            "install the scripts of this version: quit REAPER and run `smartdj reaper install`",
        )  # fmt: skip
    job_id = document.take("id", str)
    if not _ID.fullmatch(job_id):
        raise _wrong("job.id", "job.id must have 1 to 32 letters, digits, - or _")
    seed = document.take("seed", int, 0)
    if not 0 <= seed < 2**32:
        raise _wrong("job.seed", "job.seed must be from 0 to 4294967295")
    watch = _Fields(document.take("watch", dict, {}), "job.watch")
    entries = document.take("items", list)
    if not 0 < len(entries) <= MAX_ITEMS:
        raise _wrong("job.items", f"job.items must hold 1 to {MAX_ITEMS} items")
    instruction = document.take("instruction", str, "")
    items = tuple(_read_item(entry, f"job.items[{index}]", instruction) for index, entry in enumerate(entries))
    if len({item.id for item in items}) != len(items):
        raise _wrong("job.items", "two items have the same id")
    return JobRequest(
        id=job_id,
        items=items,
        review=document.take("review", bool, True),
        seed=seed,
        mode=_choice(document.take("mode", str, "preserve"), ("preserve", "generate"), "job.mode"),
        preset=_choice(document.take("preset", str, "small"), ("small", "paper"), "job.preset"),
        device=_choice(document.take("device", str, "auto"), ("auto", "cpu", "cuda"), "job.device"),
        server=document.take("server", str, "").strip(),
        token_file=document.take("token_file", str, "").strip(),
        tls_ca=document.take("tls_ca", str, "").strip(),
        watch_stdin=watch.take("stdin", bool, False),
        watch_pid=watch.take("pid", int, 0),
        heartbeat_s=watch.take("heartbeat_s", float, 0.0),
    )


def _read_item(entry: Any, place: str, instruction: str) -> JobItem:
    from smartdj_agent.plan import plan_from_dict

    fields = _Fields(entry, place)
    item_id = fields.take("id", str)
    if not _ID.fullmatch(item_id):
        raise _wrong(f"{place}.id", f"{place}.id must have 1 to 32 letters, digits, - or _")
    path, folder = Path(fields.take("path", str)), Path(fields.take("folder", str))
    for name, value in (("path", path), ("folder", folder)):
        if not value.is_absolute() or "\0" in str(value):
            raise _wrong(f"{place}.{name}", f"{place}.{name} must be an absolute path")
    start, frames = fields.take("start_frame", int), fields.take("frames", int)
    rate = fields.take("sample_rate", int)
    if start < 0 or frames <= 0 or rate <= 0:
        raise _wrong(place, f"{place}: start_frame, frames and sample_rate must be positive")
    given = fields.take("plan", dict, None)
    plan = plan_from_dict(given) if given is not None else None
    wish = fields.take("instruction", str, "") or instruction
    if plan is None:
        wish = check_instruction(wish)
    return JobItem(item_id, fields.take("name", str, ""), path, start, frames, rate, folder, wish, plan)


class _Fields:
    """Keys of one JSON object, each with the type that it must have."""

    def __init__(self, values: Any, place: str) -> None:
        if not isinstance(values, dict):
            raise _wrong(place, f"{place} must be an object")
        self.values, self.place = values, place

    def take(self, name: str, kind: type, default: Any = ...) -> Any:
        value = self.values.get(name, default)
        if value is ...:
            raise _wrong(f"{self.place}.{name}", f"{self.place}.{name} is missing")
        if value is default:
            return value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _wrong(f"{self.place}.{name}", f"{self.place}.{name} must be of type {kind.__name__}")
        return value


def _choice(value: str, allowed: tuple[str, ...], field: str) -> str:
    if value not in allowed:
        raise _wrong(field, f"{field} must be one of {', '.join(allowed)}, not {value[:40]!r}")
    return value


def _wrong(field: str, message: str, hint: str = "see the protocol in smartdj_agent/reaper/job.py") -> SmartDJError:
    return SmartDJError(ErrorCode.USAGE, message, hint, field)


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise _wrong(path.name, f"{path} is larger than {MAX_JSON_BYTES // 2**20} MiB")
        return json.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise _wrong(path.name, f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _wrong(path.name, f"{path} is not JSON: {error}") from error


# Telling -----------------------------------------------------------------------------------------------------


class EventFile:
    """Appends whole lines to ``events.jsonl``; one write per line.

    Raises
    ------
    SmartDJError
        USAGE where the folder is missing or had a job before.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file: BinaryIO = path.open("xb", buffering=0)
        except FileExistsError as error:
            raise _wrong("DIR", f"{path.parent} has been used before", "make a new folder for every job") from error
        except OSError as error:
            raise _wrong(
                "DIR", f"{path} can't be written: {error.strerror or error}", "give a folder of yours"
            ) from error
        self._lock = threading.Lock()
        self._last_progress = ("", -1.0)

    def tell(self, event: str, **values: Any) -> None:
        """Write one event."""
        line = memoryview((to_line({"event": event, "time": round(time.time(), 3), **values}) + "\n").encode())
        with self._lock:
            while line:
                line = line[self._file.write(line) :]

    def pass_on(self, item: JobItem, event: Event, **more: Any) -> None:
        """Write an event of the core; of events that come in a row, no more than `PROGRESS_PER_S`."""
        values = event_to_dict(event)
        name = values.pop("event")
        if name in ("progress", "listening"):
            now = time.monotonic()
            key = f"{item.id} {name} {values.get('index')}"
            last_key, last = self._last_progress
            if key == last_key and now - last < 1 / PROGRESS_PER_S and values["fraction"] < 1:
                return
            self._last_progress = (key, now)
        self.tell(name, item=item.id, **values, **more)

    def close(self) -> None:
        """End."""
        self._file.close()


def error_values(error: SmartDJError) -> dict[str, Any]:
    """Return an error as the protocol has it."""
    values = error_to_dict(error)
    del values["event"]
    return {**values, "title": error.row.title}


# Watching ----------------------------------------------------------------------------------------------------


class Watch:
    """Notices, in a thread of its own, that the job is no longer wanted.

    Parameters
    ----------
    folder
        The job's.
    request
        What to watch.
    interrupt
        Called once if the work hasn't noticed within `INTERRUPT_AFTER_S`.
    """

    def __init__(
        self, folder: Path, request: JobRequest, interrupt: Callable[[], None] = _thread.interrupt_main
    ) -> None:
        self._folder, self._request, self._interrupt = folder, request, interrupt
        self._cancelled, self._over = threading.Event(), threading.Event()
        self.reason = ""
        self._started = time.time()
        threading.Thread(target=self._look, name="watch", daemon=True).start()
        if request.watch_stdin:
            threading.Thread(target=self._read_stdin, name="stdin", daemon=True).start()

    def check(self) -> None:
        """Raise CANCELLED if the job is no longer wanted."""
        if self._cancelled.is_set():
            self._over.set()
            raise SmartDJError(ErrorCode.CANCELLED, f"cancelled: {self.reason}; nothing was kept")

    def pause(self, seconds: float) -> None:
        """Sleep, but not beyond a cancellation."""
        self._cancelled.wait(seconds)
        self.check()

    def end(self) -> None:
        """Stop watching."""
        self._over.set()

    def _cancel(self, reason: str) -> None:
        if not self._cancelled.is_set():
            self.reason = reason
            self._cancelled.set()

    def _look(self) -> None:
        while not self._over.wait(POLL_S):
            reason = self._why()
            if reason:
                self._cancel(reason)
            if self._cancelled.is_set():
                if not self._over.wait(INTERRUPT_AFTER_S):
                    self._interrupt()
                return

    def _why(self) -> str:
        if (self._folder / "cancel").exists():
            return "as asked"
        if not self._folder.exists():
            return "the job's folder is gone"
        if self._request.watch_pid and not process_lives(self._request.watch_pid):
            return "REAPER has ended"
        if self._request.heartbeat_s:
            try:
                seen = (self._folder / "alive").stat().st_mtime
            except OSError:
                seen = self._started
            if time.time() - max(seen, self._started) > self._request.heartbeat_s:
                return "REAPER has not been heard of"
        return ""

    def _read_stdin(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 4096):
                pass
        self._cancel("REAPER has closed the connection")


def process_lives(pid: int) -> bool:
    """Whether a process is there; True where that can't be told."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
        if not handle:
            return bool(kernel.GetLastError() == 5)  # it is there, but not ours
        try:
            return bool(kernel.WaitForSingleObject(handle, 0) == 0x102)  # still running
        finally:
            kernel.CloseHandle(handle)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


# Working -----------------------------------------------------------------------------------------------------


def run_job(folder: Path, make_agent: Callable[[JobRequest], AgentLike]) -> None:
    """Do one job from its first event to its last.

    Parameters
    ----------
    folder
        With ``job.json``.
    make_agent
        Makes what plans and edits; called once, after ``started``.

    Raises
    ------
    SmartDJError
        Whatever ended the job, after it was written as the last event; CANCELLED where it was called off.
    """
    events = EventFile(folder / "events.jsonl")
    watch: Watch | None = None
    try:
        try:
            request = read_request(folder)
            watch = Watch(folder, request)
            events.tell(
                "started", protocol=PROTOCOL, version=__version__, pid=os.getpid(), id=request.id,
                items=[item.id for item in request.items],
            )  # fmt: skip
            job = _Job(folder, request, events, watch, make_agent)
            try:
                job.run()
            except BaseException as error:
                called_off = isinstance(error, KeyboardInterrupt) or getattr(error, "code", "") is ErrorCode.CANCELLED
                job.remove_files(finished_too=called_off)
                raise
        except KeyboardInterrupt:
            raise SmartDJError(ErrorCode.CANCELLED, "cancelled; nothing was kept") from None
        finally:
            if watch is not None:
                watch.end()
    except SmartDJError as error:
        if error.code is ErrorCode.CANCELLED:
            events.tell("cancelled", message=error.message)
        else:
            events.tell("error", **error_values(error))
        raise
    except BaseException as error:
        events.tell("error", **error_values(_internal(error)))
        raise
    finally:
        events.close()


def _internal(error: BaseException) -> SmartDJError:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return SmartDJError(
            ErrorCode.OUT_OF_MEMORY,
            "there is not enough memory for this recording",
            "close other programs, edit a shorter item, or work on the processor instead of the graphics card",
        )
    return SmartDJError(
        ErrorCode.INTERNAL,
        f"internal error: {type(error).__name__}: {error}",
        "helper.log in the job's folder says more",
    )


class _Job:
    def __init__(
        self,
        folder: Path,
        request: JobRequest,
        events: EventFile,
        watch: Watch,
        make_agent: Callable[[JobRequest], AgentLike],
    ) -> None:
        self.folder, self.request, self.events, self.watch = folder, request, events, watch
        self._make_agent = make_agent
        self._agent: AgentLike | None = None
        self._plans: dict[str, Plan] = {}
        self._failed: list[str] = []
        self._files: dict[str, list[Path]] = {}
        self._finished: set[str] = set()

    @property
    def agent(self) -> AgentLike:
        """What works; made when it is first needed, so that a request without use for it fails sooner."""
        if self._agent is None:
            self._agent = self._make_agent(self.request)
        return self._agent

    def run(self) -> None:
        for item in self.request.items:
            self._plan(item, item.instruction)
        accepted = self._review() if self.request.review else self._all_planned()
        self.events.tell("applying", items=[item.id for item in accepted])
        done = [item.id for item in accepted if self._guarded(item, self._apply)]
        self.watch.check()
        self.events.tell("finished", done=done, failed=self._failed)

    def remove_files(self, *, finished_too: bool) -> None:
        """Delete what the job has made."""
        for item_id in list(self._files):
            if finished_too or item_id not in self._finished:
                self._remove_files_of(item_id)

    def _remove_files_of(self, item_id: str) -> None:
        for path in self._files.pop(item_id, []):
            with contextlib.suppress(OSError):
                path.unlink()

    # planning

    def _guarded(self, item: JobItem, work: Callable[[JobItem], None]) -> bool:
        """Do one item's work; what goes wrong ends this item only, unless it would end every other as well."""
        self.watch.check()
        try:
            work(item)
            return True
        except SmartDJError as error:
            if error.code is ErrorCode.CANCELLED or error.code in _END_ALL:
                raise
            failure = error
        except Exception as error:
            failure = _internal(error)
            print(f"item {item.id}:", file=sys.stderr)
            import traceback

            traceback.print_exception(error)
        self._remove_files_of(item.id)
        self._plans.pop(item.id, None)
        self._failed.append(item.id)
        self.events.tell("item_failed", item=item.id, error=error_values(failure))
        return False

    def _plan(self, item: JobItem, instruction: str) -> bool:
        return self._guarded(item, lambda item: self._plan_now(item, instruction))

    def _plan_now(self, item: JobItem, instruction: str) -> None:
        """Plan one item anew; it has a plan then, or waits with a question.

        Raises
        ------
        SmartDJError
            Whatever the planner says; INSTRUCTION_UNCLEAR for a question that nobody will answer.
        """
        from smartdj_agent.audio import audio_sha256
        from smartdj_agent.events import PlanReady, Question

        self._plans.pop(item.id, None)
        audio = read_item(item)
        if item.plan is not None and instruction == item.instruction:
            self._take_given(item, item.plan, audio_sha256(audio))
            return
        with _closing(self.agent.plan(audio, instruction, seed=self.request.seed)) as stream:
            for event in stream:
                self.watch.check()
                if isinstance(event, Question):
                    if self.request.review:
                        self.events.pass_on(item, event)
                        return
                    listed = " | ".join(f'"{choice}"' for choice in event.choices)
                    raise SmartDJError(
                        ErrorCode.INSTRUCTION_UNCLEAR,
                        event.text,
                        f"instead say for example: {listed}" if listed else "say it differently",
                        "instruction",
                    )
                if isinstance(event, PlanReady):
                    if not event.plan.steps:
                        raise SmartDJError(
                            ErrorCode.INSTRUCTION_UNCLEAR,
                            "the planner found nothing to change",
                            "say what should be heard, or name a sound that is to go",
                        )
                    self._have(item, replace(event.plan, source_name=_printable(item.path.name)), given=False)
                elif type(event).__name__ != "Writing":
                    self.events.pass_on(item, event)

    def _take_given(self, item: JobItem, plan: Plan, source_sha256: str) -> None:
        if plan.source_sha256 and plan.source_sha256 != source_sha256:
            self.events.tell(
                "notice", item=item.id, code="source_changed",
                message="the recording isn't the one that the plan was made for", hint="listen to every step",
            )  # fmt: skip
        self._have(item, replace(plan, source_sha256=source_sha256), given=True)

    def _have(self, item: JobItem, plan: Plan, *, given: bool) -> None:
        self._plans[item.id] = plan
        self.events.tell(
            "plan",
            item=item.id,
            plan=_plan_values(plan),
            given=given,
            models=self._models(plan),
            seed=self.request.seed,
        )

    def _models(self, plan: Plan) -> str:
        where = (
            f"server {self.request.server}" if self.request.server else f"smartdj {__version__} {self.request.preset}"
        )
        return plan.provenance.editor or where

    def _all_planned(self) -> list[JobItem]:
        return [item for item in self.request.items if item.id in self._plans]

    # reviewing

    def _review(self) -> list[JobItem]:
        """Ask until every item is decided on; return those to carry out."""
        open_items = {item.id: item for item in self.request.items if item.id not in self._failed}
        accepted: dict[str, JobItem] = {}
        number = 0
        while open_items:
            number += 1
            self.events.tell("review", items=list(open_items), round=number)
            decision = self._wait_for_decision(number)
            if decision is None:
                continue
            decided = decision.get("items", {})
            for item in list(open_items.values()):
                wish = decided.get(item.id, {"skip": True})
                outcome = self._decide(item, wish)
                if outcome is not _Outcome.ASK_AGAIN:
                    del open_items[item.id]
                if outcome is _Outcome.ACCEPTED:
                    accepted[item.id] = item
        return [item for item in self.request.items if item.id in accepted]

    def _decide(self, item: JobItem, wish: Any) -> str:
        from smartdj_agent.plan import plan_from_dict

        try:
            fields = _Fields(wish, f"items.{item.id}")
            if fields.take("skip", bool, False):
                self._plans.pop(item.id, None)
                return _Outcome.SKIPPED
            if fields.take("later", bool, False):
                return _Outcome.ASK_AGAIN
            instruction = fields.take("instruction", str, "")
            if instruction.strip():
                checked = check_instruction(instruction)
                return _Outcome.ASK_AGAIN if self._plan(item, checked) else _Outcome.SKIPPED
            plan = self._plans.get(item.id)
            if plan is None:
                raise _wrong(f"items.{item.id}", "this item has no plan yet", "answer the question, or skip the item")
            steps = fields.take("steps", list, None)
            if steps is not None:
                edited = plan_from_dict({"version": 1, "steps": steps})
                plan = replace(plan, steps=edited.steps)
            if not plan.enabled_steps():
                raise SmartDJError(
                    ErrorCode.PLAN_INVALID, "every step is switched off", "leave one on, or skip the item", "plan.steps"
                )
            self._plans[item.id] = plan
            return _Outcome.ACCEPTED
        except SmartDJError as error:
            if error.code is ErrorCode.CANCELLED:
                raise
            self.events.tell("plan_rejected", item=item.id, error=error_values(error))
            return _Outcome.ASK_AGAIN

    def _wait_for_decision(self, number: int) -> dict[str, Any] | None:
        """Wait for ``plan.json``; None where it was no use."""
        path = self.folder / "plan.json"
        since: float | None = None
        while True:
            self.watch.pause(POLL_S)
            if not path.exists():
                continue
            try:
                document = _Fields(_read_json(path), "plan.json")
                if document.take("protocol", int) != PROTOCOL:
                    raise _wrong("plan.json.protocol", f"plan.json must be of protocol {PROTOCOL}")
                document.take("items", dict)
                failure = None
            except SmartDJError as error:
                since = since if since is not None else time.monotonic()
                if "is not JSON" in error.message and time.monotonic() - since < HALF_WRITTEN_S:
                    continue
                failure = error
            path.replace(self.folder / f"plan.{number}.json")
            if failure is not None:
                self.events.tell("plan_rejected", item="", error=error_values(failure))
                return None
            return cast(dict[str, Any], document.values)

    # applying

    def _apply(self, item: JobItem) -> None:
        from smartdj_agent.audio import audio_sha256
        from smartdj_agent.events import Finished, StepFinished
        from smartdj_agent.outputs import Outputs, check_disk_space

        plan = self._plans[item.id]
        audio = read_item(item)
        source_sha256 = audio_sha256(audio)
        if plan.source_sha256 != source_sha256:
            raise SmartDJError(
                ErrorCode.PLAN_MISMATCH,
                f"{item.path} has changed since the plan was made",
                "start the edit again",
            )
        _make_folder(item.folder)
        check_disk_space(Outputs(steps_dir=item.folder), audio, len(plan.enabled_steps()))
        finished: Finished | None = None
        with _closing(self.agent.apply(audio, plan, mode=self.request.mode, seed=self.request.seed)) as stream:
            for event in stream:
                self.watch.check()
                if isinstance(event, Finished):
                    finished = event
                elif isinstance(event, StepFinished):
                    self.events.pass_on(item, event, **self._write_step(item, event))
                else:
                    self.events.pass_on(item, event)
        if finished is None:
            raise RuntimeError("the editor ended without a result")
        done_plan = replace(finished.plan, source_name=plan.source_name)
        self._finished.add(item.id)
        self.events.tell(
            "item_finished", item=item.id, plan=_plan_values(done_plan), source_sha256=source_sha256,
            seconds=finished.seconds, realtime_factor=finished.realtime_factor, seed=self.request.seed,
            mode=self.request.mode, models=self._models(done_plan),
        )  # fmt: skip

    def _write_step(self, item: JobItem, event: StepFinished) -> dict[str, Any]:
        from smartdj_agent.audio import AudioFormat, write_audio
        from smartdj_agent.outputs import step_file_name

        written = replace(event.audio, format=AudioFormat("WAV", step_subtype(event.audio)), tags=())
        name = step_file_name(event.index + 1, event.plan_step.step, "")
        stem = f"{_slug(item.name or item.path.stem)}-smartdj-{self.request.id}-{name}"
        number = 1
        while True:
            path = item.folder / (f"{stem}.wav" if number == 1 else f"{stem}-{number}.wav")
            try:
                write_audio(path, written)
                break
            except SmartDJError as error:
                if error.code is not ErrorCode.OUTPUT_EXISTS or number > 1000:
                    raise
                number += 1
        self._files.setdefault(item.id, []).append(path)
        return {
            "path": str(path),
            "label": step_label(event.plan_step.step),
            "sample_rate": written.sample_rate,
            "frames": written.n_samples,
            "channels": written.channels,
            "subtype": written.format.subtype,
        }


class _Outcome:
    ACCEPTED, SKIPPED, ASK_AGAIN = "accepted", "skipped", "ask again"


_END_ALL = frozenset(
    {
        ErrorCode.MODEL_MISSING,
        ErrorCode.MODEL_CORRUPT,
        ErrorCode.DEVICE_UNAVAILABLE,
        ErrorCode.SERVER_UNREACHABLE,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.SERVER_STOPPING,
        ErrorCode.DISK_FULL,
    }
)
"""Failures that every other item would meet as well."""


def read_item(item: JobItem) -> Audio:
    """Read the item's part of its recording, and nothing else of it.

    Raises
    ------
    SmartDJError
        As `read_audio`; AUDIO_UNREADABLE where the file has another sample rate than the job says.
    """
    from smartdj_agent.audio import read_audio, read_header

    header = read_header(item.path, max_duration_s=float("inf"))
    if header.sample_rate != item.sample_rate:
        raise SmartDJError(
            ErrorCode.AUDIO_UNREADABLE,
            f"{item.path} has {header.sample_rate:,} Hz; REAPER says {item.sample_rate:,} Hz",
            "check whether the file was replaced; in REAPER, set the item offline and online again",
        )
    return read_audio(item.path, start_frame=item.start_frame, frames=item.frames)


def step_subtype(audio: Audio) -> str:
    """Return how a step's WAV file stores its samples: as the source does, unless that would lose or clip some."""
    from smartdj_agent.audio import clipped_samples

    own = {"PCM_S8": "PCM_U8"}.get(audio.format.subtype, audio.format.subtype)
    if own not in _EXACT:
        return "FLOAT"
    if clipped_samples(audio, own):
        return "DOUBLE" if own == "PCM_32" else "FLOAT"
    return own


def step_label(step: Step) -> str:
    """Return a step in few words, for the name of a take: ``add: birdsong (left)``."""
    from smartdj_agent.steps import Operation, direction_name

    details = ""
    if step.operation is Operation.VOLUME:
        details = f"{step.gain_db:+g} dB"
    elif step.operation is Operation.DIRECTION and step.to_azimuth_deg is not None:
        details = f"to {direction_name(step.to_azimuth_deg)}"
    elif step.operation is Operation.SHIFT:
        details = f"{step.shift_s:+g} s"
    elif step.operation is Operation.REVERB:
        details = f"level {step.reverb_level}"
    elif step.operation is Operation.TIMBRE:
        details = str(step.timbre)
    elif step.azimuth_deg is not None:
        details = direction_name(step.azimuth_deg)
    return f"{step.operation.value}: {step.target}" + (f" ({details})" if details else "")


def _plan_values(plan: Plan) -> dict[str, Any]:
    from smartdj_agent.plan import plan_to_dict

    return plan_to_dict(plan)


def _slug(name: str) -> str:
    stem = re.sub(r"\.(wav|flac|aiff?|mp3|ogg|w64|caf)$", "", name.strip(), flags=re.IGNORECASE)
    slug = re.sub(r"[^\w-]+", "-", stem).strip("-_")
    encoded = slug.encode("utf-8", "ignore")[:80]  # file names end at 255 bytes
    return encoded.decode("utf-8", "ignore").strip("-_") or "take"


def _printable(name: str) -> str:
    return "".join(char for char in name.encode("utf-8", "replace").decode() if char.isprintable())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"can't make the folder {folder}: {error.strerror or error}",
            "save the project in a folder that you may write to",
        ) from error


@contextlib.contextmanager
def _closing(stream: Iterator[Event]) -> Iterator[Iterator[Event]]:
    """Close the agent's generator however the loop ends: that is what cancels the work inside."""
    try:
        yield stream
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
