"""The actions in a fake REAPER, with real recordings through the real helper process; each test is one scenario."""

from __future__ import annotations

import ast
import copy
import re
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.reaper.install import Wanted, carry_out, helper_value, plan_install
from smartdj_agent.reaper.paths import ResourceFolder, System
from smartdj_agent.reaper.scripts import script_files
from tests import reaper_helper, record_reaper_session
from tests.fake_reaper import FakeReaper, Project, Source, Take

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "integrations" / "reaper"
sys.path.insert(0, str(SCRIPTS))

from smartdj_reaper import dialogs, helper, segment, session, takes  # noqa: E402

RATE = 8000
EDIT, NO_REVIEW, TRACKS = "smartdj_edit_items", "smartdj_edit_items_no_review", "smartdj_edit_tracks"
RERUN, NEXT = "smartdj_rerun", "smartdj_next_step_take"
PLANNED = [
    "remove the sound of dog barking",
    "turn down the volume of wind, strong and steady by 6 dB",
    "add the sound of seagulls at the left with 3 dB",
]
NAMES = [
    "SmartDJ 1/3 remove: dog barking",
    "SmartDJ 2/3 volume: wind, strong and steady (-6 dB)",
    "SmartDJ 3/3 add: seagulls (left)",
]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the helper of these tests is a shell script")


