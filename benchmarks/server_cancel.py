"""Time from cancelling to an idle device, by every way in which a client can go away.

    python -m benchmarks.server_cancel --rounds 20

A job works on the device; at a random moment of a step it is cancelled. Another thread asks the server all the time
whether its device is busy; the first answer that says no ends the time. Ways: the message in the stream, CancelJob,
cancelling the call, cutting the connection, the call's deadline, and the clients: Python's, and with ``--programs``
those for Node and C++ (Ctrl-C), which must be built. On stubbed compute with denoising steps of ``--step-ms``, and with
the real small models in both modes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import random
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as for the server

import grpc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.server_crash import working_folder
from benchmarks.server_harness import RESULTS, ROOT, ServerProcess, Stubs, facts, report, spread, upload_requests
from smartdj.v1 import audio_pb2, edit_pb2, event_pb2, job_pb2, server_pb2, step_pb2
from smartdj_agent.client import Client
from smartdj_agent.plan import make_plan
from smartdj_agent.server.worker import REAL_AGENT

DEMO = ROOT / "examples" / "demo.wav"
STEP = "turn down the volume of dog barking by 1 dB"
STEPS = 40
"""More than will ever be carried out."""


class Watch:
    """Asks all the time whether the device is busy.

    Parameters
    ----------
    address
        Of the server.
    """

    def __init__(self, address: str) -> None:
        self.busy = False
        self.since = time.perf_counter()
        self.changed = threading.Condition()
        self.gaps: list[float] = []
        self._channel = grpc.insecure_channel(address)
        self._stubs = Stubs(self._channel)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        before = time.perf_counter()
        while not self._end.is_set():
            answer = self._stubs.server.GetCapabilities(server_pb2.GetCapabilitiesRequest())
            now = time.perf_counter()
            self.gaps.append(now - before)
            before = now
            busy = any(device.busy for device in answer.devices)
            with self.changed:
                if busy is not self.busy:
                    self.busy, self.since = busy, now
                    self.changed.notify_all()

    def until(self, busy: bool, timeout_s: float = 120.0) -> float:
        """Wait until the device is busy or idle; return since when it has been."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.busy is busy, timeout_s):
                raise TimeoutError(f"the device did not become {'busy' if busy else 'idle'} in {timeout_s:.0f} s")
            return self.since

    def close(self) -> None:
        """Ask no more."""
        self._end.set()
        self._thread.join()
        self._channel.close()


