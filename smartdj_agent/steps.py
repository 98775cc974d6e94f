"""The step language: eight atomic operations on one sound each, declared once.

`OPERATIONS` is the only place that knows what an operation is called, which parameters it takes, their units
and bounds, and how it may be spelled. The parser, the printer, the planner's prompt and the JSON schema read
it; so do the doors. A new operation is one entry here (and its rendering).

A step is one English sentence. The canonical spelling is that of the released SmartDJ editor, for example
``add the sound of dog barking at the right with 0 dB``; the planner's spelling (``Add dog barking at right by
0dB``), the spelling of the released serialiser (``add moderate reverberation to the sound of man speech``)
and some everyday variants are understood too. See `parse_step` for how a name such as ``man at the door,
knocking`` is told from the parameters that follow it.

Importing this module loads nothing but the standard library.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from numbers import Integral, Real
from typing import Any, NoReturn, cast

from smartdj_agent.errors import ErrorCode, SmartDJError

MAX_LABEL_CHARS = 200
"""Longest name of a sound, characters."""

MAX_STEP_CHARS = 1000
"""Longest text of one step, characters; a name of 200 characters with every one escaped fits."""


class Operation(StrEnum):
    """The eight atomic operations."""

    ADD = "add"
    REMOVE = "remove"
    EXTRACT = "extract"
    VOLUME = "volume"
    DIRECTION = "direction"
    SHIFT = "shift"
    REVERB = "reverb"
    TIMBRE = "timbre"


class Timbre(StrEnum):
    """What the colour of a sound can be changed to."""

    BRIGHT = "bright"
    DARK = "dark"
    WARM = "warm"
    COLD = "cold"
    MUFFLED = "muffled"


DIRECTIONS: dict[str, float] = {
    "left": -90.0,
    "left front": -45.0,
    "front": 0.0,
    "right front": 45.0,
    "right": 90.0,
}
"""The five named directions: azimuth in degrees, negative is left."""

REVERB_WORDS: dict[str, int] = {
    "subtle": 1,
    "slight": 2,
    "light": 3,
    "mild": 3,
    "moderate": 5,
    "medium": 5,
    "strong": 8,
    "heavy": 9,
    "extreme": 10,
}
"""Words for a reverb level; the released serialiser prints words that it never defines; values are ours."""


class Kind(StrEnum):
    """How a parameter's value is spelled; the key of its pattern, reader and writer."""

    AZIMUTH = "azimuth"
    DECIBELS = "decibels"
    SECONDS = "seconds"
    LEVEL = "level"
    TIMBRE = "timbre"


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operation.

    Attributes
    ----------
    name
        The attribute of `Step` that holds it.
    kind
        How its value is spelled.
    unit
        Unit for messages, empty where there is none.
    minimum, maximum
        Allowed range, both ends included; None for a choice.
    resolution
        Grid to which a value is rounded (so that it prints and parses back exactly); None for a choice.
    default
        Value where the step does not say; None means "not said" or, if `required`, that there is no default.
    choices
        Allowed words of a choice, otherwise empty.
    required
        Whether a step without it is an error.
    description
        One phrase for prompts, schemas and help.
    """

    name: str
    kind: Kind
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    resolution: float | None = None
    default: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values in words, for example ``-24 to 24 dB``."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        assert self.minimum is not None
        assert self.maximum is not None
        whole = "a whole number from " if self.resolution == 1.0 else ""
        unit = f" {self.unit}" if self.unit else ""
        return f"{whole}{_number(self.minimum)} to {_number(self.maximum)}{unit}"


@dataclass(frozen=True)
class Form:
    """One way to spell an operation: a head, the sound's name, then clauses.

    In `head` and `clauses`, ``(a|b)`` is either word, ``[word]`` may be left out, and ``{name}`` is the value
    of a parameter.

    Attributes
    ----------
    head
        Words before the name.
    clauses
        Phrases after the name, in the order in which they are printed; read in any order. A clause may be
        left out where its parameter is not required.
    sign
        0: a number's sign is as written; 1 or −1: the words say the sign ("turn down"), and a minus
        contradicts them.
    """

    head: str
    clauses: tuple[str, ...] = ()
    sign: int = 0


@dataclass(frozen=True)
class OperationSpec:
    """Everything there is to know about one operation.

    Attributes
    ----------
    operation
        Which one.
    summary
        What it does, one sentence.
    parameters
        Its parameters besides the target.
    canonical
        The forms that are printed: the first whose sign fits the value.
    spellings
        Further forms that are read.
    examples
        Canonical steps.
    signed
        The parameter whose sign chooses the canonical form; empty where there is but one form.
    """

    operation: Operation
    summary: str
    parameters: tuple[Parameter, ...]
    canonical: tuple[Form, ...]
    spellings: tuple[Form, ...]
    examples: tuple[str, ...]
    signed: str = ""

    @property
    def templates(self) -> tuple[str, ...]:
        """The canonical forms for a person, such as ``remove the sound of NAME [at PLACE]``."""
        return tuple(_template(self, form) for form in self.canonical)

    @property
    def template(self) -> str:
        """The first of `templates`."""
        return self.templates[0]

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of that name, or None."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def _azimuth(name: str, description: str, *, default: float | None = None, required: bool = False) -> Parameter:
    return Parameter(name, Kind.AZIMUTH, description, "degrees", -90.0, 90.0, 0.1, default=default, required=required)


_HEARD_AT = _azimuth("azimuth_deg", "where the sound is heard now; only needed to tell two alike sounds apart")
_AT = "(at|on|from|in) {azimuth_deg}"
_SOUND = "[the] [(sound|sounds) of]"

OPERATIONS: dict[Operation, OperationSpec] = {
    spec.operation: spec
    for spec in (
        OperationSpec(
            Operation.ADD,
            "Put a new sound into the recording.",
            (
                _azimuth("azimuth_deg", "where the new sound is put", default=0.0),
                Parameter(
                    "gain_db",
                    Kind.DECIBELS,
                    "level of the new sound; 0 dB is a peak of half full scale",
                    "dB",
                    -24.0,
                    24.0,
                    0.01,
                    default=0.0,
                ),
            ),
            (Form("add the sound of", ("at {azimuth_deg}", "with {gain_db}")),),
            (Form(f"(add|insert) {_SOUND}", ("(at|on|from|in|to) {azimuth_deg}", "(with|by|at) {gain_db}")),),
            ("add the sound of seagulls squawking at the left with 3 dB",),
        ),
        OperationSpec(
            Operation.REMOVE,
            "Take a sound out of the recording.",
            (_HEARD_AT,),
            (Form("remove the sound of", ("at {azimuth_deg}",)),),
            (Form(f"(remove|delete) {_SOUND}", (_AT,)),),
            ("remove the sound of metal knock", "remove the sound of man speaking at the left"),
        ),
        OperationSpec(
            Operation.EXTRACT,
            "Keep this sound and drop everything else.",
            (_HEARD_AT,),
            (Form("extract the sound of", ("at {azimuth_deg}",)),),
            (Form(f"(extract|isolate|keep only) {_SOUND}", (_AT,)),),
            ("extract the sound of woman screaming and laughing at the right",),
        ),
        OperationSpec(
            Operation.VOLUME,
            "Make a sound louder or quieter.",
            (
                _HEARD_AT,
                Parameter(
                    "gain_db",
                    Kind.DECIBELS,
                    "change of level; 6 dB doubles the amplitude",
                    "dB",
                    -24.0,
                    24.0,
                    0.01,
                    required=True,
                ),
            ),
            (
                Form("turn up the volume of", ("at {azimuth_deg}", "by {gain_db}"), 1),
                Form("turn down the volume of", ("at {azimuth_deg}", "by {gain_db}"), -1),
            ),
            (
                Form("(turn up|increase|raise) [the] [(sound|volume|level) of]", (_AT, "by {gain_db}"), 1),
                Form(
                    "(turn down|decrease|lower|reduce) [the] [(sound|volume|level) of]",
                    (_AT, "by {gain_db}"),
                    -1,
                ),
                Form("turn [the] [(sound|volume) of]", (_AT, "up by {gain_db}"), 1),
                Form("turn [the] [(sound|volume) of]", (_AT, "down by {gain_db}"), -1),
            ),
            ("turn up the volume of wave crash by 4 dB", "turn down the volume of engine rev by 2 dB"),
            signed="gain_db",
        ),
        OperationSpec(
            Operation.DIRECTION,
            "Move a sound to another direction.",
            (_HEARD_AT, _azimuth("to_azimuth_deg", "where the sound goes", required=True)),
            (Form("change the sound of", ("at {azimuth_deg}", "to {to_azimuth_deg}")),),
            (
                Form("(change|move|pan) [the] [(sound|direction|position) of]", (_AT, "to {to_azimuth_deg}")),
                Form("(change|move) the (direction|position) of the sound of", (_AT, "to {to_azimuth_deg}")),
            ),
            ("change the sound of object crumple to the left",),
        ),
        OperationSpec(
            Operation.SHIFT,
            "Move a sound in time.",
            (
                _HEARD_AT,
                Parameter(
                    "shift_s",
                    Kind.SECONDS,
                    "how far; positive is later, negative is earlier",
                    "seconds",
                    -10.0,
                    10.0,
                    0.001,
                    required=True,
                ),
            ),
            (Form("shift the sound of", ("at {azimuth_deg}", "by {shift_s}")),),
            (
                Form(f"shift {_SOUND}", (_AT, "by {shift_s}")),
                Form(f"(shift|move) {_SOUND}", (_AT, "[by] {shift_s} later"), 1),
                Form(f"(shift|move) {_SOUND}", (_AT, "[by] {shift_s} earlier"), -1),
                Form(f"(shift|move) {_SOUND}", (_AT, "later by {shift_s}"), 1),
                Form(f"(shift|move) {_SOUND}", (_AT, "earlier by {shift_s}"), -1),
                Form(f"delay {_SOUND}", (_AT, "by {shift_s}"), 1),
            ),
            (
                "shift the sound of dog barking by 0.5 seconds",
                "shift the sound of door closing by -1.2 seconds",
            ),
        ),
        OperationSpec(
            Operation.REVERB,
            "Put a sound into a room that rings for longer.",
            (
                _HEARD_AT,
                Parameter(
                    "reverb_level",
                    Kind.LEVEL,
                    "1 is a small dry room, 10 a large ringing one",
                    "",
                    1.0,
                    10.0,
                    1.0,
                    default=5.0,
                ),
            ),
            (Form("reverb the sound of", ("at {azimuth_deg}", "with reverb level {reverb_level}")),),
            (
                Form(f"reverb {_SOUND}", (_AT, "(with|at|to) [reverb] level {reverb_level}")),
                Form(
                    "add [a] [level] [{reverb_level}] (reverberation|reverb) to [the] [(sound|sounds) of]",
                    (_AT,),
                ),
            ),
            ("reverb the sound of man speech at the left with reverb level 5",),
        ),
        OperationSpec(
            Operation.TIMBRE,
            "Change the colour of a sound.",
            (
                _HEARD_AT,
                Parameter(
                    "timbre",
                    Kind.TIMBRE,
                    "what the sound becomes",
                    choices=tuple(timbre.value for timbre in Timbre),
                    required=True,
                ),
            ),
            (Form("change the timbre of the sound of", ("at {azimuth_deg}", "to be more {timbre}")),),
            (
                Form("change the timbre of [the] [(sound|sounds) of]", (_AT, "to [be] [more] {timbre}")),
                Form(f"make {_SOUND}", (_AT, "[sound] [more] {timbre}")),
            ),
            ("change the timbre of the sound of a man speaking at the left to be more muffled",),
        ),
    )
}
"""The one table of operations."""


@dataclass(frozen=True)
class Step:
    """One atomic edit of one sound.

    Numbers are rounded to the grid of their parameter (0.1°, 0.01 dB, 1 ms), so that printed text means
    exactly the step. Parameters that the operation does not take must be None; missing ones get the table's
    default.

    Attributes
    ----------
    operation
        What is done.
    target
        Name of the sound, 1 to 200 characters; lower case, single spaces, Unicode NFC. Commas and "and"
        belong to it.
    azimuth_deg
        Where the sound is heard (None: not said), or for `Operation.ADD` where it is put (default 0, front);
        −90 (left) to 90 (right).
    gain_db
        `Operation.ADD` (default 0) and `Operation.VOLUME`; −24 to 24 dB.
    to_azimuth_deg
        `Operation.DIRECTION`: the goal, −90 to 90.
    shift_s
        `Operation.SHIFT`: −10 to 10 seconds, positive is later.
    reverb_level
        `Operation.REVERB`: 1 to 10 (default 5); see `rt60_s`.
    timbre
        `Operation.TIMBRE`.

    Raises
    ------
    SmartDJError
        STEP_RANGE for a number outside its range, STEP_SYNTAX for everything else that does not fit the
        table; `field` names the attribute.
    """

    operation: Operation
    target: str
    azimuth_deg: float | None = None
    gain_db: float | None = None
    to_azimuth_deg: float | None = None
    shift_s: float | None = None
    reverb_level: int | None = None
    timbre: Timbre | None = None

    def __post_init__(self) -> None:
        try:
            operation = Operation(self.operation)
        except ValueError:
            _fail(
                f"operation {self.operation!r} is unknown",
                f"Allowed: {', '.join(Operation)}.{_did_you_mean(str(self.operation), list(Operation))}",
                "operation",
            )
        object.__setattr__(self, "operation", operation)
        object.__setattr__(self, "target", _clean_label(self.target))
        spec = OPERATIONS[operation]
        for name in PARAMETER_NAMES:
            value = getattr(self, name)
            parameter = spec.parameter(name)
            if parameter is None:
                if value is not None:
                    _fail(f"{operation} takes no {name}", f"Leave {name} out; {_takes(spec)}.", name)
                continue
            object.__setattr__(self, name, _clean_value(parameter, value, operation))

    @property
    def spec(self) -> OperationSpec:
        """The table's entry for this step's operation."""
        return OPERATIONS[self.operation]

    def __str__(self) -> str:
        return format_step(self)


PARAMETER_NAMES: tuple[str, ...] = tuple(
    field.name for field in fields(Step) if field.name not in ("operation", "target")
)
"""The attributes of `Step` that are parameters, in their order."""


def rt60_s(reverb_level: int) -> float:
    """Return the reverberation time (RT60) of a reverb level.

    Linear from 0.3 s at level 1 to 1.2 s at level 10, the range of RT60 that the SmartDJ paper simulates; the
    paper names the level (1 to 10) but not its meaning.

    Parameters
    ----------
    reverb_level
        Whole number, 1 to 10.

    Returns
    -------
    float
        Seconds until the reverberation has decayed by 60 dB.

    Raises
    ------
    SmartDJError
        STEP_RANGE outside 1 to 10.
    """
    parameter = OPERATIONS[Operation.REVERB].parameter("reverb_level")
    assert parameter is not None
    level = _clean_value(parameter, reverb_level, Operation.REVERB)
    return round(0.3 + 0.1 * (level - 1), 1)


def direction_name(azimuth_deg: float) -> str:
    """Name a direction: one of `DIRECTIONS` where it fits, otherwise such as ``30 degrees right``.

    Parameters
    ----------
    azimuth_deg
        −90 (left) to 90 (right); rounded to 0.1°.
    """
    azimuth_deg = round(float(azimuth_deg), 1)
    for name, named_deg in DIRECTIONS.items():
        if azimuth_deg == named_deg:
            return name
    unit = "degree" if abs(azimuth_deg) == 1 else "degrees"
    return f"{_number(abs(azimuth_deg))} {unit} {'left' if azimuth_deg < 0 else 'right'}"


# --- values: how each kind is read and written ------------------------------------------------------------

_NUMBER = r"[+\-−–]? ?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)"
_PLACES = {
    **DIRECTIONS,
    "front left": -45.0,
    "front right": 45.0,
    "centre": 0.0,
    "center": 0.0,
}
_NAMED_PLACE = r"(?:the )?(?:(?:left|right)[ -]front|front[ -](?:left|right)|left|right|front|cent(?:re|er))(?: side)?"
_TIMBRE_WORDS = {
    "bright": Timbre.BRIGHT,
    "brighter": Timbre.BRIGHT,
    "dark": Timbre.DARK,
    "darker": Timbre.DARK,
    "warm": Timbre.WARM,
    "warmer": Timbre.WARM,
    "cold": Timbre.COLD,
    "colder": Timbre.COLD,
    "muffled": Timbre.MUFFLED,
}


def _to_float(text: str) -> float:
    return float(text.replace(" ", "").replace(",", ".").replace("−", "-").replace("–", "-"))


def _read_azimuth(text: str, field: str) -> float:
    text = text.lower()
    number = re.search(_NUMBER, text)
    if number is None:
        return _PLACES[text.removeprefix("the ").removesuffix(" side").replace("-", " ")]
    value = _to_float(number.group())
    side = re.search(r"left|right", text)
    if side is not None:
        if number.group()[0] in "-−–":
            _fail(
                f"{field} {text!r} has both a minus and a side",
                "Write either '30 degrees left' or '-30 degrees'.",
                field,
            )
        if side.group() == "left":
            value = -value
    return value


def _read_number(text: str, field: str) -> float:
    number = re.match(_NUMBER, text)
    assert number is not None, field
    return _to_float(number.group())


def _read_seconds(text: str, field: str) -> float:
    scale = 1e-3 if re.search(r"m", text, re.IGNORECASE) else 1.0
    return _read_number(text, field) * scale


def _read_level(text: str, field: str) -> float:
    word = REVERB_WORDS.get(text.lower())
    return float(word) if word is not None else _read_number(text, field)


def _read_timbre(text: str, field: str) -> Timbre:
    return _TIMBRE_WORDS[text.lower()]


def _number(value: float) -> str:
    """Print a number of at most three decimals without trailing zeros."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _write_azimuth(value: Any) -> str:
    name = direction_name(value)
    return f"the {name}" if name in DIRECTIONS else name