class Stage:
    """A fake REAPER with our helper installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reaper = FakeReaper(folder)
        (folder / "jobs").mkdir()
        self.use(reaper_helper.install(folder))

    def use(self, program: Path) -> None:
        self.reaper.ext["SmartDJ", "helper"] = str(program)

    def recording(
        self, name: str = "walk", seconds: float = 1.0, *, channels: int = 2, subtype: str = "PCM_16"
    ) -> Path:
        path = Path(self.reaper.front.media) / f"{name}.wav"
        n = round(seconds * RATE)
        rng = np.random.default_rng(sum(map(ord, name)))
        soundfile.write(path, rng.uniform(-0.5, 0.5, (n, channels)), RATE, subtype=subtype)
        return path

    def start(self, script: str, *answers: Any) -> None:
        self.reaper.answers += answers
        self.reaper.run_script(SCRIPTS / f"{script}.py")

    def run(self, script: str, *answers: Any, until: Callable[[], bool] | None = None) -> None:
        """Run an action to its end, or until something is so."""
        self.start(script, *answers)
        self.go_on(until)

    def go_on(self, until: Callable[[], bool] | None = None) -> None:
        by = time.monotonic() + 300
        while self.reaper.tick():
            if until is not None and until():
                return
            assert time.monotonic() < by, self.reaper.help[-3:]
            time.sleep(0.01)
        assert until is None, "the run ended before"

    def computing(self) -> bool:
        return any("%" in text for text in self.reaper.help)

    @property
    def made(self) -> list[str]:
        """Files of results beside the project."""
        return sorted(path.name for project in self.reaper.projects for path in Path(project.media).glob("*smartdj*"))

    @property
    def log(self) -> str:
        path = self.reaper.resource / "smartdj-reaper.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def agent_log(self) -> list[str]:
        path = self.folder / "agent.log"
        return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []

    @property
    def job_folders(self) -> list[Path]:
        return list((self.folder / "jobs").iterdir())


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(tmp_path)
    monkeypatch.setattr(helper.tempfile, "tempdir", str(tmp_path / "jobs"))
    session.SESSIONS.clear()
    yield made
    for left in list(session.SESSIONS.values()):
        left.leave()
        if left.helper is not None:
            left.helper._process.wait(30)


def note_of(take: Take) -> dict[str, Any]:
    note = takes.read_note(take.ext["smartdj"])
    assert note is not None
    return note


def samples_of(take: Take) -> np.ndarray:
    assert take.source is not None
    return soundfile.read(take.source.path, dtype="float64", always_2d=True)[0]


def state_of(project: Project) -> list[Any]:
    """Everything of a project that a person would miss."""

    def of_take(take: Take) -> tuple[Any, ...]:
        return take.guid, take.name, dict(take.values), dict(take.ext), take.source and take.source.path

    return [
        (item.guid, item.active, item.selected, dict(item.values), [of_take(take) for take in item.takes if take])
        for item in project.items
    ]


def accept(values: list[str]) -> list[str]:
    return values


# The right-click path ----------------------------------------------------------------------------------------


def test_right_click_edit_review_change_a_step_run(stage: Stage) -> None:
    """Select, type, look at the plan, change a step, run: a take per step, one undo away from before."""
    item = stage.reaper.add_item(stage.recording(), name="walk")
    project = stage.reaper.front
    before = state_of(project)
    original = Path(item.take.source.path).read_bytes()  # type: ignore[union-attr]

    def change(values: list[str]) -> list[str]:
        assert values == [*PLANNED, ""]
        return [values[0], "- " + values[1], "add the sound of rain, soft at the right", "remove the sound of wind"]

    stage.run(EDIT, ["make it a harbour"], change)
    assert [take.name for take in item.takes if take] == [
        "walk", "SmartDJ 1/3 remove: dog barking", "SmartDJ 2/3 add: rain, soft (right)", "SmartDJ 3/3 remove: wind",
    ]  # fmt: skip
    assert item.active == 3
    assert project.undo_titles == ["SmartDJ: make it a harbour"]
    assert Path(item.takes[0].source.path).read_bytes() == original  # type: ignore[union-attr]
    assert [note_of(take)["step"] for take in item.takes[1:] if take] == [1, 2, 3]
    steps = note_of(item.take)["plan"]["steps"]
    assert [(step["id"], step["enabled"]) for step in steps] == [
        ("s1", True),
        ("s2", False),
        ("s3", True),
        ("s4", True),
    ]
    assert not stage.reaper.boxes
    assert not stage.job_folders
    stage.reaper.RPR_Undo_DoUndo2("")
    assert state_of(project) == before


def test_reaper_is_never_kept_waiting(stage: Stage) -> None:
    """Between two looks at the helper REAPER gets control back; nothing is waited for."""
    stage.use(reaper_helper.install(stage.folder, slow_s=0.05))
    stage.reaper.add_item(stage.recording())
    stage.run(NO_REVIEW, ["a harbour"])
    assert stage.reaper.ticks > 10
    assert list(stage.reaper.front.items[0].takes)[1:]


def test_commas_quotes_and_other_scripts_survive_the_prompt(stage: Stage) -> None:
    stage.reaper.add_item(stage.recording())
    wish = 'rain, wind, birds; I\'m (almost "there" `ok` 雨 🎧'
    stage.run(NO_REVIEW, [wish])
    item = stage.reaper.front.items[0]
    assert note_of(item.take)["plan"]["instruction"] == wish
    assert {"'", "`"}.isdisjoint(item.take.ext["smartdj"])  # project files keep one kind of quotes as it is
    assert item.take.ext["smartdj"].isascii()
    stage.run(EDIT, None)  # the prompt remembers it, in signs that REAPER's dialog can bear
    assert stage.reaper.inputs[-1]["defaults"] == ["rain, wind, birds; I’m ❨almost ”there” ‘ok‘ 雨 🎧"]
    assert stage.reaper.inputs[-1]["separator"] == "\n"
    assert dialogs.plain_answer(stage.reaper.inputs[-1]["defaults"][0], [dialogs.Field("", wish)]) == [wish]


# What an item stands for -------------------------------------------------------------------------------------


def expected_last(part: np.ndarray) -> np.ndarray:
    """What the fake agent makes of a recording in its three steps."""
    out = part.copy()
    start, stop = len(part) // 4, len(part) * 3 // 4
    out[start:stop] *= 0.25 * 0.25
    out[start:stop, 0] += 0.2 * np.sin(2 * np.pi * 3000 * np.arange(stop - start) / RATE)
    return out


def test_only_the_items_part_of_the_file_is_edited_sample_exact(stage: Stage) -> None:
    path = stage.recording("long", 5.0)
    stage.reaper.add_item(path, length_s=1.25, D_STARTOFFS=2.5)
    stage.run(NO_REVIEW, ["a harbour"])
    take = stage.reaper.front.items[0].take
    part = soundfile.read(path, dtype="float64")[0][20000:30000]
    result = samples_of(take)
    assert result.shape == part.shape
    np.testing.assert_array_equal(result[:2500], part[:2500])
    np.testing.assert_array_equal(result[7500:], part[7500:])
    np.testing.assert_allclose(result, expected_last(part), atol=2**-15)
    assert take.values["D_STARTOFFS"] == 0.0
    assert note_of(take)["source"] | {"sha256": "", "take": ""} == {
        "path": str(path), "start_frame": 20000, "frames": 10000, "sample_rate": RATE, "sha256": "", "take": "",
    }  # fmt: skip


def test_an_offset_between_two_samples_and_the_play_rate_are_kept(stage: Stage) -> None:
    path = stage.recording("long", 5.0)
    offset_s = 1000.25 / RATE
    item = stage.reaper.add_item(
        path, length_s=1.0, D_STARTOFFS=offset_s, D_PLAYRATE=1.5, B_PPITCH=0.0, D_VOL=-0.5, D_PAN=0.3
    )
    stage.run(EDIT, ["a harbour"], accept)
    source = note_of(item.take)["source"]
    assert (source["start_frame"], source["frames"]) == (1000, 12001)
    assert item.take.values["D_STARTOFFS"] == pytest.approx(0.25 / RATE)
    kept = {name: item.take.values[name] for name in ("D_PLAYRATE", "B_PPITCH", "D_VOL", "D_PAN")}
    assert kept == {"D_PLAYRATE": 1.5, "B_PPITCH": 0.0, "D_VOL": -0.5, "D_PAN": 0.3}
    assert any("1.5 × speed" in text for text, _, _ in stage.reaper.boxes)  # said beside the plan


def test_a_section_is_read_from_its_file(stage: Stage) -> None:
    path = stage.recording("long", 5.0)
    source = Source.of_file(path).section(2.0, 1.5)
    stage.reaper.add_item(source, length_s=1.0, D_STARTOFFS=0.25)
    stage.run(NO_REVIEW, ["a harbour"])
    noted = note_of(stage.reaper.front.items[0].take)["source"]
    assert (noted["path"], noted["start_frame"], noted["frames"]) == (str(path), 18000, 8000)
    assert stage.reaper.names().count("RPR_Undo_DoUndo2") == 0


def test_reversed_looped_and_channel_mode_items_are_rendered_first_without_a_trace(stage: Stage) -> None:
    """Action 41999 renders them; afterwards there is one undo point, and no rendered take."""
    path = stage.recording("long", 2.0)
    whole = soundfile.read(path, dtype="float64")[0]
    stage.reaper.add_item(Source.of_file(path).section(0.5, 1.0, reverse=True), name="back")
    stage.reaper.add_item(path, length_s=3.0, name="loop", item={"B_LOOPSRC": 1.0})
    stage.reaper.add_item(path, name="left", I_CHANMODE=3.0, D_VOL=0.7)
    stage.reaper.add_item(path, name="idle", selected=False)
    project = stage.reaper.front
    stage.run(NO_REVIEW, ["a harbour"])
    back, loop, left, _idle = project.items
    assert project.undo_titles == ["SmartDJ: a harbour"]
    assert [len(item.takes) for item in project.items] == [4, 4, 4, 1]
    assert [item.selected for item in project.items] == [True, True, True, False]
    for item, want in (
        (back, whole[4000:12000][::-1]),
        (loop, np.concatenate([whole, whole[:8000]])),
        (left, whole[:, :1]),
    ):
        assert [take.name for take in item.takes if take][1:] == NAMES
        np.testing.assert_allclose(samples_of(item.take)[: len(want) // 4], want[: len(want) // 4], atol=2**-22)
        assert samples_of(item.take).shape == want.shape
        assert item.take.values["I_CHANMODE"] == 0
        assert item.take.values["D_VOL"] == 1.0  # as REAPER gave it to the rendered take
    assert "rendered “back” first: it is reversed" in stage.log
    assert "rendered “loop” first: it loops" in stage.log
    stage.reaper.RPR_Undo_DoUndo2("")
    assert [[take.name for take in item.takes if take] for item in project.items] == [
        ["back"],
        ["loop"],
        ["left"],
        ["idle"],
    ]


def test_a_render_that_fails_leaves_the_item_out(stage: Stage) -> None:
    path = stage.recording()
    stage.reaper.add_item(path, name="left", I_CHANMODE=3.0)
    stage.reaper.render_works = False
    stage.run(EDIT, ["a harbour"])
    assert "“left” could not be rendered by REAPER" in stage.reaper.boxes[-1][0]
    assert not stage.reaper.front.undo
    assert not stage.job_folders


PLAIN = segment.ItemFacts("x", 1.0, path="/x.wav", source_length_s=2.0, sample_rate=48000)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reverse": True, "section_offset_s": 0.0, "section_length_s": 2.0}, "reversed"),
        ({"depth": 2}, "section of a section"),
        ({"loop": True, "length_s": 2.5}, "loops"),
        ({"loop": True, "section_offset_s": 0.5, "section_length_s": 0.5}, "loops"),
        ({"channel_mode": 1}, "swapped"),
        ({"channel_mode": 67}, "chosen channels"),
        ({"stretch_markers": 2}, "stretch markers"),
        ({"effects": 1}, "take effects"),
        ({"envelopes": 1}, "take envelopes"),
        ({"start_offset_s": -0.1}, "begins before"),
        ({"source_type": "MP3"}, "type MP3"),
        ({"source_type": "VIDEO"}, "type VIDEO"),
        ({"source_type": "RPP_PROJECT", "path": ""}, "type RPP_PROJECT"),
    ],
)
def test_whatever_is_unusual_is_rendered_first(change: dict[str, Any], reason: str) -> None:
    decision = segment.decide(PLAIN._replace(**change))
    assert isinstance(decision, segment.RenderFirst)
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"has_take": False}, "is empty"),
        ({"source_type": "EMPTY"}, "is empty"),
        ({"is_midi": True}, "is MIDI"),
        ({"source_type": "MIDI"}, "is MIDI"),
        ({"source_type": "OFFLINE_WAVE"}, "is offline"),
        ({"source_length_s": 0.0, "sample_rate": 0}, "is offline"),
        ({"file_exists": False}, "is missing its file: /x.wav"),
        ({"locked": True}, "is locked"),
        ({"start_offset_s": 3.0}, "behind the end"),
        ({"length_s": 0.0}, "no length"),
    ],
)
def test_what_has_no_sound_is_refused(change: dict[str, Any], reason: str) -> None:
    decision = segment.decide(PLAIN._replace(**change))
    assert isinstance(decision, segment.Refusal)
    assert reason in decision.reason


@settings(deadline=None)
@given(
    st.floats(0, 100), st.floats(0.001, 100), st.floats(0.1, 10), st.sampled_from([8000, 44100, 48000, 96000]),
    st.integers(1, 10_000_000),
)  # fmt: skip
def test_the_part_covers_the_item_and_stays_within_the_file(
    offset_s: float, length_s: float, play_rate: float, rate: int, source_frames: int
) -> None:
    facts = PLAIN._replace(
        start_offset_s=offset_s,
        length_s=length_s,
        play_rate=play_rate,
        sample_rate=rate,
        source_length_s=source_frames / rate,
    )
    decision = segment.decide(facts)
    if isinstance(decision, segment.Refusal):
        assert offset_s * rate > source_frames - 1
        return
    assert isinstance(decision, segment.Segment)
    assert 0 <= decision.start_frame < decision.start_frame + decision.frames <= source_frames
    assert 0 <= decision.start_offset_s < 1 / rate
    assert decision.start_frame + decision.start_offset_s * rate == pytest.approx(offset_s * rate, abs=2e-3)
    covered = decision.start_frame + decision.frames
    wanted = (offset_s + length_s * play_rate) * rate
    assert covered == source_frames or wanted - 2e-3 <= covered < wanted + 1


# Several, refused, tracks ------------------------------------------------------------------------------------


def test_midi_empty_offline_locked_and_missing_items_are_refused_by_name(stage: Stage) -> None:
    path = stage.recording("gone")
    stage.reaper.add_track("Drums")
    stage.reaper.add_item(Source("MIDI", length_s=2.0), name="beat")
    stage.reaper.add_item(None, item={"D_POSITION": 83.5})
    stage.reaper.add_item(Source("OFFLINE_WAVE", str(path)), name="far")
    stage.reaper.add_item(path, name="shut", item={"C_LOCK": 1.0})
    stage.reaper.add_item(path, name="lost")
    stage.reaper.add_item(Source("MIDI", length_s=2.0))
    path.rename(path.with_name("elsewhere.wav"))
    stage.run(EDIT)
    ((text, _, _),) = stage.reaper.boxes
    for words in (
        "“beat” is MIDI", "“item at 1:23.500 on Drums” is empty", "“far” is offline", "“shut” is locked",
        f"“lost” is missing its file: {path}", "“item at 0:00.000 on Drums” is MIDI",
    ):  # fmt: skip
        assert words in text
    assert not stage.reaper.inputs  # nobody was asked for nothing
    assert not stage.agent_log


def test_several_items_in_one_go_with_one_loading_of_models(stage: Stage) -> None:
    for name in ("one", "two", "three"):
        stage.reaper.add_item(stage.recording(name), name=name)
    stage.reaper.add_item(Source("MIDI", length_s=2.0), name="beat")
    stage.run(EDIT, ["a harbour"], accept, lambda values: ["", "", values[2], ""], lambda values: [""] * 4)
    assert [entry["title"].split(".")[0] for entry in stage.reaper.inputs] == [
        "SmartDJ: edit 3 items (1 left out)", "SmartDJ: plan for one (1 of 3)", "SmartDJ: plan for two (2 of 3)",
        "SmartDJ: plan for three (3 of 3)",
    ]  # fmt: skip
    assert [len(item.takes) for item in stage.reaper.front.items] == [4, 2, 1, 1]
    assert stage.reaper.front.items[1].take.name == "SmartDJ 1/1 add: seagulls (left)"
    assert stage.agent_log.count("agent") == 1
    assert len(stage.reaper.front.undo) == 1
    assert "“beat” is MIDI" in stage.reaper.boxes[-1][0]


def test_all_items_of_selected_tracks(stage: Stage) -> None:
    path = stage.recording()
    tracks = [stage.reaper.add_track("in", selected=True), stage.reaper.add_track("out")]
    for track in (tracks[0], tracks[0], tracks[1]):
        stage.reaper.add_item(path, track=track, selected=False)
    stage.run(TRACKS, ["a harbour"], accept, accept)
    assert [len(item.takes) for item in stage.reaper.front.items] == [4, 4, 1]


def test_nothing_selected_says_what_to_do(stage: Stage) -> None:
    stage.run(EDIT)
    stage.run(TRACKS)
    stage.run(NEXT)
    assert [text for text, _, _ in stage.reaper.boxes] == [
        "Select at least one item.",
        "Select at least one track with items.",
        "Select an item with takes made by SmartDJ.",
    ]


def test_an_item_that_fails_leaves_the_others_alone(stage: Stage) -> None:
    good, bad = stage.recording("good"), stage.recording("bad")
    stage.reaper.add_item(good, name="good")
    stage.reaper.add_item(bad, name="bad")
    soundfile.write(bad, np.zeros(5 * RATE), 2 * RATE)  # replaced behind REAPER's back
    stage.run(NO_REVIEW, ["a harbour"])
    assert [len(item.takes) for item in stage.reaper.front.items] == [4, 1]
    assert "“bad”: " in stage.reaper.boxes[-1][0]
    assert "16,000 Hz; REAPER says 8,000 Hz" in stage.reaper.boxes[-1][0]
    assert all("good-smartdj" in name for name in stage.made)


# Results -----------------------------------------------------------------------------------------------------


def test_without_review_a_take_per_step_named_and_noted(stage: Stage) -> None:
    item = stage.reaper.add_item(stage.recording("walk", subtype="PCM_24"), name="walk: dog?.wav")
    stage.run(NO_REVIEW, ["a harbour"])
    made = [take for take in item.takes[1:] if take]
    assert [take.name for take in made] == NAMES
    assert [entry["title"] for entry in stage.reaper.inputs] == ["SmartDJ: edit “walk: dog?.wav”"]
    note = note_of(made[1])
    assert (note["step"], note["steps"], note["seed"], note["mode"]) == (2, 3, 0, "preserve")
    assert note["models"] == "fake-editor"
    assert re.fullmatch("[0-9a-f]{64}", note["source"]["sha256"])
    assert note["source"]["take"] == item.takes[0].guid  # type: ignore[union-attr]
    assert [step["do"] for step in note["plan"]["steps"]] == PLANNED
    names = [f"walk-dog-smartdj-{note['job']}-0{k}" for k in (1, 2, 3)]
    assert stage.made == [f"{names[0]}-remove-dog-barking.wav", f"{names[1]}-volume-wind-strong-and-steady.wav",
                          f"{names[2]}-add-seagulls.wav"]  # fmt: skip
    assert {soundfile.info(take.source.path).subtype for take in made} == {"PCM_24"}  # type: ignore[union-attr]
    assert {Path(take.source.path).parent for take in made} == {Path(stage.reaper.front.media)}  # type: ignore[union-attr]


def test_places_of_steps_become_take_markers(stage: Stage) -> None:
    item = stage.reaper.add_item(stage.recording(seconds=2.0))
    stage.run(NO_REVIEW, ["a harbour"])
    assert [take.markers for take in item.takes[1:] if take] == [
        [(0.5, "remove: dog barking")],
        [(0.5, "remove: dog barking"), (0.5, "volume: wind, strong and steady (-6 dB)")],
        [(0.5, "remove: dog barking"), (0.5, "volume: wind, strong and steady (-6 dB)"), (0.5, "add: seagulls (left)")],
    ]


def test_mono_and_float_and_many_channels_keep_their_shape(stage: Stage) -> None:
    for name, channels, subtype in (("mono", 1, "PCM_24"), ("float", 2, "FLOAT"), ("six", 6, "PCM_16")):
        stage.reaper.add_item(stage.recording(name, channels=channels, subtype=subtype), name=name)
    stage.run(NO_REVIEW, ["a harbour"])
    infos = [soundfile.info(item.take.source.path) for item in stage.reaper.front.items]  # type: ignore[union-attr]
    assert [(info.channels, info.subtype) for info in infos] == [(1, "PCM_24"), (2, "FLOAT"), (6, "PCM_16")]


def test_running_twice_overwrites_nothing(stage: Stage) -> None:
    item = stage.reaper.add_item(stage.recording())
    stage.run(NO_REVIEW, ["a harbour"])
    first = {name: (Path(stage.reaper.front.media) / name).read_bytes() for name in stage.made}
    stage.run(NO_REVIEW, ["a harbour"])
    assert len(stage.made) == 6
    assert len(item.takes) == 7
    assert all((Path(stage.reaper.front.media) / name).read_bytes() == content for name, content in first.items())


def test_where_reapers_python_refuses_new_sources_files_are_inserted_as_takes(stage: Stage) -> None:
    """Whether the real one takes a source that no take has yet isn't documented."""
    stage.reaper.loose_sources_are_valid = False
    first, second = (stage.reaper.add_item(stage.recording(name), name=name) for name in ("a", "b"))
    idle = stage.reaper.add_item(stage.recording("c"), selected=False)
    stage.run(NO_REVIEW, ["a harbour"])
    assert not stage.reaper.boxes
    for item in (first, second):
        assert [take.name for take in item.takes[1:] if take] == NAMES
        assert len(samples_of(item.take)) == RATE
        assert item.active == 3
    assert [item.selected for item in stage.reaper.front.items] == [True, True, False]
    assert len(idle.takes) == 1
    assert len(stage.reaper.front.undo) == 1


