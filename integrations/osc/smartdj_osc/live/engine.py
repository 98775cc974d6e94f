"""What sounds: prepared slots that are swapped at a beat, sample for sample where they belong.

Two halves. `Renderer` is pure: blocks of any size in, the same samples out whatever the size; it runs in the audio
callback, so it takes no lock, logs nothing, and allocates nothing but the small objects that calls of numpy cost.
`LiveEngine` is what other threads talk to: it prepares sounds (resampled, folded to the engine's channels), hands
commands over through a `deque` (whose append and popleft are atomic), and reads what the callback left behind.

How a swap sounds. A voice is a sound with an origin: the frame at which its first sample is due. Fades of up to 50 ms
are over at the beat, so that the attack on the one is whole (a loop is led in by its own end, a sound that plays once
by nothing); longer ones begin at the beat. A voice that still fades in when the next swap comes keeps that curve and
gets the fade out on top, so the gain of each is continuous whatever is hit. Sounds are freed by the threads that
command, never in the callback.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from smartdj_agent.audio import Audio, resample, to_stereo
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_osc.live.capture import RollingCapture
from smartdj_osc.live.tempo import Tempo

At = Literal["now", "beat", "bar"]
Curve = Literal["equal_power", "equal_gain"]
Position = Literal["start", "keep"]
EventKind = Literal["started", "stopped", "ended", "faulted"]

MAX_FADE_S = 30.0
MAX_CHANNELS = 64
_LED_IN_S = 0.05
"""Fades up to here end at the beat, longer ones begin there."""
_DECLICK_S = 0.0015
"""Shortest fade, and the one out of silence."""
_RELEASE_S = 0.02
"""Fade of a sound whose slot is cleared."""
_SEAM_S = 0.005
"""How far a seam that jumps is bent, to either side."""
_VOICES = 8
"""Voices that sound at once; where a swap needs a ninth, the fading ones are cut short first."""
_BLOCK = 1024
"""Frames that are mixed at a time."""
_NEVER = 1 << 62
_KEPT_EVENTS = 256
_KEPT_COMMANDS = 256
_KEPT_TIMES = 1 << 16
_STATUS_TIMES = 1 << 11
"""Of so many blocks the status tells; more would keep the interpreter's lock for milliseconds."""
_PIECE = 1 << 13


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound as the renderer plays it.

    Attributes
    ----------
    frames
        (n, channels) float32, at the engine's rate, C-contiguous, n at least 1.
    loop
        Whether it begins again at its end.
    """

    frames: np.ndarray
    loop: bool


@dataclass(frozen=True)
class Scheduled:
    """What was asked for.

    Attributes
    ----------
    sequence
        Counts commands from 1; the event of the swap carries it.
    slot
        What will play; empty for silence.
    at
        ``now``, ``beat`` or ``bar``.
    frame
        Where it will be, as things are: the frame of the beat at which the new sound's first sample is due. It moves
        when the tempo is changed before; `EngineEvent` says where it was.
    time_s
        The same in seconds of the engine's clock.
    """

    sequence: int
    slot: str
    at: At
    frame: int
    time_s: float


@dataclass(frozen=True)
class EngineEvent:
    """Something that happened in the callback.

    Attributes
    ----------
    kind
        ``started`` (a swap), ``stopped`` (silence was asked for, or the slot was cleared), ``ended`` (a sound that
        plays once is over), ``faulted`` (it could not be played; the rest sounds on).
    slot
        Which.
    frame
        When.
    sequence
        Of the command; 0 for what no command asked for.
    """

    kind: EventKind
    slot: str
    frame: int
    sequence: int


@dataclass(frozen=True)
class EngineStatus:
    """How things are.

    Attributes
    ----------
    playing
        Slot, empty for silence.
    position_s
        Where in its sound the next block begins, seconds; 0 for silence.
    pending
        Slot that waits for its beat; empty where none does.
    bpm, beat, bar_phase
        Of what is heard right now; `beat` counts from beat 0, `bar_phase` is 0 to 1.
    frame
        The next frame to be rendered.
    time_s
        What is heard now, seconds of the engine's clock.
    underruns
        Blocks that came too late for the device.
    late
        Blocks that took longer to render than they last.
    overruns
        How often input was lost.
    faults
        Exceptions in the callback; `last_fault` names the last one.
    blocks
        Blocks rendered.
    callback_p50_ms, callback_p99_ms, callback_max_ms
        What the callback took: of the last 2,048 blocks, the maximum of all. 0 before the first.
    """

    playing: str
    position_s: float
    pending: str
    bpm: float
    beat: float
    bar_phase: float
    frame: int
    time_s: float
    underruns: int
    late: int
    overruns: int
    faults: int
    last_fault: str
    blocks: int
    callback_p50_ms: float
    callback_p99_ms: float
    callback_max_ms: float


class _Voice:
    """A sound that sounds, or fades."""

    __slots__ = (
        "cut_length",
        "cut_start",
        "in_curve",
        "in_length",
        "in_start",
        "origin",
        "out_curve",
        "out_length",
        "out_start",
        "sequence",
        "slot",
        "sound",
    )

    def __init__(self, sound: Sound, slot: str, sequence: int, origin: int) -> None:
        self.sound = sound
        self.slot = slot
        self.sequence = sequence
        self.origin = origin
        self.in_start = origin
        self.in_length = 0
        self.in_curve: Curve = "equal_power"
        self.out_start = _NEVER
        self.out_length = 0
        self.out_curve: Curve = "equal_power"
        self.cut_start = _NEVER
        self.cut_length = 0

    @property
    def end(self) -> int:
        """The frame after its last one."""
        end = _NEVER if self.sound.loop else self.origin + self.sound.frames.shape[0]
        end = min(end, self.out_start + self.out_length)
        return min(end, self.cut_start + self.cut_length)


@dataclass(frozen=True)
class _Swap:
    sequence: int
    slot: str
    sound: Sound | None
    at: At
    fade: int
    curve: Curve
    position: Position


@dataclass(frozen=True)
class _Withdraw:
    """Forget what waits for its beat."""

    sequence: int


@dataclass(frozen=True)
class _Release:
    """Fade out whatever plays from the slot, and don't begin to."""

    sequence: int
    slot: str


