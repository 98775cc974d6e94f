"""Recordings in and out: exactness, formats, errors, atomic writing."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import smartdj_agent.audio as audio_module
from smartdj_agent.audio import (
    Audio,
    AudioFormat,
    audio_sha256,
    check_output,
    clipped_samples,
    file_sha256,
    output_format,
    read_audio,
    read_format,
    resample,
    suffix_of,
    to_stereo,
    write_audio,
)
from smartdj_agent.errors import ErrorCode, SmartDJError


def noise(channels: int = 2, n: int = 3000, scale: float = 0.3) -> np.ndarray:
    return np.clip(scale * np.random.default_rng(0).standard_normal((channels, n)), -1, 1)


def fails(code: ErrorCode, action, *args, **kwargs) -> SmartDJError:
    with pytest.raises(SmartDJError) as caught:
        action(*args, **kwargs)
    assert caught.value.code is code
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


# Formats --------------------------------------------------------------------------------------------------

EXACT = [
    (container, subtype, suffix)
    for container, suffix in [
        ("WAV", "wav"), ("WAVEX", "wav"), ("RF64", "wav"), ("W64", "w64"), ("AIFF", "aiff"), ("AU", "au"),
        ("CAF", "caf"), ("FLAC", "flac"),
    ]
    for subtype in [
        "PCM_U8", "PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW",
    ]
    if soundfile.check_format(container, subtype)
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype", "suffix"), EXACT)
def test_untouched_samples_come_back_bit_for_bit(tmp_path, container, subtype, suffix):
    source = Audio(noise(), 44_100, AudioFormat(container, subtype))
    write_audio(tmp_path / f"a.{suffix}", source)
    first = read_audio(tmp_path / f"a.{suffix}")
    write_audio(tmp_path / f"b.{suffix}", first)
    second = read_audio(tmp_path / f"b.{suffix}")
    assert first.format == second.format
    assert (first.format.container, first.format.subtype) == (container, subtype)
    assert first.samples.dtype == (np.float64 if subtype in ("PCM_32", "DOUBLE") else np.float32)
    assert first.samples.shape == (2, 3000)
    assert first.samples.flags.c_contiguous
    assert np.array_equal(first.samples, second.samples)
    assert np.max(np.abs(first.samples - source.samples)) < (0.04 if "LAW" in subtype else 0.008)
    assert audio_sha256(first) == audio_sha256(second)


@pytest.mark.parametrize("bits", [16, 20, 24, 32])
def test_alac_is_read_and_written_back_as_pcm(tmp_path, bits):
    tone = 0.5 * np.sin(np.arange(9000) / 20)
    stored = np.rint(tone * 2.0 ** (bits - 1)).astype(np.int64) << (32 - bits)
    soundfile.write(tmp_path / "a.caf", stored.astype(np.int32), 44_100, subtype=f"ALAC_{bits}")
    recording = read_audio(tmp_path / "a.caf")
    assert np.array_equal(recording.samples[0] * 2.0**31, stored)
    write_audio(tmp_path / "b.caf", recording)
    back = read_audio(tmp_path / "b.caf")
    assert back.format.subtype == {20: "PCM_24"}.get(bits, f"PCM_{bits}")
    assert np.array_equal(back.samples, recording.samples)


@pytest.mark.parametrize(("bits", "dtype"), [(16, np.int16), (24, np.int32), (32, np.int32)])
def test_every_integer_survives(tmp_path, bits, dtype):
    """Against files written by soundfile alone, as integers."""
    edge = 2 ** (bits - 1)
    values = np.unique(
        np.concatenate([np.linspace(-edge, edge - 1, 20_001).round(), [-edge, -edge + 1, -1, 0, 1, edge - 2, edge - 1]])
    )
    stored = (values.astype(np.int64) << (32 - bits if bits == 24 else 0)).astype(dtype)
    soundfile.write(tmp_path / "a.wav", stored, 48_000, subtype=f"PCM_{bits}")
    recording = read_audio(tmp_path / "a.wav")
    assert np.array_equal(recording.samples[0].astype(np.float64) * edge, values)
    write_audio(tmp_path / "b.wav", recording)
    assert np.array_equal(soundfile.read(tmp_path / "b.wav", dtype=stored.dtype.name)[0], stored)


@given(arrays(np.float32, (2, 37), elements=st.floats(-8, 8, width=32)))
@settings(max_examples=20, deadline=None)
def test_floats_survive_even_beyond_full_scale(tmp_path_factory, samples):
    path = tmp_path_factory.mktemp("floats") / "a.wav"
    write_audio(path, Audio(samples, 8000))
    assert np.array_equal(read_audio(path).samples, samples)


@pytest.mark.parametrize(
    ("name", "own", "expected"),
    [
        ("a.wav", AudioFormat("WAV", "PCM_24"), ("WAV", "PCM_24")),
        ("a.WAV", AudioFormat("RF64", "PCM_24"), ("RF64", "PCM_24")),
        ("a.flac", AudioFormat("WAV", "FLOAT"), ("FLAC", "PCM_24")),
        ("a.flac", AudioFormat("WAV", "PCM_U8"), ("FLAC", "PCM_S8")),
        ("a.flac", AudioFormat("WAV", "PCM_16"), ("FLAC", "PCM_16")),
        ("a.wav", AudioFormat("FLAC", "PCM_S8"), ("WAV", "PCM_U8")),
        ("a.wav", AudioFormat("OGG", "VORBIS"), ("WAV", "PCM_16")),
        ("a.ogg", AudioFormat("WAV", "PCM_16"), ("OGG", "VORBIS")),
        ("a.opus", AudioFormat("WAV", "PCM_16"), ("OGG", "OPUS")),
        ("a.mp3", AudioFormat("WAV", "PCM_16"), ("MP3", "MPEG_LAYER_III")),
        ("a.caf", AudioFormat("CAF", "ALAC_20"), ("CAF", "PCM_24")),
        ("a.caf", AudioFormat("CAF", "ALAC_32"), ("CAF", "PCM_32")),
    ],
)
def test_container_by_suffix_and_nearest_subtype(name, own, expected):
    chosen = output_format(name, own)
    assert (chosen.container, chosen.subtype) == expected


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.m4a", "a.txt", ".wav.bak"])
def test_unknown_suffix(tmp_path, name):
    fails(ErrorCode.AUDIO_UNSUPPORTED, write_audio, tmp_path / name, Audio(noise(), 8000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_lossy_containers_keep_rate_channels_and_about_the_length(tmp_path, suffix):
    write_audio(tmp_path / f"a.{suffix}", Audio(noise(2, 24_000), 24_000))
    back = read_audio(tmp_path / f"a.{suffix}")
    assert (back.sample_rate, back.channels) == (24_000, 2)
    assert abs(back.n_samples - 24_000) < 2400


@pytest.mark.parametrize("rate", [8000, 44_100, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("n", [1, 2, 1000])
def test_any_rate_channels_and_length(tmp_path, rate, channels, n):
    source = Audio(noise(channels, n), rate, AudioFormat("WAV", "PCM_16"))
    write_audio(tmp_path / "a.wav", source)
    back = read_audio(tmp_path / "a.wav")
    assert (back.sample_rate, back.channels, back.n_samples) == (rate, channels, n)
    assert back.duration_s == n / rate


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_module, "_BLOCK", 7)
    source = Audio(noise(3, 100).astype(np.float32), 8000, AudioFormat("WAV", "FLOAT"))
    write_audio(tmp_path / "a.wav", source)
    small_blocks = audio_sha256(source)
    assert np.array_equal(read_audio(tmp_path / "a.wav").samples, source.samples)
    monkeypatch.undo()
    assert audio_sha256(source) == small_blocks


def test_tags_are_carried_over(tmp_path):
    source = Audio(noise(), 44_100, AudioFormat("FLAC", "PCM_16"), (("artist", "Ana"), ("title", "Rain – ☂")))
    write_audio(tmp_path / "a.flac", source)
    assert read_audio(tmp_path / "a.flac").tags == source.tags
    write_audio(tmp_path / "a.voc", source)  # can't hold them
    assert read_audio(tmp_path / "a.voc").tags == ()


def test_clipping_is_counted_and_done_at_full_scale(tmp_path):
    loud = Audio(np.array([[0.5, 1.5, -1.0, -3.0, 1.0]]), 8000, AudioFormat("WAV", "PCM_16"))
    assert clipped_samples(loud) == 2
    assert clipped_samples(loud, "FLOAT") == 0
    write_audio(tmp_path / "a.wav", loud)
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [
        16384,
        32767,
        -32768,
        -32768,
        32767,
    ]


def test_wav_above_4_gib_becomes_rf64():
    long = Audio(np.broadcast_to(np.float32(0), (1, 8)), 8000, AudioFormat("WAV", "PCM_16"))
    object.__setattr__(long, "samples", np.broadcast_to(np.float32(0), (2, 1_200_000_000)))
    assert audio_module._sized(AudioFormat("WAV", "PCM_16"), long).container == "RF64"
    assert audio_module._sized(AudioFormat("WAV", "PCM_U8"), long).container == "WAV"
    assert audio_module._sized(AudioFormat("FLAC", "PCM_16"), long).container == "FLAC"


# Bad input ------------------------------------------------------------------------------------------------


def test_missing_file_and_folder(tmp_path):
    assert "a.wav" in fails(ErrorCode.AUDIO_NOT_FOUND, read_audio, tmp_path / "a.wav").message
    fails(ErrorCode.AUDIO_NOT_FOUND, read_audio, tmp_path / "no" / "a.wav")
    fails(ErrorCode.AUDIO_UNREADABLE, read_audio, tmp_path)
    fails(ErrorCode.AUDIO_UNREADABLE, read_audio, "a\0b.wav")
    fails(ErrorCode.AUDIO_NOT_FOUND, file_sha256, tmp_path / "a.wav")
    fails(ErrorCode.AUDIO_UNREADABLE, file_sha256, tmp_path)


def test_device_files_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    fails(ErrorCode.AUDIO_UNREADABLE, read_audio, tmp_path / "pipe.wav")


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.wav", b"", ErrorCode.AUDIO_EMPTY),
        ("a.wav", b"R", ErrorCode.AUDIO_UNREADABLE),
        ("a.wav", b"RIFF\x24\0\0\0WAVE", ErrorCode.AUDIO_UNREADABLE),
        ("a.wav", b"Dear diary, this is not audio.\n" * 50, ErrorCode.AUDIO_UNREADABLE),
        ("a.flac", bytes(range(256)) * 20, ErrorCode.AUDIO_UNREADABLE),
        ("a.mp3", b"\0" * 4000, ErrorCode.AUDIO_UNREADABLE),
        ("a.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0" + b"\0" * 100, ErrorCode.AUDIO_UNSUPPORTED),
        ("a.wav", b"\0\0\0\x20ftypisom\0\0\0\0" + b"\0" * 100, ErrorCode.AUDIO_UNSUPPORTED),
        ("a.webm", b"\x1aE\xdf\xa3" + b"\0" * 100, ErrorCode.AUDIO_UNSUPPORTED),
        ("a.raw", b"\1\2" * 100, ErrorCode.AUDIO_UNSUPPORTED),
    ],
)
def test_what_is_no_audio(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    assert name in fails(code, read_audio, tmp_path / name).message


@given(st.binary(max_size=300), st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_a_damaged_header_is_an_error_or_audio_never_a_crash(tmp_path_factory, junk, keep):
    folder = tmp_path_factory.mktemp("junk")
    soundfile.write(folder / "good.wav", noise(1, 50)[0], 8000)
    content = (folder / "good.wav").read_bytes()[:keep] + junk
    (folder / "bad.wav").write_bytes(content)
    try:
        read = read_audio(folder / "bad.wav")
    except SmartDJError:
        return
    assert read.n_samples > 0
    assert np.isfinite(read.samples).all()


@pytest.mark.parametrize("suffix", ["wav", "aiff", "au", "w64", "rf64", "caf", "flac"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_cut_short(tmp_path, suffix, keep):
    whole = tmp_path / f"whole.{suffix}"
    write_audio(whole, Audio(noise(2, 20_000), 24_000, AudioFormat("WAV", "PCM_16")))
    content = whole.read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: int(keep * len(content))])
    fails(ErrorCode.AUDIO_UNREADABLE, read_audio, tmp_path / f"cut.{suffix}")


def test_wav_written_to_a_pipe_is_not_cut_short(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1, 500)[0], 8000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "streamed.wav").write_bytes(content)
    assert read_audio(tmp_path / "streamed.wav").n_samples == 500


def test_flac_written_to_a_pipe_states_no_length(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(2, 9000).T, 8000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # 36 bits of STREAMINFO: the number of samples, 0 where it is unknown
    content[22:26] = bytes(4)
    (tmp_path / "streamed.flac").write_bytes(content)
    assert "length" in fails(ErrorCode.AUDIO_UNREADABLE, read_audio, tmp_path / "streamed.flac").message


def test_zero_frames_nan_and_infinity(tmp_path):
    soundfile.write(tmp_path / "zero.wav", np.zeros((0, 2)), 8000)
    fails(ErrorCode.AUDIO_EMPTY, read_audio, tmp_path / "zero.wav")
    for bad in (np.nan, np.inf, -np.inf):
        samples = np.zeros((8000, 2))
        samples[4000, 1] = bad
        soundfile.write(tmp_path / "bad.wav", samples, 8000, subtype="FLOAT")
        assert "0.500 s" in fails(ErrorCode.AUDIO_NOT_FINITE, read_audio, tmp_path / "bad.wav").message


def test_too_long_is_refused_before_it_is_read(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(1, 9000)[0], 8000)
    monkeypatch.setattr(audio_module, "MAX_DURATION_S", 1.0)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("samples were read"))
    fails(ErrorCode.AUDIO_TOO_LONG, read_audio, tmp_path / "a.wav")


def test_too_big_for_memory(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(1, 9000)[0], 8000)
    monkeypatch.setattr(audio_module, "_memory_bytes", lambda: 1000.0)
    fails(ErrorCode.OUT_OF_MEMORY, read_audio, tmp_path / "a.wav")


def test_no_permission_to_read(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1, 90)[0], 8000)

    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    assert "may read" in fails(ErrorCode.AUDIO_UNREADABLE, read_audio, path).hint


# Writing --------------------------------------------------------------------------------------------------


def test_existing_files_are_kept_unless_allowed(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"precious")
    fails(ErrorCode.OUTPUT_EXISTS, write_audio, path, Audio(noise(), 8000))
    assert path.read_bytes() == b"precious"
    write_audio(path, Audio(noise(), 8000), overwrite=True)
    assert read_audio(path).n_samples == 3000
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_whole = audio_module._write_whole

    def with_rival(*args):
        write_whole(*args)
        path.write_bytes(b"rival")

    monkeypatch.setattr(audio_module, "_write_whole", with_rival)
    for without_links in (False, True):
        path.unlink(missing_ok=True)
        if without_links:
            monkeypatch.setattr(os, "link", no_links)
        fails(ErrorCode.OUTPUT_EXISTS, write_audio, path, Audio(noise(), 8000))
        assert path.read_bytes() == b"rival"
        assert len(list(tmp_path.iterdir())) == 1


def no_links(*_args, **_kwargs):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_file_systems_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    write_audio(tmp_path / "a.wav", Audio(noise(), 8000))
    assert read_audio(tmp_path / "a.wav").n_samples == 3000
    assert len(list(tmp_path.iterdir())) == 1


def test_links_are_followed_and_the_umask_counts(tmp_path):
    (tmp_path / "real.wav").write_bytes(b"old")
    (tmp_path / "link.wav").symlink_to("real.wav")
    write_audio(tmp_path / "link.wav", Audio(noise(), 8000), overwrite=True)
    assert (tmp_path / "link.wav").is_symlink()
    assert read_audio(tmp_path / "real.wav").n_samples == 3000
    previous = os.umask(0o027)
    try:
        write_audio(tmp_path / "new.wav", Audio(noise(), 8000))
    finally:
        os.umask(previous)
    assert (tmp_path / "new.wav").stat().st_mode & 0o777 == 0o640


def test_output_is_checked_before_the_work(tmp_path):
    recording = tmp_path / "in.wav"
    recording.write_bytes(b"recording")
    (tmp_path / "alias.wav").symlink_to(recording)
    fails(ErrorCode.OUTPUT_IS_INPUT, check_output, recording, overwrite=True, source=recording)
    fails(ErrorCode.OUTPUT_IS_INPUT, check_output, tmp_path / "alias.wav", overwrite=True, source=recording)
    fails(ErrorCode.OUTPUT_EXISTS, check_output, recording)
    fails(ErrorCode.OUTPUT_UNWRITABLE, check_output, tmp_path / "no" / "out.wav")
    fails(ErrorCode.AUDIO_UNSUPPORTED, check_output, tmp_path / "out.docx")
    (tmp_path / "folder.wav").mkdir()
    fails(ErrorCode.OUTPUT_UNWRITABLE, check_output, tmp_path / "folder.wav", overwrite=True)
    check_output(tmp_path / "out.wav", source=recording)
    assert not (tmp_path / "out.wav").exists()


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    fails(ErrorCode.OUTPUT_UNWRITABLE, write_audio, tmp_path / "a.wav", Audio(noise(), 8000))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ErrorCode.DISK_FULL), (errno.EDQUOT, ErrorCode.DISK_FULL),
        (errno.EIO, ErrorCode.OUTPUT_UNWRITABLE), (errno.EROFS, ErrorCode.OUTPUT_UNWRITABLE),
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["fsync", "link", "open", "write"])
def test_a_failing_disk_leaves_nothing(tmp_path, monkeypatch, number, code, where):
    def fail(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    if where == "write":
        monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    else:
        monkeypatch.setattr(os, where, fail)
        if where == "link":
            monkeypatch.setattr(os, "replace", fail)
    fails(code, write_audio, tmp_path / "a.wav", Audio(noise(), 8000))
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting needs root")
    try:
        for suffix in ("wav", "flac", "ogg"):
            fails(ErrorCode.DISK_FULL, write_audio, disk / f"a.{suffix}", Audio(noise(2, 400_000), 48_000))
            assert not list(disk.iterdir())
        write_audio(disk / "small.wav", Audio(noise(1, 1000), 8000, AudioFormat("WAV", "PCM_16")))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_results_that_cannot_be_stored(tmp_path):
    fails(ErrorCode.AUDIO_EMPTY, write_audio, tmp_path / "a.wav", Audio(np.zeros((2, 0)), 8000))
    fails(ErrorCode.AUDIO_NOT_FINITE, write_audio, tmp_path / "a.wav", Audio(np.full((2, 9), np.nan), 8000))
    fails(ErrorCode.AUDIO_UNSUPPORTED, write_audio, tmp_path / "a.mp3", Audio(noise(8), 48_000))
    fails(ErrorCode.AUDIO_UNSUPPORTED, write_audio, tmp_path / "a.flac", Audio(noise(9), 48_000))
    assert not list(tmp_path.iterdir())


# Arithmetic -----------------------------------------------------------------------------------------------


@given(
    st.integers(0, 300),
    st.sampled_from([8000, 16_000, 24_000, 44_100, 48_000, 192_000]),
    st.sampled_from([16_000, 24_000]),
)
@settings(deadline=None)
def test_resampled_length_and_type(n, from_rate, to_rate):
    for dtype in (np.float32, np.float64):
        out = resample(np.ones((2, n), dtype), from_rate, to_rate)
        assert out.shape == (2, round(n * to_rate / from_rate))
        assert out.dtype == dtype
    assert resample(np.ones(n, np.float32), from_rate, to_rate).ndim == 1


def test_resampling_keeps_a_tone():
    def tone(rate):
        return np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)[None]

    out = resample(tone(44_100), 44_100, 24_000)
    assert np.max(np.abs(out - tone(24_000))[:, 200:-200]) < 1e-6


def test_hash_depends_on_contents_only(tmp_path):
    base = noise().astype(np.float32)
    reference = audio_sha256(Audio(base, 8000))
    assert audio_sha256(Audio(base.astype(np.float64), 8000, AudioFormat("FLAC", "PCM_24"))) == reference
    assert audio_sha256(Audio(base, 8001)) != reference
    assert audio_sha256(Audio(base.reshape(1, -1), 8000)) != reference
    changed = base.copy()
    changed[1, -1] += np.float32(1e-3)
    assert audio_sha256(Audio(changed, 8000)) != reference
    assert audio_sha256(Audio(np.array([[0.0]]), 8000)) == audio_sha256(Audio(np.array([[-0.0]]), 8000))
    for suffix in ("wav", "flac"):
        write_audio(tmp_path / f"a.{suffix}", Audio(base, 8000, AudioFormat("WAV", "PCM_16")))
    assert audio_sha256(read_audio(tmp_path / "a.wav")) == audio_sha256(read_audio(tmp_path / "a.flac"))
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x").startswith("ba7816bf")


@pytest.mark.parametrize("channels", range(1, 13))
def test_fold_to_stereo(channels):
    samples = noise(channels, 50).astype(np.float32)
    out = to_stereo(samples)
    assert out.shape == (2, 50)
    assert out.dtype == np.float32
    if channels == 1:
        assert np.array_equal(out, np.concatenate([samples, samples]))
    if channels == 2:
        assert np.array_equal(out, samples)
    if channels >= 3:  # a sound in one front channel stays on its side
        only_left = np.zeros_like(samples)
        only_left[0] = 1.0
        assert to_stereo(only_left)[0].any()
        assert not to_stereo(only_left)[1].any()
    if channels == 6:
        bass = np.zeros_like(samples)
        bass[3] = 1.0
        assert not to_stereo(bass).any()


def test_samples_need_two_axes_and_become_contiguous():
    with pytest.raises(ValueError, match="channels, n"):
        Audio(np.zeros(10, np.float32), 8000)
    audio = Audio(np.zeros((10, 2), np.int16).T, 8000)
    assert audio.samples.dtype == np.float32
    assert audio.samples.flags.c_contiguous


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.caf"])
def test_equal_recordings_make_equal_files(tmp_path: Path, name: str) -> None:
    audio = Audio(np.random.default_rng(0).uniform(-1, 1, (2, 500)).astype(np.float32), 8000)
    write_audio(tmp_path / name, audio)
    first = (tmp_path / name).read_bytes()
    assert b"PEAK" not in first
    if name == "a.wav":  # the only one of these that states a time is the chunk above; a second must not matter
        time.sleep(1.1)
    write_audio(tmp_path / name, audio, overwrite=True)
    assert (tmp_path / name).read_bytes() == first


def test_the_format_is_read_without_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "tagged.flac"
    write_audio(path, Audio(np.zeros((2, 100)), 8000, AudioFormat("FLAC", "PCM_24"), (("title", "Über"),)))
    whole = read_audio(path)
    assert read_format(path) == (whole.format, whole.tags)
    assert whole.tags == (("title", "Über"),)
    with pytest.raises(SmartDJError) as caught:
        read_format(tmp_path / "none.wav")
    assert caught.value.code is ErrorCode.AUDIO_NOT_FOUND


@pytest.mark.parametrize("container", sorted(soundfile.available_formats()))
def test_the_suffix_of_a_format_keeps_it(container: str) -> None:
    own = AudioFormat(container, str(soundfile.default_subtype(container) or "PCM_16"))
    suffix = suffix_of(own)
    kept = output_format(f"x{suffix}", own)
    assert kept.container == container or (suffix == ".wav" and kept.container == "WAV")
