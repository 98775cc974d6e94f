"""The running OSC server on loopback, and foreign peers that drive it: liblo and Pure Data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_agent import FakeAgent
from smartdj_osc import monitor as monitor_room
from smartdj_osc.cli import osc_app
from smartdj_osc.live.engine import LiveEngine
from smartdj_osc.loudness import integrated_lufs
from smartdj_osc.mapping import Mapping, Rule, read_mapping
from smartdj_osc.namespace import COMMANDS, markdown
from smartdj_osc.packet import Message, bundle, decode, encode
from smartdj_osc.process import ProcessAgent
from smartdj_osc.serve import Options, OscServer, serving
from smartdj_osc.slip import SlipDecoder, frame
from smartdj_osc.transport import Gate
from typer.testing import CliRunner

from smartdj_agent.audio import Audio, AudioFormat, read_audio, write_audio
from smartdj_agent.errors import ErrorCode, SmartDJError

PATIENCE_S = 20.0


def record(folder: Path, name: str = "walk.wav", seconds: float = 0.5) -> Path:
    rate = 8000
    samples = 0.3 * np.random.default_rng(1).standard_normal((2, int(rate * seconds))).astype(np.float32).clip(-1, 1)
    write_audio(folder / name, Audio(samples, rate, AudioFormat("WAV", "FLOAT")))
    return folder / name


class Controller:
    """A UDP peer that remembers what it gets."""

    def __init__(self, server: OscServer) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]
        self.seen: list[Message] = []

    def send(self, address: str, *arguments: Any) -> None:
        self.socket.send(encode(Message(address, arguments)))

    async def until(self, address: str, *start: Any) -> Message:
        """Wait for a message that begins like this; all before it are kept in `seen`."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                data = await asyncio.get_running_loop().sock_recv(self.socket, 65_536)
                for element in decode(data):
                    message = element.message
                    self.seen.append(message)
                    if message.address == "/smartdj/error" and address != "/smartdj/error":
                        raise AssertionError(str(message))
                    if message.address == address and message.arguments[: len(start)] == start:
                        return message

    async def ask(self, address: str, *arguments: Any, back: str, start: tuple[Any, ...] = ()) -> Message:
        self.send(address, *arguments)
        return await self.until(back, *start)

    def close(self) -> None:
        self.socket.close()


@contextlib.asynccontextmanager
async def started(tmp_path: Path, agent: Any = None, **more: Any) -> AsyncIterator[tuple[OscServer, Controller]]:
    engine, mapping = more.pop("engine", None), more.pop("mapping", None)
    options = Options(port=0, roots=(tmp_path,), output=tmp_path / "out", **more)
    async with serving(options, agent or FakeAgent(), engine=engine, mapping=mapping) as server:
        controller = Controller(server)
        try:
            yield server, controller
        finally:
            controller.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * PATIENCE_S):
            await main()

    asyncio.run(bounded())


# --- a whole edit -----------------------------------------------------------------------------------------------------


async def edit(controller: Controller, path: str = "walk.wav") -> str:
    await controller.ask("/smartdj/source/load", "l", path, back="/smartdj/source", start=("l",))
    await controller.ask("/smartdj/plan", "p", "calm it", back="/smartdj/plan/end", start=("p",))
    await controller.ask("/smartdj/step/set", "s", 2, "enable", 0, back="/smartdj/plan/step", start=("s",))
    done = await controller.ask("/smartdj/run", "r", back="/smartdj/done", start=("r",))
    return str(done.arguments[1])


def test_a_whole_edit_by_udp(tmp_path: Path) -> None:
    path = record(tmp_path)

    async def main() -> None:
        async with started(tmp_path) as (_, controller):
            result = read_audio(await edit(controller, str(path)))
            assert result.n_samples == 4000
            source = read_audio(path)
            assert np.array_equal(result.samples[:, :1000], source.samples[:, :1000])
            assert not np.array_equal(result.samples, source.samples)
            steps = [message for message in controller.seen if message.address == "/smartdj/step/done"]
            assert [message.arguments[1] for message in steps] == [1, 3]
            assert all(Path(str(message.arguments[2])).is_file() for message in steps)
            assert all(-40 < float(message.arguments[3]) < 0 for message in steps)  # type: ignore[arg-type]

    run(main)


