"""The server's log: one line per event, each with request and job, none with audio, tokens or what people wrote.

Handlers and workers say what happened in constant text plus harmless values (ids, codes, seconds). What a client sent
is never a log argument; since messages of exceptions may quote it, tracebacks show types and places, and messages
only at level ``debug``.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import IO, Any, Final, Literal

LOGGER: Final = "smartdj_agent"
NONE: Final = "-"

_request_id: ContextVar[str] = ContextVar("request_id", default=NONE)
_job_id: ContextVar[str] = ContextVar("job_id", default=NONE)
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id", "job_id"}


@contextmanager
def bound(*, request_id: str | None = None, job_id: str | None = None) -> Iterator[None]:
    """Name the request and the job that lines of this task, and of tasks that it starts inside, belong to.

    Parameters
    ----------
    request_id, job_id
        None leaves what is bound already.
    """
    tokens = [
        (variable, variable.set(value))
        for variable, value in ((_request_id, request_id), (_job_id, job_id))
        if value is not None
    ]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)


def request_id() -> str:
    """Tell the request that is bound here; `NONE` outside of any."""
    return _request_id.get()


def configure(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["text", "json"],
    stream: IO[str] | None = None,
) -> None:
    """Send this process's log to a stream; may be called again to change the level or the form.

    Parameters
    ----------
    level
        Least severe line of our own; other libraries' lines below ``warning`` are left out always.
    form
        ``text`` for people, ``json`` for programs (one object per line).
    stream
        Standard error by default.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter((_JsonFormatter if form == "json" else _TextFormatter)(messages=number <= logging.DEBUG))
    handler.addFilter(_stamp)
    handler.set_name(LOGGER)
    root = logging.getLogger()
    for old in [present for present in root.handlers if present.get_name() == LOGGER]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger(LOGGER).setLevel(number)


def _stamp(record: logging.LogRecord) -> bool:
    # Called in the thread and the context that logged, so that the ids are those of the one who spoke.
    record.request_id = getattr(record, "request_id", None) or _request_id.get()
    record.job_id = getattr(record, "job_id", None) or _job_id.get()
    return True


class _Formatter(logging.Formatter):
    """What both forms share: time in UTC, `extra` values, tracebacks without messages."""

    def __init__(self, *, messages: bool) -> None:
        super().__init__()
        self._messages = messages

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def values(self, record: logging.LogRecord) -> dict[str, Any]:
        # Libraries mark records for themselves, such as Ray with its `_ray_timestamp_ns`.
        return {key: value for key, value in vars(record).items() if key not in _STANDARD and key[:1] != "_"}

    def trace(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info or record.exc_info[1] is None:
            return []
        lines: list[str] = []
        error: BaseException | None = record.exc_info[1]
        seen: set[int] = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            kind = f"{type(error).__module__}.{type(error).__qualname__}"
            lines.append(f"{kind}: {error}" if self._messages else kind)
            lines.extend("".join(traceback.format_tb(error.__traceback__)).splitlines())
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return lines


class _TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        ids = f"{getattr(record, 'request_id', NONE)} {getattr(record, 'job_id', NONE)}"
        head = f"{self.formatTime(record)} {record.levelname:<7} {ids} {record.name.removeprefix(LOGGER + '.')}: "
        values = "".join(f" {key}={value}" for key, value in self.values(record).items())
        lines = [record.getMessage() + values, *(f"  {line}" for line in self.trace(record))]
        return "\n".join(head + _one_line(line) for line in lines)


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": getattr(record, "request_id", NONE),
            "job_id": getattr(record, "job_id", NONE),
            "message": record.getMessage(),
            **self.values(record),
        }
        if trace := self.trace(record):
            entry["trace"] = trace
        if record.thread != threading.main_thread().ident:
            entry["thread"] = record.threadName
        return json.dumps(entry, default=str)


def _one_line(text: str) -> str:
    """Escape what could forge a second line or move a terminal's cursor."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
