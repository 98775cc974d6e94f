"""Kills the server again and again at random moments under load, and looks whether anything is lost.

    python -m benchmarks.server_crash --rounds 30

Each round: the real server (stub compute) works for several clients that upload, submit, edit, review, watch and
fetch; at a random moment the server's process group is killed with SIGKILL, in every other round its worker with it
(else the worker must notice by itself), in every third round a worker was killed before, and in every fifth the server
is killed once more while it starts again. Then the data folder is
looked at as it lies there, the server is started on it again, and what clients were told before is compared with what
they are told now:

- every request that was answered is there, in a clear state, and sent again it gives the same job;
- what was sent and not answered can be sent again;
- every step that any client heard of is still there, in the same place, and comes down with the right bytes;
- no event has become another one;
- every stored file has the hash that it is named by, every partial upload is the beginning of its file, and SQLite
  finds the database whole.

At the end all jobs must succeed, with the same files as on a server that nobody killed. Exit status 1 where anything
is amiss.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.server_harness import (
    RESULTS,
    STEPS,
    ServerProcess,
    Stubs,
    facts,
    recording,
    report,
    sha256,
    spread,
)
from smartdj.v1 import audio_pb2, edit_pb2, event_pb2, job_pb2, step_pb2

CLIENTS = 6
RECORDINGS = 8
WISHES = 24
ENDED = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


@dataclass(frozen=True)
class Wish:
    """What a job is about; the same wish must always give the same files."""

    number: int
    recording: int
    spec: job_pb2.JobSpec


@dataclass
class Asked:
    """What a client sent, and what it was told of it."""

    client: str
    request_id: str
    wish: Wish
    job_id: str = ""
    steps: dict[int, str] = field(default_factory=dict)
    events: dict[int, bytes] = field(default_factory=dict)
    last_sequence: int = 0
    ended: int = 0


@dataclass
class Memory:
    """All that all clients know, across all rounds."""

    recordings: list[bytes]
    wishes: list[Wish]
    unused: list[bytes] = field(default_factory=list)
    asked: dict[str, Asked] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def fault(self, text: str) -> None:
        """Note something that must not be."""
        self.faults.append(text)
        print(f"fault: {text}", file=sys.stderr, flush=True)

    def count(self, what: str, by: int = 1) -> None:
        """Note something that happened."""
        self.counts[what] = self.counts.get(what, 0) + by


def make_memory(seed: int, wishes_in_all: int = WISHES) -> Memory:
    """Draw recordings and wishes."""
    rng = random.Random(seed)
    wishes = []
    for number in range(wishes_in_all):
        encoding, mode = rng.choice(job_pb2.OutputEncoding.keys()), rng.choice(job_pb2.Mode.keys())
        spec = job_pb2.JobSpec(seed=number, output_encoding=encoding, mode=mode)
        if number % 2:
            spec.instruction = f"make it better, way {number}"
        else:
            spec.plan.steps.extend(step_pb2.Step(text=rng.choice(STEPS)) for _ in range(rng.randint(2, 6)))
        spec.review = number % 5 == 0
        wishes.append(Wish(number, rng.randrange(RECORDINGS), spec))
    recordings = [recording(seed * 1000 + number, 0.3 + 0.4 * number) for number in range(RECORDINGS)]
    return Memory(recordings, wishes, [recording(900_000, 8.0)])


# --- load ----------------------------------------------------------------------------------------------------------


class Client:
    """One program that talks with the server until the connection breaks.

    Parameters
    ----------
    memory
        Shared.
    address
        Of the server.
    name
        Its ``x-client-id``.
    rng
        Its own random numbers.
    """

    def __init__(self, memory: Memory, address: str, name: str, rng: random.Random) -> None:
        self.memory = memory
        self.name = name
        self.rng = rng
        self.channel = grpc.aio.insecure_channel(address)
        self.stubs = Stubs(self.channel)
        self.metadata = (("x-client-id", name),)
        self.tasks: set[asyncio.Task[None]] = set()

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; it ends by itself or with the connection."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        """Stop everything."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.channel.close()

    async def work(self, jobs: int, gap_s: float) -> None:
        """Submit jobs, one after the other, in one of several ways, and watch them."""
        for _ in range(jobs):
            wish = self.rng.choice(self.memory.wishes)
            way = self.rng.choice((self.submitted, self.submitted, self.edited))
            self.background(self.tolerant(way(wish)))
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * gap_s)

    async def tolerant(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that the server's end may break off."""
        try:
            await work
        except grpc.aio.AioRpcError as error:
            self.noticed(error)

    def noticed(self, error: grpc.aio.AioRpcError) -> None:
        """Only a broken connection is no fault."""
        self.memory.count(f"rpc {error.code().name}")
        broken = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        # So says grpc.aio's client where a connection breaks while it is sending.
        if not broken and error.details() != "Internal error from Core":
            self.memory.fault(f"{self.name}: {error.code().name}: {error.details()}")

    def ask(self, wish: Wish) -> Asked:
        """Note a request before it is sent."""
        request_id = f"{self.name}-{self.rng.getrandbits(64):016x}"
        asked = Asked(self.name, request_id, wish)
        self.memory.asked[request_id] = asked
        return asked

    async def upload(self, data: bytes, pause_s: float = 0.0) -> None:
        """Send a recording in small pieces, going on where an earlier upload was broken off."""
        name = sha256(data)
        got = await self.stubs.audio.GetUpload(audio_pb2.GetUploadRequest(sha256=name))
        if got.HasField("audio"):
            return
        begin = min(got.received_bytes, len(data))
        if begin:
            self.memory.count("uploads resumed")

        async def messages() -> AsyncIterator[audio_pb2.UploadRequest]:
            yield audio_pb2.UploadRequest(
                header=audio_pb2.UploadHeader(sha256=name, size_bytes=len(data), offset_bytes=begin)
            )
            for start in range(begin, len(data), 8192):
                yield audio_pb2.UploadRequest(data=data[start : start + 8192])
                await asyncio.sleep(pause_s)

        stored = await self.stubs.audio.Upload(messages())
        if stored.audio.sha256 != name:
            self.memory.fault(f"an upload of {name} became {stored.audio.sha256}")

    async def send_slowly(self) -> None:
        """Send recordings that no job needs, so that there is always an upload under way."""
        while True:
            data = self.rng.choice(self.memory.unused[-3:])
            if self.rng.random() < 0.5:
                self.memory.unused.append(recording(900_000 + len(self.memory.unused), 8.0))
            await self.upload(data, 0.02)

    async def submitted(self, wish: Wish) -> None:
        """Upload, SubmitJob, WatchJob."""
        data = self.memory.recordings[wish.recording]
        await self.upload(data)
        asked = self.ask(wish)
        await self.resubmit(asked)
        if self.rng.random() < 0.8:
            await self.watch(asked)

    async def resubmit(self, asked: Asked) -> None:
        """Send a request, for the first time or again."""
        data = self.memory.recordings[asked.wish.recording]
        answer = await self.stubs.jobs.SubmitJob(
            job_pb2.SubmitJobRequest(
                request_id=asked.request_id,
                audio=audio_pb2.AudioSource(sha256=sha256(data)),
                spec=asked.wish.spec,
            ),
            metadata=(("x-client-id", asked.client),),
        )
        self.told(asked, answer.job)

    def told(self, asked: Asked, job: job_pb2.Job) -> None:
        """Compare what the server says of a job with what it said before, and note it."""
        if asked.job_id and asked.job_id != job.job_id:
            self.memory.fault(f"request {asked.request_id} was job {asked.job_id} and is now {job.job_id}")
        asked.job_id = job.job_id
        if job.last_sequence < asked.last_sequence:
            self.memory.fault(f"job {job.job_id} had {asked.last_sequence} events and now has {job.last_sequence}")
        if asked.ended and job.state != asked.ended:
            self.memory.fault(f"job {job.job_id} had ended as {asked.ended} and is now {job.state}")
        if job.state == job_pb2.JOB_STATE_UNSPECIFIED:
            self.memory.fault(f"job {job.job_id} has no state")
        for index, step in asked.steps.items():
            if index >= len(job.steps) or job.steps[index].sha256 != step:
                self.memory.fault(f"job {job.job_id} has lost step {index}, {step}")
        asked.last_sequence = job.last_sequence
        asked.steps.update((index, step.sha256) for index, step in enumerate(job.steps))
        if job.state in ENDED:
            asked.ended = job.state

    def heard(self, asked: Asked, event: event_pb2.JobEvent) -> None:
        """Compare an event with what was heard before, and note it."""
        asked.job_id = asked.job_id or event.job_id
        if event.WhichOneof("event") in ("progress", "queued"):
            return  # not kept
        known = asked.events.setdefault(event.sequence, event.SerializeToString(deterministic=True))
        self.memory.count("events heard")
        if known != event.SerializeToString(deterministic=True):
            self.memory.fault(f"event {event.sequence} of job {event.job_id} has become another one")
        asked.last_sequence = max(asked.last_sequence, event.sequence)
        if event.WhichOneof("event") == "step_finished":
            index, step = event.step_finished.index, event.step_finished.audio.sha256
            if asked.steps.setdefault(index, step) != step:
                self.memory.fault(f"step {index} of job {event.job_id} was {asked.steps[index]} and is now {step}")
            if self.rng.random() < 0.2:
                self.background(self.tolerant(self.download(step)))

    async def watch(self, asked: Asked) -> None:
        """Hear a job's events to their end, from the beginning or from where it was broken off; accept its plan."""
        after = self.rng.choice((0, max(asked.events, default=0)))
        expected = after
        async for answer in self.stubs.jobs.WatchJob(
            job_pb2.WatchJobRequest(job_id=asked.job_id, after_sequence=after)
        ):
            event = answer.event
            if event.WhichOneof("event") not in ("progress", "queued"):
                expected += 1
                if event.sequence != expected:
                    self.memory.fault(f"job {asked.job_id}: event {event.sequence} instead of {expected}")
            self.heard(asked, event)
            if event.WhichOneof("event") == "plan_ready" and event.plan_ready.awaits_review:
                with contextlib.suppress(grpc.aio.AioRpcError):  # again after a restart: it may have ended meanwhile
                    await self.stubs.jobs.ReviewJob(job_pb2.ReviewJobRequest(job_id=asked.job_id))

    async def edited(self, wish: Wish) -> None:
        """Edit with the recording in the stream, that goes on without its client; come back to it by its id."""
        asked = self.ask(wish)
        data = self.memory.recordings[wish.recording]

        async def messages() -> AsyncIterator[edit_pb2.EditRequest]:
            yield edit_pb2.EditRequest(
                header=edit_pb2.EditHeader(
                    request_id=asked.request_id, spec=wish.spec, on_disconnect=edit_pb2.ON_DISCONNECT_CONTINUE
                )
            )
            for start in range(0, len(data), 16_384):
                yield edit_pb2.EditRequest(data=data[start : start + 16_384])
            yield edit_pb2.EditRequest(audio_end=edit_pb2.AudioEnd(sha256=sha256(data)))
            if wish.spec.review:
                yield edit_pb2.EditRequest(decision=edit_pb2.PlanDecision())

        if wish.spec.review:  # a decision before the plan would be out of order: submit it instead
            del self.memory.asked[asked.request_id]
            await self.submitted(wish)
            return
        parts: dict[str, bytes] = {}
        async for answer in self.stubs.edit.Edit(messages(), metadata=self.metadata):
            if answer.HasField("event"):
                self.heard(asked, answer.event)
            else:
                chunk = answer.audio
                parts[chunk.sha256] = parts.get(chunk.sha256, b"") + chunk.data
                if chunk.last and sha256(parts[chunk.sha256]) != chunk.sha256:
                    self.memory.fault(f"Edit sent other bytes than {chunk.sha256}")

    async def download(self, name: str) -> None:
        """Fetch a recording and compare its hash."""
        data = b""
        async for part in self.stubs.audio.Download(audio_pb2.DownloadRequest(sha256=name)):
            data += part.data
        self.memory.count("downloads")
        if sha256(data) != name:
            self.memory.fault(f"{name} comes down with other bytes")


async def load_until_killed(
    memory: Memory, server: ServerProcess, rng: random.Random, number: int, jobs: int
) -> dict[str, Any]:
    """Load the server from several clients and kill it at a random moment."""
    clients = [
        Client(memory, server.address, f"client{index}", random.Random(rng.random())) for index in range(CLIENTS)
    ]
    moment_s = rng.uniform(0.05, 2.5)
    with_workers = number % 2 == 0
    try:
        earlier = [item for item in memory.asked.values() if item.job_id and not item.ended]
        for client in clients:
            client.background(client.work(jobs, 2.5 / jobs))
        for index, item in enumerate(earlier):
            client = clients[index % CLIENTS]
            client.background(client.tolerant(client.watch(item)))
        for client in clients[:2]:
            client.background(client.tolerant(client.send_slowly()))
        if number % 3 == 2:
            await asyncio.sleep(moment_s * rng.random())
            for pid in server.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                memory.count("workers killed alone")
        await asyncio.sleep(moment_s)
        gone_s = server.kill(workers=with_workers)
    finally:
        for client in clients:
            await client.close()
    return {"killed_after_s": round(moment_s, 2), "worker_killed_too": with_workers, "gone_s": round(gone_s, 3)}


# --- what lies there -----------------------------------------------------------------------------------------------


def look(memory: Memory, server: ServerProcess) -> dict[str, int]:
    """Check files and database as the kill has left them, without changing anything."""
    data = server.data_dir
    for path in (data / "audio").glob("*/*"):
        if sha256(path.read_bytes()) != path.name:
            memory.fault(f"{path.name} has other bytes than its name says")
        memory.count("files hashed")
    whole = {sha256(item): item for item in (*memory.recordings, *memory.unused)}
    parts = list((data / "uploads").iterdir())
    for path in parts:
        name = path.name.partition("-")[0]
        if name not in whole or not whole[name].startswith(path.read_bytes()):
            memory.fault(f"the part {path.name} is no beginning of its file")
    with tempfile.TemporaryDirectory() as folder:
        for path in data.glob("jobs.db*"):
            shutil.copy(path, folder)  # to open it would end its journal, which the server must be able to read
        with contextlib.closing(sqlite3.connect(Path(folder) / "jobs.db")) as database:
            answers = [row[0] for row in database.execute("PRAGMA integrity_check")]
            broken = list(database.execute("PRAGMA foreign_key_check"))
            rows = dict(database.execute("SELECT sha256, size_bytes FROM audio WHERE NOT lost"))
            lost = database.execute("SELECT COUNT(*) FROM audio WHERE lost").fetchone()[0]
            jobs = {row[0] for row in database.execute("SELECT job_id FROM jobs")}
    if answers != ["ok"] or broken:
        memory.fault(f"SQLite: {answers} {broken}")
    if lost:
        memory.fault(f"{lost} files are lost")
    for name, size in rows.items():
        path = data / "audio" / name[:2] / name
        if not path.exists() or path.stat().st_size != size:
            memory.fault(f"{name} has a row but no whole file")
    for item in memory.asked.values():
        if item.job_id and item.job_id not in jobs:
            memory.fault(f"job {item.job_id}, of which a client knew, is not in the database")
    left = list((data / "tmp").iterdir())
    return {"jobs": len(jobs), "files": len(rows), "partial_uploads": len(parts), "temporaries": len(left)}


async def compare(memory: Memory, server: ServerProcess, rng: random.Random, downloads: int | None) -> None:
    """Ask the restarted server about all that clients were told before."""
    client = Client(memory, server.address, "comparing", random.Random(rng.random()))
    try:
        steps: set[str] = set()
        for item in list(memory.asked.values()):
            known = bool(item.job_id)
            if known:
                got = await client.stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=item.job_id))
                client.told(item, got.job)
            if not known or rng.random() < 0.2:
                await client.upload(memory.recordings[item.wish.recording])
                await client.resubmit(item)
                memory.count("sent again" if known else "sent again, unanswered before")
            steps.update(item.steps.values())
        names = sorted(steps)
        for name in names if downloads is None else rng.sample(names, min(downloads, len(names))):
            await client.download(name)
    except grpc.aio.AioRpcError as error:
        memory.fault(f"after the restart: {error.code().name}: {error.details()}")
    finally:
        await client.close()