def test_a_whole_edit_by_tcp_in_small_pieces(tmp_path: Path) -> None:
    record(tmp_path)

    async def main() -> None:
        async with started(tmp_path, tcp=True) as (server, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            decoder = SlipDecoder(8192)
            waiting: list[Message] = []

            async def until(address: str, id: str) -> Message:
                while True:
                    while waiting:
                        message = waiting.pop(0)
                        assert message.address != "/smartdj/error", message
                        if message.address == address and message.arguments[0] == id:
                            return message
                    for packet in decoder.feed(await reader.read(7)):
                        waiting.extend(element.message for element in decode(packet))

            for address, arguments, back in (
                ("/smartdj/subscribe", ("a",), "/smartdj/subscribed"),
                ("/smartdj/source/load", ("b", "walk.wav"), "/smartdj/source"),
                ("/smartdj/plan", ("c", "calm"), "/smartdj/plan/end"),
                ("/smartdj/run", ("d",), "/smartdj/done"),
            ):
                stream = frame(encode(Message(address, arguments)))
                for at in range(0, len(stream), 5):
                    writer.write(stream[at : at + 5])
                    await writer.drain()
                answer = await until(back, str(arguments[0]))
            assert Path(str(answer.arguments[1])).is_file()
            writer.close()
            while server.core.subscribers:
                await asyncio.sleep(0.01)

    run(main)


def test_broken_frames_end_that_connection_only(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path, tcp=True) as (server, controller):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"\xc0/a\xdb\xff")
            assert await reader.read() == b""
            writer.close()
            await controller.ask("/smartdj/ping", "x", back="/smartdj/pong", start=("x",))

    run(main)


