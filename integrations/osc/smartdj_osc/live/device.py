"""Where the engine's blocks go: a sound card (PortAudio), nowhere but in real time, or into memory.

Python in an audio callback has three enemies: the garbage collector of other threads, the interpreter's lock, and the
scheduler. `quiet_interpreter` deals with the first two for as long as a device runs: what is loaded is frozen, so that
a collection looks at new objects only, and a thread that computes in Python gives the interpreter away after half a
millisecond instead of five. Against the third there are device buffers, and ranks where the system gives them: the null
device asks for a real-time one, as a sound card's thread has, and all threads get the one that PipeWire takes. The
callback waits for whoever has the interpreter's lock, so it is no use that it alone is urgent. Compute belongs into
another process, one that was started before or lowers its own rank.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType
from typing import Any, Protocol, Self

import numpy as np

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_osc.live.engine import LiveEngine

DEFAULT_BLOCK = 512
MAX_BLOCK = 1 << 16

_KEPT_DELAYS = 1 << 16
_SWITCH_S = 0.0005
_THRESHOLDS = (700, 5, 10)
"""Collections small and often: the time of one is what counts here, not of all (10,000 objects at a time: 17 ms)."""

_NICE = -11

_ranks: dict[int, int] = {}
_quiet_depth = 0
_quiet_lock = threading.Lock()
_loud: tuple[float, tuple[int, int, int]] = (0.005, (700, 10, 10))


class Device(Protocol):
    """Something that calls `LiveEngine.process`, or renders, block by block."""

    name: str

    @property
    def latency_s(self) -> float:
        """Seconds between the callback and the ear."""
        ...

    @property
    def running(self) -> bool:
        """Whether it calls."""
        ...

    def start(self) -> None:
        """Begin; nothing where it runs."""
        ...

    def stop(self) -> None:
        """End, and wait for the last callback; nothing where it doesn't run."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Running:
    """Start and stop by `with`."""

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def quiet_interpreter() -> Iterator[None]:
    """Keep collector and interpreter lock out of the callback's way while it lasts; may be nested.

    Call it when everything heavy is imported: what is there then is frozen (no collection looks at it until the last
    one leaves).
    """
    _hush()
    try:
        yield
    finally:
        _unhush()


def freeze_loaded() -> None:
    """Keep the collector away from what was loaded while a device runs (networks: a second's pause); takes no time."""
    with _quiet_lock:
        if _quiet_depth:
            gc.freeze()


def _hush() -> None:
    global _quiet_depth, _loud
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth > 1:
            return
        _loud = sys.getswitchinterval(), gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.collect()  # of nothing: sets what later collections measure growth by
        gc.set_threshold(*_THRESHOLDS)
        sys.setswitchinterval(_SWITCH_S)
        _raise_ranks()


def _unhush() -> None:
    global _quiet_depth
    with _quiet_lock:
        _quiet_depth -= 1
        if _quiet_depth:
            return
        _lower_ranks()
        gc.unfreeze()
        gc.set_threshold(*_loud[1])
        sys.setswitchinterval(_loud[0])


