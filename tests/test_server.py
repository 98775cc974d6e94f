"""The server as clients meet it: real gRPC on loopback, a real worker process, a stub agent."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import queue
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from smartdj.v1 import audio_pb2, edit_pb2, event_pb2, job_pb2, server_pb2, step_pb2
from smartdj_agent.errors import ErrorCode
from smartdj_agent.wire_status import status_of
from tests.live_server import SLOW, Live, live_server

CHUNK = 256 * 1024
TWO_STEPS = step_pb2.Plan(steps=[step_pb2.Step(text="remove dog"), step_pb2.Step(text="remove wind")])


def wav(seconds: float = 0.5, subtype: str = "PCM_16", seed: int = 0) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (round(8000 * seconds), 2))
    soundfile.write(file, samples, 8000, subtype, format="WAV")
    return file.getvalue()


def samples_of(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float64")[0]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "allowed").mkdir()
    with live_server(folder / "data", allowed_roots=[folder / "allowed"]) as server:
        server.ready()
        yield server


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Live]:
    """A server whose steps take a second each."""
    with live_server(tmp_path / "data", devices=SLOW, max_queue=2, max_queue_per_client=2, drain_s=0) as server:
        server.ready()
        yield server


class Talk:
    """One Edit call: what is sent, and what came."""

    def __init__(self, live: Live, header: edit_pb2.EditHeader, data: bytes = b"", *, timeout: float = 60) -> None:
        self._out: queue.Queue[edit_pb2.EditRequest | None] = queue.Queue()
        self.say(header=header)
        for start in range(0, len(data), CHUNK):
            self.say(data=data[start : start + CHUNK])
        if data:
            self.say(audio_end=edit_pb2.AudioEnd(sha256=sha256(data)))
        self.events: list[event_pb2.JobEvent] = []
        self.files: dict[int, bytes] = {}
        self.call = live.edit.Edit(iter(self._out.get, None), timeout=timeout)

    def say(self, **payload: Any) -> None:
        self._out.put(edit_pb2.EditRequest(**payload))

    def until(self, kind: str) -> event_pb2.JobEvent:
        """Read up to the next event of this kind."""
        for response in self.call:
            if response.WhichOneof("payload") == "audio":
                before = self.files.get(response.audio.step_index, b"")
                assert response.audio.offset_bytes == len(before)
                self.files[response.audio.step_index] = before + response.audio.data
                continue
            self.events.append(response.event)
            if response.event.WhichOneof("event") == kind:
                return response.event
        raise AssertionError(f"no {kind} came")

    def end(self) -> list[event_pb2.JobEvent]:
        """Read to the end of the call."""
        with pytest.raises(AssertionError):
            self.until("nothing")
        self._out.put(None)
        return self.events

    @property
    def kinds(self) -> list[str]:
        return [event.WhichOneof("event") for event in self.events if event.WhichOneof("event") != "progress"]


def refusal(call: Any) -> tuple[grpc.StatusCode, ErrorInfo, str]:
    """Make a call that must fail: code, ErrorInfo and the field that is to blame."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = status_of(caught.value)
    info, bad, field = ErrorInfo(), BadRequest(), ""
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
    assert info.domain == "smartdj.agent"
    assert info.metadata["hint"] or info.reason == "CANCELLED"
    code = caught.value.code()  # type: ignore[attr-defined]
    return code, info, field


def upload(live: Live, data: bytes) -> str:
    header = audio_pb2.UploadHeader(sha256=sha256(data), size_bytes=len(data))
    pieces = [audio_pb2.UploadRequest(header=header)]
    pieces += [audio_pb2.UploadRequest(data=data[i : i + CHUNK]) for i in range(0, len(data), CHUNK)]
    return live.audio.Upload(iter(pieces)).audio.sha256


def download(live: Live, digest: str, offset: int = 0) -> bytes:
    responses = live.audio.Download(audio_pb2.DownloadRequest(sha256=digest, offset_bytes=offset))
    return b"".join(response.data for response in responses)


def submit(live: Live, data: bytes, spec: job_pb2.JobSpec, request_id: str = "") -> job_pb2.Job:
    source = audio_pb2.AudioSource(sha256=upload(live, data))
    return live.jobs.SubmitJob(job_pb2.SubmitJobRequest(request_id=request_id, audio=source, spec=spec)).job