def test_cancel_stops_within_one_denoising_step_and_all_is_told(tmp_path: Path) -> None:
    record(tmp_path)
    marker = tmp_path / "closed"

    async def main() -> None:
        async with started(tmp_path, FakeAgent(slow_s=0.05, closed_marker=marker)) as (server, controller):
            other = Controller(server)
            await other.ask("/smartdj/subscribe", back="/smartdj/subscribed")
            await controller.ask("/smartdj/source/load", "walk.wav", back="/smartdj/source")
            await controller.ask("/smartdj/plan", "calm", back="/smartdj/plan/end")
            await controller.ask("/smartdj/run", "r", back="/smartdj/ack", start=("r",))
            await other.until("/smartdj/progress", "r", 1)
            other.send("/smartdj/cancel")
            error = await controller.until("/smartdj/error")
            assert error.arguments[:2] == ("r", "CANCELLED")
            assert (await other.until("/smartdj/error")).arguments[:2] == ("r", "CANCELLED")
            assert marker.exists()
            assert server.core.state == "idle"
            other.close()

    run(main)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("missing.wav", "NOT_FOUND"),
        ("/etc/passwd", "PERMISSION_DENIED"),
        ("../../etc/passwd", "PERMISSION_DENIED"),
        ("link.wav", "PERMISSION_DENIED"),
        ("note.txt", "INVALID_ARGUMENT"),
    ],
)
def test_only_recordings_below_an_allowed_folder(tmp_path: Path, path: str, code: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.wav").symlink_to(record(tmp_path))
    (root / "note.txt").write_text("no sound")

    async def main() -> None:
        async with started(root) as (_, controller):
            error = await controller.ask("/smartdj/source/load", "l", path, back="/smartdj/error")
            assert error.arguments[:2] == ("l", code)
            assert "smartdj-osc-" not in str(error.arguments[2])

    run(main)


def test_without_allowed_folders_no_file_can_be_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(Options(port=0), FakeAgent()) as server:
            controller = Controller(server)
            error = await controller.ask("/smartdj/source/load", "l", str(record(tmp_path)), back="/smartdj/error")
            assert error.arguments[1] == "PERMISSION_DENIED"
            controller.close()

    run(main)


@pytest.mark.parametrize(
    ("instruction", "code"), [("missing", "NOT_FOUND"), ("crash", "INTERNAL"), ("", "INVALID_ARGUMENT")]
)
def test_the_agents_errors_come_back_and_the_server_goes_on(tmp_path: Path, instruction: str, code: str) -> None:
    record(tmp_path)

    async def main() -> None:
        async with started(tmp_path) as (_, controller):
            await controller.ask("/smartdj/source/load", "walk.wav", back="/smartdj/source")
            error = await controller.ask("/smartdj/plan", "p", instruction, back="/smartdj/error")
            assert error.arguments[:2] == ("p", code)
            await controller.ask("/smartdj/plan", "q", "unclear", back="/smartdj/question", start=("q",))
            await edit(controller)

    run(main)


def test_plan_files_are_taken(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "plan.yaml").write_text("- remove the sound of cat\n- add the sound of rain\n")

    async def main() -> None:
        async with started(tmp_path) as (_, controller):
            begin = await controller.ask("/smartdj/plan/load", "f", "plan.yaml", back="/smartdj/plan/begin")
            assert begin.arguments[1] == 2
            await controller.ask("/smartdj/source/load", "walk.wav", back="/smartdj/source")
            await controller.ask("/smartdj/run", "r", back="/smartdj/done", start=("r",))

    run(main)


def test_time_tags_are_kept_while_others_are_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as (server, controller):
            due_s = server.clock.now_s() + 0.3
            controller.socket.send(bundle([encode(Message("/smartdj/ping", ("later",)))], due_s))
            await controller.ask("/smartdj/ping", "now", back="/smartdj/pong", start=("now",))
            assert server.clock.now_s() < due_s
            await controller.until("/smartdj/pong", "later")
            assert server.clock.now_s() >= due_s

    run(main)


def test_ten_controllers_at_once(tmp_path: Path) -> None:
    record(tmp_path)

    async def main() -> None:
        async with started(tmp_path) as (server, first):
            controllers = [first, *(Controller(server) for _ in range(9))]
            for number, controller in enumerate(controllers):
                await controller.ask("/smartdj/subscribe", f"c{number}", back="/smartdj/subscribed")
            await asyncio.gather(
                *(
                    controller.ask("/smartdj/ping", f"{number}", back="/smartdj/pong", start=(f"{number}",))
                    for number, controller in enumerate(controllers)
                )
            )
            path = await edit(first)
            for number, controller in enumerate(controllers):
                if controller is not first:
                    assert (await controller.until("/smartdj/done")).arguments == ("r", path)
                pongs = [message.arguments[0] for message in controller.seen if message.address == "/smartdj/pong"]
                assert pongs == [f"{number}"]
            for controller in controllers[1:]:
                controller.close()

    run(main)


# --- who is let in ----------------------------------------------------------------------------------------------------


def test_beyond_loopback_only_with_allow() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5"):
        with pytest.raises(SmartDJError) as caught:
            Gate(host, ())
        assert caught.value.code is ErrorCode.SERVER_CONFIG
    with pytest.raises(SmartDJError, match="--allow"):
        Gate("127.0.0.1", ("home",))
    gate = Gate("0.0.0.0", ("192.168.1.0/24", "fd00::/8"))
    assert [gate.admits(host) for host in ("127.0.0.1", "192.168.1.7", "::ffff:192.168.1.7", "fd00::1")] == [True] * 4
    assert [gate.admits(host) for host in ("192.168.2.7", "8.8.8.8", "fe80::1%eth0", "x")] == [False] * 4


def test_a_taken_port_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as (server, _):
            with pytest.raises(SmartDJError) as caught:
                async with serving(Options(port=server.port), FakeAgent()):
                    pass
            assert caught.value.code is ErrorCode.SERVER_CONFIG

    run(main)


# --- the stage --------------------------------------------------------------------------------------------------------


def test_slots_are_prepared_and_fired_and_the_tempo_is_set(tmp_path: Path) -> None:
    from smartdj_osc.live.device import open_device

    record(tmp_path)
    engine = LiveEngine()

    async def main() -> None:
        with open_device("null", engine):
            async with started(tmp_path, engine=engine) as (_, controller):
                await controller.ask("/smartdj/subscribe", back="/smartdj/subscribed")
                tempo = await controller.ask("/smartdj/tempo", "t", 240.0, back="/smartdj/tempo", start=("t",))
                assert tempo.arguments[1] == 240.0
                await controller.ask("/smartdj/source/load", "walk.wav", back="/smartdj/source")
                await controller.ask("/smartdj/slot/define", "pad", "calm it", back="/smartdj/slot/state")
                controller.send("/smartdj/slot/prepare", "pad", 1.0)
                await controller.until("/smartdj/slot/state", "", "pad", "ready")
                fired = await controller.ask("/smartdj/slot/fire", "f", "pad", "beat", 1.0, back="/smartdj/slot/fired")
                assert fired.arguments[:2] == ("f", "pad")
                assert 0 <= float(fired.arguments[2]) <= 0.25  # type: ignore[arg-type]
                await controller.until("/smartdj/slot/state", "f", "pad", "playing")
                assert engine.status().playing == "pad"
                await controller.ask("/smartdj/stop", back="/smartdj/playing", start=("", ""))
                late = await controller.ask("/smartdj/slot/define", "x", "late", back="/smartdj/slot/state")
                assert late.arguments[2] == "empty"
                await controller.ask("/smartdj/slot/fire", "g", "x", "now", back="/smartdj/slot/late", start=("g", "x"))
                await controller.until("/smartdj/slot/state", "g", "x", "playing")
                await controller.ask(
                    "/smartdj/play", "y", "now", "source", back="/smartdj/playing", start=("y", "source")
                )
                error = await controller.ask("/smartdj/slot/fire", "z", "nothing", back="/smartdj/error")
                assert error.arguments[:2] == ("z", "INVALID_ARGUMENT")

    run(main)


def test_the_last_bars_of_the_input_become_the_source(tmp_path: Path) -> None:
    engine = LiveEngine()
    engine.tempo.set(240.0, 0.0)
    out = np.zeros((480, 2), np.float32)
    sound = 0.1 * np.random.default_rng(2).standard_normal((480, 2)).astype(np.float32)
    for _ in range(400):
        engine.process(out, sound, now_s=float("nan"))

    async def main() -> None:
        async with started(tmp_path, engine=engine) as (_, controller):
            source = await controller.ask("/smartdj/capture", "c", 2, "bars", back="/smartdj/source", start=("c",))
            assert source.arguments[1:3] == ("last 2 bars", pytest.approx(2.0, abs=0.01))
            await controller.ask("/smartdj/plan", "p", "a rainy street", back="/smartdj/plan/end")
            await controller.ask("/smartdj/run", "r", back="/smartdj/done", start=("r",))
            error = await controller.ask("/smartdj/capture", "d", 3000, "seconds", back="/smartdj/error")
            assert error.arguments[0] == "d"

    run(main)


def test_without_sound_slots_are_files(tmp_path: Path) -> None:
    record(tmp_path)

    async def main() -> None:
        async with started(tmp_path) as (_, controller):
            await controller.ask("/smartdj/subscribe", back="/smartdj/subscribed")
            await controller.ask("/smartdj/slot/define", "a", "pad", "calm", "walk.wav", back="/smartdj/slot/state")
            file = await controller.ask("/smartdj/slot/prepare", "b", "pad", back="/smartdj/slot/file")
            assert read_audio(str(file.arguments[2])).n_samples == 4000
            error = await controller.ask("/smartdj/slot/fire", "c", "pad", back="/smartdj/error")
            assert error.arguments[:2] == ("c", "FAILED_PRECONDITION")

    run(main)


# --- the agent in a process of its own --------------------------------------------------------------------------------


def make_fake(slow_s: float) -> FakeAgent:
    """Made in the child."""
    return FakeAgent(slow_s=slow_s)


def test_an_agent_in_another_process_is_the_same_and_can_be_cancelled_and_lost(tmp_path: Path) -> None:
    audio = read_audio(record(tmp_path))
    agent = ProcessAgent("test_osc_server:make_fake", 0.05)
    try:
        *_, ready = agent.plan(audio, "calm")
        *_, here = FakeAgent().apply(audio, ready.plan)  # type: ignore[union-attr]
        events = agent.apply(audio, ready.plan)  # type: ignore[union-attr]
        next(events)
        events.close()  # type: ignore[attr-defined]
        *_, there = agent.apply(audio, ready.plan)  # type: ignore[union-attr]
        assert np.array_equal(here.audio.samples, there.audio.samples)  # type: ignore[union-attr]
        with pytest.raises(SmartDJError) as caught:
            list(agent.plan(audio, "missing"))
        assert (caught.value.code, caught.value.hint) == (ErrorCode.MODEL_MISSING, "run `smartdj models pull small`")
        events = agent.apply(audio, ready.plan)  # type: ignore[union-attr]
        next(events)
        agent._process.kill()
        with pytest.raises(SmartDJError) as caught:
            list(events)
        assert caught.value.code is ErrorCode.WORKER_CRASHED
        assert list(agent.plan(audio, "calm"))
    finally:
        agent.close()


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_loudness_of_the_standards_own_signal(rate: int) -> None:
    """BS.1770: a sine of 997 Hz at full scale in one channel has −3.01 LUFS; −23 dB in both has −23 LUFS (EBU 3341)."""
    sine = np.sin(2 * np.pi * 997 * np.arange(5 * rate) / rate)
    assert integrated_lufs(sine[np.newaxis], rate) == pytest.approx(-3.01, abs=0.05)
    both = np.stack([sine, sine]) * 10 ** (-23 / 20)
    assert integrated_lufs(both, rate) == pytest.approx(-23.0, abs=0.1)
    quiet = np.concatenate([both, np.zeros_like(both)], axis=1)
    assert integrated_lufs(quiet, rate) == pytest.approx(-23.0, abs=0.2)
    assert integrated_lufs(np.zeros((2, rate)), rate) == -70.0


# --- mapping ----------------------------------------------------------------------------------------------------------


def rule(**values: Any) -> Rule:
    return Rule.model_validate(values)


@pytest.mark.parametrize(
    ("curve", "place", "value"),
    [("linear", 0.25, -12.0), ("square", 0.5, -12.0), ("root", 0.25, 0.0), ("s", 0.5, 0.0), ("linear", 2.0, 24.0)],
)
def test_curves(curve: str, place: float, value: float) -> None:
    args = [1, "gain_db", "$value"]
    made = rule(**{"from": "/f", "to": "/smartdj/step/set", "args": args, "output": [-24, 24], "curve": curve})
    assert made.scaled(place) == pytest.approx(value)


@pytest.mark.parametrize("curve", ["linear", "square", "root", "exponential", "s"])
@pytest.mark.parametrize("output", [(20.0, 400.0), (400.0, 20.0)])
def test_curves_go_from_end_to_end_and_never_back(curve: str, output: tuple[float, float]) -> None:
    made = rule(**{"from": "/f", "to": "/smartdj/tempo", "args": ["$value"], "output": output, "curve": curve})
    values = [made.scaled(place / 100) for place in range(101)]
    assert (values[0], values[-1]) == pytest.approx(output)
    assert values == sorted(values, reverse=output[0] > output[1])


def test_midi_values_reach_commands() -> None:
    made = rule(midi={"channel": 1, "controller": 20}, to="/smartdj/step/set", args=[2, "wet", "$value"])
    assert made.translate(Message("/midi/cc", (1, 20, 127))) == Message("/smartdj/step/set", (2, "wet", 1.0))
    assert made.translate(Message("/midi/cc", (1, 21, 127))) is None
    assert made.translate(Message("/midi/cc", (2, 20, 127))) is None
    [element] = decode(b"/m\0\0,m\0\0\0\xb0\x14\x00")
    assert made.translate(element.message) == Message("/smartdj/step/set", (2, "wet", 0.0))
    pad = rule(midi={"note": 36}, to="/smartdj/slot/fire", args=["intro"])
    on, off = (
        decode(b"/m\0\0,m\0\0" + bytes((0, status, 36, velocity)))[0].message
        for status, velocity in ((0x93, 80), (0x83, 0))
    )
    assert pad.translate(on) == Message("/smartdj/slot/fire", ("intro",))
    assert pad.translate(off) == ()
    knob = rule(
        midi={"controller": 7}, to="/smartdj/step/set", args=[1, "timbre", "$value"], choices=["dark", "warm", "bright"]
    )
    assert [knob.translate(Message("/cc", (7, value))) for value in (0, 64, 127)] == [
        Message("/smartdj/step/set", (1, "timbre", word)) for word in ("dark", "warm", "bright")
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("version: 2\nmap: []", "version"),
        ("version: 1\nmap:\n  - {from: /a, to: /nothing}", "no command"),
        ("version: 1\nmap:\n  - {from: a, to: /smartdj/run}", "slash"),
        ("version: 1\nmap:\n  - {from: /smartdj/x, to: /smartdj/run}", "our own"),
        ("version: 1\nmap:\n  - {to: /smartdj/run}", "from"),
        ("version: 1\nmap:\n  - {from: /a, to: /smartdj/run, arg: [1]}", "arg"),
        ("version: 1\nmap:\n  - {from: /a, to: /smartdj/step/get}", "step is missing"),
        ("version: 1\nmap:\n  - {from: /a, to: /smartdj/tempo, args: [$value], output: [0, 100]}", "allowed is 20"),
        ("version: 1\nmap:\n  - {from: /a, to: /smartdj/tempo, args: [$value], curve: exponential}", "sign"),
        ("version: 1\nmap:\n  - {midi: {channel: 1}, to: /smartdj/run}", "one of note"),
        ("version: 1\nmap:\n  - {from: '/a[', to: /smartdj/run}", "without end"),
        ("a: [", "YAML in line"),
    ],
)
def test_wrong_mappings_are_refused_with_the_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(SmartDJError, match=re.escape(why)) as caught:
        read_mapping(path)
    assert caught.value.code is ErrorCode.SERVER_CONFIG
    assert str(path) in caught.value.message


