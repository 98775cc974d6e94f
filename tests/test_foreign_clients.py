"""The clients in other languages, as a person runs them: what they send, show, write and leave behind.

They talk to a server that only acts: it says and sends what the protocol promises, without any work. Tests of what
holds with every server take the fixture `server`, which may as well be a real one; tests of a situation that only an
actor can bring about, or that ask what arrived, take `acting`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
import wave
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from smartdj.v1 import audio_pb2, edit_pb2, edit_pb2_grpc, event_pb2, step_pb2

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = ROOT / "integrations" / "clients"
CHUNK_BYTES = 256 * 1024
PLANNED = ("remove the sound of dog barking", "turn down the volume of engine by 2 dB")


# ------------------------------------------------------------------------------------------------ building the clients


def build(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}"


def need(tools: list[str], packages: str) -> None:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed (Debian: {packages})")


def node_client() -> list[str]:
    need(["node", "npm"], "nodejs npm")
    folder = CLIENTS / "node"
    installed, locked = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
        build(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder])
    return ["node", str(folder / "smartdj-edit.mjs")]


def cpp_client() -> list[str]:
    need(["cmake", "make", "g++", "protoc", "grpc_cpp_plugin"], "cmake make g++ libgrpc++-dev protobuf-compiler-grpc")
    headers = [Path("/usr/include/grpcpp/grpcpp.h"), Path("/usr/include/google/protobuf/message.h")]
    if not all(path.exists() for path in headers):
        pytest.skip("gRPC's C++ headers are not installed (Debian: libgrpc++-dev libprotobuf-dev)")
    folder = CLIENTS / "cpp" / "build"  # kept, and ignored by git: the second run has nothing to do
    build(["cmake", "-S", CLIENTS / "cpp", "-B", folder])
    build(["cmake", "--build", folder])
    return [str(folder / "smartdj-edit")]


@pytest.fixture(scope="module", params=["node", "cpp"])
def client(request: pytest.FixtureRequest) -> list[str]:
    """Return the command that starts one client."""
    return {"node": node_client, "cpp": cpp_client}[request.param]()


# ---------------------------------------------------------------------------------------------------------- the server


@dataclass
class Visit:
    """What the server saw of one call."""

    header: edit_pb2.EditHeader
    metadata: dict[str, str]
    audio: bytearray = field(default_factory=bytearray)
    sizes: list[int] = field(default_factory=list)
    end: edit_pb2.AudioEnd | None = None
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    left: bool = False


class Actor(edit_pb2_grpc.EditServiceServicer):
    """Plays the server; the instruction says which part."""

    def __init__(self) -> None:
        self.visits: list[Visit] = []
        self.results: list[bytes] = []
        self.release = asyncio.Event()
        self.over: Future[Visit] = Future()

    async def Edit(self, requests: AsyncIterator[edit_pb2.EditRequest], context: Any) -> AsyncIterator[Any]:
        header = (await anext(aiter(requests))).header
        visit = Visit(header, dict(context.invocation_metadata()))
        self.visits.append(visit)
        instruction = header.spec.instruction or header.spec.plan.instruction
        if instruction.startswith("hold"):
            await self.release.wait()
        reader = asyncio.create_task(self.read(requests, visit))
        sequence = 0
        try:
            async for answer in self.play(instruction, visit, context):
                if answer.HasField("event"):
                    sequence += 1
                    answer.event.sequence, answer.event.job_id = sequence, "job-1"
                yield answer
        except asyncio.CancelledError:
            visit.left = True
            raise
        finally:
            reader.cancel()
            self.over.set_result(visit)

    async def read(self, requests: AsyncIterator[edit_pb2.EditRequest], visit: Visit) -> None:
        async for request in requests:
            match request.WhichOneof("payload"):
                case "data":
                    visit.audio += request.data
                    visit.sizes.append(len(request.data))
                case "audio_end":
                    visit.end = request.audio_end
                    visit.complete.set()
                case "cancel":
                    visit.cancel.set()

    async def play(self, instruction: str, visit: Visit, context: Any) -> AsyncIterator[edit_pb2.EditResponse]:
        def event(**what: Any) -> edit_pb2.EditResponse:
            return edit_pb2.EditResponse(event=event_pb2.JobEvent(**what))

        if instruction == "refuse":  # before the recording is through
            await self.fail(context, "AUDIO_TOO_LONG", "the recording is 2 h long", "cut it – 1 h is the most")
        if instruction == "hold until cancelled":
            await visit.cancel.wait()
            await self.fail(context, "CANCELLED", "cancelled", "", grpc.StatusCode.CANCELLED)
        await visit.complete.wait()
        yield event(queued=event_pb2.QueuedEvent(position=2))
        spec = visit.header.spec
        if spec.WhichOneof("wish") == "instruction":
            for fraction in (0.25, 0.5, 1.0):
                yield event(progress=event_pb2.ProgressEvent(
                    stage="listening", fraction=fraction, realtime_factor=8.5, left_s=4 - 4 * fraction))  # fmt: skip
            sounds = [event_pb2.HeardSound(label="dog barking", confidence=0.92, start_s=0.5, end_s=3, azimuth_deg=-90),
                      event_pb2.HeardSound(label="engine", confidence=0.5, start_s=0, end_s=10)]  # fmt: skip
            yield event(listened=event_pb2.ListenedEvent(sounds=sounds))
            if instruction == "question":
                yield event(question=event_pb2.QuestionEvent(text="Which dog?", choices=["the left dog", "both dogs"]))
                return
            steps = [step_pb2.Step(step_id=f"s{i}", text=text) for i, text in enumerate(PLANNED)]
            for i, step in enumerate(steps):
                yield event(step_planned=event_pb2.StepPlannedEvent(index=i, step=step))
        else:
            steps = list(spec.plan.steps)
            if any("gibberish" in step.text for step in steps):
                failed = await self.fail(None, "STEP_SYNTAX", "“gibberish” is no step", "see the eight operations")
                yield event(failed=event_pb2.FailedEvent(error=failed))
                await self.fail(context, "STEP_SYNTAX", "“gibberish” is no step", "see the eight operations")
        for step in steps:
            sound = re.sub(r".* of | by .*", "", step.text)
            if "remove" in step.text:
                step.remove.sound = sound
            else:
                step.volume.sound, step.volume.gain_db = sound, -2
        plan = step_pb2.Plan(steps=steps, instruction=instruction)
        yield event(plan_ready=event_pb2.PlanReadyEvent(plan=plan))

        audios: list[audio_pb2.AudioInfo] = []
        for i, step in enumerate(steps):
            yield event(step_started=event_pb2.StepStartedEvent(index=i, count=len(steps), step=step, device="cpu"))
            for percent in range(0, 101, 4):
                yield event(progress=event_pb2.ProgressEvent(
                    stage="finding the sound", step_index=i, step_count=len(steps), fraction=percent / 100,
                    realtime_factor=3.25, left_s=(100 - percent) / 10))  # fmt: skip
                if percent == 40 and instruction in ("slow", "stubborn") and i == 1:
                    await visit.cancel.wait()
                    if instruction == "stubborn":
                        await asyncio.Event().wait()
                    failed = await self.fail(None, "CANCELLED", "cancelled", "", grpc.StatusCode.CANCELLED)
                    yield event(failed=event_pb2.FailedEvent(error=failed))
                    await self.fail(context, "CANCELLED", "cancelled", "", grpc.StatusCode.CANCELLED)
            audio = bytes(visit.audio) + f"after step {i}".encode()
            self.results.append(audio)
            sha256 = hashlib.sha256(audio).hexdigest()
            audios.append(audio_pb2.AudioInfo(sha256=sha256, audio_sha256=f"{i:064}", size_bytes=len(audio)))
            yield event(step_finished=event_pb2.StepFinishedEvent(
                index=i, count=len(steps), step=step, audio=audios[i], elapsed_s=1.5, realtime_factor=3.25,
                method="mask", confidence=0.75))  # fmt: skip
            if visit.header.delivery == edit_pb2.DELIVERY_EVERY_STEP or i == len(steps) - 1:
                if instruction == "damage":
                    audio = audio[:-1] + b"?"
                for offset in range(0, len(audio), CHUNK_BYTES):
                    yield edit_pb2.EditResponse(audio=edit_pb2.AudioChunk(
                        sha256=sha256, step_index=i, offset_bytes=offset, data=audio[offset : offset + CHUNK_BYTES],
                        last=offset + CHUNK_BYTES >= len(audio)))  # fmt: skip
        warning = event_pb2.WarningEvent(code="sound_not_found", message="no engine is heard", hint="name it otherwise")
        yield event(warning=warning)
        if instruction != "no result":
            yield event(summary=event_pb2.SummaryEvent(
                result=audios[-1], plan=plan, steps=audios, elapsed_s=3.0, realtime_factor=3.25))  # fmt: skip

    async def fail(
        self,
        context: Any,
        reason: str,
        message: str,
        hint: str,
        code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT,
    ) -> status_pb2.Status:
        """Abort the call, or only return the status where no context is given."""
        status = status_pb2.Status(code=code.value[0], message=message)
        status.details.add().Pack(error_details_pb2.RetryInfo())
        info = error_details_pb2.ErrorInfo(reason=reason, domain="smartdj.agent", metadata={"hint": hint})
        status.details.add().Pack(info)
        if reason == "STEP_SYNTAX":
            violation = error_details_pb2.BadRequest.FieldViolation(field="plan.steps[0].text")
            status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        if context is not None:
            await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()),))
        return status


@dataclass
class Server:
    """A running server, and words that bring situations about there.

    Attributes
    ----------
    address
        HOST:PORT.
    step
        Text of a step that can be carried out.
    bad_step, bad_code, bad_hint
        Text of one that can't, and what the client shows then.
    slow
        Instruction of a job that takes long enough to be cancelled.
    slow_shown
        What the client shows once a step of that job is under way.
    """

    address: str
    step: str = PLANNED[0]
    bad_step: str = "gibberish"
    bad_code: str = "step_syntax"
    bad_hint: str = "see the eight operations"
    slow: str = "slow"
    slow_shown: str = "step 2/2: finding the sound 40 %"


@dataclass
class ActingServer(Server):
    """The one that only acts."""

    actor: Actor = field(default_factory=Actor)
    loop: asyncio.AbstractEventLoop | None = None
    authority: Path | None = None

    def visit(self) -> Visit:
        """Wait for the end of the call and return what the server saw."""
        return self.actor.over.result(timeout=20)

    def release(self) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.actor.release.set)


def serve(credentials: grpc.ServerCredentials | None, authority: Path | None) -> Iterator[ActingServer]:
    started: Future[ActingServer] = Future()
    done = asyncio.Event()

    async def main() -> None:
        server, actor = grpc.aio.server(), Actor()
        edit_pb2_grpc.add_EditServiceServicer_to_server(actor, server)
        if credentials is None:
            address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        else:
            address = f"localhost:{server.add_secure_port('localhost:0', credentials)}"
        await server.start()
        started.set_result(ActingServer(address, actor=actor, loop=asyncio.get_running_loop(), authority=authority))
        await done.wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    server = started.result(timeout=20)
    yield server
    assert server.loop is not None
    server.loop.call_soon_threadsafe(done.set)
    thread.join()


@pytest.fixture
def acting() -> Iterator[ActingServer]:
    yield from serve(None, None)


@pytest.fixture
def server(acting: ActingServer) -> Server:
    return acting


@pytest.fixture
def acting_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActingServer]:
    need(["openssl"], "openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    build(["openssl", "req", "-x509", *kind, *name, "-keyout", key, "-out", certificate])
    pair = (key.read_bytes(), certificate.read_bytes())
    yield from serve(grpc.ssl_server_credentials([pair]), certificate)


# ------------------------------------------------------------------------------------------------------------- helpers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a recording of more than one chunk: 3 s of soft noise, stereo, 529,244 bytes."""
    path = tmp_path / "in.wav"
    noise = np.random.default_rng(0).integers(-3000, 3000, (3 * 44100, 2), dtype=np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(44100)
        file.writeframes(noise.tobytes())
    return path


def start(command: list[str | Path], stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    words = [str(part) for part in command]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True)


def run(command: list[str | Path]) -> tuple[int, str, str]:
    with start(command) as process:
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"the client ended without {text!r}:\n{seen}")


