"""Plans: an ordered list of steps that a person can read, edit, keep and run again.

A plan file is YAML with one canonical step sentence per entry. Reading one trusts nothing: size, nesting and
number of nodes are limited, aliases and repeated keys are refused, every scalar is read as the text it is
written as (no surprise dates or numbers), and every error names the line or the dotted path of the field,
such as ``plan.steps[2].gain_db``, with a hint.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import write_file
from smartdj_agent.steps import Step, format_step, parse_step

PLAN_VERSION = 1
"""Version of the plan file that this program reads and writes."""

MAX_STEPS = 50
"""Most steps in one plan."""

MAX_PLAN_BYTES = 1024 * 1024
"""Largest plan file."""

MAX_TEXT_CHARS = 10_000
"""Longest instruction, file name or other free text in a plan, characters."""

_MAX_NODES = 2000
_MAX_DEPTH = 8
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_HEADER = """\
# SmartDJ plan. Edit it with any text editor, then run it: smartdj apply IN THIS_FILE -o OUT
#   steps    run from top to bottom: reorder, delete, copy or add entries as you like
#   do       one edit in words, for example
#              add the sound of seagulls at the left with 3 dB
#              turn down the volume of engine by 2 dB
#              change the sound of man speaking to 30 degrees right
#            (put the whole text in quotes if it holds a # or a colon)
#   enabled  false skips a step and keeps it in the file
#   id       any short name, each only once; leave it out for a new step
#   source   which recording the plan was made for
"""


@dataclass(frozen=True)
class PlanStep:
    """One entry of a plan.

    Attributes
    ----------
    id
        Short name such as ``s1``, unique in its plan; stays with the step when the plan is reordered.
    step
        What is done.
    enabled
        False skips it.
    """

    id: str
    step: Step
    enabled: bool = True


@dataclass(frozen=True)
class Provenance:
    """Who made a plan and with what.

    Attributes
    ----------
    planner, editor
        Names of the models, empty where unknown or where a person wrote the plan.
    seed
        Seed of the random numbers, or None.
    created
        ISO 8601 date and time, or empty.
    """

    planner: str = ""
    editor: str = ""
    seed: int | None = None
    created: str = ""


@dataclass(frozen=True)
class Plan:
    """An ordered list of steps with where it came from.

    Attributes
    ----------
    steps
        At most `MAX_STEPS`, in order; may be empty.
    instruction
        The person's sentence, or empty.
    source_sha256
        Hash of the recording the plan was made for (64 hexadecimal digits), or empty.
    source_name
        File name of that recording, for people only.
    provenance
        Who made it.

    Raises
    ------
    SmartDJError
        PLAN_INVALID for too many steps, repeated or malformed ids, a malformed hash or unprintable text.
    """

    steps: tuple[PlanStep, ...]
    instruction: str = ""
    source_sha256: str = ""
    source_name: str = ""
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if len(self.steps) > MAX_STEPS:
            _invalid(
                f"the plan has {len(self.steps)} steps; allowed are {MAX_STEPS}",
                "Split it into several plans and run them one after the other.",
                "plan.steps",
            )
        seen: dict[str, int] = {}
        for index, plan_step in enumerate(self.steps):
            path = f"plan.steps[{index}].id"
            if not _ID.fullmatch(plan_step.id):
                _invalid(
                    f"{path} {plan_step.id!r} is not a valid id",
                    "Use 1 to 64 letters, digits, '_', '-' or '.', beginning with a letter or digit.",
                    path,
                )
            if plan_step.id in seen:
                _invalid(
                    f"{path} {plan_step.id!r} is already the id of plan.steps[{seen[plan_step.id]}]",
                    "Give each step its own id, or leave id out to get a new one.",
                    path,
                )
            seen[plan_step.id] = index
        if self.source_sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.source_sha256):
            _invalid(
                "plan.source.sha256 is not a SHA-256 hash",
                "It has 64 digits from 0-9 and a-f; delete the line to use the plan on any recording.",
                "plan.source.sha256",
            )
        for path, text in (
            ("plan.instruction", self.instruction),
            ("plan.source.name", self.source_name),
            ("plan.provenance.planner", self.provenance.planner),
            ("plan.provenance.editor", self.provenance.editor),
            ("plan.provenance.created", self.provenance.created),
        ):
            if len(text) > MAX_TEXT_CHARS:
                _invalid(f"{path} has {len(text)} characters; allowed are {MAX_TEXT_CHARS}", "Shorten it.", path)
            if any(unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\r\t" for char in text):
                _invalid(f"{path} holds control characters", "Use only printable characters.", path)

    def enabled_steps(self) -> tuple[PlanStep, ...]:
        """Return the steps that will run, in order."""
        return tuple(plan_step for plan_step in self.steps if plan_step.enabled)

    def index(self, id: str) -> int:
        """Return the position of a step, counted from 0; PLAN_INVALID where there is no such id."""
        for index, plan_step in enumerate(self.steps):
            if plan_step.id == id:
                return index
        ids = [plan_step.id for plan_step in self.steps]
        _invalid(
            f"the plan has no step {id!r}",
            f"Its steps are {', '.join(ids) or 'none'}.{_suggest(id, ids)}",
            "id",
        )

    def with_step(self, step: Step | str, *, id: str | None = None, position: int | None = None) -> Plan:
        """Return a plan with a step added or replaced.

        Parameters
        ----------
        step
            The step, or its text.
        id
            Replace the content of this step; None adds a new one with a fresh id.
        position
            Where a new step goes, counted from 0; None is the end.
        """
        content = parse_step(step) if isinstance(step, str) else step
        if id is not None:
            index = self.index(id)
            changed = replace(self.steps[index], step=content)
            return replace(self, steps=(*self.steps[:index], changed, *self.steps[index + 1 :]))
        new = PlanStep(_fresh_id({plan_step.id for plan_step in self.steps}), content)
        at = len(self.steps) if position is None else position
        return replace(self, steps=(*self.steps[:at], new, *self.steps[at:]))

    def without(self, id: str) -> Plan:
        """Return a plan that lacks one step."""
        index = self.index(id)
        return replace(self, steps=self.steps[:index] + self.steps[index + 1 :])

    def reordered(self, ids: Sequence[str]) -> Plan:
        """Return a plan with its steps in this order; `ids` must name every step once."""
        if sorted(ids) != sorted(plan_step.id for plan_step in self.steps):
            _invalid(
                f"the new order {', '.join(ids)} does not name every step once",
                f"Name each of {', '.join(plan_step.id for plan_step in self.steps)} once.",
                "ids",
            )
        return replace(self, steps=tuple(self.steps[self.index(id)] for id in ids))

    def toggled(self, id: str) -> Plan:
        """Return a plan in which one step is switched on or off."""
        index = self.index(id)
        changed = replace(self.steps[index], enabled=not self.steps[index].enabled)
        return replace(self, steps=(*self.steps[:index], changed, *self.steps[index + 1 :]))


def make_plan(
    steps: Iterable[Step | str],
    instruction: str = "",
    *,
    source_sha256: str = "",
    source_name: str = "",
    provenance: Provenance | None = None,
) -> Plan:
    """Build a plan with ids ``s1``, ``s2``, … from steps or their texts.

    Raises
    ------
    SmartDJError
        As `parse_step` and `Plan`; `field` is the path in the plan, such as ``plan.steps[0].gain_db``.
    """
    plan_steps = []
    for index, step in enumerate(steps):
        with _at(f"plan.steps[{index}]"):
            plan_steps.append(PlanStep(f"s{index + 1}", parse_step(step) if isinstance(step, str) else step))
    return Plan(tuple(plan_steps), instruction, source_sha256, source_name, provenance or Provenance())


def check_source(plan: Plan, source_sha256: str) -> None:
    """Refuse a plan that was made for another recording.

    Raises
    ------
    SmartDJError
        PLAN_MISMATCH where the plan names a hash and it is not `source_sha256`.
    """
    if plan.source_sha256 and plan.source_sha256 != source_sha256.lower():
        name = f" ({plan.source_name})" if plan.source_name else ""
        raise SmartDJError(
            ErrorCode.PLAN_MISMATCH,
            f"the plan was made for another recording{name}",
            "Use that recording, make a new plan, or delete the plan's sha256 line to use it anyway.",
            "plan.source.sha256",
        )


# --- documents ------------------------------------------------------------


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan as plain values, the content of its file."""
    return {
        "version": PLAN_VERSION,
        "instruction": plan.instruction,
        "source": {"name": plan.source_name, "sha256": plan.source_sha256},
        "steps": [
            {"id": plan_step.id, "do": format_step(plan_step.step), "enabled": plan_step.enabled}
            for plan_step in plan.steps
        ],
        "provenance": {
            "planner": plan.provenance.planner,
            "editor": plan.provenance.editor,
            "seed": plan.provenance.seed,
            "created": plan.provenance.created,
        },
    }


