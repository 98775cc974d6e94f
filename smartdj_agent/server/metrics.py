"""Figures for Prometheus: jobs, queue, compute and calls, in a registry of this server's own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from smartdj_agent.errors import ErrorCode, SmartDJError

HOST: Final = "127.0.0.1"
UNKNOWN_METHOD: Final = "unknown"

_CALL_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800)
_JOB_S = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_FACTORS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What the server counts.

    Methods may be called from any thread. No label ever holds text from a client, so the number of series is bounded.

    Attributes
    ----------
    registry
        Where the series are; not the process's default one, so that several servers in a process don't mix.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None
        self._jobs = Gauge("smartdj_jobs", "Jobs in the store.", ["state"], registry=self.registry)
        self._ended = Counter("smartdj_jobs_ended", "Jobs that ended.", ["state"], registry=self.registry)
        self._queue = Gauge("smartdj_queue_length", "Jobs that wait for a device.", registry=self.registry)
        self._waiting = Histogram(
            "smartdj_waiting_seconds", "From queued to started.", buckets=_JOB_S, registry=self.registry
        )
        self._working = Histogram(
            "smartdj_working_seconds", "Compute per task.", ["task"], buckets=_JOB_S, registry=self.registry
        )
        self._factor = Histogram(
            "smartdj_realtime_factor",
            "Seconds of audio per second of compute.",
            ["task"],
            buckets=_FACTORS,
            registry=self.registry,
        )
        self._received = Counter("smartdj_audio_received_bytes", "Audio that came in.", registry=self.registry)
        self._sent = Counter("smartdj_audio_sent_bytes", "Audio that went out.", registry=self.registry)
        self._calls = Counter("smartdj_rpcs", "Calls that ended.", ["method", "code"], registry=self.registry)
        self._call_s = Histogram(
            "smartdj_rpc_seconds", "How long calls took.", ["method"], buckets=_CALL_S, registry=self.registry
        )
        self._open = Gauge("smartdj_rpcs_open", "Calls that are running.", ["method"], registry=self.registry)

    def set_jobs(self, counts: Mapping[str, int]) -> None:
        """Set how many jobs are in which state, as after a start; states not named have none."""
        with self._lock:
            self._jobs.clear()
            for state, count in counts.items():
                self._jobs.labels(state).set(count)

    def job_moved(self, before: str | None, after: str | None, *, ended: bool = False) -> None:
        """Count a change of state.

        Parameters
        ----------
        before, after
            States; None before a new job and after a deleted one.
        ended
            Whether `after` is a state that a job ends in.
        """
        with self._lock:
            if before is not None:
                self._jobs.labels(before).dec()
            if after is not None:
                self._jobs.labels(after).inc()
        if ended and after is not None:
            self._ended.labels(after).inc()

    def set_queue_length(self, length: int) -> None:
        """Set how many jobs wait for a device."""
        self._queue.set(length)

    def job_started(self, waiting_s: float) -> None:
        """Count how long a job waited in the queue, seconds."""
        self._waiting.observe(waiting_s)

    def task_done(self, task: str, working_s: float, realtime_factor: float | None = None) -> None:
        """Count a finished piece of compute.

        Parameters
        ----------
        task
            ``plan`` or ``apply``.
        working_s
            Compute time, seconds.
        realtime_factor
            Seconds of audio per second of compute; None where it has no meaning.
        """
        self._working.labels(task).observe(working_s)
        if realtime_factor is not None:
            self._factor.labels(task).observe(realtime_factor)

    def received(self, count: int) -> None:
        """Count audio that came in, bytes."""
        self._received.inc(count)

    def sent(self, count: int) -> None:
        """Count audio that went out, bytes."""
        self._sent.inc(count)

    def call_started(self, method: str) -> None:
        """Count a call that begins; `method` must be one that the server has, or `UNKNOWN_METHOD`."""
        self._open.labels(method).inc()

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """Count a call that ended with the gRPC status named `code`."""
        self._open.labels(method).dec()
        self._calls.labels(method, code).inc()
        self._call_s.labels(method).observe(seconds)

    def text(self) -> str:
        """Write all series in Prometheus's text format."""
        return generate_latest(self.registry).decode()

    def serve(self, port: int) -> int:
        """Serve the series over HTTP on loopback, on a thread of its own, until `close`.

        Parameters
        ----------
        port
            0 takes a free one.

        Returns
        -------
        int
            The port.

        Raises
        ------
        SmartDJError
            ``SERVER_CONFIG`` where the port is taken or not allowed.
        """
        try:
            self._server, self._thread = start_http_server(port, addr=HOST, registry=self.registry)
        except OSError as failure:
            raise SmartDJError(
                ErrorCode.SERVER_CONFIG,
                f"metrics can't be served at port {port}: {failure.strerror}",
                "Choose another metrics_port, or 0 for any.",
                "metrics_port",
            ) from None
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving; without effect where nothing is served."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None
