"""Other devices' messages as our commands: a YAML file, checked when it is read. Pure besides `read_mapping`.

version: 1
map:
  - from: /1/fader1                  # an address or a pattern
    to: /smartdj/step/set
    args: [1, gain_db, $value]
    output: [-24, 24]                # what 0 and 1 become
  - midi: {channel: 1, controller: 20}
    to: /smartdj/step/set
    args: [2, wet, $value]           # 0 to 127 becomes 0 to 1
    curve: square
  - from: /2/push1                   # fires when pressed, ignores the release
    to: /smartdj/slot/fire
    args: [intro]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_osc.namespace import COMMANDS, CallError, understand
from smartdj_osc.packet import Argument, Message, Midi
from smartdj_osc.patterns import PatternError, matching

MAX_BYTES = 1024 * 1024
"""Largest mapping file."""

_STATUS = {"note": (0x90, 0x80), "controller": (0xB0,), "program": (0xC0,), "bend": (0xE0,)}


class MidiSource(BaseModel):
    """Which MIDI event: in an OSC argument of type ``m``, or as whole numbers channel, number, value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: int | None = Field(None, ge=1, le=16)
    note: int | None = Field(None, ge=0, le=127)
    controller: int | None = Field(None, ge=0, le=127)
    program: int | None = Field(None, ge=0, le=127)
    bend: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.kinds) != 1:
            raise ValueError("give one of note, controller, program and bend")
        return self

    @property
    def kinds(self) -> list[str]:
        """The kinds that are given."""
        return [name for name in ("note", "controller", "program") if getattr(self, name) is not None] + (
            ["bend"] if self.bend else []
        )

    def value(self, arguments: Sequence[Argument]) -> float | None:
        """Return the event's value as it comes (0 to 127; a bend 0 to 16383), or None for another event."""
        kind = self.kinds[0]
        number = None if kind == "bend" else getattr(self, kind)
        if len(arguments) == 1 and isinstance(arguments[0], Midi):
            midi = arguments[0]
            if midi.status & 0xF0 not in _STATUS[kind] or self.channel not in (None, (midi.status & 0x0F) + 1):
                return None
            if kind == "bend":
                return float(midi.data1 + 128 * midi.data2)
            if midi.data1 != number:
                return None
            if kind == "program":
                return 127.0
            return 0.0 if midi.status & 0xF0 == 0x80 else float(midi.data2)
        numbers = [item for item in arguments if isinstance(item, int | float) and not isinstance(item, bool)]
        if len(numbers) != len(arguments):
            return None
        expected = [item for item in (self.channel, number) if item is not None]
        if len(numbers) < len(expected) or [round(item) for item in numbers[: len(expected)]] != expected:
            return None
        rest = numbers[len(expected) :]
        if len(rest) > 1:
            return None
        return float(rest[0]) if rest else 127.0