def test_a_foreign_controller_works_as_it_is(tmp_path: Path) -> None:
    record(tmp_path)
    mapping = Mapping.model_validate(
        {
            "version": 1,
            "map": [
                {"from": "/1/fader*", "to": "/smartdj/step/set", "args": [2, "gain_db", "$value"], "output": [-24, 24]},
                {"from": "/1/push1", "to": "/smartdj/ping", "args": ["pushed"]},
                {"from": "/1/text", "to": "/smartdj/plan", "args": ["$text"]},
            ],
        }
    )

    async def main() -> None:
        async with started(tmp_path, mapping=mapping) as (_, controller):
            await controller.ask("/smartdj/source/load", "walk.wav", back="/smartdj/source")
            await controller.ask("/1/text", "calm it", back="/smartdj/plan/end")
            step = await controller.ask("/1/fader3", 0.25, back="/smartdj/plan/step")
            assert "by 12 dB" in str(step.arguments[3])
            controller.send("/1/push1", 0.0)
            await controller.ask("/1/push1", 1.0, back="/smartdj/pong", start=("pushed",))
            assert [message.address for message in controller.seen].count("/smartdj/pong") == 1
            error = await controller.ask("/2/unknown", back="/smartdj/error")
            assert error.arguments[1] == "NOT_FOUND"

    run(main)


