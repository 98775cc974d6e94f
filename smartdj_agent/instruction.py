"""The person's sentence, checked once for all doors. Needs nothing but the standard library."""

from __future__ import annotations

import re
import unicodedata

from smartdj_agent.errors import ErrorCode, SmartDJError

MAX_INSTRUCTION_CHARS = 2000
"""Longest instruction, characters; longer texts are surely not meant as one wish."""


def check_instruction(text: str, max_chars: int = MAX_INSTRUCTION_CHARS) -> str:
    """Return the instruction as people type: control codes and half characters become blanks, blanks are folded.

    Parameters
    ----------
    text
        Any text.
    max_chars
        Longest that is taken.

    Raises
    ------
    SmartDJError
        INSTRUCTION_EMPTY or INSTRUCTION_TOO_LONG, with the field ``instruction``.
    """
    plain = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    folded = " ".join(plain.split())
    if not re.search(r"\w", folded):
        raise SmartDJError(
            ErrorCode.INSTRUCTION_EMPTY,
            "the instruction is empty",
            'say what the recording should become, e.g. "make this sound like a rainy morning"',
            field="instruction",
        )
    if len(folded) > max_chars:
        raise SmartDJError(
            ErrorCode.INSTRUCTION_TOO_LONG,
            f"the instruction has {len(folded):,} characters; allowed are {max_chars:,}",
            "say it in a few sentences",
            field="instruction",
        )
    return folded
