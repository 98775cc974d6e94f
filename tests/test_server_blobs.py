"""The audio files: whole and right or not there, whatever is sent, whoever sends it, whenever the process dies."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server import blobs as blobs_module
from smartdj_agent.server.blobs import KEEP_UPLOAD_S, BlobStore, Swept, Upload
from smartdj_agent.server.store import JobRecord, JobState, StoredAudio
from tests.data_folder import NOW_S, Folder, info, sha, wav

EVERY = int(os.environ.get("SMARTDJ_TEST_KILL_EVERY", "13"))
"""Every which line of blobs.py the crash test dies at; 1 takes two minutes."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Folder]:
    opened = Folder(tmp_path, max_bytes=10_000, max_s=0.5, max_channels=2)
    yield opened
    opened.close()


# Uploads


def test_an_upload_is_described_and_whole(folder: Folder) -> None:
    data = wav(1, frames=700, channels=2, rate=22_050, container="FLAC")
    stored = folder.upload(data)
    assert stored == StoredAudio(sha(data), "", len(data), 22_050, 2, 700, "FLAC", "PCM_16")
    assert folder.store.audio(sha(data)) == stored
    assert folder.blobs.path(sha(data)).read_bytes() == data
    assert folder.leftovers() == [f"audio/{sha(data)[:2]}/{sha(data)}"]


@given(seed=st.integers(0, 3), cuts=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=6))
@settings(max_examples=25, deadline=None)
def test_an_upload_goes_on_at_any_offset_over_restarts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[tuple[int, int]]
) -> None:
    data = wav(seed)
    path = tmp_path_factory.mktemp("data")
    for number, (back, length) in enumerate(cuts):
        folder = Folder(path)
        folder.blobs.sweep()
        received = folder.blobs.received_bytes(sha(data))
        offset = max(0, received - back)
        upload = folder.blobs.begin(sha(data), len(data), offset)
        upload.write(data[offset : min(offset + length, len(data) - 1)])
        arrived = upload.received_bytes
        if number % 2:
            upload.close()  # else left open, as by a crash
            assert folder.blobs.received_bytes(sha(data)) == max(arrived, received if offset == 0 else 0)
        folder.close()
    folder = Folder(path)
    offset = folder.blobs.received_bytes(sha(data))
    with folder.blobs.begin(sha(data), len(data), offset) as upload:
        upload.write(data[offset:])
        assert upload.finish().sha256 == sha(data)
    assert folder.blobs.path(sha(data)).read_bytes() == data
    folder.blobs.sweep()
    assert len(folder.leftovers()) == 1, "no part stays once the file is whole"
    folder.close()


def test_uploads_of_one_file_at_the_same_time_do_not_disturb_each_other(folder: Folder) -> None:
    data = wav(1)
    first = folder.blobs.begin(sha(data), len(data))
    first.write(data[:1000])
    second = folder.blobs.begin(sha(data), len(data), 900)  # the client came back before the server noticed
    third = folder.blobs.begin(sha(data), len(data))
    third.write(data[:500])
    second.write(data[900:])
    assert second.finish().sha256 == sha(data)
    first.write(data[1000:])
    assert first.finish().sha256 == sha(data)
    third.close()
    assert len(folder.leftovers()) == 1
    assert folder.blobs.path(sha(data)).read_bytes() == data


def test_many_threads_upload_the_same_files(folder: Folder) -> None:
    files = [wav(seed) for seed in range(3)]

    def send(number: int) -> str:
        data = files[number % 3]
        with folder.blobs.begin(sha(data), len(data)) as upload:
            for start in range(0, len(data), 700):
                upload.write(data[start : start + 700])
            return upload.finish().sha256

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(send, range(24)))
    assert names == [sha(files[number % 3]) for number in range(24)]
    assert len(folder.leftovers()) == 3


def test_an_upload_that_ends_early_can_be_resumed(folder: Folder) -> None:
    data = wav(1)
    upload = folder.blobs.begin(sha(data), len(data))
    upload.write(data[:700])
    with pytest.raises(SmartDJError) as error:
        upload.finish()
    assert error.value.code is ErrorCode.UPLOAD_MISMATCH
    assert folder.blobs.received_bytes(sha(data)) == 700
    with folder.blobs.begin(sha(data), len(data), 700) as upload:
        upload.write(data[700:])
        assert upload.finish().sha256 == sha(data)