async def finish(memory: Memory, server: ServerProcess, timeout_s: float) -> None:
    """Wait for all jobs to end."""
    client = Client(memory, server.address, "finishing", random.Random(0))
    deadline = time.monotonic() + timeout_s
    try:
        for item in memory.asked.values():
            while not item.ended:
                got = await client.stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=item.job_id))
                client.told(item, got.job)
                if got.job.state == job_pb2.JOB_STATE_AWAITING_REVIEW:
                    await client.stubs.jobs.ReviewJob(job_pb2.ReviewJobRequest(job_id=item.job_id))
                elif not item.ended:
                    if time.monotonic() > deadline:
                        memory.fault(f"job {item.job_id} does not end; state {got.job.state}")
                        return
                    await asyncio.sleep(0.05)
            if item.ended != job_pb2.JOB_STATE_SUCCEEDED:
                got = await client.stubs.jobs.GetJob(job_pb2.GetJobRequest(job_id=item.job_id))
                memory.fault(f"job {item.job_id} ended as {item.ended}: {got.job.error.message}")
    finally:
        await client.close()


async def uninterrupted(memory: Memory, server: ServerProcess) -> dict[int, list[str]]:
    """Return each wish's steps on a server that nobody kills."""
    alone = Memory(memory.recordings, memory.wishes)
    client = Client(alone, server.address, "alone", random.Random(0))
    try:
        for wish in memory.wishes:
            await client.upload(alone.recordings[wish.recording])
            await client.resubmit(client.ask(wish))
    finally:
        await client.close()
    await finish(alone, server, 600.0)
    memory.faults += alone.faults
    return {item.wish.number: [item.steps[i] for i in sorted(item.steps)] for item in alone.asked.values()}


