"""Figures and log lines: right numbers, right ids, nothing that a person wrote."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server import logs
from smartdj_agent.server.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_jobs_by_state() -> None:
    metrics = Metrics()
    metrics.set_jobs({"queued": 2, "succeeded": 5})
    metrics.job_moved(None, "queued")
    metrics.job_moved("queued", "running")
    metrics.job_moved("running", "failed", ended=True)
    metrics.job_moved("succeeded", None)
    now = {state: value(metrics, "smartdj_jobs", state=state) for state in ("queued", "running", "failed", "succeeded")}
    assert now == {"queued": 2, "running": 0, "failed": 1, "succeeded": 4}
    assert value(metrics, "smartdj_jobs_ended_total", state="failed") == 1
    metrics.set_jobs({"queued": 1})
    assert value(metrics, "smartdj_jobs", state="failed") is None


def test_compute_queue_and_bytes() -> None:
    metrics = Metrics()
    metrics.set_queue_length(7)
    metrics.job_started(1.5)
    metrics.task_done("apply", 3.0, 2.5)
    metrics.task_done("plan", 4.0)
    metrics.received(100)
    metrics.received(20)
    metrics.sent(3)
    assert value(metrics, "smartdj_queue_length") == 7
    assert value(metrics, "smartdj_waiting_seconds_sum") == 1.5
    assert value(metrics, "smartdj_working_seconds_sum", task="plan") == 4
    assert value(metrics, "smartdj_realtime_factor_sum", task="apply") == 2.5
    assert value(metrics, "smartdj_realtime_factor_count", task="plan") is None
    assert value(metrics, "smartdj_audio_received_bytes_total") == 120
    assert value(metrics, "smartdj_audio_sent_bytes_total") == 3


def test_many_threads_lose_no_move() -> None:
    metrics = Metrics()

    def work() -> None:
        for _ in range(500):
            metrics.job_moved(None, "queued")
            metrics.job_moved("queued", "running")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (value(metrics, "smartdj_jobs", state="queued"), value(metrics, "smartdj_jobs", state="running")) == (
        0,
        4000,
    )


def test_two_servers_do_not_mix_and_leave_the_default_registry_alone() -> None:
    one, two = Metrics(), Metrics()
    one.call_started("/a/b")
    one.call_ended("/a/b", "OK", 0.25)
    assert value(one, "smartdj_rpcs_total", method="/a/b", code="OK") == 1
    assert value(two, "smartdj_rpcs_total", method="/a/b", code="OK") is None
    assert not [family for family in REGISTRY.collect() if family.name.startswith("smartdj")]


def test_over_http_on_loopback_until_closed() -> None:
    metrics = Metrics()
    metrics.set_queue_length(3)
    port = metrics.serve(0)
    url = f"http://127.0.0.1:{port}/metrics"
    with closing(metrics):
        with urlopen(url, timeout=10) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        assert families["smartdj_queue_length"].samples[0].value == 3
        with pytest.raises(SmartDJError) as taken:
            Metrics().serve(port)
        assert (taken.value.code, taken.value.field) == (ErrorCode.SERVER_CONFIG, "metrics_port")
    with pytest.raises(URLError):
        urlopen(url, timeout=10)
    metrics.close()  # a second time is fine


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root, own = logging.getLogger(), logging.getLogger(logs.LOGGER)
    before = (root.level, own.level)
    stream = io.StringIO()
    yield stream
    for handler in [present for present in root.handlers if present.get_name() == logs.LOGGER]:
        root.removeHandler(handler)
    root.setLevel(before[0])
    own.setLevel(before[1])


LOGGER = logging.getLogger("smartdj_agent.server.test")


def fail(secret: str) -> None:
    try:
        raise KeyError(secret)
    except KeyError as cause:
        raise ValueError(f"no good: {secret}") from cause


def log_failure(secret: str) -> None:
    try:
        fail(secret)
    except ValueError:
        LOGGER.exception("it failed")


def test_text_lines_carry_both_ids_each(log: io.StringIO) -> None:
    logs.configure("info", "text", log)
    with logs.bound(request_id="r-1"):
        LOGGER.info("begins", extra={"seconds": 0.5})
        with logs.bound(job_id="j-1"):
            assert logs.request_id() == "r-1"
            log_failure("make the dog louder")
        LOGGER.debug("not shown")
    LOGGER.info("outside")
    lines = log.getvalue().splitlines()
    assert " INFO    r-1 - server.test: begins seconds=0.5" in lines[0]
    assert all(" ERROR   r-1 j-1 server.test: " in line for line in lines[1:-1])
    assert " - - server.test: outside" in lines[-1]
    text = log.getvalue()
    assert "builtins.ValueError" in text
    assert "builtins.KeyError" in text
    assert "in fail" in text
    assert "dog" not in text


def test_what_a_library_marks_for_itself_is_not_shown(log: io.StringIO) -> None:
    logs.configure("info", "text", log)
    LOGGER.info("shown", extra={"_library_own_mark": 1, "count": 2})
    assert log.getvalue().endswith(": shown count=2\n")


def test_json_lines_read_back(log: io.StringIO) -> None:
    logs.configure("info", "json", log)
    with logs.bound(request_id="r-1", job_id="j-1"):
        LOGGER.warning("ü\n“x”", extra={"code": ErrorCode.USAGE, "path": object})
        log_failure("make the dog louder")
    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    assert len(entries) == 2
    assert entries[0]["message"] == "ü\n“x”"
    assert entries[0]["code"] == "usage"
    assert (entries[0]["level"], entries[0]["logger"]) == ("warning", "smartdj_agent.server.test")
    assert all((entry["request_id"], entry["job_id"]) == ("r-1", "j-1") for entry in entries)
    assert "builtins.ValueError" in entries[1]["trace"]
    assert "dog" not in log.getvalue()


def test_messages_of_exceptions_only_when_debugging(log: io.StringIO) -> None:
    logs.configure("debug", "text", log)
    log_failure("make the dog louder")
    assert "builtins.ValueError: no good: make the dog louder" in log.getvalue()


def test_nobody_forges_a_line(log: io.StringIO) -> None:
    logs.configure("info", "text", log)
    LOGGER.info("id %s", "x\n2026-01-01 ERROR forged\x1b[2J\u2028", extra={"value": "a\rb"})
    lines = log.getvalue().split("\n")
    assert lines[1:] == [""]
    assert lines[0].endswith(r"id x\n2026-01-01 ERROR forged\x1b[2J\u2028 value=a\rb")


def test_again_changes_level_without_doubling(log: io.StringIO) -> None:
    logs.configure("warning", "text", log)
    LOGGER.info("hidden")
    logs.configure("info", "text", log)
    LOGGER.info("shown")
    logging.getLogger("grpc").info("not ours")
    logging.getLogger("grpc").warning("theirs")
    assert [line.split(": ")[1] for line in log.getvalue().splitlines()] == ["shown", "theirs"]


def test_tasks_keep_their_ids_apart(log: io.StringIO) -> None:
    logs.configure("info", "json", log)

    async def task(name: str, mine: asyncio.Event, other: asyncio.Event) -> None:
        with logs.bound(request_id=name):
            mine.set()
            await other.wait()
            LOGGER.info("%s", name)

    async def both() -> None:
        one, two = asyncio.Event(), asyncio.Event()
        await asyncio.gather(task("a", one, two), task("b", two, one))

    asyncio.run(both())
    entries = [json.loads(line) for line in log.getvalue().splitlines()]
    assert sorted((entry["request_id"], entry["message"]) for entry in entries) == [("a", "a"), ("b", "b")]
    assert logs.request_id() == logs.NONE