# --------------------------------------------------------------------------------------------------------------- tests


# ------------------------------------------------------------------------------------------------ with every server


def test_edit(client: list[str], server: Server, source: Path, tmp_path: Path) -> None:
    out, steps = tmp_path / "out.wav", tmp_path / "new" / "steps"
    code, stdout, stderr = run(
        [*client, server.address, source, "", out, "--plan-step", server.step, "--steps-dir", steps, "--seed", "7"]
    )
    assert code == 0, stderr
    assert stdout.count("\n") == 1
    report = json.loads(stdout)
    assert set(report) == {"result_sha256", "audio_sha256", "steps", "cancel_to_end_s"}
    assert report["result_sha256"] == sha256(out)
    assert re.fullmatch("[0-9a-f]{64}", report["audio_sha256"])
    assert report["cancel_to_end_s"] is None
    (step,) = report["steps"]
    assert (step["index"], step["text"], step["sha256"]) == (0, server.step, sha256(out))
    assert step["audio_sha256"] == report["audio_sha256"]
    assert files_in(tmp_path) == {"in.wav", "out.wav", "new/steps/01-remove-dog-barking.wav"}
    assert (steps / "01-remove-dog-barking.wav").read_bytes() == out.read_bytes()
    assert re.search(r"step 1/1: [\w ]+ \d+ %, \d+\.\d\d × real time, \d+ s left", stderr)


