"""One run of an action: ask, start the helper, look at it from time to time, add takes.

REAPER calls a function of ours about 30 times a second (``RPR_defer``); in between it goes on as always. Every state is
a method that does a little and returns. An exception never leaves REAPER with an open undo block or a helper at work:
it is logged, the helper is stopped, and the run ends.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from . import VERSION
from .api import NO, YES, YES_NO_CANCEL_BOX, Project, Reaper
from .apply import apply_results
from .collect import Candidate, collect, collect_again, render
from .dialogs import CANCEL, Field, ImGuiDialogs, PlainDialogs, PlanItem, find_imgui
from .helper import Helper, helper_program
from .segment import Refusal, RenderFirst, Segment
from .takes import ItemResult, StepResult

SESSIONS: dict[str, Session] = {}
"""Runs under way, by id; what is deferred is only their id."""

STOP_AFTER_S = 20.0
"""How long a helper may take to stop before it is killed."""

BUSY_EVERY_S = 1.0
STALE_AFTER_S = 30.0
"""How old the sign of another run may be; a run that crashed leaves one behind."""

LOG_BYTES = 1 << 20
INSTALL = "quit REAPER and run: smartdj reaper install"


def run(host: dict[str, Any], what: str = "items", *, review: bool = True) -> None:
    """Start a run; what an action's script calls.

    Parameters
    ----------
    host
        The script's globals.
    what
        ``items``, ``tracks`` (all items of the selected tracks) or ``again`` (from the notes in our takes).
    review
        Show the plan before anything is carried out.
    """
    if "RPR_defer" not in host:  # REAPER puts it into the main module, which need not be the caller
        host = sys.modules["__main__"].__dict__
    import reaper_python  # type: ignore[import-not-found]

    reaper = Reaper(reaper_python, host)
    imgui = find_imgui(reaper)
    session = Session(reaper, ImGuiDialogs(imgui) if imgui is not None else PlainDialogs(reaper), what, review=review)
    SESSIONS[session.id] = session
    host["smartdj_tick"] = tick
    host["smartdj_exit"] = leave
    reaper.at_exit(f"smartdj_exit({session.id!r})")
    session.tick()


def tick(session_id: str) -> None:
    """Go on with a run; called by REAPER."""
    session = SESSIONS.get(session_id)
    if session is not None:
        session.tick()


def leave(session_id: str) -> None:
    """End a run because the script or REAPER ends; called by REAPER."""
    session = SESSIONS.pop(session_id, None)
    if session is not None:
        session.leave()


class Session:
    """One run of an action."""

    def __init__(self, reaper: Reaper, dialogs: Any, what: str, *, review: bool) -> None:
        self.id = secrets.token_hex(3)
        self.reaper, self.dialogs, self.what, self.review = reaper, dialogs, what, review
        self.project: Project = reaper.current_project()
        self.candidates: list[Candidate] = []
        self.remarks: list[str] = []
        self.instruction = ""
        self.helper: Helper | None = None
        self.results: dict[str, _Gathered] = {}
        self.plans: dict[str, dict[str, Any]] = {}
        self.questions: dict[str, dict[str, Any]] = {}
        self.rejected: list[str] = []
        self.dialog: Any = None
        self._open: list[str] = []
        self._asked = ""
        self._decided: dict[str, dict[str, Any]] = {}
        self.state: Callable[[], None] | None = self._starting
        self._text, self._fraction, self._device = "SmartDJ", 0.0, ""
        self._failure: dict[str, Any] | None = None
        self._settings: dict[str, Any] = {}
        self._stop_by = 0.0
        self._last_busy = 0.0

    # the loop

    def tick(self) -> None:
        """Do a little, and ask to be called again."""
        try:
            if self.state is not None:
                self.state()
        except Exception:
            self._crash(traceback.format_exc())
        if self.state is None:
            SESSIONS.pop(self.id, None)
            return
        self.reaper.defer(f"smartdj_tick({self.id!r})")

    def leave(self) -> None:
        """Stop the helper; nothing may be waited for here."""
        if self.state is not None and self.helper is not None:
            self.helper.cancel()
            self.log(f"left while working; helper in {self.helper.folder} told to stop")
        self._clear_busy()
        self.state = None

    def _crash(self, trace: str) -> None:
        self.log(trace)
        try:
            if self.helper is not None:
                self.helper.cancel()
            self._clear_busy()
            self.dialogs.close()
            self.reaper.console(f"SmartDJ has stopped because of a mistake of its own; please report this:\n{trace}")
        except Exception:  # REAPER itself refuses: the log above is all that can be done
            self.log(traceback.format_exc())
        self.state = None

    def _end(self, text: str = "", *, keep_folder: bool = False) -> None:
        if self.helper is not None:
            self.helper.close(keep_folder=keep_folder)
        self.dialogs.close()
        self._clear_busy()
        self.reaper.status(text)
        self.state = None

    def _give_up(self, title: str, text: str) -> None:
        self.log(f"{title}: {text}")
        self._end(keep_folder=True)
        self.reaper.message(text, title)

    # states

    def _starting(self) -> None:
        if not self._may_start():
            self._end()
            return
        items = (
            self.reaper.items_of_selected_tracks(self.project)
            if self.what == "tracks"
            else self.reaper.selected_items(self.project)
        )
        if not items:
            self._end()
            self.reaper.message(
                "Select at least one track with items." if self.what == "tracks" else "Select at least one item."
            )
            return
        self.candidates, self.remarks = (collect_again if self.what == "again" else collect)(self.reaper, items)
        if not self.candidates:
            self._end()
            self.reaper.message("Nothing here can be edited:\n\n{}".format("\n".join(self.remarks)))
            return
        fields = [Field("What should it become?", self._default_instruction())]
        if self.what == "again":
            fields.append(Field("Seed", str(self.candidates[0].seed)))
        self.dialog = self.dialogs.prompt(self._title(), fields, "\n".join(self.remarks))
        self.state = self._prompting

    def _title(self) -> str:
        count = len(self.candidates)
        what = f"“{self.candidates[0].name}”" if count == 1 else "%d items" % count
        left_out = " (%d left out)" % len(self.remarks) if self.remarks else ""
        return "SmartDJ: {} {}{}".format("run again:" if self.what == "again" else "edit", what, left_out)

    def _prompting(self) -> None:
        answer = self.dialog.frame()
        if answer is None:
            return
        self.dialog = None
        if answer is CANCEL:
            self._end()
            return
        self.instruction = answer[0].strip()
        if not self.instruction and self.what != "again":
            self._give_up(
                "SmartDJ", "Say what the recording should become, such as: make this sound like a rainy morning"
            )
            return
        seed = answer[1].strip() if len(answer) > 1 else self.reaper.get_state("seed") or "0"
        if not (seed.isdecimal() and int(seed) < 2**32):
            self._give_up("SmartDJ", f"The seed must be a whole number from 0 to 4294967295, not {seed}.")
            return
        self._keep_instruction()
        self._settings = {"seed": int(seed)}
        self._render_unusual()
        if self.candidates:
            self._launch()
        else:
            self._end()
            self.reaper.message("Nothing here can be edited:\n\n{}".format("\n".join(self.remarks)))

    def _render_unusual(self) -> None:
        ready: list[Candidate] = []
        for candidate in self.candidates:
            if isinstance(candidate.decision, RenderFirst):
                outcome = render(self.reaper, self.project, candidate)
                if isinstance(outcome, Refusal):
                    self.remarks.append(f"“{candidate.name}” {outcome.reason}")
                    continue
                self.log(f"rendered “{candidate.name}” first: {candidate.decision.reason}")
                candidate = outcome
            ready.append(candidate)
        self.candidates = ready

    def _launch(self) -> None:
        program = helper_program(self.reaper.get_state("helper"))
        if not os.path.isfile(program):
            self._give_up(
                "SmartDJ is not set up",
                "The program smartdj was not found{}.\n\nInstall SmartDJ, then {}".format(
                    f": {program}" if program else "", INSTALL
                ),
            )
            return
        try:
            self.helper = Helper(program, self._job())
        except OSError as error:
            self._give_up("SmartDJ can't start", f"{program}: {error}\n\nTo repair it, {INSTALL}")
            return
        self.log("started %s in %s for %d items" % (program, self.helper.folder, len(self.candidates)))
        self._text = "SmartDJ: starting"
        self.state = self._working

    def _job(self) -> dict[str, Any]:
        folder = self.reaper.media_folder(self.project)
        items = []
        for number, candidate in enumerate(self.candidates, start=1):
            segment = candidate.decision
            assert isinstance(segment, Segment)
            item: dict[str, Any] = {
                "id": "i%d" % number,
                "name": candidate.name,
                "path": segment.path,
                "start_frame": segment.start_frame,
                "frames": segment.frames,
                "sample_rate": segment.sample_rate,
                "folder": folder or os.path.dirname(segment.path),
            }
            if candidate.plan is not None and self.instruction in ("", self._default_instruction()):
                item["plan"] = candidate.plan
            items.append(item)
            self.results[item["id"]] = _Gathered(candidate)
        state = self.reaper.get_state
        again = self.candidates[0].mode if self.what == "again" else ""
        self._settings["mode"] = again or state("mode") or "preserve"
        return {
            "id": self.id,
            "instruction": self.instruction,
            "review": self.review,
            "seed": self._settings["seed"],
            "mode": self._settings["mode"],
            "preset": state("preset") or "small",
            "device": state("device") or "auto",
            "server": state("server"),
            "token_file": state("token_file"),
            "tls_ca": state("tls_ca"),
            "items": items,
        }

    def _working(self) -> None:
        assert self.helper is not None
        running = self.helper.running()  # asked first: what it wrote at its end is read below
        for event in self.helper.events():
            self._take(event)
        self._show_busy()
        cancelled = self.dialogs.progress(self._text, self._fraction) or self._asked_to_stop()
        if self.helper.ended_by:
            self._finish()
        elif not running:
            self._failure = {
                "title": "SmartDJ's helper has ended unexpectedly",
                "message": self.helper.log_tail() or "It printed nothing.",
                "hint": "its log is in %s" % self.helper.folder,
            }
            self._finish()
        elif cancelled:
            self._stop()
        elif self.dialog is not None:
            self.state = self._reviewing

    def _reviewing(self) -> None:
        assert self.helper is not None
        self._show_busy()
        answer = self.dialog.frame()
        if answer is None:
            if self._asked_to_stop() or not self.helper.running():
                self.state = self._working
            return
        self.dialog = None
        if answer is CANCEL:
            self._stop()
            return
        if self._asked:  # a question was answered; everything else is decided later
            reply = {"instruction": answer[0]} if answer[0].strip() else {"skip": True}
            answer = {item: reply if item == self._asked else {"later": True} for item in self._open}
        else:
            self._decided.update(answer)
        self.helper.decide(answer)
        self.state = self._working

    def _stop(self) -> None:
        assert self.helper is not None
        self.helper.cancel()
        self._text = "SmartDJ: stopping"
        self._stop_by = time.monotonic() + STOP_AFTER_S
        self.state = self._stopping

    def _stopping(self) -> None:
        assert self.helper is not None
        self.dialogs.progress(self._text, self._fraction)
        if self.helper.running():
            if time.monotonic() < self._stop_by:
                return
            self.helper.kill()
            self.log("killed a helper that did not stop")
        self._end("SmartDJ: cancelled, nothing was changed")

    def _finish(self) -> None:
        assert self.helper is not None
        results = [gathered.result(self) for gathered in self.results.values() if gathered.finished is not None]
        title = "SmartDJ: %s" % (" ".join(self.instruction.split())[:80] or "run again")
        skipped: list[str] = []
        text = "SmartDJ: nothing was changed"
        if results and self.helper.ended_by != "cancelled":
            report = apply_results(self.reaper, self.project, results, title)
            skipped = report.skipped
            text = "SmartDJ: %d take%s in %d item%s" % (
                report.takes, "" if report.takes == 1 else "s", report.items, "" if report.items == 1 else "s",
            )  # fmt: skip
        failures = [gathered.failure for gathered in self.results.values() if gathered.failure]
        trouble = [*self.remarks, *failures, *skipped]
        box = "SmartDJ"
        if self._failure is not None:
            box = str(self._failure.get("title") or box)
            trouble.append(_sentence(self._failure))
        for line in trouble:
            self.log(line)
        self._end(text, keep_folder=self._failure is not None)
        if trouble:
            self.reaper.message("{}.\n\n{}".format(text, "\n".join(trouble)), box)

    # events

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        gathered = self.results.get(str(event.get("item", "")))
        if kind == "error":
            self._failure = event
        elif kind == "review":
            self._open_review([str(item) for item in event.get("items", [])])
        elif kind == "plan_rejected":
            self.rejected.append(_sentence(event.get("error") or {}))
        elif gathered is not None:
            self._take_of_item(str(kind), event, gathered)

    def _take_of_item(self, kind: str, event: dict[str, Any], gathered: _Gathered) -> None:
        item, name = str(event["item"]), gathered.candidate.name
        numbers = list(self.results)
        place = numbers.index(item)
        of_all = " (%d of %d)" % (place + 1, len(numbers)) if len(numbers) > 1 else ""
        head = f"SmartDJ: {name}{of_all} · "
        if kind == "listening":
            self._text = head + "listening · " + _pace(event, self._device)
            self._fraction = 0.0
        elif kind in ("listened", "step_planned"):
            self._text = head + "planning"
        elif kind == "plan":
            self.plans[item] = event["plan"]
            self.questions.pop(item, None)
        elif kind == "question":
            self.plans.pop(item, None)
            self.questions[item] = event
        elif kind == "notice":
            gathered.notices.append(str(event.get("message", "")))
        elif kind == "step_started":
            self._device = str(event.get("device", ""))
            gathered.step = "%d/%d %s" % (event["index"] + 1, event["count"], event["plan_step"]["step"])
            self._text = head + gathered.step
        elif kind == "progress":
            done = (event["index"] + event["fraction"]) / max(1, event["count"])
            self._fraction = (place + done) / len(numbers)
            self._text = "%s%s · %d %% · %s" % (
                head,
                gathered.step,
                100 * event["fraction"],
                _pace(event, self._device),
            )
        elif kind == "step_finished":
            gathered.steps.append(StepResult(event["path"], event["label"], event.get("touched_s") or []))
        elif kind == "item_finished":
            gathered.finished = event
        elif kind == "item_failed":
            gathered.failure = "“{}”: {}".format(name, _sentence(event.get("error") or {}))

    def _open_review(self, items: list[str]) -> None:
        """Ask the next question, or show the plans; once more with the reason where they could not be used."""
        rejected, self.rejected = "\n".join(self.rejected), []
        questions = [item for item in items if item in self.questions]
        self._open, self._asked = items, questions[0] if questions else ""
        if self._asked:
            question = self.questions[self._asked]
            choices = [str(choice) for choice in question.get("choices") or []]
            self.dialog = self.dialogs.prompt(
                "%s: %s" % (self.results[self._asked].candidate.name, rejected or question.get("text", "")),
                [Field("Say it differently", choices[0] if choices else "")],
                "For example: %s" % " | ".join(choices) if choices else "",
            )
            return
        self.dialog = self.dialogs.review(
            [
                PlanItem(item, self.results[item].candidate.name, self._steps(item), self._remark(item, rejected))
                for item in items
            ]
        )

    def _steps(self, item: str) -> list[dict[str, Any]]:
        """Return the steps to show: as the person left them, if that could not be used."""
        steps: list[dict[str, Any]] = (self._decided.get(item) or self.plans[item])["steps"]
        return steps

    def _remark(self, item: str, rejected: str) -> str:
        gathered = self.results[item]
        segment = gathered.candidate.decision
        notes = [rejected, *gathered.notices, segment.note if isinstance(segment, Segment) else ""]
        return "\n".join(note for note in notes if note)

    # what is kept in REAPER

    def _default_instruction(self) -> str:
        if self.what == "again":
            return self.candidates[0].instruction
        kept = self.reaper.get_state("instruction")
        try:
            return base64.b64decode(kept.encode("ascii"), validate=True).decode("utf-8")
        except ValueError:
            return ""

    def _keep_instruction(self) -> None:
        if self.instruction:
            coded = base64.b64encode(self.instruction.encode("utf-8")).decode("ascii")
            self.reaper.set_state("instruction", coded, persist=True)

    def _may_start(self) -> bool:
        """Whether no other run is under way, or the person wants a second one; offers to stop the first."""
        other, _, rest = self.reaper.get_state("busy").partition(";")
        seen, _, text = rest.partition(";")
        try:
            stale = time.time() - float(seen) > STALE_AFTER_S
        except ValueError:
            stale = True
        if not other or stale:
            return True
        answer = self.reaper.message(
            f"{text}\n\nStop it? (No: let it go on, and start another edit.)", "SmartDJ is at work", YES_NO_CANCEL_BOX
        )
        if answer == YES:
            self.reaper.set_state("cancel", other)
        return answer == NO

    def _show_busy(self) -> None:
        now = time.time()
        if now - self._last_busy >= BUSY_EVERY_S:
            self._last_busy = now
            self.reaper.set_state("busy", f"{self.id};{now:.0f};{self._text}")

    def _clear_busy(self) -> None:
        if self.reaper.get_state("busy").partition(";")[0] == self.id:
            self.reaper.set_state("busy", "")

    def _asked_to_stop(self) -> bool:
        if self.reaper.get_state("cancel") != self.id:
            return False
        self.reaper.set_state("cancel", "")
        return True

    def log(self, text: str) -> None:
        """Write to the support log in REAPER's resource folder."""
        path = os.path.join(self.reaper.resource_path(), "smartdj-reaper.log")
        try:
            if os.path.isfile(path) and os.path.getsize(path) > LOG_BYTES:
                os.replace(path, path + ".old")
            with open(path, "a", encoding="utf-8") as file:
                file.write("{} {} {} {}\n".format(time.strftime("%Y-%m-%d %H:%M:%S"), VERSION, self.id, text))
        except OSError:
            pass


