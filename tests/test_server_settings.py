"""Settings: who outranks whom, what is refused and how, what reading again does."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server import settings as module
from smartdj_agent.server.settings import LIVE, NAMES, PREFIX, Settings, load, print_config, reload


@pytest.fixture(autouse=True)
def nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(**arguments: Any) -> SmartDJError:
    with pytest.raises(SmartDJError) as caught:
        load(**{"environment": {}, **arguments})
    assert caught.value.code is ErrorCode.SERVER_CONFIG
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def test_nothing_given_is_safe() -> None:
    configuration = load(environment={})
    settings = configuration.settings
    assert (settings.host, settings.port) == ("127.0.0.1", 50551)
    assert settings.allowed_roots == ()
    assert settings.metrics_port is None
    assert set(configuration.origins.values()) == {"default"}
    assert settings.data_dir.is_absolute()


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = written(tmp_path / "c.toml", "port = 1\nmax_queue = 100\nmax_channels = 2\n")
    environment = {"SMARTDJ_SERVE_PORT": "2", "SMARTDJ_SERVE_MAX_QUEUE": "200", "OTHER": "x", "SMARTDJ_DEBUG": "1"}
    configuration = load({"port": 3, "host": None}, environment, file)
    settings, origins = configuration.settings, configuration.origins
    assert (settings.port, settings.max_queue, settings.max_channels) == (3, 200, 2)
    assert settings.host == "127.0.0.1"
    assert origins["port"] == "flag"
    assert origins["max_queue"] == "environment SMARTDJ_SERVE_MAX_QUEUE"
    assert origins["max_channels"] == f"file {file}"
    assert origins["host"] == "default"


def test_the_file_in_its_usual_place_and_by_variable(tmp_path: Path) -> None:
    written(module.default_file(), "port = 7\n")
    assert tmp_path in module.default_file().parents
    assert load(environment={}).settings.port == 7
    named = written(tmp_path / "named.toml", "port = 8\n")
    assert load(environment={"SMARTDJ_SERVE_CONFIG": str(named)}).settings.port == 8
    assert load(environment={"SMARTDJ_SERVE_CONFIG": ""}).settings.port == 7
    other = written(tmp_path / "other.toml", "port = 9\n")
    assert load(None, {"SMARTDJ_SERVE_CONFIG": str(named)}, other).settings.port == 9


def test_the_processes_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTDJ_SERVE_PORT", "4711")
    assert load().settings.port == 4711


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert str(missing) in refused(file=missing).message
    assert str(missing) in refused(environment={"SMARTDJ_SERVE_CONFIG": str(missing)}).message
    assert str(tmp_path) in refused(file=tmp_path).message  # a folder


def test_paths_start_where_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "etc" / "c.toml", 'data_dir = "data"\nallowed_roots = ["../music", "~/loops"]\n')
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    settings = load({"port_file": "run/port"}, {"SMARTDJ_SERVE_TOKEN_FILE": "token"}, file).settings
    assert settings.data_dir == tmp_path / "etc" / "data"
    assert settings.allowed_roots == (tmp_path / "music", tmp_path / "me" / "loops")
    assert settings.port_file == tmp_path / "run" / "port"
    assert settings.token_file == tmp_path / "token"


def test_lists_in_the_environment() -> None:
    environment = {"SMARTDJ_SERVE_DEVICES": "cuda:0,cuda:1", "SMARTDJ_SERVE_ALLOWED_ROOTS": "/a:/b c:"}
    settings = load(environment=environment).settings
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.allowed_roots == (Path("/a"), Path("/b c"))


def test_lists_from_flags() -> None:
    assert load({"devices": [], "allowed_roots": ()}, {}).origins["devices"] == "default"
    assert load({"devices": ["cpu"], "allowed_roots": "/a"}, {}).settings.allowed_roots == (Path("/a"),)


def test_empty_takes_back_what_is_optional(tmp_path: Path) -> None:
    file = written(tmp_path / "c.toml", 'token_file = "t"\nmetrics_port = 9000\nallowed_roots = ["/a"]\n')
    assert load({}, {}, file).settings.metrics_port == 9000
    settings = load({"token_file": "", "metrics_port": "", "allowed_roots": ""}, {}, file).settings
    assert (settings.token_file, settings.metrics_port, settings.allowed_roots) == (None, None, ())


def test_typing_errors_get_a_suggestion(tmp_path: Path) -> None:
    file = written(tmp_path / "c.toml", "max_que = 3\n")
    error = refused(file=file)
    assert (error.field, error.hint) == ("max_que", "Did you mean max_queue?")
    assert str(file) in error.message
    error = refused(environment={"SMARTDJ_SERVE_PROT": "1"})
    assert error.hint == "Did you mean SMARTDJ_SERVE_PORT?"
    assert "--print-config" in refused(flags={"zzz": 1}).hint
    assert refused(file=written(tmp_path / "t.toml", "[server]\nport = 1\n")).field == "server"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "65536"),
        ("port", "true"),
        ("port", '"many"'),
        ("port", "[1]"),
        ("drain_s", "nan"),
        ("keep_s", "inf"),
        ("keep_s", "-1"),
        ("max_audio_s", "100000"),
        ("max_queue", "0"),
        ("max_message_bytes", "1000"),
        ("log_level", '"loud"'),
        ("log_format", '"xml"'),
        ("host", '""'),
        ("host", '"a b"'),
        ("host", '"a\\n"'),
        ("data_dir", '""'),
        ("data_dir", "3"),
        ("data_dir", '"a\\u0000b"'),
        ("allowed_roots", '[""]'),
        ("allowed_roots", "[3]"),
        ("devices", "[]"),
        ("devices", '["cpu", "cpu"]'),
        ("devices", '[""]'),
        ("preset", "1979-05-27"),
    ],
)
def test_a_bad_value_is_named_with_its_origin(tmp_path: Path, name: str, text: str) -> None:
    file = written(tmp_path / "c.toml", f"{name} = {text}\n")
    error = refused(file=file)
    assert error.field == name
    assert error.message.startswith(f"{name} (file {file}): ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('tls_key = "k"', "tls_certificate and tls_key"),
        ('tls_certificate = "c"', "tls_certificate and tls_key"),
        ('tls_client_ca = "c"', "tls_client_ca needs"),
        ("max_queue = 3", "max_queue_per_client"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, text: str, words: str) -> None:
    assert words in refused(file=written(tmp_path / "c.toml", text)).message


@pytest.mark.parametrize(
    "data", [b"port =", b"\xff\xfe", b"port = 1\nport = 2", b"a = " + b"[" * 5000, b"#" * 1024**2 + b"#"]
)
def test_a_spoilt_file_is_named(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(data)
    assert str(file) in refused(file=file).message


def test_windows_editors_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbfport = 5\r\nhost = '::1'\r\n")
    assert load({}, {}, file).settings.port == 5


def test_all_faults_are_counted() -> None:
    assert "(and 2 more)" in refused(flags={"port": -1, "max_queue": 0, "preset": ""}).message


def read_back(tmp_path: Path, text: str) -> Settings:
    return load({}, {}, written(tmp_path / "back.toml", text)).settings


def test_printed_settings_read_back_and_name_their_origin(tmp_path: Path) -> None:
    file = written(tmp_path / "my #1 file.toml", "max_queue = 100\n")
    flags = {"token_file": 'a "quoted" #\\ token', "tls_certificate": "c\x7f", "tls_key": "k\t", "metrics_port": 0}
    configuration = load(flags, {"SMARTDJ_SERVE_DRAIN_S": "1e17"}, file)
    text = print_config(configuration)
    assert read_back(tmp_path, text) == configuration.settings
    lines = dict(line.split(" = ", 1) for line in text.splitlines())
    assert tuple(lines) == NAMES
    assert lines["max_queue"] == f"100  # file {file}"
    assert lines["drain_s"].endswith("  # environment SMARTDJ_SERVE_DRAIN_S")
    assert lines["metrics_port"] == "0  # flag"
    assert lines["host"] == '"127.0.0.1"  # default'
    assert lines["library"] == "[]  # default"
    assert tomllib.loads(text)["port"] == 50551


def test_a_line_break_in_a_files_name_does_not_break_the_print(tmp_path: Path) -> None:
    configuration = load({}, {}, written(tmp_path / "a\nport = 1\n.toml", "max_queue = 99"))
    assert read_back(tmp_path, print_config(configuration)) == configuration.settings


NAME = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/"), min_size=1, max_size=20)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "port": st.integers(0, 65535),
            "data_dir": NAME,
            "allowed_roots": st.lists(NAME, min_size=1),
            "devices": st.lists(NAME, min_size=1, unique=True),
            "drain_s": st.floats(0, allow_nan=False, allow_infinity=False),
            "max_store_bytes": st.integers(1, 2**80),
            "metrics_port": st.none() | st.integers(0, 65535),
        },
    )
)
def test_any_settings_read_back(tmp_path_factory: pytest.TempPathFactory, flags: dict[str, Any]) -> None:
    configuration = load(flags, {})
    assert read_back(tmp_path_factory.mktemp("any"), print_config(configuration)) == configuration.settings


def test_reading_again_applies_what_can_be_applied(tmp_path: Path) -> None:
    file = written(tmp_path / "c.toml", "port = 1\nmax_queue = 100\nkeep_s = 5.0\n")
    running = load({"keep_s": 9.0}, {}, file)
    written(file, "port = 2\nmax_queue = 200\nkeep_s = 6.0\nmax_channels = 4\n")
    result = reload(running)
    assert result.applied == ("max_channels", "max_queue")
    assert result.restart_needed == ("port",)
    settings = result.configuration.settings
    assert (settings.port, settings.max_queue, settings.keep_s, settings.max_channels) == (1, 200, 9.0, 4)
    again = reload(result.configuration)
    assert again.applied == ()
    assert again.restart_needed == ("port",)  # still true
    assert running.settings.max_queue == 100


def test_reading_again_with_a_fault_changes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path / "c.toml", "max_queue = 100\n")
    running = load({}, {}, file)
    written(file, "max_queue = 100\nmax_chanels = 3\n")
    with pytest.raises(SmartDJError, match="max_chanels"):
        reload(running)
    file.unlink()
    with pytest.raises(SmartDJError, match="not there"):
        reload(running)


def test_reading_again_finds_a_file_that_came_and_went() -> None:
    running = load({}, {})
    file = written(module.default_file(), "max_queue = 100\n")
    came = reload(running)
    assert (came.applied, came.configuration.origins["max_queue"]) == (("max_queue",), f"file {file}")
    file.unlink()
    went = reload(came.configuration)
    assert (went.applied, went.configuration.origins["max_queue"]) == (("max_queue",), "default")


def test_settings_are_frozen_and_described() -> None:
    settings = load(environment={}).settings
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]
    assert set(NAMES) >= LIVE
    assert all(field.description for field in Settings.model_fields.values())
    assert PREFIX + "PORT" == "SMARTDJ_SERVE_PORT"
