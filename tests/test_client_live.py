"""The client against the real server with its worker process; only the networks are a stub."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smartdj_agent import cli
from smartdj_agent.audio import Audio, AudioFormat, audio_sha256, read_audio, write_audio
from smartdj_agent.client import Client, JobState, RemoteAgent, connection, read_token
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Event, Finished, Progress, StepFinished
from smartdj_agent.plan import make_plan
from tests.live_server import SLOW, Live, live_server
from tests.stub_agent import PLANNED, StubAgent
from tests.test_server_security import Authority, needs_openssl

RATE = 8000


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("server")
    with live_server(folder / "data", allowed_roots=[folder]) as server:
        server.ready()
        yield server


@pytest.fixture
def client(live: Live) -> Iterator[Client]:
    with Client(live.running.address) as open_client:
        yield open_client


def recording(subtype: str = "PCM_16", seconds: float = 1.0, seed: int = 0) -> Audio:
    noise = np.random.default_rng(seed).normal(0, 0.1, (2, round(RATE * seconds)))
    samples = noise.astype(np.float64 if subtype in ("PCM_32", "DOUBLE") else np.float32)
    return Audio(samples, RATE, AudioFormat("WAV", subtype), (("title", "walk"),))


def essence(events: list[Event]) -> list[object]:
    """What must be the same here and there: everything but progress, with audio as bytes."""
    return [
        (
            type(event).__name__,
            [
                (value.samples.tobytes(), value.samples.dtype, value.format, value.tags)
                if isinstance(value, Audio)
                else value
                for value in vars(event).values()
            ],
        )
        for event in events
        if type(event).__name__ not in ("Progress", "Listening", "Writing")
    ]


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
def test_the_same_events_as_from_the_agent_here(client: Client, subtype: str) -> None:
    audio, there, here = recording(subtype), RemoteAgent(client), StubAgent()
    assert essence(list(there.plan(audio, "calm"))) == essence(list(here.plan(audio, "calm")))
    plan = make_plan(list(PLANNED), source_sha256=audio_sha256(audio))
    assert essence(list(there.apply(audio, plan))) == essence(list(here.apply(audio, plan)))
    half = replace(audio, samples=audio.samples * 0.5)
    assert essence(list(there.apply(half, plan, done=1))) == essence(list(here.apply(half, plan, done=1)))


def test_a_file_is_edited_reviewed_and_fetched(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "in.flac"
    write_audio(source, replace(recording(), format=AudioFormat("FLAC", "PCM_16")))
    told: list[str] = []
    with client.edit(source, "calm", review=True, status=told.append) as run:
        run.wait()
        assert run.awaits_review
        assert run.plan is not None
        assert client.job(run.job_id).state is JobState.AWAITING_REVIEW
        run.accept(replace(run.plan, steps=run.plan.steps[:1]))
        run.wait()
    original = read_audio(source)
    assert run.audio is not None
    assert np.array_equal(run.audio.samples, original.samples * np.float32(0.5))
    assert (run.audio.format, run.audio.tags) == (original.format, original.tags)
    assert any(text.startswith("waiting") for text in told)
    job = client.job(run.job_id)
    assert (job.state, len(job.steps), job.result) == (JobState.SUCCEEDED, 1, job.steps[0])
    target = tmp_path / "out.wav"
    client.download(job.steps[0], target)
    assert read_audio(target).format.subtype == "FLOAT"
    submitted = client.submit(source, make_plan(["remove the sound of wind"]))
    assert client.watch(submitted.job_id).wait().audio is not None
    result = client.job(submitted.job_id).result
    assert result is not None
    assert (result.container, result.subtype) == ("FLAC", "PCM_16")


def test_questions_failures_and_capabilities(client: Client) -> None:
    run = client.plan(recording(), "unclear").wait()
    assert run.question is not None
    with pytest.raises(SmartDJError) as caught:
        client.plan(recording(), "missing").wait()
    assert (caught.value.code, caught.value.hint) == (ErrorCode.MODEL_MISSING, "pull it")
    assert client.health()
    found = client.capabilities()
    assert len(found.operations) == 8
    assert found.preset == "small"
    assert client.validate(make_plan(list(PLANNED)), recording())
    mismatch = client.validate(make_plan(list(PLANNED), source_sha256="ab" * 32), recording())
    assert [fault.code for fault in mismatch.faults] == [ErrorCode.PLAN_MISMATCH]


def test_a_long_recording_travels_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    with live_server(tmp_path / "data", max_audio_bytes=4_000_000) as live, Client(live.running.address) as client:
        path = tmp_path / "long.wav"
        write_audio(path, recording(seconds=100))
        audio = client.upload(path)
        assert audio.duration_s == 100
        client.download(audio, tmp_path / "back.wav")
        assert (tmp_path / "back.wav").read_bytes() == path.read_bytes()
        with pytest.raises(SmartDJError) as caught:
            client.upload(recording("DOUBLE", seconds=100))
        assert caught.value.code is ErrorCode.AUDIO_TOO_LONG


def test_leaving_stops_the_work(tmp_path: Path) -> None:
    with live_server(tmp_path / "data", devices=SLOW, drain_s=0) as live, Client(live.running.address) as client:
        with client.edit(recording(), make_plan(list(PLANNED))) as run:
            while not isinstance(next(run), Progress):
                pass
        while (job := client.job(run.job_id)).state is JobState.RUNNING:
            time.sleep(0.02)
        assert job.state is JobState.CANCELLED
        assert job.steps == ()


def test_a_run_survives_a_restart_of_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LONGEST_PAUSE_S", 0.2)
    audio, plan = recording(), make_plan([*PLANNED, "remove the sound of rain"])
    events: list[Event] = []
    told: list[str] = []
    with ExitStack() as stack:
        with live_server(tmp_path / "data", devices=SLOW, drain_s=0) as before:
            address = before.running.address
            client = stack.enter_context(Client(address))
            run = client.edit(audio, plan, status=told.append)
            while not (events and isinstance(events[-1], StepFinished)):
                events.append(next(run))
            listening = threading.Thread(target=lambda: events.extend(run))
            listening.start()
        port = int(address.rpartition(":")[2])
        with live_server(tmp_path / "data", devices=SLOW, port=port):
            listening.join(30)
            assert not listening.is_alive()
    done = [event.index for event in events if isinstance(event, StepFinished)]
    assert done == [0, 1, 2]
    last = events[-1]
    assert isinstance(last, Finished)
    assert np.array_equal(last.audio.samples, audio.samples * np.float32(0.125))
    assert "connection lost; trying again" in told


@needs_openssl
def test_token_and_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_CONTACT_S", 0.3)
    authority = Authority(tmp_path, "authority")
    stranger = Authority(tmp_path, "stranger")
    certificate, key = authority.issue("server")
    own = authority.issue("desk")
    tls = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": authority.certificate}
    file = tmp_path / "token"
    with live_server(tmp_path / "data", token_file=file, **tls) as live:
        live_address, token = live.running.address, read_token(file)
        with Client(live_address, token=token, tls_ca=authority.certificate, client_cert=own) as client:
            assert client.plan(recording(), "calm").wait().plan is not None
        with Client(live_address, token="wrong", tls_ca=authority.certificate, client_cert=own) as client:
            assert code_of(client) is ErrorCode.UNAUTHENTICATED
        unreachable: list[dict[str, Any]] = [
            {"tls_ca": stranger.certificate, "client_cert": own},
            {"tls_ca": file, "client_cert": own},  # no certificate at all
            {"tls_ca": authority.certificate},
            {},
        ]
        for options in unreachable:
            with Client(live_address, token=token, **options) as client:
                assert code_of(client) is ErrorCode.SERVER_UNREACHABLE


def code_of(client: Client) -> ErrorCode:
    with pytest.raises(SmartDJError) as caught:
        client.capabilities()
    return caught.value.code


def test_the_command_line_writes_the_same_files(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "make_agent", lambda preset, device: StubAgent())
    source = tmp_path / "in.wav"
    write_audio(source, recording("PCM_24"))
    files = []
    for place, before in (("here", []), ("there", ["--server", live.running.address])):
        folder = tmp_path / place
        folder.mkdir()
        words = ["edit", str(source), "calm", "-o", str(folder / "out.wav"), "--yes", "--steps-dir", str(folder / "s")]
        assert cli.main([*before, *words]) == 0
        files.append({path.name: path.read_bytes() for path in folder.rglob("*.wav")})
    assert len(files[0]) == 3
    assert files[0] == files[1]


def test_several_threads_may_use_one_remote_agent(client: Client) -> None:
    agent = RemoteAgent(client)
    assert agent.max_parallel == 2
    plan = make_plan(list(PLANNED))
    recordings = [recording(seed=number) for number in range(4)]
    with ThreadPoolExecutor(agent.max_parallel) as pool:
        there = list(pool.map(lambda audio: essence(list(agent.apply(audio, plan))), recordings))
    assert there == [essence(list(StubAgent().apply(audio, plan))) for audio in recordings]
