"""What language models that read are told: the step language, what was heard, what is asked."""

from __future__ import annotations

from collections.abc import Sequence

from smartdj_agent.models.planner_lm import EventToken
from smartdj_agent.steps import direction_name, prompt_table

MAX_STEPS = 6


def planner_rules() -> str:
    """How to write a plan: the table of operations and what makes a plan good."""
    return "\n".join(
        [
            "You plan how an audio editor changes a recording. You are told what was heard in it and what a person",
            "asks for. Write the steps that get there, one a line, and nothing else.",
            "",
            prompt_table(),
            'The words "the sound of" and "the volume of" may be left out.',
            "",
            "Rules:",
            f"- 1 to {MAX_STEPS} steps, as few as do it. What was not asked for stays as it is.",
            "- What is asked word by word is planned word by word.",
            "- A step on a sound that is there names it exactly as under HEARD, and each sound in one step only.",
            "- add names a sound that is not under HEARD.",
            "- What must be kept, left alone or kept away from a side is not touched, nor put there.",
            "- If the wish contradicts itself, is empty, or can't be met, write a question instead: one line that",
            '  begins with "ask ", then two or three lines that begin with "or ", each a wish that could be meant.',
        ]
    )


def findings_text(events: Sequence[EventToken]) -> str:
    """What was heard, one sound a line with level, direction and time span; measured, as no such model hears it.

    Audio language models hear one channel, and endpoints that read hear none.
    """
    lines = []
    for event in events:
        where = "direction unclear"
        if event.azimuth_deg is not None:
            where = direction_name(event.azimuth_deg)
        lines.append(
            f"- {event.label} ({where}, {event.level_db:.0f} dBFS, {event.start_s:.1f} to {event.end_s:.1f} s, "
            f"{event.confidence:.0%} sure)"
        )
    return "\n".join(lines) or "- nothing clear"


def request_text(events: Sequence[EventToken], instruction: str, written: str = "") -> str:
    """One request: what was heard, what is asked, and the steps that stand already."""
    parts = ["HEARD:", findings_text(events), "ASKED:", instruction.strip()]
    if written:
        parts += ["THESE STEPS STAND, write only what is missing:", written.rstrip("\n")]
    return "\n".join(parts)