# What happens meanwhile --------------------------------------------------------------------------------------


def waiting(stage: Stage) -> Stage:
    stage.use(reaper_helper.install(stage.folder, slow_s=0.03))
    return stage


def test_a_deleted_item_is_skipped_with_a_message(stage: Stage) -> None:
    waiting(stage)
    stays = stage.reaper.add_item(stage.recording("stays"), name="stays")
    goes = stage.reaper.add_item(stage.recording("goes"), name="goes")
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    stage.reaper.delete_item(goes)
    stage.go_on()
    assert len(stays.takes) == 4
    assert "“goes” was deleted meanwhile" in stage.reaper.boxes[-1][0]
    assert len(stage.reaper.front.undo) == 1


def test_all_items_deleted_makes_no_undo_point(stage: Stage) -> None:
    waiting(stage)
    item = stage.reaper.add_item(stage.recording())
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    stage.reaper.delete_item(item)
    stage.go_on()
    assert not stage.reaper.front.undo


def test_a_closed_project_is_left_alone_and_so_is_the_one_in_front(stage: Stage) -> None:
    """A closed project's pointer means the project in front to REAPER; that one must not be touched."""
    waiting(stage)
    first = stage.reaper.front
    stage.reaper.add_item(stage.recording(), name="walk")
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    other = stage.reaper.add_project("other")
    stage.reaper.add_item(stage.recording("walk"), name="walk")
    before = state_of(other)
    stage.reaper.close_project(first)
    stage.go_on()
    assert f"{first.path} is no longer open" in stage.reaper.boxes[-1][0]
    assert state_of(other) == before
    assert not other.undo


