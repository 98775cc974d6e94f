"""50,000 broken, random and hostile packets against a running OSC server: does it live, and does its memory stay flat?

    python benchmarks/osc_fuzz.py

Half are mutations of real packets, a quarter random bytes, a quarter valid packets with random arguments and patterns.
All go through the socket; after each batch a ping must be answered. Writes docs/osc/fuzz.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "integrations" / "osc"), str(ROOT / "tests")]

from fake_agent import FakeAgent  # noqa: E402
from smartdj_osc.limits import Limits  # noqa: E402
from smartdj_osc.namespace import COMMANDS  # noqa: E402
from smartdj_osc.packet import Message, bundle, decode, encode  # noqa: E402
from smartdj_osc.serve import Options, serving  # noqa: E402

from smartdj_agent import __version__  # noqa: E402

BATCH = 250


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def argument(dice: random.Random) -> Any:
    """Any argument."""
    return dice.choice(
        [
            dice.randrange(-(2**31), 2**31),
            dice.random() * 10 ** dice.randrange(-30, 30),
            float("nan"),
            "x" * dice.randrange(0, 300),
            dice.choice(["now", "bar", "plan", "enable", "gain_db", "text", "a", "../../etc/passwd", "\u2028*"]),
            True,
            False,
            None,
            dice.randbytes(dice.randrange(1, 40)),
            (1, "b", (2.0,)),
            1,
            0.0,
        ]
    )


def valid(dice: random.Random, now_s: float) -> bytes:
    """A packet that can be read."""
    address = dice.choice([*COMMANDS, *COMMANDS, "/smartdj/*", "/{a,b}*", "/*/*", "/1/fader1", "/smartdj/s[a-z]*/*"])
    packet = encode(Message(address, tuple(argument(dice) for _ in range(dice.randrange(5)))))
    if dice.random() < 0.2:
        due_s = dice.choice([None, now_s - 1, now_s + dice.random(), now_s + 1e8])
        packet = bundle([packet] * dice.randrange(1, 5), due_s)
    return packet


def hostile(dice: random.Random, now_s: float) -> bytes:
    """One packet of the mix."""
    kind = dice.random()
    if kind < 0.25:
        return dice.randbytes(dice.randrange(0, 600))
    packet = valid(dice, now_s)
    if kind < 0.5:
        return packet
    mutated = bytearray(packet)
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(mutated)) if mutated else 0
        match dice.randrange(4):
            case 0:
                mutated[at : at + 1] = dice.randbytes(1)
            case 1:
                del mutated[at : at + dice.randrange(1, 9)]
            case 2:
                mutated[at:at] = dice.randbytes(dice.randrange(1, 9))
            case _:
                mutated[at : at + 4] = dice.choice([b"\xff\xff\xff\xfc", b"\0\0\0\0", b"\x7f\xff\xff\xff", b",[[["])
    return bytes(mutated)


async def pinged(peer: socket.socket, word: str) -> None:
    """Ask for a sign of life, and throw everything before it away."""
    loop = asyncio.get_running_loop()
    wanted = Message("/smartdj/pong", (word, __version__))
    while True:  # datagrams may be lost where the buffer is full
        peer.send(encode(Message("/smartdj/ping", (word,))))
        try:
            async with asyncio.timeout(1.0):
                while True:
                    message = decode(await loop.sock_recv(peer, 65_536))[0].message
                    if (message.address, message.arguments[:2]) == (wanted.address, wanted.arguments):
                        return
        except TimeoutError:
            continue


async def run(packets: int, seed: int) -> dict[str, Any]:
    """Send them all; returns the figures."""
    dice = random.Random(seed)
    faults: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(str(context["message"])))
    # Limits on rate are off, so that every packet is read.
    limits = Limits(peer_rate=1e9, peer_burst=1e9, total_rate=1e9, total_burst=1e9)
    memory: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        options = Options(port=0, roots=(Path(folder),), limits=limits)
        async with serving(options, FakeAgent()) as server:
            peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            peer.connect(("127.0.0.1", server.port))
            peer.setblocking(False)
            # Some hostile packets subscribe and send all answers elsewhere: signs of life are asked apart.
            well = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            well.connect(("127.0.0.1", server.port))
            well.setblocking(False)
            began_s = time.monotonic()
            for batch in range(packets // BATCH):
                for _ in range(BATCH):
                    with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
                        peer.send(hostile(dice, server.clock.now_s()))
                    await asyncio.sleep(0)  # the server reads it: no packet is lost in a full buffer
                await pinged(well, f"{batch:04d}")
                memory.append(resident_bytes())
            seconds = time.monotonic() - began_s
            peer.close()
            well.close()
            counters = vars(server.core.counters)
    settled = memory[len(memory) // 5 :]
    return {
        "packets_sent": packets,
        "packets_received": counters["packets"],
        "malformed": counters["malformed"],
        "unknown": counters["unknown"],
        "unhandled_exceptions": faults[:5],
        "seconds": round(seconds, 2),
        "packets_per_s": round(packets / seconds),
        "memory_after_first_fifth_mb": round(settled[0] / 1e6, 2),
        "memory_at_end_mb": round(settled[-1] / 1e6, 2),
        "memory_growth_mb": round((settled[-1] - settled[0]) / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "osc" / "fuzz.json")
    options = parser.parse_args()
    result = asyncio.run(run(options.packets, options.seed))
    result |= {"seed": options.seed, "python": platform.python_version(), "load": round(os.getloadavg()[0], 1)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["unhandled_exceptions"]))


if __name__ == "__main__":
    main()