def watched(live: Live, job_id: str, after: int = 0) -> list[event_pb2.JobEvent]:
    request = job_pb2.WatchJobRequest(job_id=job_id, after_sequence=after)
    events = [response.event for response in live.jobs.WatchJob(request, timeout=60)]
    return [event for event in events if event.WhichOneof("event") not in ("progress", "queued")]


def test_an_instruction_becomes_a_plan_steps_and_audio(live: Live) -> None:
    data = wav(seconds=20)  # more than one chunk
    talk = Talk(live, edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="calm", source_name="walk.wav")), data)
    events = talk.end()
    expected = ["queued", "listened", "step_planned", "step_planned", "plan_ready"]
    expected += ["step_started", "step_finished"] * 2 + ["summary"]
    assert talk.kinds == expected
    kept = [event.sequence for event in events if event.WhichOneof("event") not in ("progress", "queued")]
    assert kept == list(range(1, len(kept) + 1))
    assert any(event.WhichOneof("event") == "progress" for event in events)
    summary = events[-1].summary
    assert [sha256(talk.files[index]) for index in (0, 1)] == [info.sha256 for info in summary.steps]
    assert summary.result == summary.steps[1]
    assert (summary.result.container, summary.result.subtype, summary.result.channels) == ("WAV", "PCM_16", 2)
    assert summary.source.audio_sha256
    assert summary.plan.source_name == "walk.wav"
    np.testing.assert_allclose(samples_of(talk.files[1]), samples_of(data) / 4, atol=2**-15)


def test_float_results_are_exact_and_delivery_is_as_asked(live: Live) -> None:
    data = wav()
    spec = job_pb2.JobSpec(plan=TWO_STEPS, output_encoding=job_pb2.OUTPUT_ENCODING_WAV_FLOAT)
    talk = Talk(live, edit_pb2.EditHeader(spec=spec, delivery=edit_pb2.DELIVERY_RESULT), data)
    talk.end()
    assert set(talk.files) == {1}
    np.testing.assert_array_equal(samples_of(talk.files[1]), samples_of(data) / 4)
    silent = Talk(live, edit_pb2.EditHeader(spec=spec, delivery=edit_pb2.DELIVERY_NONE), data)
    result = silent.end()[-1].summary.result
    assert silent.files == {}
    assert download(live, result.sha256) == talk.files[1]


def test_the_same_wish_twice_makes_the_same_bytes(live: Live) -> None:
    hashes = set()
    for _ in range(2):
        talk = Talk(live, edit_pb2.EditHeader(spec=job_pb2.JobSpec(plan=TWO_STEPS, seed=3)), wav())
        hashes.add(talk.end()[-1].summary.result.sha256)
    assert len(hashes) == 1


def test_review_waits_and_takes_a_changed_plan(live: Live) -> None:
    talk = Talk(live, edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="calm", review=True)), wav())
    ready = talk.until("plan_ready").plan_ready
    assert ready.awaits_review
    job_id = talk.events[0].job_id
    assert live.jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id)).job.state == job_pb2.JOB_STATE_AWAITING_REVIEW
    wrong = step_pb2.Plan(steps=[step_pb2.Step(volume=step_pb2.VolumeOperation(sound="wind", gain_db=99))])
    talk.say(decision=edit_pb2.PlanDecision(changed_plan=wrong))
    warning = talk.until("warning").warning  # a slip doesn't cost the job
    assert warning.message.startswith("plan.steps[0].volume.gain_db")
    changed = step_pb2.Plan()
    changed.CopyFrom(ready.plan)
    changed.steps[0].enabled = False
    talk.say(decision=edit_pb2.PlanDecision(changed_plan=changed))
    summary = talk.end()[-1].summary
    assert len(summary.steps) == 1
    assert not summary.plan.steps[0].enabled


def test_a_review_can_be_decided_by_another_call(live: Live) -> None:
    job = submit(live, wav(), job_pb2.JobSpec(plan=TWO_STEPS, review=True))
    assert job.state == job_pb2.JOB_STATE_AWAITING_REVIEW
    for _ in range(2):  # accepting twice changes nothing
        live.jobs.ReviewJob(job_pb2.ReviewJobRequest(job_id=job.job_id))
    assert watched(live, job.job_id)[-1].WhichOneof("event") == "summary"
    code, info, _ = refusal(lambda: live.jobs.ReviewJob(job_pb2.ReviewJobRequest(job_id=job.job_id)))
    assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_ENDED")


