"""A person looks at the plan before it is carried out: accept, edit, drop, switch off, reorder or cancel.

The conversation is separated from the terminal: what asks, shows and edits is handed in, so that the whole
of it can be tested and other doors can hold it elsewhere.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.plan import Plan, check_source, plan_from_yaml, plan_to_yaml

HELP = (
    "a accept · e edit as text · d N drop step N · t N switch step N on or off · "
    "m N P move step N to place P · u undo · c cancel"
)
ATTEMPTS = 10
"""Unusable answers in a row that end the conversation, so that it can never loop forever."""

_ERROR_MARK = "#! "


@dataclass(frozen=True)
class Talk:
    """How to reach the person.

    Attributes
    ----------
    ask
        Shows a prompt and returns the answer; raises EOFError when the person is gone.
    say
        Shows one line.
    show
        Shows a plan.
    edit
        Lets the person change a text and returns it; raises `SmartDJError` where no editor can be started.
    """

    ask: Callable[[str], str]
    say: Callable[[str], None]
    show: Callable[[Plan], None]
    edit: Callable[[str], str]


def review(plan: Plan, talk: Talk) -> Plan:
    """Let a person decide on a plan.

    Parameters
    ----------
    plan
        The plan to begin with.
    talk
        The way to the person.

    Returns
    -------
    Plan
        What was accepted: at least one enabled step, for the same recording.

    Raises
    ------
    SmartDJError
        CANCELLED when the person cancels or goes away.
    """
    history: list[Plan] = []
    useless = 0
    talk.show(plan)
    while useless < ATTEMPTS:
        try:
            answer = talk.ask("[a]ccept, [e]dit, [d]rop N, [t]oggle N, [m]ove N P, [u]ndo, [c]ancel, ? help: ")
        except EOFError:
            break
        word, *values = answer.strip().lower().split() or [""]
        try:
            if word in ("a", "accept", "y", "yes"):
                if any(step.enabled for step in plan.steps):
                    return plan
                raise _wrong("every step is dropped or off", "switch one on (t N), undo (u) or cancel (c)")
            if word in ("c", "cancel", "q", "quit", "n", "no"):
                break
            changed = _changed(plan, word, values, history, talk)
        except SmartDJError as error:
            useless += 1
            talk.say(f"{error.message}. {error.hint}".strip())
            continue
        useless = 0
        if changed is not plan:
            if word not in ("u", "undo"):
                history.append(plan)
            plan = changed
            talk.show(plan)
    raise SmartDJError(ErrorCode.CANCELLED, "cancelled; nothing was written")


def _changed(plan: Plan, word: str, values: list[str], history: list[Plan], talk: Talk) -> Plan:
    """Carry out one answer; returns the same object where nothing changed."""
    if word in ("e", "edit"):
        return _edited(plan, talk)
    if word in ("d", "drop"):
        return plan.without(_step_id(plan, values[:1]))
    if word in ("t", "toggle"):
        return plan.toggled(_step_id(plan, values[:1]))
    if word in ("m", "move"):
        moved = _step_id(plan, values[:1])
        place = _position(plan, values[1:])
        ids = [step.id for step in plan.steps if step.id != moved]
        ids.insert(place, moved)
        return plan.reordered(ids)
    if word in ("u", "undo"):
        if not history:
            raise _wrong("nothing to undo", HELP)
        return history.pop()
    if word in ("?", "h", "help"):
        talk.say(HELP)
        return plan
    raise _wrong(f"not understood: {word!r}" if word else "no answer", HELP)


def _edited(plan: Plan, talk: Talk) -> Plan:
    """Let the person edit the plan as YAML until it is valid or they give up; their text is kept."""
    text = plan_to_yaml(plan)
    while True:
        returned = _without_marks(talk.edit(text))
        if returned == _without_marks(text) and text.startswith(_ERROR_MARK):
            talk.say("the text is unchanged and still invalid; the plan stays as it was")
            return plan
        try:
            edited = plan_from_yaml(returned)
            check_source(edited, plan.source_sha256)
            return edited
        except SmartDJError as error:
            talk.say(f"{error.message}. {error.hint}".strip())
            try:
                again = talk.ask("[e]dit again or [k]eep the plan as it was: ")
            except EOFError:
                return plan
            if again.strip().lower() not in ("e", "edit", "y", "yes", ""):
                return plan
            text = f"{_ERROR_MARK}{error.message}\n{_ERROR_MARK}{error.hint}\n{returned}"


def _without_marks(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_ERROR_MARK))


def _step_id(plan: Plan, values: list[str]) -> str:
    return plan.steps[_position(plan, values)].id


def _position(plan: Plan, values: list[str]) -> int:
    try:
        (value,) = values
        position = int(value)
    except ValueError:
        raise _wrong("a step's number is missing", HELP) from None
    if not 1 <= position <= len(plan.steps):
        raise _wrong(f"there is no step {position}", f"give a number from 1 to {len(plan.steps)}")
    return position - 1


def _wrong(message: str, hint: str) -> SmartDJError:
    return SmartDJError(ErrorCode.USAGE, message, hint)


def open_editor(text: str) -> str:
    """Open the person's editor on a text and return what they saved.

    The editor is $VISUAL, then $EDITOR, then the first of nano, vim, vi and notepad that is installed.

    Raises
    ------
    SmartDJError
        USAGE where no editor can be started or it fails.
    """
    hint = "set $EDITOR to an editor that waits until the file is closed, such as nano or 'code --wait'"
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if named:
        command = shlex.split(named)
    else:
        found = next((name for name in ("nano", "vim", "vi", "notepad") if shutil.which(name)), None)
        if found is None:
            raise SmartDJError(ErrorCode.USAGE, "no editor was found", hint)
        command = [found]
    with tempfile.TemporaryDirectory(prefix="smartdj-") as folder:
        file = Path(folder) / "plan.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            status = subprocess.run([*command, str(file)], check=False).returncode
            if status != 0:
                raise SmartDJError(ErrorCode.USAGE, f"the editor {command[0]} ended with status {status}", hint)
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SmartDJError(ErrorCode.USAGE, f"the editor {command[0]} could not be used: {error}", hint) from error
