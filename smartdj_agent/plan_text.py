"""The planner's own writing: one step a line, as short as the step language allows, or a question with choices.

    remove metal knock
    add seagulls squawking at the left with 3 dB
    turn down motorboat running by 2 dB

or

    ask Should it be silent or loud?
    or make it almost silent
    or make it very loud
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from smartdj_agent.errors import SmartDJError
from smartdj_agent.steps import Step, format_step, parse_step

ASK = "ask "
OR = "or "


@lru_cache(maxsize=1 << 15)
def short_step(step: Step) -> str:
    """The step without "the sound of", where that reads back as the same step; else its canonical text."""
    canonical = format_step(step)
    short = canonical.replace("the volume of ", "", 1).replace("the sound of ", "", 1)
    try:
        return short if parse_step(short) == step else canonical
    except SmartDJError:
        return canonical


def plan_text(steps: Sequence[Step], question: str = "", choices: Sequence[str] = ()) -> str:
    """Write a plan, or a question; lines end with a line feed."""
    lines = [ASK + question, *(OR + choice for choice in choices)] if question else [short_step(s) for s in steps]
    return "".join(f"{line}\n" for line in lines)


def read_plan_text(text: str) -> tuple[tuple[Step, ...], str, tuple[str, ...]]:
    """Read what `plan_text` wrote: steps, question, choices.

    Raises
    ------
    SmartDJError
        If a line is no step.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines and lines[0].startswith(ASK):
        choices = tuple(line.removeprefix(OR) for line in lines[1:] if line.startswith(OR))
        return (), lines[0].removeprefix(ASK), choices
    return tuple(parse_step(line) for line in lines), "", ()