class Rule(BaseModel):
    """One line of the mapping."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: str | None = Field(None, alias="from", max_length=256)
    midi: MidiSource | None = None
    match: tuple[int | float | str, ...] = ()
    to: str
    args: tuple[int | float | bool | str, ...] = ()
    input: tuple[float, float] | None = None
    output: tuple[float, float] = (0.0, 1.0)
    curve: Literal["linear", "square", "root", "exponential", "s"] = "linear"
    step: float | None = Field(None, gt=0)
    choices: tuple[str, ...] = ()
    when: Literal["press", "release", "change"] | None = None

    @field_validator("source")
    @classmethod
    def _is_address(cls, source: str | None) -> str | None:
        if source is not None:
            if not source.startswith("/"):
                raise ValueError("an address begins with a slash")
            if source.startswith("/smartdj"):
                raise ValueError("our own addresses can't be mapped")
            try:
                matching(source, ())
            except PatternError as failure:
                raise ValueError(str(failure)) from None
        return source

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.source is None and self.midi is None:
            raise ValueError("give from (an address) or midi")
        if self.to not in COMMANDS:
            raise ValueError(f"to: there is no command {self.to!r}; see `smartdj osc namespace`")
        for name in ("input", "output"):
            ends = getattr(self, name)
            if ends is not None and not all(math.isfinite(end) for end in ends):
                raise ValueError(f"{name}: give two numbers")
        if self.input is not None and self.input[0] == self.input[1]:
            raise ValueError("input: the two ends are the same")
        if self.curve == "exponential" and self.output[0] * self.output[1] <= 0:
            raise ValueError("output: an exponential curve needs two ends of the same sign, neither 0")
        for value in self.ends:
            shown = tuple(self._argument(item, value, ("",)) for item in self.args)
            try:
                understand(COMMANDS[self.to], shown)
            except CallError as failure:
                raise ValueError(f"args: {failure}; {failure.hint}") from None
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """What comes in at most: both ends."""
        if self.input is not None:
            return self.input
        if self.midi is None:
            return 0.0, 1.0
        return (0.0, 16383.0) if self.midi.bend else (0.0, 127.0)

    @property
    def fires(self) -> str:
        """When: as told, else at any change where the value is used, else when pressed."""
        used = any(isinstance(item, str) and item.startswith("$") for item in self.args)
        return self.when or ("change" if used else "press")

    def translate(self, message: Message) -> Message | tuple[()] | None:
        """Return our command; () where the message is ours but doesn't fire, None where it isn't ours."""
        arguments = message.arguments
        if self.source is not None and not matching(self.source, (message.address,)):
            return None
        if self.midi is not None:
            value = self.midi.value(arguments)
            if value is None:
                return None
        else:
            if not _same(arguments[: len(self.match)], self.match):
                return None
            rest = arguments[len(self.match) :]
            last = rest[-1] if rest else None
            number = isinstance(last, bool | int | float) and math.isfinite(last)
            value = float(last) if number and isinstance(last, bool | int | float) else self.ends[1]
        if self.fires != "change" and (self._place(value) >= 0.5) != (self.fires == "press"):
            return ()
        return Message(self.to, tuple(self._argument(item, value, arguments) for item in self.args))

    def scaled(self, value: float) -> float:
        """Return what a value becomes; beyond the ends it stays at them."""
        place = self._place(value)
        low, high = self.output
        if self.curve == "exponential":
            result = low * (high / low) ** place
        else:
            bent = {"square": place**2, "root": math.sqrt(place), "s": place**2 * (3 - 2 * place)}
            result = low + (high - low) * bent.get(self.curve, place)
        return round(result / self.step) * self.step if self.step is not None else result

    def _place(self, value: float) -> float:
        low, high = self.ends
        return min(max((value - low) / (high - low), 0.0), 1.0)

    def _argument(self, item: int | float | bool | str, value: float, arguments: Sequence[Argument]) -> Argument:
        if item == "$value":
            if self.choices:
                return self.choices[min(int(self._place(value) * len(self.choices)), len(self.choices) - 1)]
            return self.scaled(value)
        if item == "$text":
            return next((text for text in reversed(arguments) if isinstance(text, str)), "")
        return item


class Mapping(BaseModel):
    """All rules; the first that knows a message takes it, so the order matters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    map: tuple[Rule, ...] = Field(max_length=1000)

    def translate(self, message: Message) -> list[Message] | None:
        """Return our commands for a message; None where no rule knows it."""
        for rule in self.map:
            found = rule.translate(message)
            if found is not None:
                return [found] if isinstance(found, Message) else []
        return None


def read_mapping(path: Path) -> Mapping:
    """Read and check a mapping file.

    Raises
    ------
    SmartDJError
        SERVER_CONFIG, naming the rule and what is wrong with it.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _config(path, f"it is larger than {MAX_BYTES:,} bytes", "split it")
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as failure:
        raise _config(path, failure.strerror or str(failure), "check the path") from failure
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise _config(path, f"it is no valid YAML{where}", "indent with spaces; quote texts with a colon") from failure
    try:
        return Mapping.model_validate(document)
    except ValidationError as failure:
        first = failure.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _config(
            path, f"{where}: {first['msg'].removeprefix('Value error, ')}", "see integrations/osc/README.md"
        ) from None


def _same(given: Sequence[Argument], wanted: Sequence[int | float | str]) -> bool:
    if len(given) != len(wanted):
        return False
    return all(
        (isinstance(one, int | float) and math.isclose(one, other)) if isinstance(other, int | float) else one == other
        for one, other in zip(given, wanted, strict=True)
    )


def _config(path: Path, message: str, hint: str) -> SmartDJError:
    return SmartDJError(ErrorCode.SERVER_CONFIG, f"{path}: {message}", hint, "--mapping")
