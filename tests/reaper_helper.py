"""The real ``smartdj`` command line with a quick agent in place of the networks: what REAPER's scripts start in tests.

`install` writes a program that runs it. The environment says how it behaves: ``SMARTDJ_TEST_SLOW_S`` (pause per
denoising step), ``SMARTDJ_TEST_LOG`` (a file that gets a line when an agent is made, when it begins to edit, and when
its work is closed early).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def install(folder: Path, *, networks: bool = False, slow_s: float = 0.0, body: str = "") -> Path:
    """Write a program called ``smartdj`` into a folder; `body` replaces what it does by lines of shell."""
    program = folder / "smartdj"
    python = shlex.quote(sys.executable)
    start = f"exec {python} -m smartdj_agent.cli" if networks else f"exec {python} {shlex.quote(__file__)}"
    lines = [
        "#!/bin/sh",
        f"export PYTHONPATH={shlex.quote(str(ROOT))} SMARTDJ_TEST_SLOW_S={slow_s}",
        f"export SMARTDJ_TEST_LOG={shlex.quote(str(folder / 'agent.log'))}",
        body or f'{start} "$@"',
    ]
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    program.chmod(0o755)
    return program


def main() -> int:
    sys.path.insert(0, str(ROOT / "tests"))
    from smartdj_agent import cli
    from smartdj_agent.audio import Audio
    from smartdj_agent.events import Event
    from smartdj_agent.plan import Plan
    from tests.fake_agent import FakeAgent

    def note(text: str) -> None:
        with open(os.environ["SMARTDJ_TEST_LOG"], "a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    class Noted(FakeAgent):
        def apply(self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0) -> Iterator[Event]:
            note(f"apply seed {seed}")
            try:
                yield from super().apply(audio, plan, mode=mode, seed=seed)
            except (GeneratorExit, KeyboardInterrupt):
                note("closed")
                raise

    def make_agent(preset: str, device: str) -> FakeAgent:
        note("agent")
        return Noted(preset, device, slow_s=float(os.environ["SMARTDJ_TEST_SLOW_S"]))

    cli.make_agent = make_agent  # type: ignore[assignment]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
