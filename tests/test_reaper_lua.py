"""The Lua launcher under Debian's Lua, in a fake REAPER of Lua, with the real helper process."""

from __future__ import annotations

import base64
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from smartdj_agent.plan import plan_from_dict
from tests import reaper_helper
from tests.test_reaper_scripts import NAMES, PLANNED, takes

ROOT = Path(__file__).resolve().parents[1]
LAUNCHER = ROOT / "integrations" / "reaper" / "smartdj_edit_items.lua"
LUA = shutil.which("lua5.4")
RATE = 8000

pytestmark = pytest.mark.skipif(LUA is None, reason="lua5.4 isn't installed: apt-get install lua5.4")


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.media, self.resource = folder / "Media", folder / "REAPER"
        self.media.mkdir()
        self.resource.mkdir()
        self.helper = reaper_helper.install(folder)
        self.items: list[dict[str, Any]] = []
        self.ext: dict[str, str] = {"helper": str(self.helper)}
        self.facts: list[list[str]] = []

    def recording(self, name: str = "walk", seconds: float = 1.0) -> dict[str, Any]:
        path = self.media / f"{name}.wav"
        rng = np.random.default_rng(1)
        soundfile.write(path, rng.uniform(-0.5, 0.5, (round(seconds * RATE), 2)), RATE)
        return {"kind": "WAVE", "path": str(path), "rate": RATE, "length": float(seconds)}

    def add(self, source: dict[str, Any], name: str = "walk", length_s: float = 1.0, **more: Any) -> None:
        values = {key: float(value) for key, value in more.pop("values", {}).items()}
        take = {"P_NAME": name, "source": source, "values": values, **more.pop("take", {})}
        self.items.append({"takes": [take], "D_LENGTH": length_s, **more})

    def run(self, *answers: Any, on_tick: str = "") -> None:
        stage = {
            "media": str(self.media), "resource": str(self.resource), "ext": self.ext, "items": self.items,
            "answers": list(answers),
        }  # fmt: skip
        text = f"local stage = {lua(stage)}\n{on_tick and f'stage.on_tick = {on_tick}'}\nreturn stage\n"
        (self.folder / "stage.lua").write_text(text, encoding="utf-8")
        assert LUA is not None
        done = subprocess.run(
            [LUA, str(ROOT / "tests" / "fake_reaper.lua"), str(LAUNCHER), str(self.folder / "stage.lua")],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        self.facts = [line.split("\t") for line in done.stdout.splitlines()]

    def of(self, kind: str) -> list[list[str]]:
        return [fact[1:] for fact in self.facts if fact[0] == kind]

    @property
    def made(self) -> list[str]:
        return sorted(path.name for path in self.media.glob("*smartdj*"))


def lua(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{lua(key)}] = {lua(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(lua(item) for item in value) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + "".join(f"\\{byte:03d}" for byte in value.encode()) + "'"
    return repr(value)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_plan_is_edited_and_becomes_takes(stage: Stage) -> None:
    stage.add(stage.recording("long", 4.0), "walk", values={"D_STARTOFFS": 1.5, "D_VOL": 0.5})
    wish = 'rain, wind; I\'m (almost "there" 雨 🎧'
    stage.run([wish], [PLANNED[0], "- " + PLANNED[1], PLANNED[2], "remove the sound of rain"])
    assert not stage.of("box"), stage.of("box")
    assert not stage.of("console"), stage.of("console")
    made = stage.of("take")
    assert [take[0] for take in made] == [
        "walk", "SmartDJ 1/3 remove: dog barking", "SmartDJ 2/3 add: seagulls (left)", "SmartDJ 3/3 remove: rain",
    ]  # fmt: skip
    assert stage.of("item") == [["{ITEM-1}", "4", "true"]]
    assert stage.of("undo") == [[f"SmartDJ: {wish}"]]
    note = takes.read_note(made[3][2])
    assert note is not None
    assert made[3][2].isascii()
    assert note["plan"]["instruction"] == wish
    assert len(plan_from_dict(note["plan"]).enabled_steps()) == 3
    assert (note["source"]["start_frame"], note["source"]["frames"]) == (12000, 8000)
    assert note["source"]["take"] == "{TAKE-1-1}"
    assert made[1][3] == "0.25 remove: dog barking"
    result, source = (soundfile.read(made[3][1])[0], soundfile.read(stage.media / "long.wav")[0][12000:20000])
    np.testing.assert_array_equal(result[:2000], source[:2000])
    assert any("cpu" in text and "× real time" in text for (text,) in stage.of("help"))
    assert int(stage.of("ticks")[0][0]) > 5


def test_several_items_render_first_and_refusals(stage: Stage) -> None:
    plain = stage.recording("plain")
    rendered = stage.recording("back render 001")
    section = {"kind": "SECTION", "parent": plain, "offset": 0.0, "length": 1.0, "reverse": True}
    stage.add(section, "back", rendered=rendered)
    stage.add({"kind": "MIDI", "length": 1.0}, "beat")
    stage.add(plain, "shut", C_LOCK=1.0)
    stage.add(plain, "fx", take={"effects": 2})
    stage.run(["a harbour"], "accept")
    names = [take[0] for take in stage.of("take")]
    assert names == ["back", *NAMES, "beat", "shut", "fx"]
    assert [undo[0] for undo in stage.of("undo")] == ["SmartDJ: a harbour"]
    ((_, text),) = stage.of("box")
    for words in ("“beat” is MIDI", "“shut” is locked", "“fx” could not be rendered"):
        assert words in text
    assert [item[2] for item in stage.of("item")] == ["true"] * 4


def test_cancelling_the_plan_leaves_nothing(stage: Stage) -> None:
    stage.add(stage.recording())
    stage.run(["a harbour"])
    assert stage.of("help")[-1] == ["SmartDJ: cancelled, nothing was changed"]
    assert not stage.of("undo")
    assert not stage.made


def test_quitting_reaper_stops_the_helper(stage: Stage) -> None:
    reaper_helper.install(stage.folder, slow_s=0.2)
    stage.add(stage.recording())
    stage.run(
        ["a harbour"],
        "accept",
        on_tick='function(r) if r.GetExtState("", "busy"):find("%%") then return "quit" end end',
    )
    log = stage.folder / "agent.log"
    by = time.monotonic() + 30
    while "closed" not in log.read_text() and time.monotonic() < by:
        time.sleep(0.05)
    assert log.read_text().endswith("closed\n")
    assert not stage.of("undo")


def test_a_step_that_is_no_step_is_asked_for_again(stage: Stage) -> None:
    stage.add(stage.recording())
    stage.run(["a harbour"], ["frobnicate", "", "", ""], [PLANNED[0], "", ""])
    assert "frobnicate" in stage.of("box")[0][1]
    assert [take[0] for take in stage.of("take")] == ["walk", "SmartDJ 1/1 remove: dog barking"]


def test_a_deleted_item_is_skipped(stage: Stage) -> None:
    reaper_helper.install(stage.folder, slow_s=0.05)
    stage.add(stage.recording("a"), "a")
    stage.add(stage.recording("b"), "b")
    computing = 'r.GetExtState("", "busy"):find("%%")'
    delete = f"function(r, items) if #items == 2 and {computing} then table.remove(items, 1) end end"
    stage.run(["a harbour"], "accept", "accept", on_tick=delete)
    assert [item[0] for item in stage.of("item")] == ["{ITEM-2}"]
    assert "“a” was deleted meanwhile" in stage.of("box")[-1][1]
    assert len(stage.of("take")) == 4


def test_a_helper_named_in_base64(stage: Stage) -> None:
    stage.ext["helper"] = "base64:" + base64.b64encode(str(stage.helper).encode()).decode()
    stage.add(stage.recording())
    stage.run(["a harbour"], "accept")
    assert len(stage.of("take")) == 4


def test_no_helper_says_how_to_install(stage: Stage) -> None:
    stage.ext["helper"] = "/nowhere/smartdj"
    stage.add(stage.recording())
    stage.run()
    assert "smartdj reaper install" in stage.of("box")[0][1]
