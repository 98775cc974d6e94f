"""Who may connect, from where, and which files a client may name.

Everything here refuses by default: beyond loopback only with TLS and a token, token files that only their owner can
read, and paths that lie under an allowed folder when all links are followed, opened so that nobody can swap them.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import grpc

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server.settings import Settings

MIN_TOKEN_CHARS: Final = 16
MAX_PATH_BYTES: Final = 4096
_MAX_TOKEN_FILE_BYTES: Final = 64 * 1024
_MAX_PEM_BYTES: Final = 1024 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]+")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

# Absent on Windows, where opening a FIFO or a link by its last part isn't the danger it is on POSIX.
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK: Final = getattr(os, "O_NONBLOCK", 0)
_CLOSE: Final = getattr(os, "O_CLOEXEC", 0)
_FOLDER: Final = getattr(os, "O_DIRECTORY", 0)
_BINARY: Final = getattr(os, "O_BINARY", 0)
_WALKS: Final = os.open in os.supports_dir_fd

# Nothing there is a recording, whatever the allowed folders are; reading some of these has effects.
_SYSTEM_FOLDERS: Final = (Path("/proc"), Path("/sys"), Path("/dev"))


# --- Where to listen -------------------------------------------------------------------------------------------------


def bind_target(settings: Settings) -> str:
    """Tell gRPC's address to listen at, after checking that it is safe.

    Loopback and ``unix:`` sockets are always allowed; every other address needs TLS and a token.

    Parameters
    ----------
    settings
        `host` may be an IPv4 or IPv6 address (with or without brackets), a host name or ``unix:PATH``.

    Returns
    -------
    str
        For example ``127.0.0.1:50551``, ``[::1]:50551`` or ``unix:/run/smartdj.sock``. A name that means loopback is
        given as its address, so that what was checked is what is bound.

    Raises
    ------
    SmartDJError
        ``SERVER_CONFIG``: an address beyond loopback without TLS or without a token, or a name that nobody knows.
    """
    host = settings.host
    if host.startswith(("unix:", "unix-abstract:")):
        if not host.partition(":")[2]:
            raise _config("the socket has no path", "Write unix:PATH, for example unix:/run/smartdj.sock.", "host")
        return host
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    addresses = _addresses(bare)
    if all(_is_loopback(address) for address in addresses):
        address = min(addresses, key=lambda candidate: candidate.version)
        return _joined(str(address), settings.port)
    missing = [
        words
        for words, value in (
            ("TLS (tls_certificate and tls_key)", settings.tls_certificate),
            ("a token (token_file)", settings.token_file),
        )
        if value is None
    ]
    if missing:
        raise _config(
            f"{host} can be reached from other machines; that needs {' and '.join(missing)}",
            "Set what is missing, or listen at 127.0.0.1.",
            "host",
        )
    return _joined(bare, settings.port)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _addresses(host: str) -> list[Address]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    found = []
    if not set(host) & set(":/[]"):  # what gRPC would take for a scheme, a port or an address of its own
        with suppress(OSError, UnicodeError):
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if not found:
        raise _config(f"{host} is no address of this machine", "Give an address, a host name or unix:PATH.", "host")
    return [ipaddress.ip_address(entry[4][0]) for entry in found]


def _is_loopback(address: Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- Tokens ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """The tokens that let a client in; only their hashes are kept.

    Attributes
    ----------
    digests
        SHA-256 of each token with the name of its owner, ``""`` where the file gives none.
    """

    digests: tuple[tuple[bytes, str], ...] = field(repr=False)

    def owner(self, given: str | bytes) -> str | None:
        """Tell whose token this is, in a time that depends on neither the tokens nor the one given.

        Parameters
        ----------
        given
            What the client sent, without ``Bearer``.

        Returns
        -------
        str or None
            The owner's name, ``""`` for a token without one; None for no token of ours.
        """
        data = given.encode("utf-8", "surrogateescape") if isinstance(given, str) else given
        digest = hashlib.sha256(data).digest()
        found: str | None = None
        for known, name in self.digests:  # all of them, always
            if hmac.compare_digest(known, digest):
                found = name
        return found


def load_tokens(path: Path) -> Tokens:
    """Read a token file; make one with a random token, readable by its owner only, where there is none.

    Parameters
    ----------
    path
        One token a line, by itself or after a name and a blank (``studio 3kZ…``); lines that begin with ``#`` and
        empty ones are passed over. Tokens are at least `MIN_TOKEN_CHARS` printable ASCII characters.

    Returns
    -------
    Tokens

    Raises
    ------
    SmartDJError
        ``SERVER_CONFIG``: not a regular file, readable or writable by anybody but its owner, somebody else's, can't be
        made or read, or without a usable token. The message never holds a token.
    """
    try:
        if not path.exists():
            _make_token_file(path)
        descriptor = os.open(path, os.O_RDONLY | _NO_BLOCK | _CLOSE | _BINARY)
    except (OSError, ValueError) as failure:
        raise _config(
            f"the token file {path} can't be made or read: {_reason(failure)}", _CHECK, "token_file"
        ) from None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise _config(f"the token file {path} is no regular file", _CHECK, "token_file")
        if os.name == "posix":
            _check_private(path, about)
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_MAX_TOKEN_FILE_BYTES + 1)
    if len(data) > _MAX_TOKEN_FILE_BYTES:
        raise _config(f"the token file {path} is larger than 64 KiB", _CHECK, "token_file")
    return Tokens(tuple(_parsed_tokens(path, data.decode("utf-8", "replace"))))


_CHECK: Final = "Check the path, or take the file away: the next start makes a new one."


def _check_private(path: Path, about: os.stat_result) -> None:
    if about.st_mode & 0o077:
        raise _config(
            f"others than its owner can use the token file {path} (mode {stat.S_IMODE(about.st_mode):04o})",
            f"chmod 600 {path}, and change the token if somebody may have read it.",
            "token_file",
        )
    if about.st_uid not in (os.geteuid(), 0):
        raise _config(f"the token file {path} belongs to another user", "Use a file of your own.", "token_file")


def _make_token_file(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _CLOSE, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link can't replace: where another server starts at the same moment, both use the first one's token.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _parsed_tokens(path: Path, text: str) -> Iterator[tuple[bytes, str]]:
    found = False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, token = ("", words[0]) if len(words) == 1 else (words[0], words[1])
        fault = ""
        if len(words) > 2:
            fault = "holds more than a name and a token"
        elif name and not _NAME.fullmatch(name):
            fault = "has a name with other characters than letters, digits, - _ and ."
        elif len(token) < MIN_TOKEN_CHARS:
            fault = f"has a token of less than {MIN_TOKEN_CHARS} characters"
        elif not _TOKEN.fullmatch(token):
            fault = "has a token with other characters than printable ASCII"
        if fault:
            raise _config(f"line {number} of the token file {path} {fault}", _CHECK, "token_file")
        found = True
        yield hashlib.sha256(token.encode()).digest(), name
    if not found:
        raise _config(f"the token file {path} holds no token", _CHECK, "token_file")


# --- TLS -------------------------------------------------------------------------------------------------------------


def tls_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Read certificate, key and the clients' authority, and check that they go together.

    Parameters
    ----------
    settings
        `tls_certificate`, `tls_key` and, to let in only clients with a certificate, `tls_client_ca`.

    Returns
    -------
    grpc.ServerCredentials or None
        None where TLS isn't configured.

    Raises
    ------
    SmartDJError
        ``SERVER_CONFIG``: a file that is missing, unreadable or no PEM, a key with a password, or a key of another
        certificate. `field` is the setting. (gRPC itself would fail later, at the first connection, without a word.)
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    certificate = _pem(settings.tls_certificate, "tls_certificate", "CERTIFICATE")
    key = _pem(settings.tls_key, "tls_key", "PRIVATE KEY")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
    except ssl.SSLError as failure:
        raise _tls_fault(settings, failure, key) from None
    except OSError as failure:
        raise _config(f"{settings.tls_key} can't be read: {_reason(failure)}", _PEM_HINT, "tls_key") from None
    authority = None
    if settings.tls_client_ca is not None:
        authority = _pem(settings.tls_client_ca, "tls_client_ca", "CERTIFICATE")
        try:
            context.load_verify_locations(cadata=authority.decode("ascii", "ignore"))
        except ssl.SSLError:
            raise _config(f"{settings.tls_client_ca} holds no certificate", _PEM_HINT, "tls_client_ca") from None
    return grpc.ssl_server_credentials([(key, certificate)], authority, authority is not None)


_PEM_HINT: Final = "Give a file in PEM form that the server may read."


def _pem(path: Path, name: str, kind: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PEM_BYTES)
    except (OSError, ValueError) as failure:
        raise _config(f"{name} {path} can't be read: {_reason(failure)}", _PEM_HINT, name) from None
    if not re.search(rb"-----BEGIN [A-Z0-9 ]*" + kind.encode() + rb"-----", data):
        raise _config(f"{name} {path} holds no {kind.lower()} in PEM form", _PEM_HINT, name)
    return data


def _tls_fault(settings: Settings, failure: ssl.SSLError, key: bytes) -> SmartDJError:
    if failure.reason == "KEY_VALUES_MISMATCH":
        message = f"the key {settings.tls_key} is not that of the certificate {settings.tls_certificate}"
        return _config(message, "Give the key that the certificate was made for.", "tls_key")
    if b"ENCRYPTED" in key:
        message = f"the key {settings.tls_key} needs a password"
        return _config(message, "Take the password off: openssl pkey -in KEY -out PLAIN.", "tls_key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(settings.tls_certificate)
    except (ssl.SSLError, OSError):
        return _config(f"tls_certificate {settings.tls_certificate} is damaged", _PEM_HINT, "tls_certificate")
    return _config(
        f"the key {settings.tls_key} and the certificate {settings.tls_certificate} can't be used: {failure.reason}",
        _PEM_HINT,
        "tls_key",
    )


# --- Files that clients name -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenedFile:
    """A regular file under an allowed folder, open.

    Attributes
    ----------
    path
        Where it is, all links followed; for messages. To read, use `file`: the name may mean another file by now.
    file
        Open for reading in binary.
    size_bytes
        Size when it was opened.
    """

    path: Path
    file: IO[bytes]
    size_bytes: int


@contextmanager
def resolve_under_roots(path: str, roots: Sequence[Path]) -> Iterator[OpenedFile]:
    """Open a file that a client named, if it lies under an allowed folder when all links are followed.

    Every folder on the way is opened without following links from the root on, so whatever is swapped between check
    and use, nothing outside is opened. Whether something outside exists can't be told from the answer.

    Parameters
    ----------
    path
        As the client wrote it; absolute.
    roots
        Allowed folders; links in them are followed.

    Yields
    ------
    OpenedFile

    Raises
    ------
    SmartDJError
        ``USAGE``: relative, empty, with NUL or above `MAX_PATH_BYTES`; ``PATH_FORBIDDEN``: not under a root;
        ``AUDIO_NOT_FOUND``; ``AUDIO_UNREADABLE``: a folder, device, FIFO or socket, or not readable by the server.
    """
    root, parts = _below(path, roots)
    resolved = root.joinpath(*parts)
    if not parts:
        raise _unreadable(path, "it is a folder")
    try:
        with _folder(root, parts[:-1]) as folder:
            name = parts[-1] if folder is not None else str(resolved)
            # Asked first: merely opening a device can do things.
            _check_regular(path, os.stat(name, dir_fd=folder, follow_symlinks=False))
            descriptor = os.open(name, os.O_RDONLY | _NO_FOLLOW | _NO_BLOCK | _CLOSE | _BINARY, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        raise SmartDJError(ErrorCode.AUDIO_NOT_FOUND, f"{_shown(path)} is not there", "Check the path.") from None
    except OSError as failure:
        raise _refused_by_system(path, failure) from None
    try:
        about = os.fstat(descriptor)
        _check_regular(path, about)
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield OpenedFile(resolved, file, about.st_size)


@contextmanager
def create_under_roots(path: str, roots: Sequence[Path]) -> Iterator[IO[bytes]]:
    """Make a new file that a client named, under an allowed folder; it appears whole or not at all.

    Parameters
    ----------
    path
        As the client wrote it; absolute. Its folder must exist; nothing must be there yet.
    roots
        As for `resolve_under_roots`.

    Yields
    ------
    IO[bytes]
        To be written to. Named `path` once the block ends without an error; else gone.

    Raises
    ------
    SmartDJError
        ``USAGE`` and ``PATH_FORBIDDEN`` as `resolve_under_roots`; ``OUTPUT_EXISTS``; ``OUTPUT_UNWRITABLE``;
        ``DISK_FULL``.
    """
    folder_path, name = os.path.split(path)
    root, parts = _below(folder_path, roots, named=path)
    if name in ("", ".", ".."):
        raise SmartDJError(ErrorCode.USAGE, f"{_shown(path)} names no file", "Add the file's name.")
    temporary = f".smartdj-{secrets.token_hex(8)}.part"
    try:
        with _folder(root, parts) as folder:
            target, source = name, temporary
            if folder is None:
                target, source = (str(root.joinpath(*parts, leaf)) for leaf in (name, temporary))
            if _is_there(target, folder):
                raise _exists(path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _CLOSE | _BINARY
            descriptor = os.open(source, flags, 0o666, dir_fd=folder)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                _publish(source, target, folder)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(source, dir_fd=folder)
            if folder is not None:
                os.fsync(folder)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SmartDJError(
                ErrorCode.DISK_FULL, f"no space for {_shown(path)}", "Free some, or choose another disk."
            ) from None
        raise SmartDJError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"{_shown(path)} can't be written: {_reason(failure)}",
            "Choose a folder that exists and that the server may write to.",
        ) from None


def _publish(source: str, target: str, folder: int | None) -> None:
    """Give the finished file its name, never over another."""
    try:
        os.link(source, target, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without links: FAT, some network drives
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _CLOSE, 0o666, dir_fd=folder))
        os.replace(source, target, src_dir_fd=folder, dst_dir_fd=folder)


def _below(path: str, roots: Sequence[Path], *, named: str = "") -> tuple[Path, tuple[str, ...]]:
    """Find the root (all links followed) that a path lies under, and the way from there."""
    named = named or path
    shown = _shown(named)
    if "\0" in named or len(os.fsencode(named)) > MAX_PATH_BYTES:
        hint = f"A path has no NUL and at most {MAX_PATH_BYTES} bytes."
        raise SmartDJError(ErrorCode.USAGE, f"{shown} is no path", hint)
    if not os.path.isabs(named):
        raise SmartDJError(ErrorCode.USAGE, f"the path {shown} is relative", "Give the full path, from the root on.")
    try:
        resolved = Path(os.path.realpath(path))
        for root in roots:
            real = Path(os.path.realpath(root))
            if resolved.is_relative_to(real) and not _in_system_folder(resolved, real):
                return real, resolved.relative_to(real).parts
    except OSError:  # a link on the way went away while it was followed
        pass
    raise SmartDJError(
        ErrorCode.PATH_FORBIDDEN,
        f"{shown} is not under a folder that this server allows",
        "Send the audio itself, or ask whoever runs the server to add its folder to allowed_roots.",
    )


def _in_system_folder(resolved: Path, root: Path) -> bool:
    """Tell whether a root that was meant for other things reaches into the system; /dev/shm itself may be a root."""
    return any(resolved.is_relative_to(system) and not root.is_relative_to(system) for system in _SYSTEM_FOLDERS)


@contextmanager
def _folder(root: Path, parts: Sequence[str]) -> Iterator[int | None]:
    """Open a folder step by step without following a link; None where the system can't (Windows)."""
    if not _WALKS:
        yield None
        return
    flags = os.O_RDONLY | _FOLDER | _CLOSE
    descriptor = os.open(root, flags)
    try:
        for part in parts:
            deeper = os.open(part, flags | _NO_FOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


def _is_there(name: str, folder: int | None) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _check_regular(path: str, about: os.stat_result) -> None:
    if stat.S_ISLNK(about.st_mode):  # it was followed already, so somebody has put it there just now
        raise SmartDJError(
            ErrorCode.PATH_FORBIDDEN,
            f"{_shown(path)} changed while it was opened",
            "Try again, or send the audio itself.",
        )
    if not stat.S_ISREG(about.st_mode):
        raise _unreadable(path, "it is a folder" if stat.S_ISDIR(about.st_mode) else "it is no regular file")


def _refused_by_system(path: str, failure: OSError) -> SmartDJError:
    if failure.errno in (errno.ELOOP, errno.EMLINK):
        return SmartDJError(
            ErrorCode.PATH_FORBIDDEN, f"{_shown(path)} leads through links in a circle", "Give the file's own path."
        )
    if failure.errno == errno.ENAMETOOLONG:
        return SmartDJError(ErrorCode.AUDIO_NOT_FOUND, f"{_shown(path)} is not there", "Check the path.")
    return _unreadable(path, _reason(failure))


def _unreadable(path: str, why: str) -> SmartDJError:
    return SmartDJError(
        ErrorCode.AUDIO_UNREADABLE,
        f"{_shown(path)} can't be read: {why}",
        "Give an audio file that the server may read.",
    )


def _exists(path: str) -> SmartDJError:
    return SmartDJError(ErrorCode.OUTPUT_EXISTS, f"{_shown(path)} exists already", "Choose another name.")


def _shown(path: str) -> str:
    """Shorten and escape a client's path for a message of one line."""
    clean = "".join(character if character.isprintable() else "�" for character in path)
    return clean if len(clean) <= 200 else f"{clean[:100]}…{clean[-99:]}"


def _reason(failure: Exception) -> str:
    return getattr(failure, "strerror", None) or str(failure)


def _config(message: str, hint: str, name: str) -> SmartDJError:
    return SmartDJError(ErrorCode.SERVER_CONFIG, message, hint, name)
