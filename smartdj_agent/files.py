"""Files that appear whole or not at all, and never in another file's place unless that is asked for."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from pathlib import Path

from smartdj_agent.errors import ErrorCode, SmartDJError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def temporary_beside(target: Path) -> Path:
    """Make an empty hidden file in the target's folder, with the permissions that the umask gives.

    Raises
    ------
    OSError
        If the folder can't be written to.
    """
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(6)}.part")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name in one step, and force both to disk.

    Raises
    ------
    FileExistsError
        If the target exists and may not be replaced, even where another process made it meanwhile.
    OSError
        If the folder can't be written to.
    """
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    if overwrite:
        os.replace(temporary, target)
    else:
        try:
            os.link(temporary, target)  # unlike a rename, fails where the name is taken
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: reserve the name, then replace our own reservation
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            try:
                os.replace(temporary, target)
            except OSError:
                target.unlink(missing_ok=True)
                raise
        else:
            temporary.unlink()
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # folders can't be opened on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems refuse this; the data itself is safe
        pass
    finally:
        os.close(descriptor)


def write_file(path: str | os.PathLike[str], data: bytes | str, *, overwrite: bool = False) -> None:
    """Write a file; text as UTF-8. A symbolic link is followed.

    Raises
    ------
    SmartDJError
        OUTPUT_EXISTS, OUTPUT_UNWRITABLE or DISK_FULL; on any failure nothing is left.
    """
    file = Path(path)
    temporary: Path | None = None
    try:
        target = Path(os.path.realpath(file))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not overwrite and os.path.lexists(file):
            raise FileExistsError(errno.EEXIST, "it exists")
        temporary = temporary_beside(target)
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        publish(temporary, target, overwrite=overwrite)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise write_error(file, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits.

    Raises
    ------
    OSError
        If it can't be read.
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def exists_error(file: Path, field: str = "") -> SmartDJError:
    """How a door says that it won't overwrite."""
    return SmartDJError(ErrorCode.OUTPUT_EXISTS, f"{file} already exists", "give another name or --overwrite", field)


def write_error(file: Path, error: Exception) -> SmartDJError:
    """Turn what went wrong when writing into the error for a person."""
    if isinstance(error, FileExistsError):
        return exists_error(file)
    if isinstance(error, OSError) and error.errno in _FULL:
        return SmartDJError(
            ErrorCode.DISK_FULL,
            f"{file} was not written: no space left",
            "free some space, or write to another disk",
        )
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return SmartDJError(
        ErrorCode.OUTPUT_UNWRITABLE,
        f"{file} can't be written: {reason}",
        "choose a file name in a folder that exists and that you may write to",
    )