def _write_seconds(value: Any) -> str:
    return f"{_number(value)} {'second' if abs(value) == 1 else 'seconds'}"


@dataclass(frozen=True)
class _Value:
    pattern: str
    read: Callable[[str, str], Any]
    write: Callable[[Any], str]
    placeholder: str


_VALUES: dict[Kind, _Value] = {
    Kind.AZIMUTH: _Value(
        rf"{_NAMED_PLACE}"
        rf"|(?:azimuth )?{_NUMBER} ?(?:degrees?|deg|°|º)(?: (?:to )?(?:the )?(?:left|right))?"
        rf"|azimuth {_NUMBER}",
        _read_azimuth,
        _write_azimuth,
        "PLACE",
    ),
    Kind.DECIBELS: _Value(rf"{_NUMBER} ?(?:db|decibels?)", _read_number, lambda v: f"{_number(v)} dB", "NUMBER dB"),
    Kind.SECONDS: _Value(
        rf"{_NUMBER} ?(?:seconds?|secs?|s|milliseconds?|msecs?|ms)",
        _read_seconds,
        _write_seconds,
        "NUMBER seconds",
    ),
    Kind.LEVEL: _Value(rf"{'|'.join(REVERB_WORDS)}|{_NUMBER}", _read_level, lambda v: _number(v), "NUMBER"),
    Kind.TIMBRE: _Value("|".join(_TIMBRE_WORDS), _read_timbre, lambda v: str(v), "|".join(Timbre)),
}