def plan_from_dict(document: Any) -> Plan:
    """Build a plan from plain values: what `plan_to_dict` writes, or a bare list of step texts.

    Raises
    ------
    SmartDJError
        PLAN_VERSION, PLAN_INVALID, STEP_SYNTAX or STEP_RANGE, with the dotted path in `field`.
    """
    if isinstance(document, list):
        document = {"version": PLAN_VERSION, "steps": document}
    if not isinstance(document, dict):
        _invalid(
            "the plan is neither a mapping nor a list of steps",
            f"Write 'version: {PLAN_VERSION}' and 'steps:' with one '- step' per line.",
            "plan",
        )
    _check_version(document)
    _check_keys(document, ("version", "instruction", "source", "steps", "provenance"), "plan")
    source = _mapping(document.get("source"), ("name", "sha256"), "plan.source")
    provenance = _mapping(document.get("provenance"), ("planner", "editor", "seed", "created"), "plan.provenance")
    return Plan(
        _read_steps(document.get("steps")),
        _text(document.get("instruction"), "plan.instruction"),
        _text(source.get("sha256"), "plan.source.sha256").strip().lower(),
        _text(source.get("name"), "plan.source.name"),
        Provenance(
            _text(provenance.get("planner"), "plan.provenance.planner"),
            _text(provenance.get("editor"), "plan.provenance.editor"),
            _whole_number(provenance.get("seed"), "plan.provenance.seed"),
            _text(provenance.get("created"), "plan.provenance.created"),
        ),
    )