def test_another_tab_in_front_stays_in_front(stage: Stage) -> None:
    waiting(stage)
    first = stage.reaper.front
    item = stage.reaper.add_item(stage.recording(), name="walk")
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    other = stage.reaper.add_project("other")
    stage.go_on()
    assert len(item.takes) == 4
    assert (len(first.undo), len(other.undo)) == (1, 0)
    assert stage.reaper.front is other


def test_items_are_found_again_by_guid_after_undo_and_redo(stage: Stage) -> None:
    """The person undoes something meanwhile: every object has another address then."""
    waiting(stage)
    stage.reaper.add_item(stage.recording())
    project = stage.reaper.front
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    anew = copy.deepcopy(project.tracks)
    stage.reaper._forget(project)
    project.tracks = anew
    stage.go_on()
    assert len(project.items[0].takes) == 4


def test_cancel_in_the_plan_ends_everything(stage: Stage) -> None:
    item = stage.reaper.add_item(stage.recording())
    stage.run(EDIT, ["a harbour"], None)
    assert len(item.takes) == 1
    assert not stage.reaper.front.undo
    assert not stage.made
    assert not stage.job_folders
    assert stage.reaper.help[-1] == "SmartDJ: cancelled, nothing was changed"
    assert stage.reaper.ext["SmartDJ", "busy"] == ""


