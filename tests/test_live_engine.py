"""What sounds: swaps without a click, on the frame they belong to, the same in blocks of any size."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smartdj_osc.live.device import OfflineDevice
from smartdj_osc.live.engine import At, Curve, LiveEngine, Renderer, Sound
from smartdj_osc.live.tempo import Tempo

from smartdj_agent.audio import Audio, to_stereo
from smartdj_agent.errors import ErrorCode, SmartDJError

RATE = 48_000
FADE = round(0.02 * RATE)
DECLICK = round(0.0015 * RATE)


def engine_at(bpm: float = 120.0, rate: int = RATE, channels: int = 2) -> LiveEngine:
    return LiveEngine(rate, channels, Tempo(bpm), capture_s=1.0)


def tone(hz: float, frames: int, phase: float = 0.0, level: float = 0.5, rate: int = RATE) -> Audio:
    wave = level * np.cos(2 * np.pi * hz * np.arange(frames) / rate + phase)
    return Audio(np.stack([wave, wave * 0.8]).astype(np.float32), rate)


def noise(frames: int, seed: int, level: float = 0.1, channels: int = 2, rate: int = RATE) -> Audio:
    drawn = np.random.default_rng(seed).standard_normal((channels, frames)) * level
    return Audio(drawn.astype(np.float32), rate)


def run(engine: LiveEngine, frames: int, block: int = 512) -> np.ndarray:
    return OfflineDevice(engine, block).run(frames)


def largest_step(samples: np.ndarray) -> float:
    return float(np.abs(np.diff(samples, axis=0)).max())


def splatter_db(samples: np.ndarray, above_hz: float = 4_000.0) -> float:
    """Loudest short-time energy above a frequency that the tones are far below, dB of full scale."""
    size, found = 2_048, []
    window = np.blackman(size)[:, None]
    bins = np.fft.rfftfreq(size, 1 / RATE) > above_hz
    for start in range(0, len(samples) - size, size // 8):
        spectrum = np.fft.rfft(samples[start : start + size].astype(np.float64) * window, axis=0) / window.sum()
        found.append((np.abs(spectrum[bins]) ** 2).sum())
    return float(10 * np.log10(max(found) + 1e-30))


# A and B are at opposite peaks at each whole second, where a cut is the loudest click there can be.
A, B = tone(220.0, RATE), tone(330.0, RATE, phase=np.pi)
OWN_STEP = max(largest_step(A.samples.T), largest_step(B.samples.T))
OWN_SPLATTER_DB = max(splatter_db(np.tile(sound.samples.T, (2, 1))) for sound in (A, B))


def started(engine: LiveEngine) -> list[tuple[str, int]]:
    return [(event.slot, event.frame) for event in engine.events() if event.kind == "started"]


def test_the_measures_hear_a_hard_cut() -> None:
    cut = np.concatenate([A.samples.T, B.samples.T])
    assert largest_step(cut) > 30 * OWN_STEP
    assert splatter_db(cut) > OWN_SPLATTER_DB + 60
    assert splatter_db(cut) > -60


@pytest.mark.parametrize("curve", ["equal_power", "equal_gain"])
@pytest.mark.parametrize("at", ["now", "beat", "bar"])
@pytest.mark.parametrize("crossfade_s", [0.02, 0.05, 0.2])
def test_a_swap_has_no_step_and_no_splatter_beyond_the_signals_own(at: At, curve: Curve, crossfade_s: float) -> None:
    engine = engine_at()
    engine.prepare("a", A)
    engine.prepare("b", B)
    engine.play("a", at="now")
    run(engine, RATE)
    engine.play("b", at=at, crossfade_s=crossfade_s, curve=curve)
    out = run(engine, 3 * RATE)
    assert started(engine)[-1][0] == "b"
    # Two signals of equal power add up to √2 of one; the gains' own slope is far below the signals'.
    assert largest_step(out) <= OWN_STEP * (1.45 if curve == "equal_power" else 1.05)
    assert splatter_db(out) < -105
    assert splatter_db(out) < splatter_db(np.concatenate([A.samples.T, B.samples.T])) - 50


@pytest.mark.parametrize("bpm", [60.0, 97.3, 120.0, 133.7, 174.0])
@pytest.mark.parametrize("block", [64, 500, 4096])
@pytest.mark.parametrize("at", ["beat", "bar"])
def test_the_attack_sounds_whole_on_the_very_frame_of_the_beat(bpm: float, block: int, at: At) -> None:
    engine = engine_at(bpm)
    engine.prepare("hum", noise(12_345, 1, 0.01))
    attack = np.zeros((2, 40_000), np.float32)
    attack[:, 0] = 0.9
    attack[:, 1] = -0.7
    engine.prepare("hit", Audio(attack, RATE), loop=False)
    engine.play("hum", at="now")
    head = run(engine, 10_000, block)
    scheduled = engine.play("hit", at=at)
    out = np.concatenate([head, run(engine, 5 * RATE, block)])
    length = 60.0 / bpm * (4 if at == "bar" else 1)
    expected = round(np.ceil(10_000 / RATE / length) * length * RATE)
    assert started(engine)[-1] == ("hit", expected)
    assert (scheduled.slot, scheduled.frame) == ("hit", expected)
    assert out[expected].tolist() == [np.float32(0.9)] * 2  # full level, exactly there, the old one gone
    assert out[expected + 1].tolist() == [np.float32(-0.7)] * 2
    assert np.abs(out[:expected]).max() < 0.1
    assert np.abs(out[expected - FADE : expected]).max() > 0  # faded until then, not cut before


def test_a_long_crossfade_begins_at_the_beat() -> None:
    engine = engine_at()
    a, b = noise(7_000, 1), noise(9_000, 2)
    engine.prepare("a", a)
    engine.prepare("b", b)
    engine.play("a", at="now")
    run(engine, 10_000)
    engine.play("b", at="beat", crossfade_s=0.25)
    out = run(engine, 2 * RATE)
    beat = RATE // 2
    held = a.samples.T[(np.arange(10_000, beat)) % 7_000]
    assert np.array_equal(out[: beat - 10_000], held)
    assert not np.allclose(out[beat + 3_000 - 10_000], a.samples.T[(beat + 3_000) % 7_000], atol=1e-3)
    after = np.arange(beat + RATE // 4, 2 * RATE + 10_000)
    assert np.array_equal(out[after - 10_000], b.samples.T[(after - beat) % 9_000])


@pytest.mark.parametrize("frames", [1, 2, 3, 777, 12_345, 88_200, 100_001])
def test_loops_of_any_length_repeat_without_a_gap(frames: int) -> None:
    engine = engine_at(131.0)
    loop = noise(frames, frames)
    engine.prepare("a", loop)
    engine.play("a", at="now")
    out = run(engine, 250_000, 480)
    playable = engine.convert(loop).frames
    where = np.arange(DECLICK, 250_000)
    assert np.array_equal(out[where], playable[where % frames])


def test_every_sample_is_kept_where_the_seam_does_not_jump() -> None:
    engine = engine_at()
    assert np.array_equal(engine.convert(A).frames, A.samples.T)
    assert np.array_equal(engine.convert(noise(5_000, 3)).frames, noise(5_000, 3).samples.T)


def test_a_seam_that_jumps_is_bent_and_nothing_else() -> None:
    engine = engine_at()
    jumping = tone(220.0, RATE // 2 + 109)  # ends half a turn away from where it begins
    assert abs(jumping.samples[0, -1] - jumping.samples[0, 0]) > 0.8
    sound = engine.convert(jumping).frames
    reach = round(0.005 * RATE)
    assert np.array_equal(sound[reach:-reach], jumping.samples.T[reach:-reach])
    turned = np.tile(sound, (3, 1))
    assert largest_step(turned) < 1.3 * OWN_STEP
    assert splatter_db(turned) < splatter_db(np.tile(jumping.samples.T, (3, 1))) - 30


def test_a_sound_that_plays_once_and_begins_in_mid_air_is_faded_there() -> None:
    engine = engine_at()
    sound = engine.convert(tone(220.0, 10_000), loop=False).frames
    assert np.abs(sound[[0, -1]]).max() < 0.01
    assert np.array_equal(sound[DECLICK:-DECLICK], tone(220.0, 10_000).samples.T[DECLICK:-DECLICK])


def test_a_natural_attack_is_kept() -> None:
    hit = noise(5_000, 4, 0.2)
    assert np.array_equal(engine_at().convert(hit, loop=False).frames, hit.samples.T)


Script = list[tuple[int, Callable[[LiveEngine], object]]]


def busy_script(rate: int) -> Script:
    """Swaps now, at beats, in the middle of fades, withdrawn, stopped, cleared; frames between them."""
    return [
        (0, lambda e: e.play("a", at="now")),
        (777, lambda e: e.play("b", at="beat")),
        (rate // 2, lambda e: e.play("c", at="now", crossfade_s=0.1)),
        (50, lambda e: e.play("a", at="now", crossfade_s=0.1, position="keep")),
        (60, lambda e: e.play("once", at="beat", crossfade_s=0.3)),
        (rate, lambda e: e.play("b", at="bar", curve="equal_gain")),
        (3, lambda e: e.play("c", at="bar")),
        (2 * rate + 1, lambda e: e.stop(at="beat")),
        (rate, lambda e: e.play("a", at="beat")),
        (10, lambda e: e.withdraw()),
        (rate // 10, lambda e: e.play("b", at="now")),
        (4_001, lambda e: e.tempo.set(151.0, e.now())),
        (100, lambda e: e.play("a", at="beat", position="keep")),
        (rate, lambda e: e.clear("a")),
        (rate // 2, lambda e: e.play("c", at="now")),
        (rate // 4, lambda e: e.stop(fade_s=0.5)),
        (100, lambda e: e.play("b", at="now")),
        (rate // 2, lambda e: None),
    ]


def performed(script: Script, block: int, rate: int = 8_000) -> tuple[np.ndarray, list[object]]:
    engine = engine_at(117.0, rate)
    for name, frames in (("a", 5_003), ("b", 12_000), ("c", 333)):
        engine.prepare(name, noise(frames, frames, rate=rate))
    engine.prepare("once", noise(2_000, 9, rate=rate), loop=False)
    blocks = []
    for frames, command in script:
        if frames:
            blocks.append(run(engine, frames, block))
        command(engine)
    status = engine.status()
    assert (status.faults, status.last_fault) == (0, "")
    return np.concatenate(blocks), list(engine.events())


BUSY = performed(busy_script(8_000), 512)


def test_the_busy_script_is_busy() -> None:
    out, events = BUSY
    kinds = [(event.kind, event.slot) for event in events]  # type: ignore[attr-defined]
    assert kinds == [
        ("started", "a"), ("started", "b"), ("started", "c"), ("started", "a"), ("started", "once"),
        ("ended", "once"), ("started", "c"), ("stopped", "c"), ("started", "b"), ("started", "a"), ("stopped", "a"),
        ("started", "c"), ("stopped", "c"), ("started", "b"),
    ]  # fmt: skip
    assert out.any(axis=1).mean() > 0.5


@pytest.mark.parametrize("block", [1, 2, 63, 64, 127, 441, 1_000, 1_024, 1_025, 2_048, 4_096])
def test_blocks_of_any_size_give_the_same_samples(block: int) -> None:
    out, events = performed(busy_script(8_000), block)
    assert np.array_equal(out, BUSY[0])
    assert events == BUSY[1]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 3_000),
            st.sampled_from(["a", "b", "c", "once", ""]),
            st.sampled_from(["now", "beat", "bar"]),
            st.sampled_from([0.0, 0.004, 0.02, 0.049, 0.051, 0.3]),
            st.sampled_from(["start", "keep"]),
        ),
        max_size=12,
    ),
    st.integers(1, 4_096),
)
def test_any_performance_is_the_same_in_any_blocks(moves: list[tuple[int, str, At, float, str]], block: int) -> None:
    def fire(slot: str, at: At, fade_s: float, position: str) -> Callable[[LiveEngine], object]:
        if not slot:
            return lambda engine: engine.stop(at=at, fade_s=fade_s)
        return lambda engine: engine.play(slot, at=at, crossfade_s=fade_s, position=position)  # type: ignore[arg-type]

    script: Script = [(0, lambda engine: engine.play("a", at="now"))]
    script += [(frames, fire(*how)) for frames, *how in moves]
    script.append((5_000, lambda engine: None))
    first, second = performed(script, 512), performed(script, block)
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_what_ends_and_what_begins_within_a_block_are_both_told() -> None:
    engine = engine_at()
    engine.prepare("once", noise(1_000, 8), loop=False)
    engine.prepare("a", A)
    engine.play("once", at="now")
    run(engine, 100)
    engine.play("a", at="beat")
    run(engine, RATE, RATE)
    events = [(event.kind, event.slot, event.frame) for event in engine.events()]
    assert events == [("started", "once", 0), ("ended", "once", 1_000), ("started", "a", RATE // 2)]


def smooth_engine() -> LiveEngine:
    """Slots whose sounds are so slow that any step is the engine's own."""
    engine = engine_at()
    for number, name in enumerate("abc"):
        engine.prepare(name, tone(60.0 * (number + 1), RATE, phase=2.0 * number, level=0.3))
    engine.play("a", at="now")
    run(engine, RATE)
    return engine


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 2_000),
            st.sampled_from(["a", "b", "c", "stop", "clear", "withdraw"]),
            st.sampled_from(["now", "beat", "bar"]),
            st.sampled_from([0.01, 0.02, 0.049, 0.1, 1.0]),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_whatever_is_hit_during_crossfades_nothing_clicks(moves: list[tuple[int, str, At, float]]) -> None:
    engine = smooth_engine()
    blocks = [run(engine, 100)]
    for frames, what, at, fade_s in moves:
        if what == "stop":
            engine.stop(at=at, fade_s=fade_s)
        elif what == "withdraw":
            engine.withdraw()
        elif what == "clear":
            sounding = engine.status().playing
            if sounding:
                frames_of = engine._slots[sounding]
                engine.clear(sounding)
                engine.adopt(sounding, frames_of)
        else:
            engine.play(what, at=at, crossfade_s=fade_s)
        blocks.append(run(engine, frames, 97))
    out = np.concatenate([*blocks, run(engine, RATE)])
    # The tones' own: 0.007. Full level to nothing within the shortest fade (72 frames, smooth): 1.875 / 72 · level.
    # A cut would be 0.3 and more.
    assert largest_step(out) < 0.007 * 3 + 2 * 0.3 * 1.875 * 1.3 / DECLICK
    assert engine.status().faults == 0