# --- all of it -----------------------------------------------------------------------------------------------------


def rounds_of_kills(
    rounds: int, seed: int, folder: Path, *, jobs: int = 3, wishes: int = WISHES, pause_s: float = 0.004
) -> dict[str, Any]:
    """Do everything; `faults` of the result is empty where nothing was lost.

    Parameters
    ----------
    rounds
        How often the server is killed.
    seed
        Of the moments, wishes and recordings.
    folder
        Empty; for the data folders.
    jobs
        Jobs per client and round.
    wishes
        How many different ones.
    pause_s
        What a denoising step takes, seconds.
    """
    rng, memory = random.Random(seed), make_memory(seed, wishes)
    reference = ServerProcess(folder / "reference", devices=["stub:0"])
    reference.start()
    expected = asyncio.run(uninterrupted(memory, reference))
    reference.stop()
    server = ServerProcess(folder / "killed", devices=[f"stub:{pause_s}"])
    rows, starts = [], []

    def start() -> None:
        began = time.monotonic()
        server.start()
        starts.append(time.monotonic() - began)

    try:
        start()
        for number in range(rounds):
            row = asyncio.run(load_until_killed(memory, server, rng, number, jobs))
            row |= look(memory, server)
            if number % 5 == 4:
                server.spawn()
                time.sleep(rng.uniform(0.1, 2.5))
                server.kill(workers=rng.random() < 0.5)
                memory.count("killed again while it started")
                look(memory, server)
            start()
            row["restart_s"] = round(starts[-1], 2)
            asyncio.run(compare(memory, server, rng, 40))
            rows.append({"round": number + 1, **row, "faults": len(memory.faults)})
            print(" ".join(f"{key}={value}" for key, value in rows[-1].items()), file=sys.stderr, flush=True)
        asyncio.run(finish(memory, server, 60.0 + 2.0 * len(memory.asked)))
        asyncio.run(compare(memory, server, rng, None))
        for item in memory.asked.values():
            if [item.steps[i] for i in sorted(item.steps)] != expected[item.wish.number]:
                memory.fault(f"job {item.job_id} has other results than without a crash")
        if (status := server.stop()) != 0:
            memory.fault(f"the orderly stop at the end gave status {status}")
        if left := server.temporaries():
            memory.fault(f"left over in tmp: {left}")
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
    complaints = [line for line in server.complaints() if "was ended by SIGKILL" not in line]
    memory.faults += [f"log: {line}" for line in complaints[:20]]
    return {
        "rounds": rows,
        "jobs": len(memory.asked),
        "jobs_of_which_only_the_sending_was_sure": memory.counts.get("sent again, unanswered before", 0),
        "steps_known_to_clients": sum(len(item.steps) for item in memory.asked.values()),
        "counts": memory.counts,
        "restart_ms": spread(starts),
        "faults": memory.faults,
    }