def test_many_decisions_at_once_are_one(live: Live) -> None:
    job = submit(live, wav(), job_pb2.JobSpec(plan=TWO_STEPS, review=True))
    calls = [live.jobs.ReviewJob.future(job_pb2.ReviewJobRequest(job_id=job.job_id)) for _ in range(8)]
    for call in calls:
        assert call.exception() is None or status_of(call.exception()).code == 9  # ended meanwhile
    kinds = [event.WhichOneof("event") for event in watched(live, job.job_id)]
    assert kinds.count("step_finished") == 2
    assert kinds[-1] == "summary"


def test_a_plan_that_nobody_decides_about_ends_in_time(live: Live) -> None:
    waiting = submit(live, wav(), job_pb2.JobSpec(plan=TWO_STEPS, review=True))
    jobs = live.running.jobs
    for before_s, state in (
        (time.time() - 60, job_pb2.JOB_STATE_AWAITING_REVIEW),
        (time.time() + 60, job_pb2.JOB_STATE_CANCELLED),
    ):
        asyncio.run_coroutine_threadsafe(jobs.expire_reviews(before_s), live.loop).result(60)
        assert live.jobs.GetJob(job_pb2.GetJobRequest(job_id=waiting.job_id)).job.state == state
    assert "nobody decided" in watched(live, waiting.job_id)[-1].failed.error.message


def test_undecided_plans_are_not_without_number(tmp_path: Path) -> None:
    spec = job_pb2.JobSpec(plan=TWO_STEPS, review=True)
    with live_server(tmp_path / "data", max_queue_per_client=2) as live:
        live.ready()
        first, _ = submit(live, wav(), spec), submit(live, wav(), spec)
        code, info, _ = refusal(lambda: submit(live, wav(), spec))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        live.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=first.job_id))
        submit(live, wav(), spec)


def test_a_cancel_that_was_answered_holds_over_a_crash(tmp_path: Path) -> None:
    """A server that dies after it answered, before the worker's report came."""
    with live_server(tmp_path / "data", devices=SLOW, drain_s=0.0) as live:
        live.ready()
        job = submit(live, wav(), job_pb2.JobSpec(plan=TWO_STEPS))
        while live.running.jobs.running == 0:
            time.sleep(0.01)
        # The worker never hears of it: as if the server died right after it had noted the wish.
        live.running.workers[0].cancel = lambda task_id: None  # type: ignore[method-assign]
        live.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.job_id))
        copy = tmp_path / "crashed"
        database = sqlite3.connect(tmp_path / "data" / "jobs.db")
        shutil.copytree(tmp_path / "data", copy, ignore=shutil.ignore_patterns("jobs.db*", "*.sock", "lock*"))
        with contextlib.closing(database), contextlib.closing(sqlite3.connect(copy / "jobs.db")) as target:
            database.backup(target)
        del live.running.workers[0].cancel  # type: ignore[method-assign]
    with live_server(copy) as live:
        assert live.jobs.GetJob(job_pb2.GetJobRequest(job_id=job.job_id)).job.state == job_pb2.JOB_STATE_CANCELLED


def test_a_question_ends_the_plan(live: Live) -> None:
    header = edit_pb2.PlanRequest(header=edit_pb2.PlanHeader(instruction="unclear"))
    responses = list(live.edit.Plan(iter([header, edit_pb2.PlanRequest(data=wav())])))
    last = responses[-1].event.question
    assert (last.text, list(last.choices)) == ("Which one?", ["the dog", "the wind"])


def test_plan_alone_changes_nothing(live: Live) -> None:
    source = audio_pb2.AudioSource(sha256=upload(live, wav()))
    header = edit_pb2.PlanRequest(header=edit_pb2.PlanHeader(instruction="calm", audio=source))
    events = [response.event for response in live.edit.Plan(iter([header]))]
    assert [event.WhichOneof("event") for event in events[-2:]] == ["plan_ready", "summary"]
    assert not events[-1].summary.HasField("result")
    assert len(events[-1].summary.plan.steps) == 2


