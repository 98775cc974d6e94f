"""Devices: the null device in real time, memory, and a sound card's shell in front of a stand-in for PortAudio."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from smartdj_osc.live.device import (
    MAX_BLOCK,
    NullDevice,
    OfflineDevice,
    SoundCard,
    freeze_loaded,
    load_portaudio,
    open_device,
    quiet_interpreter,
)
from smartdj_osc.live.engine import LiveEngine

from smartdj_agent.audio import Audio
from smartdj_agent.errors import ErrorCode, SmartDJError

RATE = 48_000


class Watched(LiveEngine):
    """Says when it has been called so often; may take its time."""

    def __init__(self, calls: int, slow_s: float = 0.0) -> None:
        super().__init__(RATE, 2, capture_s=5.0)
        self.left = calls
        self.slow_s = slow_s
        self.reached = threading.Event()
        self.threads: set[int] = set()
        self.first_s = 0.0

    def process(self, out: np.ndarray, recorded: np.ndarray | None = None, **times: Any) -> None:
        self.first_s = self.first_s or time.monotonic()
        super().process(out, recorded, **times)
        self.threads.add(threading.get_ident())
        self.left -= 1
        if self.left == 0:
            self.reached.set()
        if self.slow_s and self.left % 10 == 0:
            time.sleep(self.slow_s)


def noise(frames: int) -> Audio:
    return Audio(np.random.default_rng(0).standard_normal((2, frames)).astype(np.float32) * 0.1, RATE)


def test_the_null_device_plays_in_real_time() -> None:
    engine = Watched(94)  # a second of blocks
    engine.prepare("a", noise(10_000))
    device = NullDevice(engine, 512, periods=3)
    began = time.monotonic()
    with device:
        assert device.running
        engine.play("a", at="beat")
        assert engine.reached.wait(20.0)
        frame = engine.frame
        now = time.monotonic()
    assert not device.running
    assert frame <= (now - began) * RATE + 3 * 512  # never ahead of time by more than its buffer
    status = engine.status()
    assert status.frame == status.blocks * 512
    # What time has gone by was played, or missed and counted.
    assert (status.blocks + status.underruns + 1) * 512 >= (now - engine.first_s) * RATE
    assert (status.playing, status.faults) == ("a", 0)
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads
    assert device.delays_ms().size == status.blocks - 3


def test_a_slow_callback_is_an_underrun_and_late() -> None:
    engine = Watched(25, slow_s=0.1)
    with NullDevice(engine, 512, periods=2):
        assert engine.reached.wait(20.0)
    # Twice 100 ms where 21 are in the buffer: at least 7 blocks each time.
    assert engine.status().underruns >= 14


def test_blocks_that_take_longer_than_they_last_are_late(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LiveEngine(RATE)
    ticks = iter(range(0, 100_000_000_000, 20_000_000))  # each look at the clock is 20 ms later
    monkeypatch.setattr("smartdj_osc.live.engine.time", SimpleNamespace(
        perf_counter_ns=lambda: next(ticks), monotonic=lambda: 0.0
    ))  # fmt: skip
    OfflineDevice(engine, 512).run(512 * 5)
    assert engine.status().late == 5
    assert engine.status().callback_max_ms == 20.0
    OfflineDevice(engine, 1_024).run(1_024)  # 21 ms long
    assert engine.status().late == 5


def test_the_null_device_records_what_its_source_gives() -> None:
    engine = Watched(30)
    asked: list[int] = []

    def source(frame: int, frames: int) -> np.ndarray:
        asked.append(frame)
        return np.repeat(np.arange(frame, frame + frames, dtype=np.float32)[:, None], 2, axis=1)

    with NullDevice(engine, 256, source=source):
        assert engine.reached.wait(20.0)
    assert asked == list(range(0, len(asked) * 256, 256))
    samples = engine.capture(seconds=5.0).samples
    assert np.array_equal(samples[0], np.arange(len(asked) * 256))


def test_it_goes_on_after_a_stop() -> None:
    engine = Watched(5)
    device = NullDevice(engine, 64)
    device.stop()
    device.start()
    device.start()
    assert engine.reached.wait(20.0)
    device.stop()
    device.stop()
    engine.left, frame = 5, engine.frame
    engine.reached.clear()
    with device:
        assert engine.reached.wait(20.0)
    assert engine.frame > frame
    assert len(engine.threads) in (1, 2)  # thread numbers may be used again


def test_now_runs_with_the_device() -> None:
    engine = Watched(10)
    with NullDevice(engine, 512):
        assert engine.reached.wait(20.0)
        first = engine.now()
        engine.left = 10
        engine.reached.clear()
        assert engine.reached.wait(20.0)
        assert engine.now() > first


def test_the_interpreter_is_quiet_while_a_device_runs_and_loud_again_after() -> None:
    before = (sys.getswitchinterval(), gc.get_threshold(), os.getpriority(os.PRIO_PROCESS, 0))
    engine = Watched(3)
    with NullDevice(engine), quiet_interpreter():
        assert engine.reached.wait(20.0)
        assert sys.getswitchinterval() < 0.001
        assert gc.get_freeze_count() > 1_000
        assert gc.get_threshold() != before[1]
        assert os.getpriority(os.PRIO_PROCESS, 0) <= before[2]
        frozen = gc.get_freeze_count()
        kept = [[] for _ in range(500)]
        freeze_loaded()
        assert gc.get_freeze_count() >= frozen + len(kept)
    assert (sys.getswitchinterval(), gc.get_threshold(), os.getpriority(os.PRIO_PROCESS, 0)) == before
    assert gc.get_freeze_count() == 0
    freeze_loaded()
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("block", [0, -1, MAX_BLOCK + 1])
def test_impossible_blocks_are_refused(block: int) -> None:
    for make in (NullDevice, OfflineDevice):
        with pytest.raises(SmartDJError) as refused:
            make(LiveEngine(), block)
        assert (refused.value.code, refused.value.field) == (ErrorCode.STEP_RANGE, "block")


def test_the_offline_device_gives_exactly_what_is_asked_for() -> None:
    engine = LiveEngine(RATE)
    sound = noise(1_000)
    engine.prepare("a", sound)
    engine.play("a", at="now")
    recorded = np.repeat(np.arange(1_001, dtype=np.float32)[:, None], 2, axis=1)
    with OfflineDevice(engine, 300) as device:
        out = device.run(1_001, recorded)
    assert out.shape == (1_001, 2)
    assert np.array_equal(out[100:1_000], sound.samples.T[100:])
    assert np.array_equal(engine.capture(seconds=1.0).samples.T, recorded)
    assert engine.now() == engine.frame / RATE == 1_001 / RATE


@pytest.mark.parametrize(("module", "said", "hint"), [
    ("raise OSError('PortAudio library not found')", "PortAudio library is not installed", "libportaudio2"),
    ("raise ImportError('no')", "sounddevice is not installed", "pip install sounddevice"),
])  # fmt: skip
def test_missing_portaudio_is_said_with_what_to_do(
    module: str, said: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sounddevice.py").write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    for call in (load_portaudio, lambda: open_device("default", LiveEngine())):
        with pytest.raises(SmartDJError, match=said) as missing:
            call()
        assert missing.value.code is ErrorCode.DEVICE_UNAVAILABLE
        assert hint in missing.value.hint
        assert "null" in missing.value.hint


class PortAudioError(Exception):
    """As sounddevice's."""


