"""Whole folders with a quick fake agent: resuming, projects, what is left alone, failures, the summary."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from smartdj_agent import cli
from smartdj_agent.audio import Audio, AudioFormat, audio_sha256, file_sha256, read_audio, write_audio
from smartdj_agent.batch import run as run_module
from smartdj_agent.batch.manifest import FILE, Manifest, publish
from smartdj_agent.batch.rpp import Document
from smartdj_agent.batch.run import free_name, slug
from smartdj_agent.batch.summary import duration
from smartdj_agent.batch.survey import BATCH_FOLDER, Request, is_ours, survey
from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError
from smartdj_agent.events import Event, StepFinished
from smartdj_agent.models import weights
from smartdj_agent.plan import Plan, make_plan, write_plan
from tests.fake_agent import PLANNED, FakeAgent
from tests.rpp_projects import EVERYTHING, crlf, item, project

ROOT = Path(__file__).resolve().parents[1]
RATE = 8000
INSTRUCTION = "make this sound like a workshop"


def exit_code(code: ErrorCode) -> int:
    return ERROR_TABLE[code].exit_code


def sound(path: Path, seed: int, *, seconds: float = 0.25, rate: int = RATE, channels: int = 2, **kind: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.3, 0.3, (channels, int(seconds * rate))).astype(np.float32)
    write_audio(path, Audio(noise, rate, AudioFormat(**({"subtype": "PCM_16"} | kind))))
    return path


MIXED = (
    ("a16.wav", {}),
    ("b24.wav", {"subtype": "PCM_24"}),
    ("c float.wav", {"subtype": "FLOAT"}),
    ("d32.wav", {"subtype": "PCM_32"}),
    ("e8.wav", {"subtype": "PCM_U8"}),
    ("f mono.wav", {"channels": 1}),
    ("g six.wav", {"channels": 6}),
    ("h44100.wav", {"rate": 44100}),
    ("i.flac", {"container": "FLAC"}),
    ("j.aiff", {"container": "AIFF"}),
    ("k.ogg", {"container": "OGG", "subtype": "VORBIS"}),
    ("l.mp3", {"container": "MP3", "subtype": "MPEG_LAYER_III", "rate": 44100, "seconds": 0.5}),
    ("Straße 東京.wav", {}),
    ("sub/m.wav", {}),
    ("sub/deeper/n.WAV", {}),
    ("o.caf", {"container": "CAF"}),
    ("p.w64", {"container": "W64"}),
    ("twin one.wav", {}),
    ("twin two.wav", {}),
    ("q-smart.wav", {}),
)
"""Twenty recordings; the twins hold the same samples."""


def make_folder(folder: Path) -> Path:
    """Twenty recordings and five projects with media of their own."""
    for number, (name, kind) in enumerate(MIXED):
        sound(folder / name, 17 if name == "twin two.wav" else number, **kind)  # type: ignore[arg-type]
    media = folder / "projects" / "Media"
    sound(media / "birds.wav", 100, seconds=1.0)
    sound(media / "wind.wav", 101, seconds=1.0, channels=1)
    where = folder / "projects"
    plain = project(("Ambience", item(file="Media/wind.wav", guid=1, length=0.5)))
    two = item(file="Media/birds.wav", guid=1, length=0.25, name="first") + item(
        file="Media/wind.wav", guid=2, length=0.3, offset=0.1, name="second", position=2
    )
    loops = "".join(item(file="Media/birds.wav", guid=n, length=0.2, position=n, name="loop") for n in (1, 2, 3))
    (where / "everything.RPP").write_bytes(EVERYTHING.encode())
    (where / "windows.rpp").write_bytes(crlf(two_tracks(two)))
    (where / "loops.RPP").write_text(project(("Ambience", loops)))
    (where / "deep").mkdir()
    (where / "deep" / "plain.RPP").write_text(plain.replace("Media/", "../Media/"))
    (where / "midi.RPP").write_text(project(("Keys", item(source="MIDI"))))
    return folder


def two_tracks(items: str) -> str:
    return project(("Ambience 1", items), ("Foley", item(file="Media/wind.wav", guid=9, length=0.4, name="step")))


PROJECT_UNITS = 4 + 3 + 3 + 1
"""Items that can be edited: of everything, windows, loops and plain."""


class Agents(list[FakeAgent]):
    """The agents that were made, and how to make the next."""

    def __init__(self) -> None:
        super().__init__()
        self.kind: Callable[..., FakeAgent] = FakeAgent

    def calls(self, verb: str) -> int:
        return sum(call.startswith(verb) for agent in self for call in agent.calls)


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Agents:
    made = Agents()

    def make(preset: str, device: str) -> FakeAgent:
        made.append(made.kind(preset, device))
        return made[-1]

    monkeypatch.setattr(cli, "make_agent", make)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path_factory.mktemp("logs")))
    return made


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as it is before any batch."""
    return make_folder(tmp_path_factory.mktemp("original") / "work")


@pytest.fixture
def work(original: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(original, tmp_path / "work"))


