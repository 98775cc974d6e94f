"""The page's widgets: they show a `Session` and call the `Desk`. What plays and draws is ``static/page.js``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from nicegui import Client, ui

from smartdj_agent.client import Job, JobState
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.ui.desk import Desk, Link
from smartdj_agent.ui.session import (
    SHORTCUTS,
    DraftStep,
    Phase,
    Session,
    StepState,
    clock,
    sentence,
    spans,
)

SYNC_S = 0.1
"""How often a page looks whether its session has changed, seconds."""

RECONNECT_S = 60.0
"""How long a page whose connection broke may take to come back before it is drawn anew: a busy machine is slow."""

_STATIC = Path(__file__).parent / "static"

_HEAD = """
<link rel="stylesheet" href="/static/page.css">
<script type="importmap">{"imports": {"wavesurfer": "/static/vendor/wavesurfer/wavesurfer.esm.js"}}</script>
<script type="module" src="/static/page.js"></script>
"""

_LINK_WORDS = {
    Link.CONNECTING: "connecting …",
    Link.LOADING: "loading its networks …",
    Link.READY: "ready",
    Link.LOST: "away",
}

_JOB_WORDS = {
    JobState.QUEUED: "waiting",
    JobState.RUNNING: "working",
    JobState.AWAITING_REVIEW: "plan to review",
    JobState.SUCCEEDED: "done",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


def add_page(app: FastAPI, desk: Desk) -> None:
    """Add the page to the program's routes."""

    @ui.page("/", title="SmartDJ", response_timeout=60.0)
    async def page(client: Client, at: str = "") -> None:
        ui.add_head_html(_HEAD)
        session, error = desk.find(at), None
        if session is None and at:
            try:
                session = await desk.open(at)
            except SmartDJError as failure:
                error = failure
        session = session or desk.new()
        if error is not None and error.code is not ErrorCode.JOB_NOT_FOUND:  # else it is an old draft: begin anew
            session.refuse(error)
        Page(desk, session, client)

    ui.run_with(
        app,
        title="SmartDJ",
        dark=None,
        language="en-US",
        tailwind=False,
        show_welcome_message=False,
        reconnect_timeout=RECONNECT_S,
    )