def test_cancel_in_the_prompt_starts_nothing(stage: Stage) -> None:
    stage.reaper.add_item(stage.recording())
    stage.run(EDIT, None)
    assert not stage.agent_log
    assert not stage.reaper.boxes


def test_the_action_run_again_stops_the_computation_within_a_denoising_step(stage: Stage) -> None:
    stage.use(reaper_helper.install(stage.folder, slow_s=0.2))
    item = stage.reaper.add_item(stage.recording())
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    stage.reaper.box_answers = [6]
    deferred = stage.reaper.deferred
    host, stage.reaper.deferred = stage.reaper.host, []
    stage.start(EDIT)  # asks whether to stop the other one: yes
    assert stage.reaper.boxes[-1][1:] == ("SmartDJ is at work", 3)
    assert not stage.reaper.deferred
    stage.reaper.host, stage.reaper.deferred = host, deferred
    stage.go_on()
    assert stage.agent_log[-1] == "closed"
    assert not stage.made
    assert len(item.takes) == 1
    assert stage.reaper.help[-1] == "SmartDJ: cancelled, nothing was changed"


def test_quitting_reaper_stops_the_helper(stage: Stage) -> None:
    stage.use(reaper_helper.install(stage.folder, slow_s=0.2))
    stage.reaper.add_item(stage.recording())
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    (running,) = session.SESSIONS.values()
    assert running.helper is not None
    stage.reaper.quit()
    assert running.helper._process.wait(30) == 130
    assert stage.agent_log[-1] == "closed"
    assert not stage.made


def test_progress_shows_item_step_device_and_times_real_time(stage: Stage) -> None:
    waiting(stage)
    for name in ("one", "two"):
        stage.reaper.add_item(stage.recording(name), name=name)
    stage.run(NO_REVIEW, ["a harbour"])
    shown = [text for text in stage.reaper.help if "%" in text]
    assert any(
        text.startswith("SmartDJ: two (2 of 2) · 1/3 remove the sound of dog barking · ")
        and text.endswith("% · cpu · 1.50 × real time · 0 s left")
        for text in shown
    ), shown
    assert stage.reaper.help[-1] == "SmartDJ: 6 takes in 2 items"


# Mishaps -----------------------------------------------------------------------------------------------------


def test_an_exception_in_a_tick_is_logged_and_ends_the_run(stage: Stage) -> None:
    waiting(stage)
    stage.reaper.add_item(stage.recording())
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    (running,) = session.SESSIONS.values()
    stage.reaper.fails["RPR_Help_Set"] = RuntimeError("no more help")
    stage.go_on()
    assert "RuntimeError: no more help" in stage.reaper.console[-1]
    assert "RuntimeError: no more help" in stage.log
    assert not stage.reaper.deferred
    assert running.helper is not None
    assert running.helper._process.wait(30) == 130
    assert stage.reaper.ext["SmartDJ", "busy"] == ""


@pytest.mark.parametrize("call", ["RPR_AddTakeToMediaItem", "RPR_SetTakeMarker", "RPR_UpdateItemInProject"])
def test_a_failure_while_takes_are_added_leaves_undo_balanced(stage: Stage, call: str) -> None:
    stage.reaper.add_item(stage.recording())
    project, before = stage.reaper.front, state_of(stage.reaper.front)
    stage.reaper.fails[call] = RuntimeError("refused")
    stage.run(NO_REVIEW, ["a harbour"])  # the fake checks the balance after every tick
    assert "RuntimeError: refused" in stage.log
    assert len(project.undo) == 1
    stage.reaper.RPR_Undo_DoUndo2("")
    assert state_of(project) == before


