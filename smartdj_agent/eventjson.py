"""Events as JSON lines: what ``smartdj … --json`` writes on standard output.

Every line is one JSON object with an ``event`` key (the event's name in snake case) and the fields of the
event's class in `smartdj_agent.events`, with these differences: audio is described and never embedded, a
plan is written as in a JSON plan file, a step as ``{"id", "enabled", "step"}`` with its canonical text, and
numbers that are not finite become null, so that every line is strict JSON.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from smartdj_agent.errors import SmartDJError

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio
    from smartdj_agent.events import Event
    from smartdj_agent.plan import Plan, PlanStep

SCHEMA_VERSION = 1
"""Raised when a key changes its meaning or disappears; new keys may come at any time."""


def event_to_dict(event: Event) -> dict[str, Any]:
    """Return one event as plain values, ready for JSON.

    Parameters
    ----------
    event
        Any member of `smartdj_agent.events.Event`.

    Returns
    -------
    dict
        ``event`` first, then the event's fields in their declared order.
    """
    return {"event": _snake_case(type(event).__name__), **fields_to_dict(event)}


def fields_to_dict(item: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as plain values, in their declared order."""
    return {name: _plain(getattr(item, name)) for name in item.__dataclass_fields__}


def error_to_dict(error: SmartDJError) -> dict[str, Any]:
    """Return a failure as the last JSON line of a run: code, message, hint, field and the exit status."""
    return {
        "event": "error",
        "code": str(error.code),
        "message": error.message,
        "hint": error.hint,
        "field": error.field,
        "exit_code": error.row.exit_code,
    }


def to_line(record: dict[str, Any]) -> str:
    """Return one JSON line in plain ASCII, without the line break; never holds NaN or Infinity."""
    return json.dumps(_plain(record), allow_nan=False)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _plain(value: Any) -> Any:
    """Turn one field into JSON values; the domain's types are told apart by name: nothing is imported."""
    kind = type(value).__name__
    if value is None or isinstance(value, bool | str | int):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if kind == "Audio":
        return _describe_audio(value)
    if kind == "Plan":
        return _describe_plan(value)
    if kind == "PlanStep":
        return _describe_plan_step(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return fields_to_dict(value)
    if hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item())
    return str(value)


def _describe_audio(audio: Audio) -> dict[str, Any]:
    return {
        "duration_s": audio.duration_s,
        "sample_rate": audio.sample_rate,
        "channels": audio.channels,
        "samples": audio.n_samples,
    }


def _describe_plan(plan: Plan) -> dict[str, Any]:
    from smartdj_agent.plan import plan_to_json

    described: dict[str, Any] = json.loads(plan_to_json(plan))
    return described


def _describe_plan_step(plan_step: PlanStep) -> dict[str, Any]:
    from smartdj_agent.steps import format_step

    return {"id": plan_step.id, "enabled": plan_step.enabled, "step": format_step(plan_step.step)}
