"""What an instruction forbids ("keep the voice", "nothing on the left"): read from its words, checked on a plan.

Pure: names are resolved by a function that the caller brings, so that this module knows no vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from smartdj_agent.steps import Operation, Step


class ConstraintKind(StrEnum):
    """What an instruction can forbid."""

    KEEP = "keep"
    UNTOUCHED = "untouched"
    CLEAR_SIDE = "clear_side"
    NO_ADD_SIDE = "no_add_side"
    NO_ADD = "no_add"
    ONLY_ADD = "only_add"
    EXCLUDE = "exclude"


@dataclass(frozen=True)
class Constraint:
    """A condition that a plan must meet.

    Attributes
    ----------
    kind
        Which condition.
    labels
        Sounds that KEEP, UNTOUCHED and EXCLUDE speak of.
    side
        ``left`` or ``right`` for CLEAR_SIDE and NO_ADD_SIDE.
    """

    kind: ConstraintKind
    labels: tuple[str, ...] = ()
    side: str = ""


@dataclass(frozen=True)
class Located:
    """A sound in the recording: its name, and its direction in degrees (negative is left), None where unknown."""

    label: str
    azimuth_deg: float | None


_NOT = r"(?:don't|do not|dont|never|please don't)"
_THE = r"(?:the |my |his |her |their |all |all the |any )?"
_NOUN = r"(?P<noun>[a-z][a-z' -]*?)"
_SIDE = r"(?P<side>left|right)(?: hand)?(?: side| ear| channel| half)?"
_ON = rf"(?:on|to|at) the {_SIDE}"
_PUT = r"(?:add|put|place)"
_MUST = r"(?:must|should|has to|have to|needs to|need to)"
_STAY = r"(?:stay|stays|remain|remains|survive|survives|be kept|is kept|are kept)"
_FREE = r"(?:empty|clear|free|silent)"
_AS_IS = r"(?:exactly |just )?as (?:it is|they are|is)"
_CHANGE = r"(?:remove|change|touch|alter|edit)"
_ALL = r"(?:anything|a thing|what's there|what is there|what is already there|the rest|any of it)"
_SPARE = r"(?:lose|drop|remove|delete|cut|mute|kill|turn down|lower)"

_PATTERNS: tuple[tuple[ConstraintKind, str], ...] = (
    (ConstraintKind.NO_ADD_SIDE, rf"{_NOT} {_PUT} (?:anything|a thing|new sounds|sounds)(?: new)? {_ON}"),
    (ConstraintKind.NO_ADD_SIDE, rf"{_PUT} nothing(?: new)? {_ON}"),
    (ConstraintKind.NO_ADD_SIDE, rf"(?:no|without) (?:new|added|additional|extra) sounds? {_ON}"),
    (ConstraintKind.CLEAR_SIDE, rf"(?:with |have )?nothing {_ON}"),
    (ConstraintKind.CLEAR_SIDE, rf"(?:keep|leave) the {_SIDE} {_FREE}"),
    (ConstraintKind.CLEAR_SIDE, rf"the {_SIDE} {_MUST} (?:be|stay|remain) {_FREE}"),
    (ConstraintKind.NO_ADD, rf"{_NOT} add (?:anything|any|a thing|new|sounds|more)\b.*"),
    (ConstraintKind.NO_ADD, r"(?:add nothing|nothing new|no new sounds?|no added sounds?|no additions)\b.*"),
    (ConstraintKind.NO_ADD, r"without (?:adding|any new|new)\b.*"),
    (ConstraintKind.NO_ADD, r"(?:only|just)(?: use| with)? (?:what is|what's|the sounds that are) (?:already )?there"),
    (ConstraintKind.NO_ADD, r"(?:use |with )?(?:only|just)(?: use| with)? the existing sounds"),
    (ConstraintKind.ONLY_ADD, rf"{_NOT} {_CHANGE}(?: or {_CHANGE})? {_ALL}"),
    (ConstraintKind.ONLY_ADD, r"(?:only|just) add(?: things| sounds| something| to it)?"),
    (ConstraintKind.ONLY_ADD, rf"(?:leave|keep) (?:everything|all)(?: that's there| that is there| else)? {_AS_IS}"),
    (ConstraintKind.UNTOUCHED, rf"{_NOT} (?:touch|change|alter|edit) {_THE}{_NOUN}"),
    (ConstraintKind.UNTOUCHED, rf"(?:leave|keep) {_THE}{_NOUN} (?:alone|untouched|unchanged|{_AS_IS})"),
    (ConstraintKind.UNTOUCHED, rf"{_THE}{_NOUN} {_MUST} (?:not|never) (?:be )?(?:changed?|altered|touched)"),
    (ConstraintKind.KEEP, rf"(?:keep|preserve|retain|save)(?! only| just| it\b| the (?:left|right)\b) {_THE}{_NOUN}"),
    (ConstraintKind.KEEP, rf"leave {_THE}{_NOUN} in"),
    (ConstraintKind.KEEP, rf"{_NOT} {_SPARE} {_THE}{_NOUN}"),
    (ConstraintKind.KEEP, rf"(?:make sure )?(?:that )?{_THE}{_NOUN} (?:{_MUST} )?{_STAY}"),
    (ConstraintKind.EXCLUDE, rf"(?:i )?{_NOT} (?:want|wish)(?: to hear)? {_THE}{_NOUN}"),
    (ConstraintKind.EXCLUDE, rf"(?:with )?(?:no|without|minus) {_THE}{_NOUN}(?: at all)?"),
    (ConstraintKind.EXCLUDE, rf"there (?:must|should) be no {_NOUN}"),
)
_BEFORE, _AFTER = r"(?:but |and |so |yet )?", r"(?: please| though| in place| there| however)?(?: and (?P<rest>.*))?"
_COMPILED = tuple((kind, re.compile(f"{_BEFORE}{pattern}{_AFTER}")) for kind, pattern in _PATTERNS)

# "and" and "with" may stand inside a name; so they part clauses only where the second begins like a constraint.
_CLAUSES = re.compile(
    r"[,;:.!?]|\s+(?:but|while|though|yet)\s+"
    r"|\s+and\s+(?=keep|leave|don't|do not|never|make sure|nothing|no |without|add nothing)"
    r"|\s+(?=without |with nothing |with no )"
)


def read_constraints(instruction: str, resolve: Callable[[str], Sequence[str]]) -> tuple[Constraint, ...]:
    """Read what an instruction forbids.

    Parameters
    ----------
    instruction
        The person's sentence.
    resolve
        Names of sounds that a noun such as "voice" means; empty for what names no sound, so that "keep it short" is
        no constraint.

    Returns
    -------
    tuple of Constraint
        In the order of the clauses.
    """
    found: list[Constraint] = []
    text = " ".join(instruction.lower().replace("’", "'").split())
    for clause in _CLAUSES.split(text):
        clause = clause.strip(" -–—\"'")
        for kind, pattern in _COMPILED:
            match = pattern.fullmatch(clause)
            if match is None:
                continue
            named = match.groupdict()
            side, noun = named.get("side") or "", (named.get("noun") or "").strip()
            labels = tuple(resolve(noun)) if noun else ()
            if noun and not labels:
                continue
            if noun and (rest := named.get("rest")):  # "keep the dog and the cat"
                labels += tuple(label for label in resolve(re.sub(rf"^{_THE}", "", rest)) if label not in labels)
            constraint = Constraint(kind, labels, side)
            if constraint not in found:
                found.append(constraint)
            break
    return tuple(found)


def on_side(azimuth_deg: float | None, side: str) -> bool:
    """Whether a direction lies on a side; an unknown one does not."""
    return azimuth_deg is not None and (azimuth_deg < 0 if side == "left" else azimuth_deg > 0)


def violations(
    steps: Sequence[Step],
    present: Sequence[Located],
    constraints: Sequence[Constraint],
    key: Callable[[str], str] = str,
) -> list[str]:
    """Say how a plan breaks constraints; an empty list means that it honours them.

    Parameters
    ----------
    steps
        The plan.
    present
        What is in the recording.
    constraints
        Their labels are as `key` gives them.
    key
        Makes two wordings of one sound equal.
    """
    found: list[str] = []
    existing = [(step, key(step.target)) for step in steps if step.operation is not Operation.ADD]
    adds = [(step, key(step.target)) for step in steps if step.operation is Operation.ADD]
    removed = {name for step, name in existing if step.operation is Operation.REMOVE}
    for step, name in existing:
        if step.operation is Operation.EXTRACT:
            removed |= {key(sound.label) for sound in present} - {name}
    moved = {name: step.to_azimuth_deg for step, name in existing if step.operation is Operation.DIRECTION}
    lowered = {name for s, name in existing if s.operation is Operation.VOLUME and (s.gain_db or 0) < 0}
    for constraint in constraints:
        named = set(constraint.labels)
        match constraint.kind:
            case ConstraintKind.KEEP:
                found += [f"{name} was to be kept" for name in sorted(named & (removed | lowered))]
            case ConstraintKind.UNTOUCHED:
                touched = {name for _, name in existing} | removed
                found += [f"{name} was not to be touched" for name in sorted(named & touched)]
            case ConstraintKind.CLEAR_SIDE:
                stay = [(key(s.label), s.azimuth_deg) for s in present if key(s.label) not in removed]
                places = [(name, moved.get(name, azimuth)) for name, azimuth in stay]
                places += [(name, step.azimuth_deg) for step, name in adds]
                found += [f"{n} is on the {constraint.side}" for n, a in places if on_side(a, constraint.side)]
            case ConstraintKind.NO_ADD_SIDE:
                wrong = [name for step, name in adds if on_side(step.azimuth_deg, constraint.side)]
                found += [f"{name} is added on the {constraint.side}" for name in wrong]
            case ConstraintKind.NO_ADD:
                found += [f"{name} is added" for _, name in adds]
            case ConstraintKind.ONLY_ADD:
                found += [f"{name} is changed" for _, name in existing]
            case ConstraintKind.EXCLUDE:
                left = {key(sound.label) for sound in present} - removed
                found += [f"{name} was to be absent" for name in sorted(named & (left | {n for _, n in adds}))]
    return found


@dataclass(frozen=True)
class Leeway:
    """What a plan may do under constraints, as sets for constrained decoding.

    Attributes
    ----------
    changeable
        Sounds that are there and that some step may name.
    keep
        Of these, those that must not be removed or lowered.
    extractable
        Sounds that everything else may be dropped for.
    addable
        Whether anything may be added.
    absent
        Sounds that must not be added.
    closed_sides
        Sides that no sound may move to.
    closed_to_adds
        Sides that no sound may be added on.
    """

    changeable: frozenset[str]
    keep: frozenset[str]
    extractable: frozenset[str]
    addable: bool
    absent: frozenset[str]
    closed_sides: frozenset[str]
    closed_to_adds: frozenset[str]


def leeway(present: Sequence[str], constraints: Sequence[Constraint]) -> Leeway:
    """Turn constraints into what decoding may do with the sounds that are there."""
    by_kind: dict[ConstraintKind, set[str]] = {kind: set() for kind in ConstraintKind}
    sides: dict[ConstraintKind, set[str]] = {kind: set() for kind in ConstraintKind}
    kinds = {constraint.kind for constraint in constraints}
    for constraint in constraints:
        by_kind[constraint.kind] |= set(constraint.labels)
        sides[constraint.kind] |= {constraint.side} - {""}
    untouched, keep = by_kind[ConstraintKind.UNTOUCHED], by_kind[ConstraintKind.KEEP]
    # What must be absent can only be removed, which `repairs` does.
    absent = frozenset(by_kind[ConstraintKind.EXCLUDE])
    changeable = frozenset() if ConstraintKind.ONLY_ADD in kinds else frozenset(present) - untouched - absent
    protected = (untouched | keep) & set(present)
    closed = frozenset(sides[ConstraintKind.CLEAR_SIDE])
    return Leeway(
        changeable=changeable,
        keep=frozenset(keep),
        # Whoever keeps one sound alone drops all others, also those that were to stay.
        extractable=frozenset(name for name in changeable if protected <= {name}),
        addable=ConstraintKind.NO_ADD not in kinds,
        absent=absent,
        closed_sides=closed,
        closed_to_adds=closed | frozenset(sides[ConstraintKind.NO_ADD_SIDE]),
    )


def repairs(steps: Sequence[Step], present: Sequence[Located], constraints: Sequence[Constraint]) -> list[Step]:
    """Return steps that a plan lacks to honour its constraints: what must be absent goes, a side is cleared.

    Parameters
    ----------
    steps
        The plan so far; decoded within `leeway`.
    present
        What is in the recording.
    constraints
        Of the instruction.
    """
    missing: list[Step] = []
    bound = leeway([sound.label for sound in present], constraints)
    may_change = not any(constraint.kind is ConstraintKind.ONLY_ADD for constraint in constraints)
    untouched = {name for item in constraints if item.kind is ConstraintKind.UNTOUCHED for name in item.labels}
    named = {step.target for step in steps if step.operation in (Operation.REMOVE, Operation.DIRECTION)}
    for sound in present:
        if sound.label in named or sound.label in untouched or not may_change:
            continue
        if sound.label in bound.absent:
            if sound.label not in bound.keep:
                missing.append(Step(Operation.REMOVE, sound.label))
        elif any(on_side(sound.azimuth_deg, side) for side in bound.closed_sides):
            open_sides = {"left": -90.0, "right": 90.0}
            goals = [azimuth for side, azimuth in open_sides.items() if side not in bound.closed_sides]
            missing.append(Step(Operation.DIRECTION, sound.label, to_azimuth_deg=goals[0] if goals else 0.0))
    return missing
