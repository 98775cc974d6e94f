"""``smartdj reaper-job``: the protocol, the files it writes, and every way in which it is told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from smartdj_agent import cli
from smartdj_agent.audio import Audio, AudioFormat, read_audio
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Event
from smartdj_agent.plan import Plan
from smartdj_agent.reaper import job as job_module
from smartdj_agent.reaper.job import JobRequest, process_lives, read_request, run_job, step_label, step_subtype
from smartdj_agent.steps import parse_step
from tests import reaper_helper
from tests.fake_agent import PLANNED, FakeAgent
from tests.live_server import live_server

RATE = 8000
ENDED = "finished", "cancelled", "error"


class Job:
    """A job's folder with its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "job"
        self.folder.mkdir()
        self.media = folder / "Media"
        self.request: dict[str, Any] = {
            "protocol": 1,
            "id": "abc123",
            "instruction": "a harbour",
            "review": False,
            "items": [],
        }

    def add(
        self, name: str = "walk", *, channels: int = 2, subtype: str = "PCM_16", seconds: float = 1.0, **more: Any
    ) -> Path:
        path = self.folder.parent / f"{name}.wav"
        n = round(RATE * seconds)
        soundfile.write(path, np.random.default_rng(1).uniform(-0.5, 0.5, (n, channels)), RATE, subtype=subtype)
        item = {
            "id": f"i{len(self.request['items']) + 1}", "name": name, "path": str(path), "start_frame": 0, "frames": n,
            "sample_rate": RATE, "folder": str(self.media), **more,
        }  # fmt: skip
        self.request["items"].append(item)
        return path

    def write(self) -> None:
        (self.folder / "job.json").write_text(json.dumps(self.request), encoding="utf-8")

    def run(self, agent: FakeAgent | None = None) -> FakeAgent:
        self.write()
        working = agent or FakeAgent()
        run_job(self.folder, lambda request: working)
        return working

    def start(self, program: Path, **how: Any) -> subprocess.Popen[bytes]:
        self.write()
        return subprocess.Popen([str(program), "reaper-job", str(self.folder)], **how)

    def decide(self, number: int, document: Any) -> None:
        part = self.folder / "answer"
        part.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        part.rename(self.folder / "plan.json")

    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.jsonl"
        data = path.read_bytes() if path.exists() else b""
        assert data == b"" or data.endswith(b"\n"), "a line was only half there"
        return [json.loads(line) for line in data.splitlines()]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events() if event["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> dict[str, Any]:
        by = time.monotonic() + 60
        while len(self.named(name)) < count:
            assert time.monotonic() < by, self.events()[-3:]
            time.sleep(0.01)
        return self.named(name)[-1]

    @property
    def made(self) -> list[str]:
        return sorted(path.name for path in self.media.iterdir()) if self.media.exists() else []


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


# Files and events --------------------------------------------------------------------------------------------


def test_events_come_in_the_order_that_is_promised(job: Job) -> None:
    job.add()
    job.run()
    names = [event["event"] for event in job.events()]
    assert names[:6] == ["started", "listened", "step_planned", "step_planned", "step_planned", "plan"]
    assert names[6] == "applying"
    assert [name for name in names[7:] if name != "progress"] == ["step_started", "step_finished"] * 3 + [
        "item_finished", "finished",
    ]  # fmt: skip
    started, finished = job.events()[0], job.events()[-1]
    assert (started["protocol"], started["pid"], started["items"]) == (1, os.getpid(), ["i1"])
    assert (finished["done"], finished["failed"]) == (["i1"], [])
    assert {event["item"] for event in job.named("progress")} == {"i1"}


def test_only_the_part_is_read_and_every_sample_of_it_is_in_place(job: Job) -> None:
    path = job.add("long", seconds=5.0)
    job.request["items"][0] |= {"start_frame": 12345, "frames": 4001}
    job.run()
    whole = soundfile.read(path, dtype="int16")[0]
    for step in job.named("step_finished"):
        result = soundfile.read(step["path"], dtype="int16")[0]
        assert result.shape == (4001, 2) == (step["frames"], step["channels"])
        np.testing.assert_array_equal(result[:1000], whole[12345:13345])
        np.testing.assert_array_equal(result[3000:], whole[15345:16346])


def test_a_part_that_is_not_there_is_told(job: Job) -> None:
    job.add()
    job.request["items"][0]["frames"] = RATE + 1
    job.run()
    ((failure,),) = [[event["error"] for event in job.named("item_failed")]]
    assert failure["code"] == "audio_unreadable"
    assert "it holds 8,000" in failure["message"]


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_steps_have_the_bit_depth_of_the_source(job: Job, subtype: str) -> None:
    job.add(subtype=subtype)
    job.run()
    assert {soundfile.info(step["path"]).subtype for step in job.named("step_finished")} == {subtype}


def test_what_would_clip_or_is_lossy_becomes_float() -> None:
    loud = np.full((1, 8), 1.5, np.float32)
    assert step_subtype(Audio(loud, RATE, AudioFormat("WAV", "PCM_16"))) == "FLOAT"
    assert step_subtype(Audio(loud.astype(np.float64), RATE, AudioFormat("WAV", "PCM_32"))) == "DOUBLE"
    assert step_subtype(Audio(loud, RATE, AudioFormat("WAV", "FLOAT"))) == "FLOAT"
    assert step_subtype(Audio(loud / 2, RATE, AudioFormat("MP3", "MPEG_LAYER_III"))) == "FLOAT"
    assert step_subtype(Audio(loud / 2, RATE, AudioFormat("AIFF", "PCM_S8"))) == "PCM_U8"


def test_no_file_is_ever_replaced(job: Job, tmp_path: Path) -> None:
    job.add()
    job.media.mkdir()
    names = [f"walk-smartdj-abc123-0{k}.wav" for k in ("1-remove-dog-barking", "3-add-seagulls")]
    for name in names:
        (job.media / name).write_text("precious")
    job.run()
    assert all((job.media / name).read_text() == "precious" for name in names)
    assert [Path(step["path"]).name for step in job.named("step_finished")] == [
        "walk-smartdj-abc123-01-remove-dog-barking-2.wav", "walk-smartdj-abc123-02-volume-wind-strong-and-steady.wav",
        "walk-smartdj-abc123-03-add-seagulls-2.wav",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("", "walk"),
        ("???", "take"),
        ("Regen 雨.wav", "Regen-雨"),
        ("ü" * 300, "ü" * 40),
    ],
)
def test_names_of_takes_are_tamed(job: Job, name: str, stem: str) -> None:
    job.add()
    job.request["items"][0]["name"] = name
    job.run()
    assert {Path(step["path"]).parent for step in job.named("step_finished")} == {job.media}
    assert all(made.startswith(f"{stem}-smartdj-abc123-0") for made in job.made)