def test_no_helper_says_how_to_install(stage: Stage) -> None:
    stage.reaper.add_item(stage.recording())
    stage.use(stage.folder / "nowhere" / "smartdj")
    stage.run(EDIT, ["a harbour"])
    text, title, _ = stage.reaper.boxes[-1]
    assert title == "SmartDJ is not set up"
    assert "smartdj reaper install" in text


def test_a_helper_that_crashes_shows_what_it_printed(stage: Stage) -> None:
    stage.reaper.add_item(stage.recording())
    stage.use(reaper_helper.install(stage.folder, body="echo 'no such library: libfoo' >&2; exit 3"))
    stage.run(EDIT, ["a harbour"])
    text, title, _ = stage.reaper.boxes[-1]
    assert "ended unexpectedly" in title
    assert text.startswith("SmartDJ: nothing was changed")
    assert "no such library: libfoo" in text
    assert str(stage.job_folders[0]) in text  # kept for a report


def test_what_was_finished_before_a_crash_becomes_takes(stage: Stage) -> None:
    waiting(stage)
    first, second = (stage.reaper.add_item(stage.recording(name), name=name) for name in ("a", "b"))
    stage.run(NO_REVIEW, ["a harbour"], until=lambda: any("b (2 of 2) · 1/3" in text for text in stage.reaper.help))
    (running,) = session.SESSIONS.values()
    assert running.helper is not None
    running.helper._process.kill()
    stage.go_on()
    assert [len(first.takes), len(second.takes)] == [4, 1]
    assert "ended unexpectedly" in stage.reaper.boxes[-1][1]


def test_a_helper_that_does_not_stop_is_killed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "STOP_AFTER_S", 0.2)
    stage.use(reaper_helper.install(stage.folder, body="exec sleep 100"))
    stage.reaper.add_item(stage.recording())
    stage.start(NO_REVIEW, ["a harbour"])
    (running,) = session.SESSIONS.values()
    stage.reaper.ext["SmartDJ", "cancel"] = running.id
    stage.go_on()
    assert running.helper is not None
    assert running.helper._process.returncode == -9
    assert "killed a helper that did not stop" in stage.log
    assert stage.reaper.help[-1] == "SmartDJ: cancelled, nothing was changed"


def test_two_edits_at_once_share_one_main_module(stage: Stage) -> None:
    waiting(stage)
    first = stage.reaper.add_item(stage.recording("a"), name="a")
    stage.run(NO_REVIEW, ["a harbour"], until=stage.computing)
    first.selected = False
    second = stage.reaper.add_item(stage.recording("b"), name="b")
    stage.reaper.box_answers = [7]  # No: let it go on
    stage.run(NO_REVIEW, ["a forest"])
    assert [len(first.takes), len(second.takes)] == [4, 4]
    assert sorted(stage.reaper.front.undo_titles) == ["SmartDJ: a forest", "SmartDJ: a harbour"]


def test_without_undo_the_rendered_take_stays_and_nothing_of_the_person_is_undone(stage: Stage) -> None:
    """REAPER can be set to keep no undo points; undoing then would take back something else."""
    stage.reaper.keeps_undo = False
    item = stage.reaper.add_item(stage.recording(), name="left", I_CHANMODE=3.0)
    stage.run(NO_REVIEW, ["a harbour"])
    assert [take.name for take in item.takes if take] == ["left", "left render 001", *NAMES]
    assert "RPR_Undo_DoUndo2" not in stage.reaper.names()


def test_a_helper_of_another_protocol_says_so(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "PROTOCOL", 2)
    stage.reaper.add_item(stage.recording())
    stage.run(EDIT, ["a harbour"])
    assert "protocol 2" in stage.reaper.boxes[-1][0]
    assert "smartdj reaper install" in stage.reaper.boxes[-1][0]


def test_missing_models_are_told_with_what_to_do(stage: Stage) -> None:
    stage.reaper.add_item(stage.recording())
    stage.run(EDIT, ["missing"])
    text, title, _ = stage.reaper.boxes[-1]
    assert title == "Model not installed"
    assert "smartdj models pull small" in text


def test_a_step_that_is_no_step_is_asked_for_again_with_the_reason(stage: Stage) -> None:
    stage.reaper.add_item(stage.recording())
    stage.run(EDIT, ["a harbour"], lambda values: [values[0], "frobnicate the dog", "", ""], accept)
    assert any("frobnicate" in text for text, title, _ in stage.reaper.boxes if title == "SmartDJ: plan")
    assert stage.reaper.inputs[-1]["defaults"][:2] == [PLANNED[0], "frobnicate the dog"]


def test_a_question_is_asked_and_its_answer_planned(stage: Stage) -> None:
    item = stage.reaper.add_item(stage.recording())
    stage.run(EDIT, ["unclear"], ["make it quieter"], accept)
    assert "Louder or quieter?" in stage.reaper.inputs[1]["title"]
    assert stage.reaper.inputs[1]["defaults"] == ["make it quieter"]
    assert len(item.takes) == 4
    assert note_of(item.take)["plan"]["instruction"] == "make it quieter"


# Again, and through the steps --------------------------------------------------------------------------------


def test_run_again_with_changes_from_what_the_take_carries(stage: Stage) -> None:
    path = stage.recording("long", 3.0)
    item = stage.reaper.add_item(path, length_s=1.0, D_STARTOFFS=1.0, name="walk")
    stage.run(NO_REVIEW, ["a harbour"])
    item.take.values["D_VOL"] = 0.5
    stage.run(RERUN, lambda values: [values[0], "7"], lambda values: [values[0], "", "", ""])
    assert stage.reaper.inputs[1]["defaults"] == ["a harbour", "0"]
    assert stage.reaper.inputs[2]["defaults"] == [*PLANNED, ""]
    assert [take.name for take in item.takes if take] == ["walk", *NAMES, "SmartDJ 1/1 remove: dog barking"]
    note = note_of(item.take)
    assert (note["seed"], note["source"]) == (7, note_of(item.takes[1])["source"])  # type: ignore[arg-type]
    assert item.take.values["D_VOL"] == 0.5
    part = soundfile.read(path, dtype="float64")[0][8000:16000]
    np.testing.assert_array_equal(samples_of(item.take)[:2000], part[:2000])
    assert stage.agent_log == ["agent", "apply seed 0", "agent", "apply seed 7"]