def test_faults_of_a_plan_are_told_by_field(live: Live) -> None:
    plan = step_pb2.Plan(
        steps=[
            step_pb2.Step(text="remove dog"),
            step_pb2.Step(text="make tea"),
            step_pb2.Step(volume=step_pb2.VolumeOperation(sound="wind", gain_db=99)),
        ]
    )
    response = live.edit.ValidatePlan(edit_pb2.ValidatePlanRequest(plan=plan))
    assert [(v.field, v.reason) for v in response.violations] == [
        ("plan.steps[1].text", "STEP_SYNTAX"),
        ("plan.steps[2].volume.gain_db", "STEP_RANGE"),
    ]
    assert not response.HasField("plan")
    spec = job_pb2.JobSpec(plan=plan)
    code, _, field = refusal(lambda: submit(live, wav(), spec))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "plan.steps[1].text")
    fine = live.edit.ValidatePlan(edit_pb2.ValidatePlanRequest(plan=TWO_STEPS))
    assert [step.step_id for step in fine.plan.steps] == ["s1", "s2"]
    nothing = step_pb2.Plan(steps=[step_pb2.Step(text="remove dog", enabled=False)])
    (violation,) = live.edit.ValidatePlan(edit_pb2.ValidatePlanRequest(plan=nothing)).violations
    assert violation.reason == "PLAN_INVALID"


def test_another_recordings_plan_is_refused(live: Live) -> None:
    plan = step_pb2.Plan(steps=[step_pb2.Step(text="remove dog")], source_audio_sha256="ab" * 32)
    talk = Talk(live, edit_pb2.EditHeader(spec=job_pb2.JobSpec(plan=plan)), wav())
    # The stub doesn't check, the real agent does: here only that the server knows the hash afterwards.
    source = talk.end()[-1].summary.source
    known = audio_pb2.AudioSource(sha256=source.sha256)
    response = live.edit.ValidatePlan(edit_pb2.ValidatePlanRequest(plan=plan, audio=known))
    assert [violation.reason for violation in response.violations] == ["PLAN_MISMATCH"]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "USAGE"),
        ([edit_pb2.EditRequest(data=b"x")], "USAGE"),
        ([edit_pb2.EditRequest(header=edit_pb2.EditHeader())], "USAGE"),
        (
            [edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="  ")))],
            "INSTRUCTION_EMPTY",
        ),
        (
            [edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="x" * 2001)))],
            "INSTRUCTION_TOO_LONG",
        ),
        ([edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="calm")))], "AUDIO_EMPTY"),
        (
            [
                edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="calm"))),
                edit_pb2.EditRequest(data=b"this is no audio" * 100),
                edit_pb2.EditRequest(audio_end=edit_pb2.AudioEnd()),
            ],
            "AUDIO_UNSUPPORTED",
        ),
        (
            [
                edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="calm"))),
                edit_pb2.EditRequest(data=wav()),
                edit_pb2.EditRequest(audio_end=edit_pb2.AudioEnd(sha256="00" * 32)),
            ],
            "UPLOAD_MISMATCH",
        ),
        (
            [  # as a connection that breaks looks to the server
                edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="calm"))),
                edit_pb2.EditRequest(data=wav()),
            ],
            "UPLOAD_MISMATCH",
        ),
        (
            [
                edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction="calm"))),
                edit_pb2.EditRequest(decision=edit_pb2.PlanDecision()),
            ],
            "USAGE",
        ),
        (
            [
                edit_pb2.EditRequest(
                    header=edit_pb2.EditHeader(
                        spec=job_pb2.JobSpec(instruction="calm"), audio=audio_pb2.AudioSource(sha256="ab" * 32)
                    )
                )
            ],
            "AUDIO_NOT_FOUND",
        ),
    ],
)
def test_wrong_calls_get_a_clear_error(live: Live, messages: list[edit_pb2.EditRequest], reason: str) -> None:
    _, info, _ = refusal(lambda: list(live.edit.Edit(iter(messages))))
    if reason == "AUDIO_UNSUPPORTED":
        assert info.reason in ("AUDIO_UNSUPPORTED", "AUDIO_UNREADABLE")
    else:
        assert info.reason == reason