def test_several_items_share_one_agent_and_one_failure_is_one_items(job: Job) -> None:
    for name in ("a", "b", "c"):
        job.add(name)
    job.request["items"][1]["sample_rate"] = 44100
    job.request["items"][2]["instruction"] = "a forest"
    agents: list[FakeAgent] = []
    job.write()

    def make(request: JobRequest) -> FakeAgent:
        agents.append(FakeAgent())
        return agents[-1]

    run_job(job.folder, make)
    assert [call for call in agents[0].calls if call.startswith("plan")] == ["plan a harbour 0", "plan a forest 0"]
    assert len(agents) == 1
    assert (job.events()[-1]["done"], job.events()[-1]["failed"]) == (["i1", "i3"], ["i2"])


def test_a_failure_in_the_middle_of_an_item_takes_its_files_back(job: Job) -> None:
    job.add("a")
    job.add("b")

    class Breaks(FakeAgent):
        def apply(
            self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
        ) -> Iterator[Event]:
            for number, event in enumerate(super().apply(audio, plan, mode=mode, seed=seed)):
                if number > 8 and not any("broke" in call for call in self.calls):
                    self.calls.append("broke")
                    raise RuntimeError("boom")
                yield event

    job.run(Breaks())
    assert len(job.named("step_finished")) == 4  # the first item's first step too
    assert all(name.startswith("b-") for name in job.made)
    assert len(job.made) == 3
    assert job.named("item_failed")[0]["error"]["code"] == "internal"


