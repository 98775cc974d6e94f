"""``python -m tests.record_reaper_session`` writes ``docs/reaper-session.md``: the right-click path, call by call.

With ``--check`` it only compares. The calls are those that the scripts made to the fake REAPER; what changes from run
to run (pointers, GUIDs, folders, how often the helper was looked at) is written in words.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile

from tests import reaper_helper
from tests.fake_reaper import FakeReaper

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "reaper-session.md"
SCRIPTS = ROOT / "integrations" / "reaper"
RATE = 8000
POLLING = ("RPR_defer", "RPR_Help_Set", "RPR_GetExtState", "RPR_SetExtState")
LONGEST = 100

HEAD = """\
# The right-click path, call by call

Recorded in the fake REAPER of the tests (`tests/fake_reaper.py`), not in a real one, with the real helper process and
the tests' quick agent in place of the networks. `python -m tests.record_reaper_session` writes this page; a test
compares it.

The person selects one item of one second that begins 1.5 s into `walk.wav`, chooses *SmartDJ: edit…*, types “make it a
harbour, at night”, switches the second step off, and presses OK. Results of calls stand behind `→`.

```text
"""
TAIL = """\
```

After it, the project holds one undo point more. The original take and its file are as they were.
"""


def record(folder: Path) -> str:
    """Play the session and return the page."""
    reaper = FakeReaper(folder)
    program = reaper_helper.install(folder, slow_s=0.05)
    reaper.ext["SmartDJ", "helper"] = str(program)
    path = Path(reaper.front.media) / "walk.wav"
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (4 * RATE, 2))
    soundfile.write(path, noise, RATE, subtype="PCM_24")
    reaper.add_item(path, length_s=1.0, name="walk", D_STARTOFFS=1.5)
    reaper.answers = [
        ["make it a harbour, at night"],
        lambda values: [values[0], "- " + values[1], *values[2:]],
    ]
    with mock.patch("secrets.token_hex", return_value="3f9a2c"):
        reaper.run_script(SCRIPTS / "smartdj_edit_items.py")
    while reaper.tick():
        time.sleep(0.02)
    return HEAD + "\n".join(_lines(reaper, folder)) + "\n" + TAIL


def _lines(reaper: FakeReaper, folder: Path) -> list[str]:
    words = _Words(folder)
    lines: list[str] = []
    polling = False
    for name, arguments, result in reaper.calls:
        own_setting = name == "RPR_GetExtState" and arguments[1] not in ("busy", "cancel")
        telling = name == "RPR_SetExtState" and arguments[1] == "instruction"
        if name in POLLING and not own_setting and not telling:
            if not polling:
                lines.append("    … REAPER goes on; now and then: is there news from the helper? Show how far it is.")
            polling = True
            continue
        polling = False
        shown = ", ".join(words.of(argument) for argument in arguments)
        outcome = "" if result is None else f" → {words.of(result)}"
        lines.append(f"{name}({shown}){outcome}")
    return lines


class _Words:
    """Names for what differs from run to run."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.names: dict[str, str] = {}

    def of(self, value: Any) -> str:
        if isinstance(value, tuple):
            return "(" + ", ".join(self.of(item) for item in value) + ")"
        if not isinstance(value, str):
            return repr(value)
        pointer = re.fullmatch(r"\((\w+)\*\)0x([0-9A-F]+)", value)
        if pointer is not None:
            return "NULL " + pointer[1] if int(pointer[2], 16) == 0 else self.name(pointer[1], value)
        text = value.replace(self.folder, "~")
        text = re.sub(r"\{[0-9A-F-]{36}\}", lambda match: self.name("GUID", match[0]), text)
        text = re.sub(r"\b[0-9a-f]{64}\b", "SHA-256", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "NOW", text)
        return repr(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")

    def name(self, kind: str, value: str) -> str:
        if value not in self.names:
            number = sum(name.startswith(f"<{kind} ") for name in self.names.values()) + 1
            self.names[value] = f"<{kind} {number}>"
        return self.names[value]


def main(argv: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="smartdj-session-") as folder:
        page = record(Path(folder))
    if "--check" in argv:
        same = DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == page
        print("as recorded" if same else f"{DOCUMENT} is not what happens now", file=sys.stderr)
        return 0 if same else 1
    DOCUMENT.write_text(page, encoding="utf-8")
    print(f"wrote {DOCUMENT}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(SCRIPTS))
    sys.exit(main(sys.argv[1:]))
