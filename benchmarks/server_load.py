"""What the server itself costs: many clients on stubbed compute, memory over thousands of jobs, and real models.

    python -m benchmarks.server_load --clients 64 --jobs 10000

Three parts, each of which can be left out:

1. ``--seconds``: clients, each with a connection of its own, plan and edit without a pause on a stub that takes no
   time. Measured are jobs per second and the time from `Plan`'s header to its first event; another process asks for
   health, for a list of jobs and for nothing else.
2. ``--jobs``: the same clients run so many small jobs; the server's memory is looked at every 500 of them.
3. ``--repeats``: the real small models edit examples/demo.wav by the same plan, in turns by the server (recording sent,
   every step's audio fetched, all in one Edit call) and by `Agent` in this process, without and with writing the steps
   to files.

Clients and server share the machine, and so the figures of part 1 are those of both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as for the server; before anything of ours imports torch

import grpc
import numpy as np
import psutil
from grpc_health.v1 import health_pb2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.server_crash import working_folder
from benchmarks.server_harness import (
    CHUNK_BYTES,
    RESULTS,
    ROOT,
    STEPS,
    ServerProcess,
    Stubs,
    facts,
    recording,
    report,
    sha256,
    spread,
    upload_requests,
)
from smartdj.v1 import audio_pb2, edit_pb2, job_pb2, step_pb2

SAMPLE_EVERY = 500
REAL_STEPS = (
    "turn down the volume of dog barking by 6 dB",
    "add the sound of rain with -6 dB",
    "remove the sound of wind",
)


@dataclass
class Times:
    """What clients measured, seconds."""

    first_event: list[float] = field(default_factory=list)
    plan: list[float] = field(default_factory=list)
    edit: list[float] = field(default_factory=list)
    refused: int = 0


def channel_to(address: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def plan_once(stubs: Stubs, source: str, seed: int, times: Times) -> None:
    """Call Plan and take the time of its first event and of its end."""

    async def messages() -> AsyncIterator[edit_pb2.PlanRequest]:
        header = edit_pb2.PlanHeader(audio=audio_pb2.AudioSource(sha256=source), instruction="calmer", seed=seed)
        yield edit_pb2.PlanRequest(header=header)

    began = time.perf_counter()
    first = True
    async for _ in stubs.edit.Plan(messages()):
        if first:
            times.first_event.append(time.perf_counter() - began)
            first = False
    times.plan.append(time.perf_counter() - began)


async def edit_once(stubs: Stubs, source: str, seed: int, times: Times, steps: int = 2) -> None:
    """Run a job with a plan to its end."""
    plan = step_pb2.Plan(steps=[step_pb2.Step(text=text) for text in STEPS[:steps]])
    began = time.perf_counter()
    request = job_pb2.SubmitJobRequest(
        audio=audio_pb2.AudioSource(sha256=source), spec=job_pb2.JobSpec(plan=plan, seed=seed)
    )
    job = (await stubs.jobs.SubmitJob(request)).job
    async for _ in stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.job_id)):
        pass
    times.edit.append(time.perf_counter() - began)


async def prepared(address: str, clients: int) -> tuple[list[grpc.aio.Channel], str]:
    """Connections, and the name of a recording that is there."""
    channels = [channel_to(address) for _ in range(clients)]
    data = recording(1, 0.1)
    await Stubs(channels[0]).audio.Upload(upload_requests(data))
    return channels, sha256(data)


async def crowd(address: str, clients: int, seconds: float) -> Times:
    """Let clients plan and edit for a while."""
    channels, source = await prepared(address, clients)
    times = Times()
    end = time.monotonic() + seconds

    async def work(number: int) -> None:
        stubs = Stubs(channels[number])
        seed = number
        while time.monotonic() < end:
            seed += clients
            await plan_once(stubs, source, seed, times)
            if time.monotonic() < end:
                await edit_once(stubs, source, seed, times)

    await asyncio.gather(*(work(number) for number in range(clients)))
    for channel in channels:
        await channel.close()
    return times


def probe(address: str, seconds: float) -> dict[str, Any]:
    """Ask for health and for jobs, from this process, which does nothing else."""
    health, listing = [], []
    with grpc.insecure_channel(address) as channel:
        stubs = Stubs(channel)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began = time.perf_counter()
            stubs.health.Check(health_pb2.HealthCheckRequest(), timeout=60.0)
            health.append(time.perf_counter() - began)
            if len(health) % 5 == 0:
                began = time.perf_counter()
                stubs.jobs.ListJobs(job_pb2.ListJobsRequest(page_size=20), timeout=60.0)
                listing.append(time.perf_counter() - began)
            time.sleep(0.01)
    return {"health_ms": spread(health), "list_20_jobs_ms": spread(listing)}


def probing(address: str, seconds: float) -> subprocess.Popen[str]:
    """Start `probe` in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--probe", address, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def measure_crowd(folder: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Part 1."""
    server = ServerProcess(folder / "crowd", devices=["stub:0"], log_level="warning")
    server.start()
    try:
        idle = json.loads(probing(server.address, 3.0).communicate()[0])
        asking = probing(server.address, seconds)
        process, began = psutil.Process(server.pid), time.perf_counter()
        before = process.cpu_times()
        times = asyncio.run(crowd(server.address, clients, seconds))
        took, after = time.perf_counter() - began, process.cpu_times()
        busy = json.loads(asking.communicate()[0])
        server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
    jobs = len(times.plan) + len(times.edit)
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "clients": clients,
        "seconds": round(took, 1),
        "jobs": jobs,
        "jobs_per_s": round(jobs / took, 1),
        "server_cpu_ms_per_job": round(1000 * cpu_s / jobs, 2),
        "plan_first_event_ms": spread(times.first_event),
        "plan_ms": spread(times.plan),
        "edit_two_steps_ms": spread(times.edit),
        "busy": busy,
        "idle": idle,
        "complaints": server.complaints()[:5],
    }


