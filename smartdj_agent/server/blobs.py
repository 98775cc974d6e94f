"""Audio files by the SHA-256 of their bytes, right after a crash at any moment.

Below the data folder::

    audio/ab/abcd…     whole, checked files; never changed, so readers need no lock
    uploads/HASH-X.part  what has arrived of a file so far; survives a restart
    tmp/               files that are being made; nobody's after a restart
    lock               held by the one process that works here

A file gets its name in ``audio/`` by a rename after its bytes are safely on the disk, and its row in the `JobStore`
after that name is: a row means a whole file. Deleting goes the other way. What a crash leaves in between is in nobody's
way, and `BlobStore.sweep` takes it away at the next start.

Several servers may share the folder where they share the database (`JobStore.replica`). Then each has its own folder in
``tmp/``, the parts it writes bear its name, what others write is left alone while they live, and ``database`` names the
database, so that no other one's server takes the files for leftovers.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, Unpack

from filelock import FileLock, Timeout

from smartdj_agent.audio import MAX_DURATION_S, read_header
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import sync_folder, write_file
from smartdj_agent.server.store import JobChanges, JobRecord, JobStore, StoredAudio

KEEP_UPLOAD_S = 3600.0
"""How long what was sent stays without a job, seconds: whole files since they were last asked about, parts since their
last byte."""

_ADOPTED_GRACE_S = 60.0
"""How long a file that was adopted by itself stays without a job, seconds: its job's row follows in a moment."""

_SILENT_PART_S = 120.0
"""After how long without a byte another server's part is taken for abandoned, seconds; calls are given up sooner."""

_BLOCK_BYTES = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")
_SPARE_BYTES = 64 * 2**20
"""Free space that uploads leave on the disk."""


@dataclass(frozen=True)
class Swept:
    """What `BlobStore.sweep` found and took away; all zero after an orderly end.

    Attributes
    ----------
    temporaries
        Files and folders that were being made.
    parts
        Incomplete uploads that are too old or doubled.
    files
        Files in ``audio/`` that no row stands for.
    rows
        Rows whose file is missing or has another size.
    """

    temporaries: int = 0
    parts: int = 0
    files: int = 0
    rows: int = 0


