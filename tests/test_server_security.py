"""The server's doors stay shut: addresses, tokens, certificates and every trick with paths that we know of."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server import security
from smartdj_agent.server.security import (
    MAX_PATH_BYTES,
    Tokens,
    bind_target,
    create_under_roots,
    load_tokens,
    resolve_under_roots,
    tls_credentials,
)
from smartdj_agent.server.settings import Settings

TOKEN = "correct-horse-battery-staple"


def settings(**values: Any) -> Settings:
    return Settings(**values)


@contextmanager
def refused(code: ErrorCode, words: str = "", field: str = "") -> Iterator[None]:
    with pytest.raises(SmartDJError) as caught:
        yield
    error = caught.value
    assert error.code is code, error
    assert words in error.message
    assert error.hint
    assert error.message.isprintable()
    if field:
        assert error.field == field


# --- Where to listen


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("127.0.0.1", "127.0.0.1:50551"),
        ("127.8.9.10", "127.8.9.10:50551"),
        ("::1", "[::1]:50551"),
        ("[::1]", "[::1]:50551"),
        ("::ffff:127.0.0.1", "[::ffff:7f00:1]:50551"),
        ("unix:/run/smartdj.sock", "unix:/run/smartdj.sock"),
        ("unix-abstract:smartdj", "unix-abstract:smartdj"),
    ],
)
def test_loopback_and_sockets_need_nothing(host: str, target: str) -> None:
    assert bind_target(settings(host=host)) == target


def knows(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def look_up(name: str, *_: object, **__: object) -> list[Any]:
        assert name == "studio"
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, 1, 6, "", (address, 0)) for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def test_a_name_for_loopback_is_bound_as_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    knows(monkeypatch, "::1", "127.0.1.1")
    assert bind_target(settings(host="studio")) == "127.0.1.1:50551"


def test_a_name_is_as_open_as_its_most_open_address(monkeypatch: pytest.MonkeyPatch) -> None:
    knows(monkeypatch, "127.0.0.1", "192.168.1.5")
    with refused(ErrorCode.SERVER_CONFIG, "other machines", "host"):
        bind_target(settings(host="studio"))


BEYOND = ("0.0.0.0", "::", "[::]", "192.168.1.5", "fe80::1", "::ffff:10.0.0.1", "128.0.0.1")


@pytest.mark.parametrize("host", BEYOND)
def test_beyond_loopback_only_with_both(host: str, tmp_path: Path) -> None:
    tls = {"tls_certificate": tmp_path / "c", "tls_key": tmp_path / "k"}
    token = {"token_file": tmp_path / "t"}
    for given, missing in (({}, "TLS"), ({}, "a token"), (tls, "a token"), (token, "TLS")):
        with refused(ErrorCode.SERVER_CONFIG, missing, "host"):
            bind_target(settings(host=host, **given))
    bare = host.strip("[]")
    assert bind_target(settings(host=host, port=1, **tls, **token)) == (f"[{bare}]:1" if ":" in bare else f"{bare}:1")


def test_old_spellings_of_addresses_are_read_before_they_are_judged() -> None:
    # "0" is 0.0.0.0 to the resolver.
    with refused(ErrorCode.SERVER_CONFIG, "", "host"):
        bind_target(settings(host="0"))


@pytest.mark.parametrize(
    "host",
    ["unix:", "no-such-name.invalid", "dns:///127.0.0.1", "ipv4:127.0.0.1", "127.0.0.1:80", "a" * 300, "[::1", "::g"],
)
def test_no_address_is_said_so(host: str) -> None:
    with refused(ErrorCode.SERVER_CONFIG, "", "host"):
        bind_target(settings(host=host))


# --- Tokens


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n", encoding="ascii")
    path.chmod(0o600)
    return path


def test_a_token_file_is_made_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "token"
    before = os.umask(0)  # even where the user lets everybody read everything
    try:
        tokens = load_tokens(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    token = path.read_text(encoding="ascii").strip()
    assert len(token) >= 43  # 256 bits
    assert tokens.owner(token) == ""
    assert load_tokens(path).owner(token) == ""  # and kept
    assert os.listdir(path.parent) == ["token"]
    assert load_tokens(tmp_path / "other").owner(token) is None


def test_servers_that_start_together_share_one_token(tmp_path: Path) -> None:
    path, together = tmp_path / "token", threading.Barrier(8)

    def start(_: int) -> Tokens:
        together.wait()
        return load_tokens(path)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(start, range(8)))
    assert len(set(made)) == 1
    assert os.listdir(tmp_path) == ["token"]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o620, 0o610, 0o777])
def test_a_token_file_that_others_can_use_is_refused(token_file: Path, mode: int) -> None:
    token_file.chmod(mode)
    with refused(ErrorCode.SERVER_CONFIG, f"{mode:04o}", "token_file"):
        load_tokens(token_file)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_token_file_is_refused(token_file: Path) -> None:
    os.chown(token_file, 65534, 65534)
    with refused(ErrorCode.SERVER_CONFIG, "another user", "token_file"):
        load_tokens(token_file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no token"),
        ("# nothing\n\n", "no token"),
        ("short\n", "less than 16"),
        (f"a b {TOKEN}\n", "line 1"),
        (f"{TOKEN}\nna/me {TOKEN}\n", "line 2"),
        ("tökentökentökentöken\n", "printable ASCII"),
        ("x" * 70_000, "64 KiB"),
    ],
)
def test_a_token_file_without_usable_tokens_is_refused(token_file: Path, text: str, words: str) -> None:
    token_file.write_text(text, encoding="utf-8")
    with pytest.raises(SmartDJError, match=words) as caught:
        load_tokens(token_file)
    assert caught.value.code is ErrorCode.SERVER_CONFIG
    assert TOKEN not in str(caught.value)


def test_things_that_are_no_token_file(tmp_path: Path) -> None:
    with refused(ErrorCode.SERVER_CONFIG, "", "token_file"):
        load_tokens(tmp_path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with refused(ErrorCode.SERVER_CONFIG, "no regular file", "token_file"):  # and doesn't hang
        load_tokens(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with refused(ErrorCode.SERVER_CONFIG, "", "token_file"):
        load_tokens(tmp_path / "dangling")
    (tmp_path / "file").touch()
    with refused(ErrorCode.SERVER_CONFIG, "", "token_file"):
        load_tokens(tmp_path / "file" / "token")


def test_names_comments_and_a_link_to_the_file(token_file: Path, tmp_path: Path) -> None:
    token_file.write_text(f"# for the studio\nstudio {TOKEN}\n\n  {TOKEN[::-1]}  \n", encoding="ascii")
    (tmp_path / "link").symlink_to(token_file)
    tokens = load_tokens(tmp_path / "link")
    assert tokens.owner(TOKEN) == "studio"
    assert tokens.owner(TOKEN[::-1]) == ""
    assert tokens.owner(TOKEN.encode()) == "studio"


@pytest.mark.parametrize(
    "given", ["", " ", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü", "\udcff", b"\xff", "studio", "#"]
)
def test_other_tokens_are_nobodys(token_file: Path, given: str | bytes) -> None:
    assert load_tokens(token_file).owner(given) is None


def test_every_token_is_compared_in_constant_time(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token_file.write_text(f"a {TOKEN}\nb {TOKEN}2\nc {TOKEN}3\n", encoding="ascii")
    tokens = load_tokens(token_file)
    seen: list[tuple[int, int]] = []
    compare = security.hmac.compare_digest

    def noting(one: bytes, other: bytes) -> bool:
        seen.append((len(one), len(other)))
        return bool(compare(one, other))

    monkeypatch.setattr(security.hmac, "compare_digest", noting)
    for given in (TOKEN, TOKEN + "3", "x", "x" * 10_000):
        seen.clear()
        tokens.owner(given)
        assert seen == [(32, 32)] * 3  # all of them, and of one length, whatever is given


def test_tokens_do_not_show_themselves(token_file: Path) -> None:
    tokens = load_tokens(token_file)
    assert TOKEN not in repr(tokens)
    assert repr(tokens) == "Tokens()"


# --- TLS

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


class Authority:
    """Certificates of a small authority, made with the openssl program."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.certificate, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        run(
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"],
            "-keyout", self.key, "-out", self.certificate, "-subj", f"/CN={name}",
        )  # fmt: skip

    def issue(self, name: str) -> tuple[Path, Path]:
        certificate, key, request = (self.folder / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n", encoding="ascii")
        run(
            ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
            "-keyout", key, "-out", request, "-subj", f"/CN={name}",
        )  # fmt: skip
        run(
            ["x509", "-req", "-days", "2", "-CAcreateserial"], "-in", request, "-out", certificate,
            "-CA", self.certificate, "-CAkey", self.key, "-extfile", extensions,
        )  # fmt: skip
        return certificate, key


def run(first: list[str], *rest: object) -> None:
    subprocess.run(["openssl", *first, *map(str, rest)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("server")


def test_no_tls_no_credentials() -> None:
    assert tls_credentials(settings()) is None


@contextmanager
def secure_server(configured: Settings) -> Iterator[str]:
    def name(_: bytes, context: grpc.ServicerContext) -> bytes:
        return b",".join(context.auth_context().get("x509_common_name", [b"nobody"]))

    credentials = tls_credentials(configured)
    assert credentials is not None
    handlers = {"Name": grpc.unary_unary_rpc_method_handler(name)}
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Thing", handlers),))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def ask(address: str, credentials: grpc.ChannelCredentials) -> bytes:
    with grpc.secure_channel(address, credentials) as channel:
        return bytes(channel.unary_unary("/test.Thing/Name")(b"", timeout=20))


@needs_openssl
def test_tls_over_a_real_connection(authority: Authority, pair: tuple[Path, Path], tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    with secure_server(settings(tls_certificate=pair[0], tls_key=pair[1])) as address:
        assert ask(address, grpc.ssl_channel_credentials(authority.certificate.read_bytes())) == b"nobody"
        with pytest.raises(grpc.RpcError):
            ask(address, grpc.ssl_channel_credentials(stranger.certificate.read_bytes()))


@needs_openssl
def test_only_clients_with_a_certificate(authority: Authority, pair: tuple[Path, Path], tmp_path: Path) -> None:
    root = authority.certificate.read_bytes()

    def credentials(certificate: Path, key: Path) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(root, key.read_bytes(), certificate.read_bytes())

    configured = settings(tls_certificate=pair[0], tls_key=pair[1], tls_client_ca=authority.certificate)
    with secure_server(configured) as address:
        assert ask(address, credentials(*authority.issue("desk"))) == b"desk"
        for other in (grpc.ssl_channel_credentials(root), credentials(*Authority(tmp_path, "stranger").issue("desk2"))):
            with pytest.raises(grpc.RpcError):
                ask(address, other)


@needs_openssl
def test_what_can_be_wrong_with_the_files(authority: Authority, pair: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = pair
    _, other_key = authority.issue("other")
    locked, text, damaged, der = (tmp_path / name for name in ("locked", "text", "damaged", "der"))
    run(["ec"], "-aes256", "-passout", "pass:x", "-in", key, "-out", locked)
    run(["x509"], "-in", certificate, "-outform", "DER", "-out", der)
    text.write_text("hello", encoding="ascii")
    lines = certificate.read_text(encoding="ascii").splitlines(keepends=True)
    damaged.write_text("".join([lines[0], *lines[2:]]), encoding="ascii")
    good = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": authority.certificate}
    assert tls_credentials(settings(**good)) is not None
    for name, path, words in (
        ("tls_certificate", tmp_path / "missing", "No such file"),
        ("tls_key", tmp_path / "missing", "No such file"),
        ("tls_client_ca", tmp_path / "missing", "No such file"),
        ("tls_certificate", tmp_path, "Is a directory"),
        ("tls_certificate", text, "holds no certificate"),
        ("tls_certificate", der, "holds no certificate"),
        ("tls_certificate", key, "holds no certificate"),
        ("tls_certificate", damaged, "damaged"),
        ("tls_key", certificate, "holds no private key"),
        ("tls_key", other_key, "not that of the certificate"),
        ("tls_key", locked, "needs a password"),
        ("tls_client_ca", key, "holds no certificate"),
        ("tls_client_ca", damaged, "holds no certificate"),
    ):
        with refused(ErrorCode.SERVER_CONFIG, words, name):
            tls_credentials(settings(**(good | {name: path})))


# --- Paths

CONTENT = b"RIFF of the allowed file"
SECRET = b"what nobody may read"


class Place:
    """An allowed folder with a file, and a secret beside it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.outside = folder / "music", folder / "outside"
        (self.root / "sub").mkdir(parents=True)
        self.outside.mkdir()
        self.file = self.root / "sub" / "a.wav"
        self.file.write_bytes(CONTENT)
        self.secret = self.outside / "secret"
        self.secret.write_bytes(SECRET)

    def read(self, path: Path | str) -> bytes:
        with resolve_under_roots(str(path), [self.root]) as opened:
            assert opened.path.is_relative_to(self.root.resolve())
            data = opened.file.read()
            assert opened.size_bytes == len(data)
            return data

    def refuses(self, code: ErrorCode, path: Path | str, words: str = "") -> None:
        with refused(code, words):
            self.read(path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_file_below_a_root_is_opened(place: Place) -> None:
    assert place.read(place.file) == CONTENT
    assert place.read(f"{place.root}//sub/./../sub/a.wav") == CONTENT
    (place.root / "日本 \n語.wav").write_bytes(CONTENT)
    assert place.read(place.root / "日本 \n語.wav") == CONTENT


def test_the_file_is_closed_afterwards(place: Place) -> None:
    with resolve_under_roots(str(place.file), [place.root]) as opened:
        pass
    assert opened.file.closed


def test_roots_may_be_links_and_several(place: Place, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place.root)
    roots = [tmp_path / "missing", tmp_path / "link"]
    for path in (place.file, tmp_path / "link" / "sub" / "a.wav"):
        with resolve_under_roots(str(path), roots) as opened:
            assert opened.path == place.file.resolve()


def test_links_that_stay_inside_are_followed(place: Place) -> None:
    (place.root / "inner.wav").symlink_to("sub/a.wav")
    (place.root / "folder").symlink_to("sub")
    assert place.read(place.root / "inner.wav") == CONTENT
    assert place.read(place.root / "folder" / "a.wav") == CONTENT


def test_nothing_outside(place: Place, tmp_path: Path) -> None:
    (place.root / "file-link").symlink_to(place.secret)
    (place.root / "folder-link").symlink_to(place.outside)
    (place.root / "chain").symlink_to("file-link")
    (place.root / "relative").symlink_to("../outside/secret")
    (place.root / "dangling").symlink_to(place.outside / "not there")
    sibling = tmp_path / "music2"  # begins like the root
    sibling.mkdir()
    (sibling / "a.wav").write_bytes(SECRET)
    messages = set()
    for path in (
        place.secret,
        place.outside / "not there",
        place.outside,
        place.root / "file-link",
        place.root / "folder-link" / "secret",
        place.root / "folder-link" / "not there",
        place.root / "chain",
        place.root / "relative",
        place.root / "dangling",
        f"{place.root}/../outside/secret",
        f"{place.root}/sub/../../outside/secret",
        f"{place.root}/folder-link/../outside/secret",
        sibling / "a.wav",
        "/etc/passwd",
        "/",
    ):
        with pytest.raises(SmartDJError) as caught:
            place.read(path)
        assert caught.value.code is ErrorCode.PATH_FORBIDDEN, path
        messages.add(caught.value.message.replace(str(path), "PATH"))
    assert len(messages) == 1  # the answer doesn't tell whether something is there


def test_without_roots_nothing_is_allowed(place: Place) -> None:
    with refused(ErrorCode.PATH_FORBIDDEN), resolve_under_roots(str(place.file), []):
        pass


@pytest.mark.parametrize(
    "path", ["", ".", "a.wav", "sub/a.wav", "./a", "../x", "~/a.wav", "file:///etc/passwd", "C:\\a.wav", "\0", "/a\0b"]
)
def test_what_is_no_full_path(place: Place, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    place.refuses(ErrorCode.USAGE, path)
    place.refuses(ErrorCode.USAGE, f"{place.file}\0")
    place.refuses(ErrorCode.USAGE, f"{place.file}\0.txt")


def test_very_long_names(place: Place) -> None:
    place.refuses(ErrorCode.USAGE, f"{place.root}/{'a/' * MAX_PATH_BYTES}b")
    place.refuses(ErrorCode.USAGE, f"/{'é' * MAX_PATH_BYTES}")
    place.refuses(ErrorCode.AUDIO_NOT_FOUND, place.root / ("n" * 300))
    place.refuses(ErrorCode.AUDIO_NOT_FOUND, f"{place.root}/{'d' * 250}/{'n' * 300}")
    with pytest.raises(SmartDJError) as caught:
        place.read(f"{place.root}/{'x' * 3000}")
    assert len(caught.value.message) < 300


def test_missing_files_and_files_as_folders(place: Place) -> None:
    place.refuses(ErrorCode.AUDIO_NOT_FOUND, place.root / "b.wav")
    place.refuses(ErrorCode.AUDIO_NOT_FOUND, place.root / "no" / "b.wav")
    place.refuses(ErrorCode.AUDIO_NOT_FOUND, place.file / "b.wav")
    (place.root / "dangling").symlink_to("nowhere")
    place.refuses(ErrorCode.AUDIO_NOT_FOUND, place.root / "dangling")


def test_what_is_no_regular_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(place.root / "fifo")
    monkeypatch.chdir(place.root)  # the full path may be too long for a socket
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    (place.root / "fifo-link").symlink_to("fifo")
    for path in (place.root, place.root / "sub", place.root / "fifo", place.root / "socket", place.root / "fifo-link"):
        place.refuses(ErrorCode.AUDIO_UNREADABLE, path)  # at once: opening a FIFO would wait for a writer
    place.refuses(ErrorCode.AUDIO_UNREADABLE, f"{place.root}/", "folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make devices")
def test_devices(place: Place) -> None:
    try:
        os.mknod(place.root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("devices can't be made here")
    place.refuses(ErrorCode.AUDIO_UNREADABLE, place.root / "zero", "no regular file")


def test_links_in_a_circle(place: Place) -> None:
    (place.root / "a").symlink_to("b")
    (place.root / "b").symlink_to("a")
    for path in (place.root / "a", place.root / "a" / "x"):
        with pytest.raises(SmartDJError) as caught:
            place.read(path)
        assert caught.value.code in (ErrorCode.PATH_FORBIDDEN, ErrorCode.AUDIO_NOT_FOUND)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_ways_through_proc(place: Place) -> None:
    with place.secret.open("rb") as held, place.file.open("rb") as inside:
        for path in (
            "/proc/self/environ",
            "/proc/self/mem",
            "/dev/zero",
            "/dev/stdin",
            f"/proc/self/root{place.secret}",
            f"/proc/self/fd/{held.fileno()}",
            f"/dev/fd/{held.fileno()}",
        ):
            place.refuses(ErrorCode.PATH_FORBIDDEN, path)
            if not path.startswith(("/proc/self/root", "/proc/self/fd", "/dev/fd", "/dev/stdin")):
                with refused(ErrorCode.PATH_FORBIDDEN), resolve_under_roots(path, [Path("/")]):
                    pass  # not even where everything is allowed
        (place.root / "environ").symlink_to("/proc/self/environ")
        place.refuses(ErrorCode.PATH_FORBIDDEN, place.root / "environ")
        # What such a way leads to is judged, not the way.
        assert place.read(f"/proc/self/fd/{inside.fileno()}") == CONTENT
        place.file.unlink()
        with pytest.raises(SmartDJError):
            place.read(f"/proc/self/fd/{inside.fileno()}")


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no /dev/shm here")
def test_memory_may_be_a_root_when_it_is_named() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        file = Path(folder) / "a.wav"
        file.write_bytes(CONTENT)
        with resolve_under_roots(str(file), [Path(folder)]) as opened:
            assert opened.file.read() == CONTENT
        with refused(ErrorCode.PATH_FORBIDDEN), resolve_under_roots(str(file), [Path("/")]):
            pass


def after_resolving(monkeypatch: pytest.MonkeyPatch, path: Path, swap: Callable[[], object]) -> None:
    """Let somebody act between the look at a path and its opening."""
    real, done = os.path.realpath, []

    def resolve(name: Any, **options: Any) -> str:
        resolved = real(name, **options)
        if not done and os.fspath(name).startswith(os.fspath(path)):
            done.append(swap())
        return str(resolved)

    monkeypatch.setattr(os.path, "realpath", resolve)


def test_the_file_is_swapped_for_a_link(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap() -> None:
        place.file.unlink()
        place.file.symlink_to(place.secret)

    after_resolving(monkeypatch, place.file, swap)
    place.refuses(ErrorCode.PATH_FORBIDDEN, place.file)


def test_a_folder_on_the_way_is_swapped_for_a_link(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.outside / "a.wav").write_bytes(SECRET)

    def swap() -> None:
        (place.root / "sub").rename(place.root / "sub2")
        (place.root / "sub").symlink_to(place.outside)

    after_resolving(monkeypatch, place.file, swap)
    place.refuses(ErrorCode.AUDIO_NOT_FOUND, place.file)


def test_the_file_is_swapped_for_a_fifo(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def swap() -> None:
        place.file.unlink()
        os.mkfifo(place.file)

    after_resolving(monkeypatch, place.file, swap)
    place.refuses(ErrorCode.AUDIO_UNREADABLE, place.file)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (os.mkfifo, ErrorCode.AUDIO_UNREADABLE),
        (os.mkdir, ErrorCode.AUDIO_UNREADABLE),
        (lambda path: path.symlink_to("../../outside/secret"), ErrorCode.PATH_FORBIDDEN),
    ],
)
def test_the_file_is_swapped_between_its_check_and_its_opening(
    place: Place, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], code: ErrorCode
) -> None:
    checks = []
    check = security._check_regular

    def swap(path: str, about: os.stat_result) -> None:
        check(path, about)
        if not checks:
            place.file.unlink()
            make(place.file)
        checks.append(about)

    monkeypatch.setattr(security, "_check_regular", swap)
    before = len(os.listdir("/dev/fd"))
    place.refuses(code, place.file)
    assert len(os.listdir("/dev/fd")) == before


def test_the_file_is_swapped_after_it_was_opened(place: Place) -> None:
    with resolve_under_roots(str(place.file), [place.root]) as opened:
        place.file.unlink()
        place.file.symlink_to(place.secret)
        assert opened.file.read() == CONTENT


def test_somebody_swaps_all_the_time(place: Place) -> None:
    (place.outside / "a.wav").write_bytes(SECRET)
    folder, stop = place.root / "sub", threading.Event()

    def swap() -> None:
        while not stop.is_set():
            folder.rename(place.root / "away")
            folder.symlink_to(place.outside)
            folder.unlink()
            (place.root / "away").rename(folder)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen: set[bytes | ErrorCode] = set()
    try:
        for _ in range(2000):
            try:
                seen.add(place.read(place.file))
            except SmartDJError as error:
                seen.add(error.code)
    finally:
        stop.set()
        swapper.join()
    assert seen <= {CONTENT, ErrorCode.PATH_FORBIDDEN, ErrorCode.AUDIO_NOT_FOUND}
    assert place.read(place.file) == CONTENT


def test_no_descriptor_is_left_open(place: Place) -> None:
    os.mkfifo(place.root / "fifo")
    before = len(os.listdir("/dev/fd"))
    for _ in range(20):
        place.read(place.file)
        for path in (place.root / "fifo", place.root / "x" / "y", place.file / "z", place.root):
            with pytest.raises(SmartDJError):
                place.read(path)
        with create_under_roots(str(place.root / "sub" / "new"), [place.root]):
            pass
        (place.root / "sub" / "new").unlink()
    assert len(os.listdir("/dev/fd")) == before


# --- New files


def write(place: Place, path: Path | str, data: bytes = b"new") -> None:
    with create_under_roots(str(path), [place.root]) as file:
        file.write(data)


def test_a_new_file_appears_whole(place: Place) -> None:
    path = place.root / "sub" / "b.wav"
    with create_under_roots(str(path), [place.root]) as file:
        file.write(b"half")
        file.flush()
        assert not path.exists()
        file.write(b" and whole")
    assert path.read_bytes() == b"half and whole"
    assert sorted(os.listdir(path.parent)) == ["a.wav", "b.wav"]


def test_a_failure_leaves_nothing(place: Place) -> None:
    def half() -> None:
        with create_under_roots(str(place.root / "b.wav"), [place.root]) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert os.listdir(place.root) == ["sub"]


def test_nothing_is_ever_overwritten(place: Place) -> None:
    with refused(ErrorCode.OUTPUT_EXISTS):
        write(place, place.file)
    (place.root / "dangling").symlink_to(place.outside / "new")
    with refused(ErrorCode.OUTPUT_EXISTS):
        write(place, place.root / "dangling")
    late = place.root / "late.wav"

    def overtaken() -> None:
        with create_under_roots(str(late), [place.root]) as file:
            file.write(b"mine")
            late.write_bytes(b"theirs")

    with refused(ErrorCode.OUTPUT_EXISTS):
        overtaken()
    assert late.read_bytes() == b"theirs"
    assert place.file.read_bytes() == CONTENT
    assert os.listdir(place.outside) == ["secret"]
    assert sorted(os.listdir(place.root)) == ["dangling", "late.wav", "sub"]


def test_new_files_stay_below_the_roots(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.root / "way-out").symlink_to(place.outside)
    for path in (place.outside / "n", place.root / "way-out" / "n", f"{place.root}/../outside/n", "/n", "/dev/n"):
        with refused(ErrorCode.PATH_FORBIDDEN):
            write(place, path)
    for path in ("n.wav", "", f"{place.root}/sub/", f"{place.root}/..", f"{place.root}/a\0b"):
        with refused(ErrorCode.USAGE):
            write(place, path)

    def swap() -> None:
        (place.root / "sub").rename(place.root / "sub2")
        (place.root / "sub").symlink_to(place.outside)

    after_resolving(monkeypatch, place.root / "sub", swap)
    with refused(ErrorCode.OUTPUT_UNWRITABLE):
        write(place, place.root / "sub" / "n")
    assert os.listdir(place.outside) == ["secret"]


def test_where_nothing_can_be_written(place: Place) -> None:
    for path in (place.root / "no" / "n", place.file / "n", place.root / ("n" * 300)):
        with refused(ErrorCode.OUTPUT_UNWRITABLE):
            write(place, path)


def test_a_full_disk_is_said_so(place: Place) -> None:
    def full() -> None:
        with create_under_roots(str(place.root / "n"), [place.root]):
            raise OSError(28, "No space left on device")

    with refused(ErrorCode.DISK_FULL):
        full()
    assert os.listdir(place.root) == ["sub"]


def test_file_systems_without_links(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    write(place, place.root / "n", b"there")
    assert (place.root / "n").read_bytes() == b"there"
    with refused(ErrorCode.OUTPUT_EXISTS):
        write(place, place.root / "n")
    assert sorted(os.listdir(place.root)) == ["n", "sub"]


def test_systems_that_cannot_walk_folders(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_WALKS", False)
    assert place.read(place.file) == CONTENT
    write(place, place.root / "n", b"there")
    assert (place.root / "n").read_bytes() == b"there"
    place.refuses(ErrorCode.PATH_FORBIDDEN, place.secret)