class Page:
    """One open page.

    Parameters
    ----------
    desk
        What works for it.
    session
        What it shows.
    client
        The browser's connection.
    """

    def __init__(self, desk: Desk, session: Session, client: Client) -> None:
        self.desk, self.session, self.client = desk, session, client
        self._shown = (-1, -1, -1)
        self._sounds: object = None
        self._heard: object = None
        self._noticed: object = None
        self._addressed = ""
        self._phase: Phase | None = None
        self._rows: dict[str, _Row] = {}
        self._acted = False
        self._help = self._draw_help()
        self._draw_header()
        with _tag("main", "page"):
            with _tag("div", "column work"):
                self._draw_recording()
                self._draw_wish()
                self._draw_plan()
            with _tag("div", "column hear"):
                self._draw_compare()
                self._draw_heard()
                self._draw_take_away()
                self._draw_jobs()
        ui.on("sdj_refused", self._refused)
        ui.on("sdj_save", lambda event: self._save_sound(event.args["key"]))
        self._sync()
        ui.timer(SYNC_S, self._sync)

    # --- parts ---

    def _draw_header(self) -> None:
        with _tag("header", "top"):
            with _tag("div", "bar"):
                _text("h1", "SmartDJ")
                self.server = _text("span", "", "server").props("role=status")
                with ui.element("a").props('href="/" data-key=u').classes("plain-button"):
                    _text("span", "New")
                _button("?", self._help.open, key="?", label="Shortcuts").classes("round")
            self.banner = _text("div", "", "banner").props("role=alert")
            with _tag("div", "now"):
                self.headline = _text("p", "", "headline").props("role=status aria-live=polite")
                self.progress = ui.element("progress").props('max=100 value=0 aria-label="Progress"')
            with _tag("div", "error").props("role=alert") as self.error:
                self.error_title = _text("strong", "")
                self.error_text = _text("span", "")
                self.error_hint = _text("span", "", "hint")

    def _draw_help(self) -> ui.dialog:
        with ui.dialog() as dialog, ui.card().classes("help"):
            _text("h2", "Shortcuts")
            with _tag("table", ""):
                for _, shown, what in SHORTCUTS:
                    with _tag("tr", ""):
                        with ui.element("th"):
                            _text("kbd", shown)
                        _text("td", what)
            _text("p", "They hold outside of text fields. Tab goes from field to field.")
            _button("Close", dialog.close)
        return dialog

    def _draw_recording(self) -> None:
        with _section("Recording", "recording"), _tag("div", "drop").props("id=drop"):
            self.file = _text("p", "", "file")
            self.file_facts = _text("p", "", "facts").props("id=facts")
            with _tag("div", "buttons"):
                _native("Choose a file", "id=choose data-key=o aria-keyshortcuts=o")
                _native("Record", "id=record data-key=m aria-keyshortcuts=m")
            _text("p", "", "facts").props("id=busy role=status")
            ui.element("input").props(
                'type=file id=file class=hidden tabindex=-1 aria-hidden=true accept="audio/*,video/*,.wav,.aif,.flac"'
            )

    def _draw_wish(self) -> None:
        with _section("What it should become", "wish"):
            self.instruction = (
                ui.textarea(
                    label="Instruction",
                    placeholder="make this sound like a rainy harbour",
                    value=self.session.instruction,
                    on_change=self._typed_instruction,
                )
                .props("outlined autogrow maxlength=2000")
                .classes("wide")
            )
            self.instruction.props('input-class="instruction"')
            with _tag("div", "buttons"):
                self.plan_button = _button("Write the plan", self._plan, key="p").classes("primary")
            with _tag("details", "options"):
                _text("summary", "Options")
                modes = {"preserve": "change only the named sound", "generate": "make the whole recording anew"}
                offered = self.desk.capabilities.modes if self.desk.capabilities else ("preserve",)
                self.mode = ui.radio(
                    {mode: modes.get(mode, mode) for mode in offered}, value=self.session.mode, on_change=self._set_mode
                ).props('aria-label="How steps are carried out"')
                self.seed = (
                    ui.number(
                        "Seed", value=self.session.seed, min=0, max=2**32 - 1, precision=0, on_change=self._set_seed
                    )
                    .props('outlined hint="same seed, same result"')
                    .classes("seed")
                )

    def _draw_plan(self) -> None:
        with _section("Plan", "plan"):
            with _tag("div", "question") as self.question:
                self.question_text = _text("p", "")
                self.choices = _tag("div", "buttons")
            self.writing = _text("p", "", "writing").props("aria-hidden=true")
            self.steps = ui.element("ol").classes("steps").props('aria-label="Steps"')
            with _tag("div", "buttons"):
                self.add_button = _button("Add a step", self._add, key="n")
                self.run_button = _button("Run", self._run, key="r").classes("primary")
                self.cancel_button = _button("Cancel", self._cancel, key="c").classes("danger")
            self.notices = ui.element("ul").classes("notices")

    def _draw_compare(self) -> None:
        with _section("Compare", "compare"):
            ui.html((_STATIC / "compare.html").read_text(encoding="utf-8"), sanitize=False).classes("wide")

    def _draw_heard(self) -> None:
        with _section("What was heard", "heard") as self.heard_section:
            self.heard = ui.element("ul").classes("heard")

    def _draw_take_away(self) -> None:
        with _section("Take away", "take") as self.take_section, _tag("div", "buttons"):
            self.save_result = _button("Result", lambda: self._save_sound("result"), label="Download the result")
            self.save_yaml = _button("Plan (YAML)", lambda: self._save_plan("yaml"), label="Download the plan as YAML")
            self.save_json = _button("Plan (JSON)", lambda: self._save_plan("json"), label="Download the plan as JSON")
            self.save_report = _button("Report", self._save_report, label="Download the report")

    def _draw_jobs(self) -> None:
        with _section("Earlier jobs", "jobs"):
            self.jobs = ui.element("ul").classes("jobs")

    # --- what the person does ---

    def _typed_instruction(self, event: Any) -> None:
        self.session.instruction = event.value or ""
        self.plan_button.set_enabled(self.session.can_plan)

    def _set_mode(self, event: Any) -> None:
        self.session.mode = event.value

    def _set_seed(self, event: Any) -> None:
        self.session.seed = int(event.value or 0)

    def _plan(self) -> None:
        self._acted = True
        self.desk.plan(self.session)
        self._sync()

    def _run(self) -> None:
        self._acted = True
        self.desk.run(self.session)
        self._sync()

    def _cancel(self) -> None:
        self._acted = True
        self.desk.cancel(self.session)
        self._sync()

    def _choose(self, choice: str) -> None:
        self.session.instruction = choice
        self.instruction.value = choice
        self._plan()

    def _add(self) -> None:
        try:
            id = self.session.add_step()
        except SmartDJError as error:
            self.session.refuse(error)
            return
        self._sync()
        self._rows[id].text.run_method("focus")

    def _move(self, id: str, by: int) -> None:
        self.session.move_step(id, by)
        self._sync()
        self._rows[id].focus("up" if by < 0 else "down")

    def _delete(self, id: str) -> None:
        ids = [step.id for step in self.session.steps]
        here = ids.index(id)
        self.session.delete_step(id)
        self._sync()
        rest = [step.id for step in self.session.steps]
        if rest:
            self._rows[rest[min(here, len(rest) - 1)]].focus("delete")
        else:
            _focus(self.client, self.add_button.html_id)

    def _toggle(self, id: str) -> None:
        self.session.toggle_step(id)
        self._sync()
        self._rows[id].focus("switch")

    def _edit(self, id: str, text: str) -> None:
        self.session.edit_step(id, text)
        self._sync()

    def _refused(self, event: Any) -> None:
        """Take what went wrong in the browser: a recording that it can't read either, no microphone."""
        said = {key: str(event.args.get(key, ""))[:500] for key in ("code", "message", "hint")}
        code = next((code for code in ErrorCode if code.value == said["code"]), ErrorCode.AUDIO_UNREADABLE)
        self.session.refuse(SmartDJError(code, said["message"], said["hint"]))

    async def _save_sound(self, key: str) -> None:
        await self._save(lambda: self.desk.save_sound(self.session, key))

    async def _save_report(self) -> None:
        self.save_report.set_text("Drawing …")
        self.save_report.disable()
        await self._save(lambda: self.desk.save_report(self.session))
        self.save_report.set_text("Report")
        self.save_report.enable()
        _focus(self.client, self.save_report.html_id, only_lost=True)

    async def _save(self, make: Callable[[], Any]) -> None:
        try:
            path = await make()
        except SmartDJError as error:
            self.session.refuse(error)
            return
        ui.download.file(path, path.name)

    def _save_plan(self, kind: str) -> None:
        try:
            name, text = self.desk.save_plan(self.session, kind)
        except SmartDJError as error:
            self.session.refuse(error)
            return
        ui.download.content(text, name)

    # --- showing ---

    def _sync(self) -> None:
        """Show what has changed."""
        now = (self.session.version, self.session.layout, self.desk.version)
        if now == self._shown:
            return
        before, self._shown = self._shown, now
        if now[2] != before[2]:
            self._show_server()
            self._show_jobs()
            self._show_now()
        if now[:2] != before[:2]:
            self._show_now()
            self._show_recording()
            self._show_plan(anew=now[1] != before[1])
            self._show_sounds()
            self._show_heard()
            self._show_buttons()
            self._show_address()

    def _show_server(self) -> None:
        desk = self.desk
        self.server.set_text(f"{desk.address}: {_LINK_WORDS[desk.link]}")
        self.server.classes(replace=f"server {desk.link.value}")
        lost = desk.link is Link.LOST
        self.banner.set_visibility(lost)
        if lost:
            self.banner.set_text(
                "The server is away. Nothing is lost: what it was doing goes on where it was, as soon as it is back. "
                "Trying again …"
            )

    def _show_now(self) -> None:
        session = self.session
        loading = self.desk.link is Link.LOADING and session.phase.busy and not session.stage
        self.headline.set_text(
            "The server is still loading its networks; it begins by itself." if loading else session.headline()
        )
        known = session.phase is Phase.RUNNING or session.stage == "listening"
        self.progress.set_visibility(session.phase.busy)
        if known:
            done = (session.step_index or 0) + session.fraction
            share = done / session.step_count if session.step_count else session.fraction
            self.progress.props(f"value={round(100 * share)}")
        else:  # no value: a bar that moves
            self.progress.props(remove="value")
        error = session.error
        shown = error is not None and error.code is not ErrorCode.CANCELLED
        self.error.set_visibility(shown)
        if error is not None and shown:
            self.error_title.set_text(error.row.title)
            self.error_text.set_text(sentence(error.message))
            self.error_hint.set_text(sentence(error.hint))

    def _show_recording(self) -> None:
        recording = self.session.recording
        if recording is None:
            self.file.set_text("Drop a recording here")
            self.file_facts.set_text("WAV, FLAC, OGG, MP3, AIFF, or what your browser can play")
            return
        self.file.set_text(recording.name)
        channels = {1: "mono", 2: "stereo"}.get(recording.channels, f"{recording.channels} channels")
        facts = f"{clock(recording.duration_s)}, {recording.sample_rate / 1000:g} kHz, {channels}."
        self.file_facts.set_text(f"{facts} {recording.note}".strip())

    def _show_plan(self, *, anew: bool) -> None:
        session = self.session
        if self.instruction.value != session.instruction:
            self.instruction.value = session.instruction
        if anew:
            self._rows.clear()
            self.steps.clear()
            with self.steps:
                for number, step in enumerate(session.steps, start=1):
                    self._rows[step.id] = _Row(self, step, number, len(session.steps))
        for step in session.steps:
            self._rows[step.id].show(step, session.can_edit)
        self.writing.set_text(session.writing and f"{session.writing} …")
        self.writing.set_visibility(bool(session.writing))
        question = session.question
        self.question.set_visibility(question is not None)
        if question is not None and question.text != self.question_text.text:
            self.question_text.set_text(question.text)
            self.choices.clear()
            with self.choices:
                for choice in question.choices:
                    _button(choice, lambda choice=choice: self._choose(choice))
        self.notices.set_visibility(bool(session.notices))
        if session.notices != self._noticed:
            self._noticed = session.notices
            self.notices.clear()
            with self.notices:
                for notice in session.notices:
                    _text("li", f"{sentence(notice.message)} {sentence(notice.hint)}".strip())

    def _show_sounds(self) -> None:
        sounds = self.session.sounds
        if sounds == self._sounds:
            return
        self._sounds = sounds
        listed = [
            {"key": s.key, "title": s.title, "url": f"/preview/{s.preview}", "touched": s.touched_s} for s in sounds
        ]
        self._call("sounds", listed)

    def _show_heard(self) -> None:
        session = self.session
        if session.heard is self._heard:
            return
        self._heard = session.heard
        self.heard_section.set_visibility(bool(session.heard))
        self.heard.clear()
        duration_s = session.recording.duration_s if session.recording is not None else 0.0
        with self.heard:
            for span in spans(session.heard, duration_s):
                said = (
                    f"{span.label}, {span.direction}, {span.confidence_percent} % sure, "
                    f"{clock(span.start_s)} to {clock(span.end_s)}, {span.level_db:.0f} dB"
                )
                with ui.element("li"):
                    place = json.dumps([span.start_s, span.end_s])
                    with ui.element("button").props(f"type=button data-loop='{place}'") as button:
                        button.props["aria-label"] = f"Loop {said}"
                        button.props["title"] = said
                        _text("span", span.arrow, "arrow")
                        _text("span", span.label, "label")
                        _text("span", span.direction, "direction")
                        _text("span", f"{span.confidence_percent} %", "sure")
                        with _tag("span", "axis"), _tag("span", "span") as bar:
                            strength = 35 + round(0.65 * span.confidence_percent)
                            place = f"left: {span.left_percent:.2f}%; width: {span.width_percent:.2f}%"
                            bar.style(f"{place}; opacity: {strength}%")

    def _show_buttons(self) -> None:
        session = self.session
        self.plan_button.set_enabled(session.can_plan)
        self.instruction.set_enabled(not session.phase.busy)
        self.add_button.set_enabled(session.can_edit)
        self.run_button.set_enabled(session.can_run)
        self.run_button.set_visibility(not session.phase.busy)
        self.cancel_button.set_visibility(session.phase.busy)
        self.take_section.set_visibility(bool(session.steps) or session.result is not None)
        done = session.result is not None and bool(session.job_id)
        self.save_result.set_enabled(done)
        self.save_report.set_enabled(done)
        if session.phase is not self._phase:
            self._phase = session.phase
            if self._acted:  # what had the focus may be gone or out of use now
                button = self.cancel_button if session.phase.busy else self.run_button
                if session.phase in (Phase.READY, Phase.ASKED):
                    button = self.plan_button
                _focus(self.client, button.html_id, only_lost=True)

    def _show_address(self) -> None:
        """Put the job into the page's address, so that a reload comes back to it."""
        key = self.session.job_id or self.session.key
        if key != self._addressed:
            self._addressed = key
            self._call("address", key)

    def _show_jobs(self) -> None:
        self.jobs.clear()
        with self.jobs:
            if not self.desk.jobs:
                _text("li", "None yet.", "none")
            for job in self.desk.jobs:
                with ui.element("li"), ui.element("a").props(f'href="/?at={job.job_id}"'):
                    _text("span", _JOB_WORDS[job.state], f"state {job.state.value}")
                    _text("span", _wish_of(job), "wished")
                    when = job.created.astimezone().strftime("%d %b, %H:%M")
                    _text("span", f"{job.source_name or 'recording'}, {when}", "facts")

    def _call(self, what: str, value: object) -> None:
        """Tell the page's script something, also where it isn't loaded yet."""
        self.client.run_javascript(f"(window.sdjCalls ||= []).push([{json.dumps(what)}, {_script(value)}])")