def test_uploads_resume_and_downloads_too(live: Live) -> None:
    data = wav(seconds=30, seed=5)
    digest = sha256(data)
    half = len(data) // 2
    header = audio_pb2.UploadHeader(sha256=digest, size_bytes=len(data))
    first = [audio_pb2.UploadRequest(header=header), audio_pb2.UploadRequest(data=data[:half])]
    _, info, _ = refusal(lambda: live.audio.Upload(iter(first)))
    assert info.reason == "UPLOAD_MISMATCH"  # less than the header said
    # The call above ended whole but short; one that breaks off leaves what came.
    blocked = threading.Event()

    def broken() -> Iterator[audio_pb2.UploadRequest]:
        yield from first
        blocked.wait(30)

    call = live.audio.Upload.future(broken())
    ask = audio_pb2.GetUploadRequest(sha256=digest)
    while live.audio.GetUpload(ask).received_bytes < half:
        pass
    call.cancel()
    blocked.set()
    assert live.audio.GetUpload(ask).received_bytes == half
    header.offset_bytes = half
    rest = [audio_pb2.UploadRequest(header=header), audio_pb2.UploadRequest(data=data[half:])]
    assert live.audio.Upload(iter(rest)).audio.sha256 == digest
    assert live.audio.GetUpload(ask).audio.frames == 30 * 8000
    assert download(live, digest, half) == data[half:]


def test_files_of_this_machine_only_under_allowed_roots(live: Live, tmp_path: Path) -> None:
    allowed = live.running.jobs.blobs.path("0" * 64).parents[3] / "allowed"
    (allowed / "in.wav").write_bytes(wav())
    taken = live.audio.ImportFile(audio_pb2.ImportFileRequest(path=str(allowed / "in.wav"))).audio
    assert taken.sha256 == sha256(wav())
    source = audio_pb2.AudioSource(path=str(allowed / "in.wav"))
    talk = Talk(live, edit_pb2.EditHeader(spec=job_pb2.JobSpec(plan=TWO_STEPS), audio=source))
    result = talk.end()[-1].summary.result.sha256
    out = allowed / "out.wav"
    live.audio.ExportFile(audio_pb2.ExportFileRequest(sha256=result, path=str(out)))
    assert sha256(out.read_bytes()) == result
    again = audio_pb2.ExportFileRequest(sha256=taken.sha256, path=str(out))
    assert refusal(lambda: live.audio.ExportFile(again))[1].reason == "OUTPUT_EXISTS"
    (tmp_path / "secret.wav").write_bytes(wav())
    (allowed / "link.wav").symlink_to(tmp_path / "secret.wav")
    for path in (tmp_path / "secret.wav", allowed / "link.wav", allowed / ".." / "data" / "jobs.db"):
        code, info, _ = refusal(lambda path=path: live.audio.ImportFile(audio_pb2.ImportFileRequest(path=str(path))))
        assert (code, info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PATH_FORBIDDEN")


def test_a_request_id_makes_one_job(live: Live) -> None:
    name, spec = str(uuid.uuid4()), job_pb2.JobSpec(plan=TWO_STEPS)
    first = submit(live, wav(), spec, name)
    assert submit(live, wav(), spec, name).job_id == first.job_id
    talk = Talk(live, edit_pb2.EditHeader(request_id=name, spec=spec))  # attaches, without audio
    assert {event.job_id for event in talk.end()} == {first.job_id}
    _, info, _ = refusal(lambda: submit(live, wav(), job_pb2.JobSpec(plan=TWO_STEPS, seed=9), name))
    assert info.reason == "USAGE"
    _, info, field = refusal(lambda: submit(live, wav(seed=77), spec, name))
    assert (info.reason, field) == ("USAGE", "request_id")


def test_jobs_are_listed_newest_first_in_pages(live: Live) -> None:
    made = [submit(live, wav(), job_pb2.JobSpec(plan=TWO_STEPS, seed=n)).job_id for n in range(5)]
    for job_id in made:
        watched(live, job_id)
    listed, token = [], ""
    for _ in range(3):
        request = job_pb2.ListJobsRequest(page_size=2, page_token=token, states=[job_pb2.JOB_STATE_SUCCEEDED])
        page = live.jobs.ListJobs(request)
        listed += [job.job_id for job in page.jobs]
        token = page.next_page_token
    assert listed[:5] == made[::-1]
    code, _, field = refusal(lambda: live.jobs.ListJobs(job_pb2.ListJobsRequest(page_size=501)))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "page_size")
    assert refusal(lambda: live.jobs.GetJob(job_pb2.GetJobRequest(job_id="x")))[1].reason == "JOB_NOT_FOUND"


