"""Wishes that can't be met as they are said: beyond what a step can do, or against each other.

`find_doubt` says what to ask and which ways there are, each of them an instruction that can be given instead. Pure;
`smartdj_agent.direct` asks it once it has read an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smartdj_agent.constraints import Constraint, ConstraintKind
from smartdj_agent.direct_words import DB, SECONDS, duration_s, number
from smartdj_agent.steps import OPERATIONS, Operation, Step, Timbre, format_step


@dataclass(frozen=True)
class Doubt:
    """What has to be asked back.

    Attributes
    ----------
    text
        The question.
    choices
        Instructions that can be met.
    """

    text: str
    choices: tuple[str, ...]


_SHIFTED = re.compile(r"\b(?:earlier|later|sooner|delay|shift|postpone|ahead|forwards?|backwards?)\b")
_NOWHERE = re.compile(
    r"\b(?:(?:right |just |directly |straight |somewhere |circling |flying |spinning |running |orbiting )*"
    r"(?:behind|above|over|below|beneath|under|underneath|around) (?:me|us|(?:my|our) (?:heads?|backs?|feet)|"
    r"the listeners?|the audience)\b|overhead\b)"
)
"""Places that two ears without heights don't have."""
_NOTHING_LEFT = re.compile(
    r"(?:please |can you |could you )*(?:remove|delete|mute|drop|lose|kill|cut|silence|erase|get rid of|take out) "
    r"(?:(?:absolutely )?everything|all of it|it all|all (?:the )?sounds|every sound|"
    r".+ (?:and|plus) (?:everything|all the rest|the rest)(?: else)?)(?: too| as well| please)*[.! ]*"
)
_NAMED = re.compile(r"\b(?:the|my|that|this|a|an|some) ([a-z][a-z' -]*?)[ ,]*$")
_SPARED = re.compile(r"\b(?:just|only|but|except|apart|beyond|besides|other than)\b")
"""What parts "leave the gong alone, just turn it down" from a contradiction."""
_NO_MORE = re.compile(r"\b(?:else|other|others|more|further|beyond|besides|except|apart|but)\b")
"""What parts "add rain and nothing else" from a contradiction."""


def _limit(operation: Operation, name: str) -> float:
    parameter = OPERATIONS[operation].parameter(name)
    assert parameter is not None
    assert parameter.maximum is not None
    return float(parameter.maximum)


def find_doubt(
    text: str,
    steps: Sequence[Step],
    constraints: Sequence[Constraint],
    there: Sequence[str],
    means: Callable[[str], Sequence[str]],
) -> Doubt | None:
    """What can't be met as it is said.

    Parameters
    ----------
    text
        The instruction, in lower case.
    steps
        What was read of it.
    constraints
        What it forbids.
    there
        Sounds of the recording.
    means
        Sounds that a noun names; empty for what names none.

    Returns
    -------
    Doubt or None
        The first found; None where all can be done.
    """
    return (
        _exclusive(steps, constraints)
        or _too_much(text)
        or _too_far(text)
        or _nowhere(text, means)
        or _nothing_left(text, there)
        or _forbidden(text, steps, constraints)
    )


def _too_much(text: str) -> Doubt | None:
    limit = _limit(Operation.VOLUME, "gain_db")
    for match in DB.finditer(text):
        if abs(number(match["num"])) > limit:
            sign = match["num"][0] if match["num"][0] in "+-" else ""
            first, last = match.span("num")
            ways = tuple(f"{text[:first]}{sign}{db:g}{text[last:]}".strip() for db in (limit, limit / 2))
            return Doubt(f"A level can change by {limit:g} dB at most. How much shall it be?", ways)
    return None


def _too_far(text: str) -> Doubt | None:
    limit = _limit(Operation.SHIFT, "shift_s")
    for match in SECONDS.finditer(text):
        clause = re.split(r"[,;.!?]\s", text[: match.start()])[-1] + re.split(r"[,;.!?]", text[match.end() :])[0]
        if abs(duration_s(match)) > limit and _SHIFTED.search(clause):
            first, last = match.start("num"), match.end("unit")
            ways = tuple(f"{text[:first]}{s:g} seconds{text[last:]}".strip() for s in (limit, limit / 2))
            return Doubt(f"A sound can move by {limit:g} seconds at most. How far shall it go?", ways)
    return None