def test_swaps_during_a_crossfade_end_with_the_last() -> None:
    engine = smooth_engine()
    for slot in "bcb":
        engine.play(slot, at="now", crossfade_s=0.1)
        run(engine, 300, 100)
    last = engine.play("c", at="now", crossfade_s=0.1)
    out = run(engine, RATE)
    assert engine.status().playing == "c"
    assert started(engine)[-1] == ("c", last.frame)
    where = np.arange(5_000, RATE)
    assert np.array_equal(out[where], engine.convert(tone(180.0, RATE, 4.0, 0.3)).frames[where])


def test_more_hits_than_voices_still_end_with_the_last() -> None:
    engine = smooth_engine()
    blocks = []
    for number in range(60):
        engine.play("abc"[number % 3], at="now", crossfade_s=5.0)
        blocks.append(run(engine, 150, 50))
        assert len(engine._renderer.voices) <= 8
    blocks.append(run(engine, 6 * RATE))
    assert engine.status().playing == "c"
    out = np.concatenate(blocks)
    assert largest_step(out) < 0.02
    assert np.array_equal(out[-100:], out[-100 - RATE : -RATE])  # nothing but the one loop


def test_of_two_fired_before_the_bar_only_the_second_comes() -> None:
    engine = smooth_engine()
    engine.play("b", at="bar")
    run(engine, 1_000)
    engine.play("c", at="bar")
    run(engine, 3 * RATE)
    assert [slot for slot, _ in started(engine)] == ["a", "c"]