def test_watching_goes_on_where_it_was(live: Live) -> None:
    job = submit(live, wav(), job_pb2.JobSpec(plan=TWO_STEPS))
    events = watched(live, job.job_id)
    assert watched(live, job.job_id, 3) == events[3:]
    assert watched(live, job.job_id, 10_000) == []


def test_capabilities_say_what_there_is(live: Live) -> None:
    answer = live.server.GetCapabilities(server_pb2.GetCapabilitiesRequest())
    assert [item.name for item in answer.operations] == [
        "add", "remove", "extract", "volume", "direction", "shift", "reverb", "timbre",
    ]  # fmt: skip
    volume = answer.operations[3]
    gain = next(parameter for parameter in volume.parameters if parameter.name == "gain_db")
    assert (gain.minimum, gain.maximum, gain.unit, gain.required) == (-24, 24, "dB", True)
    assert not gain.HasField("default_value")
    assert answer.devices[0].device == "stub"
    assert answer.devices[0].ready
    assert answer.limits.max_steps == 50
    assert answer.local_paths


def test_health_and_reflection(live: Live) -> None:
    health = health_pb2_grpc.HealthStub(live.channel)
    for name in ("", "smartdj.v1.EditService", "smartdj.v1.AudioService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(live.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"smartdj.v1.EditService", "smartdj.v1.JobService", "grpc.health.v1.Health"} <= names


def test_what_fails_in_the_worker_ends_the_call_with_its_error(live: Live) -> None:
    for word, reason in (("missing", "MODEL_MISSING"), ("memory", "OUT_OF_MEMORY"), ("fault", "INTERNAL")):
        talk = Talk(live, edit_pb2.EditHeader(spec=job_pb2.JobSpec(instruction=word)), wav())
        _, info, _ = refusal(talk.end)
        assert info.reason == reason
        assert talk.kinds[-1] == "failed"


def test_cancelling_in_the_stream_keeps_finished_steps(slow: Live) -> None:
    talk = Talk(slow, edit_pb2.EditHeader(spec=job_pb2.JobSpec(plan=TWO_STEPS)), wav())
    finished = talk.until("step_finished").step_finished
    talk.say(cancel=edit_pb2.EditCancel())
    code, info, _ = refusal(talk.end)
    assert (code, info.reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
    job = slow.jobs.GetJob(job_pb2.GetJobRequest(job_id=talk.events[0].job_id)).job
    assert job.state == job_pb2.JOB_STATE_CANCELLED
    assert [info.sha256 for info in job.steps] == [finished.audio.sha256]
    assert sha256(download(slow, finished.audio.sha256)) == finished.audio.sha256


@pytest.mark.parametrize("how", ["disconnect", "deadline"])
def test_going_away_stops_the_work(slow: Live, how: str) -> None:
    header = edit_pb2.EditHeader(spec=job_pb2.JobSpec(plan=TWO_STEPS))
    talk = Talk(slow, header, wav(), timeout=1.0 if how == "deadline" else 60)
    job_id = talk.until("step_started").job_id
    if how == "disconnect":
        talk.call.cancel()
    else:
        with pytest.raises(grpc.RpcError):
            talk.end()
    last = watched(slow, job_id)[-1]
    assert last.WhichOneof("event") == "failed"
    assert slow.jobs.GetJob(job_pb2.GetJobRequest(job_id=job_id)).job.state == job_pb2.JOB_STATE_CANCELLED


def test_a_job_that_may_go_on_does(slow: Live) -> None:
    header = edit_pb2.EditHeader(
        spec=job_pb2.JobSpec(plan=TWO_STEPS), on_disconnect=edit_pb2.ON_DISCONNECT_CONTINUE, request_id="mine"
    )
    talk = Talk(slow, header, wav())
    talk.until("step_started")
    talk.call.cancel()
    back = Talk(slow, header)
    assert back.end()[-1].WhichOneof("event") == "summary"
    assert set(back.files) == {0, 1}


def test_a_full_queue_says_when_to_come_back(slow: Live) -> None:
    spec = job_pb2.JobSpec(plan=TWO_STEPS)
    first = submit(slow, wav(), spec)
    while slow.jobs.GetJob(job_pb2.GetJobRequest(job_id=first.job_id)).job.state == job_pb2.JOB_STATE_QUEUED:
        pass
    waiting = [submit(slow, wav(), spec) for _ in range(2)]
    with pytest.raises(grpc.RpcError) as caught:
        submit(slow, wav(), spec)
    status, retry = status_of(caught.value), RetryInfo()
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() > 0
    cancelled = slow.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=waiting[1].job_id)).job
    assert cancelled.state == job_pb2.JOB_STATE_CANCELLED
    submit(slow, wav(), spec)  # there is room again