def test_a_plan_that_is_given_is_not_made_again(job: Job) -> None:
    job.add()
    job.request["items"][0]["plan"] = {
        "version": 1, "instruction": "x", "source": {"sha256": "0" * 64}, "steps": ["remove the sound of wind"],
    }  # fmt: skip
    agent = job.run()
    assert agent.calls == ["apply 1 preserve 0"]
    assert job.named("plan")[0]["given"] is True
    assert job.named("notice")[0]["code"] == "source_changed"
    assert job.named("item_finished")[0]["plan"]["source"]["sha256"] == job.named("item_finished")[0]["source_sha256"]


def test_mode_and_seed_go_through(job: Job) -> None:
    job.add()
    job.request |= {"mode": "generate", "seed": 41}
    assert job.run().calls == ["plan a harbour 41", "apply 3 generate 41"]


def test_progress_is_not_a_flood(job: Job) -> None:
    job.add()
    file = job_module.EventFile(job.folder / "events.jsonl")
    job.write()
    item = read_request(job.folder).items[0]
    agent = FakeAgent()
    for _ in range(500):
        for event in agent.apply(read_audio(item.path), job_plan()):
            if type(event).__name__ == "Progress" and event.fraction < 1:  # type: ignore[union-attr]
                file.pass_on(item, event)
    assert len(job.named("progress")) < 200


def job_plan() -> Plan:
    from smartdj_agent.plan import make_plan

    return make_plan(PLANNED[:1])


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("add the sound of birdsong at the left", "add: birdsong (left)"),
        ("remove the sound of wind", "remove: wind"),
        ("turn down the volume of wind by 6 dB", "volume: wind (-6 dB)"),
        ("change the sound of man speaking to 30 degrees right", "direction: man speaking (to 30 degrees right)"),
        ("shift the sound of bell by 2 seconds", "shift: bell (+2 s)"),
        ("reverb the sound of bell with reverb level 5", "reverb: bell (level 5)"),
    ],
)
def test_labels_are_short(text: str, label: str) -> None:
    assert step_label(parse_step(text)) == label


# Review ------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    return reaper_helper.install(tmp_path)


needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="the helper of these tests is a shell script")


@needs_shell
def test_review_skip_edit_ask_again_and_answer(job: Job, program: Path) -> None:
    """One process: three items, a bad step, a question, an item decided later, an item skipped."""
    for name in ("a", "b", "c"):
        job.add(name)
    job.request |= {"review": True}
    job.request["items"][1]["instruction"] = "unclear"
    process = job.start(program)
    try:
        assert job.wait_for("review")["items"] == ["i1", "i2", "i3"]
        assert job.wait_for("question")["choices"] == ["make it quieter", "remove the dog"]
        job.decide(1, {"protocol": 1, "items": {"i1": {"steps": [{"do": "frobnicate"}]}, "i2": {"instruction": "calm"},
                                                "i3": {"later": True}}})  # fmt: skip
        assert job.wait_for("review", 2)["items"] == ["i1", "i2", "i3"]
        assert job.named("plan_rejected")[0]["error"]["field"] == "plan.steps[0].do"
        job.decide(2, '{"protocol": 1, "items": 7}')
        job.wait_for("review", 3)
        job.decide(3, {"protocol": 2, "items": {}})
        job.wait_for("review", 4)
        job.decide(4, "{no json")
        job.wait_for("review", 5)
        steps = [{"id": "s2", "do": PLANNED[0]}, {"id": "s9", "do": PLANNED[1], "enabled": False}]
        job.decide(5, {"protocol": 1, "items": {"i1": {"steps": steps}, "i2": {}}})
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert [event["done"] for event in job.named("finished")] == [["i1", "i2"]]
    accepted = {event["item"]: event["plan"] for event in job.named("item_finished")}
    assert [(s["id"], s["enabled"]) for s in accepted["i1"]["steps"]] == [("s2", True), ("s9", False)]
    assert accepted["i2"]["instruction"] == "calm"
    assert len(job.made) == 1 + 3
    assert sorted(path.name for path in job.folder.glob("plan*")) == [f"plan.{k}.json" for k in range(1, 6)]


