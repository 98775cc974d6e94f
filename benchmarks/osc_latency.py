"""How soon ten controllers get their answers while an edit computes: message to reply, p50 and p99.

    python benchmarks/osc_latency.py            # our networks, in their own process, as `smartdj osc` runs them
    python benchmarks/osc_latency.py --fake     # an agent that only burns a core, in its own process
    python benchmarks/osc_latency.py --null     # and the engine plays on the null device meanwhile

Each controller subscribes and sends a message every 20 ms, in turn a ping, a fader's step/set and a step/get, and waits
for its own reply. Edits of the demo recording run one after the other all the time. Writes docs/osc/latency.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from smartdj_osc.packet import Message, decode, encode

ROOT = Path(__file__).resolve().parent.parent
RECORDING = "demo.wav"


class Controller(asyncio.DatagramProtocol):
    """A peer that measures."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiting: dict[str, float] = {}
        self.took_ms: list[float] = []
        self.states: list[str] = []
        self.foreign = 0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        now_s = time.perf_counter()
        for element in decode(data):
            message = element.message
            if message.address == "/smartdj/state":
                self.states.append(str(message.arguments[0]))
            id = str(message.arguments[0]) if message.arguments else ""
            sent_s = self.waiting.pop(id, None)
            if sent_s is not None:
                self.took_ms.append((now_s - sent_s) * 1e3)
            elif message.address == "/smartdj/pong":
                self.foreign += 1

    def send(self, address: str, *arguments: Any) -> None:
        self.transport.sendto(encode(Message(address, arguments)))


async def controllers(port: int, seconds: float, count: int) -> dict[str, Any]:
    """Be all the controllers; returns the figures."""
    loop = asyncio.get_running_loop()
    peers = []
    for number in range(count):
        _, peer = await loop.create_datagram_endpoint(
            lambda number=number: Controller(f"c{number}"), remote_addr=("127.0.0.1", port)
        )
        peers.append(peer)
    lead = peers[0]
    for peer in peers:
        peer.send("/smartdj/subscribe", "s")
    lead.send("/smartdj/source/load", "load", RECORDING)
    for text in ("turn down the volume of wind by 3 dB", "reverb the sound of man speaking", "add the sound of rain"):
        lead.send("/smartdj/step/add", "add", text)
    await asyncio.sleep(2.0)
    lead.send("/smartdj/run", "run")
    warm_until_s = time.monotonic() + 180  # the networks are being loaded
    for peer in peers:
        peer.states.clear()
    while "idle" not in lead.states and time.monotonic() < warm_until_s:
        await asyncio.sleep(0.1)
    running_s = 0.0

    async def play(peer: Controller, number: int) -> None:
        end_s = time.monotonic() + seconds
        count = 0
        await asyncio.sleep(number * 0.002)
        while time.monotonic() < end_s:
            count += 1
            id = f"{peer.name}.{count}"
            peer.waiting[id] = time.perf_counter()
            if count % 3 == 0:
                peer.send("/smartdj/ping", id)
            elif count % 3 == 1:
                peer.send("/smartdj/step/set", id, 1, "gain_db", -float(count % 20))
            else:
                peer.send("/smartdj/step/get", id, 2)
            await asyncio.sleep(0.02)

    async def keep_running() -> None:
        nonlocal running_s
        while True:
            lead.send("/smartdj/run", "again")  # refused while one runs
            began_s = time.monotonic()
            await asyncio.sleep(0.25)
            if lead.states and lead.states[-1] == "running":
                running_s += time.monotonic() - began_s

    for peer in peers:
        peer.took_ms.clear()
    keeper = asyncio.create_task(keep_running())
    await asyncio.gather(*(play(peer, number) for number, peer in enumerate(peers)))
    keeper.cancel()
    await asyncio.sleep(1.0)
    lead.send("/smartdj/cancel")
    took_ms = np.array([value for peer in peers for value in peer.took_ms])
    return {
        "controllers": count,
        "seconds": seconds,
        "seconds_an_edit_ran": round(running_s, 1),
        "replies": int(took_ms.size),
        "lost": sum(len(peer.waiting) for peer in peers),
        "replies_meant_for_others": sum(peer.foreign for peer in peers),
        "p50_ms": round(float(np.percentile(took_ms, 50)), 3),
        "p99_ms": round(float(np.percentile(took_ms, 99)), 3),
        "max_ms": round(float(took_ms.max()), 3),
    }


def client(port: int, seconds: float, count: int, out: Any) -> None:
    """The controllers' own process, so that they don't slow the server down."""
    out.send(asyncio.run(controllers(port, seconds, count)))


class BusyAgent:
    """Burns one core, a denoising step of 50 ms after the other."""

    def plan(self, audio: Any, instruction: str, *, seed: int = 0) -> Any:
        raise NotImplementedError

    def apply(self, audio: Any, plan: Any, *, mode: str = "preserve", seed: int = 0) -> Any:
        """Carry out nothing, at length."""
        from smartdj_agent.events import Finished, Progress

        for number in range(200):
            until_s = time.perf_counter() + 0.05
            while time.perf_counter() < until_s:
                pass
            yield Progress(0, 1, number / 200, 1.0, 1.0, "burning")
        yield Finished(audio, plan, 10.0, 1.0)


def busy() -> BusyAgent:
    """Made in the child."""
    return BusyAgent()


async def serve(seconds: float, count: int, fake: bool, null: bool) -> dict[str, Any]:
    """Be the server while the others measure."""
    from smartdj_osc.process import ProcessAgent
    from smartdj_osc.serve import Options, serving

    factory = ("osc_latency:busy",) if fake else ("smartdj_osc.process:local_agent", "small", "auto")
    agent = ProcessAgent(*factory)
    engine: Any = None
    with contextlib.ExitStack() as stack:
        if null:
            from smartdj_osc.live.device import open_device
            from smartdj_osc.live.engine import LiveEngine

            engine = LiveEngine()
            stack.enter_context(open_device("null", engine))
        async with serving(Options(port=0, roots=(ROOT / "examples",)), agent, engine=engine) as server:
            here, there = multiprocessing.get_context("spawn").Pipe()
            process = multiprocessing.get_context("spawn").Process(
                target=client, args=(server.port, seconds, count, there)
            )
            process.start()
            result: dict[str, Any] = await asyncio.to_thread(here.recv)
            process.join()
            if engine is not None:
                status = engine.status()
                result |= {"underruns": status.underruns, "late_blocks": status.late, "blocks": status.blocks}
            counters = server.core.counters
            return result | {"dropped": counters.dropped, "malformed": counters.malformed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--controllers", type=int, default=10)
    parser.add_argument("--fake", action="store_true", help="an agent that only burns a core")
    parser.add_argument("--null", action="store_true", help="the engine runs on the null device")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "osc" / "latency.json")
    options = parser.parse_args()
    result = asyncio.run(serve(options.seconds, options.controllers, options.fake, options.null))
    result |= {
        "agent": "burns a core" if options.fake else "small",
        "sound": "null device" if options.null else "none",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