def plan_to_yaml(plan: Plan) -> str:
    """Return the plan as YAML for people, with a comment that explains what can be edited."""
    body = yaml.safe_dump(
        plan_to_dict(plan), sort_keys=False, allow_unicode=True, default_flow_style=False, width=10**6
    )
    return _HEADER + body


def plan_from_yaml(text: str) -> Plan:
    """Read a plan from YAML; see `plan_from_dict` for what is accepted and raised."""
    _check_size(len(text.encode("utf-8", "surrogatepass")))
    try:
        node = _Composer(text).get_single_node()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not readable"
        _invalid(
            f"the plan is not valid YAML{where}: {problem}",
            "Indent with spaces, and put a text that holds a colon, # or quote in quotes.",
            "plan",
        )
    if node is None:
        _invalid("the plan is empty", "Write at least one step: - remove the sound of dog barking", "plan")
    return plan_from_dict(_plain(node))


def plan_to_json(plan: Plan) -> str:
    """Return the plan as one JSON object, in the same layout as the YAML."""
    return json.dumps(plan_to_dict(plan), ensure_ascii=False)


def plan_from_json(text: str) -> Plan:
    """Read a plan from JSON; see `plan_from_dict` for what is accepted and raised."""
    _check_size(len(text.encode("utf-8", "surrogatepass")))
    try:
        document = json.loads(text, object_pairs_hook=_unique_pairs)
    except (ValueError, RecursionError) as error:
        detail = f"{error.msg} in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "not readable"
        _invalid(f"the plan is not valid JSON: {detail}", "Check its brackets, commas and quotes.", "plan")
    return plan_from_dict(document)


