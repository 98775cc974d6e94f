"""How long a plan takes: loading, listening, the first step, the whole plan; by the reader and by the network.

    python benchmarks/planner_speed.py --out benchmarks/results/planner_speed.json

Each instruction is planned a few times on the demo recording by a planner that is loaded already; the recording has
been listened to, so that what is timed is the plan alone. Loading is timed in processes of their own, from the start
of Python to a planner that is ready.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from smartdj_agent.agent import Agent
from smartdj_agent.audio import read_audio
from smartdj_agent.events import Heard, Listened, PlanReady, Question, StepPlanned
from smartdj_agent.files import write_file

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ROOT / "examples" / "demo.wav"
INSTRUCTIONS = {
    "read": "turn the rain down 6 dB and move the dog to the left",
    "scene": "make this a sunny forest",
    "mixed": "turn the rain down 6 dB and make it sound like a busy harbour",
    "mood": "something eerie and cold",
    "question": "silent but very loud",
}
LOADING = """
from smartdj_agent.agent import Agent
planner = Agent().planner
planner.model, planner.vocabulary, planner.free_text, planner.is_word("a")
"""


def load_s(repeats: int) -> list[float]:
    """Seconds that a fresh process takes until the planner is ready."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", LOADING], check=True, cwd=ROOT, capture_output=True)
        seconds.append(time.perf_counter() - started)
    return seconds


def plan_s(agent: Agent, instruction: str) -> tuple[float, float, int]:
    """Seconds to the first step (or the question) and to the whole plan, and the number of steps."""
    audio = read_audio(RECORDING)
    heard: tuple[Heard, ...] = ()
    for event in agent.listen(audio):
        if isinstance(event, Listened):
            heard = event.sounds
    assert heard
    started = time.perf_counter()
    first, steps = 0.0, 0
    for event in agent.plan(audio, instruction):
        if isinstance(event, StepPlanned | Question):
            first = first or time.perf_counter() - started
            steps += isinstance(event, StepPlanned)
        elif isinstance(event, PlanReady):
            break
    return first, time.perf_counter() - started, steps


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "planner_speed.json")
    chosen = parser.parse_args()
    loading = load_s(chosen.repeats)
    agent = Agent()
    plan_s(agent, INSTRUCTIONS["scene"])  # loads and warms up
    rows = {}
    for name, instruction in INSTRUCTIONS.items():
        runs = [plan_s(agent, instruction) for _ in range(chosen.repeats)]
        rows[name] = {
            "instruction": instruction,
            "steps": runs[0][2],
            "first_s": round(statistics.median(run[0] for run in runs), 3),
            "whole_s": round(statistics.median(run[1] for run in runs), 3),
        }
    record = {
        "load_s": round(statistics.median(loading), 2),
        "plans": rows,
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    write_file(chosen.out, (json.dumps(record, indent=1) + "\n").encode(), overwrite=True)
    print(f"loading {record['load_s']} s")
    for name, row in rows.items():
        print(f"{name:9} {row['steps']} steps: first after {row['first_s']} s, whole after {row['whole_s']} s")


if __name__ == "__main__":
    main()