class FakePortAudio:
    """What `SoundCard` uses of sounddevice."""

    PortAudioError = PortAudioError

    def __init__(self, refusal: Exception | None = None, refuses_start: bool = False) -> None:
        self.refusal = refusal
        self.refuses_start = refuses_start
        self.opened: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.active = False

    def _open(self, **options: Any) -> FakePortAudio:
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(options)
        self.latency: Any = (0.01, 0.02) if isinstance(options["channels"], tuple) else 0.02
        return self

    Stream = OutputStream = _open

    def start(self) -> None:
        self.log.append("start")
        if self.refuses_start:
            raise PortAudioError("device is busy")
        self.active = True

    def stop(self) -> None:
        self.log.append("stop")
        if not self.active:
            raise PortAudioError("stream is gone")
        self.active = False

    def close(self) -> None:
        self.log.append("close")

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            {"name": "Speakers", "max_output_channels": 2},
            {"name": "Microphone", "max_output_channels": 0},
        ]


NO_FLAGS = SimpleNamespace(output_underflow=False, input_overflow=False)


def test_a_sound_card_is_opened_as_asked_and_fed() -> None:
    engine = LiveEngine(44_100)
    engine.prepare("a", Audio(noise(5_000).samples, 44_100))
    card = FakePortAudio()
    with SoundCard(engine, "Speak", block=256, portaudio=card) as device:
        (options,) = card.opened
        assert {name: options[name] for name in ("samplerate", "blocksize", "dtype", "channels", "device")} == {
            "samplerate": 44_100, "blocksize": 256, "dtype": "float32", "channels": 2, "device": "Speak",
        }  # fmt: skip
        assert (device.running, device.latency_s) == (True, 0.02)
        engine.play("a", at="now")
        out = np.full((256, 2), np.nan, np.float32)
        options["callback"](out, 256, None, NO_FLAGS)
        assert out[100:].any()
        assert np.isfinite(out).all()
        options["callback"](out, 256, None, SimpleNamespace(output_underflow=True))
        device.start()
        assert len(card.opened) == 1
    assert card.log == ["start", "stop", "close"]
    assert engine.status().underruns == 1
    assert not device.running