@contextlib.contextmanager
def working_folder(named: Path | None) -> Iterator[Path]:
    """A folder that is empty; a temporary one unless it is named. Being told to end ends the servers, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if named is not None:
        named.mkdir(parents=True)
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="smartdj-") as folder:
        yield Path(folder)


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the data folders here; must not exist")
    parser.add_argument("--out", type=Path, default=RESULTS / "crash.json")
    chosen = parser.parse_args()
    began = time.perf_counter()
    with working_folder(chosen.folder) as folder:
        result = rounds_of_kills(chosen.rounds, chosen.seed, folder)
    seconds = round(time.perf_counter() - began, 1)
    counts = result["counts"]
    alone, starting = counts.get("workers killed alone", 0), counts.get("killed again while it started", 0)
    kills = f"{chosen.rounds} under load, {alone} of the worker alone, {starting} while starting"
    rows = [
        ("kill -9", kills),
        ("jobs", result["jobs"]),
        ("steps that clients knew of", result["steps_known_to_clients"]),
        ("events heard and compared", result["counts"].get("events heard", 0)),
        ("files hashed", result["counts"].get("files hashed", 0)),
        ("requests sent again", result["counts"].get("sent again", 0)),
        ("requests sent again that had got no answer", result["jobs_of_which_only_the_sending_was_sure"]),
        ("restart until ready, ms: p50, max", f"{result['restart_ms']['p50']}, {result['restart_ms']['max']}"),
        ("faults", len(result["faults"])),
    ]
    result = {**facts(seed=chosen.seed, seconds=seconds), **result}
    report(f"{chosen.rounds} rounds of kill -9 in {seconds} s", result, rows, chosen.out)
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