def test_a_swap_waits_in_the_status_until_its_bar() -> None:
    engine = smooth_engine()
    engine.play("b", at="bar")
    run(engine, 64)
    status = engine.status()
    assert (status.playing, status.pending) == ("a", "b")
    run(engine, 3 * RATE)
    status = engine.status()
    assert (status.playing, status.pending) == ("b", "")


def test_fired_right_before_the_beat_it_still_comes_on_it() -> None:
    for before in (1, 10, 71, 500, 959, 960, 961):
        engine = engine_at()
        for name, sound in (("a", A), ("b", B)):
            engine.prepare(name, sound)
        engine.play("a", at="now")
        run(engine, 2 * RATE - before)
        engine.play("b", at="bar")
        out = run(engine, RATE)
        assert started(engine)[-1] == ("b", 2 * RATE)
        assert np.array_equal(out[before + DECLICK :], B.samples.T[DECLICK : RATE - before])
        assert largest_step(out) < 1.6 / DECLICK * 1.4 + OWN_STEP  # the shortest fade is 1.5 ms


def test_a_tempo_change_moves_what_waits() -> None:
    engine = smooth_engine()
    engine.play("b", at="bar")
    run(engine, 100)
    engine.tempo.set(60.0, RATE / RATE)
    run(engine, 5 * RATE)
    assert started(engine)[-1] == ("b", 3 * RATE)  # beats 2 and 3 take a second each now