class Renderer:
    """Mixes blocks. Everything but `commands` belongs to the one thread that renders.

    Parameters
    ----------
    sample_rate
        Hz.
    channels
        Of what is rendered.
    tempo
        Where the beats lie.

    Attributes
    ----------
    frame
        The next frame to be rendered.
    commands
        What others ask for; taken at the beginning of a block.
    seen
        Sequence of the last command that was taken.
    events
        What happened; others take it.
    faults, last_fault
        Exceptions that were survived, and the name of the last one.
    """

    def __init__(self, sample_rate: int, channels: int, tempo: Tempo) -> None:
        self.sample_rate = sample_rate
        self.channels = channels
        self.tempo = tempo
        self.frame = 0
        self.commands: deque[_Swap | _Release | _Withdraw] = deque(maxlen=_KEPT_COMMANDS)
        self.seen = 0
        self.events: deque[EngineEvent] = deque(maxlen=_KEPT_EVENTS)
        self.faults = 0
        self.last_fault = ""
        self.voices: list[_Voice] = []
        self.pending: _Swap | None = None
        self.led_in = round(_LED_IN_S * sample_rate)
        self.declick = max(1, round(_DECLICK_S * sample_rate))
        self.release = round(_RELEASE_S * sample_rate)
        self._earliest = 0
        self._ramp = np.arange(_BLOCK, dtype=np.float64)
        self._phase = np.zeros(_BLOCK, np.float64)
        self._shape = np.zeros(_BLOCK, np.float64)
        self._shapes = self._shape[:, None]
        # A gain for each channel: multiplying by a single column makes numpy allocate a buffer.
        self._gain = np.zeros((_BLOCK, channels), np.float32)
        self._mixed = np.zeros((_BLOCK, channels), np.float32)

    @property
    def playing(self) -> _Voice | None:
        """The voice that isn't on its way out."""
        voices = self.voices
        if voices and voices[-1].out_start == _NEVER and voices[-1].cut_start == _NEVER:
            return voices[-1]
        return None

    def render(self, out: np.ndarray) -> None:
        """Fill a block.

        Parameters
        ----------
        out
            (frames, channels) float32; overwritten.
        """
        out.fill(0.0)
        at = self.frame
        end = at + out.shape[0]
        try:
            self._take_commands()
        except Exception as error:
            self._fault(error)
        while at < end:
            try:
                swap_at = self._swap_frame(at)
                if swap_at == at:
                    self._swap(at)
                    swap_at = self._swap_frame(at)
            except Exception as error:  # a bug; the swap is given up, the old sound goes on
                self._fault(error)
                self.pending = None
                swap_at = _NEVER
            stop = min(end, max(swap_at, at + 1), at + _BLOCK)
            self._mix(out[at - self.frame : stop - self.frame], at, stop)
            at = stop
        self.frame = end
        self._bury(end)

    def _take_commands(self) -> None:
        commands = self.commands
        while commands:
            command = commands.popleft()
            if isinstance(command, _Swap):
                self.pending = command
                self._earliest = self.frame
            elif isinstance(command, _Withdraw):
                self.pending = None
            else:
                if self.pending is not None and self.pending.slot == command.slot:
                    self.pending = None
                voice = self.playing
                if voice is not None and voice.slot == command.slot:
                    self._fade_out(voice, self.frame, self.release, "equal_gain")
                    self._tell("stopped", command.slot, self.frame, command.sequence)
            self.seen = command.sequence

    def _swap_frame(self, at: int) -> int:
        """Where the pending swap begins to be heard, from `at` on; `_NEVER` where none is pending."""
        swap = self.pending
        if swap is None:
            return _NEVER
        return max(at, self._beat_and_start(swap, max(at, self._earliest))[1])

    def _beat_and_start(self, swap: _Swap, at: int) -> tuple[int, int, int]:
        """The frame a swap is due, where its fade begins, and how long it is."""
        if swap.at == "now":
            length = swap.fade if self._sounds_at(at) else min(swap.fade, self.declick)
            return at, at, length
        beat = self.tempo.grid.next_frame(swap.at, at, self.sample_rate)
        length = swap.fade
        if length <= self.led_in and not self._sounds_at(beat - length):
            length = min(length, self.declick)
        if length > self.led_in:
            return beat, beat, length
        start = beat - length
        if start < at:  # came too late for the whole fade: it is shorter, but no click
            start = at
            length = max(beat - at, min(length, self.declick))
        return beat, start, length

    def _sounds_at(self, frame: int) -> bool:
        return any(voice.end > frame and voice.in_start <= frame for voice in self.voices)

    def _swap(self, at: int) -> None:
        swap = self.pending
        assert swap is not None
        self._bury(at)
        voices = list(self.voices)
        if swap.sound is not None and len(voices) >= _VOICES:
            # All voices are taken: the fading ones are gone in an instant, then there is room.
            for voice in voices[:-1]:
                if voice.cut_start == _NEVER:
                    voice.cut_start = at
                    voice.cut_length = self.declick
            self._earliest = min(voice.end for voice in voices)
            if swap.at != "now" and self.tempo.grid.next_frame(swap.at, at, self.sample_rate) < self._earliest:
                self.pending = _Swap(swap.sequence, swap.slot, swap.sound, "now", swap.fade, swap.curve, swap.position)
            return
        beat, _, length = self._beat_and_start(swap, at)
        old = self.playing
        if swap.sound is not None:
            origin = beat
            if swap.position == "keep" and old is not None:
                # Where the old sound is at the beat, the new one is too.
                position = (beat - old.origin) % old.sound.frames.shape[0]
                if swap.sound.loop or position < swap.sound.frames.shape[0]:
                    origin = beat - position
            new = _Voice(swap.sound, swap.slot, swap.sequence, origin)
            new.in_start = at
            new.in_length = length
            new.in_curve = swap.curve
        for voice in voices:
            if voice.out_start == _NEVER:
                self._fade_out(voice, at, length, swap.curve)
        if swap.sound is not None:
            voices.append(new)
            self._tell("started", swap.slot, beat, swap.sequence)
        elif old is not None:
            self._tell("stopped", old.slot, beat, swap.sequence)
        self.voices = voices
        self.pending = None  # last: whoever frees sounds looks here first, then at the voices

    def _fade_out(self, voice: _Voice, start: int, length: int, curve: Curve) -> None:
        voice.out_start = start
        voice.out_length = length
        voice.out_curve = curve

    def _mix(self, out: np.ndarray, at: int, stop: int) -> None:
        faulty = None
        for voice in self.voices:
            try:
                self._add(voice, out, at, stop)
            except Exception as error:
                self._fault(error)
                faulty = voice
        if faulty is not None:
            self._tell("faulted", faulty.slot, at, faulty.sequence)
            self.voices = [voice for voice in self.voices if voice is not faulty]

    def _add(self, voice: _Voice, out: np.ndarray, at: int, stop: int) -> None:
        begin = max(at, voice.in_start)
        if not voice.sound.loop:
            begin = max(begin, voice.origin)
        end = min(stop, voice.end)
        if end <= begin:
            return
        frames = voice.sound.frames
        size = frames.shape[0]
        faded_in = voice.in_start + voice.in_length
        fades = begin < faded_in or end > voice.out_start or end > voice.cut_start
        mixed = self._mixed
        done = begin
        while done < end:
            position = (done - voice.origin) % size
            count = min(end - done, size - position)
            piece = frames[position : position + count]
            if fades:
                mixed[done - begin : done - begin + count] = piece
            else:
                target = out[done - at : done - at + count]
                np.add(target, piece, out=target)
            done += count
        if not fades:
            return
        if begin < faded_in:
            self._fade(begin, begin, min(end, faded_in), voice.in_start, voice.in_length, voice.in_curve, False)
        if end > voice.out_start:
            self._fade(
                begin, max(begin, voice.out_start), end, voice.out_start, voice.out_length, voice.out_curve, True
            )
        if end > voice.cut_start:
            self._fade(begin, max(begin, voice.cut_start), end, voice.cut_start, voice.cut_length, "equal_gain", True)
        target = out[begin - at : end - at]
        np.add(target, mixed[: end - begin], out=target)

    def _fade(self, zero: int, begin: int, end: int, start: int, length: int, curve: Curve, out: bool) -> None:
        """Multiply what was mixed from `begin` to `end` by a fade from `start` on; `_mixed[0]` is frame `zero`."""
        if end <= begin or length <= 0:
            return
        count = end - begin
        phase, shape, gain = self._phase[:count], self._shape[:count], self._gain[:count]
        # t of the middle of each sample, then 6t⁵ − 15t⁴ + 10t³: neither step nor kink at either end. Each sample's
        # gain depends on its frame alone, so it's the same in blocks of any size.
        np.add(self._ramp[:count], begin - start + 0.5, out=phase)
        np.multiply(phase, 1.0 / length, out=phase)
        np.multiply(phase, 6.0, out=shape)
        np.subtract(shape, 15.0, out=shape)
        np.multiply(shape, phase, out=shape)
        np.add(shape, 10.0, out=shape)
        for _ in range(3):
            np.multiply(shape, phase, out=shape)
        if out:
            np.subtract(1.0, shape, out=shape)
        if curve == "equal_power":
            np.maximum(shape, 0.0, out=shape)
            np.sqrt(shape, out=shape)
        gain[...] = self._shapes[:count]
        target = self._mixed[begin - zero : end - zero]
        np.multiply(target, gain, out=target)

    def _bury(self, now: int) -> None:
        voices = self.voices
        if all(voice.end > now for voice in voices):
            return
        for voice in voices:
            if voice.end <= now and voice.out_start == _NEVER and voice.cut_start == _NEVER:
                self._tell("ended", voice.slot, voice.end, voice.sequence)
        self.voices = [voice for voice in voices if voice.end > now]

    def _fault(self, error: Exception) -> None:
        self.faults += 1
        self.last_fault = type(error).__name__  # not the error: it would keep frames and arrays alive

    def _tell(self, kind: EventKind, slot: str, frame: int, sequence: int) -> None:
        self.events.append(EngineEvent(kind, slot, frame, sequence))