@needs_shell
def test_all_switched_off_is_rejected(job: Job, program: Path) -> None:
    job.add()
    job.request |= {"review": True}
    process = job.start(program)
    job.wait_for("review")
    job.decide(1, {"protocol": 1, "items": {"i1": {"steps": [{"do": PLANNED[0], "enabled": False}]}}})
    assert job.wait_for("plan_rejected")["error"]["message"] == "every step is switched off"
    job.wait_for("review", 2)
    job.decide(2, {"protocol": 1, "items": {"i1": {"skip": True}}})
    assert process.wait(60) == 0
    assert not job.made


def test_a_question_without_review_fails_with_what_to_say(job: Job) -> None:
    job.add()
    job.request["instruction"] = "unclear"
    job.run()
    (failure,) = job.named("item_failed")
    assert failure["error"]["code"] == "instruction_unclear"
    assert '"remove the dog"' in failure["error"]["hint"]


# Stopping ----------------------------------------------------------------------------------------------------


def touch_cancel(job: Job, process: subprocess.Popen[bytes]) -> None:
    (job.folder / "cancel").touch()


def close_stdin(job: Job, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def terminate(job: Job, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)


def remove_folder(job: Job, process: subprocess.Popen[bytes]) -> None:
    job.folder.rename(job.folder.with_name("moved"))
    job.folder = job.folder.with_name("moved")


@needs_shell
@pytest.mark.parametrize("how", [touch_cancel, close_stdin, terminate, remove_folder])
@pytest.mark.parametrize("when", ["review", "progress"])
def test_every_way_to_cancel_ends_within_a_denoising_step(
    job: Job, tmp_path: Path, how: Callable[[Job, subprocess.Popen[bytes]], None], when: str
) -> None:
    """A step of the agent has four denoising steps of 0.3 s; after the word at most one more is begun."""
    program = reaper_helper.install(tmp_path, slow_s=0.3)
    job.add()
    job.request |= {"review": when == "review", "watch": {"stdin": True}}
    process = job.start(program, stdin=subprocess.PIPE)
    job.wait_for(when)
    before = len(job.named("progress"))
    how(job, process)
    assert process.wait(30) == 130
    assert job.events()[-1]["event"] == "cancelled"
    assert len(job.named("progress")) <= before + 1
    assert not job.made
    if when == "progress":
        assert (tmp_path / "agent.log").read_text().endswith("closed\n")


@needs_shell
def test_finished_steps_and_items_go_too_when_cancelled(job: Job, tmp_path: Path) -> None:
    program = reaper_helper.install(tmp_path, slow_s=0.05)
    job.add("a")
    job.add("b")
    process = job.start(program)
    job.wait_for("step_finished", 4)
    assert len(job.made) >= 4
    (job.folder / "cancel").touch()
    assert process.wait(30) == 130
    assert not job.made


@needs_shell
def test_the_helper_ends_with_the_process_that_started_it(job: Job, tmp_path: Path) -> None:
    """A parent that is killed can't say anything any more; its process id is watched."""
    program = reaper_helper.install(tmp_path, slow_s=0.1)
    job.add()
    code = (
        "import json, os, subprocess, sys, time\n"
        "path = sys.argv[2] + '/job.json'\n"
        "job = json.load(open(path)); job['watch'] = {'pid': os.getpid()}; json.dump(job, open(path, 'w'))\n"
        "print(subprocess.Popen([sys.argv[1], 'reaper-job', sys.argv[2]], stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    job.write()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(program), str(job.folder)], stdout=subprocess.PIPE
    ) as parent:
        job.wait_for("progress")
        parent.kill()
    assert job.wait_for("cancelled")["message"].startswith("cancelled: REAPER has ended")
    assert not job.made


@needs_shell
def test_a_heartbeat_that_stops_ends_the_job(job: Job, program: Path) -> None:
    job.add()
    job.request |= {"review": True, "watch": {"heartbeat_s": 0.5}}
    process = job.start(program, stdin=subprocess.DEVNULL)
    job.wait_for("review")
    (job.folder / "alive").touch()
    assert process.wait(30) == 130
    assert "not been heard of" in job.named("cancelled")[0]["message"]


def test_work_without_events_is_interrupted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "INTERRUPT_AFTER_S", 0.1)
    job.add()
    (job.folder / "cancel").touch()

    class Loads(FakeAgent):
        def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
            by = time.monotonic() + 30
            while time.monotonic() < by:  # as a model that loads
                time.sleep(0.01)
            raise AssertionError("was not interrupted")
            yield

    def make(request: JobRequest) -> FakeAgent:
        return Loads()

    job.write()
    with pytest.raises(SmartDJError) as caught:
        run_job(job.folder, make)
    assert caught.value.code is ErrorCode.CANCELLED
    assert job.events()[-1]["event"] == "cancelled"


