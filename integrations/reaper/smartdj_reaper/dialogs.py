"""Asking: for the instruction, for a decision on plans, and showing progress.

Two sets with the same methods. `PlainDialogs` uses REAPER's own boxes, which wait for the person; `ImGuiDialogs` draws
a window with ReaImGui, where that extension is installed, and never waits. What both return has a method ``frame`` that
is called about 30 times a second and returns None as long as there is no answer, `CANCEL`, or the answer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .api import Reaper

MAX_FIELDS = 16
OFF_MARK = "-"
CANCEL = object()


class Field(NamedTuple):
    """One line to fill in."""

    caption: str
    default: str = ""


class PlanItem(NamedTuple):
    """A plan to decide on: ``steps`` are dictionaries with id, do and enabled; ``remark`` is shown with them."""

    id: str
    name: str
    steps: list[dict[str, Any]]
    remark: str = ""


# GetUserInputs: pure -----------------------------------------------------------------------------------------


def plain_request(fields: list[Field], width: int = 420) -> tuple[str, str]:
    """Return captions and defaults for ``GetUserInputs``, with a line feed between values so that commas survive."""
    captions = [field.caption.replace(",", ";") for field in fields]
    request = ",".join([*captions, "extrawidth=%d" % width, "separator=\n"])
    return request, "\n".join(plain_default(field.default) for field in fields)


def plain_default(text: str) -> str:
    """Return a default on one line that REAPER takes as it is: an unbalanced quote or parenthesis makes it ignore the
    separator of all values, so such signs are replaced by others that look alike.
    """
    text = " ".join(text.split())
    text = text.replace('"', "”").replace("'", "’").replace("`", "‘")
    return text if _balanced(text) else text.replace("(", "❨").replace(")", "❩")


def plain_answer(answer: str, fields: list[Field]) -> list[str]:
    """Return the values of an answer, one per field; a value that wasn't changed is the default itself."""
    values = answer.split("\n")
    values += [""] * (len(fields) - len(values))
    return [_restored(value, field.default) for value, field in zip(values, fields)]


def _restored(value: str, default: str) -> str:
    value = value.strip()
    if value == plain_default(default):
        return default
    for shown, meant in (("”", '"'), ("’", "'"), ("‘", "`"), ("❨", "("), ("❩", ")")):
        if meant in default and shown not in default:
            value = value.replace(shown, meant)
    return value


def _balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return False
    return depth == 0