def _nowhere(text: str, means: Callable[[str], Sequence[str]]) -> Doubt | None:
    for match in _NOWHERE.finditer(text):
        named = _NAMED.search(text[: match.start()])
        if named and means(named[1]):
            ways = tuple(f"move the {named[1]} to the {place}" for place in ("left", "front", "right"))
            return Doubt(f"Sounds lie between left, front and right. Where shall the {named[1]} be?", ways)
    return None


def _nothing_left(text: str, there: Sequence[str]) -> Doubt | None:
    if not there or not _NOTHING_LEFT.fullmatch(text.strip()):
        return None
    return Doubt("Then nothing is left. Which sound shall stay?", tuple(f"keep only {name}" for name in there[:3]))


def _exclusive(steps: Sequence[Step], constraints: Sequence[Constraint]) -> Doubt | None:
    """Two wishes on one sound, or one that is to be the only one and another that is to stay."""
    kept = {name for c in constraints if c.kind in (ConstraintKind.KEEP, ConstraintKind.UNTOUCHED) for name in c.labels}
    for place, one in enumerate(steps):
        if one.operation is Operation.REMOVE and one.target in kept:
            choices = (format_step(one), f"turn down the volume of {one.target} by 6 dB")
            return Doubt(f"Shall {one.target} go, or stay?", choices)
        if one.operation is Operation.EXTRACT and (others := sorted(kept - {one.target})):
            choices = (format_step(one), f"keep only {one.target} and {' and '.join(others)}")
            return Doubt(f"Where only {one.target} is kept, {others[0]} goes. Which is meant?", choices)
        for two in steps[place + 1 :]:
            if one.target != two.target or Operation.ADD in (one.operation, two.operation):
                continue
            if None not in (one.azimuth_deg, two.azimuth_deg) and one.azimuth_deg != two.azimuth_deg:
                continue  # the dog on the left and the one on the right
            if Operation.REMOVE in (one.operation, two.operation) or (
                one.operation is two.operation and _opposed(one, two)
            ):
                text = f"Two of these wishes on {one.target} exclude each other. Which one counts?"
                return Doubt(text, (format_step(one), format_step(two)))
    return None


def _forbidden(text: str, steps: Sequence[Step], constraints: Sequence[Constraint]) -> Doubt | None:
    """A step that the same instruction forbids."""
    untouched = {name for c in constraints if c.kind is ConstraintKind.UNTOUCHED for name in c.labels}
    for step in steps:
        if step.operation is not Operation.ADD and step.target in untouched and not _SPARED.search(text):
            return Doubt(
                f"Shall {step.target} change, or be left alone?",
                (format_step(step), f"{_elsewhere(steps, step)}leave {step.target} alone"),
            )
        if (
            step.operation is Operation.ADD
            and any(c.kind is ConstraintKind.NO_ADD for c in constraints)
            and not _NO_MORE.search(re.sub(r"[,;]? but (?=don't|do not|add nothing|nothing|no |without)", " ", text))
        ):
            return Doubt("May a sound be added, or not?", (format_step(step), "change what is there and add nothing"))
    return None


def _elsewhere(steps: Sequence[Step], step: Step) -> str:
    """The other steps, which stay as they were asked for."""
    others = [format_step(other) for other in steps if other.target != step.target]
    return f"{'; '.join(others)}; " if others else ""


def _opposed(one: Step, two: Step) -> bool:
    match one.operation:
        case Operation.VOLUME:
            return (one.gain_db or 0.0) * (two.gain_db or 0.0) < 0
        case Operation.SHIFT:
            return (one.shift_s or 0.0) * (two.shift_s or 0.0) < 0
        case Operation.DIRECTION:
            return one.to_azimuth_deg != two.to_azimuth_deg
        case Operation.TIMBRE:
            colours = {one.timbre, two.timbre}
            return any(colours == pair for pair in _COLOURS)
        case _:
            return False


_COLOURS = (
    {Timbre.BRIGHT, Timbre.DARK},
    {Timbre.WARM, Timbre.COLD},
    {Timbre.BRIGHT, Timbre.MUFFLED},
)