def test_of_several_parts_the_longest_stays(folder: Folder) -> None:
    data = wav(1)
    for length in (500, 2000, 1000):
        with folder.blobs.begin(sha(data), len(data)) as upload:
            upload.write(data[:length])
    assert folder.blobs.received_bytes(sha(data)) == 2000
    assert len(folder.leftovers()) == 1


def test_an_upload_that_sent_nothing_leaves_nothing(folder: Folder) -> None:
    folder.blobs.begin(sha(b"x"), 10).close()
    assert folder.leftovers() == []


def test_what_is_there_already_needs_no_bytes(folder: Folder) -> None:
    data = wav(1)
    stored = folder.upload(data)
    assert folder.blobs.received_bytes(sha(data)) == len(data)
    with folder.blobs.begin(sha(data), len(data), 0) as upload:
        upload.write(b"ignored")
        assert upload.finish() == stored


def test_a_file_whose_hash_only_its_end_tells(folder: Folder) -> None:
    data = wav(1)
    with folder.blobs.receive() as upload:
        upload.write(data[:100])
        upload.write(data[100:])
        assert upload.finish(sha(data)).sha256 == sha(data)
    with folder.blobs.receive() as upload:
        upload.write(data)
    with folder.blobs.receive() as upload:
        upload.write(data)
        with pytest.raises(SmartDJError) as error:
            upload.finish(sha(b"other"))
    assert error.value.code is ErrorCode.UPLOAD_MISMATCH
    assert len(folder.leftovers()) == 1


def refuse_offset(blobs: BlobStore) -> None:
    blobs.begin(sha(wav(1)), 4044, 1)


def refuse_negative_offset(blobs: BlobStore) -> None:
    blobs.begin(sha(wav(1)), 4044, -1)


def refuse_empty(blobs: BlobStore) -> None:
    blobs.begin(sha(b""), 0)


def refuse_size(blobs: BlobStore) -> None:
    blobs.begin(sha(wav(1)), 10_001)


def send(blobs: BlobStore, data: bytes, name: str = "", size: int | None = None) -> None:
    with blobs.begin(name or sha(data), len(data) if size is None else size) as upload:
        upload.write(data)
        upload.finish()


def send_endless(blobs: BlobStore) -> None:
    with blobs.receive() as upload:
        for _ in range(100):
            upload.write(bytes(1000))


REFUSED: list[tuple[Callable[[BlobStore], None], ErrorCode]] = [
    (refuse_offset, ErrorCode.UPLOAD_MISMATCH),
    (refuse_negative_offset, ErrorCode.UPLOAD_MISMATCH),
    (refuse_empty, ErrorCode.AUDIO_EMPTY),
    (refuse_size, ErrorCode.AUDIO_TOO_LONG),
    (send_endless, ErrorCode.AUDIO_TOO_LONG),
    (lambda blobs: send(blobs, wav(1), name=sha(b"other")), ErrorCode.UPLOAD_MISMATCH),
    (lambda blobs: send(blobs, wav(1), size=4000), ErrorCode.UPLOAD_MISMATCH),
    (lambda blobs: send(blobs, wav(1, frames=4001)), ErrorCode.AUDIO_TOO_LONG),
    (lambda blobs: send(blobs, wav(1, frames=500, channels=3)), ErrorCode.AUDIO_UNSUPPORTED),
    (lambda blobs: send(blobs, wav(1)[:-500]), ErrorCode.AUDIO_UNREADABLE),
    (lambda blobs: send(blobs, wav(1, frames=0)), ErrorCode.AUDIO_EMPTY),
    (lambda blobs: send(blobs, b"no audio at all" * 50), ErrorCode.AUDIO_UNREADABLE),
    (lambda blobs: send(blobs, b"\0\0\0\x20ftypM4A " + bytes(500)), ErrorCode.AUDIO_UNSUPPORTED),
]


@pytest.mark.parametrize(("attempt", "code"), REFUSED)
def test_what_is_refused_leaves_nothing(small: Folder, attempt: Callable[[BlobStore], None], code: ErrorCode) -> None:
    with pytest.raises(SmartDJError) as error:
        attempt(small.blobs)
    assert error.value.code is code
    assert error.value.hint
    assert str(small.path) not in error.value.message, "paths of the server are nobody's business"
    assert small.leftovers() == []
    assert small.store.audio_sizes() == {}
    send(small.blobs, wav(1))
    assert small.blobs.received_bytes(sha(wav(1))) == len(wav(1)), "the right file can still be sent"


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "a" * 31 + "/" + "a" * 32]
)
def test_only_hashes_name_files(folder: Folder, name: str) -> None:
    for attempt in (folder.blobs.path, folder.blobs.open, folder.blobs.received_bytes):
        with pytest.raises(SmartDJError) as error:
            attempt(name)
        assert error.value.code is ErrorCode.USAGE
    with pytest.raises(SmartDJError):
        folder.blobs.begin(name, 10)


