"""Everything that people give by mistake, through the command line and the real agent: a clear answer or right work.

Only the networks are small stand-ins: masks are known, and the planner says what the test says.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from smartdj_agent import cli
from smartdj_agent.agent import Agent
from smartdj_agent.errors import ERROR_TABLE, ErrorCode
from smartdj_agent.planner import Asked
from smartdj_agent.steps import Step, parse_step
from tests.known_listener import everything, known_editor, nothing

REMOVE = "remove the sound of dog barking"
MAKE = "make this sound like a rainy morning"
STEPS = (
    REMOVE,
    "extract the sound of dog barking",
    "turn up the volume of dog barking by 6 dB",
    "change the sound of dog barking at front to right",
    "shift the sound of dog barking by 0.5 seconds",
    "reverb the sound of dog barking with reverb level 5",
    "make the sound of dog barking more muffled",
)


class SaidPlanner:
    """Says what it was told to, instead of a language model."""

    name = "small"
    vocabulary: dict[str, dict[str, object]] = {}  # noqa: RUF012
    items: tuple[Step | Asked, ...] = (parse_step(REMOVE),)

    def write(self, heard: object, instruction: str, *, seed: int, **_: object) -> Iterator[Step | Asked]:
        yield from self.items


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    made = Agent(device="cpu")
    made.__dict__["editor"] = known_editor(everything)
    made.__dict__["planner"] = SaidPlanner()
    monkeypatch.setattr(Agent, "_listen", lambda self, audio, digest: ())
    monkeypatch.setattr(cli, "make_agent", lambda preset, device: made)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path_factory.mktemp("logs")))
    return made


def noise(channels: int, n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (n, channels)).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    soundfile.write(path, noise(2, 8000), 8000, "PCM_16")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    made.mkdir()
    return made


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def refused(
    code: ErrorCode, capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object, hinted: str = ""
) -> str:
    """Run, and check that it ends as every error does: its own exit status, one line and a hint, no file, no trace."""
    before = set(folder.rglob("*"))
    assert run(*arguments) == ERROR_TABLE[code].exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.strip()]
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert len(lines[1]) > len("hint: ")
    assert hinted in lines[1]
    assert set(folder.rglob("*")) == before
    return lines[0]


def damaged(kind: str, path: Path) -> None:
    """Write a file that no recording is."""
    good = path.with_name("good.wav")
    soundfile.write(good, noise(2, 8000), 8000, "FLOAT")
    data = good.read_bytes()
    good.unlink()
    match kind:
        case "missing":
            pass
        case "empty":
            path.touch()
        case "cut short":
            path.write_bytes(data[: len(data) // 2])
        case "cut in the header":
            path.write_bytes(data[:20])
        case "text":
            path.write_text("this is not audio\n" * 40)
        case "no samples":
            soundfile.write(path, np.zeros((0, 2)), 8000)
        case "folder":
            path.mkdir()
        case "nan" | "infinite":
            samples = noise(2, 8000)
            samples[100, 1] = np.nan if kind == "nan" else np.inf
            soundfile.write(path, samples, 8000, "FLOAT")
        case "all nan":
            soundfile.write(path, np.full((8000, 2), np.nan), 8000, "DOUBLE")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("missing", ErrorCode.AUDIO_NOT_FOUND),
        ("empty", ErrorCode.AUDIO_EMPTY),
        ("cut short", ErrorCode.AUDIO_UNREADABLE),
        ("cut in the header", ErrorCode.AUDIO_UNREADABLE),
        ("text", ErrorCode.AUDIO_UNREADABLE),
        ("folder", ErrorCode.AUDIO_UNREADABLE),
        ("no samples", ErrorCode.AUDIO_EMPTY),
        ("nan", ErrorCode.AUDIO_NOT_FINITE),
        ("infinite", ErrorCode.AUDIO_NOT_FINITE),
        ("all nan", ErrorCode.AUDIO_NOT_FINITE),
    ],
)
def test_files_that_are_no_recording(
    agent: Agent, kind: str, code: ErrorCode, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.wav"
    damaged(kind, path)
    for command in (["step", path, REMOVE], ["edit", path, MAKE, "--yes"]):
        assert "in.wav" in refused(code, capsys, folder, *command, "-o", folder / "o.wav")
    assert "in.wav" in refused(code, capsys, folder, "plan", path, MAKE, "-o", folder / "o.yaml")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("channels", "n", "rate", "subtype"),
    [
        (2, 1, 48000, "PCM_16"),
        (1, 1, 192000, "PCM_24"),
        (2, 3, 192000, "FLOAT"),
        (1, 3, 1, "PCM_16"),
        (8, 24000, 48000, "PCM_24"),
        (16, 4000, 8000, "PCM_16"),
        (2, 48000, 192000, "DOUBLE"),
    ],
)
def test_odd_recordings_are_edited(
    agent: Agent, step: str, channels: int, n: int, rate: int, subtype: str, tmp_path: Path, folder: Path
) -> None:
    soundfile.write(tmp_path / "in.wav", noise(channels, n), rate, subtype)
    assert run("step", tmp_path / "in.wav", step, "-o", folder / "o.wav") == 0
    info = soundfile.info(folder / "o.wav")
    assert (info.channels, info.frames, info.samplerate, info.subtype) == (channels, n, rate, subtype)
    assert [path.name for path in folder.iterdir()] == ["o.wav"]


def test_silence_stays_silent(agent: Agent, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "in.wav", np.zeros((16000, 2)), 16000, "PCM_16")
    for index, step in enumerate(STEPS):
        assert run("step", tmp_path / "in.wav", step, "-o", folder / f"{index}.wav") == 0
        assert "was not heard" in capsys.readouterr().err
        assert not soundfile.read(folder / f"{index}.wav")[0].any()
    assert run("edit", tmp_path / "in.wav", MAKE, "--yes", "-o", folder / "edit.wav") == 0


@pytest.mark.parametrize("text", ["", " \n\t ", "…!?"])
def test_an_empty_instruction(
    agent: Agent, text: str, source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ErrorCode.INSTRUCTION_EMPTY
    refused(code, capsys, folder, "edit", source, text, "--yes", "-o", folder / "o.wav", hinted="say what")
    refused(code, capsys, folder, "plan", source, text)
    refused(code, capsys, folder, "step", source, text, "-o", folder / "o.wav")


def test_a_very_long_instruction(agent: Agent, source: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = ErrorCode.INSTRUCTION_TOO_LONG, "make it rain " * 800
    for command in ("edit", "step"):
        message = refused(code, capsys, folder, command, source, text, "-o", folder / "o.wav")
        assert "10,399" in message
        assert len(message) < 200


@pytest.mark.parametrize(
    "text", ["让它听起来像下雨的早晨", "🌧️ make it rain 🌊", "اجعله يبدو مثل صباح ممطر", "café à la plage"]
)
def test_other_scripts_are_planned_like_any_text(
    agent: Agent, text: str, source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("edit", source, text, "--yes", "-o", folder / "o.wav", "--plan-out", folder / "p.yaml") == 0
    assert text in folder.joinpath("p.yaml").read_text("utf-8")
    capsys.readouterr()
    asked = Asked("What should change?", ("add rain",))
    agent.planner.items = (asked,)  # type: ignore[attr-defined]
    code = ErrorCode.INSTRUCTION_UNCLEAR
    refused(code, capsys, folder, "edit", source, text, "--yes", "-o", folder / "q.wav", hinted="add rain")


@pytest.mark.parametrize("text", ["make it \x1b[31mred\x07", "make it caf\udce9", "make\x00it rain"])
def test_what_nobody_can_type_is_left_out(
    agent: Agent, text: str, source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("edit", source, text, "--yes", "-o", folder / "o.wav", "--plan-out", folder / "p.yaml") == 0
    assert "\x1b[31m" not in capsys.readouterr().err
    assert "instruction: make" in folder.joinpath("p.yaml").read_text("utf-8")


@pytest.mark.parametrize("text", ["让它听起来像下雨的早晨", "🌧️ rain", "اجعله", "hello there"])
def test_a_step_that_is_none(
    agent: Agent, text: str, source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(ErrorCode.STEP_SYNTAX, capsys, folder, "step", source, text, "-o", folder / "o.wav")


def test_a_sound_that_is_not_there(
    agent: Agent, source: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.__dict__["editor"] = known_editor(nothing)
    plan = folder / "plan.yaml"
    plan.write_text(f"version: 1\nsteps:\n- {REMOVE}\n- turn up the volume of dog barking by 6 dB\n")
    assert run("apply", source, plan, "-o", folder / "o.wav") == 0
    err = capsys.readouterr().err
    assert err.count("was not heard in the recording") == 2
    assert np.array_equal(soundfile.read(source, dtype="int16")[0], soundfile.read(folder / "o.wav", dtype="int16")[0])


def test_a_read_only_folder(
    agent: Agent,
    source: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if os.geteuid() == 0:  # permission bits don't stop root
        opened = os.open

        def refuse(path: object, flags: int, *more: object, **named: object) -> int:
            if str(path).startswith(str(folder)) and flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return opened(path, flags, *more, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", refuse)
    else:
        folder.chmod(0o500)
    code = ErrorCode.OUTPUT_UNWRITABLE
    refused(code, capsys, folder, "step", source, REMOVE, "-o", folder / "o.wav")
    refused(code, capsys, folder, "edit", source, MAKE, "--yes", "-o", folder / "o.wav")
    refused(code, capsys, folder, "plan", source, MAKE, "-o", folder / "o.yaml")
    assert agent.editor.listener.calls == 0  # type: ignore[attr-defined]
    folder.chmod(0o700)


@pytest.mark.parametrize("command", ["step", "edit", "plan"])
def test_a_full_disk(
    agent: Agent,
    command: str,
    source: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk fills while the result is being written, after the check beforehand."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    output = folder / ("o.yaml" if command == "plan" else "o.wav")
    arguments = [command, source, REMOVE if command == "step" else MAKE, "-o", output]
    before = list(folder.iterdir())
    assert run(*arguments, *(["--yes"] if command == "edit" else [])) == ERROR_TABLE[ErrorCode.DISK_FULL].exit_code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "hint: " in err
    assert list(folder.iterdir()) == before == []


def test_a_disk_that_is_too_small_is_seen_beforehand(
    agent: Agent,
    source: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    refused(ErrorCode.DISK_FULL, capsys, folder, "step", source, REMOVE, "-o", folder / "o.wav", hinted="free some")
    assert agent.editor.listener.calls == 0  # type: ignore[attr-defined]


def test_a_long_recording_can_be_stopped(
    agent: Agent,
    tmp_path: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scaled-down hour (the same 400 windows at 1 kHz): Ctrl-C ends it within the window under way."""
    soundfile.write(tmp_path / "in.wav", noise(1, 3600 * 1000), 1000, "PCM_16")
    listener = agent.editor.listener
    hear = type(listener).hear

    def interrupted(self: object, spectrum: object) -> object:
        heard = hear(self, spectrum)  # type: ignore[arg-type]
        if self.calls == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return heard

    monkeypatch.setattr(type(listener), "hear", interrupted)
    refused_with = run("step", tmp_path / "in.wav", REMOVE, "-o", folder / "o.wav")
    assert refused_with == ERROR_TABLE[ErrorCode.CANCELLED].exit_code
    assert listener.calls == 3  # type: ignore[attr-defined]
    assert "no output was written" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
