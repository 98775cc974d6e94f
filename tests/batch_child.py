"""``smartdj`` with a fake agent, for tests that kill it: what the agent computes is written to a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from smartdj_agent import cli
from smartdj_agent.audio import Audio, audio_sha256
from smartdj_agent.events import Event, PlanReady, StepFinished
from smartdj_agent.plan import Plan
from tests.fake_agent import FakeAgent


class LoggingAgent(FakeAgent):
    """Writes a line for each plan and step that is computed, with the hash of the samples it began with."""

    def __init__(self, log: Path, slow_s: float) -> None:
        super().__init__(slow_s=slow_s)
        self.log = log

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """As the fake's."""
        for event in super().plan(audio, instruction, seed=seed):
            if isinstance(event, PlanReady):
                self._write("plan", audio)
            yield event

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """As the fake's."""
        began = audio
        for event in super().apply(audio, plan, mode=mode, seed=seed, done=done):
            if isinstance(event, StepFinished):
                self._write(f"step {event.index}", began)
                began = event.audio
            yield event

    def _write(self, what: str, audio: Audio) -> None:
        with self.log.open("a") as file:
            file.write(f"{what} {audio_sha256(audio)[:16]}\n")


def main() -> int:
    """Run the command line with this agent."""
    agent = LoggingAgent(Path(os.environ["BATCH_LOG"]), float(os.environ.get("BATCH_SLOW_S", "0")))
    cli.make_agent = lambda preset, device: agent  # type: ignore[assignment]
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