def test_cancel(client: list[str], server: Server, source: Path, tmp_path: Path) -> None:
    process = start([*client, server.address, source, server.slow, tmp_path / "out.wav"])
    read_until(process, server.slow_shown)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "cancelled"
    report = json.loads(stdout)
    assert (report["result_sha256"], report["audio_sha256"]) == (None, None)
    assert report["cancel_to_end_s"] > 0
    assert files_in(tmp_path) == {"in.wav"}


def test_error_shows_code_field_and_hint(client: list[str], server: Server, source: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run(
        [*client, server.address, source, "", tmp_path / "out.wav", "--plan-step", server.bad_step]
    )
    assert (code, stdout) == (1, "")
    error, hint = stderr.splitlines()[-2:]
    assert error.startswith(f"error: {server.bad_code}: plan.steps[0].text: ")
    assert hint == f"hint: {server.bad_hint}"
    assert files_in(tmp_path) == {"in.wav"}


# ------------------------------------------------------------------------------------------ with the server that acts


def test_what_is_sent_and_shown(client: list[str], acting: ActingServer, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    code, stdout, stderr = run([*client, acting.address, source, "make it calm", out, "--seed", "7"])
    assert code == 0, stderr
    assert files_in(tmp_path) == {"in.wav", "out.wav"}
    report = json.loads(stdout)
    assert out.read_bytes() == acting.actor.results[-1]
    assert [step["text"] for step in report["steps"]] == list(PLANNED)
    visit = acting.visit()
    assert bytes(visit.audio) == source.read_bytes()
    assert visit.end is not None
    assert visit.end.sha256 == sha256(source)
    assert visit.sizes == [CHUNK_BYTES, CHUNK_BYTES, source.stat().st_size - 2 * CHUNK_BYTES]
    assert not visit.cancel.is_set()
    assert uuid.UUID(visit.header.request_id).version == 4
    assert (visit.header.spec.seed, visit.header.spec.source_name) == (7, "in.wav")
    assert visit.header.delivery == edit_pb2.DELIVERY_RESULT

    assert "waiting: 2 before this one" in stderr
    assert "heard: dog barking (92 %, 0.5–3.0 s, -90°)" in stderr
    assert "heard: engine (50 %, 0.0–10.0 s)" in stderr
    assert f"plan: 1. {PLANNED[0]}" in stderr
    assert "listening 50 %, 8.50 × real time, 2 s left" in stderr
    assert "step 2/2: finding the sound 40 %, 3.25 × real time, 6 s left" in stderr
    assert stderr.count("finding the sound") == 2 * 11  # a log isn't flooded: every tenth, not every event
    assert "warning: no engine is heard (name it otherwise)" in stderr
    assert "\r" not in stderr


def test_given_plan_is_carried_out_and_every_step_saved(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path
) -> None:
    steps = ["remove the sound of Dog Barking", "turn down the volume of ünruly engine by 2 dB"]
    options = [part for step in steps for part in ("--plan-step", step)]
    folder = tmp_path / "new" / "steps"
    code, stdout, stderr = run(
        [*client, acting.address, source, "", tmp_path / "out.wav", "--steps-dir", folder, *options]
    )
    assert code == 0, stderr
    assert "heard:" not in stderr
    assert "listening" not in stderr
    spec = acting.visit().header.spec
    assert spec.WhichOneof("wish") == "plan"
    assert [step.text for step in spec.plan.steps] == steps
    names = ["01-remove-dog-barking.wav", "02-volume-ünruly-engine.wav"]
    assert files_in(folder) == set(names)
    report = json.loads(stdout)
    assert [sha256(folder / name) for name in names] == [step["sha256"] for step in report["steps"]]
    assert (folder / names[1]).read_bytes() == (tmp_path / "out.wav").read_bytes()
    assert [(folder / name).read_bytes() for name in names] == acting.actor.results


def test_progress_is_one_line_that_updates(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path
) -> None:
    leader, follower = pty.openpty()
    process = start([*client, acting.address, source, "make it calm", tmp_path / "out.wav"], stderr=follower)
    os.close(follower)
    shown = bytearray()
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(leader)
    process.communicate(timeout=20)
    assert process.returncode == 0
    drawn = re.findall(r"\rstep 1/2: finding the sound (\d+) %, 3.25 × real time, \d+ s left\x1b\[K", shown.decode())
    assert [int(percent) for percent in drawn] == list(range(0, 101, 4))
    lines = [line.rpartition("\r\x1b[K")[2] for line in shown.decode().replace("\r\n", "\n").split("\n")]
    assert not any("s left" in line for line in lines), "progress stayed on the screen"
    assert "  done in 1.5 s (3.25 × real time), mask, 75 % sure" in lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_cancel_reaches_the_server_and_keeps_whole_steps(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out.wav"
    process = start([*client, acting.address, source, acting.slow, out, "--steps-dir", tmp_path / "steps"])
    read_until(process, "step 2/2: finding the sound 40 %")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "cancelled"
    report = json.loads(stdout)
    assert report["result_sha256"] is None
    assert report["cancel_to_end_s"] > 0
    visit = acting.visit()
    assert visit.cancel.is_set()
    assert not visit.left, "the client hung up instead of waiting for the end"
    # What was finished before is whole and stays; nothing else was written.
    assert files_in(tmp_path) == {"in.wav", "steps/01-remove-dog-barking.wav"}
    assert (tmp_path / "steps" / "01-remove-dog-barking.wav").read_bytes() == acting.actor.results[0]


def test_cancel_while_the_recording_is_sent(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path
) -> None:
    source.write_bytes(bytes(96 * 2**20))
    process = start([*client, acting.address, source, "hold until cancelled", tmp_path / "out.wav"])
    wait_until_reading_stalls(process, source)
    process.send_signal(signal.SIGINT)
    read_until(process, "cancelling")
    acting.release()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    visit = acting.visit()
    assert visit.end is None
    assert len(visit.audio) < 48 * 2**20
    assert files_in(tmp_path) == {"in.wav"}


def test_second_interrupt_leaves_at_once(client: list[str], acting: ActingServer, source: Path, tmp_path: Path) -> None:
    process = start([*client, acting.address, source, "stubborn", tmp_path / "out.wav", "--steps-dir", tmp_path / "s"])
    read_until(process, "step 2/2: finding the sound 40 %")
    process.send_signal(signal.SIGINT)
    read_until(process, "Ctrl-C again")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert acting.visit().left
    assert files_in(tmp_path) == {"in.wav", "s/01-remove-dog-barking.wav"}


def wait_until_reading_stalls(process: subprocess.Popen[str], source: Path) -> int:
    """Return how far the client has read its recording when it reads no further."""
    folder, position, same = Path(f"/proc/{process.pid}"), 0, 0
    if not folder.exists():
        pytest.skip("no /proc here to see how far the client has read")
    deadline = time.monotonic() + 20
    while same < 6 and time.monotonic() < deadline:  # nobody tells us that nothing happens
        time.sleep(0.1)
        before = position
        for handle in (folder / "fd").iterdir():
            if os.path.realpath(handle) == str(source):
                position = int((folder / "fdinfo" / handle.name).read_text().split()[1])
        same = same + 1 if position == before > 0 else 0
    assert position > 0
    return position


def test_reads_no_faster_than_the_server(client: list[str], acting: ActingServer, source: Path, tmp_path: Path) -> None:
    source.write_bytes(np.random.default_rng(1).bytes(64 * 2**20))
    process = start([*client, acting.address, source, "hold", tmp_path / "out.wav"])
    assert wait_until_reading_stalls(process, source) < 24 * 2**20
    acting.release()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    visit = acting.visit()
    assert visit.end is not None
    assert visit.end.sha256 == hashlib.sha256(visit.audio).hexdigest() == sha256(source)
    assert set(visit.sizes) == {CHUNK_BYTES}
    assert (tmp_path / "out.wav").read_bytes() == acting.actor.results[-1]


def test_existing_output_is_refused_and_untouched(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.wav"
    out.write_text("precious")
    code, stdout, stderr = run([*client, acting.address, source, "make it calm", out])
    assert (code, stdout) == (1, "")
    assert f"error: output_exists: {out} already exists" in stderr
    assert out.read_text() == "precious"
    assert acting.actor.visits == []


def test_output_that_appears_meanwhile_is_untouched(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.wav"
    process = start([*client, acting.address, source, "hold", out])
    while not acting.actor.visits:
        assert process.poll() is None
        time.sleep(0.02)
    out.write_text("precious")
    acting.release()
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (1, "")
    assert "exists" in stderr
    assert out.read_text() == "precious"
    assert files_in(tmp_path) == {"in.wav", "out.wav"}


def test_folder_with_files_is_refused_for_steps(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path
) -> None:
    code, _, stderr = run(
        [*client, acting.address, source, "make it calm", tmp_path / "out.wav", "--steps-dir", tmp_path]
    )
    assert code == 1
    assert "error: output_exists:" in stderr
    assert files_in(tmp_path) == {"in.wav"}


def test_refusal_while_the_recording_is_sent(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path
) -> None:
    source.write_bytes(bytes(64 * 2**20))
    code, _, stderr = run([*client, acting.address, source, "refuse", tmp_path / "out.wav"])
    assert code == 1
    assert stderr.splitlines() == ["error: audio_too_long: the recording is 2 h long", "hint: cut it – 1 h is the most"]


def test_no_server(client: list[str], source: Path, tmp_path: Path) -> None:
    code, _, stderr = run([*client, "127.0.0.1:1", source, "make it calm", tmp_path / "out.wav"])
    assert code == 1
    assert stderr.startswith("error: unavailable: ")
    assert files_in(tmp_path) == {"in.wav"}


@pytest.mark.parametrize(("instruction", "message"), [("damage", "damaged"), ("no result", "without the result")])
def test_bad_audio_is_never_kept(
    client: list[str], acting: ActingServer, source: Path, tmp_path: Path, instruction: str, message: str
) -> None:
    code, stdout, stderr = run([*client, acting.address, source, instruction, tmp_path / "out.wav"])
    assert (code, stdout) == (1, "")
    assert "error: data_loss: " in stderr
    assert message in stderr
    assert files_in(tmp_path) == {"in.wav"}


def test_question_shows_its_choices(client: list[str], acting: ActingServer, source: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run([*client, acting.address, source, "question", tmp_path / "out.wav"])
    assert (code, stdout) == (22, "")
    assert stderr.splitlines()[-3:] == ["Which dog?", "  - the left dog", "  - both dogs"]
    assert files_in(tmp_path) == {"in.wav"}


def test_token_goes_over_tls(client: list[str], acting_tls: ActingServer, source: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    options = ["--token-file", token, "--tls-ca", acting_tls.authority]
    code, _, stderr = run([*client, acting_tls.address, source, "make it calm", tmp_path / "out.wav", *options])
    assert code == 0, stderr
    assert acting_tls.visit().metadata["authorization"] == "Bearer s3cret"
    assert "s3cret" not in stderr


def test_token_never_crosses_the_network_in_the_clear(client: list[str], source: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    code, _, stderr = run([*client, "studio.example:50551", source, "calm", tmp_path / "o.wav", "--token-file", token])
    assert code == 2
    assert "--tls-ca" in stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["a", "b", "c"], ["a", "b", "c", "d", "--seed", "-1"], ["a", "b", "c", "d", "--seed", "4294967296"],
     ["a", "b", "c", "d", "--loud"], ["a", "b", "c", "d", "--seed"]],
)  # fmt: skip
def test_usage(client: list[str], arguments: list[str]) -> None:
    code, stdout, stderr = run([*client, *arguments])
    assert (code, stdout) == (2, "")
    assert stderr.startswith("error: usage: ")
    assert "usage: smartdj-edit HOST:PORT IN" in stderr


def test_help(client: list[str]) -> None:
    code, stdout, _ = run([*client, "--help"])
    assert code == 0
    assert stdout.startswith("usage: smartdj-edit HOST:PORT IN")


def test_missing_recording(client: list[str], acting: ActingServer, tmp_path: Path) -> None:
    code, _, stderr = run([*client, acting.address, tmp_path / "none.wav", "calm", tmp_path / "out.wav"])
    assert code == 1
    assert stderr.startswith("error: audio_not_found: ")
