"""The command line with a fake agent: outputs, errors, review, JSON, cancelling. No networks, no models."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smartdj_agent import cli, console, outputs
from smartdj_agent.audio import Audio, AudioFormat, read_audio, write_audio
from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError
from smartdj_agent.files import file_sha256
from smartdj_agent.models import released, weights
from smartdj_agent.plan import Plan, make_plan, read_plan, write_plan
from smartdj_agent.review import Talk, open_editor, review
from smartdj_agent.steps import format_step, parse_step
from tests.fake_agent import CHOICES, PLANNED, FakeAgent

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTION = "make this sound like a workshop"
EITHER = "make this a workshop, either way"
RATE = 8000


def exit_code(code: ErrorCode) -> int:
    return ERROR_TABLE[code].exit_code


@pytest.fixture
def agents(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[FakeAgent]:
    made: list[FakeAgent] = []

    def make(preset: str, device: str) -> FakeAgent:
        made.append(FakeAgent(preset, device))
        return made[-1]

    monkeypatch.setattr(cli, "make_agent", make)
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path_factory.mktemp("logs")))
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, (2, RATE)).astype(np.float32)
    write_audio(path, Audio(noise, RATE, AudioFormat("WAV", "PCM_16")))
    return path


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from smartdj_agent.cli import main; status = main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'transformers', 'soundfile'} & set(sys.modules)\n"
        "sys.exit(status or (f'loaded {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in ("edit", "plan", "apply", "step", "models", "doctor"):
        assert command in done.stdout


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == "smartdj 0.1.0\n"
    assert run() == 0
    assert "edit" in capsys.readouterr().out


def test_edit_writes_all_outputs_whole(
    agents: list[FakeAgent], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = source.read_bytes()
    out, steps, page, kept = (tmp_path / name for name in ("out.wav", "steps", "out.html", "plan.yaml"))
    status = run(
        "edit", source, INSTRUCTION, "-o", out, "--yes", "--seed", "7", "--mode", "generate",
        "--device", "cpu",
        "--steps-dir", steps, "--report", page, "--plan-out", kept,
    )  # fmt: skip
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert captured.out == ""
    assert captured.err.count("\n") == 1  # quiet without a terminal: only the closing line
    assert sorted(path.name for path in steps.iterdir()) == [
        "01-remove-dog-barking.wav",
        "02-volume-wind-strong-and-steady.wav",
        "03-add-seagulls.wav",
    ]
    assert agents[0].calls == [f"plan {INSTRUCTION} 7", "apply 3 generate 7"]
    result, last = read_audio(out), read_audio(steps / "03-add-seagulls.wav")
    assert np.array_equal(result.samples, last.samples)
    original = read_audio(source)
    assert result.format == original.format
    quarter = RATE // 4
    assert np.array_equal(result.samples[:, :quarter], original.samples[:, :quarter])
    assert [format_step(step.step) for step in read_plan(kept).steps] == [format_step(parse_step(s)) for s in PLANNED]
    assert read_plan(kept).source_name == "in.wav"
    assert read_plan(kept).provenance.editor == "fake-editor"
    assert page.read_text().startswith("<!doctype html>")
    assert source.read_bytes() == before
    assert not [name for name in files_in(tmp_path) if "part" in name or "tmp" in name]


def test_json_lines(agents: list[FakeAgent], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run(
        "edit",
        source,
        INSTRUCTION,
        "-o",
        tmp_path / "out.wav",
        "--yes",
        "--json",
        "--steps-dir",
        tmp_path / "s",
    )
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert status == 0
    names = [event["event"] for event in events]
    step = ["step_started", *["progress"] * 4, "step_finished"]
    assert names == ["started", "listened", *["step_planned"] * 3, "plan_ready", *step * 3, "finished"]
    assert events[0]["audio"] == {"duration_s": 1.0, "sample_rate": RATE, "channels": 2, "samples": RATE}
    assert events[2]["plan_step"]["step"] == format_step(parse_step(PLANNED[0]))
    assert events[-1]["output"] == str(tmp_path / "out.wav")
    for event in events:
        if event["event"] == "step_finished":
            assert Path(event["path"]).is_file()


def test_json_error_event(agents: list[FakeAgent], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run("edit", tmp_path / "no.wav", INSTRUCTION, "-o", tmp_path / "o.wav", "--yes", "--json")
    captured = capsys.readouterr()
    error = json.loads(captured.out.splitlines()[-1])
    assert status == exit_code(ErrorCode.AUDIO_NOT_FOUND) == error["exit_code"]
    assert error["event"] == "error"
    assert error["code"] == "audio_not_found"
    assert error["hint"]
    assert captured.err.startswith("error: ")


def test_several_plans_differ_and_lie_side_by_side(
    agents: list[FakeAgent], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.yaml"
    assert run("plan", str(source), EITHER, "-o", str(out), "--plans", "2") == 0
    first, second = read_plan(out), read_plan(tmp_path / "plan-2.yaml")
    assert (len(first.steps), len(second.steps)) == (len(PLANNED), len(PLANNED) - 1)
    assert (first.provenance.seed, second.provenance.seed) == (0, 2), "a plan's seed makes it again"
    assert "another way, seed 2" in capsys.readouterr().err

    (tmp_path / "plan-2.yaml").write_text("mine")
    out.unlink()
    calls = len(agents[-1].calls)
    assert run("plan", str(source), EITHER, "-o", str(out), "--plans", "2") == exit_code(ErrorCode.OUTPUT_EXISTS)
    assert (tmp_path / "plan-2.yaml").read_text() == "mine"
    assert len(agents[-1].calls) == calls, "it is said before anything is computed"
    assert not out.exists()


def test_fewer_plans_than_asked_are_said(
    agents: list[FakeAgent], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", str(source), EITHER, "--plans", "3") == 0
    printed = capsys.readouterr()
    assert len(printed.out.split("---\n")) == 2
    assert "only 2 plans found" in printed.err
    assert run("plan", str(source), "nothing much", "--plans", "0") == exit_code(ErrorCode.USAGE)


def test_plan_then_apply(
    agents: list[FakeAgent], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "plan.yaml", tmp_path / "out.flac"
    assert run("plan", source, INSTRUCTION) == 0
    printed = capsys.readouterr().out
    assert run("plan", source, INSTRUCTION, "-o", file) == 0
    assert file.read_text() == printed
    assert run("apply", source, file, "-o", out) == 0
    assert read_audio(out).n_samples == RATE
    file.write_text(file.read_text().replace("enabled: true", "enabled: false"))
    assert run("apply", source, file, "-o", tmp_path / "b.wav") == exit_code(ErrorCode.PLAN_INVALID)
    assert not (tmp_path / "b.wav").exists()


def test_apply_refuses_a_plan_for_another_recording(agents: list[FakeAgent], source: Path, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    write_plan(file, make_plan(PLANNED, source_sha256="0" * 64))
    assert run("apply", source, file, "-o", tmp_path / "o.wav") == exit_code(ErrorCode.PLAN_MISMATCH)
    assert agents == []


def test_step(agents: list[FakeAgent], source: Path, tmp_path: Path) -> None:
    assert run("step", source, PLANNED[0], "-o", tmp_path / "o.wav", "--plan-out", tmp_path / "p.yaml") == 0
    assert len(read_plan(tmp_path / "p.yaml").steps) == 1
    assert run("step", source, "frobnicate the dog", "-o", tmp_path / "p.wav") == exit_code(ErrorCode.STEP_SYNTAX)


@pytest.mark.parametrize(
    ("instruction", "code"),
    [
        ("", ErrorCode.INSTRUCTION_EMPTY),
        ("  \n ", ErrorCode.INSTRUCTION_EMPTY),
        ("?!", ErrorCode.INSTRUCTION_EMPTY),
        ("a " * 5000, ErrorCode.INSTRUCTION_TOO_LONG),
        ("unclear", ErrorCode.INSTRUCTION_UNCLEAR),
        ("nothing", ErrorCode.INSTRUCTION_UNCLEAR),
        ("missing model", ErrorCode.MODEL_MISSING),
        ("crash", ErrorCode.INTERNAL),
    ],
)
def test_errors_are_two_lines_and_leave_nothing(
    agents: list[FakeAgent],
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    instruction: str,
    code: ErrorCode,
) -> None:
    monkeypatch.delenv("SMARTDJ_DEBUG", raising=False)
    before = files_in(tmp_path)
    status = run("edit", source, instruction, "-o", tmp_path / "out.wav", "--yes", "--report", tmp_path / "r.html")
    captured = capsys.readouterr()
    assert status == exit_code(code)
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert captured.out == ""
    assert files_in(tmp_path) == before
    if instruction == "unclear":
        assert all(choice in lines[1] for choice in CHOICES)


def test_internal_error_names_a_log_with_the_traceback(
    agents: list[FakeAgent],
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SMARTDJ_DEBUG", raising=False)
    run("plan", source, "crash")
    hint = capsys.readouterr().err.splitlines()[1]
    log = Path(next(word for word in hint.split() if "smartdj-error-" in word).rstrip(";"))
    assert "RuntimeError: boom" in log.read_text()
    log.unlink()
    monkeypatch.setenv("SMARTDJ_DEBUG", "1")
    run("plan", source, "crash")
    assert "Traceback" in capsys.readouterr().err


def test_existing_outputs_are_refused_before_any_compute(agents: list[FakeAgent], source: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.wav"
    taken.write_text("mine")
    steps = tmp_path / "steps"
    steps.mkdir()
    (steps / "01-remove-cat.wav").write_text("mine")
    fresh = tmp_path / "out.wav"
    for extra in (
        ["-o", taken],
        ["-o", fresh, "--report", taken],
        ["-o", fresh, "--plan-out", taken],
        ["-o", fresh, "--steps-dir", steps],
    ):
        assert run("edit", source, INSTRUCTION, "--yes", *extra) == exit_code(ErrorCode.OUTPUT_EXISTS)
    assert agents == []
    assert taken.read_text() == "mine"
    assert run("edit", source, INSTRUCTION, "--yes", "-o", taken, "--steps-dir", steps, "--overwrite") == 0
    assert read_audio(taken).n_samples == RATE
    assert (steps / "01-remove-cat.wav").read_text() == "mine"


def test_the_input_is_never_written(agents: list[FakeAgent], source: Path, tmp_path: Path) -> None:
    soft, hard = tmp_path / "soft.wav", tmp_path / "hard.wav"
    soft.symlink_to(source)
    os.link(source, hard)
    before = source.read_bytes()
    for out in (source, soft, hard, tmp_path / "." / "in.wav"):
        status = run("edit", source, INSTRUCTION, "-o", out, "--yes", "--overwrite")
        assert status == exit_code(ErrorCode.OUTPUT_IS_INPUT)
    plan_file = tmp_path / "p.yaml"
    write_plan(plan_file, make_plan(PLANNED))
    status = run("apply", source, plan_file, "-o", tmp_path / "o.wav", "--report", plan_file, "--overwrite")
    assert status == exit_code(ErrorCode.OUTPUT_IS_INPUT)
    named = tmp_path / "01-remove-dog-barking.wav"
    shutil.copy(source, named)
    status = run("step", named, PLANNED[0], "-o", tmp_path / "o.wav", "--steps-dir", tmp_path, "--overwrite")
    assert status == exit_code(ErrorCode.OUTPUT_IS_INPUT)
    assert source.read_bytes() == before == named.read_bytes()
    assert agents == [] or agents[0].calls == []


def test_unusable_outputs(agents: list[FakeAgent], source: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    cases = {
        tmp_path / "none" / "o.wav": ErrorCode.OUTPUT_UNWRITABLE,
        file / "o.wav": ErrorCode.OUTPUT_UNWRITABLE,
        tmp_path: ErrorCode.OUTPUT_UNWRITABLE,
        tmp_path / "o.xyz": ErrorCode.AUDIO_UNSUPPORTED,
        tmp_path / "o": ErrorCode.AUDIO_UNSUPPORTED,
    }
    for out, code in cases.items():
        assert run("edit", source, INSTRUCTION, "-o", out, "--yes") == exit_code(code), out
    same = tmp_path / "o.wav"
    assert run("edit", source, INSTRUCTION, "-o", same, "--report", same, "--yes") == exit_code(ErrorCode.USAGE)
    assert run("edit", source, INSTRUCTION, "-o", same, "--steps-dir", file, "--yes") == exit_code(
        ErrorCode.OUTPUT_UNWRITABLE
    )
    assert agents == []


def test_too_many_channels_for_the_container(agents: list[FakeAgent], tmp_path: Path) -> None:
    wide = tmp_path / "wide.wav"
    write_audio(wide, Audio(np.zeros((8, 100), np.float32), RATE))
    assert run("edit", wide, INSTRUCTION, "-o", tmp_path / "o.mp3", "--yes") == exit_code(ErrorCode.AUDIO_UNSUPPORTED)
    assert agents == []


def test_full_disk_is_seen_before_any_compute(
    agents: list[FakeAgent], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr(outputs.shutil, "disk_usage", lambda _: usage)
    assert run("edit", source, INSTRUCTION, "-o", tmp_path / "o.wav", "--yes") == exit_code(ErrorCode.DISK_FULL)
    assert agents == []


def test_without_terminal_and_yes_the_plan_is_shown_and_nothing_done(
    agents: list[FakeAgent], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("edit", source, INSTRUCTION, "-o", tmp_path / "o.wav") == exit_code(ErrorCode.USAGE)
    captured = capsys.readouterr()
    assert "1. remove the sound of dog barking" in captured.err
    assert "--yes" in captured.err
    assert "smartdj plan" in captured.err
    assert not (tmp_path / "o.wav").exists()
    assert len(agents[0].calls) == 1


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["edt"],
        ["edit", "x"],
        ["edit", "--nope"],
        ["models"],
        ["edit", "a", "b", "-o", "c", "--mode", "x"],
    ):
        assert run(*arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_clipping_and_older_steps_are_noted(
    agents: list[FakeAgent], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud, steps = tmp_path / "loud.wav", tmp_path / "s"
    write_audio(loud, Audio(np.full((1, RATE), 0.95, np.float32), RATE, AudioFormat("WAV", "PCM_16")))
    steps.mkdir()
    (steps / "09-remove-cat.wav").touch()
    status = run("step", loud, PLANNED[2], "-o", tmp_path / "o.wav", "--steps-dir", steps, "--overwrite")
    error = capsys.readouterr().err
    assert status == 0
    assert "clipped" in error
    assert "earlier run" in error


# --- review -----------------------------------------------------------------------------------------


def talk_of(answers: list[str], edit: Callable[[str], str] = lambda text: text) -> tuple[Talk, list[str]]:
    said: list[str] = []
    queue = iter(answers)

    def ask(prompt: str) -> str:
        try:
            return next(queue)
        except StopIteration:
            raise EOFError from None

    return Talk(ask=ask, say=said.append, show=lambda plan: None, edit=edit), said


def texts(plan: Plan) -> list[str]:
    return [f"{step.id}{'' if step.enabled else '-'}" for step in plan.steps]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["a"], ["s1", "s2", "s3"]),
        (["d 2", "a"], ["s1", "s3"]),
        (["t 1", "accept"], ["s1-", "s2", "s3"]),
        (["m 3 1", "a"], ["s3", "s1", "s2"]),
        (["m 1 3", "y"], ["s2", "s3", "s1"]),
        (["d 1", "d 1", "u", "a"], ["s2", "s3"]),
        (["", "x", "d", "d 9", "m 1", "?", "a"], ["s1", "s2", "s3"]),
    ],
)
def test_review_answers(answers: list[str], expected: list[str]) -> None:
    talk, _ = talk_of(answers)
    assert texts(review(make_plan(PLANNED), talk)) == expected


@pytest.mark.parametrize("answers", [["c"], [], ["zzz"] * 20, ["t 1", "t 2", "t 3", "a", "c"]])
def test_review_cancelled(answers: list[str]) -> None:
    talk, _ = talk_of(answers)
    with pytest.raises(SmartDJError) as caught:
        review(make_plan(PLANNED), talk)
    assert caught.value.code is ErrorCode.CANCELLED


def test_review_edit_asks_again_with_the_error_and_keeps_the_text() -> None:
    seen: list[str] = []

    def edit(text: str) -> str:
        seen.append(text)
        if len(seen) == 1:
            return text.replace("dog barking", "cat purring").replace("6 dB", "600 dB")
        return text.replace("600 dB", "3 dB")

    talk, said = talk_of(["e", "e", "a"], edit)
    plan = review(make_plan(PLANNED), talk)
    assert plan.steps[0].step.target == "cat purring"
    assert plan.steps[1].step.gain_db == -3.0
    assert "gain_db" in said[0]
    assert seen[1].startswith("#! ")
    assert "600 dB" in seen[1]


def test_review_edit_can_be_given_up() -> None:
    talk, _ = talk_of(["e", "k", "a"], lambda text: "steps: [")
    assert texts(review(make_plan(PLANNED), talk)) == ["s1", "s2", "s3"]


def test_open_editor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f"{sys.executable} -c \"import sys; open(sys.argv[1], 'a').write('# hi')\"")
    assert open_editor("text\n") == "text\n# hi"
    for broken in ("/no/such/editor", f"{sys.executable} -c 'raise SystemExit(3)'"):
        monkeypatch.setenv("EDITOR", broken)
        with pytest.raises(SmartDJError):
            open_editor("text")


def on_terminal(monkeypatch: pytest.MonkeyPatch, answers: list[str]) -> None:
    queue = iter(answers)
    monkeypatch.setattr(console, "can_ask", lambda: True)
    monkeypatch.setattr(cli, "_ask", lambda prompt: next(queue))


def test_interactive_edit(
    agents: list[FakeAgent], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, ["d 1", "t 1", "a"])
    assert run("edit", source, INSTRUCTION, "-o", tmp_path / "o.wav") == 0
    assert agents[0].calls[1] == "apply 1 preserve 0"
    on_terminal(monkeypatch, ["c"])
    assert run("edit", source, INSTRUCTION, "-o", tmp_path / "p.wav") == 130
    assert not (tmp_path / "p.wav").exists()


def test_a_question_is_answered_by_number_or_in_words(
    agents: list[FakeAgent], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch, ["9", "2"])
    assert run("edit", source, "unclear", "-o", tmp_path / "o.wav", "--yes") == 0
    assert agents[-1].calls[1] == f"plan {CHOICES[1]} 0"
    on_terminal(monkeypatch, ["", "still unclear", "a rainy day"])
    assert run("edit", source, "unclear", "-o", tmp_path / "p.wav", "--yes") == 0
    assert agents[-1].calls[2] == "plan a rainy day 0"


# --- processes --------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from smartdj_agent import cli
from tests.fake_agent import FakeAgent
cli.make_agent = lambda preset, device: FakeAgent(preset, device, slow_s=SLOW, closed_marker=Path(MARKER))
sys.exit(cli.main())
"""


