"""Sends a real server what no honest client would send, and looks whether it stays whole, quiet and clear.

    python -m benchmarks.server_fuzz --messages 20000

Seeded. Every method (those of health and reflection too) gets garbage, truncated and changed messages, numbers, texts,
paths, hashes and offsets that mean trouble, messages in wrong order, twice, too many, too few and too large, slow and
half-closed streams, hostile metadata, damaged recordings, calls that are cancelled, run out of time or lose their
connection at random moments, and connections that don't speak gRPC at all. Meanwhile its health is asked for. Looked
for afterwards:

- the server answers, and an honest edit still gives what it gave before;
- every error had a reason, a message and a hint, none was INTERNAL, and nothing unforeseen is in the log;
- descriptors, threads and temporary files are back to where they were after the first tenth, and memory to where it
  was after half of it;
- every stored file has the hash that it is named by.

Exit status 1 where anything is amiss.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import math
import os
import random
import re
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import soundfile
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.server_crash import working_folder
from benchmarks.server_harness import (
    RESULTS,
    STEPS,
    ServerProcess,
    Stubs,
    Usage,
    facts,
    recording,
    report,
    sha256,
    spread,
    upload_requests,
)
from smartdj.v1 import audio_pb2, edit_pb2, job_pb2, server_pb2, step_pb2

MAX_MESSAGE_BYTES = 4 * 2**20
CONCURRENT = 24
DETAILS = "grpc-status-details-bin"
DOMAIN = "smartdj.agent"
MEMORY_SLACK_MIB = 16.0
PATIENCE_S = 30.0
"""A call that ought to be answered at once and takes longer counts as hanging."""


@dataclass(frozen=True)
class Method:
    """One method of the server."""

    path: str
    request: type[Message]
    response: type[Message]
    streams_in: bool
    streams_out: bool


def all_methods() -> list[Method]:
    """Return every method that the server has, from its own descriptors."""
    found = []
    for module in (edit_pb2, audio_pb2, job_pb2, server_pb2, health_pb2, reflection_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                found.append(
                    Method(
                        f"/{service.full_name}/{method.name}",
                        GetMessageClass(method.input_type),
                        GetMessageClass(method.output_type),
                        method.client_streaming,
                        method.server_streaming,
                    )
                )
    return found


METHODS = all_methods()
BY_NAME = {method.path.rpartition("/")[2]: method for method in METHODS}

TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\n\r\t",
    "\x1b[2J\x1b]0;owned\x07",
    "é" * 40,
    "e\u0301\u0302\u0303" * 300,
    "\u202eevil\u202c",
    "\ufeffrain",
    "İıſK",
    "\uffff\ufffe",
    "🎧" * 120,
    "\U0010ffff",
    "ﷺ" * 200,
    "' OR 1=1; DROP TABLE jobs; --",
    "%s%n%x{0}{job_id}${HOME}",
    "../../../../etc/passwd",
    "<script>alert(1)</script>",
    "NaN",
    "-1",
    "9" * 400,
    "rain, dog and wind",
    "(" * 500,
    "a" * 5000,
    " and" * 2000,
    "turn " * 3000,
)
NUMBERS = (0, 1, -1, 2, 7, 63, 64, 65, 255, 256, 500, 501, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
REALS = (0.0, -0.0, math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 24.0, 24.000001, -24.1, 90.0, -91.0, 3.3)


@dataclass
class Findings:
    """What came of it."""

    sent: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    bare: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    fault_kinds: Counter[str] = field(default_factory=Counter)

    def fault(self, kind: str, text: str) -> None:
        """Note something amiss; the first few of each kind with their circumstances."""
        self.fault_kinds[kind] += 1
        if self.fault_kinds[kind] <= 5:
            self.faults.append(f"{kind}: {text}"[:500])
            print(self.faults[-1], file=sys.stderr, flush=True)


# --- messages ------------------------------------------------------------------------------------------------------


class Maker:
    """Makes what to send, from random numbers.

    Parameters
    ----------
    rng
        The source of everything.
    root
        Folder that the server lets clients name files in.
    """

    def __init__(self, rng: random.Random, root: Path) -> None:
        self.rng = rng
        self.root = root
        self.hashes: list[str] = []
        self.jobs: list[str] = ["0" * 32]
        self.requests: list[str] = ["again"]

    def text(self) -> str:
        """Some text that may be trouble."""
        if self.rng.random() < 0.05:
            return self.rng.choice(("x", "ß", "𝄞")) * self.rng.choice((9_999, 10_001, 70_000, 900_000))
        return self.rng.choice(TEXTS)

    def hash(self) -> str:
        """Something like a SHA-256, known or not."""
        known = self.rng.choice(self.hashes)
        return (
            self.rng.choice(
                (
                    known,
                    known,
                    known.upper(),
                    known[:-1],
                    known + "0",
                    f"../{known[3:]}",
                    "g" * 64,
                    "0" * 64,
                    " " * 64,
                    "",
                )
            )
            if self.rng.random() < 0.9
            else self.text()
        )

    def path(self) -> str:
        """Some path, most of them traps that `lay_traps` has laid."""
        root = str(self.root)
        name = self.rng.choice(sorted(os.listdir(root)))
        return self.rng.choice(
            (
                f"{root}/{name}",
                f"{root}/{name}",
                f"{root}/{name}/",
                f"{root}/folder/../{name}",
                f"{root}//.//{name}",
                f"{root}/../{self.root.name}/{name}",
                f"{root}/../outside.wav",
                f"{root}x/{name}",
                f"{root}/{name}\0.wav",
                f"{root}/" + "d/" * 2500 + "x.wav",
                f"{root}/" + "n" * 300,
                f"{root}/folder/new{self.rng.randrange(10**6)}.wav",
                root,
                "/etc/passwd",
                "/proc/self/mem",
                "/proc/self/fd/0",
                "/dev/zero",
                "relative.wav",
                "~/x.wav",
                "file:///etc/passwd",
                "\\\\server\\share",
                "C:\\x.wav",
                self.text(),
            )
        )

    def value(self, name: str, kind: Any, depth: int) -> Any:
        """A value for a field."""
        rng = self.rng
        if kind.type == FieldDescriptor.TYPE_MESSAGE:
            return self.message(GetMessageClass(kind.message_type), depth + 1)
        if kind.type == FieldDescriptor.TYPE_STRING:
            if name.endswith("sha256"):
                return self.hash()
            if name == "path":
                return self.path()
            if name == "job_id":
                return rng.choice((rng.choice(self.jobs), rng.choice(self.jobs), self.text()))
            if name == "request_id":
                return rng.choice(("", rng.choice(self.requests), f"r{rng.getrandbits(40)}", self.text()))
            if name in ("text", "instruction"):
                return rng.choice((rng.choice(STEPS), rng.choice(STEPS), self.text()))
            if name == "sound":
                return rng.choice(("rain", "dog barking", self.text()))
            return self.text()
        if kind.type == FieldDescriptor.TYPE_BYTES:
            return rng.choice((b"", b"RIFF", rng.randbytes(rng.choice((1, 100, 5000))), recording(1, 0.05)))
        if kind.type == FieldDescriptor.TYPE_BOOL:
            return rng.random() < 0.5
        if kind.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            return rng.choice(REALS)
        if kind.type == FieldDescriptor.TYPE_ENUM:
            return rng.choice((0, 1, 2, 3, 99, -1))
        low, high = {
            FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
            FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
        }.get(kind.type, (-(2**63), 2**63 - 1))
        return min(max(rng.choice(NUMBERS), low), high)

    def message(self, kind: type[Message], depth: int = 0) -> Message:
        """A message that decodes, with fields at random."""
        message: Any = kind()
        if depth > 6:
            return message
        for item in kind.DESCRIPTOR.fields:
            if self.rng.random() < (0.35 if item.containing_oneof or depth > 3 else 0.7):
                repeated = item.is_repeated
                try:
                    if repeated:
                        for _ in range(self.rng.choice((0, 1, 1, 2, 3, 51 if depth < 2 else 4))):
                            value = self.value(item.name, item, depth)
                            (getattr(message, item.name)).append(value)
                    elif item.type == FieldDescriptor.TYPE_MESSAGE:
                        getattr(message, item.name).CopyFrom(self.value(item.name, item, depth))
                    else:
                        setattr(message, item.name, self.value(item.name, item, depth))
                except (ValueError, TypeError, AttributeError):
                    continue  # maps and such
        return message

    def raw(self, kind: type[Message]) -> bytes:
        """A message as bytes: whole, truncated, changed or no message at all."""
        rng = self.rng
        data = self.message(kind).SerializeToString()
        way = rng.random()
        if way < 0.35:
            return data
        if way < 0.5:
            return data[: rng.randrange(len(data) + 1)]
        if way < 0.7:
            changed = bytearray(data or b"\0")
            for _ in range(rng.choice((1, 3, 20))):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        if way < 0.8:
            return data + rng.randbytes(rng.randrange(40))
        if way < 0.85:
            return b"\x0b" * rng.choice((10, 200, 20_000))  # groups in groups
        if way < 0.88:
            nested = b""
            for _ in range(rng.choice((50, 120, 500))):
                size = len(nested)
                head = b""
                while size > 127:
                    head += bytes((size & 127 | 128,))
                    size >>= 7
                nested = b"\x0a" + head + bytes((size,)) + nested
            return nested
        if way < 0.91:
            return b"\x0a\xff\xff\xff\xff\x0f" + rng.randbytes(5)  # a string of four gigabytes
        return rng.randbytes(rng.choice((0, 1, 2, 16, 300, 5000)))

    def metadata(self) -> list[tuple[str, str | bytes]]:
        """Metadata that a server may stumble over."""
        rng = self.rng
        pairs: list[tuple[str, str | bytes]] = [
            ("x-client-id", rng.choice(("fuzz", "a" * 64, "a" * 65, "..", "%00", "a b", "'; --", ""))),
            ("x-request-id", rng.choice(("id", "a" * 64, "a" * 2000, "%0a", "{}", " "))),
            ("authorization", rng.choice(("Bearer x", "Bearer", "Basic eDp5", "", "Bearer " + "y" * 3000))),
            ("x-client-id-bin", rng.randbytes(20)),
            ("grpc-status-details-bin", rng.randbytes(50)),
            (f"x-{rng.getrandbits(30)}", "z" * rng.choice((1, 100, 3000))),
            ("x-client-id", "second"),
        ]
        return rng.sample(pairs, rng.randrange(len(pairs) + 1))

    def damaged_audio(self) -> bytes:
        """A recording that is none, or not quite."""
        rng = self.rng
        container, subtype = rng.choice(
            (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_24"),
             ("W64", "PCM_16"), ("AU", "ULAW"), ("CAF", "PCM_16"), ("RF64", "PCM_16"), ("MP3", "MPEG_LAYER_III"))
        )  # fmt: skip
        file = io.BytesIO()
        samples = np.random.default_rng(rng.getrandbits(32)).normal(0, 0.1, (rng.choice((1, 100, 2000)), 2))
        if rng.random() < 0.3 and subtype == "FLOAT":  # others' encoders would end this program
            samples = samples * rng.choice((math.nan, math.inf, 1e30))
        with contextlib.suppress(RuntimeError):
            soundfile.write(file, samples, 16_000, format=container, subtype=subtype)
        data = bytearray(file.getvalue())
        way = rng.random()
        if way < 0.3:
            for _ in range(rng.choice((1, 4, 30))):
                if data:
                    data[rng.randrange(min(len(data), 100))] = rng.randrange(256)
        elif way < 0.5:
            del data[rng.randrange(len(data) + 1) :]
        elif way < 0.6 and len(data) > 44:
            struct.pack_into("<I", data, rng.choice((4, 16, 24, 28, 40)), rng.choice((0, 1, 2**31, 2**32 - 1)))
        elif way < 0.7 and len(data) > 44:
            struct.pack_into("<H", data, 22, rng.choice((0, 9, 255, 65535)))
        elif way < 0.8:
            data += rng.randbytes(2000)
        elif way < 0.9:
            return rng.randbytes(rng.choice((1, 4, 44, 4000)))
        return bytes(data)


def lay_traps(root: Path) -> None:
    """Fill the allowed folder with files, and with what only looks like one."""
    root.mkdir()
    (root / "folder").mkdir()
    good = recording(5, 0.2)
    (root / "good.wav").write_bytes(good)
    (root / "line\nbreak.wav").write_bytes(good)
    (root / "ünïcödé.wav").write_bytes(good)
    (root / ("l" * 250 + ".wav")).write_bytes(good)
    (root / "empty.wav").write_bytes(b"")
    (root / "text.wav").write_text("this is no audio")
    with (root / "sparse.wav").open("wb") as file:
        file.truncate(6 * 2**30)
    (root.parent / "outside.wav").write_bytes(good)
    (root / "out.wav").symlink_to(root.parent / "outside.wav")
    (root / "passwd.wav").symlink_to("/etc/passwd")
    (root / "zero.wav").symlink_to("/dev/zero")
    (root / "loop.wav").symlink_to(root / "loop.wav")
    (root / "away").symlink_to("/")
    (root / "dangling.wav").symlink_to(root / "nowhere")
    os.mkfifo(root / "fifo.wav")


# --- calls ---------------------------------------------------------------------------------------------------------


class Fuzzer:
    """Sends, and judges the answers.

    Parameters
    ----------
    address
        Of the server.
    maker, findings
        What is sent, and what comes of it.
    """

    def __init__(self, address: str, maker: Maker, findings: Findings) -> None:
        self.address = address
        self.maker = maker
        self.rng = maker.rng
        self.findings = findings
        self.options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_metadata_size", 2**20),
        ]
        self.channel = grpc.aio.insecure_channel(address, options=self.options)
        self.stubs = Stubs(self.channel)
        self.scenarios: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (24, self.garbage),
            (20, self.odd_fields),
            (10, self.wrong_order),
            (3, self.huge),
            (8, self.paths),
            (8, self.uploads),
            (6, self.damaged),
            (6, self.request_ids),
            (1, self.many_steps),
            (8, self.broken_off),
            (3, self.lost_connection),
            (3, self.slow),
            (3, self.twice),
            (4, self.abused_metadata),
            (2, self.no_grpc),
            (3, self.unknown_methods),
        )

    async def one(self) -> None:
        """Play one scenario."""
        scenario = self.rng.choices([s for _, s in self.scenarios], [weight for weight, _ in self.scenarios])[0]
        self.findings.calls[scenario.__name__] += 1
        try:
            await scenario()
        except Exception as error:
            self.findings.fault("fuzzer", f"{scenario.__name__}: {error!r}")

    async def call(
        self,
        method: Method | str,
        messages: Iterable[bytes],
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        timeout_s: float | None = None,
        stop_after_s: float | None = None,
        gap_s: float = 0.0,
        half_close: bool = True,
        channel: grpc.aio.Channel | None = None,
        tolerate: frozenset[grpc.StatusCode] = frozenset(),
        what: str = "",
    ) -> list[bytes]:
        """Send raw messages to a method and judge its answer.

        Parameters
        ----------
        method
            A method, or a path that may not be one.
        messages
            As they go onto the wire.
        timeout_s
            Deadline that may pass; without one, an answer must come within `PATIENCE_S` (streams of events: none).
        stop_after_s
            When to cancel the call.
        gap_s
            Pause between messages.
        half_close
            Whether the client says that no more messages come.
        channel
            By default the shared one.
        tolerate
            Codes that need no explanation here.
        what
            For findings.
        """
        path = method if isinstance(method, str) else method.path
        patient = timeout_s is None and stop_after_s is None
        if isinstance(method, Method) and method.streams_out and patient:
            timeout_s = 1.5  # events of a job that waits for a decision would come for ever
        ended = asyncio.Event()

        async def feed() -> AsyncIterator[bytes]:
            for message in messages:
                self.findings.sent += 1
                yield message
                if gap_s:
                    await asyncio.sleep(gap_s)
            if not half_close:
                await ended.wait()

        def raw(data: bytes) -> bytes:
            return data

        stream = (channel or self.channel).stream_stream(path, request_serializer=raw, response_deserializer=raw)
        began = time.monotonic()
        call = stream(feed(), metadata=list(metadata) or None, timeout=timeout_s or PATIENCE_S)
        answers: list[bytes] = []

        async def read() -> None:
            async for answer in call:
                answers.append(answer)

        try:
            if stop_after_s is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(_quietly(read()))), stop_after_s)
                call.cancel()
                self.findings.answers["broken off"] += 1
                return answers
            await read()
            self.findings.answers["OK"] += 1
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            # For a call that ended as CANCELLED, grpc.aio raises as if this task were cancelled.
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            code, text, trailing = await call.code(), await call.details(), dict(await call.trailing_metadata() or ())
            if code is grpc.StatusCode.DEADLINE_EXCEEDED and DETAILS not in trailing:
                if patient and timeout_s is None:
                    self.findings.fault("hangs", f"{path} {what} did not answer in {time.monotonic() - began:.0f} s")
                self.findings.answers["deadline passed"] += 1
            elif code not in tolerate:
                self.judge(path, what, code, text or "", trailing.get(DETAILS))
        finally:
            ended.set()
        if isinstance(method, Method):
            self.read_answers(method, answers, what)
        return answers

    def judge(self, path: str, what: str, code: grpc.StatusCode, text: str, details: bytes | str | None) -> None:
        """Look whether an error says what went wrong and what to do."""
        if details is None:
            # What gRPC refuses by itself never reaches the server's code.
            self.findings.bare[f"{code.name}: {re.sub('[0-9]+', 'N', text)[:60]}"] += 1
            self.findings.answers[f"{code.name} (gRPC's own)"] += 1
            own = code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED)
            # grpc.aio's client says so where a call ends while it is still sending.
            own |= code is grpc.StatusCode.INTERNAL and text == "Internal error from Core"
            own |= code is grpc.StatusCode.CANCELLED and text == "Locally cancelled by application!"
            own |= code is grpc.StatusCode.NOT_FOUND and path.startswith("/grpc.health.")  # as its protocol wants it
            if not own:
                self.findings.fault("bare error", f"{path} {what}: {code.name}: {text}")
            return
        status = Status.FromString(details if isinstance(details, bytes) else details.encode("latin-1"))
        self.findings.answers[self.clear(status, f"{path} {what}")] += 1
        if status.message != text:
            self.findings.fault("other message", f"{path}: {status.message!r} and {text!r}")

    def clear(self, status: Status, where: str) -> str:
        """Return a status' reason, after checking that it has one, a message and a hint."""
        info = ErrorInfo()
        if not any(detail.Unpack(info) for detail in status.details if detail.Is(ErrorInfo.DESCRIPTOR)):
            self.findings.fault("unclear error", f"{where}: no ErrorInfo: {status.message}")
            return "?"
        if info.domain != DOMAIN or not info.reason or not status.message or not info.metadata.get("hint"):
            self.findings.fault("unclear error", f"{where}: {info.reason}: {status.message!r}, {dict(info.metadata)}")
        if info.reason == "INTERNAL":
            self.findings.fault("INTERNAL", f"{where}: {status.message}")
        if "\n" in status.message or not status.message.isprintable():
            self.findings.fault("unprintable error", f"{where}: {status.message!r}")
        return info.reason

    def read_answers(self, method: Method, answers: list[bytes], what: str) -> None:
        """Take in what was answered: jobs to name later, and errors inside of messages."""
        for data in answers:
            try:
                answer: Any = method.response.FromString(data)
            except DecodeError:
                self.findings.fault("unreadable answer", method.path)
                continue
            name = method.path.rpartition("/")[2]
            if name in ("SubmitJob", "GetJob"):
                self.know(answer.job.job_id)
            elif name in ("Plan", "Edit", "WatchJob") and answer.HasField("event"):
                self.know(answer.event.job_id)
                if answer.event.HasField("failed"):
                    reason = self.clear(answer.event.failed.error, f"{method.path} {what}: failed event")
                    self.findings.answers[f"job: {reason}"] += 1
            elif name == "ValidatePlan":
                for violation in answer.violations:
                    if not (violation.description and violation.hint and violation.reason):
                        self.findings.fault("unclear error", f"violation {violation}")

    def know(self, job_id: str) -> None:
        if job_id and job_id not in self.maker.jobs:
            self.maker.jobs.append(job_id)
            del self.maker.jobs[:-50]

    # Scenarios

    async def garbage(self) -> None:
        """Bytes that are no message, to any method; too many or too few of them."""
        method = self.rng.choice(METHODS)
        count = self.rng.choice((0, 1, 1, 1, 2, 3, 6))
        # To a unary call without a message, grpc.aio's server never answers, whatever program it serves.
        timeout_s = 0.2 if not count and not method.streams_in else None
        messages = [self.maker.raw(method.request) for _ in range(count)]
        await self.call(method, messages, timeout_s=timeout_s, what=f"garbage {count}")

    async def odd_fields(self) -> None:
        """Messages that decode, with fields that mean trouble."""
        method = self.rng.choice(METHODS)
        count = self.rng.choice((1, 2, 4)) if method.streams_in else 1
        messages = [self.maker.message(method.request).SerializeToString() for _ in range(count)]
        await self.call(method, messages, what="odd fields")

    async def wrong_order(self) -> None:
        """Right messages of a stream in a wrong order."""
        name = self.rng.choice(("Edit", "Edit", "Plan", "Upload"))
        data = recording(self.rng.randrange(5), 0.05)
        pieces: list[Message]
        spec = job_pb2.JobSpec(instruction="make it better", review=self.rng.random() < 0.3)
        header: Any
        if name == "Edit":
            header = edit_pb2.EditHeader(spec=spec, on_disconnect=self.rng.choice(edit_pb2.OnDisconnect.keys()))
            pieces = [
                edit_pb2.EditRequest(header=header),
                edit_pb2.EditRequest(data=data),
                edit_pb2.EditRequest(data=data[:100]),
                edit_pb2.EditRequest(audio_end=edit_pb2.AudioEnd()),
                edit_pb2.EditRequest(audio_end=edit_pb2.AudioEnd(sha256=self.maker.hash())),
                edit_pb2.EditRequest(decision=edit_pb2.PlanDecision()),
                edit_pb2.EditRequest(decision=edit_pb2.PlanDecision(changed_plan=step_pb2.Plan())),
                edit_pb2.EditRequest(cancel=edit_pb2.EditCancel()),
                edit_pb2.EditRequest(),
            ]
        elif name == "Plan":
            header = edit_pb2.PlanHeader(instruction=spec.instruction)
            pieces = [
                edit_pb2.PlanRequest(header=header),
                edit_pb2.PlanRequest(data=data),
                edit_pb2.PlanRequest(data=b""),
                edit_pb2.PlanRequest(),
            ]
        else:
            header = audio_pb2.UploadHeader(sha256=self.maker.hash(), size_bytes=self.rng.choice(NUMBERS))
            pieces = [
                audio_pb2.UploadRequest(header=header),
                audio_pb2.UploadRequest(data=data),
                audio_pb2.UploadRequest(data=b""),
                audio_pb2.UploadRequest(),
            ]
        chosen = self.rng.choices(pieces, k=self.rng.randrange(1, 9))
        if self.rng.random() < 0.6:
            chosen.insert(0, pieces[0])
        await self.call(BY_NAME[name], [piece.SerializeToString() for piece in chosen], what="wrong order")

    async def huge(self) -> None:
        """Messages at and above the limit, and fields that fill them."""
        size = self.rng.choice((MAX_MESSAGE_BYTES - 100, MAX_MESSAGE_BYTES + 1, 6 * 2**20, 1_100_000))
        name, message = self.rng.choice(
            (
                ("GetJob", job_pb2.GetJobRequest(job_id="j" * size)),
                ("SubmitJob", job_pb2.SubmitJobRequest(spec=job_pb2.JobSpec(instruction="i " * (size // 2)))),
                (
                    "SubmitJob",
                    job_pb2.SubmitJobRequest(
                        audio=audio_pb2.AudioSource(sha256=self.maker.hashes[0]),
                        spec=job_pb2.JobSpec(instruction="fine", plan_only=True, source_name="n" * size),
                    ),
                ),
                ("Upload", audio_pb2.UploadRequest(data=bytes(size))),
                ("Edit", edit_pb2.EditRequest(data=bytes(size))),
                ("ImportFile", audio_pb2.ImportFileRequest(path="/" + "p" * size)),
                ("ListJobs", job_pb2.ListJobsRequest(page_token="1" * size)),
                ("ListJobs", job_pb2.ListJobsRequest(states=[job_pb2.JOB_STATE_QUEUED] * (size // 10))),
                ("ValidatePlan", edit_pb2.ValidatePlanRequest(plan=step_pb2.Plan(instruction="w" * size))),
                (
                    "ValidatePlan",
                    edit_pb2.ValidatePlanRequest(
                        plan=step_pb2.Plan(steps=[step_pb2.Step(text="a " * (size // 101))] * 50)
                    ),
                ),
                ("Check", health_pb2.HealthCheckRequest(service="s" * size)),
            )
        )
        await self.call(BY_NAME[name], [message.SerializeToString()], what="huge")

    async def many_steps(self) -> None:
        """Plans of a hundred thousand steps."""
        step = self.rng.choice((step_pb2.Step(), step_pb2.Step(text="remove rain"), step_pb2.Step(step_id="same")))
        plan = step_pb2.Plan(steps=[step] * 100_000)
        name, message = self.rng.choice(
            (
                ("ValidatePlan", edit_pb2.ValidatePlanRequest(plan=plan)),
                ("SubmitJob", job_pb2.SubmitJobRequest(spec=job_pb2.JobSpec(plan=plan))),
                ("ReviewJob", job_pb2.ReviewJobRequest(job_id=self.rng.choice(self.maker.jobs), changed_plan=plan)),
            )
        )
        await self.call(BY_NAME[name], [message.SerializeToString()], what="many steps")

    async def paths(self) -> None:
        """Paths to everything that should stay shut."""
        path = self.maker.path()
        name, message = self.rng.choice(
            (
                ("ImportFile", audio_pb2.ImportFileRequest(path=path)),
                ("ExportFile", audio_pb2.ExportFileRequest(path=path, sha256=self.maker.hashes[0])),
                (
                    "SubmitJob",
                    job_pb2.SubmitJobRequest(
                        audio=audio_pb2.AudioSource(path=path), spec=job_pb2.JobSpec(instruction="x y")
                    ),
                ),
                (
                    "ValidatePlan",
                    edit_pb2.ValidatePlanRequest(
                        audio=audio_pb2.AudioSource(path=path), plan=step_pb2.Plan(steps=[step_pb2.Step(text=STEPS[0])])
                    ),
                ),
            )
        )
        answers = await self.call(BY_NAME[name], [message.SerializeToString()], what=f"path {path[:80]!r}")
        if answers and name == "ImportFile":
            real = Path(os.path.realpath(path))
            if not real.is_relative_to(self.maker.root.resolve()):
                self.findings.fault("path trick", f"{path!r} was taken in")

    async def uploads(self) -> None:
        """Uploads that lie about hash, size or offset."""
        rng = self.rng
        data = recording(rng.randrange(1000), 0.1)
        offset = rng.choice((0, 0, 1, -1, len(data), len(data) + 1, 2**62, -(2**63), 100))
        size = rng.choice((len(data), len(data), 0, -5, 1, len(data) - 1, len(data) + 1, 2**40, 2**63 - 1))
        name = rng.choice((sha256(data), sha256(data).upper(), self.maker.hash()))
        header = audio_pb2.UploadHeader(sha256=name, size_bytes=size, offset_bytes=offset)
        pieces = [data[start : start + 3000] for start in range(0, len(data), 3000)]
        if rng.random() < 0.3:
            rng.shuffle(pieces)
        if rng.random() < 0.3:
            pieces = pieces[: rng.randrange(len(pieces))]
        messages = [audio_pb2.UploadRequest(header=header).SerializeToString()]
        messages += [audio_pb2.UploadRequest(data=piece).SerializeToString() for piece in pieces]
        await self.call(BY_NAME["Upload"], messages, what=f"upload of {size} at {offset}")
        request = audio_pb2.GetUploadRequest(sha256=name)
        await self.call(BY_NAME["GetUpload"], [request.SerializeToString()])
        download = audio_pb2.DownloadRequest(sha256=name, offset_bytes=rng.choice(NUMBERS))
        await self.call(BY_NAME["Download"], [download.SerializeToString()], what="offset")

    async def damaged(self) -> None:
        """Recordings that are damaged; what the server takes in nevertheless is worked on."""
        data = self.maker.damaged_audio()
        if not data:
            return
        messages = [message.SerializeToString() for message in upload_requests(data)]
        if not await self.call(BY_NAME["Upload"], messages, what="damaged audio"):
            return
        spec = job_pb2.JobSpec(
            plan=step_pb2.Plan(steps=[step_pb2.Step(text=self.rng.choice(STEPS))]),
            output_encoding=self.rng.choice(job_pb2.OutputEncoding.keys()),
        )
        header = edit_pb2.EditHeader(audio=audio_pb2.AudioSource(sha256=sha256(data)), spec=spec)
        await self.call(
            BY_NAME["Edit"], [edit_pb2.EditRequest(header=header).SerializeToString()], what="damaged audio"
        )

    async def request_ids(self) -> None:
        """The same id for other wishes, other recordings, other methods."""
        rng = self.rng
        request_id = rng.choice(("again", "again2", f"n{rng.randrange(200)}", self.maker.text()))
        spec = job_pb2.JobSpec(instruction=f"way {rng.randrange(3)}", seed=rng.randrange(2), plan_only=True)
        source = audio_pb2.AudioSource(sha256=rng.choice((self.maker.hash(), *self.maker.hashes)))
        name, message = rng.choice(
            (
                ("SubmitJob", job_pb2.SubmitJobRequest(request_id=request_id, audio=source, spec=spec)),
                ("SubmitJob", job_pb2.SubmitJobRequest(request_id=request_id, audio=source, spec=spec)),
                (
                    "Edit",
                    edit_pb2.EditRequest(header=edit_pb2.EditHeader(request_id=request_id, audio=source, spec=spec)),
                ),
                (
                    "Plan",
                    edit_pb2.PlanRequest(
                        header=edit_pb2.PlanHeader(request_id=request_id, audio=source, instruction=spec.instruction)
                    ),
                ),
                (
                    "CancelJob",
                    job_pb2.CancelJobRequest(request_id=request_id, job_id=rng.choice(self.maker.jobs)),
                ),
                (
                    "ReviewJob",
                    job_pb2.ReviewJobRequest(request_id=request_id, job_id=rng.choice(self.maker.jobs)),
                ),
            )
        )
        await self.call(BY_NAME[name], [message.SerializeToString()], what=f"request id {request_id[:40]!r}")

    def honest(self, *, sent: bool = False) -> tuple[Method, list[bytes]]:
        """Messages of an honest call, to be broken off; `sent`: with the recording in the stream."""
        rng = self.rng
        spec = job_pb2.JobSpec(instruction=f"way {rng.randrange(9)}", review=rng.random() < 0.2)
        source = audio_pb2.AudioSource(sha256=self.maker.hashes[0])
        data = recording(rng.randrange(50_000), 0.3)
        pieces = [data[start : start + 2000] for start in range(0, len(data), 2000)]
        way = 2 if sent else rng.randrange(6)
        if way == 0:
            return BY_NAME["Plan"], [
                edit_pb2.PlanRequest(
                    header=edit_pb2.PlanHeader(audio=source, instruction=spec.instruction)
                ).SerializeToString()
            ]
        if way == 1:
            return BY_NAME["Upload"], [message.SerializeToString() for message in upload_requests(data, 2000)]
        if way == 2:
            header = edit_pb2.EditHeader(spec=spec, on_disconnect=rng.choice(edit_pb2.OnDisconnect.keys()))
            return BY_NAME["Edit"], [
                edit_pb2.EditRequest(header=header).SerializeToString(),
                *(edit_pb2.EditRequest(data=piece).SerializeToString() for piece in pieces),
                edit_pb2.EditRequest(audio_end=edit_pb2.AudioEnd()).SerializeToString(),
            ]
        if way == 3:
            request_id = f"h{rng.getrandbits(40)}"
            return BY_NAME["SubmitJob"], [
                job_pb2.SubmitJobRequest(request_id=request_id, audio=source, spec=spec).SerializeToString()
            ]
        if way == 4:
            header = edit_pb2.EditHeader(audio=source, spec=spec)
            return BY_NAME["Edit"], [edit_pb2.EditRequest(header=header).SerializeToString()]
        return BY_NAME["Download"], [audio_pb2.DownloadRequest(sha256=self.maker.hashes[0]).SerializeToString()]

    async def broken_off(self) -> None:
        """Honest calls that are cancelled, or whose deadline passes, at a random moment."""
        method, messages = self.honest()
        moment_s = self.rng.choice((0.0005, 0.002, 0.01, 0.05, 0.2)) * self.rng.random()
        if self.rng.random() < 0.5:
            await self.call(method, messages, stop_after_s=moment_s, what="cancelled")
        else:
            await self.call(method, messages, timeout_s=max(moment_s, 0.0001), what="out of time")

    async def lost_connection(self) -> None:
        """Honest calls whose connection goes away at a random moment."""
        host, _, port = self.address.rpartition(":")
        ends: list[asyncio.StreamWriter] = []

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65_536):
                    writer.write(data)
                    await writer.drain()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(host, int(port))
            ends.extend((writer, back))
            await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)
            for end in (writer, back):
                end.transport.abort()

        # gRPC's own channel keeps its connection for a while after it is closed; this one can be cut.
        wire = await asyncio.start_server(connected, "127.0.0.1", 0)
        address = f"127.0.0.1:{wire.sockets[0].getsockname()[1]}"
        channel = grpc.aio.insecure_channel(address, options=[*self.options, ("grpc.use_local_subchannel_pool", 1)])
        calls = [self.honest() for _ in range(self.rng.randrange(1, 4))]
        lost = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED))
        tasks = [
            asyncio.create_task(self.call(method, messages, channel=channel, tolerate=lost, what="lost connection"))
            for method, messages in calls
        ]
        await asyncio.sleep(self.rng.random() * 0.2)
        wire.close()
        for end in ends:
            end.transport.abort()
        await asyncio.wait(tasks, timeout=1.0)
        await channel.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        for end in ends:  # also of a connection that was made meanwhile
            end.transport.abort()

    async def slow(self) -> None:
        """Streams that drip, and streams that say nothing and never end."""
        method, messages = self.honest(sent=True)
        if self.rng.random() < 0.5:
            await self.call(method, messages, gap_s=0.02, timeout_s=1.0, what="slow")
        else:
            cut = self.rng.randrange(len(messages))
            await self.call(method, messages[:cut], half_close=False, timeout_s=self.rng.random(), what="silent")

    async def twice(self) -> None:
        """The same at the same time, several times."""
        data = recording(self.rng.randrange(10**6), 0.1)
        messages = [message.SerializeToString() for message in upload_requests(data, 1500)]
        count = self.rng.randrange(2, 6)
        answers = await asyncio.gather(
            *(self.call(BY_NAME["Upload"], messages, gap_s=self.rng.random() * 0.01) for _ in range(count))
        )
        if not all(answers):
            self.findings.fault("twice", "an upload failed because another of the same file ran")
        request = job_pb2.SubmitJobRequest(
            request_id=f"t{self.rng.getrandbits(40)}",
            audio=audio_pb2.AudioSource(sha256=sha256(data)),
            spec=job_pb2.JobSpec(instruction="way 1", plan_only=True),
        ).SerializeToString()
        made = await asyncio.gather(*(self.call(BY_NAME["SubmitJob"], [request]) for _ in range(count)))
        names = {job_pb2.SubmitJobResponse.FromString(answer[0]).job.job_id for answer in made if answer}
        if len(names) > 1:
            self.findings.fault("twice", f"one request id made {len(names)} jobs")

    async def abused_metadata(self) -> None:
        """Honest messages with hostile metadata."""
        method, messages = self.honest()
        if self.rng.random() < 0.05:
            metadata: list[tuple[str, str | bytes]] = [("x-much", "m" * 100_000)]
        else:
            metadata = self.maker.metadata()
        await self.call(method, messages, metadata=metadata, what="metadata")

    async def unknown_methods(self) -> None:
        """Methods that aren't there."""
        path = self.rng.choice(
            ("/smartdj.v1.EditService/Nothing", "/smartdj.v2.EditService/Edit", "/x/y", "/", "//", "/" + "m" * 3000)
        )
        await self.call(path, [self.rng.randbytes(10)], what="unknown method")

    async def no_grpc(self) -> None:
        """Connections that speak something else, or stop in the middle of a word."""
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        frame = struct.pack(">I", self.rng.getrandbits(24))[1:] + self.rng.randbytes(6)
        data = self.rng.choice(
            (
                b"",
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self.rng.randbytes(50),
                self.rng.randbytes(3000),
                preface,
                preface[:10],
                preface + frame + self.rng.randbytes(200),
                preface + b"\0\0\0\4\0\0\0\0\0" + self.rng.randbytes(500),
                preface + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x04\x03\0\0\0\0\1\0\0\0\x08" * 100,
            )
        )
        self.findings.sent += 1
        with contextlib.suppress(OSError):
            writer.write(data)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(4096), self.rng.random() * 0.1)
        if self.rng.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()


async def _quietly(work: Awaitable[None]) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await work


# --- all of it -----------------------------------------------------------------------------------------------------


async def honest_edit(stubs: Stubs) -> list[str]:
    """Edit as a client should; return the hashes of the steps."""
    data = recording(4, 0.4)
    plan = step_pb2.Plan(steps=[step_pb2.Step(text=text) for text in STEPS[:3]])

    async def messages() -> AsyncIterator[edit_pb2.EditRequest]:
        yield edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=job_pb2.JobSpec(plan=plan)))
        yield edit_pb2.EditRequest(data=data)
        yield edit_pb2.EditRequest(audio_end=edit_pb2.AudioEnd(sha256=sha256(data)))

    steps: list[str] = []
    parts: dict[str, bytes] = {}
    async for answer in stubs.edit.Edit(messages(), timeout=60.0, metadata=(("x-client-id", "honest"),)):
        if answer.HasField("audio"):
            parts[answer.audio.sha256] = parts.get(answer.audio.sha256, b"") + answer.audio.data
        elif answer.event.HasField("step_finished"):
            steps.append(answer.event.step_finished.audio.sha256)
    if any(sha256(parts[name]) != name for name in steps):
        raise ValueError("the server sent other bytes than it said")
    return steps


async def end_all_jobs(stubs: Stubs, findings: Findings, fuzzer: Fuzzer) -> Counter[str]:
    """Cancel what has not ended, wait for it, and look at every job's error; return how many ended how."""
    unfinished = [job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_AWAITING_REVIEW]
    deadline = time.monotonic() + 120.0
    while True:
        page = await stubs.jobs.ListJobs(job_pb2.ListJobsRequest(page_size=100, states=unfinished), timeout=60.0)
        if not page.jobs:
            break
        if time.monotonic() > deadline:
            findings.fault("stuck job", str({job.job_id: job.state for job in page.jobs}))
            break
        for job in page.jobs:
            await stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.job_id), timeout=60.0)
        await asyncio.sleep(0.05)
    ends: Counter[str] = Counter()
    token = ""
    while True:
        page = await stubs.jobs.ListJobs(job_pb2.ListJobsRequest(page_size=500, page_token=token), timeout=60.0)
        for job in page.jobs:
            state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()
            reason = f": {fuzzer.clear(job.error, f'job {job.job_id}')}" if job.HasField("error") else ""
            ends[f"{state}{reason}"] += 1
        if not (token := page.next_page_token):
            return ends


def settled(server: ServerProcess, baseline: Usage | None, timeout_s: float = 20.0) -> Usage:
    """Wait until the server holds no more than it did, or for a while; return what it holds."""
    deadline = time.monotonic() + timeout_s
    while True:
        usage = server.usage(trimmed=True)
        if (
            baseline is None
            or (usage.descriptors <= baseline.descriptors and usage.threads <= baseline.threads)
            or time.monotonic() > deadline
        ):
            return usage
        time.sleep(0.2)


async def fuzz(server: ServerProcess, messages: int, rng: random.Random, root: Path, looks: int) -> dict[str, Any]:
    """Send at least so many messages to a server, look at what it holds so often, and judge everything."""
    findings = Findings()
    maker = Maker(rng, root)
    fuzzer = Fuzzer(server.address, maker, findings)
    stubs = Stubs(fuzzer.channel)
    for seed in range(3):
        data = recording(seed, 0.2)
        await stubs.audio.Upload(upload_requests(data))
        maker.hashes.append(sha256(data))
    before = await honest_edit(stubs)
    health: list[float] = []
    done = asyncio.Event()

    async def ask_health() -> None:
        while not done.is_set():
            began = time.perf_counter()
            try:
                await stubs.health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            except grpc.aio.AioRpcError as error:
                findings.fault("health", f"{error.code().name}: {error.details()}")
            health.append(time.perf_counter() - began)
            await asyncio.sleep(0.05)

    async def send_until(count: int) -> None:
        async def sender() -> None:
            while findings.sent < count:
                await fuzzer.one()

        await asyncio.gather(*(sender() for _ in range(CONCURRENT)))
        await end_all_jobs(stubs, findings, fuzzer)

    asking = asyncio.create_task(ask_health())
    began = time.perf_counter()
    usages: list[tuple[int, Usage]] = []
    for look in range(1, looks + 1):
        await send_until(messages * look // looks)
        usage = await asyncio.to_thread(settled, server, usages[0][1] if usages else None, 5.0)
        usages.append((findings.sent, usage))
        print(f"{findings.sent} messages: {usage}, faults: {dict(findings.fault_kinds)}", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    done.set()
    await asking
    ends = await end_all_jobs(stubs, findings, fuzzer)
    check = await stubs.health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    if check.status != health_pb2.HealthCheckResponse.SERVING:
        findings.fault("health", f"afterwards {check.status}")
    if await honest_edit(stubs) != before:
        findings.fault("other result", "an honest edit gives other audio than before")
    deadline = time.monotonic() + 10.0
    while (left := server.temporaries()) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)  # the folder of the last job goes just after its last event
    if left:
        findings.fault("left over", f"{len(left)} in tmp: {left[:5]}")
    first, last = usages[0][1], usages[-1][1]
    if last.descriptors > first.descriptors + 2 or last.threads > first.threads + 2:
        findings.fault("leak", f"{first} became {last}")
    # Pools and caches (connections to the database, memory of the C library) fill up for some thousand messages.
    middle = usages[(len(usages) - 1) // 2][1]
    if last.trimmed_mib > middle.trimmed_mib + MEMORY_SLACK_MIB:
        findings.fault("leak", f"in the second half {middle} became {last}")
    await fuzzer.channel.close()
    for path in (server.data_dir / "audio").glob("*/*"):
        if sha256(path.read_bytes()) != path.name:
            findings.fault("corrupt file", path.name)
    return {
        "messages": findings.sent,
        "calls": sum(findings.answers.values()),
        "seconds": round(seconds, 1),
        "scenarios": dict(sorted(findings.calls.items())),
        "answers": dict(sorted(findings.answers.items())),
        "answers_of_grpc_itself": dict(sorted(findings.bare.items())),
        "jobs": dict(sorted(ends.items())),
        "health_ms": spread(health),
        "usage": [{"messages": count, **usage.__dict__} for count, usage in usages],
        "partial_uploads_kept": len(list((server.data_dir / "uploads").iterdir())),
        "fault_kinds": dict(findings.fault_kinds),
        "faults": findings.faults,
    }


def run(messages: int, seed: int, folder: Path, *, looks: int = 10) -> dict[str, Any]:
    """Start a server below `folder`, fuzz it, stop it and read its log; `faults` is empty where all was well."""
    rng = random.Random(seed)
    root = folder / "root"
    lay_traps(root)
    server = ServerProcess(
        folder / "data",
        # With an arena per thread, holes between large messages of many threads look like a leak for a long time.
        environment={"MALLOC_ARENA_MAX": "2"},
        devices=["stub:0.001"],
        allowed_roots=[str(root)],
        max_audio_bytes=8 * 2**20,
        max_audio_s=30.0,
        max_message_bytes=MAX_MESSAGE_BYTES,
    )
    server.start()
    try:
        result = asyncio.run(fuzz(server, messages, rng, root, looks))
        status = server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
    complaints = server.complaints()
    result["log_complaints"] = complaints[:30]
    if complaints:
        result["faults"].append(f"log: {len(complaints)} lines tell of something unforeseen")
    if status:
        result["faults"].append(f"the orderly stop gave status {status}")
    written = [path.name for path in root.parent.iterdir()]
    if sorted(written) != sorted(("root", "outside.wav", "data", "data.log", "data.json", "data.tidied")):
        result["faults"].append(f"files outside of the allowed folder: {written}")
    return result


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep server and files here; must not exist")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json")
    chosen = parser.parse_args()
    with working_folder(chosen.folder) as folder:
        result = run(chosen.messages, chosen.seed, folder)
    first, last = result["usage"][0], result["usage"][-1]
    middle = result["usage"][(len(result["usage"]) - 1) // 2]
    rows = [
        ("messages", result["messages"]),
        ("calls", result["calls"]),
        ("seconds", result["seconds"]),
        ("health meanwhile, ms: p50, p99, max", "{p50}, {p99}, {max}".format(**result["health_ms"])),
        ("memory, MiB: after a tenth, half, all", " ".join(f"{u['rss_mib']:.0f}" for u in (first, middle, last))),
        ("without what is free, MiB", " ".join(f"{u['trimmed_mib']:.0f}" for u in (first, middle, last))),
        ("descriptors", f"{first['descriptors']}, {last['descriptors']}"),
        ("threads", f"{first['threads']}, {last['threads']}"),
        ("answers INTERNAL", sum(n for name, n in result["answers"].items() if name in ("INTERNAL", "job: INTERNAL"))),
        ("faults", sum(result["fault_kinds"].values())),
    ]
    result = {**facts(seed=chosen.seed), **result}
    report("Malformed and hostile messages", result, rows, chosen.out)
    for fault in result["faults"]:
        print(fault, file=sys.stderr)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