def _clean_label(label: object) -> str:
    """Normalise the name of a sound; idempotent."""
    if not isinstance(label, str):
        _fail(f"target is {type(label).__name__}, not text", "Give the name of the sound as text.", "target")
    # Lower-casing can take a letter apart (İ), hence NFC on both sides.
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", label).lower())
    text = " ".join(text.split())
    if not text:
        _fail("target is empty", "Name the sound, for example: remove the sound of dog barking.", "target")
    if len(text) > MAX_LABEL_CHARS:
        _fail(
            f"target has {len(text)} characters; allowed are 1 to {MAX_LABEL_CHARS}",
            "Name the sound in a few words.",
            "target",
        )
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        _fail("target holds control characters", "Use only printable characters in a sound's name.", "target")
    return text


def _clean_value(parameter: Parameter, value: Any, operation: Operation) -> Any:
    """Check one value by the table and round it to its grid."""
    name = parameter.name
    if value is None:
        value = parameter.default
    if value is None:
        if parameter.required:
            _fail(
                f"{operation} needs {name}: {parameter.allowed}",
                f"Write it like: {OPERATIONS[operation].template}",
                name,
            )
        return None
    if parameter.choices:
        if str(value).lower() not in parameter.choices:
            _fail(
                f"{name} {str(value)!r} is unknown; allowed is {parameter.allowed}",
                f"Choose one of the allowed words.{_did_you_mean(str(value), parameter.choices)}",
                name,
            )
        return Timbre(str(value).lower())
    if isinstance(value, bool) or not isinstance(value, Real):
        _fail(f"{name} is not a number; allowed is {parameter.allowed}", f"Give {parameter.allowed}.", name)
    try:
        number = float(value)
    except OverflowError:  # an int beyond the largest float
        number = math.inf if cast(int, value) > 0 else -math.inf
    assert parameter.minimum is not None
    assert parameter.maximum is not None
    assert parameter.resolution is not None
    rounded = number
    whole = parameter.resolution == 1.0
    if math.isfinite(number) and not whole:
        rounded = round(number, round(-math.log10(parameter.resolution))) + 0.0  # + 0.0 turns −0 into 0
    if not parameter.minimum <= rounded <= parameter.maximum or (whole and not number.is_integer()):
        unit = f" {parameter.unit}" if parameter.unit else ""
        shown = str(value) if isinstance(value, Integral) and abs(number) < 1e9 else f"{number:g}"
        raise SmartDJError(
            ErrorCode.STEP_RANGE,
            f"{name} is {shown}{unit}; allowed is {parameter.allowed}",
            f"Give {parameter.allowed} ({parameter.description}).",
            name,
        )
    return int(rounded) if whole else rounded


