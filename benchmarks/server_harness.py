"""A real server in a process of its own, with or without networks, for the server's benchmarks and their tests.

    python -m benchmarks.server_harness SETTINGS.json MODULE:FUNCTION

serves until a signal, with an agent of one's choice; SIGUSR1 makes it give back all memory that it can. `stub_agent`
computes in numpy only, always the same, and takes a set time per step: what is measured with it is the server.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import io
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import soundfile
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.table import Table

from smartdj.v1 import audio_pb2, audio_pb2_grpc, edit_pb2_grpc, job_pb2_grpc, server_pb2_grpc
from smartdj_agent.audio import Audio, audio_sha256
from smartdj_agent.events import (
    Event,
    Finished,
    Heard,
    Listened,
    Listening,
    PlanReady,
    Progress,
    StepFinished,
    StepPlanned,
    StepStarted,
    Writing,
)
from smartdj_agent.plan import Plan, make_plan
from smartdj_agent.steps import format_step

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "server"
STUB = "benchmarks.server_harness:stub_agent"
DENOISING_STEPS = 5
CHUNK_BYTES = 256 * 1024
STEPS = (
    "turn down the volume of rain by 3 dB",
    "remove the sound of dog barking",
    "move the sound of footsteps to 40 degrees",
    "add the sound of thunder",
    "shift the sound of bell by 1.5 seconds",
    "change the timbre of voice to dark",
)


# --- an agent without networks -------------------------------------------------------------------------------------


class StubAgent:
    """Does something to the samples that depends on step, place and seed, and nothing else.

    Parameters
    ----------
    pause_s
        What a denoising step takes, seconds; a step has `DENOISING_STEPS` of them.
    log
        File in which the time of every denoising step is noted (`time.monotonic`, the same clock in all processes);
        None to note nothing.
    """

    device = "stub"

    def __init__(self, pause_s: float = 0.0, log: Path | None = None) -> None:
        self.pause_s = pause_s
        self.log = log

    def _compute(self) -> None:
        if self.pause_s:
            time.sleep(self.pause_s)
        if self.log is not None:
            with self.log.open("a", encoding="ascii") as stream:
                stream.write(f"{time.monotonic()}\n")

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """Plan two to four of `STEPS`, as the instruction and the seed say."""
        for number in range(1, DENOISING_STEPS + 1):
            self._compute()
            yield Listening(number / DENOISING_STEPS, 1.0, 0.1)
        yield Listened((Heard("rain", 0.9, -20.0, 10.0, 0.0, audio.duration_s),), 0.01)
        number = zlib.crc32(f"{instruction}{seed}".encode())
        texts = [STEPS[(number + index) % len(STEPS)] for index in range(2 + number % 3)]
        plan = make_plan(texts, instruction, source_sha256=audio_sha256(audio))
        for index, plan_step in enumerate(plan.steps):
            yield Writing(format_step(plan_step.step))
            yield StepPlanned(index, plan_step)
        yield PlanReady(plan, 0.01)

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """Turn the recording in time and change its level, differently for every step."""
        steps = plan.enabled_steps()
        for index, plan_step in list(enumerate(steps))[done:]:
            yield StepStarted(index, len(steps), plan_step, self.device)
            for number in range(1, DENOISING_STEPS + 1):
                self._compute()
                yield Progress(index, len(steps), number / DENOISING_STEPS, 1.0, 0.1, "denoising")
            number = zlib.crc32(f"{format_step(plan_step.step)}{index}{seed}{mode}".encode())
            samples = np.roll(audio.samples, number % audio.n_samples, axis=1)
            samples = samples * samples.dtype.type(0.7 + number % 997 / 4000)
            audio = replace(audio, samples=samples)
            yield StepFinished(index, len(steps), plan_step, audio, 0.01, 1.0, "stub", 0.9, ())
        yield Finished(audio, plan, 0.01, 1.0)


def stub_agent(
    device: str, preset: str, library: Path | tuple[Path, ...] | None, max_batch: int, *_: object
) -> StubAgent:
    """Return a stub: a device ``stub:0.004`` lets a denoising step take 4 ms; a library folder gets ``steps.log``."""
    folder = library[0] if isinstance(library, tuple) else library
    return StubAgent(float(device.partition(":")[2] or 0), folder / "steps.log" if folder else None)


# --- the server's process ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """What a process holds.

    Attributes
    ----------
    rss_mib
        Resident memory, MiB.
    trimmed_mib
        The same after garbage was collected and the C library has given back what is free; 0 where it was not asked.
    descriptors
        How many, but for those of the database: its pool opens a few connections more with every burst, up to 15.
    threads
        How many.
    """

    rss_mib: float
    descriptors: int
    threads: int
    trimmed_mib: float = 0.0


class ServerProcess:
    """``smartdj serve`` as a process group of its own, on a free port.

    Parameters
    ----------
    data_dir
        The server's data folder; its log is ``server.log`` beside it, kept from start to start.
    agent
        ``module:function`` that makes the agent.
    environment
        Variables that it gets besides those of this process.
    settings
        Of `smartdj_agent.server.settings`.
    """

    def __init__(
        self, data_dir: Path, *, agent: str = STUB, environment: dict[str, str] | None = None, **settings: Any
    ) -> None:
        self.data_dir = data_dir
        self.agent = agent
        self.environment = environment or {}
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.port_file = data_dir.parent / f"{data_dir.name}.port"
        self.tidied_file = data_dir.parent / f"{data_dir.name}.tidied"
        self.settings = {"devices": ["stub:0"], **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def spawn(self) -> None:
        """Start its process and wait for nothing."""
        self.port_file.unlink(missing_ok=True)
        flags = {**self.settings, "port": 0, "port_file": str(self.port_file), "data_dir": str(self.data_dir)}
        settings = self.data_dir.parent / f"{self.data_dir.name}.json"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps(flags), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **self.environment}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.server_harness", str(settings), self.agent],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, timeout_s: float = 120.0, *, ready: bool = True) -> None:
        """Start it and wait until it listens and, with `ready`, until its models are loaded.

        Raises
        ------
        RuntimeError
            It ended, or nothing was to be heard of it in time; with the end of its log.
        """
        self.spawn()
        deadline = time.monotonic() + timeout_s
        while not (self.port_file.exists() and self.port_file.read_text().endswith("\n")):
            self._still_there(deadline)
            time.sleep(0.02)
        self.address = f"127.0.0.1:{int(self.port_file.read_text())}"
        if ready:
            with grpc.insecure_channel(self.address) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest()
                while health.Check(request, timeout=timeout_s).status != health_pb2.HealthCheckResponse.SERVING:
                    self._still_there(deadline)
                    time.sleep(0.02)

    def _still_there(self, deadline: float) -> None:
        assert self.process is not None
        if self.process.poll() is not None or time.monotonic() > deadline:
            self.kill()
            end = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
            raise RuntimeError(f"the server did not start (status {self.process.returncode}):\n{end}")

    @property
    def pid(self) -> int:
        """Of the server itself."""
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        try:
            return [child.pid for child in psutil.Process(self.pid).children()]
        except psutil.NoSuchProcess:
            return []

    def kill(self, *, workers: bool = True) -> float:
        """Kill the server's process group with SIGKILL, and its workers, or see them end by themselves.

        Returns
        -------
        float
            Seconds until the last of them was gone.
        """
        assert self.process is not None
        began = time.monotonic()
        children = self.workers()
        pids = [self.pid, *(children if workers else [])]
        for pid in pids:
            try:
                os.killpg(pid, signal.SIGKILL)  # each is the leader of a session of its own
            except ProcessLookupError:
                continue
        self.process.wait()
        for pid in children:
            while _alive(pid):
                if time.monotonic() - began > 30.0:
                    raise RuntimeError(f"worker {pid} outlives its server")
                time.sleep(0.005)
        return time.monotonic() - began

    def stop(self, timeout_s: float = 60.0) -> int:
        """Stop it in an orderly way; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def usage(self, *, trimmed: bool = False) -> Usage:
        """What the server's process holds right now; `trimmed` makes it tidy up, after its memory was looked at."""
        process = psutil.Process(self.pid)
        with process.oneshot():
            database = sum(Path(file.path).name.startswith("jobs.db") for file in process.open_files())
            usage = Usage(process.memory_info().rss / 2**20, process.num_fds() - database, process.num_threads())
        if trimmed:
            self.tidied_file.unlink(missing_ok=True)
            process.send_signal(signal.SIGUSR1)
            deadline = time.monotonic() + 30.0
            while not self.tidied_file.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            usage = replace(usage, trimmed_mib=process.memory_info().rss / 2**20)
        return usage

    def temporaries(self) -> list[str]:
        """Names of what lies in its folder for unfinished files."""
        return sorted(path.name for path in (self.data_dir / "tmp").iterdir())

    def complaints(self) -> list[str]:
        """Return the lines of its log that tell of something unforeseen."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        signs = (" ERROR ", "Traceback", "unexpected failure", "never retrieved", "never awaited")
        return [line for line in text.splitlines() if any(sign in line for sign in signs)]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- what clients need ---------------------------------------------------------------------------------------------


class Stubs:
    """The services over one channel, sync or async."""

    def __init__(self, channel: Any) -> None:
        self.edit = edit_pb2_grpc.EditServiceStub(channel)
        self.audio = audio_pb2_grpc.AudioServiceStub(channel)
        self.jobs = job_pb2_grpc.JobServiceStub(channel)
        self.server = server_pb2_grpc.ServerServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)


def recording(seed: int, seconds: float = 0.5, *, rate: int = 16_000, channels: int = 2) -> bytes:
    """Return a WAV file of 16-bit noise; the same for the same arguments."""
    noise = np.random.default_rng(seed).normal(0.0, 0.1, (round(seconds * rate), channels))
    file = io.BytesIO()
    soundfile.write(file, noise, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def sha256(data: bytes) -> str:
    """Hash of a file's bytes, as the server names it."""
    return hashlib.sha256(data).hexdigest()


