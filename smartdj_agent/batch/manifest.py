"""What a folder's batches have done: one JSON line per fact, appended and forced to disk before anything relies on it.

A run that is killed leaves at worst half a last line, which the next run cuts off. Results lie staged in the
batch's own folder first; their record says where they belong; only then do they get their names. So whatever
moment a run dies at, a result is either recorded and complete, or it was never there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from smartdj_agent import files
from smartdj_agent.errors import ErrorCode, SmartDJError

VERSION = 1
"""Raised when lines change their meaning."""

FILE = "manifest.jsonl"
WORK = "work"


class Manifest:
    """The records of one folder; a context manager that keeps other runs out.

    Parameters
    ----------
    folder
        The batch's own folder; made where it isn't there.
    root
        The folder that is worked on: recorded paths of outputs are relative to it, so that it can be moved.
    write
        False reads what is there and changes nothing, not even the folder.

    Raises
    ------
    SmartDJError
        USAGE where another run is at work there, OUTPUT_UNWRITABLE, PLAN_VERSION for a manifest of a later version.
    """

    def __init__(self, folder: Path, root: Path, *, write: bool = True) -> None:
        self.folder = folder
        self.root = root
        self.work = folder / WORK
        self._path = folder / FILE
        self._write = write
        self._mutex = threading.Lock()
        self._lock: FileLock | None = None
        self._torn = False
        self._plans: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, dict[int, dict[str, Any]]] = {}
        self._units: dict[str, dict[str, Any]] = {}
        self._done_by_key: dict[str, dict[str, Any]] = {}
        self._projects: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Manifest:
        if self._write:
            try:
                self.work.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            self._lock = FileLock(self.folder / "manifest.lock")
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise SmartDJError(
                    ErrorCode.USAGE,
                    f"another batch is at work in {self.folder}",
                    "wait for it, or give this one another --out",
                ) from error
            except OSError as error:
                raise _unwritable(self.folder, error) from error
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()

    # --- reading

    def _read(self) -> None:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            if self._write:
                self._append({"record": "manifest", "version": VERSION})
            return
        except OSError as error:
            raise _unwritable(self._path, error) from error
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # a torn line that an earlier run had to write behind
            if isinstance(record, dict):
                self._take(record)
        if self._write and whole < len(data):
            with self._path.open("rb+") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        if self._write and whole == 0:
            self._append({"record": "manifest", "version": VERSION})

    def _take(self, record: dict[str, Any]) -> None:
        kind = record.get("record")
        if kind == "manifest" and int(record.get("version", 0)) > VERSION:
            raise SmartDJError(
                ErrorCode.PLAN_VERSION,
                f"{self._path} is of a later version of this program",
                "use that version, or give another --out",
            )
        if kind == "plan":
            self._plans[record["key"]] = record
        elif kind == "step":
            self._steps.setdefault(record["work"], {})[int(record["index"])] = record
        elif kind in ("done", "failed"):
            self._units[record["unit"]] = record
            if kind == "done":
                self._done_by_key[record["key"]] = record
        elif kind == "project":
            self._projects[record["id"]] = record

    def plan(self, key: str) -> dict[str, Any] | None:
        """Return the plan that was made for a key, as `plan_to_dict` gives it."""
        record = self._plans.get(key)
        return record["plan"] if record is not None else None

    def steps(self, work: str) -> list[dict[str, Any]]:
        """Return the records of a unit's finished steps, in order, as far as their files are there."""
        records = self._steps.get(work, {})
        found: list[dict[str, Any]] = []
        for index in range(len(records)):
            record = records.get(index)
            if record is None or not self.staged(work, record["file"]).is_file():
                break
            found.append(record)
        return found

    def unit(self, id: str, key: str) -> dict[str, Any] | None:
        """Return the last record of a unit for this very key, done or failed."""
        record = self._units.get(id)
        return record if record is not None and record["key"] == key else None

    def same_work(self, key: str) -> dict[str, Any] | None:
        """Return the record of another unit whose result is the same, if its files are still there."""
        record = self._done_by_key.get(key)
        if record is None or not all((self.root / item["final"]).is_file() for item in record["outputs"]):
            return None
        return record

    def project(self, id: str, key: str) -> dict[str, Any] | None:
        """Return the record of a written project for this very key, if its file is still there or staged."""
        record = self._projects.get(id)
        if record is None or record["key"] != key:
            return None
        return record if self._present(record["output"]) else None

    def is_done(self, id: str, key: str) -> bool:
        """Whether a unit's outputs are all there, with their names or staged."""
        record = self.unit(id, key)
        return (
            record is not None
            and record["record"] == "done"
            and all(self._present(output) for output in record["outputs"])
        )

    # --- writing

    def staged(self, work: str, name: str) -> Path:
        """Return where a unit's file lies before it has its name."""
        return self.work / work / name

    def output(self, staged: Path | None, final: Path) -> dict[str, str]:
        """Describe an output for a record: where it is staged (None: it has its name already), and its name."""
        return {
            "staged": "" if staged is None else staged.relative_to(self.work).as_posix(),
            "final": final.relative_to(self.root).as_posix(),
        }

    def _present(self, output: dict[str, str]) -> bool:
        return (self.root / output["final"]).is_file() or (self.work / output["staged"]).is_file()

    def append(self, record: dict[str, Any]) -> None:
        """Write a record and wait until it is on the disk.

        Raises
        ------
        SmartDJError
            DISK_FULL or OUTPUT_UNWRITABLE.
        """
        with self._mutex:
            self._append(record)

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o666)
            try:
                line = b"\n" * self._torn + line  # after a half line, begin a new one
                self._torn = True
                if os.write(descriptor, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._torn = False
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._take(record)

    def publish(self, outputs: list[dict[str, str]]) -> None:
        """Give recorded outputs their names; those that have them are left alone.

        Raises
        ------
        SmartDJError
            OUTPUT_EXISTS where another file took a name meanwhile, DISK_FULL or OUTPUT_UNWRITABLE.
        """
        for output in outputs:
            staged = self.work / output["staged"]
            if staged.is_file():
                publish(staged, self.root / output["final"])

    def recover(self) -> None:
        """Give names to what a killed run had recorded, and clear what nothing refers to."""
        kept = set(self._steps)
        for record in [*self._units.values(), *self._projects.values()]:
            outputs = record.get("outputs", [record["output"]] if "output" in record else [])
            with contextlib.suppress(SmartDJError):
                self.publish(outputs)
                if record["record"] == "done":
                    kept.discard(record["work"])
            kept |= {Path(o["staged"]).parts[0] for o in outputs if (self.work / o["staged"]).is_file()}
        for folder in self.work.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def clear(self, work: str) -> None:
        """Remove what is staged for a unit."""
        shutil.rmtree(self.work / work, ignore_errors=True)


def publish(staged: Path, final: Path) -> None:
    """Move a finished file to its name in one step, never onto another file.

    Raises
    ------
    SmartDJError
        OUTPUT_EXISTS, DISK_FULL or OUTPUT_UNWRITABLE.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.is_file() and files.file_sha256(final) == files.file_sha256(staged):
            staged.unlink()  # the run before died between the two
            return
        try:
            os.link(staged, final)
        except FileExistsError:
            raise
        except OSError:  # another disk, or one without hard links
            _copy(staged, final)
        files.sync_folder(final.parent)
        staged.unlink()
    except FileExistsError as error:
        raise SmartDJError(
            ErrorCode.OUTPUT_EXISTS,
            f"{final} appeared meanwhile",
            "move it away, or run again for another name",
        ) from error
    except OSError as error:
        raise _unwritable(final, error) from error


def copy_file(source: Path, target: Path) -> None:
    """Copy a file so that it appears whole or not at all, never onto another; errors as `publish`."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, target)
    except OSError as error:
        raise _unwritable(target, error) from error


def _copy(source: Path, target: Path) -> None:
    temporary = files.temporary_beside(target)
    try:
        with source.open("rb") as reader, temporary.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
        files.publish(temporary, target, overwrite=False)
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> SmartDJError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SmartDJError(ErrorCode.DISK_FULL, f"no space left for {path}", "free some space and run again")
    return SmartDJError(
        ErrorCode.OUTPUT_UNWRITABLE,
        f"{path} can't be written: {error.strerror or error}",
        "check the folder and your permissions",
    )