@pytest.fixture(scope="module")
def finished(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that was edited in one go, by a child process."""
    folder = Path(shutil.copytree(original, tmp_path_factory.mktemp("finished") / "work"))
    log = folder.parent / "log"
    done = child(folder, log)
    assert done.returncode == exit_code(ErrorCode.BATCH_PARTIAL), done.stderr  # one item's media is missing
    return folder


def batch(*arguments: object) -> int:
    return cli.main(["batch", *map(str, arguments)])


def child_command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "tests.batch_child", "batch", str(folder), INSTRUCTION, "--yes", *more]


def child_environment(log: Path, slow_s: float) -> dict[str, str]:
    return {**os.environ, "BATCH_LOG": str(log), "BATCH_SLOW_S": str(slow_s), "PYTHONPATH": str(ROOT)}


def child(folder: Path, log: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        child_command(folder, *more),
        cwd=ROOT,
        env=child_environment(log, 0.0),
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def files_in(folder: Path) -> dict[str, str]:
    """Hash of every file, without the batch's own; of OGG the samples', since each is given a random number."""
    return {
        path.relative_to(folder).as_posix(): audio_sha256(read_audio(path))
        if path.suffix == ".ogg"
        else file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and BATCH_FOLDER not in path.relative_to(folder).parts
    }


def summary_of(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / BATCH_FOLDER / "summary.json").read_text())
    return loaded


def records(folder: Path) -> list[dict[str, Any]]:
    text = (folder / BATCH_FOLDER / FILE).read_text()
    return [json.loads(line) for line in text.splitlines()]


# --- a whole folder


def test_every_recording_and_every_project_gets_its_result(finished: Path) -> None:
    made = files_in(finished)
    for name, kind in MIXED:
        path = finished / name
        result = path.with_name(f"{path.stem}-smartdj{path.suffix}")
        before, after = soundfile.info(path), soundfile.info(result)
        assert (after.samplerate, after.channels, after.frames) == (before.samplerate, before.channels, before.frames)
        assert (after.format, after.subtype) == (before.format, before.subtype), (name, kind)
    projects = {name for name in made if name.lower().endswith(".rpp") and "-smartdj" in name}
    assert projects == {
        "projects/everything-smartdj.RPP",
        "projects/windows-smartdj.rpp",
        "projects/loops-smartdj.RPP",
        "projects/deep/plain-smartdj.RPP",
    }
    assert not [name for name in made if "/." in f"/{name}" or name.endswith(".part") or "smartdj-2." in name]
    assert os.listdir(finished / BATCH_FOLDER / "work") == []
    counts = summary_of(finished)["counts"]
    assert (counts["done"], counts["failed"], counts["waiting"]) == (20 + PROJECT_UNITS, 1, 0)


def test_sources_are_untouched(original: Path, finished: Path) -> None:
    before, after = files_in(original), files_in(finished)
    assert {name: after[name] for name in before} == before


def test_takes_play_the_items_samples_step_by_step(finished: Path) -> None:
    where = finished / "projects"
    document = Document.parse((where / "windows-smartdj.rpp").read_bytes())
    second = document.tracks[0].items[1]
    assert [take.name for take in second.takes] == [
        "second",
        "SmartDJ 1/3 remove: dog barking",
        "SmartDJ 2/3 volume: wind, strong and steady (-6 dB)",
        "SmartDJ 3/3 add: seagulls (left, +3 dB)",
    ]
    assert second.active == 3
    source = read_audio(where / "Media" / "wind.wav").samples[:, 800 : 800 + 2400]
    halved = source.copy()
    for take in second.takes[1:3]:
        assert take.source is not None
        halved[:, 600:1800] *= 0.25  # what the fake does
        audio = read_audio(where / take.source.file)
        assert audio.format == AudioFormat("WAV", "FLOAT")
        np.testing.assert_array_equal(audio.samples, halved)
    assert b"\n" not in (where / "windows-smartdj.rpp").read_bytes().replace(b"\r\n", b"")


def test_a_projects_copy_differs_only_by_its_new_takes(finished: Path) -> None:
    for path in (finished / "projects").rglob("*-smartdj.[Rr][Pp][Pp]"):
        source = path.with_name(path.name.replace("-smartdj", "")).read_bytes()
        document = Document.parse(path.read_bytes())
        drop: set[int] = set()
        sel: set[int] = set()
        for track in document.tracks:
            for found in track.items:
                ours = [take for take in found.takes if take.name.startswith("SmartDJ ")]
                if ours:
                    first = ours[0].line
                    assert first is not None
                    drop |= set(range(first, found.block.stop))
        kept = [line for index, line in enumerate(document.lines) if index not in drop]
        old = source.splitlines(keepends=True)
        assert len(kept) == len(old)
        for new_line, old_line in zip(kept, old, strict=True):
            if new_line != old_line:
                assert (old_line.strip(), new_line.strip()) == (b"TAKE SEL", b"TAKE")
                sel.add(1)
        assert bool(sel) == ("everything" in path.name)


def test_items_that_are_alike_are_computed_once(finished: Path) -> None:
    document = Document.parse((finished / "projects" / "loops-smartdj.RPP").read_bytes())
    files = [[take.source.file for take in found.takes if take.source] for found in document.tracks[0].items]
    assert files[0] == files[1] == files[2]
    log = (finished.parent / "log").read_text().splitlines()
    assert len(log) == len(set(log))
    assert file_sha256(finished / "twin one-smartdj.wav") == file_sha256(finished / "twin two-smartdj.wav")


def test_what_is_left_alone_is_told_with_its_reason(finished: Path) -> None:
    (everything,) = [p for p in summary_of(finished)["projects"] if p["path"] == "projects/everything.RPP"]
    reasons = {row["label"]: row.get("reason") or row["state"] for row in everything["items"]}
    prefix = "projects/everything.RPP › Odd things › item "
    assert reasons[f"{prefix}1 at 0.000 s (section)"] == "its source is a section or reversed"
    assert reasons[f"{prefix}3 at 2.000 s (a melody)"] == "it is a MIDI item"
    assert reasons[f"{prefix}4 at 3.000 s"] == "it is an empty item"
    assert reasons[f"{prefix}10 at 9.000 s (gone)"] == "its media is missing: Media/gone.wav"
    assert reasons[f"{prefix}12 at 11.000 s (silent things)"] == "done"
    assert reasons["projects/everything.RPP › Track 3 › item 1 at 0.000 s (frozen)"] == "its track is frozen"
    left = [row["id"] for row in summary_of(finished)["recordings"] if row["state"] == "left_out"]
    assert left == ["projects/Media/birds.wav", "projects/Media/wind.wav"]


def test_the_page_is_readable_and_its_links_lead_somewhere(finished: Path) -> None:
    page = (finished / BATCH_FOLDER / "summary.html").read_text(encoding="utf-8")
    assert f"<b>{20 + PROJECT_UNITS}</b>done" in page
    assert "its media is missing: Media/gone.wav" in page
    from urllib.parse import unquote

    links = {unquote(link) for link in re.findall(r'(?:href|src)="([^"]+)"', page)}
    assert len(links) > 40
    assert all((finished / BATCH_FOLDER / link).is_file() for link in links)


# --- again, and after a crash


def test_a_second_run_does_nothing(finished: Path, tmp_path: Path) -> None:
    before = files_in(finished)
    log = tmp_path / "log"
    done = child(finished, log)
    assert done.returncode == exit_code(ErrorCode.BATCH_PARTIAL)
    assert not log.exists()
    assert files_in(finished) == before
    assert summary_of(finished)["counts"]["done_before"] == 20 + PROJECT_UNITS


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_killed_again_and_again_nothing_is_lost_and_nothing_done_twice(
    finished: Path, work: Path, tmp_path: Path, jobs: str
) -> None:
    folder = work
    manifest = folder / BATCH_FOLDER / FILE
    known: set[str] = set()
    for run in range(3):
        log = tmp_path / f"log-{run}"
        with subprocess.Popen(
            child_command(folder, "--jobs", jobs),
            cwd=ROOT,
            env=child_environment(log, 0.002),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            goal = len(known) + 30 + 5 * run
            while process.poll() is None and lines_of(manifest) < goal:
                time.sleep(0.002)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert not [name for name in files_in(folder) if name.endswith(".part")]
        for name, digest in files_in(folder).items():
            if "-smartdj" in name:
                assert digest == files_in(finished)[name]  # whole, and what it would be without a crash
        known = set(manifest.read_text().splitlines()[: lines_of(manifest)])
    before = records(folder) if manifest.read_bytes().endswith(b"\n") else records_of_whole_lines(manifest)
    log = tmp_path / "log-last"
    done = child(folder, log)
    assert done.returncode == exit_code(ErrorCode.BATCH_PARTIAL), done.stderr
    assert files_in(folder) == files_in(finished)
    assert os.listdir(folder / BATCH_FOLDER / "work") == []
    # nothing recorded is recorded again
    all_records = records(folder)
    steps = [(record["work"], record["index"]) for record in all_records if record["record"] == "step"]
    units = [record["unit"] for record in all_records if record["record"] == "done"]
    plans = [record["key"] for record in all_records if record["record"] == "plan"]
    assert len(steps) == len(set(steps))
    assert len(units) == len(set(units)) == 20 + PROJECT_UNITS
    assert len(plans) == len(set(plans))
    assert len(before) < len(all_records)
    # what was computed twice is at most what was under way at each kill
    computed = [line for path in sorted(tmp_path.glob("log-*")) for line in path.read_text().splitlines()]
    assert len(computed) - len(set(computed)) <= 3 * int(jobs)


def lines_of(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def records_of_whole_lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def test_ctrl_c_stops_within_a_step_and_can_be_taken_up(finished: Path, work: Path, tmp_path: Path) -> None:
    folder = work
    log = tmp_path / "log"
    with subprocess.Popen(
        child_command(folder),
        cwd=ROOT,
        env=child_environment(log, 0.05),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    ) as process:
        assert process.stderr is not None
        while not any(record["record"] == "done" for record in records_of_whole(folder)):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "error: stopped; " in told
    assert "run the same command again to go on" in told
    summary = summary_of(folder)
    assert summary["state"] == "stopped"
    assert summary["counts"]["waiting"] > 0
    assert child(folder, log).returncode == exit_code(ErrorCode.BATCH_PARTIAL)
    assert files_in(folder) == files_in(finished)


def records_of_whole(folder: Path) -> list[dict[str, Any]]:
    path = folder / BATCH_FOLDER / FILE
    return records_of_whole_lines(path) if path.exists() else []


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three recordings of different rates."""
    folder = tmp_path / "three"
    for number, rate in enumerate((8000, 11025, 16000)):
        sound(folder / f"{number}.wav", number, rate=rate)
    return folder


def test_only_what_is_new_or_changed_is_done(three: Path, agents: Agents) -> None:
    assert batch(three, INSTRUCTION, "--yes") == 0
    assert agents.calls("apply") == 3
    sound(three / "new.wav", 9)
    sound(three / "other.wav", 10)
    (three / "1.wav").unlink()
    os.rename(three / "other.wav", three / "1.wav")
    assert batch(three, INSTRUCTION, "--yes") == 0
    assert agents.calls("apply") == 5
    assert {"new-smartdj.wav", "1-smartdj.wav", "1-smartdj-2.wav"} <= set(files_in(three))


def test_a_result_that_was_taken_away_is_made_again(three: Path, agents: Agents) -> None:
    assert batch(three, INSTRUCTION, "--yes") == 0
    digest = file_sha256(three / "1-smartdj.wav")
    (three / "1-smartdj.wav").unlink()
    assert batch(three, INSTRUCTION, "--yes") == 0
    assert agents.calls("apply") == 4
    assert agents.calls("plan") == 3  # the plan was kept
    assert file_sha256(three / "1-smartdj.wav") == digest


@pytest.mark.parametrize(
    "other", [["another thing"], [INSTRUCTION, "--seed", "1"], [INSTRUCTION, "--mode", "generate"]]
)
def test_another_request_makes_other_results_beside_the_first(three: Path, agents: Agents, other: list[str]) -> None:
    assert batch(three, INSTRUCTION, "--yes") == 0
    first = files_in(three)
    assert batch(three, *other, "--yes") == 0
    second = files_in(three)
    assert {name: second[name] for name in first} == first
    assert set(second) - set(first) == {f"{number}-smartdj-2.wav" for number in range(3)}
    assert agents.calls("plan") == 6


def test_the_folder_can_move(three: Path, agents: Agents) -> None:
    assert batch(three, INSTRUCTION, "--yes") == 0
    moved = three.rename(three.with_name("elsewhere"))
    assert batch(moved, INSTRUCTION, "--yes") == 0
    assert agents.calls("apply") == 3


def test_a_stopped_plan_goes_on_after_its_last_step(three: Path, agents: Agents) -> None:
    class Dying(FakeAgent):
        def apply(self, *arguments: Any, **more: Any) -> Iterator[Event]:
            for event in super().apply(*arguments, **more):
                yield event
                if isinstance(event, StepFinished) and event.index == 1:
                    raise KeyboardInterrupt

    agents.kind = Dying
    assert batch(three, INSTRUCTION, "--yes") == 130
    assert [name for name in files_in(three) if "smartdj" in name] == []
    agents.kind = FakeAgent
    assert batch(three, INSTRUCTION, "--yes") == 0
    steps = [record["index"] for record in records(three) if record["record"] == "step"]
    assert steps == [0, 1, 2] * 3
    straight = three.with_name("straight")
    straight.mkdir()
    for number in range(3):
        shutil.copy2(three / f"{number}.wav", straight)
    assert batch(straight, INSTRUCTION, "--yes") == 0
    assert files_in(straight) == files_in(three)


def test_generate_mode_begins_a_stopped_plan_again(three: Path, agents: Agents) -> None:
    class Dying(FakeAgent):
        def apply(self, *arguments: Any, **more: Any) -> Iterator[Event]:
            for event in super().apply(*arguments, **more):
                yield event
                if isinstance(event, StepFinished):
                    raise KeyboardInterrupt

    agents.kind = Dying
    assert batch(three, INSTRUCTION, "--yes", "--mode", "generate") == 130
    agents.kind = FakeAgent
    assert batch(three, INSTRUCTION, "--yes", "--mode", "generate") == 0
    steps = [record["index"] for record in records(three) if record["record"] == "step"]
    assert steps == [0] + [0, 1, 2] * 3


def test_two_batches_in_one_folder_are_kept_apart(
    three: Path, agents: Agents, capsys: pytest.CaptureFixture[str]
) -> None:
    with Manifest(three / BATCH_FOLDER, three):
        assert batch(three, INSTRUCTION, "--yes") == exit_code(ErrorCode.USAGE)
    assert "another batch is at work" in capsys.readouterr().err
    assert batch(three, INSTRUCTION, "--yes") == 0


# --- failures


class Fussy(FakeAgent):
    """Can't edit recordings of 11025 Hz."""

    trouble: BaseException = SmartDJError(ErrorCode.OUT_OF_MEMORY, "there is not enough memory", "edit a shorter part")

    def apply(self, audio: Audio, *arguments: Any, **more: Any) -> Iterator[Event]:
        if audio.sample_rate == 11025:
            raise self.trouble
        yield from super().apply(audio, *arguments, **more)


@pytest.mark.parametrize("trouble", [Fussy.trouble, RuntimeError("boom"), MemoryError()])
def test_one_failure_does_not_stop_the_others(
    three: Path,
    agents: Agents,
    trouble: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Fussy, "trouble", trouble)
    agents.kind = Fussy
    assert batch(three, INSTRUCTION, "--yes") == exit_code(ErrorCode.BATCH_PARTIAL)
    told = capsys.readouterr().err
    assert "2/3 1.wav: failed: " in told
    assert "error: 1 could not be done; everything else is" in told
    assert {"0-smartdj.wav", "2-smartdj.wav"} < set(files_in(three))
    agents.kind = FakeAgent
    assert batch(three, INSTRUCTION, "--yes") == 0
    assert summary_of(three)["counts"] | {"done": 1, "done_before": 2, "failed": 0} == summary_of(three)["counts"]


def test_a_failure_that_meets_all_ends_the_run(three: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fussy, "trouble", SmartDJError(ErrorCode.DISK_FULL, "no space left", "free some space"))
    agents.kind = Fussy
    assert batch(three, INSTRUCTION, "--yes") == exit_code(ErrorCode.DISK_FULL)
    assert (summary_of(three)["state"], summary_of(three)["error"]["code"]) == ("failed", "disk_full")
    assert summary_of(three)["counts"]["waiting"] == 2
    agents.kind = FakeAgent
    assert batch(three, INSTRUCTION, "--yes") == 0


def test_bad_files_are_told_and_the_rest_is_done(
    three: Path, agents: Agents, capsys: pytest.CaptureFixture[str]
) -> None:
    (three / "broken.wav").write_bytes(b"RIFF nothing")
    (three / "empty.flac").touch()
    (three / "foreign.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    (three / "bad.RPP").write_bytes(b"<REAPER_PROJECT\n  <TRACK\n>\n")
    (three / "gone.wav").symlink_to(three / "nowhere.wav")
    (three / "notes.txt").write_text("not looked at")
    assert batch(three, INSTRUCTION, "--yes") == exit_code(ErrorCode.BATCH_PARTIAL)
    rows = {row["id"]: row for row in summary_of(three)["recordings"]}
    codes = {name: row["error"]["code"] for name, row in rows.items() if row["state"] == "failed"}
    assert codes == {
        "broken.wav": "audio_unreadable",
        "empty.flac": "audio_empty",
        "foreign.m4a": "audio_unsupported",
        "bad.RPP": "rpp_invalid",
        "gone.wav": "audio_unreadable",
    }
    assert "line 3: the file ends inside <REAPER_PROJECT of line 1" in capsys.readouterr().err
    assert summary_of(three)["counts"]["done"] == 3


def test_locked_files_are_told(three: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    (three / "p.RPP").write_text(project(("T", item(file="2.wav"))))
    usual = Path.open

    def locked(self: Path, *arguments: Any, **more: Any) -> Any:  # as on Windows: root may open everything here
        if self.name in ("1.wav", "p.RPP"):
            raise PermissionError(13, "Permission denied")
        return usual(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", locked)
    assert batch(three, INSTRUCTION, "--yes") == exit_code(ErrorCode.BATCH_PARTIAL)
    monkeypatch.undo()
    rows = {row["id"]: row for row in summary_of(three)["recordings"]}
    assert "permission denied" in rows["1.wav"]["error"]["message"]
    assert rows["p.RPP"]["error"]["message"] == "p.RPP: the project can't be opened: Permission denied"
    assert summary_of(three)["counts"]["done"] == 2


def test_a_file_that_changes_meanwhile_is_not_edited(three: Path, agents: Agents) -> None:
    class Meddling(FakeAgent):
        def plan(self, *arguments: Any, **more: Any) -> Iterator[Event]:
            sound(three / "fresh.wav", 5)
            os.replace(three / "fresh.wav", three / "2.wav")
            yield from super().plan(*arguments, **more)

    agents.kind = Meddling
    assert batch(three, INSTRUCTION, "--yes") == exit_code(ErrorCode.BATCH_PARTIAL)
    (row,) = [row for row in summary_of(three)["recordings"] if row["state"] == "failed"]
    assert row["error"]["message"] == "2.wav changed while the batch was at work"
    assert "2-smartdj.wav" not in files_in(three)


def test_a_project_that_changes_meanwhile_is_not_copied(tmp_path: Path, agents: Agents) -> None:
    folder = tmp_path / "work"
    sound(folder / "a.wav", 1, seconds=1.0)
    path = folder / "p.RPP"
    path.write_text(project(("T", item())))

    class Saving(FakeAgent):
        def plan(self, *arguments: Any, **more: Any) -> Iterator[Event]:
            path.write_text(project(("T", item()), ("U", "")))
            yield from super().plan(*arguments, **more)

    agents.kind = Saving
    assert batch(folder, INSTRUCTION, "--yes") == exit_code(ErrorCode.BATCH_PARTIAL)
    assert "p-smartdj.RPP" not in files_in(folder)
    assert summary_of(folder)["projects"][0]["error"]["message"] == "p.RPP changed while the batch was at work"
    agents.kind = FakeAgent
    assert batch(folder, INSTRUCTION, "--yes") == 0
    assert agents.calls("apply") == 1
    assert len(Document.parse((folder / "p-smartdj.RPP").read_bytes()).tracks[0].items[0].takes) == 4


def test_media_that_comes_back_makes_a_second_copy(tmp_path: Path, agents: Agents) -> None:
    folder = tmp_path / "work"
    sound(folder / "a.wav", 1, seconds=1.0)
    (folder / "p.RPP").write_text(project(("T", item() + item(file="b.wav", guid=2))))
    assert batch(folder, INSTRUCTION, "--yes") == exit_code(ErrorCode.BATCH_PARTIAL)
    first = (folder / "p-smartdj.RPP").read_bytes()
    sound(folder / "b.wav", 2, seconds=1.0)
    assert batch(folder, INSTRUCTION, "--yes") == 0
    assert (folder / "p-smartdj.RPP").read_bytes() == first
    second = Document.parse((folder / "p-smartdj-2.RPP").read_bytes())
    assert [len(found.takes) for found in second.tracks[0].items] == [4, 4]
    assert agents.calls("apply") == 2


def test_an_mp3_item_is_edited_and_its_doubt_told(tmp_path: Path, agents: Agents) -> None:
    folder = tmp_path / "work"
    sound(folder / "a.mp3", 1, seconds=1.0, rate=44100, container="MP3", subtype="MPEG_LAYER_III")
    text = item(file="a.mp3", source="MP3", length=0.5).replace('"a.mp3"', '"a.mp3" 1')
    (folder / "p.RPP").write_text(project(("T", text)))
    assert batch(folder, INSTRUCTION, "--yes") == 0
    (row,) = summary_of(folder)["projects"][0]["items"]
    assert row["notices"] == ["its media is MP3: where it begins may differ from REAPER's decoder by some milliseconds"]
    assert read_audio(folder / row["outputs"][-1]).n_samples == 22050


# --- choices


def test_tracks_are_chosen_by_name_and_pattern(tmp_path: Path, agents: Agents) -> None:
    folder = tmp_path / "work"
    sound(folder / "a.wav", 1, seconds=3.0)
    tracks = [("Ambience 1", 1), ("ambience 2", 2), ("Foley [wet]", 3), ("", 4)]
    (folder / "p.RPP").write_text(
        project(*((name, item(guid=number, offset=number / 4, length=0.2)) for name, number in tracks))
    )
    request = Request(INSTRUCTION)

    def chosen(*patterns: str) -> list[str]:
        found = survey(folder, replace(request, tracks=patterns))
        return [unit.label.split(" › ")[1] for unit in found.units if unit.project]

    assert chosen() == ["Ambience 1", "ambience 2", "Foley [wet]", "Track 4"]
    assert chosen("AMB*") == ["Ambience 1", "ambience 2"]
    assert chosen("Foley [wet]") == ["Foley [wet]"]
    assert chosen("*2", "Track 4") == ["ambience 2", "Track 4"]
    assert chosen("Dialogue") == []
    assert batch(folder, INSTRUCTION, "--yes", "--track", "foley*", "--track", "Ambience 1") == 0
    document = Document.parse((folder / "p-smartdj.RPP").read_bytes())
    assert [len(track.items[0].takes) for track in document.tracks] == [4, 1, 4, 1]


def test_a_plan_is_carried_out_without_planning(three: Path, agents: Agents, tmp_path: Path) -> None:
    plan = make_plan(PLANNED[:1], source_sha256="0" * 64)
    write_plan(tmp_path / "plan.yaml", plan)
    assert batch(three, "--plan", tmp_path / "plan.yaml") == 0
    assert (agents.calls("plan"), agents.calls("apply 1")) == (0, 3)


def test_media_of_projects_can_be_edited_too(tmp_path: Path, agents: Agents) -> None:
    folder = tmp_path / "work"
    sound(folder / "a.wav", 1, seconds=1.0)
    (folder / "p.RPP").write_text(project(("T", item())))
    assert batch(folder, INSTRUCTION, "--yes") == 0
    assert "a-smartdj.wav" not in files_in(folder)
    assert batch(folder, INSTRUCTION, "--yes", "--with-media") == 0
    assert "a-smartdj.wav" in files_in(folder)
    assert agents.calls("apply") == 2


def test_dry_run_shows_everything_and_changes_nothing(
    work: Path, agents: Agents, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = work
    before = sorted(str(path) for path in folder.rglob("*"))
    assert batch(folder, INSTRUCTION, "--dry-run") == 0
    shown = capsys.readouterr()
    assert sorted(str(path) for path in folder.rglob("*")) == before
    assert agents == []
    rows = [line.split("\t") for line in shown.out.splitlines()]
    assert len([row for row in rows if row[2] == "to do"]) == 20 + PROJECT_UNITS
    assert ["projects/Media/birds.wav", "", "left out: it is media of projects/everything.RPP"] in rows
    assert "31 of 31 to do (" in shown.err
    assert batch(folder, INSTRUCTION, "--dry-run", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(line["state"] == "to_do" for line in lines) == 20 + PROJECT_UNITS


def test_out_is_where_manifest_and_summary_go(three: Path, agents: Agents, tmp_path: Path) -> None:
    out = tmp_path / "records"
    assert batch(three, INSTRUCTION, "--yes", "--out", out) == 0
    assert sorted(path.name for path in out.iterdir() if path.is_file() and path.suffix != ".lock") == [
        "manifest.jsonl",
        "summary.html",
        "summary.json",
    ]
    assert not (three / BATCH_FOLDER).exists()
    assert len(files_in(three)) == 6


def test_the_batchs_own_files_are_not_edited_wherever_they_lie(three: Path, agents: Agents) -> None:
    class Dying(FakeAgent):
        def apply(self, *arguments: Any, **more: Any) -> Iterator[Event]:
            for event in super().apply(*arguments, **more):
                yield event
                if isinstance(event, StepFinished):
                    raise KeyboardInterrupt

    agents.kind = Dying
    assert batch(three, INSTRUCTION, "--yes", "--out", three / "log") == 130
    assert list((three / "log").rglob("*.wav"))
    agents.kind = FakeAgent
    assert batch(three, INSTRUCTION, "--yes", "--out", three / "log") == 0
    assert sorted(path.name for path in three.rglob("*.wav")) == sorted(
        f"{number}{end}.wav" for number in range(3) for end in ("", "-smartdj")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FOLDER"], "give an instruction or --plan"),
        (["FOLDER", INSTRUCTION, "--plan", "x.yaml"], "give an instruction or --plan, not both"),
        (["FOLDER/0.wav", INSTRUCTION], "is no folder"),
        (["FOLDER/empty", INSTRUCTION], "there is nothing to edit in"),
        (["FOLDER", INSTRUCTION], "nobody is there to look at the plans; nothing was carried out"),
        (["FOLDER", " "], "the instruction is empty"),
        (["FOLDER", INSTRUCTION, "--jobs", "0"], "--jobs"),
    ],
)
def test_wrong_usage_is_told_before_anything_happens(
    three: Path, agents: Agents, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (three / "empty").mkdir()
    status = batch(*(argument.replace("FOLDER", str(three)) for argument in arguments))
    assert status in (exit_code(ErrorCode.USAGE), exit_code(ErrorCode.INSTRUCTION_EMPTY))
    assert message in capsys.readouterr().err
    assert agents == []
    assert len(files_in(three)) == 3
    assert not (three / BATCH_FOLDER).exists()


def test_an_instruction_that_is_unclear_fails_by_name(three: Path, agents: Agents) -> None:
    assert batch(three, "unclear", "--yes") == exit_code(ErrorCode.BATCH_PARTIAL)
    row = summary_of(three)["recordings"][0]
    assert row["error"]["message"] == "0.wav: Louder or quieter? The sentence asks for both."
    assert '"make it quieter"' in row["error"]["hint"]


def test_nothing_to_change_is_no_failure(three: Path, agents: Agents) -> None:
    assert batch(three, "nothing", "--yes") == 0
    assert summary_of(three)["counts"]["nothing"] == 3
    assert len(files_in(three)) == 3
    assert batch(three, "nothing", "--yes") == 0
    assert agents.calls("plan") == 3


# --- at a terminal


def at_terminal(folder: Path, log: Path, answers: str) -> tuple[int, str]:
    """Run the child at a terminal of its own and type the answers when it asks."""
    process_id, terminal = pty.fork()
    if process_id == 0:  # pragma: no cover -- the child
        os.chdir(ROOT)
        command = [part for part in child_command(folder) if part != "--yes"]
        os.execvpe(command[0], command, {**child_environment(log, 0.0), "COLUMNS": "160", "TERM": "xterm"})
    shown = b""
    typed = False
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
        if not typed and b"[c]ancel: " in shown:
            os.write(terminal, answers.encode())
            typed = True
    _, status = os.waitpid(process_id, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


def test_all_plans_are_shown_and_asked_for_once(three: Path, tmp_path: Path) -> None:
    status, shown = at_terminal(three, tmp_path / "log", "what\nd 2\na\n")
    assert status == 0
    assert shown.count("add seagulls at the left with 3 dB") == 3
    assert "not understood; a number is from 1 to 3" in shown
    assert [name for name in files_in(three) if "smartdj" in name] == ["0-smartdj.wav", "2-smartdj.wav"]
    log = (tmp_path / "log").read_text()
    assert (log.count("plan"), log.count("step")) == (3, 6)
    status, shown = at_terminal(three, tmp_path / "log", "a\n")
    assert status == 0
    assert shown.count("add seagulls at the left with 3 dB") == 1
    log = (tmp_path / "log").read_text()
    assert (log.count("plan"), log.count("step")) == (3, 9)


def test_cancelling_carries_nothing_out_and_keeps_the_plans(three: Path, tmp_path: Path) -> None:
    status, _ = at_terminal(three, tmp_path / "log", "c\n")
    assert status == 130
    assert len(files_in(three)) == 3
    assert batch_records(three, "plan") == 3
    assert batch_records(three, "done") == 0


def batch_records(folder: Path, kind: str) -> int:
    return sum(record["record"] == kind for record in records(folder))


# --- events, jobs


def test_events_tell_everything(three: Path, agents: Agents, capsys: pytest.CaptureFixture[str]) -> None:
    agents.kind = Fussy
    assert batch(three, INSTRUCTION, "--yes", "--json") == exit_code(ErrorCode.BATCH_PARTIAL)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[0] == "batch_started"
    assert kinds[-2:] == ["batch_finished", "error"]
    assert lines[0]["units"] == ["0.wav", "1.wav", "2.wav"]
    assert (kinds.count("unit_planned"), kinds.count("unit_finished"), kinds.count("unit_failed")) == (3, 2, 1)
    fractions = [line["fraction"] for line in lines if line["event"] == "unit_progress" and line["unit"] == "0.wav"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    (finished_event,) = [line for line in lines if line["event"] == "batch_finished"]
    assert finished_event["counts"]["failed"] == 1


def test_as_many_at_a_time_as_the_agent_allows(three: Path, agents: Agents, capsys: pytest.CaptureFixture[str]) -> None:
    class Wide(FakeAgent):
        max_parallel = 3

        def __init__(self, preset: str, device: str) -> None:
            super().__init__(preset, device)
            self.together = threading.Barrier(3, timeout=20)

        def apply(self, *arguments: Any, **more: Any) -> Iterator[Event]:
            self.together.wait()
            yield from super().apply(*arguments, **more)

    agents.kind = Wide
    assert batch(three, INSTRUCTION, "--yes", "--jobs", "8") == 0
    assert "note: 3 at a time is what" in capsys.readouterr().err
    assert len(agents) == 1
    assert summary_of(three)["counts"]["done"] == 3


def test_a_gpu_works_on_one_at_a_time(three: Path, agents: Agents, capsys: pytest.CaptureFixture[str]) -> None:
    agents.kind = lambda preset, device: FakeAgent(preset, "cuda")
    assert batch(three, INSTRUCTION, "--yes", "--jobs", "2") == 0
    assert "note: 1 at a time is what the device allows" in capsys.readouterr().err
    assert len(agents) == 1


def test_on_a_cpu_each_at_a_time_has_its_own_agent(
    three: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "cores", lambda: 2)
    barrier = threading.Barrier(2, timeout=20)

    class Meeting(FakeAgent):
        def apply(self, audio: Audio, *arguments: Any, **more: Any) -> Iterator[Event]:
            if audio.sample_rate != RATE:  # the first is alone
                barrier.wait()
            yield from super().apply(audio, *arguments, **more)

    agents.kind = Meeting
    assert batch(three, INSTRUCTION, "--yes", "--jobs", "2") == 0
    assert len(agents) == 2
    assert summary_of(three)["counts"]["done"] == 3


def test_stopping_stops_all_that_are_at_work(three: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "cores", lambda: 2)
    stopped = threading.Event()

    class Stopped(FakeAgent):
        def apply(self, audio: Audio, *arguments: Any, **more: Any) -> Iterator[Event]:
            if audio.sample_rate == 16000:
                raise KeyboardInterrupt
            stream = super().apply(audio, *arguments, **more)
            try:
                while audio.sample_rate == 11025:
                    yield next(stream)
                    stream = super().apply(audio, *arguments, **more)  # never ends by itself
            finally:
                if audio.sample_rate == 11025:
                    stopped.set()
            yield from stream

    agents.kind = Stopped
    assert batch(three, INSTRUCTION, "--yes", "--jobs", "2") == 130
    assert stopped.is_set()
    assert summary_of(three)["counts"]["done"] == 1
    agents.kind = FakeAgent
    assert batch(three, INSTRUCTION, "--yes") == 0


def test_a_failure_that_meets_all_ends_parallel_runs_too(
    three: Path, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fussy, "trouble", SmartDJError(ErrorCode.SERVER_UNREACHABLE, "gone", "start it"))
    monkeypatch.setattr(Fussy, "max_parallel", 2, raising=False)
    agents.kind = Fussy
    assert batch(three, INSTRUCTION, "--yes", "--jobs", "2") == exit_code(ErrorCode.SERVER_UNREACHABLE)
    monkeypatch.undo()


# --- parts


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("walk-smartdj.wav", True),
        ("walk-smartdj-2.wav", True),
        ("scene-smartdj", True),
        ("scene-smartdj-12.RPP", True),
        (BATCH_FOLDER, True),
        ("smartdj.wav", False),
        ("walk-smartdjs.wav", False),
        ("my-smartdj-take.wav", False),
    ],
)
def test_our_own_results_are_known_by_their_names(name: str, ours: bool) -> None:
    assert is_ours(name) is ours


def test_results_of_an_earlier_batch_are_not_edited(three: Path, agents: Agents) -> None:
    assert batch(three, INSTRUCTION, "--yes") == 0
    (three / ".hidden.wav").write_bytes((three / "0.wav").read_bytes())
    found = survey(three, Request("another"))
    assert [unit.id for unit in found.units] == ["0.wav", "1.wav", "2.wav"]


def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    assert free_name(tmp_path / "a.wav") == tmp_path / "a.wav"
    (tmp_path / "a.wav").touch()
    (tmp_path / "a-2.wav").symlink_to(tmp_path / "nowhere")
    assert free_name(tmp_path / "a.wav") == tmp_path / "a-3.wav"
    assert slug("Dog: 'bark' / \"loud\"") == "Dog-bark-loud"
    assert slug("…") == "item"
    assert len(slug("x" * 300)) == 60


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    with Manifest(tmp_path / "m", tmp_path) as manifest:
        manifest.append({"record": "plan", "key": "k", "plan": {"a": 1}})
    path = tmp_path / "m" / FILE
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"record": "pl')
    with Manifest(tmp_path / "m", tmp_path, write=False) as manifest:
        assert manifest.plan("k") == {"a": 1}
    with Manifest(tmp_path / "m", tmp_path) as manifest:
        manifest.append({"record": "plan", "key": "l", "plan": {"a": 2}})
    assert [json.loads(line)["record"] for line in path.read_text().splitlines()] == ["manifest", "plan", "plan"]


def test_a_manifest_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"record": "manifest", "version": 99}\n')
    with pytest.raises(SmartDJError) as caught, Manifest(tmp_path, tmp_path):
        pass
    assert caught.value.code is ErrorCode.PLAN_VERSION


def test_results_never_take_the_name_of_another_file(tmp_path: Path) -> None:
    staged, final = tmp_path / "staged", tmp_path / "folder" / "final"
    staged.write_bytes(b"ours")
    publish(staged, final)
    assert (final.read_bytes(), staged.exists()) == (b"ours", False)
    staged.write_bytes(b"other")
    with pytest.raises(SmartDJError) as caught:
        publish(staged, final)
    assert caught.value.code is ErrorCode.OUTPUT_EXISTS
    assert final.read_bytes() == b"ours"
    staged.write_bytes(b"ours")
    publish(staged, final)  # the run before died between the two names
    assert not staged.exists()


def test_results_are_copied_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    staged, final = tmp_path / "staged", tmp_path / "final"
    staged.write_bytes(b"ours")
    publish(staged, final)
    assert final.read_bytes() == b"ours"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final"]


@pytest.mark.parametrize(("seconds", "text"), [(7.6, "8 s"), (185, "3 min 5 s"), (7800, "2 h 10 min")])
def test_times_are_told_shortly(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_every_stopping_code_is_in_the_table() -> None:
    assert set(ERROR_TABLE) > run_module.STOPPING


# --- with the real networks


@pytest.mark.skipif(
    not {"small/codec", "small/editor", "small/listener"} <= {m.name for m in weights.list_installed()},
    reason="the small models aren't installed",
)
def test_the_real_agent_edits_a_recording_and_an_item(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    sound(folder / "walk.wav", 1, seconds=1.0, rate=16000)
    sound(folder / "media" / "rain.wav", 2, seconds=2.0, rate=16000)
    (folder / "scene.RPP").write_text(project(("T", item(file="media/rain.wav", length=1.0, offset=0.5))))
    write_plan(tmp_path / "plan.yaml", plan_for_all())
    assert batch(folder, "--plan", tmp_path / "plan.yaml", "--device", "cpu") == 0
    before = read_audio(folder / "media" / "rain.wav").samples[:, 8000:24000]
    takes = Document.parse((folder / "scene-smartdj.RPP").read_bytes()).tracks[0].items[0].takes
    assert len(takes) == 2
    source = takes[1].source
    assert source is not None
    after = read_audio(folder / source.file).samples
    assert after.shape == before.shape
    assert not np.array_equal(after, before)
    assert batch(folder, "--plan", tmp_path / "plan.yaml", "--device", "cpu") == 0
    assert len(list(folder.rglob("*-smartdj*.wav"))) == 2


def plan_for_all() -> Plan:
    return make_plan(["add the sound of seagulls at the left with 3 dB"])