async def many_jobs(server: ServerProcess, clients: int, jobs: int) -> list[dict[str, float]]:
    """Run small jobs; return the memory of server and worker every `SAMPLE_EVERY` jobs."""
    channels, source = await prepared(server.address, clients)
    times = Times()
    samples: list[dict[str, float]] = []
    begun = 0

    def sample() -> None:
        usage = server.usage()
        workers = sum(psutil.Process(pid).memory_info().rss for pid in server.workers()) / 2**20
        samples.append(
            {
                "jobs": len(times.edit),
                "server_mib": round(usage.rss_mib, 2),
                "workers_mib": round(workers, 2),
                "descriptors": usage.descriptors,
                "threads": usage.threads,
            }
        )
        print(samples[-1], file=sys.stderr, flush=True)

    async def work(number: int) -> None:
        nonlocal begun
        stubs = Stubs(channels[number])
        while begun < jobs:
            begun += 1
            await edit_once(stubs, source, begun, times, steps=1)
            if len(times.edit) % SAMPLE_EVERY == 0:
                sample()

    sample()
    await asyncio.gather(*(work(number) for number in range(clients)))
    for channel in channels:
        await channel.close()
    return samples


def measure_memory(folder: Path, clients: int, jobs: int) -> dict[str, Any]:
    """Part 2."""
    server = ServerProcess(folder / "memory", devices=["stub:0"], log_level="warning")
    server.start()
    try:
        began = time.perf_counter()
        samples = asyncio.run(many_jobs(server, clients, jobs))
        took = time.perf_counter() - began
        server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
    # The first fifth fills pools and caches.
    late = [item for item in samples if item["jobs"] >= jobs / 5]
    numbers = [item["jobs"] / 1000 for item in late]

    def slope(name: str) -> float:
        return round(float(np.polyfit(numbers, [item[name] for item in late], 1)[0]), 3) if len(late) > 2 else 0.0

    return {
        "jobs": jobs,
        "seconds": round(took, 1),
        "jobs_per_s": round(jobs / took, 1),
        "server_mib_first_last": [late[0]["server_mib"], late[-1]["server_mib"]],
        "server_mib_per_1000_jobs": slope("server_mib"),
        "workers_mib_first_last": [late[0]["workers_mib"], late[-1]["workers_mib"]],
        "workers_mib_per_1000_jobs": slope("workers_mib"),
        "samples": samples,
        "complaints": server.complaints()[:5],
    }