def test_a_sound_card_records_and_counts_what_it_loses() -> None:
    engine = LiveEngine(RATE, capture_channels=1)
    card = FakePortAudio()
    with SoundCard(engine, "3", input_device="", portaudio=card):
        (options,) = card.opened
        assert (options["device"], options["channels"]) == ((None, 3), (1, 2))
        out = np.zeros((512, 2), np.float32)
        heard = np.arange(512, dtype=np.float32)[:, None]
        options["callback"](heard, out, 512, None, NO_FLAGS)
        options["callback"](heard, out, 512, None, SimpleNamespace(output_underflow=True, input_overflow=True))
    assert np.array_equal(engine.capture(seconds=1.0).samples[0], np.tile(np.arange(512), 2))
    assert (engine.status().overruns, engine.status().underruns) == (1, 1)


@pytest.mark.parametrize(
    "refusal", [PortAudioError("Invalid sample rate"), ValueError("No output device matching 'x'")]
)
def test_a_sound_card_that_can_not_be_opened_names_those_there_are(refusal: Exception) -> None:
    with pytest.raises(SmartDJError, match=str(refusal)) as refused:
        SoundCard(LiveEngine(), "x", portaudio=FakePortAudio(refusal)).start()
    assert refused.value.code is ErrorCode.DEVICE_UNAVAILABLE
    assert "Speakers" in refused.value.hint
    assert "Microphone" not in refused.value.hint


def test_a_sound_card_that_can_not_be_started_is_closed_again() -> None:
    card = FakePortAudio(refuses_start=True)
    with pytest.raises(SmartDJError, match="busy"):
        SoundCard(LiveEngine(), portaudio=card).start()
    assert card.log == ["start", "close"]
    assert gc.get_freeze_count() == 0


def test_a_sound_card_that_is_pulled_out_is_noticed_and_can_be_started_again() -> None:
    card = FakePortAudio()
    device = SoundCard(LiveEngine(), portaudio=card)
    device.start()
    card.active = False
    assert not device.running
    device.start()
    assert device.running
    device.stop()
    assert card.log == ["start", "stop", "close", "start", "stop", "close"]
    assert gc.get_freeze_count() == 0


def test_devices_by_name() -> None:
    assert isinstance(open_device("null", LiveEngine()), NullDevice)
    with pytest.raises(SmartDJError):
        open_device("null", LiveEngine(), block=0)