def upload_requests(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> Iterator[audio_pb2.UploadRequest]:
    """Yield the messages of a whole upload."""
    yield audio_pb2.UploadRequest(header=audio_pb2.UploadHeader(sha256=sha256(data), size_bytes=len(data)))
    for start in range(0, len(data), chunk_bytes):
        yield audio_pb2.UploadRequest(data=data[start : start + chunk_bytes])


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- results -------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share (0 to 1) of them lies."""
    return float(np.quantile(np.asarray(values), share)) if values else float("nan")


def spread(values: Sequence[float], unit: float = 1000.0) -> dict[str, float]:
    """Return number, median, 99th percentile and greatest of times, by default as milliseconds."""
    return {
        "count": len(values),
        "p50": round(unit * statistics.median(values), 2),
        "p99": round(unit * percentile(values, 0.99), 2),
        "max": round(unit * max(values), 2),
    }


def facts(**more: Any) -> dict[str, Any]:
    """Return what a result needs besides its figures: machine, load, date, commit."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = ""
    return {
        "machine": _cpu(),
        "cores": os.cpu_count(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "commit": commit,
        "made": datetime.now(UTC).replace(microsecond=0).isoformat(),
        **more,
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def report(title: str, result: dict[str, Any], rows: Sequence[tuple[str, Any]], out: Path | None) -> None:
    """Print the result as JSON, a table for people on standard error, and write the JSON to a file if one is named."""
    text = json.dumps(result, indent=1, ensure_ascii=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_name(f".{out.name}.partial")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, out)
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for what, value in rows:
        table.add_row(what, str(value))
    Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(table)
    print(text)


def main(arguments: Sequence[str]) -> int:
    """Serve with the agent that is named; without arguments, say what this is."""
    if len(arguments) != 2:
        print(__doc__)
        return 0
    from smartdj_agent.server import settings
    from smartdj_agent.server.serve import run

    with open(arguments[0], encoding="utf-8") as file:
        flags = json.load(file)
    tidied = Path(arguments[0]).with_suffix(".tidied")

    def tidy_up(*_: object) -> None:
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        tidied.touch()

    signal.signal(signal.SIGUSR1, tidy_up)
    run(settings.load(flags, environment={}), agent=arguments[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