class Upload:
    """A file that is arriving; made by `BlobStore.begin` and `BlobStore.receive`. For one thread at a time.

    Use it as a context manager, or call `close`: what has arrived of a file whose hash is known then stays, to be
    resumed.

    Attributes
    ----------
    sha256
        Of the whole file; empty where only the end will tell.
    received_bytes
        What has arrived, from the file's beginning.
    """

    def __init__(self, blobs: BlobStore, sha256: str, size_bytes: int | None, stored: StoredAudio | None) -> None:
        self.sha256 = sha256
        self.received_bytes = 0
        self._blobs = blobs
        self._size_bytes = size_bytes
        self._stored = stored
        self._digest = hashlib.sha256()
        self._path: Path | None = None
        self._file: RawIOBase | None = None

    def write(self, data: bytes) -> None:
        """Add the next bytes. Of a file that the store has already, they are ignored.

        Raises
        ------
        SmartDJError
            ``UPLOAD_MISMATCH`` where they are more than the header said, ``AUDIO_TOO_LONG`` above the store's limit:
            then nothing is left of the upload. ``DISK_FULL``: what has arrived stays.
        """
        if self._stored is not None:
            return
        if self._file is None:
            raise ValueError("the upload is closed")
        total = self.received_bytes + len(data)
        if self._size_bytes is not None and total > self._size_bytes:
            self._discard()
            raise SmartDJError(
                ErrorCode.UPLOAD_MISMATCH,
                f"more bytes came than the {self._size_bytes} that the header said",
                "send the file again from its beginning, with its size in the header",
                field="header.size_bytes",
            )
        if total > self._blobs._max_bytes:
            self._discard()
            raise self._blobs._too_big()
        with _plain_errors():
            for taken in _written(self._file, data):
                self._digest.update(taken)
                self.received_bytes += len(taken)

    def finish(self, sha256: str = "") -> StoredAudio:
        """Check the whole file and take it into the store.

        Parameters
        ----------
        sha256
            What the file's hash must be, where it wasn't known at the beginning; empty for no check.

        Raises
        ------
        SmartDJError
            ``UPLOAD_MISMATCH`` where the file has another hash than was said; ``AUDIO_*`` where it isn't audio that
            this store takes, see `BlobStore`. Then nothing is left of the upload. ``UPLOAD_MISMATCH`` also where less
            came than was said; then what came stays: to a server, a connection that breaks may look like an early end.
        """
        if self._stored is None:
            if self._file is None or self._path is None:
                raise ValueError("the upload is closed")
            if self._size_bytes is not None and self.received_bytes < self._size_bytes:
                self.close()
                raise SmartDJError(
                    ErrorCode.UPLOAD_MISMATCH,
                    f"only {self.received_bytes} of {self._size_bytes} bytes came",
                    "send the rest, from where GetUpload says",
                    field="header.size_bytes",
                )
            try:
                self._check(sha256)
                with _plain_errors():
                    os.fsync(self._file.fileno())
                    self._file.close()
                self._stored = self._blobs._take_in(self._path, self._digest.hexdigest(), "the upload")
            except BaseException:
                self._discard()
                raise
            self.close()
        return self._stored

    def close(self) -> None:
        """Stop. What has arrived stays where it can be resumed."""
        if self._file is not None and self._path is not None:
            self._file.close()
            self._file = None
            self._blobs._let_go(self._path, self.sha256)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_at(self, path: Path, offset_bytes: int, copy_from: Path | None) -> None:
        """Begin to write into `path`, after `offset_bytes` that are there or in the file to copy from."""
        file = path.open("xb" if copy_from is not None or not offset_bytes else "r+b", buffering=0)
        self._path, self._file = path, file
        if offset_bytes:
            with (copy_from or path).open("rb") as earlier:
                while self.received_bytes < offset_bytes:
                    block = earlier.read(min(_BLOCK_BYTES, offset_bytes - self.received_bytes))
                    if not block:
                        raise FileNotFoundError
                    if copy_from is not None:
                        for _ in _written(file, block):
                            pass
                    self._digest.update(block)
                    self.received_bytes += len(block)
        file.seek(offset_bytes)
        file.truncate()

    def _check(self, sha256: str) -> None:
        wanted = self.sha256 or sha256
        if wanted and self._digest.hexdigest() != wanted:
            raise SmartDJError(
                ErrorCode.UPLOAD_MISMATCH,
                f"the bytes that came have another SHA-256 than {wanted[:12]}…",
                "send the file again from its beginning; check that it does not change meanwhile",
                field="header.sha256" if self.sha256 else "audio_end.sha256",
            )

    def _discard(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.close()


class BlobStore:
    """The audio files of one data folder. Safe to use from several threads.

    Parameters
    ----------
    data_dir
        The folder; made where it isn't there, readable for its owner only. Locked against other processes until
        `close`, or until this process ends in any way.
    store
        Where rows about the files are. With a `JobStore.replica` the folder is shared, and not locked.
    lease_s
        How long another server of a shared folder may be silent before it counts as gone, seconds.
    max_bytes, max_s, max_channels
        Limits of every file that is sent or imported: size in bytes, length in seconds, number of channels.
    clock
        Seconds since the epoch.

    Raises
    ------
    SmartDJError
        ``SERVER_CONFIG`` where another process works in the folder, or it can't be written.

    Notes
    -----
    Files that are sent or imported must be audio that libsndfile reads. Otherwise ``AUDIO_EMPTY``,
    ``AUDIO_UNREADABLE``, ``AUDIO_UNSUPPORTED`` (also: too many channels) or ``AUDIO_TOO_LONG`` (also: too many bytes)
    is raised and nothing is left of them. Any method that writes may raise ``DISK_FULL``.
    """

    def __init__(
        self,
        data_dir: Path,
        store: JobStore,
        *,
        max_bytes: int = 2**31,
        max_s: float = MAX_DURATION_S,
        max_channels: int = 8,
        clock: Callable[[], float] = time.time,
        lease_s: float = 10.0,
    ) -> None:
        self._replica = store.replica
        self._lease_s = lease_s
        self._depth = 0
        self._max_bytes = max_bytes
        self._max_s = max_s
        self._max_channels = max_channels
        self._store = store
        self._clock = clock
        self._audio = data_dir / "audio"
        self._uploads = data_dir / "uploads"
        self._all_tmp = data_dir / "tmp"
        self._tmp = self._all_tmp / self._replica if self._replica else self._all_tmp
        # Held wherever a file and its row come or go together, so that nothing is deleted that just came to be needed.
        self._lock = threading.RLock()
        self._writing: set[Path] = set()
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self._audio, self._uploads, self._all_tmp, self._tmp):
                folder.mkdir(exist_ok=True, mode=0o700)
            sync_folder(data_dir)
            self._process_lock = FileLock(data_dir / "lock", timeout=0, thread_local=False)
            if self._replica:
                self._check_mark(data_dir)
            else:
                self._process_lock.acquire()
                if (data_dir / "database").exists():
                    self._process_lock.release()
                    raise _shared_folder(data_dir, "by servers with a database of their own")
        except Timeout as error:
            raise SmartDJError(
                ErrorCode.SERVER_CONFIG,
                f"another server works in {data_dir}",
                "stop it, or choose another folder with --data-dir",
                field="data_dir",
            ) from error
        except OSError as error:
            raise SmartDJError(
                ErrorCode.SERVER_CONFIG,
                f"the data folder {data_dir} can't be used: {error.strerror or error}",
                "check your permissions, or choose another folder with --data-dir",
                field="data_dir",
            ) from error

    def close(self) -> None:
        """Let another process work in the folder."""
        self._process_lock.release()
        if self._replica:
            shutil.rmtree(self._tmp, ignore_errors=True)

    def _check_mark(self, data_dir: Path) -> None:
        """Refuse another database's folder, whose files would count as leftovers, and a second folder of this one."""
        path = data_dir / "database"
        if not path.exists() and (data_dir / "jobs.db").exists():
            raise _shared_folder(data_dir, "with jobs.db")
        with self._alone():
            own = path.read_text(encoding="utf-8") if path.exists() else ""
            new = uuid.uuid4().hex
            mark = self._store.folder_mark("" if own else new)
            if own and own != mark:
                raise _shared_folder(data_dir, "by servers with another database")
            if mark == new:
                write_file(path, mark, overwrite=True)
            elif not own:
                raise SmartDJError(
                    ErrorCode.SERVER_CONFIG,
                    f"this database's servers keep their audio in another folder than {data_dir}",
                    "give all servers of a database the same --data-dir, and check that it is mounted",
                    field="data_dir",
                )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else, thread or server, adds or deletes files inside the block."""
        with self._lock:
            if self._depth:
                yield
                return
            with self._store.files_alone():
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    def set_limits(self, max_bytes: int, max_s: float, max_channels: int) -> None:
        """Change the limits of files that come from now on."""
        self._max_bytes, self._max_s, self._max_channels = max_bytes, max_s, max_channels

    def path(self, sha256: str) -> Path:
        """Return where a file is, or would be.

        Raises
        ------
        SmartDJError
            ``USAGE`` where this is no SHA-256 in 64 lower-case hexadecimal digits.
        """
        if not _HASH.fullmatch(sha256):
            raise SmartDJError(
                ErrorCode.USAGE,
                "that is no SHA-256",
                "give the hash of the file's bytes as 64 lower-case hexadecimal digits",
                field="sha256",
            )
        return self._audio / sha256[:2] / sha256

    def open(self, sha256: str) -> BinaryIO:
        """Open a file to read it; it can be read to its end even where it is deleted meanwhile.

        Raises
        ------
        SmartDJError
            ``USAGE`` (no hash), ``AUDIO_NOT_FOUND``.
        """
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError as error:
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FOUND, f"the server has no audio {sha256}", "upload it, or make it again"
            ) from error

    def temporary(self, suffix: str) -> Path:
        """Return a new path on the same file system, for a file or folder; `sweep` takes away what is left there."""
        if self._replica:  # another server may have taken this one for dead meanwhile
            self._tmp.mkdir(exist_ok=True, mode=0o700)
        return self._tmp / f"{uuid.uuid4().hex}{suffix}"

    # Files that this server made

    def adopt(self, temporary: Path, info: StoredAudio) -> None:
        """Take in a file that was made here, moving it; better with its job in one, see `record`.

        Parameters
        ----------
        temporary
            On the same file system, see `temporary`. It is gone afterwards.
        info
            What it is. Size and limits are the caller's business, its hash too.
        """
        self._sync(temporary)
        with self._alone():
            self._publish(temporary, info, self._clock() + _ADOPTED_GRACE_S)

    def record(
        self,
        job_id: str,
        events: Sequence[bytes],
        *,
        files: Iterable[tuple[Path, StoredAudio]] = (),
        **changes: Unpack[JobChanges],
    ) -> JobRecord:
        """Take in files and change the job that refers to them, as `JobStore.append`; for every finished step.

        Nothing can delete the files in between, and audio to resume from that the job needs no more goes at once.

        Parameters
        ----------
        job_id, events, changes
            As for `JobStore.append`, which also says what is raised.
        files
            Temporaries and what they are, as for `adopt`.
        """
        produced = list(files)
        for temporary, _ in produced:
            self._sync(temporary)
        with self._alone():
            before = self._store.get(job_id)
            for temporary, info in produced:
                self._publish(temporary, info, 0.0)
            try:
                after = self._store.append(job_id, events, **changes)
            except SmartDJError:  # cancelled meanwhile, for example
                self.delete([info.sha256 for _, info in produced])
                raise
            if before.resume_sha256 and before.resume_sha256 not in after.audio:
                self.delete([before.resume_sha256])
        return after

    # Files that come from outside

    def received_bytes(self, sha256: str) -> int:
        """Return how much of a file has arrived; its size where it is there whole. Asking keeps it for another hour."""
        with self._alone():
            stored = self._present(sha256)
            if stored is not None:
                return stored.size_bytes
            return max((_size(part) for part in self._parts(sha256)), default=0)

    def begin(self, sha256: str, size_bytes: int, offset_bytes: int = 0) -> Upload:
        """Begin or resume an upload. Uploads of the same file at the same time don't disturb each other.

        Parameters
        ----------
        sha256
            Of the whole file.
        size_bytes
            Of the whole file.
        offset_bytes
            Where the data begins; at most what `received_bytes` says. What arrived beyond it is overwritten.

        Raises
        ------
        SmartDJError
            ``USAGE`` (no hash), ``AUDIO_EMPTY``, ``AUDIO_TOO_LONG``, ``UPLOAD_MISMATCH`` (offset), ``DISK_FULL``.
        """
        self.path(sha256)  # refuses what is no hash
        if size_bytes <= 0:
            raise SmartDJError(
                ErrorCode.AUDIO_EMPTY, "the upload is empty (0 bytes)", "send a whole file", field="header.size_bytes"
            )
        if size_bytes > self._max_bytes:
            raise self._too_big()
        with self._alone():
            stored = self._present(sha256)
            upload = Upload(self, sha256, size_bytes, stored)
            if stored is not None:
                upload.received_bytes = stored.size_bytes
                return upload
            parts = sorted(self._parts(sha256), key=_size, reverse=True)
            fitting = [part for part in parts if offset_bytes <= _size(part)]
            if not 0 <= offset_bytes <= size_bytes or (offset_bytes and not fitting):
                raise _bad_offset(offset_bytes)
            # Who begins anew gets a new file, and who goes on while another call still writes gets a copy.
            free = [part for part in fitting if not self._written_to(part)] if offset_bytes else []
            path = free[0] if free else self._uploads / f"{sha256}-{self._replica}{uuid.uuid4().hex[:8]}.part"
            source = fitting[0] if offset_bytes and not free else None
            self._writing.add(path)
        return self._opened(upload, path, offset_bytes, size_bytes, source)

    def receive(self) -> Upload:
        """Begin to take in a file whose hash and size only its end will tell; it can't be resumed."""
        upload = Upload(self, "", None, None)
        path = self.temporary(".part")
        with self._alone():
            self._writing.add(path)
        return self._opened(upload, path, 0, 0, None)

    def import_file(self, path: Path) -> StoredAudio:
        """Take in a copy of a file on this machine; what happens to the original later doesn't matter.

        Raises
        ------
        SmartDJError
            ``AUDIO_NOT_FOUND``, or as said in the notes on this class.
        """
        read_header(path, max_duration_s=self._max_s)  # refuses folders, pipes and most else before any copying
        with path.open("rb") as stream:
            return self.import_stream(stream, str(path))

    def import_stream(self, stream: BinaryIO, name: str) -> StoredAudio:
        """Take in a copy of an open file, as `import_file`.

        Parameters
        ----------
        stream
            Read from where it is to its end.
        name
            What messages call it.
        """
        temporary = self.temporary(".part")
        digest = hashlib.sha256()
        total = 0
        try:
            with _plain_errors(), temporary.open("xb") as copy:
                while block := stream.read(_BLOCK_BYTES):
                    total += len(block)
                    if total > self._max_bytes:
                        raise self._too_big()
                    digest.update(block)
                    copy.write(block)
                copy.flush()
                os.fsync(copy.fileno())
            return self._take_in(temporary, digest.hexdigest(), name)
        finally:
            temporary.unlink(missing_ok=True)

    # Deleting

    def delete(self, sha256s: Iterable[str]) -> list[str]:
        """Delete files that no job refers to and that needn't stay; returns which went."""
        wanted = list(sha256s)
        gone = []
        for start in range(0, len(wanted), 100):  # others get their turn in between
            with self._alone():
                some = self._store.delete_audio(wanted[start : start + 100], self._clock())
                for sha256 in some:
                    self.path(sha256).unlink(missing_ok=True)
                gone += some
        return gone

    def delete_old_parts(self) -> int:
        """Delete incomplete uploads that got nothing for `KEEP_UPLOAD_S`; returns how many."""
        deleted = 0
        with self._alone():
            for part in self._uploads.iterdir():
                if part not in self._writing and self._clock() - _changed_s(part) > KEEP_UPLOAD_S:
                    part.unlink(missing_ok=True)
                    deleted += 1
        return deleted

    def uploading_bytes(self) -> int:
        """Return what incomplete uploads take on the disk."""
        return sum(_size(part) for part in self._uploads.iterdir())

    def sweep(self) -> Swept:
        """Take away what a crash has left. Call it once, before anything else uses the store."""
        with self._alone():
            living = self._store.living(self._lease_s) if self._replica else set()
            temporaries = [path for path in self._all_tmp.iterdir() if path.name not in living]
            for path in temporaries:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            sizes = self._store.audio_sizes()
            files = 0
            for path in self._audio.glob("*/*"):
                if path.is_file():
                    if sizes.get(path.name) == path.stat().st_size:
                        del sizes[path.name]
                    else:
                        path.unlink()
                        files += path.name not in sizes
            self._store.mark_lost(sizes)
            parts = self.delete_old_parts()
            for sha256 in {part.name.split("-")[0] for part in self._uploads.iterdir()}:
                parts += self._tidy_parts(sha256)
        return Swept(temporaries=len(temporaries), parts=parts, files=files, rows=len(sizes))

    # Inside

    def _take_in(self, path: Path, sha256: str, name: str) -> StoredAudio:
        """Check a file that is safely on the disk, and give it its name and row; `name` is what messages call it."""
        header = read_header(path, max_duration_s=self._max_s, name=name)
        if header.channels > self._max_channels:
            raise SmartDJError(
                ErrorCode.AUDIO_UNSUPPORTED,
                f"{name} has {header.channels} channels; this server takes up to {self._max_channels}",
                "mix it down, or split it into several files",
            )
        info = StoredAudio(
            sha256=sha256,
            audio_sha256="",
            size_bytes=path.stat().st_size,
            sample_rate=header.sample_rate,
            channels=header.channels,
            frames=header.frames,
            container=header.format.container,
            subtype=header.format.subtype,
        )
        with self._alone():
            self._publish(path, info, self._clock() + KEEP_UPLOAD_S)
            known = self._store.audio(sha256)
        return replace(info, audio_sha256=known.audio_sha256) if known else info

    def _let_go(self, path: Path, sha256: str) -> None:
        """An upload no longer writes to `path`."""
        with self._alone():
            self._writing.discard(path)
            if sha256:
                self._tidy_parts(sha256)
            else:
                path.unlink(missing_ok=True)

    def _too_big(self) -> SmartDJError:
        """What to raise for a file above the limit."""
        return SmartDJError(
            ErrorCode.AUDIO_TOO_LONG,
            f"the file is larger than the {self._max_bytes / 2**20:g} MiB that this server takes",
            "cut it into shorter files, or send it as FLAC",
        )

    def _present(self, sha256: str) -> StoredAudio | None:
        path = self.path(sha256)
        stored = self._store.audio(sha256)
        if stored is None or not path.exists():
            return None
        self._store.keep_audio(sha256, self._clock() + KEEP_UPLOAD_S)  # who asks is about to use it
        return stored

    def _publish(self, temporary: Path, info: StoredAudio, keep_until_s: float) -> None:
        path = self.path(info.sha256)
        with _plain_errors():
            there = path.exists() and path.stat().st_size == info.size_bytes
            if there:
                temporary.unlink(missing_ok=True)  # it may be listed twice, for both its uses
            else:
                if not path.parent.exists():
                    path.parent.mkdir(mode=0o700)
                    sync_folder(self._audio)
                temporary.replace(path)
            sync_folder(path.parent)
        try:
            self._store.put_audio(info, keep_until_s=keep_until_s)
        except BaseException:
            if not there:
                path.unlink(missing_ok=True)
            raise

    def _sync(self, path: Path) -> None:
        with _plain_errors(), path.open("rb+") as stream:
            os.fsync(stream.fileno())

    def _opened(self, upload: Upload, path: Path, offset_bytes: int, size_bytes: int, copy_from: Path | None) -> Upload:
        try:
            with _plain_errors():
                if shutil.disk_usage(self._uploads).free < size_bytes - offset_bytes + _SPARE_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                upload._open_at(path, offset_bytes, copy_from)
        except FileNotFoundError as error:  # the other call, whose part was to be copied, has just dropped it
            upload.close()
            self._let_go(path, upload.sha256)
            raise _bad_offset(offset_bytes) from error
        except BaseException:
            upload.close()
            self._let_go(path, upload.sha256)
            raise
        return upload

    def _parts(self, sha256: str) -> list[Path]:
        return list(self._uploads.glob(f"{sha256}-*.part"))

    def _tidy_parts(self, sha256: str) -> int:
        """Of parts that nobody writes, leave only the longest, and none of a file that is whole or not begun."""
        free = sorted((part for part in self._parts(sha256) if not self._written_to(part)), key=_size, reverse=True)
        worth_keeping = bool(free) and _size(free[0]) > 0 and self._store.audio(sha256) is None
        surplus = free[1:] if worth_keeping else free
        for part in surplus:
            part.unlink(missing_ok=True)
        return len(surplus)

    def _written_to(self, part: Path) -> bool:
        """Whether a call writes to a part, or another server may."""
        others = bool(self._replica) and not part.name.split("-")[1].startswith(self._replica)
        return part in self._writing or (others and self._clock() - _changed_s(part) < _SILENT_PART_S)


def _bad_offset(offset_bytes: int) -> SmartDJError:
    return SmartDJError(
        ErrorCode.UPLOAD_MISMATCH,
        f"the upload can't go on at byte {offset_bytes}",
        "ask GetUpload how much has arrived, or send the file from its beginning",
        field="header.offset_bytes",
    )


def _written(file: RawIOBase, data: bytes) -> Iterator[memoryview]:
    """Write all of `data`, yielding each part that the system took: it may take less than it was given."""
    rest = memoryview(data)
    while rest:
        taken = file.write(rest) or 0
        yield rest[:taken]
        rest = rest[taken:]


def _shared_folder(data_dir: Path, how: str) -> SmartDJError:
    return SmartDJError(
        ErrorCode.SERVER_CONFIG,
        f"{data_dir} is used {how}",
        "give every database a data folder of its own with --data-dir",
        field="data_dir",
    )


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SmartDJError(
                ErrorCode.DISK_FULL, "the server's data folder is full", "free some space on the server"
            ) from error
        raise