# --- the parser ------------------------------------------------------------

_BULLET = re.compile(r"(?:[-*•–—] ?(?=[^\W\d])|\(?[0-9]{1,3}[.):] ?|step [0-9]{1,3} ?[.:)-]? )+", re.IGNORECASE)
_QUOTED = re.compile(r"""(?:"(?P<escaped>(?:[^"\\]|\\.)*)"|“(?P<curly>[^“”]*)”|'(?P<single>[^']*)')(?= |,|$)""")
_UNIT = r"(?:db|decibels?|seconds?|secs?|s|milliseconds?|msecs?|ms|degrees?|deg|°|º|%|percent)"
_MISPLACED = re.compile(
    rf"(?:^| )(?:{_NUMBER} ?{_UNIT}(?: (?:to )?(?:the )?(?:left|right|later|earlier))?"
    rf"|(?:by|at|level) {_NUMBER}"
    rf"|by {_NUMBER} ?[^ ]+"
    rf"|at {_NAMED_PLACE}"
    r"|(?:at|on|from|in|to) (?:the )?(?:back|rear)(?: left| right)?|(?:at|from|to) behind)$",
    re.IGNORECASE,
)


def _pattern(template: str, spec: OperationSpec) -> str:
    """Turn the notation of `Form` into a regular expression over text with single spaces."""
    pattern = template.replace("(", "(?:").replace("[", "(?:").replace("] ", " )?")
    for parameter in spec.parameters:
        value = _VALUES[parameter.kind].pattern
        pattern = pattern.replace(f"{{{parameter.name}}}", f"(?P<{parameter.name}>{value})")
    return pattern