def edit_by_server(stubs: Stubs, data: bytes, plan: step_pb2.Plan, mode: int) -> tuple[float, float, list[str]]:
    """Edit with everything in one call; seconds in all, seconds of steps as the worker counts them, hashes."""

    def messages() -> Iterator[edit_pb2.EditRequest]:
        spec: Any = job_pb2.JobSpec(plan=plan, output_encoding=job_pb2.OUTPUT_ENCODING_WAV_FLOAT)
        spec.mode = mode
        yield edit_pb2.EditRequest(header=edit_pb2.EditHeader(spec=spec))
        for start in range(0, len(data), CHUNK_BYTES):
            yield edit_pb2.EditRequest(data=data[start : start + CHUNK_BYTES])
        yield edit_pb2.EditRequest(audio_end=edit_pb2.AudioEnd(sha256=sha256(data)))

    began = time.perf_counter()
    compute_s, sounds = 0.0, []
    files: dict[str, bytes] = {}
    for answer in stubs.edit.Edit(messages()):
        if answer.HasField("audio"):
            files[answer.audio.sha256] = files.get(answer.audio.sha256, b"") + answer.audio.data
        elif answer.event.HasField("step_finished"):
            sounds.append(answer.event.step_finished.audio.audio_sha256)
            compute_s += answer.event.step_finished.elapsed_s
    seconds = time.perf_counter() - began
    if any(sha256(content) != name for name, content in files.items()):
        raise ValueError("the server sent other bytes than it said")
    return seconds, compute_s, sounds


def edit_directly(agent: Any, path: Path, plan: Any, mode: str, folder: Path) -> tuple[float, float, list[str]]:
    """Edit with the core in this process; seconds, seconds with steps written to files, hashes of their sound."""
    from smartdj_agent.audio import AudioFormat, audio_sha256, read_audio, write_audio
    from smartdj_agent.events import StepFinished

    began = time.perf_counter()
    audio = read_audio(path)
    steps = [event.audio for event in agent.apply(audio, plan, mode=mode) if isinstance(event, StepFinished)]
    seconds = time.perf_counter() - began
    for number, step in enumerate(steps):
        write_audio(folder / f"{number}.wav", replace(step, format=AudioFormat("WAV", "FLOAT")), overwrite=True)
    with_files_s = time.perf_counter() - began
    return seconds, with_files_s, [audio_sha256(step) for step in steps]