def test_keeping_the_position_goes_on_where_the_old_one_was() -> None:
    engine = engine_at()
    whole = noise(30_000, 5)
    engine.prepare("a", whole)
    engine.prepare("quiet", Audio(whole.samples * 0.5, RATE))
    engine.play("a", at="now")
    run(engine, 40_001)
    engine.play("quiet", at="beat", position="keep")
    out = run(engine, RATE)
    where = np.arange(RATE, RATE + 40_000)
    assert np.array_equal(out[where - 40_001], whole.samples.T[where % 30_000] * np.float32(0.5))


def test_the_same_sound_crossfades_into_itself_unheard() -> None:
    engine = engine_at()
    engine.prepare("a", A)
    engine.prepare("same", A)
    engine.play("a", at="now")
    run(engine, 10_000)
    engine.play("same", at="beat", position="keep")
    out = run(engine, RATE)
    where = np.arange(10_000, 10_000 + RATE) % RATE
    assert np.abs(out - A.samples.T[where]).max() < 1e-7


def test_different_sounds_crossfade_at_equal_power() -> None:
    engine = engine_at()
    engine.prepare("a", noise(3 * RATE, 6))
    engine.prepare("b", noise(3 * RATE, 7))
    engine.play("a", at="now")
    run(engine, RATE)
    engine.play("b", at="now", crossfade_s=1.0)
    out = run(engine, 2 * RATE)
    levels = 20 * np.log10(np.sqrt((out.reshape(-1, 4_800, 2) ** 2).mean(axis=(1, 2))) / 0.1)
    assert np.abs(levels).max() < 0.3