class _Row:
    """One step of the plan."""

    def __init__(self, page: Page, step: DraftStep, number: int, count: int) -> None:
        self._page, self._number = page, number
        with ui.element("li").classes("step") as self.item:
            with _tag("div", "line"):
                self.mark = _text("span", str(number), "number").props("aria-hidden=true")
                self.text = (
                    ui.input(value=step.text, on_change=lambda event: page._edit(step.id, event.value or ""))
                    .props(f'outlined dense aria-label="Step {number}"')
                    .classes("text")
                )
            self.fault = _text("p", "", "fault").props("role=alert")
            with _tag("div", "line"):
                self.switch = (
                    ui.switch(value=step.enabled, on_change=lambda _: page._toggle(step.id))
                    .props(f'aria-label="Step {number} is carried out"')
                    .classes("toggle")
                )
                self.note = _text("p", "", "note")
                self.up = _icon("↑", f"Move step {number} up", lambda: page._move(step.id, -1))
                self.down = _icon("↓", f"Move step {number} down", lambda: page._move(step.id, 1))
                self.delete = _icon("×", f"Delete step {number}", lambda: page._delete(step.id))
        self._edge = (number == 1, number == count)

    def show(self, step: DraftStep, can_edit: bool) -> None:
        """Show where the step stands."""
        self.item.classes(replace=f"step {step.state.value}{'' if step.enabled else ' off'}")
        self.mark.set_text("✓" if step.state is StepState.DONE else str(self._number))
        self.fault.set_text(step.fault)
        self.fault.set_visibility(bool(step.fault) and step.enabled)
        self.note.set_text(sentence(step.note) if step.enabled else "Switched off.")
        self.text.set_enabled(can_edit)
        self.switch.set_enabled(can_edit)
        self.up.set_enabled(can_edit and not self._edge[0])
        self.down.set_enabled(can_edit and not self._edge[1])
        self.delete.set_enabled(can_edit)

    def focus(self, what: str) -> None:
        """Bring the focus back after the list was drawn anew; at an edge, to the way back."""
        if what == "switch":
            self.switch.run_method("$el.focus")
            return
        buttons = {"up": self.up, "down": self.down, "delete": self.delete}
        if what == "up" and self._edge[0]:
            what = "down"
        elif what == "down" and self._edge[1]:
            what = "up"
        _focus(self._page.client, buttons[what].html_id)