def driver(tmp_path: Path, slow_s: float) -> list[str]:
    code = DRIVER.replace("SLOW", str(slow_s)).replace("MARKER", repr(str(tmp_path / "closed")))
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_close_the_agent_and_leave_only_whole_files(source: Path, tmp_path: Path, number: int) -> None:
    steps = tmp_path / "steps"
    process = subprocess.Popen(
        [*driver(tmp_path, 0.2), "edit", source, INSTRUCTION, "-o", tmp_path / "o.wav", "--yes", "--json",
         "--steps-dir", steps, "--report", tmp_path / "r.html"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A test run in the background ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["index"] == 1:
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["code"] == "cancelled"
    assert "Traceback" not in err
    assert files_in(tmp_path) == {"in.wav", "steps/01-remove-dog-barking.wav", "closed"}
    assert read_audio(steps / "01-remove-dog-barking.wav").n_samples == RATE


def test_closed_pipe_is_silent(source: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*driver(tmp_path, 0.05), "edit", source, INSTRUCTION, "-o", tmp_path / "o.wav", "--yes", "--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(timeout=20) == 141
    assert error == ""
    assert not (tmp_path / "o.wav").exists()


def test_review_on_a_real_terminal(source: Path, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*driver(tmp_path, 0.0), "edit", source, INSTRUCTION, "-o", tmp_path / "o.wav"],
        cwd=ROOT, stdin=follower, stdout=subprocess.PIPE, stderr=follower,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    os.write(leader, b"m 3 1\na\n")
    shown = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:
            break
        if not block:
            break
        shown += block
    os.close(leader)
    assert process.wait(timeout=20) == 0, shown.decode()
    assert b"[a]ccept" in shown
    assert b"heard dog barking" in shown
    assert b"wrote" in shown
    assert (tmp_path / "o.wav").exists()


# --- models and doctor ------------------------------------------------------------------------------


def test_models_verify_fails_above_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(*worst: float) -> int:
        rows = [released.TensorDifference("codec.safetensors", f"out.{i}", value) for i, value in enumerate(worst)]
        monkeypatch.setattr(released, "verify_vectors", lambda folder: rows)
        return run("models", "verify", tmp_path)

    assert verify(1e-6, 9e-5) == 0
    assert "9e-05" in capsys.readouterr().out
    assert verify(1e-6, 2e-4) == exit_code(ErrorCode.MODEL_MISMATCH)
    assert verify(1e-6, float("nan")) == exit_code(ErrorCode.MODEL_MISMATCH)
    assert "1 of 2 tensors" in capsys.readouterr().err
    monkeypatch.undo()
    assert run("models", "verify", tmp_path) == exit_code(ErrorCode.USAGE)


def test_models_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    info = weights.ModelInfo("small/editor", "small", "editor", 3_100_000, 12_400_000, "ab" * 32, tmp_path, None)
    monkeypatch.setattr(weights, "list_installed", lambda: [info])
    assert run("models", "list") == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split() == ["small/editor", "small", "editor", "3.1", "M", "12.4", "MB", "abababababababab"]
    assert run("models", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == "ab" * 32
    monkeypatch.setattr(weights, "list_installed", lambda: [])
    assert run("models", "list") == exit_code(ErrorCode.MODEL_MISSING)


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tmp_path / "model.safetensors"
    whole.write_bytes(b"weights")
    good = file_sha256(whole)

    def with_hash(sha256: str) -> list[weights.ModelInfo]:
        return [weights.ModelInfo("small/editor", "small", "editor", 1, 7, sha256, whole, None)]

    monkeypatch.setattr(weights, "list_installed", lambda: with_hash(good))
    assert run("doctor") == 0
    assert "small/editor" in capsys.readouterr().out
    monkeypatch.setattr(weights, "list_installed", lambda: with_hash("0" * 64))
    assert run("doctor", "--json") == exit_code(ErrorCode.MODEL_CORRUPT)
    checks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"python", "torch", "memory"} <= {check["name"] for check in checks if check["event"] == "check"}
    monkeypatch.setattr(weights, "list_installed", lambda: [])
    assert run("doctor") == exit_code(ErrorCode.MODEL_MISSING)