def pages(steps: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the steps as pages of a dialog; the last page has room for a new step."""
    size = MAX_FIELDS - 1
    return [steps[start : start + size] for start in range(0, len(steps), size)] or [[]]


def step_fields(page: list[dict[str, Any]], first: int, *, last_page: bool) -> list[Field]:
    """Return the lines for a page of steps."""
    fields = [
        Field("Step %d" % number, step["do"] if step.get("enabled", True) else "{} {}".format(OFF_MARK, step["do"]))
        for number, step in enumerate(page, start=first)
    ]
    return [*fields, Field("Add a step")] if last_page else fields


def steps_from(values: list[str], page: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps that the lines of a page stand for: empty ones are left out, those with a hyphen are off."""
    steps = []
    for number, value in enumerate(values):
        text = value.strip()
        off = text.startswith(OFF_MARK)
        text = text.lstrip(OFF_MARK + " ") if off else text
        if text:
            step: dict[str, Any] = {"do": text, "enabled": not off}
            if number < len(page) and page[number].get("id"):
                step["id"] = page[number]["id"]
            steps.append(step)
    return steps


# REAPER's own boxes ------------------------------------------------------------------------------------------


class Answered:
    """A dialog that asks when it is first called."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask

    def frame(self) -> Any:
        """Ask, and return the answer."""
        return self._ask()


class PlainDialogs:
    """Dialogs of REAPER itself; they need no extension."""

    def __init__(self, reaper: Reaper) -> None:
        self.reaper = reaper
        self._shown = ""

    def prompt(self, title: str, fields: list[Field], remark: str = "") -> Answered:
        """Ask for values; the answer is a list of texts."""
        return Answered(lambda: self._ask(title, fields))

    def review(self, items: list[PlanItem]) -> Answered:
        """Ask for decisions; the answer is the ``items`` of ``plan.json``."""
        return Answered(lambda: self._review(items))

    def progress(self, text: str, fraction: float) -> bool:
        """Show how far it is; whether the person has cancelled here (never: the action, run again, asks that)."""
        if text != self._shown:
            self._shown = text
            self.reaper.status(text)
        return False

    def close(self) -> None:
        """Nothing is open."""

    def _ask(self, title: str, fields: list[Field]) -> Any:
        captions, defaults = plain_request(fields)
        answer = self.reaper.ask(title, len(fields), captions, defaults)
        return CANCEL if answer is None else plain_answer(answer, fields)

    def _review(self, items: list[PlanItem]) -> Any:
        decisions: dict[str, Any] = {}
        for number, item in enumerate(items, start=1):
            if item.remark:
                self.reaper.message(f"{item.name}: {item.remark}", "SmartDJ: plan")
            which = " (%d of %d)" % (number, len(items)) if len(items) > 1 else ""
            title = f"SmartDJ: plan for {item.name}{which}. Empty: leave out; “{OFF_MARK}” in front: off"
            steps: list[dict[str, Any]] = []
            all_pages = pages(item.steps)
            for index, page in enumerate(all_pages):
                fields = step_fields(page, index * (MAX_FIELDS - 1) + 1, last_page=index == len(all_pages) - 1)
                values = self._ask(title, fields)
                if values is CANCEL:
                    return CANCEL
                steps += steps_from(values, page)
            decisions[item.id] = {"steps": steps} if any(step["enabled"] for step in steps) else {"skip": True}
        return decisions


# ReaImGui ----------------------------------------------------------------------------------------------------


def find_imgui(reaper: Reaper) -> Any:
    """Return ReaImGui's module, or None where the extension isn't installed."""
    if not reaper.has("ImGui_CreateContext"):
        return None
    folder = reaper.resource_path() + "/Scripts/ReaTeam Extensions/API"
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        import imgui  # type: ignore[import-not-found]
    except Exception:  # another version's file may fail in any way; REAPER's own boxes always work
        return None
    return imgui if hasattr(imgui, "CreateContext") and hasattr(imgui, "Begin") else None


class ImGuiDialogs:
    """One window that shows what is asked or how far it is."""

    def __init__(self, imgui: Any) -> None:
        self.imgui = imgui
        self.context = imgui.CreateContext("SmartDJ")

    def prompt(self, title: str, fields: list[Field], remark: str = "") -> ImGuiPrompt:
        """Ask for values; the answer is a list of texts."""
        return ImGuiPrompt(self, title, fields, remark)

    def review(self, items: list[PlanItem]) -> ImGuiReview:
        """Ask for decisions; the answer is the ``items`` of ``plan.json``."""
        return ImGuiReview(self, items)

    def progress(self, text: str, fraction: float) -> bool:
        """Show how far it is; whether the person has cancelled."""
        cancelled = False

        def draw() -> None:
            nonlocal cancelled
            self.imgui.TextWrapped(self.context, text)
            self.imgui.ProgressBar(self.context, max(0.0, min(1.0, fraction)))
            cancelled = bool(self.imgui.Button(self.context, "Cancel"))

        return not self.window(draw) or cancelled

    def window(self, draw: Callable[[], None]) -> bool:
        """Draw one frame; False when the window was closed or Escape was pressed."""
        im, context = self.imgui, self.context
        im.SetNextWindowSize(context, 560, 320, im.Cond_FirstUseEver())
        visible, is_open = im.Begin(context, "SmartDJ", True)
        escaped = False
        if visible:
            try:
                draw()
                escaped = bool(im.IsWindowFocused(context)) and bool(im.IsKeyPressed(context, im.Key_Escape()))
            finally:
                im.End(context)
        return bool(is_open) and not escaped

    def entered(self) -> bool:
        """Whether Enter was pressed in this window."""
        im, context = self.imgui, self.context
        return bool(im.IsWindowFocused(context)) and bool(im.IsKeyPressed(context, im.Key_Enter()))

    def close(self) -> None:
        """Let the window go; ReaImGui frees a context that is no longer drawn."""
        self.context = None


class ImGuiPrompt:
    """Lines to fill in."""

    def __init__(self, dialogs: ImGuiDialogs, title: str, fields: list[Field], remark: str) -> None:
        self.dialogs, self.title, self.fields, self.remark = dialogs, title, fields, remark
        self.values = [field.default for field in fields]

    def frame(self) -> Any:
        """Draw; return the values when Run or Enter was pressed."""
        im, context = self.dialogs.imgui, self.dialogs.context
        pressed = {"run": False, "cancel": False}

        def draw() -> None:
            im.TextWrapped(context, self.title)
            if self.remark:
                im.TextWrapped(context, self.remark)
            for number, field in enumerate(self.fields):
                self.values[number] = im.InputText(context, field.caption, self.values[number])[1]
            pressed["run"] = bool(im.Button(context, "Run")) or self.dialogs.entered()
            im.SameLine(context)
            pressed["cancel"] = bool(im.Button(context, "Cancel"))

        is_open = self.dialogs.window(draw)
        if not is_open or pressed["cancel"]:
            return CANCEL
        return self.values if pressed["run"] else None


class ImGuiReview:
    """Plans to edit: steps are switched, changed, moved, left out and added."""

    def __init__(self, dialogs: ImGuiDialogs, items: list[PlanItem]) -> None:
        self.dialogs = dialogs
        self.items = [item._replace(steps=[dict(step) for step in item.steps]) for item in items]

    def frame(self) -> Any:
        """Draw; return the decisions when Run or Enter was pressed."""
        im, context = self.dialogs.imgui, self.dialogs.context
        pressed = {"run": False, "cancel": False}

        def draw() -> None:
            for item in self.items:
                self._draw_item(item)
            pressed["run"] = bool(im.Button(context, "Run")) or self.dialogs.entered()
            im.SameLine(context)
            pressed["cancel"] = bool(im.Button(context, "Cancel"))

        is_open = self.dialogs.window(draw)
        if not is_open or pressed["cancel"]:
            return CANCEL
        return self._decisions() if pressed["run"] else None

    def _draw_item(self, item: PlanItem) -> None:
        im, context = self.dialogs.imgui, self.dialogs.context
        im.TextWrapped(context, item.name)
        if item.remark:
            im.TextWrapped(context, item.remark)
        change: tuple[str, int] | None = None
        for number, step in enumerate(item.steps):
            key = "##%s-%d" % (item.id, number)
            step["enabled"] = bool(im.Checkbox(context, key + "-on", bool(step.get("enabled", True)))[1])
            im.SameLine(context)
            step["do"] = im.InputText(context, key + "-do", step["do"])[1]
            for name in ("up", "down", "x"):
                im.SameLine(context)
                if im.Button(context, name + key):
                    change = name, number
        if im.Button(context, f"Add a step##{item.id}"):
            item.steps.append({"do": "", "enabled": True})
        if change is not None:
            move_step(item.steps, *change)

    def _decisions(self) -> dict[str, Any]:
        decisions: dict[str, Any] = {}
        for item in self.items:
            steps = [{**step, "do": step["do"].strip()} for step in item.steps if step["do"].strip()]
            decisions[item.id] = {"steps": steps} if any(step["enabled"] for step in steps) else {"skip": True}
        return decisions


def move_step(steps: list[dict[str, Any]], how: str, number: int) -> None:
    """Move a step ``up`` or ``down``, or take it out (``x``)."""
    if how == "x":
        del steps[number]
        return
    other = number - 1 if how == "up" else number + 1
    if 0 <= other < len(steps):
        steps[number], steps[other] = steps[other], steps[number]
