"""Every address that comes in or goes out, declared once: the core, ``/smartdj/help``, OSCQuery and the README read it.

A command's arguments are told by their types. A text in front is the request's id, which comes back with every
answer: ``/smartdj/plan "make it rain"`` and ``/smartdj/plan "pad-3" "make it rain"`` both work. Where a reading without
id fits, it is taken. Controllers send what they have, so a float stands for an int, and 0, 1, T and F for a switch; a
command that starts something also takes the position of a button at its end, fires where it is 1, and ignores 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from smartdj_osc.packet import Argument, Message

MAX_ID_CHARS = 64
"""Longest request id."""


class Kind(StrEnum):
    """What an argument is; the values are OSC's type tags, as OSCQuery shows them."""

    TEXT = "s"
    NAME = "s:name"
    INT = "i"
    NUMBER = "f"
    SWITCH = "T"
    WORD = "s:word"
    VALUE = "?"


@dataclass(frozen=True)
class Parameter:
    """One argument of a command.

    Attributes
    ----------
    name
        As the README and the help show it.
    kind
        What it is; a NAME is a text or a whole number, a VALUE is anything.
    required
        Optional ones follow required ones.
    minimum, maximum
        Of a number, both ends included.
    words
        What a WORD may be.
    """

    name: str
    kind: Kind
    required: bool = True
    minimum: float | None = None
    maximum: float | None = None
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = "|".join(self.words) if self.words else self.name
        tag = "sn" if self.kind is Kind.NAME else self.kind.value[0]
        text = f"{tag}:{shown}"
        return text if self.required else f"[{text}]"


@dataclass(frozen=True)
class Command:
    """An address that we take.

    Attributes
    ----------
    address
        In full.
    parameters
        Besides the id.
    summary
        What it does, one sentence.
    replies
        Addresses of what comes back where it works.
    button
        It starts something, hence the position of a button may stand at the end; so no argument of its own may be a
        number that can be left out.
    """

    address: str
    parameters: tuple[Parameter, ...]
    summary: str
    replies: tuple[str, ...]
    button: bool = False

    @property
    def signature(self) -> str:
        """The arguments for a person, such as ``[s:id] i:step s:field ?:value``."""
        parts = ["[s:id]", *(str(parameter) for parameter in self.parameters)]
        return " ".join([*parts, *(["[f:button]"] if self.button else [])])


@dataclass(frozen=True)
class Reply:
    """An address that we send."""

    address: str
    signature: str
    summary: str


def _text(name: str, required: bool = True) -> Parameter:
    return Parameter(name, Kind.TEXT, required)


_STEP = Parameter("step", Kind.INT, minimum=1, maximum=50)
_SLOT = Parameter("slot", Kind.NAME)
_SEED = Parameter("seed", Kind.INT, False, 0, 2**32 - 1)
_MODE = Parameter("mode", Kind.WORD, False, words=("preserve", "generate"))
_AT = Parameter("at", Kind.WORD, False, words=("now", "beat", "bar"))

_PLAN = ("/smartdj/plan/begin", "/smartdj/plan/step", "/smartdj/plan/end")
_ACK = ("/smartdj/ack",)