class _Gathered:
    """What the helper has told about one item."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.steps: list[StepResult] = []
        self.step = ""
        self.notices: list[str] = []
        self.failure = ""
        self.finished: dict[str, Any] | None = None

    def result(self, session: Session) -> ItemResult:
        """Return it as what becomes takes."""
        assert self.finished is not None
        candidate, segment = self.candidate, self.candidate.decision
        assert isinstance(segment, Segment)
        note = {
            "job": session.id,
            "name": candidate.name,
            "plan": self.finished["plan"],
            "seed": self.finished["seed"],
            "mode": self.finished["mode"],
            "models": self.finished["models"],
            "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "source": {
                "take": candidate.take_guid,
                "path": segment.path,
                "start_frame": segment.start_frame,
                "frames": segment.frames,
                "sample_rate": segment.sample_rate,
                "sha256": self.finished["source_sha256"],
            },
        }
        return ItemResult(candidate.guid, candidate.pointer, candidate.name, candidate.values, self.steps, note)


def _sentence(error: dict[str, Any]) -> str:
    message, hint = str(error.get("message", "unknown error")), str(error.get("hint", ""))
    return f"{message} ({hint})" if hint else message


def _pace(event: dict[str, Any], device: str) -> str:
    parts = [device] if device else []
    if event.get("realtime_factor"):
        parts.append("{:.2f} × real time".format(event["realtime_factor"]))
    if event.get("seconds_left") is not None and event.get("fraction", 0.0) > 0.02:  # before, it is a guess
        parts.append("{:.0f} s left".format(event["seconds_left"]))
    return " · ".join(parts)
