"""A server in place of the agent: the same events, files, errors and exit statuses, in code and on the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from smartdj_agent import cli
from smartdj_agent.audio import Audio, AudioFormat, write_audio
from smartdj_agent.client import Client, RemoteAgent, connection
from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError
from smartdj_agent.events import Event, Finished, Progress, StepFinished, StepStarted
from smartdj_agent.models import weights
from smartdj_agent.plan import Plan, make_plan, write_plan
from tests.fake_agent import PLANNED, FakeAgent
from tests.fake_server import FakeServer

RATE = 8000
WISH = "make this sound like a workshop"
ROOT = Path(__file__).parent.parent


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer().run() as running:
        yield running


@pytest.fixture
def agent(server: FakeServer) -> Iterator[RemoteAgent]:
    with Client(server.address) as client:
        yield RemoteAgent(client)


@pytest.fixture(autouse=True)
def no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMARTDJ_SERVER", raising=False)
    monkeypatch.delenv("SMARTDJ_TOKEN_FILE", raising=False)
    monkeypatch.setattr(connection, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(connection, "FIRST_CONTACT_S", 0.5)


def recording(subtype: str = "PCM_24") -> Audio:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, RATE))
    samples = noise.astype(np.float64 if subtype in ("PCM_32", "DOUBLE") else np.float32)
    return Audio(samples, RATE, AudioFormat("WAV", subtype), (("artist", "me"), ("title", "walk")))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    write_audio(path, recording())
    return path


def assert_same(got: Event, wanted: Event) -> None:
    """Compare all fields, audio by its samples."""
    assert type(got) is type(wanted)
    for field in fields(wanted):
        left, right = getattr(got, field.name), getattr(wanted, field.name)
        if isinstance(right, Audio):
            assert left.samples.dtype == right.samples.dtype
            assert np.array_equal(left.samples, right.samples)
            assert (left.sample_rate, left.format, left.tags) == (right.sample_rate, right.format, right.tags)
        else:
            assert left == right, (type(wanted).__name__, field.name)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT", "DOUBLE"])
def test_events_are_those_of_the_agent(agent: RemoteAgent, subtype: str) -> None:
    audio, local = recording(subtype), FakeAgent("small", "cuda:0")
    got, wanted = list(agent.plan(audio, WISH, seed=3)), list(local.plan(audio, WISH, seed=3))
    assert len(got) == len(wanted)
    for pair in zip(got, wanted, strict=True):
        assert_same(*pair)
    plan = wanted[-1].plan  # type: ignore[union-attr]
    ghost = replace(make_plan(["remove the sound of ghost", *PLANNED]), source_sha256=plan.source_sha256)
    got, wanted = list(agent.apply(audio, ghost, seed=3)), list(local.apply(audio, ghost, seed=3))
    # Progress is not kept: who listens late sees less of it.
    for pair in zip(without_progress(got), without_progress(wanted), strict=True):
        assert_same(*pair)


def without_progress(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Progress)]


def test_going_on_after_steps_that_are_done(server: FakeServer, agent: RemoteAgent) -> None:
    audio = recording("FLOAT")
    plan = make_plan(list(PLANNED), source_sha256="ab" * 32)
    first, *rest = plan.steps
    plan = replace(plan, steps=(replace(first, enabled=False), *rest, replace(first, id="s4")))
    events = without_progress(list(agent.apply(audio, plan, seed=5, done=1)))
    assert [(e.index, e.count, e.plan_step.id) for e in events if isinstance(e, StepFinished)] == [
        (1, 3, "s3"), (2, 3, "s4"),
    ]  # fmt: skip
    assert isinstance(events[-1], Finished)
    assert events[-1].plan == plan
    assert server.agent.calls == ["apply 2 preserve 6"]  # the local agent too counts the seed up by step
    (finished,) = agent.apply(audio, plan, done=3)
    assert isinstance(finished, Finished)
    assert finished.audio is audio
    assert len(server.jobs) == 1


def test_closing_the_generator_cancels(server: FakeServer, agent: RemoteAgent) -> None:
    server.pause_before = "step_finished"
    events = agent.apply(recording(), make_plan(list(PLANNED)))
    while not isinstance(next(events), StepStarted):
        pass
    events.close()  # type: ignore[attr-defined]
    assert server.count("CancelJob") == 1


def test_errors_are_those_of_the_agent(agent: RemoteAgent) -> None:
    for instruction, code in (("missing", ErrorCode.MODEL_MISSING), (" ", ErrorCode.INSTRUCTION_EMPTY)):
        with pytest.raises(SmartDJError) as caught:
            list(agent.plan(recording(), instruction))
        assert caught.value.code is code
    with pytest.raises(SmartDJError) as caught:
        list(agent.apply(recording(), make_plan(list(PLANNED)), mode="loud"))
    assert caught.value.code is ErrorCode.USAGE


def test_a_recording_travels_once(server: FakeServer, agent: RemoteAgent) -> None:
    audio = recording()
    list(agent.plan(audio, WISH))
    list(agent.apply(audio, make_plan(list(PLANNED))))
    assert server.count("Upload") == 1
    assert (agent.preset, agent.device) == ("small", "cuda:0")
    assert server.count("GetCapabilities") == 1


# --- the command line -----------------------------------------------------


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def json_lines(text: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [line for line in lines if line["event"] != "progress"]


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "make_agent", lambda preset, device: FakeAgent(preset, "cuda:0"))


COMMANDS = {
    "edit": ("edit", "IN", WISH, "-o", "OUT", "--yes", "--steps-dir", "STEPS", "--plan-out", "PLAN", "--seed", "7"),
    "plan": ("plan", "IN", WISH, "-o", "PLAN"),
    "apply": ("apply", "IN", "GIVEN", "-o", "OUT", "--mode", "generate"),
    "step": ("step", "IN", "remove the sound of ghost", "-o", "OUT", "--plan-out", "PLAN"),
    "question": ("edit", "IN", "unclear", "-o", "OUT", "--yes"),
    "failure": ("plan", "IN", "missing"),
    "unreviewed": ("edit", "IN", WISH, "-o", "OUT"),
    "no-recording": ("plan", "NONE", WISH),
}


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_commands_do_the_same_at_a_server(
    server: FakeServer, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, as_json: bool
) -> None:
    results = []
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        given = folder / "given.yaml"
        write_plan(given, make_plan(list(PLANNED), WISH))
        paths = {
            "IN": source, "OUT": folder / "out.flac", "STEPS": folder / "steps", "PLAN": folder / "plan.yaml",
            "GIVEN": given, "NONE": folder / "none.wav",
        }  # fmt: skip
        words = [str(paths.get(word, word)) for word in COMMANDS[name]]
        before = ["--server", server.address] if place == "there" else []
        status = run(*before, *words, *(["--json"] if as_json else []))
        shown = capsys.readouterr()
        out, error = (re.sub(r"\d{4}-\d\d-\d\dT[^\"]*", "NOW", text).replace(str(folder), "") for text in shown)
        files = {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        if name == "step":
            files["plan.yaml"] = re.sub(rb"created: .*", b"", files["plan.yaml"])
        results.append((status, json_lines(out) if as_json else out, error, files))
    here, there = results
    assert there == here
    assert (server.count("SubmitJob") > 0) == (name != "no-recording")
    assert server.count("CancelJob") == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "smartdj-client"]


def test_the_report_names_the_server_and_its_models(server: FakeServer, source: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ("edit", source, WISH, "-o", tmp_path / "out.wav", "--yes", "--report", page)
    assert run("--server", server.address, *words) == 0
    text = page.read_text()
    assert f"server {server.address}" in text
    assert "cuda:0" in text
    assert "tiny" in text


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--preset", "paper"), "works with the preset small, not paper"),
        (("--device", "cpu"), "works on cuda:0, not on cpu"),
    ],
)
def test_what_the_server_does_not_have_is_refused(
    server: FakeServer, source: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], part: str
) -> None:
    assert run("--server", server.address, "plan", source, WISH, *options) == 2
    assert part in capsys.readouterr().err
    assert server.count("SubmitJob") == 0


def test_what_the_server_has_may_be_named(server: FakeServer, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("plan", source, WISH, "--preset", "small", "--device")
    for device in ("cuda", "auto"):
        assert run("--server", server.address, *words, device) == 0, capsys.readouterr().err


def test_environment_token_and_wrong_use(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token\n")
    with FakeServer(token="secret-token").run() as server:
        monkeypatch.setenv("SMARTDJ_SERVER", server.address)
        assert run("plan", source, WISH) == ERROR_TABLE[ErrorCode.UNAUTHENTICATED].exit_code
        monkeypatch.setenv("SMARTDJ_TOKEN_FILE", str(token))
        assert run("plan", source, WISH) == 0
        assert run("--token-file", tmp_path / "none", "plan", source, WISH) == 2
        monkeypatch.setattr(weights, "list_installed", list)
        assert run("models", "list") == ERROR_TABLE[ErrorCode.MODEL_MISSING].exit_code  # about this machine
        capsys.readouterr()
        assert run("--server", server.address, "doctor") == 2
        assert "about this machine" in capsys.readouterr().err
    monkeypatch.delenv("SMARTDJ_SERVER")
    assert run("--token-file", token, "plan", source, WISH) == 2
    assert "add --server" in capsys.readouterr().err
    assert run("--server", "a b", "plan", source, WISH) == 2
    assert run("--server", "127.0.0.1:1", "plan", source, WISH) == ERROR_TABLE[ErrorCode.SERVER_UNREACHABLE].exit_code


def test_ctrl_c_cancels_at_the_server_and_writes_nothing(server: FakeServer, source: Path, tmp_path: Path) -> None:
    server.pause_before = "step_finished"
    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from smartdj_agent.cli import main; sys.exit(main())"
    )
    words = ["edit", str(source), WISH, "-o", str(out / "o.wav"), "--yes", "--steps-dir", str(out / "steps")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--server", server.address, *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.paused.wait(30)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    assert "cancelled" in stderr
    assert "Traceback" not in stderr
    assert server.count("CancelJob") == 1
    assert list(out.iterdir()) == []


def test_help_needs_no_grpc() -> None:
    code = (
        "import sys; from smartdj_agent.cli import main; status = main(['--help'])\n"
        "sys.exit(status or ('grpc is loaded' if {'grpc', 'google.protobuf'} & set(sys.modules) else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--server" in done.stdout


def test_a_plan_from_afar_is_a_plan(agent: RemoteAgent) -> None:
    *_, ready = agent.plan(recording(), WISH)
    assert isinstance(ready.plan, Plan)  # type: ignore[union-attr]
    assert ready.plan.source_name == ""  # type: ignore[union-attr]