def test_silence_until_something_is_played() -> None:
    engine = engine_at()
    engine.prepare("a", A)
    assert not run(engine, 5_000).any()


def test_out_of_silence_a_loop_begins_at_once() -> None:
    engine = engine_at()
    engine.prepare("a", B)
    engine.play("a", at="beat")
    out = run(engine, RATE)
    assert np.array_equal(out[0:1] != 0, [[True, True]])
    assert np.array_equal(out[DECLICK:], B.samples.T[DECLICK:])


def test_stop_fades_out_and_stays_silent() -> None:
    engine = smooth_engine()
    engine.play("b", at="bar")
    engine.stop(fade_s=0.1)
    out = run(engine, 3 * RATE)
    assert largest_step(out) < 0.005
    assert out[4_000].any()
    assert not out[4_800:].any()
    assert [event.kind for event in engine.events()] == ["started", "stopped"]
    assert engine.status().playing == ""


def test_stop_at_the_bar_is_silent_from_the_bar_on() -> None:
    engine = smooth_engine()
    scheduled = engine.stop(at="bar")
    out = run(engine, 2 * RATE)
    assert scheduled.frame == 2 * RATE
    assert out[RATE - 500].any()
    assert not out[RATE:].any()


def test_clearing_what_plays_fades_it_out() -> None:
    engine = smooth_engine()
    engine.clear("a")
    out = run(engine, RATE)
    assert largest_step(out) < 0.005
    assert out[500].any()
    assert not out[FADE:].any()
    assert engine.slots() == ("b", "c")


def test_clearing_another_slot_changes_nothing_that_sounds() -> None:
    engine = smooth_engine()
    engine.clear("b")
    engine.clear("unheard-of")
    assert np.array_equal(run(engine, RATE), engine.convert(tone(60.0, RATE, 0.0, 0.3)).frames)


