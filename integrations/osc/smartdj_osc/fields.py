"""One value of a step, as faders and text fields send it. Pure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.plan import PlanStep
from smartdj_agent.steps import PARAMETER_NAMES, Operation, Step, parse_step
from smartdj_osc.namespace import switch
from smartdj_osc.packet import Argument

_WHOLE = frozenset({"reverb_level"})


def field_names(step: Step) -> tuple[str, ...]:
    """What can be set of a step, besides `enable`, `text` and `target`."""
    return tuple(parameter.name for parameter in step.spec.parameters)


def set_field(plan_step: PlanStep, field: str, value: Argument) -> PlanStep:
    """Return the step with one value changed.

    Parameters
    ----------
    plan_step
        The step as it is.
    field
        ``enable``, ``text``, ``target``, a parameter of the operation, or a fader's ``pan`` (−1 left to 1 right),
        ``shift_ms`` or ``wet`` (0 to 1).
    value
        As it came in.

    Raises
    ------
    SmartDJError
        STEP_RANGE, STEP_SYNTAX; USAGE for a value of the wrong type.
    """
    step = plan_step.step
    if field in ("enable", "enabled"):
        try:
            return replace(plan_step, enabled=switch(value, "enable"))
        except ValueError as error:
            raise _usage(str(error), "send 0 or 1") from None
    if field == "text":
        return replace(plan_step, step=parse_step(_text(field, value)))
    if field == "target":
        return replace(plan_step, step=replace(step, target=_text(field, value)))
    if field == "timbre":
        return replace(plan_step, step=_changed(step, field, _text(field, value)))
    number = _number(field, value)
    if field == "pan":
        field = "to_azimuth_deg" if step.operation is Operation.DIRECTION else "azimuth_deg"
        number *= 90
    elif field == "shift_ms":
        field, number = "shift_s", number / 1000
    elif field == "wet":
        field, number = "reverb_level", 1 + 9 * number
    if field not in PARAMETER_NAMES:
        known = ", ".join(("enable", "text", "target", *field_names(step)))
        raise _usage(f"there is no field {field!r}", f"this step has {known}")
    return replace(plan_step, step=_changed(step, field, round(number) if field in _WHOLE else number))


def _changed(step: Step, name: str, value: object) -> Step:
    values: dict[str, Any] = {name: value}
    return replace(step, **values)


def _text(field: str, value: Argument) -> str:
    if not isinstance(value, str):
        raise _usage(f"{field} must be a text", "send it as a string")
    return value


def _number(field: str, value: Argument) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _usage(f"{field} must be a number", "send it as a float or int")
    return float(value)


def _usage(message: str, hint: str) -> SmartDJError:
    return SmartDJError(ErrorCode.USAGE, message, hint, "value")