def test_run_again_with_another_instruction_plans_anew(stage: Stage) -> None:
    item = stage.reaper.add_item(stage.recording())
    stage.run(NO_REVIEW, ["a harbour"])
    stage.run(RERUN, ["rather a forest"], accept)
    assert note_of(item.take)["plan"]["instruction"] == "rather a forest"
    assert len(item.takes) == 7


def test_run_again_says_when_the_recording_has_changed(stage: Stage) -> None:
    path = stage.recording()
    stage.reaper.add_item(path)
    stage.run(NO_REVIEW, ["a harbour"])
    soundfile.write(path, np.full((RATE, 2), 0.25), RATE)
    stage.run(RERUN, accept, accept)
    assert any("isn't the one that the plan was made for" in text for text, _, _ in stage.reaper.boxes)
    assert len(stage.reaper.front.items[0].takes) == 7


def test_run_again_refuses_by_name(stage: Stage) -> None:
    stage.reaper.add_item(stage.recording("plain"), name="plain")
    stage.run(RERUN)
    assert "“plain” has no take made by SmartDJ" in stage.reaper.boxes[-1][0]


def test_next_step_goes_round_the_takes_of_the_edit(stage: Stage) -> None:
    item = stage.reaper.add_item(stage.recording())
    stage.run(NO_REVIEW, ["a harbour"])
    seen = []
    for _ in range(5):
        stage.run(NEXT)
        seen.append(item.active)
    assert seen == [0, 1, 2, 3, 0]
    assert stage.reaper.front.undo_titles[1:] == ["SmartDJ: next step's take"] * 5


# Dialogs -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=40), min_size=1, max_size=16))
def test_defaults_pass_reapers_dialog_unharmed(texts: list[str]) -> None:
    """Whatever stands in a line, REAPER splits the lines where they end, and an unchanged line is what it was."""
    from tests.fake_reaper import _quotes_and_parentheses_balance

    fields = [dialogs.Field(f"Line {k}, yes", " ".join(text.split())) for k, text in enumerate(texts)]
    captions, defaults = dialogs.plain_request(fields)
    assert captions.count(",") == len(fields) + 1
    assert _quotes_and_parentheses_balance(defaults)
    assert defaults.count("\n") == len(fields) - 1
    assert dialogs.plain_answer(defaults, fields) == [field.default for field in fields]


def test_long_plans_are_shown_on_pages() -> None:
    steps = [{"id": f"s{k}", "do": f"remove the sound of {k}", "enabled": k % 2 == 0} for k in range(40)]
    pages = dialogs.pages(steps)
    assert [len(page) for page in pages] == [15, 15, 10]
    again = []
    for index, page in enumerate(pages):
        fields = dialogs.step_fields(page, 1, last_page=index == 2)
        assert len(fields) <= dialogs.MAX_FIELDS
        again += dialogs.steps_from([field.default for field in fields], page)
    assert again == steps


class FakeImGui(types.ModuleType):
    """ReaImGui's functions that we use; `press` names buttons to press, `type_in` texts by label."""

    def __init__(self) -> None:
        super().__init__("imgui")
        self.press: list[str] = []
        self.type_in: dict[str, str] = {}
        self.texts: list[str] = []
        self.open = True
        self.begun = 0

    def CreateContext(self, name: str) -> str:
        return "(ImGui_Context*)0x0000000012345678"

    def SetNextWindowSize(self, ctx: str, width: float, height: float, when: int) -> None: ...

    def Cond_FirstUseEver(self) -> int:
        return 4

    def Begin(self, ctx: str, name: str, p_open: bool) -> tuple[bool, bool]:
        self.begun += 1
        return True, self.open

    def End(self, ctx: str) -> None:
        self.begun -= 1

    def TextWrapped(self, ctx: str, text: str) -> None:
        self.texts.append(text)

    def ProgressBar(self, ctx: str, fraction: float) -> None:
        assert 0 <= fraction <= 1

    def InputText(self, ctx: str, label: str, text: str) -> tuple[bool, str]:
        return label in self.type_in, self.type_in.pop(label, text)

    def Checkbox(self, ctx: str, label: str, on: bool) -> tuple[bool, bool]:
        return label in self.press, (not on) if self._pressed(label) else on

    def Button(self, ctx: str, label: str) -> bool:
        return self._pressed(label)

    def SameLine(self, ctx: str) -> None: ...

    def IsWindowFocused(self, ctx: str) -> bool:
        return True

    def IsKeyPressed(self, ctx: str, key: int) -> bool:
        return self._pressed({1: "Escape", 2: "Enter"}[key])

    def Key_Escape(self) -> int:
        return 1

    def Key_Enter(self) -> int:
        return 2

    def _pressed(self, label: str) -> bool:
        if label in self.press:
            self.press.remove(label)
            return True
        return False


@pytest.fixture
def imgui(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeImGui]:
    made = FakeImGui()
    monkeypatch.setitem(sys.modules, "imgui", made)
    stage.reaper.apis.add("ImGui_CreateContext")
    yield made
    assert made.begun == 0


def test_with_reaimgui_the_plan_is_edited_in_a_window(stage: Stage, imgui: FakeImGui) -> None:
    item = stage.reaper.add_item(stage.recording(), name="walk")
    stage.start(EDIT)
    imgui.type_in["What should it become?"] = "a harbour, at night"
    stage.reaper.tick()
    imgui.press = ["Enter"]
    stage.go_on(lambda: "walk" in imgui.texts)
    imgui.press = ["##i1-0-on", "up##i1-2"]  # off; the third before the second
    stage.reaper.tick()
    imgui.press = ["x##i1-2"]  # what is third then goes
    stage.reaper.tick()
    imgui.press = ["Add a step##i1"]
    stage.reaper.tick()
    imgui.type_in["##i1-2-do"] = "remove the sound of rain"
    stage.reaper.tick()
    imgui.press = ["Run"]
    stage.go_on()
    names = [take.name for take in item.takes if take]
    assert names[1:] == ["SmartDJ 1/2 add: seagulls (left)", "SmartDJ 2/2 remove: rain"]
    assert not stage.reaper.inputs
    assert any("× real time" in text for text in imgui.texts)


