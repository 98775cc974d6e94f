"""What a run shows: events as JSON lines on standard output, everything for people on standard error.

On a terminal there are a progress bar, colours and tables. Without one there are only warnings and the
closing line, as plain text, so that logs stay short.
"""

from __future__ import annotations

import contextlib
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from smartdj_agent.errors import SmartDJError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from smartdj_agent.events import Event
    from smartdj_agent.plan import Plan


class PipeClosedError(Exception):
    """Whoever read our standard output is gone, as in ``smartdj … --json | head -1``."""


def one_line(text: str) -> str:
    """Return text on one line and without control characters, so that no file name can drive the terminal."""
    return "".join(char for char in " ".join(str(text).split()) if char.isprintable())


def write_stdout(text: str) -> None:
    """Write to standard output at once.

    Raises
    ------
    PipeClosedError
        The reader is gone.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise PipeClosedError from error


def show_error(error: SmartDJError, *, as_json: bool) -> None:
    """Show a failure: two plain lines on standard error, and with `as_json` the last JSON line."""
    if as_json:
        from smartdj_agent.eventjson import error_to_dict, to_line

        write_stdout(to_line(error_to_dict(error)) + "\n")
    print(f"error: {one_line(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {one_line(error.hint)}", file=sys.stderr)


def can_ask() -> bool:
    """Whether a person is there: questions go to standard error, answers come from standard input."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


class Screen:
    """Shows one run; a context manager, so that the progress bar never outlives it.

    Parameters
    ----------
    as_json
        Write events on standard output. What anybody else prints there meanwhile goes to standard error.
    """

    def __init__(self, *, as_json: bool) -> None:
        from rich.console import Console

        self.as_json = as_json
        self.console = Console(stderr=True, highlight=False)
        self.lively = self.console.is_terminal
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._stack = contextlib.ExitStack()
        self._events = sys.stdout
        self._device = ""

    def __enter__(self) -> Screen:
        self._events = sys.stdout
        if self.as_json:
            self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.rest()
        self._stack.close()

    def emit(self, record: dict[str, Any]) -> None:
        """Write one JSON line, if JSON is wanted.

        Raises
        ------
        PipeClosedError
            The reader is gone.
        """
        if not self.as_json:
            return
        from smartdj_agent.eventjson import to_line

        try:
            self._events.write(to_line(record) + "\n")
            self._events.flush()
        except BrokenPipeError as error:
            raise PipeClosedError from error

    def show(self, event: Event, **more: Any) -> None:
        """Show one event; `more` are further keys of its JSON line, such as the path of a file."""
        if self.as_json:
            from smartdj_agent.eventjson import event_to_dict

            self.emit({**event_to_dict(event), **more})
        show = getattr(self, f"_show_{type(event).__name__}", None)
        if show is not None:
            show(event)

    def line(self, text: str, style: str = "") -> None:
        """Print a line for a person, above the progress bar if there is one."""
        from rich.text import Text

        self.console.print(Text(one_line(text), style=style), soft_wrap=True)

    def status(self, text: str) -> None:
        """Show what is going on while nothing can be counted yet; only on a terminal."""
        if self.lively:
            self._bar(text, None)

    def progress(self, description: str, fraction: float, details: str = "") -> None:
        """Show how much of something is done, 0 to 1; only on a terminal."""
        if self.lively:
            self._bar(description, fraction, details)

    def rest(self) -> None:
        """Take the progress bar away, for example to ask a question."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._task = None

    def table(self, table: Table) -> None:
        """Print a table for a person."""
        self.rest()
        self.console.print(table)

    def plan(self, plan: Plan, title: str = "Plan") -> None:
        """Print a plan: a table on a terminal, else one line per step."""
        from smartdj_agent.steps import format_step

        self.rest()
        if not self.lively:
            for number, item in enumerate(plan.steps, start=1):
                self.line(f"{number}. {format_step(item.step)}{'' if item.enabled else ' (off)'}")
            return
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
        table.add_column("", justify="right", style="bold")
        table.add_column("step")
        table.add_column("")
        for number, item in enumerate(plan.steps, start=1):
            style = "" if item.enabled else "dim strike"
            table.add_row(str(number), Text(format_step(item.step), style), "" if item.enabled else "off")
        self.console.print(table)

    def _bar(self, description: str, completed: float | None, details: str = "") -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        if self._progress is None:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[details]}", markup=False),
                console=self.console,
                transient=True,
            )
            self._task = self._progress.add_task(description, total=None, details=details)
            self._progress.start()
        assert self._task is not None
        if completed is None:
            self._progress.update(self._task, description=one_line(description), total=None, details=details)
        else:
            self._progress.update(
                self._task, description=one_line(description), total=1.0, completed=completed, details=details
            )

    def _show_Listening(self, event: Any) -> None:
        if self.lively:
            self._bar("listening", event.fraction, _pace(event))

    def _show_Listened(self, event: Any) -> None:
        if not self.lively:
            return
        for sound in event.sounds:
            where = "" if sound.azimuth_deg is None else f", {_direction(sound.azimuth_deg)}"
            self.line(
                f"heard {sound.label} ({sound.confidence:.0%}{where}, {sound.start_s:.1f}–{sound.end_s:.1f} s)",
                "dim",
            )
        self.status("planning")

    def _show_Writing(self, event: Any) -> None:
        if self.lively:
            self._bar("planning", None, event.text)

    def _show_StepPlanned(self, event: Any) -> None:
        if self.lively:
            self.status(f"planning, {event.index + 1} step{'s' if event.index else ''} so far")

    def _show_StepStarted(self, event: Any) -> None:
        from smartdj_agent.steps import format_step

        if self.lively:
            self._title = f"{event.index + 1}/{event.count} {format_step(event.plan_step.step)}"
            self._device = event.device
            self._bar(self._title, 0.0)

    def _show_Progress(self, event: Any) -> None:
        if self.lively:
            details = " · ".join(part for part in (event.stage, self._device, _pace(event)) if part)
            self._bar(getattr(self, "_title", "editing"), event.fraction, details)

    def _show_StepFinished(self, event: Any) -> None:
        if not self.lively:
            return
        from smartdj_agent.steps import format_step

        self.line(
            f"{event.index + 1}/{event.count} {format_step(event.plan_step.step)}: {event.method}, "
            f"{event.confidence:.0%} sure, {event.seconds:.1f} s ({event.realtime_factor:.2f} × real time)"
        )

    def _show_Notice(self, event: Any) -> None:
        self.line(f"note: {event.message}{f' ({event.hint})' if event.hint else ''}", "yellow")


def _pace(event: Any) -> str:
    parts = []
    if 0 < event.realtime_factor < float("inf"):
        parts.append(f"{event.realtime_factor:.2f} × real time")
    if 0 <= event.seconds_left < float("inf"):
        parts.append(f"{event.seconds_left:.0f} s left")
    return " · ".join(parts)


def _direction(azimuth_deg: float) -> str:
    from smartdj_agent.steps import direction_name

    return direction_name(azimuth_deg)
