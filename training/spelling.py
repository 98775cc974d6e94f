"""Steps in the words of people: any published spelling, drawn at random, that parses back to the same step.

The spellings are those of the step language's own table, so a new spelling there is heard in training data
too.
"""

from __future__ import annotations

import re

import numpy as np

from smartdj_agent.errors import SmartDJError
from smartdj_agent.steps import DIRECTIONS, OPERATIONS, Form, Step, direction_name, format_step, parse_step

CANONICAL_SHARE = 0.3
PLANNER_SHARE = 0.3
ATTEMPTS = 12
"""Draws before the canonical form is taken; a draw fails where a free spelling would mean something else."""

_GROUP = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]")


def _worded(template: str, rng: np.random.Generator) -> str:
    """Choose among ``(a|b)``, keep or drop ``[word]``, from the inside out."""
    while match := _GROUP.search(template):
        if match[1] is not None:
            choices = match[1].split("|")
            chosen = choices[int(rng.integers(len(choices)))]
        else:
            chosen = match[2] if rng.random() < 0.7 else ""
        template = template[: match.start()] + chosen + template[match.end() :]
    return " ".join(template.split())


def _number(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")


def _value(name: str, step: Step, sign: int, rng: np.random.Generator) -> str:
    """Spell one parameter's value."""
    value = getattr(step, name)
    if name.endswith("azimuth_deg"):
        place = direction_name(value)
        return f"the {place}" if place in DIRECTIONS and rng.random() < 0.5 else place
    if name == "timbre":
        return str(value)
    number = _number(abs(value) if sign else value)
    if name == "gain_db":
        return number + ("dB", " dB", " db", "db")[int(rng.integers(4))]
    if name == "shift_s":
        return number + (" seconds", " seconds", "s", " s")[int(rng.integers(4))]
    return number


def _spell(form: Form, step: Step, rng: np.random.Generator) -> str:
    parts = [_worded(form.head, rng), step.target]
    for clause in form.clauses:
        (name,) = re.findall(r"\{(\w+)\}", clause)
        if getattr(step, name) is not None:
            parts.append(_worded(clause, rng))
    text = " ".join(parts)
    for name in re.findall(r"\{(\w+)\}", text):
        text = text.replace(f"{{{name}}}", _value(name, step, form.sign, rng))
    return text


def _planner_form(step: Step) -> Form | None:
    """The planner's published style, where it differs: "Add the sound of X at left by 3dB"."""
    match step.operation:
        case "add":
            return Form("Add the sound of", ("at {azimuth_deg}", "by {gain_db}"))
        case "volume":
            up = (step.gain_db or 0.0) >= 0
            return Form(f"Turn {'up' if up else 'down'} the sound of", ("by {gain_db}",), 1 if up else -1)
        case "direction":
            return Form("Change the sound of", ("to {to_azimuth_deg}",))
        case "remove":
            return Form("Remove the sound of")
        case _:
            return None


def spelled(step: Step, rng: np.random.Generator) -> str:
    """Write a step in a spelling drawn at random.

    Parameters
    ----------
    step
        Any step.
    rng
        The only source of chance.

    Returns
    -------
    str
        Text for which `parse_step` gives `step`.
    """
    if rng.random() < CANONICAL_SHARE:
        return format_step(step)
    spec = OPERATIONS[step.operation]
    for _ in range(ATTEMPTS):
        planner = _planner_form(step) if rng.random() < PLANNER_SHARE else None
        forms = (*spec.canonical, *spec.spellings)
        text = _spell(planner or forms[int(rng.integers(len(forms)))], step, rng)
        if rng.random() < 0.5:
            text = text[0].upper() + text[1:]
        try:
            if parse_step(text) == step:
                return text
        except SmartDJError:
            continue
    return format_step(step)