class LiveEngine:
    """What the stage talks to. Every method may be called from any thread; none waits for the audio callback.

    Parameters
    ----------
    sample_rate
        Hz; the device has the same.
    channels
        Of the output, 1 to `MAX_CHANNELS`. Sounds are stereo where it has two or more (further ones are silent), unless
        a recording has exactly as many channels itself.
    tempo
        Where the beats lie; 120 beats per minute from frame 0 unless given.
    capture_s
        How much of an input is kept, seconds.
    capture_channels
        Of the input; by default 2.

    Raises
    ------
    SmartDJError
        STEP_RANGE for rates or channels out of range.
    """

    def __init__(
        self,
        sample_rate: int = 48_000,
        channels: int = 2,
        tempo: Tempo | None = None,
        *,
        capture_s: float = 60.0,
        capture_channels: int = 2,
    ) -> None:
        if not 1_000 <= sample_rate <= 768_000:
            raise SmartDJError(
                ErrorCode.STEP_RANGE, f"{sample_rate} Hz can't be played", "use 44100 or 48000", field="sample_rate"
            )
        if not 1 <= channels <= MAX_CHANNELS or not 1 <= capture_channels <= MAX_CHANNELS:
            raise SmartDJError(
                ErrorCode.STEP_RANGE,
                f"{channels} channels out and {capture_channels} in can't be had",
                f"use 1 to {MAX_CHANNELS}",
                field="channels",
            )
        self.sample_rate = sample_rate
        self.channels = channels
        self.tempo = tempo if tempo is not None else Tempo()
        self.recording = RollingCapture(capture_s, capture_channels, sample_rate)
        self._renderer = Renderer(sample_rate, channels, self.tempo)
        self._control = threading.Lock()  # between threads that command; the callback never takes it
        self._slots: dict[str, Sound] = {}
        self._held: dict[Sound, int] = {}
        self._sequence = 0
        self._times_ns = np.zeros(_KEPT_TIMES, np.int64)
        self._blocks = 0
        self._max_ns = 0
        self._late = 0
        self._underruns = 0
        self._faults = 0
        self._last_fault = ""
        # Time of `time.monotonic` at which frame 0 would have been heard; NaN before the first block.
        self._zero_s = math.nan
        self._scratch = np.zeros((_BLOCK, channels), np.float32)

    # In the audio callback.

    def process(
        self,
        out: np.ndarray,
        recorded: np.ndarray | None = None,
        *,
        latency_s: float = 0.0,
        input_latency_s: float = 0.0,
        now_s: float | None = None,
    ) -> None:
        """One audio callback: keep what was recorded, fill what is to be played. Raises nothing.

        Parameters
        ----------
        out
            (frames, channels) float32; overwritten.
        recorded
            (frames, input channels) float32, or None without an input.
        latency_s
            Seconds until the block's first frame is heard.
        input_latency_s
            Seconds since the recorded block's first frame was at the input.
        now_s
            Time of `time.monotonic`; asked for unless given. NaN where the device has no time of its own: then the
            engine's clock stands between blocks.
        """
        began_ns = time.perf_counter_ns()
        renderer = self._renderer
        try:
            heard_s = (time.monotonic() if now_s is None else now_s) + latency_s
            zero_s = heard_s - renderer.frame / self.sample_rate
            # The callback is called now early, now late; the crystal isn't. A restart of the device is a jump.
            off = zero_s - self._zero_s
            self._zero_s = self._zero_s + 0.02 * off if abs(off) < 0.05 else zero_s
            if recorded is not None:
                behind = round((latency_s + input_latency_s) * self.sample_rate)
                self.recording.write(recorded, renderer.frame - behind)
        except Exception as error:
            self._fault(error)
        try:
            renderer.render(out)
        except Exception as error:
            self._fault(error)
            out.fill(0.0)
        took_ns = time.perf_counter_ns() - began_ns
        self._times_ns[self._blocks % _KEPT_TIMES] = took_ns
        self._blocks += 1
        if took_ns > self._max_ns:
            self._max_ns = took_ns
        if took_ns * self.sample_rate > out.shape[0] * 1_000_000_000:
            self._late += 1

    @property
    def frame(self) -> int:
        """The next frame to be rendered."""
        return self._renderer.frame

    def render(self, frames: int) -> np.ndarray:
        """Render a block, outside a device: (frames, channels) float32, valid until the next call."""
        if frames > self._scratch.shape[0]:
            self._scratch = np.zeros((frames, self.channels), np.float32)
        out = self._scratch[:frames]
        self._renderer.render(out)
        return out

    def count_underruns(self, blocks: int = 1) -> None:
        """Called by the device where blocks came too late."""
        self._underruns += blocks

    def _fault(self, error: Exception) -> None:
        self._faults += 1
        self._last_fault = type(error).__name__

    # Sounds.

    def convert(self, audio: Audio, *, loop: bool = True) -> Sound:
        """Make a recording playable: resampled, in the engine's channels, its seam free of clicks. Takes its time.

        A loop whose last sample is farther from its first than any two neighbours within it would click at each turn;
        it is bent together over 5 ms on either side. A sound that plays once and begins or ends in mid-air is faded
        there over 1.5 ms. Where neither is so, every sample is kept.

        Raises
        ------
        SmartDJError
            AUDIO_EMPTY, AUDIO_NOT_FINITE.
        """
        if not audio.n_samples:
            raise SmartDJError(ErrorCode.AUDIO_EMPTY, "the recording holds no samples", "choose another one")
        samples = resample(self._folded(audio.samples), audio.sample_rate, self.sample_rate)
        size = samples.shape[1]
        frames = np.zeros((max(size, 1), self.channels), np.float32)
        for piece in _pieces(size):
            part = samples[: self.channels, piece].T
            if not np.isfinite(part).all():
                raise SmartDJError(
                    ErrorCode.AUDIO_NOT_FINITE,
                    "the recording holds NaN or infinite samples",
                    "export it again, or repair it in an audio editor",
                )
            frames[piece, : part.shape[1]] = part
        if loop:
            _bend_seam(frames, round(_SEAM_S * self.sample_rate))
        else:
            _bend_ends(frames, self._renderer.declick)
        return Sound(frames, loop)

    def _folded(self, samples: np.ndarray) -> np.ndarray:
        """To the engine's channels, or two where it has more than that."""
        if samples.shape[0] == self.channels:
            return samples
        width = min(self.channels, 2)
        folded = np.zeros((width, samples.shape[1]), np.float32)
        for piece in _pieces(samples.shape[1]):
            stereo = to_stereo(samples[:, piece])
            folded[:, piece] = stereo if width == 2 else stereo.mean(axis=0)
        return folded

    def adopt(self, slot: str, sound: Sound) -> None:
        """Put a converted sound into a slot, in an instant.

        What plays, or waits for its beat, is what the slot held when it was fired.

        Raises
        ------
        SmartDJError
            USAGE, field ``slot``, for an empty name.
        """
        if not slot:
            raise SmartDJError(ErrorCode.USAGE, "a slot needs a name", "for example a1", field="slot")
        frames = sound.frames
        if frames.ndim != 2 or frames.shape[1] != self.channels or not len(frames) or frames.dtype != np.float32:
            raise ValueError(
                f"this engine can't play {frames.dtype} of the shape {frames.shape}"
            )  # not in the callback
        with self._control:
            self._slots[slot] = sound
            self._held.setdefault(sound, 0)
            self._free()

    def prepare(self, slot: str, audio: Audio, *, loop: bool = True) -> None:
        """Convert a recording and put it into a slot. Takes its time, so call it off the event loop.

        Raises
        ------
        SmartDJError
            AUDIO_EMPTY, AUDIO_NOT_FINITE, USAGE.
        """
        self.adopt(slot, self.convert(audio, loop=loop))

    def play(
        self,
        slot: str,
        *,
        at: At = "bar",
        crossfade_s: float = 0.02,
        position: Position = "start",
        curve: Curve | None = None,
    ) -> Scheduled:
        """Swap to a slot. The last call wins: what waited for its beat until now, never comes.

        Parameters
        ----------
        slot
            What to play.
        at
            ``now``, or the next ``beat`` or ``bar``.
        crossfade_s
            Seconds, 0 to `MAX_FADE_S`; at least 1.5 ms are taken. Up to 50 ms it is over at the beat; longer ones begin
            there. Out of silence the new sound begins at once.
        position
            ``start``, or ``keep``: go on where the present sound is, for an edit of what is playing.
        curve
            ``equal_power`` for different sounds, ``equal_gain`` for the same sound edited; by default the first for
            ``start``, the second for ``keep``.

        Returns
        -------
        Scheduled
            What will happen, and when.

        Raises
        ------
        SmartDJError
            USAGE for an unknown slot (field ``slot``) or word; STEP_RANGE for the crossfade.
        """
        with self._control:
            sound = self._slots.get(slot)
            if sound is None:
                raise SmartDJError(
                    ErrorCode.USAGE,
                    f"nothing is prepared in slot {slot!r}",
                    "prepared are: " + (", ".join(sorted(self._slots)) or "none"),
                    field="slot",
                )
            chosen: Curve = curve if curve is not None else "equal_gain" if position == "keep" else "equal_power"
            return self._command(slot, sound, at, crossfade_s, chosen, position)

    def stop(self, *, at: At = "now", fade_s: float = 0.02) -> Scheduled:
        """Fade to silence; what waits for its beat, never comes.

        Raises
        ------
        SmartDJError
            USAGE for an unknown word, STEP_RANGE for the fade.
        """
        with self._control:
            return self._command("", None, at, fade_s, "equal_gain", "start")

    def withdraw(self) -> None:
        """Forget the swap or stop that waits for its beat; what sounds goes on."""
        with self._control:
            self._sequence += 1
            self._renderer.commands.append(_Withdraw(self._sequence))

    def clear(self, slot: str) -> None:
        """Empty a slot; where it plays, it fades out. An empty or unknown slot is no error."""
        with self._control:
            self._slots.pop(slot, None)
            self._sequence += 1
            self._renderer.commands.append(_Release(self._sequence, slot))
            self._free()

    def _command(
        self, slot: str, sound: Sound | None, at: At, fade_s: float, curve: Curve, position: Position
    ) -> Scheduled:
        for word, known in (
            (at, ("now", "beat", "bar")),
            (curve, ("equal_power", "equal_gain")),
            (position, ("start", "keep")),
        ):
            if word not in known:
                raise SmartDJError(ErrorCode.USAGE, f"{word!r} is unknown here", f"use {', '.join(known)}")
        if not 0.0 <= fade_s <= MAX_FADE_S:
            raise SmartDJError(
                ErrorCode.STEP_RANGE,
                f"a fade of {fade_s:g} s can't be had",
                f"use 0 to {MAX_FADE_S:g}",
                field="crossfade_s",
            )
        renderer = self._renderer
        self._sequence += 1
        fade = max(round(fade_s * self.sample_rate), renderer.declick)
        if sound is not None:
            self._held[sound] = self._sequence
        renderer.commands.append(_Swap(self._sequence, slot, sound, at, fade, curve, position))
        head = renderer.frame
        frame = head if at == "now" else self.tempo.grid.next_frame(at, head, self.sample_rate)
        self._free()
        return Scheduled(self._sequence, slot, at, frame, frame / self.sample_rate)

    def _free(self) -> None:
        """Let go of sounds that no slot holds and the callback is done with; so memory is never freed in there."""
        renderer = self._renderer
        held = set(self._slots.values())
        seen = renderer.seen  # in this order: a sound moves from the commands to the pending swap to the voices
        pending = renderer.pending
        voices = renderer.voices
        for sound, sequence in list(self._held.items()):
            if (
                sound not in held
                and sequence <= seen
                and (pending is None or pending.sound is not sound)
                and all(voice.sound is not sound for voice in voices)
            ):
                del self._held[sound]

    # What is.

    def now(self) -> float:
        """What is heard now, seconds of the engine's clock; the next frame's time before a device ran, or offline."""
        return self.at(time.monotonic())

    def at(self, monotonic_s: float) -> float:
        """What was, or will be, heard at a time of `time.monotonic`, seconds of the engine's clock."""
        zero_s = self._zero_s
        return self._renderer.frame / self.sample_rate if math.isnan(zero_s) else monotonic_s - zero_s

    def capture(self, *, seconds: float | None = None, bars: int | None = None) -> Audio:
        """The last seconds of the input, or its last whole bars; copied, so it takes milliseconds.

        Raises
        ------
        SmartDJError
            As `RollingCapture.last`.
        """
        return self.recording.last(seconds=seconds, bars=bars, grid=self.tempo.grid)

    def slots(self) -> tuple[str, ...]:
        """Names of the slots that hold a sound."""
        with self._control:
            return tuple(sorted(self._slots))

    def events(self) -> list[EngineEvent]:
        """What happened since the last call, at most 256; each event is given once."""
        waiting = self._renderer.events
        found = []
        while waiting:
            try:
                found.append(waiting.popleft())
            except IndexError:  # another thread asked too
                break
        with self._control:
            self._free()
        return found

    def times_ms(self) -> np.ndarray:
        """What the callback took, milliseconds, of the last 65,536 blocks; in no order."""
        return self._times_ns[: min(self._blocks, _KEPT_TIMES)] / 1e6

    def status(self) -> EngineStatus:
        """How things are; a snapshot that the callback may overtake while it is taken."""
        renderer = self._renderer
        voice, pending, frame = renderer.playing, renderer.pending, renderer.frame
        now = self.now()
        grid = self.tempo.grid
        position = 0.0
        if voice is not None:
            position = max(0, frame - voice.origin) % voice.sound.frames.shape[0] / self.sample_rate
        blocks = self._blocks
        times = self._times_ns[np.arange(max(0, blocks - _STATUS_TIMES), blocks) % _KEPT_TIMES] / 1e6
        p50, p99 = np.percentile(times, (50, 99)) if times.size else (0.0, 0.0)
        return EngineStatus(
            playing=voice.slot if voice is not None else "",
            position_s=position,
            pending=pending.slot if pending is not None else "",
            bpm=grid.bpm,
            beat=grid.beat_at(now),
            bar_phase=grid.bar_phase(now),
            frame=frame,
            time_s=now,
            underruns=self._underruns,
            late=self._late,
            overruns=self.recording.overruns,
            faults=renderer.faults + self._faults,
            last_fault=self._last_fault or renderer.last_fault,
            blocks=self._blocks,
            callback_p50_ms=float(p50),
            callback_p99_ms=float(p99),
            callback_max_ms=self._max_ns / 1e6,
        )