def measure_overhead(folder: Path, repeats: int, modes: tuple[str, ...]) -> dict[str, Any]:
    """Part 3."""
    import torch

    from smartdj_agent.agent import Agent
    from smartdj_agent.plan import make_plan
    from smartdj_agent.server.compute import _warm_up
    from smartdj_agent.server.worker import REAL_AGENT

    torch.set_num_threads(1)
    path = ROOT / "examples" / "demo.wav"
    data = path.read_bytes()
    server = ServerProcess(folder / "real", agent=REAL_AGENT, devices=["cpu"], log_level="warning")
    server.start(300.0)
    result: dict[str, Any] = {"recording": path.name, "steps": REAL_STEPS}
    try:
        agent = Agent("small", "cpu")
        _warm_up(agent)
        with grpc.insecure_channel(server.address) as channel:
            stubs = Stubs(channel)
            for mode in modes:
                texts = REAL_STEPS if mode == "preserve" else REAL_STEPS[:1]
                plan = make_plan(texts)
                message = step_pb2.Plan(steps=[step_pb2.Step(text=text) for text in texts])
                number = {"preserve": job_pb2.MODE_PRESERVE, "generate": job_pb2.MODE_GENERATE}[mode]
                rows = []
                for repeat in range(repeats if mode == "preserve" else max(1, repeats // 3)):
                    turns: dict[str, float] = {}
                    sounds: dict[str, list[str]] = {}
                    order = ("direct", "server") if repeat % 2 == 0 else ("server", "direct")
                    for way in order:
                        if way == "direct":
                            turns[way], with_files_s, sounds[way] = edit_directly(agent, path, plan, mode, folder)
                            turns["direct_with_files"] = with_files_s
                        else:
                            turns[way], steps_s, sounds[way] = edit_by_server(stubs, data, message, number)
                            turns["server_steps"] = steps_s
                    rows.append({**turns, "same_audio": sounds["direct"] == sounds["server"]})
                    print(mode, rows[-1], file=sys.stderr, flush=True)
                direct = statistics.median(row["direct"] for row in rows)
                whole = statistics.median(row["server"] for row in rows)
                around = statistics.median(row["server"] - row["server_steps"] for row in rows)
                result[mode] = {
                    "steps": len(texts),
                    "repeats": len(rows),
                    "direct_s": round(direct, 3),
                    "direct_with_files_s": round(statistics.median(row["direct_with_files"] for row in rows), 3),
                    "server_s": round(whole, 3),
                    "overhead_s": round(statistics.median(row["server"] - row["direct"] for row in rows), 3),
                    "overhead_share": round(
                        statistics.median((row["server"] - row["direct"]) / row["direct"] for row in rows), 4
                    ),
                    "around_the_steps_s": round(around, 3),
                    "same_audio": all(row["same_audio"] for row in rows),
                    "rows": [{name: round(value, 4) for name, value in row.items()} for row in rows],
                }
        server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
    result["complaints"] = server.complaints()[:5]
    return result


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0, help="of part 1; 0 leaves it out")
    parser.add_argument("--jobs", type=int, default=10_000, help="of part 2; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=7, help="of part 3; 0 leaves it out")
    parser.add_argument("--modes", default="preserve,generate", help="of part 3")
    parser.add_argument("--folder", type=Path, help="keep the data folders here; must not exist")
    parser.add_argument("--out", type=Path, default=RESULTS / "load.json")
    parser.add_argument("--probe", nargs=2, metavar=("ADDRESS", "SECONDS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.probe:
        print(json.dumps(probe(chosen.probe[0], float(chosen.probe[1]))))
        return 0
    result: dict[str, Any] = facts()
    rows: list[tuple[str, Any]] = []
    with working_folder(chosen.folder) as folder:
        if chosen.seconds:
            part = result["crowd"] = measure_crowd(folder, chosen.clients, chosen.seconds)
            rows += [
                (f"{chosen.clients} clients on a stub: jobs per second", part["jobs_per_s"]),
                ("server CPU per job, ms", part["server_cpu_ms_per_job"]),
                ("first event of Plan, ms: p50, p99", "{p50}, {p99}".format(**part["plan_first_event_ms"])),
                ("health meanwhile, ms: p50, p99", "{p50}, {p99}".format(**part["busy"]["health_ms"])),
                ("list of 20 jobs meanwhile, ms: p50, p99", "{p50}, {p99}".format(**part["busy"]["list_20_jobs_ms"])),
                ("health of the idle server, ms: p50, p99", "{p50}, {p99}".format(**part["idle"]["health_ms"])),
            ]
        if chosen.jobs:
            part = result["memory"] = measure_memory(folder, chosen.clients, chosen.jobs)
            first, last = part["server_mib_first_last"]
            rows += [
                (f"memory from job {chosen.jobs // 5} to {chosen.jobs}, MiB", f"{first} to {last}"),
                ("growth per 1000 jobs, MiB: server, worker",
                 f"{part['server_mib_per_1000_jobs']}, {part['workers_mib_per_1000_jobs']}"),
            ]  # fmt: skip
        if chosen.repeats:
            modes = tuple(chosen.modes.split(","))
            part = result["overhead"] = measure_overhead(folder, chosen.repeats, modes)
            for mode in modes:
                row = part[mode]
                rows += [
                    (
                        f"{mode}, {row['steps']} steps, s: core, core with files, server",
                        f"{row['direct_s']}, {row['direct_with_files_s']}, {row['server_s']}",
                    ),
                    (f"{mode}: overhead", f"{1000 * row['overhead_s']:.0f} ms, {100 * row['overhead_share']:.1f} %"),
                    (f"{mode}: same audio", row["same_audio"]),
                ]
    report("What the server costs", result, rows, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