COMMANDS: dict[str, Command] = {
    command.address: command
    for command in (
        Command("/smartdj/ping", (), "Say that you are there.", ("/smartdj/pong",)),
        Command(
            "/smartdj/help",
            (_text("address", False),),
            "List all addresses, or explain one; patterns work.",
            ("/smartdj/help/line",),
        ),
        Command("/smartdj/status", (), "Tell the whole shared state.", ("/smartdj/state", "/smartdj/counters")),
        Command(
            "/smartdj/subscribe",
            (
                Parameter("port", Kind.INT, False, 0, 65535),
                Parameter("lease", Kind.INT, False, 1, 3600),
            ),
            "Tell me everything from now on, at this port (0 or none: the one I send from), for a lease of seconds "
            "(60 unless told); send it again before it ends.",
            ("/smartdj/subscribed", "/smartdj/state"),
        ),
        Command("/smartdj/unsubscribe", (), "Tell me no more.", ("/smartdj/unsubscribed",)),
        Command(
            "/smartdj/monitor",
            (Parameter("on", Kind.SWITCH),),
            "Show me all traffic of others, as text; only on the server's machine, while subscribed.",
            ("/smartdj/ack", "/smartdj/traffic"),
        ),
        Command(
            "/smartdj/source/load",
            (_text("path"),),
            "Open a recording below an allowed folder.",
            ("/smartdj/ack", "/smartdj/source"),
        ),
        Command(
            "/smartdj/plan",
            (_text("instruction"), _SEED),
            "Listen to the source and plan what the sentence asks for.",
            (*_ACK, *_PLAN),
        ),
        Command("/smartdj/plan/get", (), "Show the plan.", _PLAN),
        Command("/smartdj/plan/load", (_text("path"),), "Take a plan file below an allowed folder.", (*_ACK, *_PLAN)),
        Command("/smartdj/plan/clear", (), "Start an empty plan.", _PLAN, button=True),
        Command("/smartdj/step/get", (_STEP,), "Show one step.", ("/smartdj/plan/step", "/smartdj/step/field")),
        Command(
            "/smartdj/step/set",
            (_STEP, _text("field"), Parameter("value", Kind.VALUE)),
            "Change one step. Fields: enable, text, target, azimuth_deg, gain_db, to_azimuth_deg, shift_s, "
            "reverb_level, timbre; and for faders pan (−1 to 1), shift_ms, wet (0 to 1).",
            ("/smartdj/plan/step",),
        ),
        Command(
            "/smartdj/step/add",
            (_text("text"), Parameter("before", Kind.INT, False, 1, 50)),
            "Add a step in words, at the end or before another.",
            _PLAN,
        ),
        Command("/smartdj/step/remove", (_STEP,), "Take a step out of the plan.", _PLAN),
        Command(
            "/smartdj/step/move",
            (_STEP, Parameter("to", Kind.INT, minimum=1, maximum=50)),
            "Move a step to another place.",
            _PLAN,
        ),
        Command(
            "/smartdj/run",
            (_MODE,),
            "Carry the plan out, with the plan's seed.",
            (*_ACK, "/smartdj/progress", "/smartdj/step/done", "/smartdj/done"),
            button=True,
        ),
        Command("/smartdj/cancel", (), "Stop what is being computed.", _ACK, button=True),
        Command(
            "/smartdj/slot/define",
            (_SLOT, _text("instruction"), Parameter("from", Kind.TEXT, False)),
            "Say what a slot shall become. From: a path, `source` (the one loaded), `last 8 bars` or `last 10 seconds` "
            "of the input; `plan` as instruction takes the plan as it is now.",
            ("/smartdj/slot/state",),
        ),
        Command("/smartdj/slot/prepare", (_SLOT,), "Compute a slot ahead.", ("/smartdj/slot/state",), button=True),
        Command(
            "/smartdj/slot/fire",
            (_SLOT, _AT),
            "Let a slot sound from the next bar (or beat, or now); one that isn't ready follows as soon as it is.",
            ("/smartdj/slot/fired", "/smartdj/slot/late", "/smartdj/slot/state"),
            button=True,
        ),
        Command("/smartdj/slot/clear", (_SLOT,), "Empty a slot.", ("/smartdj/slot/state",), button=True),
        Command("/smartdj/slot/list", (), "Show all slots.", ("/smartdj/slot/state",)),
        Command(
            "/smartdj/tempo",
            (Parameter("bpm", Kind.NUMBER, False, 20, 400),),
            "Set the tempo, or only ask for it.",
            ("/smartdj/tempo",),
        ),
        Command("/smartdj/tap", (), "Tap the tempo.", ("/smartdj/tempo",), button=True),
        Command(
            "/smartdj/play",
            (_AT, Parameter("what", Kind.WORD, False, words=("result", "source"))),
            "Let the result (or the source) sound, at once unless told.",
            ("/smartdj/playing",),
            button=True,
        ),
        Command("/smartdj/stop", (_AT,), "Fade out.", ("/smartdj/playing",), button=True),
        Command(
            "/smartdj/capture",
            (
                Parameter("amount", Kind.NUMBER, minimum=0.1, maximum=3600),
                Parameter("unit", Kind.WORD, False, words=("bars", "seconds")),
            ),
            "Take the last bars (or seconds) of the input as the source.",
            ("/smartdj/ack", "/smartdj/source"),
        ),
    )
}
"""What we take, by address."""