class _Composer(yaml.SafeLoader):
    """Composes nodes only (no Python objects) and refuses what a plan never needs."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            _invalid(f"line {line} of the plan uses a YAML alias (*)", "Write the value out.", "plan")
        if getattr(event, "tag", None) is not None:
            _invalid(f"line {line} of the plan uses a YAML tag (!)", "Write the value without it.", "plan")
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            _invalid(
                f"the plan holds too many entries (line {line})",
                f"A plan has at most {MAX_STEPS} steps.",
                "plan",
            )
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            _invalid(f"the plan is nested too deeply (line {line})", "Write steps as a simple list.", "plan")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _plain(node: yaml.Node) -> Any:
    """Turn nodes into dicts, lists and texts; an unquoted null or nothing is None."""
    if isinstance(node, yaml.MappingNode):
        pairs = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _invalid(f"line {key.start_mark.line + 1} of the plan has a key that is not a word", _QUOTE, "plan")
            pairs.append((key.value, _plain(value)))
        return _unique_pairs(pairs)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    if node.style is None and node.value in ("", "~", "null"):
        return None
    return str(node.value)


_QUOTE = "A step that holds a colon must stand in quotes as a whole."


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            _invalid(f"the key {key!r} stands twice in one entry of the plan", "Keep one of them.", "plan")
        mapping[key] = value
    return mapping


def _check_version(document: dict[str, Any]) -> None:
    if "version" not in document:
        _invalid("plan.version is missing", f"Write 'version: {PLAN_VERSION}' as the first line.", "plan.version")
    version = document["version"]
    if isinstance(version, bool) or str(version) != str(PLAN_VERSION):
        raise SmartDJError(
            ErrorCode.PLAN_VERSION,
            f"plan.version is {str(version)[:40]!r}; this program reads version {PLAN_VERSION}",
            "Make the plan again, or use the version of SmartDJ that wrote it.",
            "plan.version",
        )


def _check_keys(mapping: Mapping[str, Any], known: tuple[str, ...], path: str) -> None:
    for key in mapping:
        if key not in known:
            shown = str(key)[:60]
            field = f"{path}.{shown}"
            looks_like_step = " " in shown
            _invalid(
                f"{path} has an unknown key {shown!r}",
                f"Known keys: {', '.join(known)}.{_suggest(shown, known)}" + (f" {_QUOTE}" if looks_like_step else ""),
                field,
            )


def _mapping(value: Any, known: tuple[str, ...], path: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        _invalid(f"{path} is not a mapping", f"Write its keys indented below it: {', '.join(known)}.", path)
    _check_keys(value, known, path)
    return value


def _read_steps(value: Any) -> tuple[PlanStep, ...]:
    if not isinstance(value, list):
        _invalid(
            "plan.steps is missing or not a list",
            "Write 'steps:' and below it one '- do: remove the sound of dog barking' per step.",
            "plan.steps",
        )
    if len(value) > MAX_STEPS:
        _invalid(
            f"the plan has {len(value)} steps; allowed are {MAX_STEPS}",
            "Split it into several plans and run them one after the other.",
            "plan.steps",
        )
    entries: list[tuple[str | None, Step, bool]] = []
    for index, entry in enumerate(value):
        path = f"plan.steps[{index}]"
        if isinstance(entry, str):
            entry = {"do": entry}
        if not isinstance(entry, dict):
            _invalid(f"{path} is not a step", "Write it as text, or with the keys id, do and enabled.", path)
        _check_keys(entry, ("id", "do", "enabled"), path)
        if not isinstance(entry.get("do"), str):
            _invalid(f"{path}.do is missing", "Write do: and the step in words.", f"{path}.do")
        with _at(path):
            step = parse_step(entry["do"])
        id = entry.get("id")
        if id is not None and (isinstance(id, bool) or not isinstance(id, str | int)):
            _invalid(f"{path}.id is not a name", "Give a short name such as s1.", f"{path}.id")
        entries.append((None if id is None else str(id), step, _flag(entry.get("enabled", True), f"{path}.enabled")))
    taken = {id for id, _, _ in entries if id is not None}
    steps = []
    for id, step, enabled in entries:
        if id is None:
            id = _fresh_id(taken)
            taken.add(id)
        steps.append(PlanStep(id, step, enabled))
    return tuple(steps)


def _fresh_id(taken: set[str]) -> str:
    """Return the smallest ``s1``, ``s2``, … that is free."""
    return next(f"s{number}" for number in range(1, len(taken) + 2) if f"s{number}" not in taken)


def _text(value: Any, path: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        _invalid(f"{path} is not text", "Write it as text, in quotes if need be.", path)
    return value


def _flag(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if not isinstance(value, str) or value.lower() not in known:
        _invalid(f"{path} is {str(value)[:40]!r}; allowed are true and false", "Write true or false.", path)
    return known[value.lower()]


def _whole_number(value: Any, path: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,20}", str(value)):
        _invalid(f"{path} is not a whole number", "Write a whole number such as 0, or leave it out.", path)
    return int(value)


def _check_size(size: int) -> None:
    if size > MAX_PLAN_BYTES:
        _invalid(
            f"the plan is larger than {MAX_PLAN_BYTES // 1024} KiB",
            "Is this the right file? A plan is short.",
            "plan",
        )


@contextlib.contextmanager
def _at(path: str) -> Iterator[None]:
    """Prefix the field and message of an error with where it happened."""
    try:
        yield
    except SmartDJError as error:
        field = f"{path}.{error.field or 'do'}"
        raise SmartDJError(error.code, f"{path}: {error.message}", error.hint, field) from None


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _invalid(message: str, hint: str, field: str) -> NoReturn:
    raise SmartDJError(ErrorCode.PLAN_INVALID, message, hint, field)


# --- files ------------------------------------------------------------


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan file: JSON where the name ends in ``.json``, otherwise YAML.

    Raises
    ------
    SmartDJError
        PLAN_INVALID where the file is missing, unreadable, too large or not UTF-8; and as `plan_from_dict`.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PLAN_BYTES + 1)
    except FileNotFoundError:
        _invalid(
            f"the plan {path} does not exist",
            "Check the name, or make one: smartdj plan IN … -o PLAN",
            "plan",
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        _invalid(
            f"the plan {path} can't be read: {reason}",
            "Give the name of a plan file that you may read.",
            "plan",
        )
    _check_size(len(data))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        _invalid(f"{path} is not a text file in UTF-8", "Is this the right file? A plan is a text file.", "plan")
    return plan_from_json(text) if path.suffix.lower() == ".json" else plan_from_yaml(text)


def write_plan(path: str | os.PathLike[str], plan: Plan, overwrite: bool = False) -> None:
    """Write a plan file: JSON where the name ends in ``.json``, otherwise YAML.

    The file appears only when it is whole, and an existing one is replaced only if asked.

    Raises
    ------
    SmartDJError
        OUTPUT_EXISTS, OUTPUT_UNWRITABLE or DISK_FULL.
    """
    path = Path(path)
    text = plan_to_json(plan) + "\n" if path.suffix.lower() == ".json" else plan_to_yaml(plan)
    write_file(path, text, overwrite=overwrite)
