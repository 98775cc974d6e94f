"""Does the sound hold while an edit computes? The callback's time and underruns, on the null device, in real time.

    python benchmarks/live_audio.py                                # ten minutes, the edit in another process
    python benchmarks/live_audio.py --load thread --seconds 60     # the edit in a thread of the same process

The null device calls like a sound card does, 48 kHz stereo, a buffer of three blocks. Meanwhile a real edit of the demo
recording (plan and apply) runs again and again, a slot is fired at every beat, another one is prepared anew every two
seconds, the last two bars of a recorded input are taken every two seconds, and the status is asked for 20 times a
second. ``callback_ms`` is what the callback took, ``asked_to_done_ms`` also the waiting for processor and interpreter.
The result goes to ``docs/osc/live_audio.json``, one entry per kind of load and device.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import sys
import threading
import time
from datetime import UTC, datetime
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "integrations" / "osc")]

from smartdj_osc.live.device import NullDevice  # noqa: E402
from smartdj_osc.live.engine import LiveEngine  # noqa: E402
from smartdj_osc.live.tempo import Tempo  # noqa: E402

from smartdj_agent.audio import Audio, read_audio  # noqa: E402

RECORDING = ROOT / "examples" / "demo.wav"
RESULT = ROOT / "docs" / "osc" / "live_audio.json"
INSTRUCTION = "make this sound like a rainy harbour"
RATE = 48_000
BPM = 120.0


def edit_for_ever(edits: Synchronized[int], ready: Any, leave: Any, threads: int) -> None:
    """Plan and edit the demo recording until told to leave; count what is finished."""
    import torch

    from smartdj_agent.agent import Agent
    from smartdj_agent.events import Finished, PlanReady

    torch.set_num_threads(threads)
    agent = Agent("small", "cpu")
    audio = read_audio(RECORDING)
    while not leave.is_set():
        plan = None
        for event in agent.plan(audio, INSTRUCTION):
            if isinstance(event, PlanReady):
                plan = event.plan
            if leave.is_set():
                return
        assert plan is not None
        for event in agent.apply(audio, plan):
            if isinstance(event, Finished):
                ready.set()  # all networks are loaded
                with edits.get_lock():
                    edits.value += 1
            if leave.is_set():
                return


class Pauses:
    """How long the garbage collector held everybody up, by generation."""

    def __init__(self) -> None:
        self.began_ns = 0
        self.ms: dict[int, list[float]] = {0: [], 1: [], 2: []}

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self.began_ns = time.perf_counter_ns()
        else:
            self.ms[info["generation"]].append((time.perf_counter_ns() - self.began_ns) / 1e6)

    def summary(self) -> dict[str, Any]:
        """Count and longest, by generation."""
        return {
            str(generation): {"count": len(ms), "max_ms": round(max(ms, default=0.0), 3)}
            for generation, ms in self.ms.items()
        }


def spread(ms: np.ndarray) -> dict[str, float]:
    """Median, 99th and 99.9th percentile, maximum."""
    named = zip(("p50", "p99", "p99.9", "max"), np.percentile(ms, (50, 99, 99.9, 100)), strict=True)
    return {name: round(float(value), 4) for name, value in named}


def hum(frame: int, frames: int) -> np.ndarray:
    """A recorded input: two tones."""
    time_s = (frame + np.arange(frames)) / RATE
    return np.stack([np.sin(2 * np.pi * hz * time_s) for hz in (110.0, 165.0)], axis=1).astype(np.float32) * 0.3


def play(engine: LiveEngine, device: NullDevice, seconds: float, quiet: bool) -> dict[str, Any]:
    """Fire, prepare, capture and ask until the time is up."""
    audio = read_audio(RECORDING)
    sounds = {
        name: Audio(audio.samples * gain, audio.sample_rate) for name, gain in (("a", 1.0), ("b", 0.5), ("c", 0.25))
    }
    for name, sound in sounds.items():
        engine.prepare(name, sound)
    pauses = Pauses()
    capture_ms: list[float] = []
    fired = captured = refused = 0
    started = 0
    with device:
        gc.callbacks.append(pauses)
        if not quiet:  # as Python is by default
            gc.unfreeze()
            gc.set_threshold(700, 10, 10)
            sys.setswitchinterval(0.005)
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        began = time.monotonic()
        next_beat = next_other = began
        while (now := time.monotonic()) < began + seconds:
            if now >= next_beat:
                engine.play("abc"[fired % 3], at="beat", position="keep" if fired % 2 else "start")
                fired += 1
                next_beat += 60.0 / BPM
            if now >= next_other:
                next_other += 2.0
                engine.prepare("abc"[fired % 3], sounds["abc"[fired % 3]])
                asked = time.perf_counter()
                try:
                    engine.capture(bars=2)
                    captured += 1
                except Exception:  # the first seconds hold no two bars
                    refused += 1
                capture_ms.append((time.perf_counter() - asked) * 1e3)
            engine.status()
            started += sum(event.kind == "started" for event in engine.events())
            time.sleep(0.05)
        status = engine.status()
        took_s = time.monotonic() - began
    gc.callbacks.remove(pauses)
    times, delays = engine.times_ms(), device.delays_ms()
    return {
        "nice": nice,
        "seconds": round(took_s, 1),
        "blocks": status.blocks,
        "underruns": status.underruns,
        "longer_than_a_block": status.late,
        "faults": status.faults,
        "callback_ms": spread(times),
        "asked_to_done_ms": spread(delays),
        "fired": fired,
        "started": started,
        "captured": captured,
        "capture_refused": refused,
        "capture_max_ms": round(max(capture_ms), 2),
        "collections": pauses.summary(),
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--periods", type=int, default=3)
    parser.add_argument("--load", choices=("process", "thread", "none"), default="process")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--not-urgent", action="store_true", help="don't ask for a real-time rank")
    parser.add_argument("--loud", action="store_true", help="leave collector and interpreter lock as Python has them")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    edits: Any = context.Value("i", 0)
    load: Any = None
    ready: Any
    leave: Any
    if given.load == "thread":
        ready, leave = threading.Event(), threading.Event()
        load = threading.Thread(target=edit_for_ever, args=(edits, ready, leave, given.threads), daemon=True)
    else:
        ready, leave = context.Event(), context.Event()
        if given.load == "process":
            load = context.Process(target=edit_for_ever, args=(edits, ready, leave, given.threads), daemon=True)
    if load is not None:
        load.start()
        while not ready.wait(1.0):
            if not load.is_alive():
                print("the edit failed", file=sys.stderr)
                return 1
    before = edits.value
    engine = LiveEngine(RATE, 2, Tempo(BPM), capture_s=30.0)
    device = NullDevice(engine, given.block, periods=given.periods, source=hum, urgent=not given.not_urgent)
    load_before = os.getloadavg()[0]
    result = play(engine, device, given.seconds, not given.loud)
    result = {
        "load": given.load,
        "block": given.block,
        "block_ms": round(given.block / RATE * 1e3, 3),
        "buffer_ms": round(given.periods * given.block / RATE * 1e3, 3),
        "real_time_rank": device.urgent,
        "nice": result.pop("nice"),
        "collector_and_lock": "as Python has them" if given.loud else "quiet",
        **result,
        "edits_meanwhile": edits.value - before,
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"numpy {np.__version__}",
        "when": datetime.now(UTC).replace(microsecond=0).isoformat(),
        "command": "python benchmarks/live_audio.py " + " ".join(sys.argv[1:]),
    }
    leave.set()
    if load is not None:
        load.join(60.0)
    print(json.dumps(result, indent=2))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    name = "-".join(
        [given.load, str(given.block), "quiet" if not given.loud else "loud", "ranked" if device.urgent else "plain"]
    )
    known = json.loads(given.output.read_text(encoding="utf-8")) if given.output.exists() else {}
    known[name] = result
    given.output.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