REPLIES: dict[str, Reply] = {
    reply.address: reply
    for reply in (
        Reply("/smartdj/pong", "s:id s:version s:state", "We are there; state is idle, loading, planning or running."),
        Reply("/smartdj/ack", "s:id", "Understood, and begun."),
        Reply(
            "/smartdj/error",
            "s:id s:CODE s:message s:hint",
            "Didn't work. CODE is a canonical name of gRPC: INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED …",
        ),
        Reply("/smartdj/notice", "s:id s:code s:message s:hint", "Worked, but you should know this."),
        Reply("/smartdj/subscribed", "s:id i:lease", "Subscribed for so many seconds; the state follows."),
        Reply("/smartdj/unsubscribed", "s:id", "No more."),
        Reply("/smartdj/state", "s:state s:source f:seconds i:steps s:result", "What all controllers share."),
        Reply(
            "/smartdj/counters",
            "i:packets i:malformed i:unknown i:dropped i:subscribers",
            "What has come in since the start.",
        ),
        Reply("/smartdj/source", "s:id s:name f:seconds i:sample_rate i:channels", "The recording that is worked on."),
        Reply("/smartdj/heard", "s:id s:sound f:confidence f:level_db f:azimuth_deg", "A sound in it; NaN is unclear."),
        Reply("/smartdj/question", "s:id s:text s:choice …", "The planner must know more; choices are instructions."),
        Reply("/smartdj/plan/begin", "s:id i:steps s:instruction", "A plan follows."),
        Reply(
            "/smartdj/plan/step", "s:id i:step s:operation s:text T/F:enabled", "One step; steps are counted from 1."
        ),
        Reply("/smartdj/plan/end", "s:id", "That was the plan."),
        Reply("/smartdj/step/field", "s:id i:step s:field ?:value", "One value of a step."),
        Reply("/smartdj/progress", "s:id i:step f:fraction", "0 to 1, at most ten a second; step 0 is listening."),
        Reply("/smartdj/step/done", "s:id i:step s:path f:lufs", "The recording after a step, and how loud it is."),
        Reply("/smartdj/done", "s:id s:path", "The result; an empty path where it is only in memory."),
        Reply(
            "/smartdj/slot/state",
            "s:id s:slot s:state s:instruction",
            "empty, preparing, ready, playing, late, failed.",
        ),
        Reply("/smartdj/slot/file", "s:id s:slot s:path", "Where sound output is off: the slot's result as a file."),
        Reply("/smartdj/slot/fired", "s:id s:slot f:seconds", "It sounds in so many seconds."),
        Reply("/smartdj/slot/late", "s:id s:slot s:state", "Not ready: the old sound goes on, this one follows."),
        Reply("/smartdj/tempo", "s:id f:bpm f:beat f:phase", "Tempo, beats since the start, place in the bar."),
        Reply("/smartdj/playing", "s:id s:what f:seconds", "What sounds in so many seconds; nothing is an empty text."),
        Reply("/smartdj/help/line", "s:id s:address s:arguments s:summary", "One address."),
        Reply("/smartdj/traffic", "s:in|out s:peer s:message", "A message of another controller."),
    )
}
"""What we send, by address."""


@dataclass(frozen=True)
class Call:
    """A command with its arguments, understood.

    Attributes
    ----------
    id
        Of the request; empty where none was given.
    values
        By parameter name; optional ones only where given.
    pressed
        False where a button was let go: nothing is done.
    """

    command: Command
    id: str
    values: dict[str, Argument]
    pressed: bool = True