TEMPLATES = Path(__file__).parent.parent / "integrations" / "osc" / "templates"


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.yaml")), ids=lambda path: path.name)
def test_mapping_templates_are_valid(path: Path) -> None:
    assert read_mapping(path).map


def test_reapers_template_and_its_mapping_speak_of_the_same_addresses() -> None:
    sent = re.findall(r"^[A-Z_]+ [a-z](/reaper\S+)$", (TEMPLATES / "smartdj.ReaperOSC").read_text(), re.M)
    patterns = [re.compile(address.replace("@", r"\d+")) for address in sent]
    for made in read_mapping(TEMPLATES / "reaper.yaml").map:
        assert any(pattern.fullmatch(made.source or "") for pattern in patterns), made.source


def test_layouts_are_those_that_the_script_makes_and_use_real_addresses() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("build_templates", TEMPLATES / "build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    page = (TEMPLATES / "smartdj.open-stage-control.json").read_text()
    assert page == build.open_stage_control()
    layout = (TEMPLATES / "smartdj.tosc").read_bytes()
    assert zlib.decompress(layout) == zlib.decompress(build.touch_osc())
    used = {
        *re.findall(r'"(/smartdj/[a-z/]+)"', page),
        *re.findall(r">(/smartdj/[a-z/]+)<", zlib.decompress(layout).decode()),
    }
    assert used
    assert used <= set(COMMANDS)
    [tab] = json.loads(page)["content"]["tabs"]
    assert tab["label"] == "SmartDJ"
    assert {f"step_{number}" for number in range(1, 9)} <= {widget["id"] for widget in tab["widgets"]}


def test_the_readme_shows_the_namespace_of_the_code() -> None:
    text = (TEMPLATES.parent / "README.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- namespace -->\n")[2].partition("<!-- /namespace -->")[0]
    assert shown == markdown(), "put the output of `smartdj osc namespace` between the two marks"


# --- the command line ---


def test_the_command_line_says_what_is_wrong() -> None:
    for arguments, code in (
        (["--host", "0.0.0.0"], ErrorCode.SERVER_CONFIG),
        (["--advertise"], ErrorCode.USAGE),
        (["--allowed-root", "/nowhere"], ErrorCode.USAGE),
        (["--mapping", "/nowhere.yaml"], ErrorCode.SERVER_CONFIG),
        (["--input", "mic"], ErrorCode.USAGE),
    ):
        result = CliRunner().invoke(osc_app, ["--port", "0", *arguments])
        assert isinstance(result.exception, SmartDJError), (arguments, result.output)
        assert result.exception.code is code


def test_the_command_runs_until_it_is_interrupted(tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from smartdj_osc.cli import osc_app\n"
        "osc_app(standalone_mode=False)"
    )
    command = [sys.executable, "-c", code, "--port", "0", "--audio", "null", "--tcp", "--allowed-root", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = Lines(process)
        found = re.search(r"127\.0\.0\.1:(\d+) \(UDP and TCP\), sound: null", lines.until("listening"))
        assert found is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.settimeout(PATIENCE_S)
            peer.connect(("127.0.0.1", int(found[1])))
            peer.send(encode(Message("/smartdj/ping", ("x",))))
            assert decode(peer.recv(8192))[0].message.arguments[0] == "x"
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
        assert not any("Traceback" in line for line in lines.lines)
    finally:
        process.kill()
        process.wait()


def test_the_command_line_prints_the_namespace() -> None:
    assert CliRunner().invoke(osc_app, ["namespace"]).output == markdown()


# --- OSCQuery and the monitor -----------------------------------------------------------------------------------------


def test_oscquery_describes_all_addresses(tmp_path: Path) -> None:
    async def get(port: int, target: str, method: str = "GET") -> tuple[int, Any]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), json.loads(body) if body else None

    async def main() -> None:
        async with started(tmp_path, http_port=0) as (server, _):
            assert server.http_port
            port = server.http_port
            status, info = await get(port, "/?HOST_INFO")
            assert (status, info["OSC_PORT"], info["OSC_TRANSPORT"]) == (200, server.port, "UDP")
            status, tree = await get(port, "/")
            run_node = tree["CONTENTS"]["smartdj"]["CONTENTS"]["run"]
            assert run_node["FULL_PATH"] == "/smartdj/run"
            assert run_node["RANGE"] == [{"VALS": ["preserve", "generate"]}]
            assert (await get(port, "/smartdj/state?VALUE"))[1] == {"VALUE": ["idle", "", 0.0, 0, ""]}
            assert (await get(port, "/smartdj/plan?TYPE")) == (200, {"TYPE": "si"})
            assert (await get(port, "/smartdj/run?VALUE"))[0] == 204
            assert (await get(port, "/smartdj/run?NONSENSE"))[0] == 400
            assert (await get(port, "/nothing"))[0] == 404
            assert (await get(port, "/", "POST"))[0] == 405

    run(main)


def test_the_monitor_prints_what_others_say(tmp_path: Path) -> None:
    async def main() -> None:
        async with started(tmp_path) as (server, controller):
            printed: list[str] = []
            stopping = threading.Event()
            watching = asyncio.to_thread(
                monitor_room.watch, "127.0.0.1", server.port, printed.append, stop=stopping.is_set
            )
            task = asyncio.create_task(watching)
            while not any("/smartdj/ping 'hello'" in line for line in printed):
                await controller.ask("/smartdj/ping", "hello", back="/smartdj/pong")
                await asyncio.sleep(0.02)
            stopping.set()
            await task
            assert any(f"127.0.0.1:{controller.port} →  /smartdj/ping 'hello'" in line for line in printed)

    run(main)


def test_the_monitor_says_when_nobody_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_room, "_PATIENCE_S", 0.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(SmartDJError) as caught:
        monitor_room.watch("127.0.0.1", port, print)
    assert caught.value.code is ErrorCode.SERVER_UNREACHABLE


# --- foreign peers ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_a_thread(tmp_path: Path) -> Iterator[OscServer]:
    """A server for programs that are waited for."""
    ready = threading.Event()
    held: list[Any] = []

    async def main() -> None:
        async with started(tmp_path) as (server, _):
            stop = asyncio.Event()
            held.extend([server, stop, asyncio.get_running_loop()])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield held[0]
    finally:
        held[2].call_soon_threadsafe(held[1].set)
        thread.join(PATIENCE_S)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Lines:
    """The output of a program, as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def until(self, text: str) -> str:
        with self._changed:
            found = self._changed.wait_for(lambda: [line for line in self.lines if text in line], PATIENCE_S)
        assert found, (text, self.lines)
        return str(found[0])


@pytest.mark.skipif(
    not (shutil.which("oscsend") and shutil.which("oscdump")),
    reason="liblo's tools are missing: apt install liblo-tools",
)
def test_liblo_drives_a_whole_edit(tmp_path: Path) -> None:
    record(tmp_path)
    port = free_port()
    with in_a_thread(tmp_path) as server:
        dump = subprocess.Popen(["oscdump", "-L", str(port)], stdout=subprocess.PIPE, text=True)
        try:
            lines = Lines(dump)

            def send(*words: str) -> None:
                subprocess.run(["oscsend", "localhost", str(server.port), *words], check=True, timeout=PATIENCE_S)

            while not any("/smartdj/subscribed" in line for line in lines.lines):  # until oscdump listens
                send("/smartdj/subscribe", "sii", "lo", str(port), "60")
                time.sleep(0.05)
            send("/smartdj/source/load", "ss", "l1", "walk.wav")
            lines.until('/smartdj/source ssfii "l1" "walk.wav" 0.5')
            send("/smartdj/plan", "ss", "p1", "make it calm")
            lines.until('/smartdj/plan/end s "p1"')
            assert '/smartdj/plan/step sissT "p1" 1 "remove" "remove the sound of dog barking"' in lines.until(
                "step siss"
            )
            send("/smartdj/step/set", "sisf", "s1", "1", "enable", "0")
            send("/smartdj/step/set", "sTF", "bad")
            send("/smartdj/run", "s", "r1")
            path = lines.until('/smartdj/done ss "r1"').rsplit('"', 2)[1]
            assert read_audio(path).n_samples == 4000
            assert '/smartdj/step/done sisf "r1" 2' in lines.until("/smartdj/step/done")
        finally:
            dump.kill()
            dump.wait()


def patch(port: int, messages: list[tuple[str, str, str]]) -> str:
    """A Pure Data patch that sends messages one after the other, and prints what comes back.

    Parameters
    ----------
    messages
        Address parts, type tags and values; one is sent per second.
    """
    lines = [
        "#N canvas 0 0 600 400 10;",
        "#X obj 10 10 loadbang;",
        f"#X msg 10 40 connect 127.0.0.1 {port};",
        "#X obj 10 300 netsend -u -b;",
        "#X obj 10 330 oscparse;",
        "#X obj 10 360 print GOT;",
        "#X obj 60 240 list prepend send;",
        "#X obj 60 270 list trim;",
    ]
    wires = ["#X connect 0 0 1 0;", "#X connect 1 0 2 0;", "#X connect 2 1 3 0;", "#X connect 3 0 4 0;"]
    wires += ["#X connect 5 0 6 0;", "#X connect 6 0 2 0;"]
    for number, (address, types, values) in enumerate(messages):
        index = 7 + 3 * number
        lines += [
            f"#X obj {200 + 90 * number} 40 delay {300 + 700 * number};",
            f"#X msg {200 + 90 * number} 70 {values};",
            f"#X obj {200 + 90 * number} 100 oscformat -f {types} {address};",
        ]
        wires += [f"#X connect 0 0 {index} 0;", f"#X connect {index} 0 {index + 1} 0;"]
        wires += [f"#X connect {index + 1} 0 {index + 2} 0;", f"#X connect {index + 2} 0 5 0;"]
    return "\n".join([*lines, *wires]) + "\n"


@pytest.mark.skipif(shutil.which("pd") is None, reason="Pure Data is missing: apt install puredata-core")
def test_pure_data_drives_a_whole_edit(tmp_path: Path) -> None:
    record(tmp_path)
    with in_a_thread(tmp_path) as server:
        file = tmp_path / "edit.pd"
        file.write_text(
            patch(
                server.port,
                [
                    ("smartdj subscribe", "s", "symbol pd"),
                    ("smartdj source load", "ss", "list l1 walk.wav"),
                    ("smartdj plan", "ss", "list p1 calm"),
                    ("smartdj step set", "sfsf", "list s1 1 enable 0"),
                    ("smartdj run", "sf", "list r1 1"),
                ],
            )
        )
        command = ["pd", "-nogui", "-noaudio", "-nomidi", "-stderr", "-noprefs", "-open", str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            lines = Lines(process)
            lines.until("smartdj subscribed pd 60")
            lines.until("smartdj source l1 walk.wav 0.5")
            lines.until("smartdj plan end p1")
            lines.until("smartdj step done r1 2")
            done = lines.until("smartdj done r1")
            assert read_audio(done.split()[-1]).n_samples == 4000
        finally:
            process.kill()
            process.wait()