def test_a_stopped_server_goes_on_where_it_was(tmp_path: Path) -> None:
    spec = job_pb2.JobSpec(instruction="calm", output_encoding=job_pb2.OUTPUT_ENCODING_WAV_FLOAT)
    with live_server(tmp_path / "a", devices=SLOW, drain_s=0) as server:
        job = submit(server, wav(), spec)
        for response in server.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.job_id)):
            if response.event.WhichOneof("event") == "step_finished":
                break
    with live_server(tmp_path / "a") as server:
        events = watched(server, job.job_id)
        # The second step began twice; the first was not done again.
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds[-1] == "summary"
        assert kinds.count("step_finished") == 2
        assert [event.step_finished.index for event in events if event.HasField("step_finished")] == [0, 1]
        result = download(server, events[-1].summary.result.sha256)
    np.testing.assert_array_equal(samples_of(result), samples_of(wav()) / 4)


def test_a_draining_server_finishes_its_step_and_refuses_more(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as reader, live_server(tmp_path / "a", devices=SLOW, drain_s=30) as server:
        server.ready()
        talk = Talk(server, edit_pb2.EditHeader(spec=job_pb2.JobSpec(plan=TWO_STEPS)), wav())
        talk.until("step_started")
        job_id = talk.events[0].job_id
        refused = reader.submit(refusal, talk.end)
    code, info, _ = refused.result()
    assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")
    assert talk.kinds.count("step_finished") == 1
    with live_server(tmp_path / "a") as server:
        assert watched(server, job_id)[-1].WhichOneof("event") == "summary"


def test_a_job_that_kills_the_worker_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartdj_agent.server.worker.FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("smartdj_agent.server.worker.LONGEST_PAUSE_S", 0.05)
    with live_server(tmp_path / "a") as server:
        job = submit(server, wav(), job_pb2.JobSpec(instruction="crash"))
        events = watched(server, job.job_id)
        info = ErrorInfo()
        assert events[-1].failed.error.details[0].Unpack(info)
        assert info.reason == "WORKER_CRASHED"
        other = submit(server, wav(), job_pb2.JobSpec(plan=TWO_STEPS))
        assert watched(server, other.job_id)[-1].WhichOneof("event") == "summary"


def test_a_token_is_wanted_where_one_is_set(tmp_path: Path) -> None:
    with live_server(tmp_path / "a", token_file=tmp_path / "token") as server:
        ask = server_pb2.GetCapabilitiesRequest()
        assert refusal(lambda: server.server.GetCapabilities(ask))[0] == grpc.StatusCode.UNAUTHENTICATED
        token = (tmp_path / "token").read_text().split()[-1]
        assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
        metadata = [("authorization", f"Bearer {token}")]
        assert server.server.GetCapabilities(ask, metadata=metadata).version
        health = health_pb2_grpc.HealthStub(server.channel)
        health.Check(health_pb2.HealthCheckRequest(service="smartdj.v1.AudioService"))


def test_models_that_cannot_be_loaded_are_told(tmp_path: Path) -> None:
    with live_server(tmp_path / "a", agent="smartdj_agent.server.compute:real_agent", preset="nonsense") as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service="smartdj.v1.EditService"))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        job = submit(server, wav(), job_pb2.JobSpec(plan=TWO_STEPS))
        info = ErrorInfo()
        assert watched(server, job.job_id)[-1].failed.error.details[0].Unpack(info)
        assert info.reason == ErrorCode.USAGE.name


def test_one_server_per_data_folder_and_port(tmp_path: Path) -> None:
    from smartdj_agent.errors import SmartDJError

    with live_server(tmp_path / "a") as server:
        with pytest.raises(SmartDJError) as caught, live_server(tmp_path / "a"):
            pass
        assert caught.value.code is ErrorCode.SERVER_CONFIG
        with pytest.raises(SmartDJError) as caught, live_server(tmp_path / "b", port=server.running.port):
            pass
        assert caught.value.field == "port"