class CallError(ValueError):
    """Arguments that don't fit; `id` is the request's as far as one can tell."""

    def __init__(self, id: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.id = id
        self.hint = hint


def understand(command: Command, arguments: tuple[Argument, ...]) -> Call:
    """Read a command's arguments, without an id or with one, whichever fits.

    Raises
    ------
    CallError
        If neither does.
    """
    plain = _fit(command, arguments)
    if isinstance(plain, Call):
        return plain
    faults = [plain]
    if arguments and isinstance(arguments[0], str):
        id = arguments[0]
        if len(id) > MAX_ID_CHARS:
            faults.append(_Fault(1, f"the id has {len(id)} characters; allowed are {MAX_ID_CHARS}"))
        else:
            named = _fit(command, arguments[1:])
            if isinstance(named, Call):
                return Call(command, id, named.values, named.pressed)
            faults.append(named)
    # The reading that came further is the one that was meant.
    worst = max(faults, key=lambda fault: (fault.at, fault is not plain))
    id = arguments[0] if len(faults) > 1 and worst is not plain and isinstance(arguments[0], str) else ""
    raise CallError(id[:MAX_ID_CHARS], f"{command.address}: {worst.text}", f"give {command.signature}")


@dataclass(frozen=True)
class _Fault:
    at: int
    text: str


def _fit(command: Command, arguments: tuple[Argument, ...]) -> Call | _Fault:
    values: dict[str, Argument] = {}
    at = 0
    fault: str = ""
    for parameter in command.parameters:
        if at == len(arguments):
            if parameter.required:
                return _Fault(at, f"{parameter.name} is missing")
            continue
        try:
            values[parameter.name] = _read(parameter, arguments[at])
            at += 1
        except ValueError as error:
            if parameter.required:
                return _Fault(at, str(error))
            fault = fault or str(error)
    if at == len(arguments):
        return Call(command, "", values)
    last = arguments[at]
    if command.button and at + 1 == len(arguments) and isinstance(last, bool | int | float):
        return Call(command, "", values, pressed=bool(last >= 0.5))
    return _Fault(at, fault or f"{len(arguments) - at} argument{'s' if len(arguments) - at > 1 else ''} too many")


def _read(parameter: Parameter, given: Argument) -> Argument:
    kind = parameter.kind
    if kind is Kind.VALUE:
        return given
    if kind is Kind.NAME:
        if isinstance(given, bool):
            raise ValueError(f"{parameter.name} is a switch; give a name or number")
        name = str(_whole(parameter, given)) if isinstance(given, int | float) else given
        if not isinstance(name, str) or not 0 < len(name) <= MAX_ID_CHARS or not name.isprintable():
            raise ValueError(f"{parameter.name} must be a name of 1 to {MAX_ID_CHARS} characters")
        return name
    if kind is Kind.TEXT:
        if not isinstance(given, str):
            raise ValueError(f"{parameter.name} must be a text")
        return given
    if kind is Kind.WORD:
        if given not in parameter.words:
            raise ValueError(f"{parameter.name} must be one of {', '.join(parameter.words)}")
        return given
    if kind is Kind.SWITCH:
        return switch(given, parameter.name)
    number = _whole(parameter, given) if kind is Kind.INT else _number(parameter, given)
    if (parameter.minimum is not None and number < parameter.minimum) or (
        parameter.maximum is not None and number > parameter.maximum
    ):
        raise ValueError(f"{parameter.name} is {number:g}; allowed is {parameter.minimum:g} to {parameter.maximum:g}")
    return number


def switch(given: Argument, name: str) -> bool:
    """Read a switch: T, F, or a number, on from 0.5.

    Raises
    ------
    ValueError
        For anything else.
    """
    if isinstance(given, bool):
        return given
    if isinstance(given, int | float) and math.isfinite(given):
        return given >= 0.5
    raise ValueError(f"{name} must be 0 or 1")


def _number(parameter: Parameter, given: Argument) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise ValueError(f"{parameter.name} must be a number")
    return float(given)


def _whole(parameter: Parameter, given: Argument) -> int:
    number = _number(parameter, given)
    if abs(number - round(number)) > 1e-4:
        raise ValueError(f"{parameter.name} must be a whole number, not {number:g}")
    return round(number)


def error(id: str, code: str, message: str, hint: str = "") -> Message:
    """Build ``/smartdj/error``, short enough for any datagram."""
    return Message("/smartdj/error", (id, code, clip(message), clip(hint)))


def clip(text: str, max_chars: int = 300) -> str:
    """Cut a text to what a small message holds, on one line and without control characters."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return plain if len(plain) <= max_chars else plain[: max_chars - 1] + "…"


def markdown() -> str:
    """The namespace as two tables, for the README."""
    lines = ["| To us | Arguments | What it does | Comes back |", "| --- | --- | --- | --- |"]
    for command in COMMANDS.values():
        back = ", ".join(f"`{reply.removeprefix('/smartdj')}`" for reply in command.replies)
        lines.append(f"| `{command.address}` | {_cell(command.signature)} | {command.summary} | {back} |")
    lines += ["", "| From us | Arguments | Meaning |", "| --- | --- | --- |"]
    lines += [f"| `{reply.address}` | {_cell(reply.signature)} | {reply.summary} |" for reply in REPLIES.values()]
    return "\n".join(lines) + "\n"


def _cell(signature: str) -> str:
    escaped = signature.replace("|", "\\|")
    return f"`{escaped}`"