def test_clearing_what_waits_leaves_the_old_sound_on() -> None:
    engine = smooth_engine()
    engine.play("b", at="bar")
    engine.clear("b")
    run(engine, 4 * RATE)
    assert engine.status().playing == "a"


def test_cleared_prepared_and_played_between_two_blocks() -> None:
    engine = smooth_engine()
    engine.clear("a")
    engine.prepare("a", B)
    engine.play("a", at="now")
    out = run(engine, RATE)
    assert np.array_equal(out[FADE:], B.samples.T[FADE:])


def test_preparing_what_plays_changes_nothing_until_it_is_fired() -> None:
    engine = smooth_engine()
    before = engine.convert(tone(60.0, RATE, 0.0, 0.3)).frames
    engine.prepare("a", B)
    assert np.array_equal(run(engine, RATE), before)
    engine.play("a", at="now")
    assert np.array_equal(run(engine, RATE)[FADE:], B.samples.T[FADE:])


def test_a_sound_that_plays_once_ends_and_says_when() -> None:
    engine = engine_at()
    engine.prepare("once", noise(10_000, 8), loop=False)
    engine.play("once", at="now")
    out = run(engine, 20_000)
    assert not out[10_000:].any()
    assert [(event.kind, event.frame) for event in engine.events()] == [("started", 0), ("ended", 10_000)]
    assert engine.status().playing == ""


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 8, 10])
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000])
def test_any_recording_becomes_the_engines_rate_and_channels(channels: int, rate: int) -> None:
    engine = engine_at()
    n = rate // 2
    wave = np.cos(2 * np.pi * 440.0 * np.arange(n) / rate) * np.hanning(n)
    audio = Audio((wave * np.linspace(0.1, 0.3, channels)[:, None]).astype(np.float32), rate)
    frames = engine.convert(audio).frames
    assert frames.shape == (RATE // 2, 2)
    assert frames.dtype == np.float32
    gains = to_stereo(np.linspace(0.1, 0.3, channels)[:, None])[:, 0]
    ideal = np.cos(2 * np.pi * 440.0 * np.arange(RATE // 2) / RATE) * np.hanning(RATE // 2)
    assert np.abs(frames - ideal[:, None] * gains).max() < 2e-3


@pytest.mark.parametrize(("out", "given", "expected"), [
    (1, 1, [1.0]),
    (1, 2, [1.5]),
    (4, 1, [1.0, 1.0, 0.0, 0.0]),
    (4, 2, [1.0, 2.0, 0.0, 0.0]),
    (4, 4, [1.0, 2.0, 3.0, 4.0]),
])  # fmt: skip
def test_engines_of_other_widths(out: int, given: int, expected: list[float]) -> None:
    engine = engine_at(channels=out)
    level = np.arange(1, given + 1, dtype=np.float64)[:, None] * np.ones((1, 5_000))  # float64 in
    engine.prepare("a", Audio(level, RATE))
    engine.play("a", at="now")
    assert run(engine, 1_000)[-1].tolist() == expected


def test_what_can_not_be_played_is_refused() -> None:
    engine = engine_at()
    broken = A.samples.copy()
    broken[1, 77] = np.nan
    for samples, code in ((broken, ErrorCode.AUDIO_NOT_FINITE), (np.zeros((2, 0)), ErrorCode.AUDIO_EMPTY)):
        with pytest.raises(SmartDJError) as refused:
            engine.prepare("a", Audio(samples, RATE))
        assert refused.value.code is code
    with pytest.raises(ValueError, match="shape"):
        engine.adopt("a", Sound(np.zeros((10, 3), np.float32), True))
    assert engine.slots() == ()


@pytest.mark.parametrize(("arguments", "field"), [
    ({"slot": "zz"}, "slot"),
    ({"slot": "a", "crossfade_s": -0.1}, "crossfade_s"),
    ({"slot": "a", "crossfade_s": float("nan")}, "crossfade_s"),
    ({"slot": "a", "crossfade_s": 31.0}, "crossfade_s"),
    ({"slot": "a", "at": "tomorrow"}, ""),
    ({"slot": "a", "curve": "steep"}, ""),
    ({"slot": "a", "position": "end"}, ""),
])  # fmt: skip
def test_what_can_not_be_meant_is_refused_and_changes_nothing(arguments: dict[str, object], field: str) -> None:
    engine = smooth_engine()
    engine.events()
    with pytest.raises(SmartDJError) as refused:
        engine.play(**arguments)  # type: ignore[arg-type]
    assert refused.value.field == field
    run(engine, 3 * RATE)
    assert engine.events() == []


@pytest.mark.parametrize("arguments", [{"sample_rate": 0}, {"channels": 0}, {"channels": 65}, {"capture_s": 0.0}])
def test_impossible_engines_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(SmartDJError) as refused:
        LiveEngine(**arguments)  # type: ignore[arg-type]
    assert refused.value.code is ErrorCode.STEP_RANGE


class Forbidden:
    """A lock that nobody may take."""

    def __enter__(self) -> None:
        raise AssertionError("the callback took a lock")

    acquire = __enter__

    def __exit__(self, *_: object) -> None:
        pass


def test_the_callback_takes_no_lock() -> None:
    engine = smooth_engine()
    engine.play("b", at="now")
    engine.clear("c")
    engine._control = Forbidden()  # type: ignore[assignment]
    engine.tempo._changing = Forbidden()  # type: ignore[assignment]
    out = run(engine, RATE)
    assert out.any()
    assert engine._faults == engine._renderer.faults == 0


def test_the_callback_allocates_next_to_nothing_and_keeps_nothing() -> None:
    engine = engine_at()
    for name, seed in (("a", 1), ("b", 2)):
        engine.prepare(name, noise(50_000, seed))
    engine.play("a", at="now")
    out, recorded = np.zeros((512, 2), np.float32), np.zeros((512, 2), np.float32)
    for _ in range(50):
        engine.process(out, recorded)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(20):
            engine.process(out, recorded)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(300):
            engine.process(out, recorded)
        after, peak = tracemalloc.get_traced_memory()
        assert after - before < 600
        assert peak - before < 3_000  # one block is 4,096 bytes: no array is made
        engine.play("b", at="now", crossfade_s=1.0)
        engine.process(out, recorded)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(80):
            engine.process(out, recorded)
        after, peak = tracemalloc.get_traced_memory()
        assert peak - before < 3_000
    finally:
        tracemalloc.stop()


def test_sounds_are_freed_by_who_commands_never_in_the_callback() -> None:
    engine = smooth_engine()
    old = weakref.ref(engine._slots["a"])
    engine.play("b", at="now")
    engine.clear("a")
    run(engine, RATE)
    assert old() is not None  # long faded out, but not freed in there
    engine.events()
    assert old() is None


def test_sounds_that_wait_or_sound_are_not_freed() -> None:
    engine = smooth_engine()
    waiting, sounding = weakref.ref(engine._slots["b"]), weakref.ref(engine._slots["a"])
    engine.play("b", at="bar")
    for name in "ab":
        engine.prepare(name, B)
    for _ in range(3):
        engine.events()
        assert waiting() is not None
        assert sounding() is not None
        run(engine, 100)
    run(engine, 4 * RATE)
    engine.events()
    assert sounding() is None
    assert waiting() is not None


def test_an_exception_in_one_voice_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = smooth_engine()
    add = Renderer._add

    def broken(self: Renderer, voice: object, out: np.ndarray, at: int, stop: int) -> None:
        if voice.slot == "b":  # type: ignore[attr-defined]
            raise RuntimeError("a bug")
        add(self, voice, out, at, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(Renderer, "_add", broken)
    engine.play("b", at="now")
    out = run(engine, 2_000)
    assert largest_step(out) < 0.02  # the old one fades out as if nothing had been
    status = engine.status()
    assert (status.faults, status.last_fault, status.playing) == (1, "RuntimeError", "")
    assert engine.events()[-1].kind == "faulted"
    engine.play("c", at="now")
    assert run(engine, 2_000).any()


def test_an_exception_while_swapping_leaves_the_old_sound_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = smooth_engine()
    expected = engine.convert(tone(60.0, RATE, 0.0, 0.3)).frames
    engine.play("b", at="bar")
    engine.tempo.grid = None  # type: ignore[assignment]
    assert np.array_equal(run(engine, RATE), expected)
    assert engine._renderer.faults == 1
    assert engine._renderer.pending is None


def test_an_exception_anywhere_is_silence_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = smooth_engine()

    def broken(self: Renderer, out: np.ndarray) -> None:
        out[:] = 1.0
        raise ZeroDivisionError

    monkeypatch.setattr(Renderer, "render", broken)
    assert not run(engine, 512).any()
    monkeypatch.undo()
    assert run(engine, 512).any()
    assert (engine.status().faults, engine.status().last_fault) == (1, "ZeroDivisionError")


def test_an_exception_of_the_recording_does_not_stop_the_sound() -> None:
    engine = smooth_engine()
    out = np.zeros((64, 2), np.float32)
    engine.process(out, np.zeros(64, np.float32))
    assert out.any()
    assert engine.status().faults == 1


def test_status_says_where_it_is() -> None:
    engine = engine_at(90.0)
    assert engine.status().callback_p99_ms == 0.0
    engine.prepare("a", noise(48_000, 1))
    engine.play("a", at="now")
    OfflineDevice(engine, 480).run(72_000)
    status = engine.status()
    assert (status.playing, status.position_s, status.frame, status.blocks) == ("a", 0.5, 72_000, 150)
    assert status.bpm == 90.0
    assert 0 < status.callback_p50_ms <= status.callback_p99_ms <= status.callback_max_ms


def test_the_clock_says_what_is_heard() -> None:
    engine = engine_at()
    out = np.zeros((480, 2), np.float32)
    for block in range(500):  # called up to 3 ms early or late; heard 50 ms later
        jitter = 0.003 * np.sin(block * 1.7)
        engine.process(out, latency_s=0.05, now_s=100.0 + block * 0.01 + jitter)
    assert engine.at(103.05) == pytest.approx(3.0, abs=0.001)
    engine.process(out, latency_s=0.05, now_s=200.0)  # the device was started again
    assert engine.at(200.05) == pytest.approx(5.0)


def test_a_tap_on_what_is_heard_falls_on_what_was_rendered() -> None:
    engine = engine_at(77.0)
    out = np.zeros((480, 2), np.float32)
    for block in range(400):
        engine.process(out, latency_s=0.03, now_s=10.0 + block * 0.01)
        heard = 10.0 + block * 0.01
        if block % 50 == 0:
            engine.tempo.tap(engine.at(heard))
    assert engine.tempo.bpm == pytest.approx(120.0, abs=0.01)
    assert engine.tempo.grid.next_frame("beat", RATE, RATE) / RATE == pytest.approx(
        np.ceil((1 + 0.03) / 0.5) * 0.5 - 0.03, abs=1e-3
    )


def test_what_was_played_along_lies_on_the_bars_it_was_played_to() -> None:
    engine = engine_at(240.0)  # a bar a second
    engine.recording.__init__(5.0, 2, RATE)  # type: ignore[misc]
    out = np.zeros((480, 2), np.float32)
    for block in range(450):
        # 1,440 frames later is heard what is rendered now; another 480 lie between microphone and here.
        played_to = np.arange(block * 480, block * 480 + 480) - 1_440 - 480
        recorded = np.repeat((played_to % RATE == 0).astype(np.float32)[:, None], 2, axis=1)
        engine.process(out, recorded, latency_s=0.03, input_latency_s=0.01, now_s=block * 0.01)
    audio = engine.capture(bars=2)
    assert audio.n_samples == 2 * RATE
    assert np.flatnonzero(audio.samples[0]).tolist() == [0, RATE]


def test_commands_from_many_threads_while_it_renders() -> None:
    engine = engine_at(600.0)
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        engine.prepare(name, noise(20_000, seed, 0.1))
    faults: list[BaseException] = []

    def perform(seed: int) -> None:
        chance = np.random.default_rng(seed)
        try:
            for _ in range(150):
                slot = "abc"[chance.integers(3)]
                match chance.integers(6):
                    case 0:
                        engine.prepare(slot, noise(5_000, 1, 0.1))
                    case 1:
                        engine.stop(at="beat")
                    case 2:
                        engine.status()
                        engine.events()
                    case 3:
                        engine.tempo.tap(engine.now())
                    case _:
                        engine.play(slot, at=("now", "beat", "bar")[chance.integers(3)])
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=perform, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        run(engine, 2_048, 256)
    assert faults == []
    engine.play("a", at="now")
    run(engine, 10_000)
    assert (engine.status().playing, engine.status().faults) == ("a", 0)