def _pieces(size: int) -> Iterator[slice]:
    """Slices of what takes a fraction of a millisecond: some calls of numpy keep the interpreter's lock all along."""
    for start in range(0, size, _PIECE):
        yield slice(start, min(start + _PIECE, size))


def _largest_steps(frames: np.ndarray) -> np.ndarray:
    """Of each channel: the largest difference between neighbours; 0 for a single frame."""
    largest = np.zeros(frames.shape[1], np.float32)
    for piece in _pieces(frames.shape[0] - 1):
        for index, channel in enumerate(frames[piece.start : piece.stop + 1].T):
            largest[index] = max(largest[index], np.abs(np.diff(channel)).max())
    return largest


def _bend_seam(frames: np.ndarray, reach: int) -> None:
    """Bend a loop's end and beginning towards each other where the step between them is larger than any within."""
    size = frames.shape[0]
    reach = min(reach, size // 2)
    if reach < 2:
        return
    fall = 0.5 + 0.5 * np.cos(np.pi * (np.arange(reach) + 0.5) / reach)
    for channel, largest in zip(frames.T, _largest_steps(frames), strict=True):
        step = float(channel[0]) - float(channel[-1])
        if abs(step) > largest:
            channel[:reach] -= (step / 2 * fall).astype(np.float32)
            channel[size - reach :] += (step / 2 * fall[::-1]).astype(np.float32)


def _bend_ends(frames: np.ndarray, reach: int) -> None:
    """Fade the beginning or end of a sound that plays once where it steps out of silence farther than it ever steps."""
    size = frames.shape[0]
    reach = min(reach, size // 2)
    if reach < 1:
        return
    rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(reach) + 0.5) / reach)).astype(np.float32)
    largest = _largest_steps(frames)
    if (np.abs(frames[0]) > largest).any():
        frames[:reach] *= rise[:, None]
    if (np.abs(frames[-1]) > largest).any():
        frames[size - reach :] *= rise[::-1, None]