def _wish_of(job: Job) -> str:
    if job.instruction:
        return job.instruction
    if job.plan is not None and job.plan.instruction:
        return job.plan.instruction
    if job.plan is not None and job.plan.steps:
        more = len(job.plan.steps) - 1
        return str(job.plan.steps[0].step) + (f" and {more} more" if more else "")
    return "a plan"


def _script(value: object) -> str:
    """Return a value as it may stand in a script."""
    return json.dumps(value).replace("<", "\\u003c")


def _focus(client: Client, html_id: str, *, only_lost: bool = False) -> None:
    client.run_javascript(f"window.sdjFocus?.({json.dumps(html_id)}, {str(only_lost).lower()})")


def _tag(name: str, classes: str) -> ui.element:
    return ui.element(name).classes(classes)


def _text(tag: str, text: str, classes: str = "") -> ui.label:
    label = ui.label(text).classes(classes)
    label.tag = tag
    return label


def _section(title: str, name: str) -> ui.element:
    section = ui.element("section").classes(f"part {name}").props(f"aria-labelledby=title-{name}")
    with section:
        _text("h2", title).props(f"id=title-{name}")
    return section


def _button(text: str, act: Callable[..., Any], *, key: str = "", label: str = "") -> ui.button:
    button = ui.button(text, on_click=lambda _: act(), color=None).props("no-caps unelevated :ripple=false")
    if key:
        button.props["data-key"] = key
        button.props["aria-keyshortcuts"] = key
    if label:
        button.props["aria-label"] = label
    return button


def _icon(sign: str, label: str, act: Callable[[], None]) -> ui.button:
    return _button(sign, act, label=label).classes("icon")


def _native(text: str, props: str) -> ui.element:
    with ui.element("button").props(f"type=button {props}").classes("plain-button") as button:
        _text("span", text)
    return button