@pytest.mark.parametrize("how", ["Cancel", "Escape", "closed"])
def test_with_reaimgui_cancel_stops_the_computation(stage: Stage, imgui: FakeImGui, how: str) -> None:
    stage.use(reaper_helper.install(stage.folder, slow_s=0.2))
    stage.reaper.add_item(stage.recording())
    stage.start(NO_REVIEW)
    imgui.type_in["What should it become?"] = "a harbour"
    imgui.press = ["Run"]
    stage.go_on(lambda: any("× real time" in text for text in imgui.texts))
    if how == "closed":
        imgui.open = False
    else:
        imgui.press = [how]
    stage.go_on()
    assert stage.agent_log[-1] == "closed"
    assert not stage.made


def test_a_broken_reaimgui_falls_back_to_reapers_boxes(stage: Stage) -> None:
    stage.reaper.apis.add("ImGui_CreateContext")
    folder = stage.reaper.resource / "Scripts" / "ReaTeam Extensions" / "API"
    folder.mkdir(parents=True)
    (folder / "imgui.py").write_text("raise SystemError('for another version')\n")
    stage.reaper.add_item(stage.recording())
    stage.run(EDIT, None)
    assert stage.reaper.inputs
    sys.path.remove(str(folder))


# Installed ---------------------------------------------------------------------------------------------------


def test_scripts_need_nothing_but_the_standard_library() -> None:
    """Third-party packages crash REAPER's Python."""
    known = set(sys.stdlib_module_names) | {"reaper_python", "smartdj_reaper", "imgui"}
    for path in SCRIPTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            assert {name.partition(".")[0] for name in names} <= known, path


def test_installed_by_our_installer_the_action_finds_its_modules_and_helper(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `smartdj reaper install` puts it there, with a helper whose path isn't ASCII; REAPER may set no __file__."""
    folder = stage.folder / "Programme für Töne"
    folder.mkdir()
    program = reaper_helper.install(folder)
    (stage.reaper.resource / "reaper.ini").write_text("[reaper]\nreascript=1\n")
    resource = ResourceFolder(stage.reaper.resource, stage.reaper.resource / "reaper.ini")
    plan = plan_install(resource, Wanted(tuple(script_files()), program, System.LINUX, None), datetime.now())
    carry_out(plan, list)
    lines = (stage.reaper.resource / "reaper-kb.ini").read_text(encoding="utf-8")
    assert sorted(line.split()[3] for line in lines.splitlines()) == [
        "SMARTDJ_EDIT_ITEMS",
        "SMARTDJ_EDIT_ITEMS_LUA",
        "SMARTDJ_EDIT_ITEMS_NO_REVIEW",
        "SMARTDJ_EDIT_TRACKS",
        "SMARTDJ_NEXT_STEP_TAKE",
        "SMARTDJ_RERUN",
    ]
    stage.reaper.ext["SmartDJ", "helper"] = helper_value(program).decode()
    installed = stage.reaper.resource / "Scripts" / "SmartDJ"
    for name in [name for name in sys.modules if name.startswith("smartdj_reaper")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(SCRIPTS)])
    item = stage.reaper.add_item(stage.recording())
    script = stage.folder / "elsewhere.py"
    text = (installed / f"{NO_REVIEW}.py").read_text(encoding="utf-8")
    script.write_text('del globals()["__file__"]\n' + text, encoding="utf-8")
    stage.reaper.answers = [["a harbour"]]
    stage.reaper.run_script(script)
    assert Path(stage.reaper.host["run"].__code__.co_filename).parent == installed / "smartdj_reaper"
    stage.go_on()
    assert len(item.takes) == 4


# The record --------------------------------------------------------------------------------------------------


def test_the_recorded_session_is_what_happens(tmp_path: Path) -> None:
    """`python -m tests.record_reaper_session` writes the page again."""
    assert record_reaper_session.record(tmp_path) == record_reaper_session.DOCUMENT.read_text(encoding="utf-8")


# With the networks -------------------------------------------------------------------------------------------


@pytest.fixture
def demo(stage: Stage) -> Path:
    path = Path(stage.reaper.front.media) / "demo.wav"
    shutil.copy(ROOT / "examples" / "demo.wav", path)
    stage.use(reaper_helper.install(stage.folder, networks=True))
    return path


def test_small_models_edit_an_item_from_a_sentence(stage: Stage, demo: Path) -> None:
    item = stage.reaper.add_item(demo, length_s=2.0, D_STARTOFFS=1.0, name="demo")
    stage.run(EDIT, ["turn the dog down by 6 dB"], accept)
    assert len(item.takes) >= 2, stage.reaper.boxes
    assert any("volume: dog" in take.name for take in item.takes if take)
    result, source = samples_of(item.take), soundfile.read(demo, dtype="float64")[0][44100 : 3 * 44100]
    assert result.shape == source.shape
    assert note_of(item.take)["models"].startswith("smartdj")
    assert any("listening" in text for text in stage.reaper.help)
    assert len(stage.reaper.front.undo) == 1


def test_small_models_add_a_sound_and_leave_the_rest_exact(stage: Stage, demo: Path) -> None:
    item = stage.reaper.add_item(demo, length_s=2.0, D_STARTOFFS=2.0)
    bell = "add the sound of church bell at the left with -6 dB"
    stage.run(EDIT, ["add a bell on the left"], lambda values: [bell, *[""] * (len(values) - 1)])
    assert item.take.name == "SmartDJ 1/1 add: church bell (left)", stage.reaper.boxes
    result, source = samples_of(item.take), soundfile.read(demo, dtype="float64")[0][2 * 44100 : 4 * 44100]
    assert np.any(result != source)
    untouched = np.ones(len(source), bool)
    (marker,) = [at_s for at_s, _ in item.take.markers][:1]
    untouched[max(0, int(marker * 44100) - 1) :] = False
    np.testing.assert_array_equal(result[untouched], source[untouched])