def test_a_full_disk_is_a_clear_error_before_the_first_byte(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(folder.path)._replace(free=1000)
    monkeypatch.setattr(blobs_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SmartDJError) as error:
        folder.blobs.begin(sha(wav(1)), len(wav(1)))
    assert error.value.code is ErrorCode.DISK_FULL
    assert folder.leftovers() == []
    assert folder.blobs._writing == set()


def test_a_disk_that_fills_up_keeps_what_has_arrived(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = wav(1)

    class Full(io.FileIO):
        def write(self, block: Any) -> int:
            if self.tell() >= 1000:
                raise OSError(28, "No space left on device")
            return super().write(bytes(block)[:700])  # and takes less than it was given

    upload = folder.blobs.begin(sha(data), len(data))
    assert upload._path is not None
    upload._file = Full(upload._path, "r+")
    with pytest.raises(SmartDJError) as error:
        upload.write(data)
    assert error.value.code is ErrorCode.DISK_FULL
    upload.close()
    assert folder.blobs.received_bytes(sha(data)) == 1400
    with folder.blobs.begin(sha(data), len(data), 1400) as upload:
        upload.write(data[1400:])
        assert upload.finish().sha256 == sha(data)


def test_a_part_that_vanishes_while_it_is_copied_is_a_clear_error(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = wav(1)
    first = folder.blobs.begin(sha(data), len(data))
    first.write(data[:1000])
    original = Upload._open_at

    def vanish(self: Upload, *arguments: Any) -> None:
        first._discard()
        original(self, *arguments)

    monkeypatch.setattr(Upload, "_open_at", vanish)
    with pytest.raises(SmartDJError) as error:
        folder.blobs.begin(sha(data), len(data), 1000)
    assert error.value.code is ErrorCode.UPLOAD_MISMATCH
    assert folder.leftovers() == []


# Files on this machine


def test_an_import_is_a_copy(folder: Folder, tmp_path: Path) -> None:
    original = tmp_path / "song.wav"
    original.write_bytes(wav(1))
    stored = folder.blobs.import_file(original)
    original.write_bytes(wav(2))
    assert folder.blobs.path(stored.sha256).read_bytes() == wav(1)
    assert folder.blobs.path(stored.sha256).stat().st_nlink == 1


def test_imports_that_are_refused_leave_nothing_and_name_the_file(small: Folder, tmp_path: Path) -> None:
    (tmp_path / "junk.wav").write_bytes(b"junk" * 100)
    (tmp_path / "long.wav").write_bytes(wav(1, frames=4001))
    (tmp_path / "wide.wav").write_bytes(wav(1, frames=100, channels=3))
    (tmp_path / "big.wav").write_bytes(wav(1, frames=3000, channels=2))
    os.mkfifo(tmp_path / "pipe.wav")
    expected = {
        "junk.wav": ErrorCode.AUDIO_UNREADABLE, "long.wav": ErrorCode.AUDIO_TOO_LONG,
        "wide.wav": ErrorCode.AUDIO_UNSUPPORTED, "big.wav": ErrorCode.AUDIO_TOO_LONG,
        "pipe.wav": ErrorCode.AUDIO_UNREADABLE, "tmp": ErrorCode.AUDIO_UNREADABLE,
        "missing.wav": ErrorCode.AUDIO_NOT_FOUND,
    }  # fmt: skip
    for name, code in expected.items():
        with pytest.raises(SmartDJError) as error:
            small.blobs.import_file(tmp_path / name)
        assert error.value.code is code, name
        assert name in error.value.message or name == "big.wav"
    assert small.leftovers() == []


# Files that the server made


def test_audio_to_resume_from_goes_with_the_next_step_and_the_end(folder: Folder) -> None:
    source = folder.upload(wav(0))
    folder.job(source_sha256=source.sha256)
    first, second, exact_first, exact_second = (wav(seed) for seed in range(1, 5))

    def step(delivered: bytes, exact: bytes, steps: tuple[str, ...], **changes: Any) -> JobRecord:
        files = [(folder.make(delivered), info(delivered)), (folder.make(exact), info(exact))]
        return folder.blobs.record("job", [b"event"], files=files, steps=steps, resume_sha256=sha(exact), **changes)

    step(first, exact_first, (sha(first),))
    assert folder.blobs.path(sha(exact_first)).exists()
    record = step(second, exact_second, (sha(first), sha(second)))
    assert record.last_sequence == 2
    assert not folder.blobs.path(sha(exact_first)).exists()
    folder.blobs.record("job", [b"end"], state=JobState.SUCCEEDED, result_sha256=sha(second))
    kept = {source.sha256, sha(first), sha(second)}
    assert {Path(name).name for name in folder.leftovers()} == kept == folder.store.audio_sizes().keys()


def test_one_file_may_be_delivered_and_resumed_from(folder: Folder) -> None:
    data = wav(1)
    path = folder.make(data)
    folder.job()
    folder.blobs.record(
        "job", [], files=[(path, info(data)), (path, info(data))], steps=(sha(data),), resume_sha256=sha(data)
    )
    folder.blobs.record("job", [], state=JobState.SUCCEEDED, result_sha256=sha(data))
    assert folder.blobs.path(sha(data)).read_bytes() == data
    assert folder.store.audio(sha(data)) == info(data)


def test_two_jobs_may_resume_from_the_same_audio(folder: Folder) -> None:
    data = wav(1)
    for name in ("a", "b"):
        folder.job(name)
        folder.blobs.record(name, [], files=[(folder.make(data), info(data))], resume_sha256=sha(data))
    folder.blobs.record("a", [], state=JobState.CANCELLED)
    assert folder.blobs.path(sha(data)).exists()
    folder.blobs.record("b", [], state=JobState.CANCELLED)
    assert not folder.blobs.path(sha(data)).exists()


def test_what_a_job_made_after_it_was_cancelled_leaves_nothing(folder: Folder) -> None:
    folder.job()
    folder.store.append("job", [], state=JobState.CANCELLED)
    with pytest.raises(SmartDJError) as error:
        folder.blobs.record("job", [b"e"], files=[(folder.make(wav(1)), info(wav(1)))], steps=(sha(wav(1)),))
    assert error.value.code is ErrorCode.JOB_ENDED
    assert folder.leftovers() == []


def test_an_adopted_file_waits_a_moment_for_its_job(folder: Folder) -> None:
    data = wav(1)
    folder.blobs.adopt(folder.make(data), info(data))
    assert folder.blobs.delete([sha(data)]) == []
    folder.now_s += 61
    assert folder.blobs.delete([sha(data)]) == [sha(data)]
    assert folder.leftovers() == []


def test_who_asks_for_an_old_upload_keeps_it_for_another_hour(folder: Folder) -> None:
    data = wav(1)
    folder.upload(data)
    folder.now_s += KEEP_UPLOAD_S - 1
    assert folder.blobs.received_bytes(sha(data)) == len(data)
    folder.now_s += KEEP_UPLOAD_S - 1
    assert folder.blobs.delete([sha(data)]) == []
    folder.now_s += 1
    assert folder.blobs.delete([sha(data)]) == [sha(data)]


def test_a_reader_reads_on_what_is_deleted_meanwhile(folder: Folder) -> None:
    data = wav(1)
    folder.upload(data)
    with folder.blobs.open(sha(data)) as reader:
        head = reader.read(10)
        folder.now_s += 2 * KEEP_UPLOAD_S
        assert folder.blobs.delete([sha(data)]) == [sha(data)]
        assert head + reader.read() == data
    with pytest.raises(SmartDJError) as error:
        folder.blobs.open(sha(data))
    assert error.value.code is ErrorCode.AUDIO_NOT_FOUND


# One process, and what a crash leaves


def test_two_servers_do_not_work_in_one_folder(folder: Folder) -> None:
    with pytest.raises(SmartDJError) as error:
        BlobStore(folder.path, folder.store)
    assert error.value.code is ErrorCode.SERVER_CONFIG
    folder.blobs.close()
    BlobStore(folder.path, folder.store).close()


def test_a_folder_that_can_not_be_used_is_a_clear_error(folder: Folder) -> None:
    (folder.path / "file").touch()
    with pytest.raises(SmartDJError) as error:
        BlobStore(folder.path / "file", folder.store)
    assert error.value.code is ErrorCode.SERVER_CONFIG


def test_the_folder_is_its_owners_only(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new" / "data")
    folder.upload(wav(1))
    folder.close()
    assert (tmp_path / "new" / "data").stat().st_mode & 0o077 == 0


def test_the_sweep_takes_away_what_a_crash_left_and_nothing_else(folder: Folder) -> None:
    kept, lost, needed, cut = (folder.upload(wav(seed)).sha256 for seed in range(4))
    folder.job(source_sha256=needed)
    for name in (lost, needed):
        folder.blobs.path(name).unlink()
    folder.blobs.path(cut).write_bytes(b"cut")
    part, old, whole = wav(10), wav(11), wav(0)
    for data in (part, old):
        with folder.blobs.begin(sha(data), len(data)) as upload:
            upload.write(data[:1000])
    (old_part,) = folder.blobs._parts(sha(old))
    for path in folder.blobs._parts(sha(part)):
        os.utime(path, (NOW_S - 10, NOW_S - 10))
    os.utime(old_part, (NOW_S - KEEP_UPLOAD_S - 1,) * 2)
    doubled = folder.path / "uploads" / f"{sha(part)}-0.part"
    already = folder.path / "uploads" / f"{sha(whole)}-0.part"
    doubled.write_bytes(part[:900])
    already.write_bytes(whole[:900])
    stray = folder.blobs.path(sha(b"stray"))
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"stray")
    (folder.path / "audio" / "notes.txt").touch()
    folder.blobs.temporary(".wav").touch()
    deep = folder.blobs.temporary("")
    deep.mkdir()
    (deep / "file").touch()

    assert folder.blobs.sweep() == Swept(temporaries=2, parts=3, files=1, rows=3)
    left = {Path(name).name for name in folder.leftovers()}
    assert left == {kept, folder.blobs._parts(sha(part))[0].name, "notes.txt"}
    assert folder.store.audio_sizes().keys() == {kept}
    assert folder.blobs.received_bytes(sha(part)) == 1000
    assert folder.blobs.sweep() == Swept()
    folder.upload(wav(2))
    assert folder.store.audio(needed) is not None, "what was lost may come back"


class Journal:
    """What a process says it has done, in words that survive it."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.uploaded: dict[str, int] = {}
        self.gone: set[str] = set()

    def read(self, lines: list[bytes]) -> None:
        for line in lines:
            if line.endswith(b"\n"):
                word = json.loads(line)
                if "job" in word:
                    self.jobs[word["job"]] = word
                elif "audio" in word:
                    self.uploaded[word["audio"]] = word["number"]
                else:
                    self.gone.add(word["gone"])


def one_job(folder: Folder, number: int, output: int) -> None:
    """Upload a recording, edit it in two steps, delete every fifth job; telling each thing that is done."""

    def tell(**what: Any) -> None:
        os.write(output, (json.dumps(what) + "\n").encode())

    data = wav(number)
    with folder.blobs.begin(sha(data), len(data)) as upload:
        for start in range(0, len(data), 1500):
            upload.write(data[start : start + 1500])
        upload.finish()
    tell(audio=sha(data), number=number)
    name = f"job{number}"
    folder.job(name, source_sha256=sha(data))
    tell(job=name, sequence=0, steps=0, state="queued")
    steps: tuple[str, ...] = ()
    for step in (1, 2):
        out, exact = wav(number + 100_000 * step), wav(number + 100_000 * step + 50_000)
        steps += (sha(out),)
        folder.blobs.record(
            name,
            [f"{name} {step}.{i}".encode() for i in range(4)],
            files=[(folder.make(out), info(out)), (folder.make(exact), info(exact))],
            steps=steps,
            resume_sha256=sha(exact),
            state=JobState.RUNNING,
        )
        tell(job=name, sequence=4 * step, steps=step, state="running")
    folder.blobs.record(name, [b"end"], state=JobState.SUCCEEDED, result_sha256=steps[-1])
    tell(job=name, sequence=9, steps=2, state="succeeded")
    if number % 5 == 0:
        folder.store.delete_jobs([name])
        folder.blobs.delete(steps)
        tell(gone=name)


ENDLESS = """
import itertools, sys, threading
from pathlib import Path
from tests.test_server_blobs import Folder, one_job

folder = Folder(Path(sys.argv[1]))
numbers = itertools.count(int(sys.argv[2]))

def work():
    for number in numbers:
        one_job(folder, number, 1)

for _ in range(2):
    threading.Thread(target=work).start()
"""


def test_killed_at_any_moment_nothing_is_lost_and_nothing_is_wrong(tmp_path: Path) -> None:
    journal = Journal()
    root = Path(__file__).parent.parent
    for round_number in range(5):
        dice = random.Random(round_number)
        child = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path / "data"), str(round_number * 10_000)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(dice.randrange(2, 80))]
        time.sleep(dice.uniform(0, 0.02))  # so that it dies anywhere, not only just after a word
        child.kill()
        lines += child.stdout.readlines()
        assert child.wait() == -9, "it must have been at work until then"
        child.stdout.close()
        journal.read(lines)
        check_after_crash(tmp_path / "data", journal)
    assert len(journal.jobs) > 10


def lines_until_killed(path: Path, kill_at: int) -> tuple[int, list[bytes]]:
    """Do one job in a process that kills itself before the `kill_at`-th line of blobs.py; returns lines and words."""
    incoming, output = os.pipe()
    done, counted = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            count = 0

            def trace(frame: Any, event: str, _: Any) -> Any:
                nonlocal count
                if frame.f_code.co_filename != blobs_module.__file__:
                    return None
                if event == "line":
                    count += 1
                    if count == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            folder = Folder(path)
            sys.settrace(trace)
            one_job(folder, 0, output)
            sys.settrace(None)
            os.write(counted, str(count).encode())
        finally:
            os._exit(0)
    os.close(output)
    os.close(counted)
    os.waitpid(child, 0)
    with os.fdopen(incoming, "rb") as words, os.fdopen(done, "rb") as lines:
        return int(lines.read() or 0), words.readlines()


def test_killed_before_each_line_in_turn_nothing_is_lost_and_nothing_is_wrong(tmp_path: Path) -> None:
    total, words = lines_until_killed(tmp_path / "whole", 0)
    assert total > 100
    assert len(words) == 6
    said = set()
    for kill_at in range(1, total + 1, EVERY):
        path = tmp_path / str(kill_at)
        journal = Journal()
        count, words = lines_until_killed(path, kill_at)
        assert count == 0, "it was killed"
        said.add(len(words))
        journal.read(words)
        check_after_crash(path, journal)
        shutil.rmtree(path)
    assert said >= {0, 2, 3, 4, 5}


def check_after_crash(data_dir: Path, journal: Journal) -> None:
    with sqlite3.connect(data_dir / "jobs.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()
    folder = Folder(data_dir)
    swept = folder.blobs.sweep()
    assert swept.rows == 0, "a row always means a whole file"
    assert folder.blobs.sweep() == Swept()

    sizes = folder.store.audio_sizes()
    assert journal.uploaded.keys() <= sizes.keys(), "what was uploaded is there"
    whole = [path for path in (data_dir / "audio").rglob("*") if path.is_file()]
    assert {path.name for path in whole} == sizes.keys(), "files and rows agree"
    for path in whole:
        assert sha(path.read_bytes()) == path.name
    assert list((data_dir / "tmp").iterdir()) == []
    parts = list((data_dir / "uploads").iterdir())
    if parts:
        begun = {0, *(number + ahead for number in journal.uploaded.values() for ahead in range(3))}
        begun |= {round_number * 10_000 + ahead for round_number in range(5) for ahead in range(2)}
        sent = {sha(wav(number)): wav(number) for number in begun}
        for path in parts:
            assert sent[path.name.split("-")[0]].startswith(path.read_bytes())

    order = list(JobState)
    for name, word in journal.jobs.items():
        if name in journal.gone:
            with pytest.raises(SmartDJError):
                folder.store.get(name)
            continue
        try:
            record = folder.store.get(name)
        except SmartDJError:  # killed while it deleted the job, and had not said so yet
            assert int(name[3:]) % 5 == 0
            assert word["state"] == "succeeded"
            continue
        # What it said is there; what it did in its last moment, without saying so, may be there too.
        assert record.last_sequence >= word["sequence"]
        assert len(record.steps) >= word["steps"]
        assert order.index(record.state) >= order.index(JobState(word["state"]))
        assert record.audio <= sizes.keys()
        events = folder.store.events(name, 0, 100)
        expected = [f"{name} {step}.{i}".encode() for step in (1, 2) for i in range(4)] + [b"end"]
        assert events == list(enumerate(expected, 1))[: record.last_sequence]
        assert record.last_sequence == {0: 0, 1: 4, 2: 9 if record.state.ended else 8}[len(record.steps)]
    folder.close()