class NullDevice(_Running):
    """A sound card without sound: a thread that wants a block whenever one would have been played, and counts misses.

    It holds `periods` blocks like a card's buffer. One is played in each block's time; the thread fills up what is
    free. Where the next block isn't there when its turn comes, that is an underrun, and time goes on from there as a
    card's does.

    Parameters
    ----------
    engine
        What is rendered.
    block
        Frames per block, 1 to `MAX_BLOCK`.
    periods
        Blocks in the buffer, at least 2.
    source
        What is recorded: (first frame, frames) to (frames, channels) float32; None without an input.
    urgent
        Whether to ask the system for a real-time rank (Linux; needs the right to); `urgent` says whether it was given.
    """

    name = "null"

    def __init__(
        self,
        engine: LiveEngine,
        block: int = DEFAULT_BLOCK,
        *,
        periods: int = 3,
        source: Callable[[int, int], np.ndarray] | None = None,
        urgent: bool = True,
    ) -> None:
        _check_block(block)
        if periods < 2:
            raise ValueError(f"a device needs 2 periods or more, got {periods}")
        self.engine = engine
        self.block = block
        self.periods = periods
        self.urgent = False
        self._asks = urgent
        self._source = source
        self._thread: threading.Thread | None = None
        self._leave = threading.Event()
        self._delays_s = np.zeros(_KEPT_DELAYS)
        self._delays = 0

    def delays_ms(self) -> np.ndarray:
        """How long after the device asked for a block it had it, milliseconds, of the last 65,536; in no order.

        That is the callback's time and the time it waited for the processor and the interpreter's lock.
        """
        return self._delays_s[min(self.periods, self._delays) : min(self._delays + 1, _KEPT_DELAYS)] * 1e3

    @property
    def latency_s(self) -> float:
        """A full buffer: what is rendered now is heard when all before it is."""
        return self.block * (self.periods - 1) / self.engine.sample_rate

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None

    def start(self) -> None:
        """Begin; nothing where it runs."""
        if self._thread is not None:
            return
        _hush()
        self._leave.clear()
        self._thread = threading.Thread(target=self._run, name="null audio", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for the last callback."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._leave.set()
        thread.join()
        _unhush()

    def _run(self) -> None:
        self.urgent = self._asks and _be_urgent()
        engine, block = self.engine, self.block
        rate = engine.sample_rate
        length_s = block / rate
        out = np.zeros((block, engine.channels), np.float32)
        leave = self._leave
        # The buffer is full at the beginning; block k must be there when k blocks have been played.
        zero_s = time.monotonic()
        for _ in range(self.periods):
            self._call(out)
        number = self.periods
        while not leave.is_set():
            # There is room for block `number` when block `number − periods` has been played.
            free_s = zero_s + (number - self.periods + 1) * length_s
            wait_s = free_s - time.monotonic()
            if wait_s > 0:
                time.sleep(wait_s)
            self._call(out)
            done_s = time.monotonic()
            self._delays_s[number % _KEPT_DELAYS] = done_s - free_s
            self._delays = number
            late_s = done_s - (zero_s + number * length_s)
            if late_s > 0:
                engine.count_underruns(1 + int(late_s / length_s))
                zero_s += late_s  # silence was played in between
            number += 1

    def _call(self, out: np.ndarray) -> None:
        recorded = None
        if self._source is not None:
            recorded = self._source(self.engine.frame, self.block)
        self.engine.process(
            out, recorded, latency_s=self.latency_s, input_latency_s=self.block / self.engine.sample_rate
        )


class OfflineDevice(_Running):
    """Blocks into memory, as fast as asked for; for tests and for writing what would have been heard.

    Parameters
    ----------
    engine
        What is rendered.
    block
        Frames per block, 1 to `MAX_BLOCK`.
    """

    name = "offline"
    latency_s = 0.0

    def __init__(self, engine: LiveEngine, block: int = DEFAULT_BLOCK) -> None:
        _check_block(block)
        self.engine = engine
        self.block = block
        self.running = False

    def start(self) -> None:
        """Begin: nothing, as every `run` is asked for."""
        self.running = True

    def stop(self) -> None:
        """End: nothing."""
        self.running = False

    def run(self, frames: int, recorded: np.ndarray | None = None) -> np.ndarray:
        """Render.

        Parameters
        ----------
        frames
            How many; the last block is shorter where they are no multiple of the block.
        recorded
            (frames, channels) float32 at the input meanwhile, or None.

        Returns
        -------
        np.ndarray
            (frames, channels) float32.
        """
        out = np.zeros((frames, self.engine.channels), np.float32)
        for start in range(0, frames, self.block):
            stop = min(start + self.block, frames)
            self.engine.process(
                out[start:stop],
                None if recorded is None else recorded[start:stop],
                now_s=math.nan,
            )
        return out


class SoundCard(_Running):
    """A sound card, through PortAudio.

    Parameters
    ----------
    engine
        What is rendered; its sample rate and channels are asked of the card.
    device
        Name (or part of it) or number, as `python -m sounddevice` lists them; empty for the system's choice.
    block
        Frames per block; 0 lets PortAudio choose.
    input_device
        What is recorded, or None; empty for the system's choice.
    latency
        ``low``, ``high``, or seconds.
    portaudio
        The module `sounddevice`, or what stands in for it in tests; imported unless given.

    Raises
    ------
    SmartDJError
        DEVICE_UNAVAILABLE where PortAudio is missing, or the card, or it can't play that way; STEP_RANGE.
    """

    def __init__(
        self,
        engine: LiveEngine,
        device: str = "",
        *,
        block: int = DEFAULT_BLOCK,
        input_device: str | None = None,
        latency: str | float = "high",
        portaudio: Any = None,
    ) -> None:
        if block:
            _check_block(block)
        self.engine = engine
        self._portaudio = portaudio if portaudio is not None else load_portaudio()
        self._stream: Any = None
        self._records = input_device is not None
        self.name = device or "default"
        self._options: dict[str, Any] = {
            "samplerate": engine.sample_rate,
            "blocksize": block,
            "dtype": "float32",
            "latency": latency,
        }
        if input_device is None:
            self._options |= {"device": _identified(device), "channels": engine.channels}
        else:
            self._options |= {
                "device": (_identified(input_device), _identified(device)),
                "channels": (engine.recording.channels, engine.channels),
            }
        self._out_latency_s = 0.0
        self._in_latency_s = 0.0

    @property
    def latency_s(self) -> float:
        """What the card says; 0 before it runs."""
        return self._out_latency_s

    @property
    def running(self) -> bool:
        """Whether it calls; False too where the card was pulled out."""
        return self._stream is not None and bool(self._stream.active)

    def start(self) -> None:
        """Open the card and begin; nothing where it runs.

        Raises
        ------
        SmartDJError
            DEVICE_UNAVAILABLE.
        """
        if self._stream is not None:
            if self.running:
                return
            self.stop()
        module = self._portaudio
        try:
            if self._records:
                stream = module.Stream(callback=self._duplex, **self._options)
                self._in_latency_s, self._out_latency_s = stream.latency
            else:
                stream = module.OutputStream(callback=self._output, **self._options)
                self._out_latency_s = stream.latency
        except (module.PortAudioError, ValueError) as error:
            raise self._unavailable(error) from error
        _hush()
        try:
            stream.start()
        except module.PortAudioError as error:
            _unhush()
            stream.close()
            raise self._unavailable(error) from error
        self._stream = stream

    def stop(self) -> None:
        """End, and close the card."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            with contextlib.suppress(self._portaudio.PortAudioError):  # it was pulled out
                stream.stop()
            stream.close()
        finally:
            _unhush()

    def _output(self, out: np.ndarray, frames: int, when: Any, flags: Any) -> None:
        if flags and flags.output_underflow:
            self.engine.count_underruns()
        self.engine.process(out, latency_s=self._out_latency_s)

    def _duplex(self, recorded: np.ndarray, out: np.ndarray, frames: int, when: Any, flags: Any) -> None:
        if flags:
            if flags.output_underflow:
                self.engine.count_underruns()
            if flags.input_overflow:
                self.engine.recording.overruns += 1
        self.engine.process(out, recorded, latency_s=self._out_latency_s, input_latency_s=self._in_latency_s)

    def _unavailable(self, error: Exception) -> SmartDJError:
        names = _device_names(self._portaudio)
        hint = f"devices here: {', '.join(names)}" if names else "PortAudio finds no device here; use --audio null"
        reason = " ".join(str(error).split())
        return SmartDJError(
            ErrorCode.DEVICE_UNAVAILABLE,
            f"the audio device {self.name!r} can't be opened: {reason}",
            hint,
            field="audio",
        )


def load_portaudio() -> ModuleType:
    """The module `sounddevice`, with PortAudio loaded.

    Raises
    ------
    SmartDJError
        DEVICE_UNAVAILABLE where either is missing.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise SmartDJError(
            ErrorCode.DEVICE_UNAVAILABLE,
            "the Python package sounddevice is not installed",
            "pip install sounddevice, or use --audio null or --audio none",
            field="audio",
        ) from error
    except OSError as error:  # what sounddevice raises where it finds no PortAudio
        raise SmartDJError(
            ErrorCode.DEVICE_UNAVAILABLE,
            "the PortAudio library is not installed",
            "Debian, Ubuntu: apt-get install libportaudio2; Fedora: dnf install portaudio; or use --audio null or "
            "--audio none",
            field="audio",
        ) from error
    loaded: ModuleType = sounddevice
    return loaded


def open_device(
    name: str, engine: LiveEngine, *, block: int = DEFAULT_BLOCK, input_device: str | None = None
) -> Device:
    """The device of a name: ``null``, or a sound card's. It isn't started yet.

    Parameters
    ----------
    name
        ``null``, ``default``, or what `SoundCard` takes.
    engine
        What is rendered.
    block
        Frames per block.
    input_device
        What is recorded, or None; ``default`` for the system's choice. The null device records nothing.

    Raises
    ------
    SmartDJError
        As `SoundCard`.
    """
    if name == "null":
        return NullDevice(engine, block)
    chosen = None if input_device is None else _unless_default(input_device)
    return SoundCard(engine, _unless_default(name), block=block, input_device=chosen)


def _unless_default(name: str) -> str:
    return "" if name == "default" else name


def _identified(device: str) -> str | int | None:
    return int(device) if device.isdecimal() else device or None


def _device_names(module: Any) -> list[str]:
    try:
        return [str(device["name"]) for device in module.query_devices() if device["max_output_channels"] > 0]
    except Exception:  # it is asked while another error is being told
        return []


def _check_block(block: int) -> None:
    if not 1 <= block <= MAX_BLOCK:
        raise SmartDJError(
            ErrorCode.STEP_RANGE, f"blocks of {block} frames can't be had", f"use 1 to {MAX_BLOCK}", field="block"
        )


def _be_urgent() -> bool:
    """Ask for the first-come-first-served real-time rank for this thread; says whether it was given."""
    if not hasattr(os, "sched_setscheduler"):
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except (OSError, AttributeError):
        return False
    return True


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:  # not Linux
        return []


def _raise_ranks() -> None:
    """Give all threads a higher rank, where the system lets us; threads that they start inherit it."""
    _ranks.clear()
    for thread in _threads():
        with contextlib.suppress(OSError):  # no right to, or the thread has ended
            before = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, _NICE)
            _ranks[thread] = before


def _lower_ranks() -> None:
    if not _ranks:
        return
    usual = _ranks.get(os.getpid(), 0)  # for threads that began meanwhile
    for thread in _threads():
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, _ranks.get(thread, usual))
    _ranks.clear()