class Wire:
    """Passes one connection on to the server, until it is cut."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._listening.accept()
            far = socket.create_connection(self._to)
            self._ends += (near, far)
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)

    def cut(self) -> None:
        """End the connection without a word."""
        self._listening.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Bench:
    """One server, one kind of work.

    Parameters
    ----------
    server
        Running.
    mode
        ``preserve`` or ``generate``.
    wait_s
        From the first progress of a step to cancelling: at random up to this, seconds.
    rng
        For the moments.
    """

    def __init__(self, server: ServerProcess, mode: str, wait_s: float, rng: random.Random) -> None:
        self.address = server.address
        self.mode = mode
        self.wait_s = wait_s
        self.rng = rng
        self.watch = Watch(server.address)
        self.channel = grpc.insecure_channel(server.address)
        self.stubs = Stubs(self.channel)
        data = DEMO.read_bytes()
        self.source = self.stubs.audio.Upload(upload_requests(data)).audio.sha256
        self.intervals: list[float] = []

    def close(self) -> None:
        """Let go of everything."""
        self.watch.close()
        self.channel.close()

    def spec(self) -> job_pb2.JobSpec:
        """Work that doesn't end by itself."""
        plan = step_pb2.Plan(steps=[step_pb2.Step(text=STEP)] * STEPS)
        return job_pb2.JobSpec(plan=plan, mode=f"MODE_{self.mode.upper()}")

    def header(self) -> edit_pb2.EditRequest:
        """The first message of an Edit."""
        source = audio_pb2.AudioSource(sha256=self.source)
        return edit_pb2.EditRequest(
            header=edit_pb2.EditHeader(spec=self.spec(), audio=source, delivery=edit_pb2.DELIVERY_NONE)
        )

    def until_in_a_step(self, events: Iterator[event_pb2.JobEvent]) -> None:
        """Read on to some progress of a step, and wait for a random moment after it."""
        times: list[float] = []
        enough = self.rng.randint(2, 6)
        for event in events:
            if event.WhichOneof("event") == "progress" and event.progress.HasField("step_index"):
                times.append(time.perf_counter())
                if len(times) == enough:
                    self.intervals += [after - before for before, after in pairwise(times)]
                    time.sleep(self.rng.random() * self.wait_s)
                    return
        raise RuntimeError("the job ended by itself")

    def measure(self, cancelled: Callable[[], float]) -> float:
        """Seconds from a cancel, whose moment is returned, to the idle device."""
        self.watch.until(False)
        moment = cancelled()
        return self.watch.until(False) - moment

    # Ways

    def by_message(self) -> float:
        """The cancel message of an Edit."""
        say: queue.SimpleQueue[edit_pb2.EditRequest | None] = queue.SimpleQueue()
        say.put(self.header())
        call = self.stubs.edit.Edit(iter(say.get, None))
        self.until_in_a_step(answer.event for answer in call)
        self.watch.until(True)
        moment = time.perf_counter()
        say.put(edit_pb2.EditRequest(cancel=edit_pb2.EditCancel()))
        with contextlib.suppress(grpc.RpcError):
            for _ in call:
                pass
        say.put(None)
        return moment

    def by_cancel_job(self) -> float:
        """CancelJob, from another call."""
        source = audio_pb2.AudioSource(sha256=self.source)
        job = self.stubs.jobs.SubmitJob(job_pb2.SubmitJobRequest(audio=source, spec=self.spec())).job
        events = self.stubs.jobs.WatchJob(job_pb2.WatchJobRequest(job_id=job.job_id))
        self.until_in_a_step(answer.event for answer in events)
        self.watch.until(True)
        moment = time.perf_counter()
        self.stubs.jobs.CancelJob(job_pb2.CancelJobRequest(job_id=job.job_id))
        return moment

    def by_leaving(self) -> float:
        """Cancelling the call."""
        say: queue.SimpleQueue[edit_pb2.EditRequest | None] = queue.SimpleQueue()
        say.put(self.header())
        call = self.stubs.edit.Edit(iter(say.get, None))
        self.until_in_a_step(answer.event for answer in call)
        self.watch.until(True)
        moment = time.perf_counter()
        call.cancel()
        say.put(None)
        return moment

    def by_cut(self) -> float:
        """The connection is gone without a word."""
        wire = Wire(self.address)
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(wire.address, options=options) as channel:
            say: queue.SimpleQueue[edit_pb2.EditRequest | None] = queue.SimpleQueue()
            say.put(self.header())
            call = Stubs(channel).edit.Edit(iter(say.get, None))
            self.until_in_a_step(answer.event for answer in call)
            self.watch.until(True)
            moment = time.perf_counter()
            wire.cut()
            say.put(None)
        return moment

    def by_deadline(self) -> float:
        """The call's time is over."""
        say: queue.SimpleQueue[edit_pb2.EditRequest | None] = queue.SimpleQueue()
        say.put(self.header())
        allowed_s = 0.7 + self.rng.random() * self.wait_s
        moment = time.perf_counter() + allowed_s
        call = self.stubs.edit.Edit(iter(say.get, None), timeout=allowed_s)
        self.watch.until(True)
        with contextlib.suppress(grpc.RpcError):
            for _ in call:
                pass
        say.put(None)
        return moment

    def by_python_client(self) -> float:
        """Closing a run of `smartdj_agent.client.Client`; the call returns when the server knows."""
        plan = make_plan([STEP] * STEPS)
        with Client(self.address) as client, client.edit(DEMO, plan, mode=self.mode) as run:
            for event in run:
                if type(event).__name__ == "Progress":
                    break
            time.sleep(self.rng.random() * self.wait_s)
            self.watch.until(True)
            moment = time.perf_counter()
            run.close()
        return moment

    def by_program(self, command: str, folder: Path) -> float:
        """Ctrl-C of another program; from the signal on."""
        folder.mkdir(exist_ok=True)
        words = [*shlex.split(command), self.address, str(DEMO), "", str(folder / f"{time.monotonic_ns()}.wav")]
        for _ in range(STEPS):
            words += ["--plan-step", STEP]
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
        )
        try:
            self.watch.until(True, 60.0)
            time.sleep(0.1 + self.rng.random() * self.wait_s)
            moment = time.perf_counter()
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60.0)
        finally:
            process.kill()
        if process.returncode != 130:
            raise RuntimeError(f"{words[0]} ended with status {process.returncode}")
        return moment