def test_processes_are_seen_to_live_and_die() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process_lives(process.pid)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)
        assert not process_lives(process.pid)
    assert process_lives(os.getpid())


# Wrong requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"protocol": 2}, "job.protocol"),
        ({"protocol": None}, "job.protocol"),
        ({"id": "../x"}, "job.id"),
        ({"items": []}, "job.items"),
        ({"items": [7]}, "job.items[0]"),
        ({"mode": "loud"}, "job.mode"),
        ({"seed": -1}, "job.seed"),
        ({"seed": True}, "job.seed"),
        ({"watch": []}, "job.watch"),
        ({"instruction": " "}, "instruction"),
    ],
)
def test_a_wrong_request_is_one_error_event(job: Job, change: dict[str, Any], field: str) -> None:
    job.add()
    job.request |= change
    with pytest.raises(SmartDJError) as caught:
        job.run()
    assert caught.value.field == field
    (event,) = job.events()
    assert (event["event"], event["field"]) == ("error", field)
    assert event["hint"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"path": "walk.wav"}, "job.items[0].path"),
        ({"folder": "Media"}, "job.items[0].folder"),
        ({"frames": 0}, "job.items[0]"),
        ({"start_frame": 1.5}, "job.items[0].start_frame"),
        ({"plan": {"version": 1, "steps": ["frobnicate"]}}, "plan.steps[0].do"),
    ],
)
def test_a_wrong_item_is_one_error_event(job: Job, change: dict[str, Any], field: str) -> None:
    job.add()
    job.request["items"][0] |= change
    with pytest.raises(SmartDJError) as caught:
        job.run()
    assert caught.value.field == field


def test_a_folder_serves_once(job: Job) -> None:
    job.add()
    job.run()
    events = job.events()
    with pytest.raises(SmartDJError, match="used before"):
        job.run()
    assert job.events() == events


def test_missing_models_end_the_job_with_the_hint_and_the_exit_status(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "make_agent", lambda preset, device: FakeAgent(preset, device))
    monkeypatch.delenv("SMARTDJ_SERVER", raising=False)
    job.add()
    job.request["instruction"] = "missing"
    job.write()
    assert cli.main(["reaper-job", str(job.folder)]) == 50
    last = job.events()[-1]
    assert (last["event"], last["code"], last["exit_code"]) == ("error", "model_missing", 50)
    assert "smartdj models pull small" in last["hint"]
    assert "smartdj models pull small" in capsys.readouterr().err


def test_the_command_is_not_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "reaper-job" not in shown
    assert "reaper" in shown


# At a server -------------------------------------------------------------------------------------------------


def test_a_server_does_the_work(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMARTDJ_SERVER", raising=False)
    path = job.add(subtype="PCM_24", seconds=2.0)
    job.add("b")
    job.request["items"][0] |= {"start_frame": 1000, "frames": 8000}
    with live_server(tmp_path / "data") as live:
        live.ready()
        job.request["server"] = live.running.address
        job.write()
        assert cli.main(["reaper-job", str(job.folder)]) == 0
    assert job.events()[-1]["done"] == ["i1", "i2"]
    first, second = job.named("step_finished")[:2]
    part = soundfile.read(path, dtype="float64")[0][1000:9000]
    np.testing.assert_allclose(soundfile.read(first["path"])[0], part / 2, atol=2**-23)
    np.testing.assert_allclose(soundfile.read(second["path"])[0], part / 4, atol=2**-22)
    assert soundfile.info(second["path"]).subtype == "PCM_24"
    assert job.named("step_started")[0]["device"] == "stub"


def test_a_server_that_is_not_there_is_told(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMARTDJ_SERVER", raising=False)
    monkeypatch.setattr("smartdj_agent.client.connection.FIRST_CONTACT_S", 0.2)
    job.add()
    job.request["server"] = "127.0.0.1:9"
    job.write()
    assert cli.main(["reaper-job", str(job.folder)]) == 81
    assert job.events()[-1]["code"] == "server_unreachable"