@dataclass(frozen=True)
class _CompiledForm:
    spec: OperationSpec
    form: Form
    head: re.Pattern[str]
    clauses: tuple[tuple[str, re.Pattern[str]], ...]


@cache
def _compiled_forms() -> tuple[_CompiledForm, ...]:
    """Compile the table once, at the first step that is parsed, so that importing stays quick."""
    compiled = []
    for spec in OPERATIONS.values():
        for form in (*spec.canonical, *spec.spellings):
            clauses = []
            for clause in form.clauses:
                name = re.findall(r"\{(\w+)\}", clause)[0]
                clauses.append((name, re.compile(rf"(?:^|,? ){_pattern(clause, spec)}$", re.IGNORECASE)))
            head = re.compile(_pattern(f"{form.head} ", spec), re.IGNORECASE)
            compiled.append(_CompiledForm(spec, form, head, tuple(clauses)))
    return tuple(compiled)


def _take_clauses(text: str, compiled: _CompiledForm, known: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Cut clauses off the end of `text` for as long as one fits; each parameter once."""
    found = dict(known)
    progress = True
    while progress and text:
        progress = False
        for name, pattern in compiled.clauses:
            match = None if name in found else pattern.search(text)
            if match is not None:
                found[name] = match.group(name)
                text = text[: match.start()].rstrip()
                progress = True
    return text, found


def _unquote(text: str) -> tuple[str, str] | None:
    """Split a name in quotes off the front of `text`: (name, what follows), or None."""
    match = _QUOTED.match(text)
    if match is None:
        return None
    escaped = match.group("escaped")
    if escaped is not None:
        label = re.sub(r"\\(.)", r"\1", escaped)
    else:
        label = match.group("curly") if match.group("curly") is not None else match.group("single")
    return label, text[match.end() :].strip()


def parse_step(text: str) -> Step:
    """Read one step in any published spelling.

    Upper and lower case, list bullets and numbers, a closing full stop and spaces before units do not matter;
    a decimal comma and the typographic minus are understood. The parameters are read from the end of the
    sentence, each at most once, and everything between the opening words and them is the sound's name: in
    ``remove the sound of man at the door, knocking at the left`` it is ``man at the door, knocking``. A name
    that itself ends like a parameter must stand in quotes: ``remove the sound of "radio at left"``; inside,
    ``\\"`` is a quote and ``\\\\`` a backslash.

    Parameters
    ----------
    text
        One sentence, at most `MAX_STEP_CHARS` characters.

    Returns
    -------
    Step

    Raises
    ------
    SmartDJError
        STEP_SYNTAX where the text is no step (the hint shows the closest template), STEP_RANGE where a value
        is out of range; `field` names the parameter.
    """
    if not isinstance(text, str):
        _fail(f"a step is text, not {type(text).__name__}", f"Write it like: {_closest('')}")
    if len(text) > MAX_STEP_CHARS:
        _fail(
            f"the step has {len(text)} characters; allowed are {MAX_STEP_CHARS}",
            "One step is one short sentence; put each step on its own.",
        )
    sentence = " ".join(text.split())
    bullet = _BULLET.match(sentence)
    if bullet is not None:
        sentence = sentence[bullet.end() :]
    sentence = sentence.rstrip(" .;")
    if not sentence:
        _fail("the step is empty", f"Write it like: {_closest('')}")

    heads = [(compiled, compiled.head.match(sentence + " ")) for compiled in _compiled_forms()]
    longest = max((match.end() for _, match in heads if match), default=0)
    if not longest:
        _fail(f"{_shorten(sentence)!r} is not a step", f"Write it like: {_closest(sentence)}")
    # The longest opening decides, so that "change the timbre of …" is never read as a change of direction.
    candidates = [(compiled, match) for compiled, match in heads if match and match.end() == longest]

    rest = sentence[longest:].strip()
    quoted = _unquote(rest)
    readings: list[_Reading] = []
    for compiled, match in candidates:
        in_head = {name: value for name, value in match.groupdict().items() if value is not None}
        if quoted is not None:
            left_over, found = _take_clauses(quoted[1], compiled, in_head)
            if not left_over:
                readings.append(_Reading(compiled, quoted[0], found, is_quoted=True))
        readings.append(_Reading(compiled, *_take_clauses(rest, compiled, in_head)))
    # Readings that lack nothing win; among them quotes around the whole name, then the most values.
    best = min(readings, key=lambda r: (bool(r.missing), not r.is_quoted, -len(r.found), len(r.label)))
    if not best.is_quoted:
        _check_plain_label(best, sentence)
    if best.missing:
        parameter = best.missing[0]
        _fail(
            f"{_shorten(sentence)!r} does not say {parameter.name}: {parameter.allowed}",
            f"Write it like: {best.template}",
            parameter.name,
        )
    return _build(best)


@dataclass(frozen=True)
class _Reading:
    """One way to understand a sentence: name and values, still as text."""

    compiled: _CompiledForm
    label: str
    found: Mapping[str, str]
    is_quoted: bool = False

    @property
    def missing(self) -> list[Parameter]:
        return [p for p in self.compiled.spec.parameters if p.required and p.name not in self.found]

    @property
    def template(self) -> str:
        """The canonical template of the same sign."""
        spec, sign = self.compiled.spec, self.compiled.form.sign
        return _template(spec, next((form for form in spec.canonical if form.sign == sign), spec.canonical[0]))


def _check_plain_label(reading: _Reading, sentence: str) -> None:
    """Refuse a name without quotes whose end is most likely a mistyped or misplaced parameter."""
    if not reading.label:
        _fail(f"{_shorten(sentence)!r} names no sound", f"Write it like: {reading.template}", "target")
    match = _MISPLACED.search(reading.label)
    if match is not None:
        _fail(
            f"{match.group().strip()!r} in {_shorten(sentence)!r} is not understood",
            f"Write it like: {reading.template}; {_takes(reading.compiled.spec)}. "
            'If it is part of the sound\'s name, put the name in quotes: "radio at left".',
            reading.missing[0].name if reading.missing else _misplaced_field(match.group()),
        )


def _misplaced_field(clause: str) -> str:
    clause = clause.lower()
    if re.search(r"db|decibel|%|percent", clause):
        return "gain_db"
    if "level" in clause:
        return "reverb_level"
    if re.search(r"left|right|front|cent|back|rear|behind|deg|°|º", clause):
        return "azimuth_deg"
    if re.search(r"[0-9] ?m?s", clause):
        return "shift_s"
    return "target"


def _build(reading: _Reading) -> Step:
    spec, sign = reading.compiled.spec, reading.compiled.form.sign
    values: dict[str, Any] = {}
    for name, text in reading.found.items():
        parameter = spec.parameter(name)
        assert parameter is not None
        value = _VALUES[parameter.kind].read(text, name)
        if sign and parameter.kind in (Kind.DECIBELS, Kind.SECONDS):
            if value < 0:
                _fail(
                    f"{name} {text!r} contradicts the words around it",
                    "Drop the minus, or say the opposite (up or down, later or earlier).",
                    name,
                )
            value *= sign
        values[name] = value
    return Step(spec.operation, reading.label, **values)


# --- the printer ------------------------------------------------------------


def _print(step: Step, label: str) -> str:
    spec = step.spec
    value = getattr(step, spec.signed) if spec.signed else 0.0
    form = next(form for form in spec.canonical if form.sign == 0 or form.sign * value >= 0)
    words = [form.head, label]
    for clause in form.clauses:
        name = re.findall(r"\{(\w+)\}", clause)[0]
        parameter = spec.parameter(name)
        assert parameter is not None
        value = getattr(step, name)
        if value is None:
            continue
        if form.sign and name == spec.signed:
            value = abs(value)
        words.append(clause.replace(f"{{{name}}}", _VALUES[parameter.kind].write(value)))
    return " ".join(words)


def format_step(step: Step) -> str:
    """Print a step canonically; ``parse_step(format_step(step)) == step`` for every step.

    The name stands in quotes only where it would be misread without them, which is decided by reading it.
    """
    plain = _print(step, step.target)
    try:
        if parse_step(plain) == step:
            return plain
    except SmartDJError:
        pass
    escaped = step.target.replace("\\", "\\\\").replace('"', '\\"')
    return _print(step, f'"{escaped}"')


# --- what others read from the table ------------------------------------------------------------


def _template(spec: OperationSpec, form: Form) -> str:
    words = [form.head, "NAME"]
    for clause in form.clauses:
        name = re.findall(r"\{(\w+)\}", clause)[0]
        parameter = spec.parameter(name)
        assert parameter is not None
        phrase = clause.replace(f"{{{name}}}", _VALUES[parameter.kind].placeholder)
        optional = not parameter.required and parameter.default is None
        words.append(f"[{phrase}]" if optional else phrase)
    return " ".join(words)


def prompt_table() -> str:
    """Describe the step language for a language model: templates, what they do, allowed values, examples."""
    lines = ["Operations (NAME is the sound's name in a few words; [] may be left out):"]
    for spec in OPERATIONS.values():
        lines.append(f"- {spec.operation}: {spec.summary}")
        lines += [f"    {template}" for template in spec.templates]
        for parameter in spec.parameters:
            if parameter.kind is not Kind.AZIMUTH:
                lines.append(f"    {parameter.name}: {parameter.allowed}; {parameter.description}")
        lines.append(f"    example: {spec.examples[0]}")
    places = ", ".join(f"the {name}" for name in DIRECTIONS)
    lines.append(f"PLACE is one of: {places}; or an angle such as 30 degrees left (0 to 90).")
    return "\n".join(lines)


def _parameter_schema(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": parameter.description}
    if parameter.choices:
        schema |= {"type": "string", "enum": list(parameter.choices)}
        return schema
    assert parameter.minimum is not None
    assert parameter.maximum is not None
    if parameter.resolution == 1.0:
        schema |= {"type": "integer", "minimum": int(parameter.minimum), "maximum": int(parameter.maximum)}
        if parameter.default is not None:
            schema["default"] = int(parameter.default)
    else:
        schema |= {"type": "number", "minimum": parameter.minimum, "maximum": parameter.maximum}
        if parameter.default is not None:
            schema["default"] = parameter.default
    return schema


def step_json_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of what `step_to_dict` writes: one object per operation."""
    variants = []
    for spec in OPERATIONS.values():
        properties: dict[str, Any] = {
            "operation": {"const": spec.operation.value, "description": spec.summary},
            "target": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_LABEL_CHARS,
                "description": "the sound's name in a few words",
            },
        }
        properties |= {parameter.name: _parameter_schema(parameter) for parameter in spec.parameters}
        variants.append(
            {
                "type": "object",
                "title": spec.operation.value,
                "properties": properties,
                "required": ["operation", "target"] + [p.name for p in spec.parameters if p.required],
                "additionalProperties": False,
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "SmartDJ step",
        "oneOf": variants,
    }


def step_to_dict(step: Step) -> dict[str, Any]:
    """Return a step as plain JSON values; parameters that are not said are left out."""
    values: dict[str, Any] = {"operation": step.operation.value, "target": step.target}
    for name in PARAMETER_NAMES:
        value = getattr(step, name)
        if value is not None:
            values[name] = value.value if isinstance(value, Timbre) else value
    return values


def step_from_dict(values: Mapping[str, Any]) -> Step:
    """Build a step from what `step_to_dict` writes.

    Raises
    ------
    SmartDJError
        STEP_SYNTAX for unknown or missing keys, and whatever `Step` raises.
    """
    if not isinstance(values, Mapping):
        _fail(f"a step is an object, not {type(values).__name__}", "Give at least operation and target.")
    allowed = ("operation", "target", *PARAMETER_NAMES)
    for key in values:
        if key not in allowed:
            _fail(
                f"{key!r} is not part of a step",
                f"Allowed: {', '.join(allowed)}.{_did_you_mean(str(key), allowed)}",
                str(key),
            )
    for key in ("operation", "target"):
        if key not in values:
            _fail(f"the step has no {key}", f"Add {key!r}.", key)
    return Step(**values)


# --- messages ------------------------------------------------------------


def _fail(message: str, hint: str, field: str = "") -> NoReturn:
    raise SmartDJError(ErrorCode.STEP_SYNTAX, message, hint, field)


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _did_you_mean(word: str, known: list[Operation] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word.lower(), [str(name) for name in known], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _takes(spec: OperationSpec) -> str:
    names = [f"{p.name} ({p.allowed})" for p in spec.parameters]
    return f"{spec.operation} takes {' and '.join(names)}"


def _closest(sentence: str) -> str:
    """Return the template closest to a sentence that is no step; where none is close, how steps begin."""
    lowered = sentence.lower()
    scored = []
    for spec in OPERATIONS.values():
        for form, template in zip(spec.canonical, spec.templates, strict=True):
            words = difflib.SequenceMatcher(None, lowered[: len(form.head)], form.head).ratio()
            verb = difflib.SequenceMatcher(None, lowered.split(" ")[0], form.head.split(" ")[0]).ratio()
            scored.append((words + verb, template))
    scored.sort(key=lambda item: -item[0])
    best = scored[0][0]
    if best < 1.0:
        heads = [form.head for spec in OPERATIONS.values() for form in spec.canonical]
        example = OPERATIONS[Operation.REMOVE].template
        return f"{example}. A step begins with {', '.join(heads[:-1])} or {heads[-1]}"
    return " or: ".join(template for score, template in scored[:2] if score > 0.85 * best)