def measure_ways(bench: Bench, rounds: int, programs: dict[str, str], folder: Path) -> dict[str, Any]:
    """Measure every way so often, in turns."""
    ways: dict[str, Callable[[], float]] = {
        "message in the stream": bench.by_message,
        "CancelJob": bench.by_cancel_job,
        "call cancelled": bench.by_leaving,
        "connection cut": bench.by_cut,
        "deadline": bench.by_deadline,
        "Python client": bench.by_python_client,
    }
    for name, command in programs.items():
        ways[f"{name} client, Ctrl-C"] = partial(bench.by_program, command, folder)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            times[name].append(bench.measure(way))
        print(f"round {number + 1}: { ({name: round(1000 * t[-1]) for name, t in times.items()}) } ms", file=sys.stderr)
    return {
        "ms": {name: spread(values) for name, values in times.items()},
        "asked_every_ms": round(1000 * statistics.median(bench.watch.gaps), 2),
        "progress_every_ms": round(1000 * statistics.median(bench.intervals), 1),
    }


def run(
    folder: Path, rounds: int, real_rounds: int, step_ms: float, seed: int, programs: dict[str, str]
) -> dict[str, Any]:
    """Measure with stubbed compute, then with the real models in both modes."""
    result: dict[str, Any] = {}
    plans = (
        ("stub", "preserve", rounds),
        ("real models", "preserve", real_rounds),
        ("real models", "generate", real_rounds),
    )
    for kind, mode, count in plans:
        if not count:
            continue
        name = kind if kind == "stub" else f"{kind}, {mode}"
        if kind == "stub":
            server = ServerProcess(folder / "stub", devices=[f"stub:{step_ms / 1000}"], log_level="warning")
        else:
            server = ServerProcess(folder / f"real-{mode}", agent=REAL_AGENT, devices=["cpu"], log_level="warning")
        server.start(300.0)
        try:
            bench = Bench(server, mode, 0.2 if kind == "stub" else 1.0, random.Random(seed))
            try:
                chosen = programs if mode == "preserve" else {}
                result[name] = measure_ways(bench, count, chosen, folder / "out")
            finally:
                bench.close()
            server.stop()
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()
        result[name]["complaints"] = server.complaints()[:5]
    return result


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="on stubbed compute, each way")
    parser.add_argument("--real-rounds", type=int, default=5, help="with the real models, each way and mode")
    parser.add_argument("--step-ms", type=float, default=20.0, help="what a denoising step of the stub takes")
    parser.add_argument("--programs", nargs="*", default=[], metavar="NAME=COMMAND", help="clients to be interrupted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the data folders here; must not exist")
    parser.add_argument("--out", type=Path, default=RESULTS / "cancel.json")
    chosen = parser.parse_args()
    programs = dict(item.split("=", 1) for item in chosen.programs)
    with working_folder(chosen.folder) as folder:
        parts = run(folder, chosen.rounds, chosen.real_rounds, chosen.step_ms, chosen.seed, programs)
    rows = [
        (f"{kind}: {way}, ms: p50, max", f"{times['p50']}, {times['max']}")
        for kind, part in parts.items()
        for way, times in part["ms"].items()
    ]
    result = {**facts(seed=chosen.seed, stub_step_ms=chosen.step_ms), **parts}
    report("From cancel to idle device", result, rows, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
