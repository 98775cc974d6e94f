"""The server's life: built from its configuration, running until a signal, stopped without losing a step."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from smartdj.v1 import (
    audio_pb2,
    audio_pb2_grpc,
    edit_pb2,
    edit_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
)
from smartdj_agent import __version__
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import write_file
from smartdj_agent.server import logs
from smartdj_agent.server import settings as configuration_of
from smartdj_agent.server.blobs import BlobStore
from smartdj_agent.server.calls import CallInterceptor
from smartdj_agent.server.jobs import JobManager
from smartdj_agent.server.metrics import Metrics
from smartdj_agent.server.queue import FairQueue
from smartdj_agent.server.retention import Policy, enforce
from smartdj_agent.server.security import bind_target, load_tokens, tls_credentials
from smartdj_agent.server.services import AudioService, EditService, JobService, ServerService, Sources
from smartdj_agent.server.settings import Configuration, Settings
from smartdj_agent.server.store import JobStore
from smartdj_agent.server.worker import REAL_AGENT, DeviceWorker

RETENTION_EVERY_S = 60.0
GRACE_S = 2.0
"""How long calls may take to end by themselves once their jobs are parked, seconds."""
MAX_CALLS = 2000
"""Most calls at a time: watchers cost little, but not nothing."""

_WORKING = (edit_pb2, job_pb2)
_ALWAYS = (audio_pb2, server_pb2)

log = logging.getLogger(__name__)


def service_names(*modules: object) -> list[str]:
    """Full names of the services of generated modules."""
    return [
        service.full_name
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
    ]


@dataclass
class Running:
    """A server that listens.

    Attributes
    ----------
    address
        Where, with the port that was really taken.
    port
        0 for a ``unix:`` socket.
    metrics_port
        None where there are no metrics.
    jobs, workers
        What works in it.
    reload
        Reads the configuration again; returns the names of settings that hold now, and of those that need a restart.
    """

    address: str
    port: int
    metrics_port: int | None
    jobs: JobManager
    workers: list[DeviceWorker]
    reload: Callable[[], tuple[list[str], list[str]]]


@asynccontextmanager
async def serving(configuration: Configuration, *, agent: str = REAL_AGENT) -> AsyncIterator[Running]:
    """Serve inside the block; at its end, running steps finish or are parked.

    Parameters
    ----------
    configuration
        From `smartdj_agent.server.settings.load`.
    agent
        ``module:function`` that makes the agent in the worker's process, see `DeviceWorker`.

    Raises
    ------
    SmartDJError
        SERVER_CONFIG for what can't work: an address in use or unsafe, files that aren't there, a data folder that
        another server holds.
    """
    holder = _Holder(configuration)
    settings = configuration.settings
    target = bind_target(settings)
    credentials = tls_credentials(settings)
    tokens = load_tokens(settings.token_file) if settings.token_file is not None else None
    async with AsyncExitStack() as stack:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        if settings.database_url is None:
            store = JobStore(f"sqlite:///{settings.data_dir / 'jobs.db'}")
        else:
            store = JobStore(settings.database_url, replica=uuid.uuid4().hex[:12])
        stack.callback(store.close)
        blobs = BlobStore(
            settings.data_dir,
            store,
            max_bytes=settings.max_audio_bytes,
            max_s=settings.max_audio_s,
            max_channels=settings.max_channels,
            lease_s=settings.lease_s,
        )
        stack.callback(blobs.close)
        swept = await asyncio.to_thread(blobs.sweep)
        log.info("swept", extra={"left_over": str(swept)})
        metrics = Metrics()
        metrics_port = metrics.serve(settings.metrics_port) if settings.metrics_port is not None else None
        stack.callback(metrics.close)
        workers = [
            DeviceWorker(
                device,
                settings.preset,
                agent=agent,
                max_batch=settings.max_batch,
                library=settings.library or None,
                add_source=settings.add_source,
                relisten=settings.relisten,
                planner=settings.planner,
            )
            for device in settings.devices
        ]
        jobs = JobManager(
            store,
            blobs,
            workers,
            FairQueue(settings.max_queue, settings.max_queue_per_client),
            metrics,
            slots=settings.max_batch,
            lease_s=settings.lease_s,
        )
        holder.jobs = jobs
        holder.calls = CallInterceptor(metrics, tokens)
        server = grpc.aio.server(
            interceptors=[holder.calls],
            maximum_concurrent_rpcs=MAX_CALLS,
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                # Clients may keep an idle connection alive with a ping every ten seconds; by default every 300.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.so_reuseport", 0),
            ],
        )
        sources = Sources(blobs, store, holder.settings, metrics)
        edit_pb2_grpc.add_EditServiceServicer_to_server(EditService(jobs, sources), server)
        audio_pb2_grpc.add_AudioServiceServicer_to_server(AudioService(sources), server)
        job_pb2_grpc.add_JobServiceServicer_to_server(JobService(jobs, sources), server)
        server_pb2_grpc.add_ServerServiceServicer_to_server(ServerService(jobs, holder.settings, holder.reload), server)
        watch = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(watch, server)
        names = [*service_names(*_WORKING), *service_names(*_ALWAYS)]
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        port = _bind(server, target, credentials, settings)
        for worker in workers:
            await worker.start()
            stack.push_async_callback(worker.stop)
        await jobs.start()
        for name in service_names(*_ALWAYS):
            await watch.set(name, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        background = [
            asyncio.create_task(_tell_health(watch, workers), name="health"),
            asyncio.create_task(_retain(store, blobs, jobs, holder.settings), name="retention"),
        ]
        address = target if target.startswith("unix") else f"{target.rpartition(':')[0]}:{port}"
        if settings.port_file is not None:
            write_file(settings.port_file, f"{port}\n", overwrite=True)
        try:
            yield Running(address, port, metrics_port, jobs, workers, holder.reload)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await watch.enter_graceful_shutdown()
            await jobs.stop(holder.settings().drain_s)
            await server.stop(GRACE_S)
            await jobs.close()
            if settings.port_file is not None:
                settings.port_file.unlink(missing_ok=True)


def run(configuration: Configuration, *, agent: str = REAL_AGENT) -> None:
    """Serve until SIGINT or SIGTERM; a second one doesn't wait for running steps. SIGHUP reloads the configuration.

    Parameters
    ----------
    configuration, agent
        As for `serving`.

    Raises
    ------
    SmartDJError
        As `serving`.
    """
    logs.configure(configuration.settings.log_level, configuration.settings.log_format)
    asyncio.run(_until_signal(configuration, agent))


async def _until_signal(configuration: Configuration, agent: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    began = time.monotonic()
    async with serving(configuration, agent=agent) as running:
        log.info(
            "listening",
            extra={"address": running.address, "version": __version__, "metrics_port": running.metrics_port},
        )
        print(f"smartdj {__version__} listens at {running.address}; Ctrl-C stops it", file=sys.stderr, flush=True)

        def reload() -> None:
            try:
                applied, restart = running.reload()
                log.info("configuration read again", extra={"applied": applied, "restart_needed": restart})
            except SmartDJError as error:
                log.error("configuration not read: %s", error.message)

        def asked_to_stop() -> None:
            if stop.is_set():
                running.jobs.hurry()
            stop.set()

        _handle(loop, {"SIGINT": asked_to_stop, "SIGTERM": asked_to_stop, "SIGHUP": reload})
        ready = asyncio.create_task(_say_ready(running.workers, began))
        await stop.wait()
        ready.cancel()
        log.info("stopping", extra={"running": running.jobs.running})


async def _say_ready(workers: list[DeviceWorker], began: float) -> None:
    for worker in workers:
        await worker.ready.wait()
        log.info("ready", extra={"device": worker.resolved_device, "seconds": round(time.monotonic() - began, 1)})


def _handle(loop: asyncio.AbstractEventLoop, handlers: dict[str, Callable[[], None]]) -> None:
    """Handle signals to the end of the program; those that this system doesn't have are left out."""
    for name, handler in handlers.items():
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, handler)
        except NotImplementedError:  # Windows: the handler runs between bytecodes and wakes the loop
            signal.signal(number, lambda *_, call=handler: loop.call_soon_threadsafe(call))


class _Holder:
    """The configuration of the moment."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.jobs: JobManager | None = None
        self.calls: CallInterceptor | None = None

    def settings(self) -> Settings:
        return self.configuration.settings

    def reload(self) -> tuple[list[str], list[str]]:
        reloaded = configuration_of.reload(self.configuration)
        # A new token counts from now on; a file that has become wrong changes nothing.
        token_file = reloaded.configuration.settings.token_file
        tokens = load_tokens(token_file) if token_file is not None else None
        self.configuration = reloaded.configuration
        settings = self.settings()
        if "log_level" in reloaded.applied:
            logs.configure(settings.log_level, settings.log_format)
        if self.calls is not None:
            self.calls.tokens = tokens
        if self.jobs is not None:
            self.jobs.queue.limit = settings.max_queue
            self.jobs.queue.limit_per_client = settings.max_queue_per_client
            self.jobs.blobs.set_limits(settings.max_audio_bytes, settings.max_audio_s, settings.max_channels)
        return list(reloaded.applied), list(reloaded.restart_needed)


def _bind(server: grpc.aio.Server, target: str, credentials: grpc.ServerCredentials | None, settings: Settings) -> int:
    try:
        if credentials is None:
            return int(server.add_insecure_port(target))
        return int(server.add_secure_port(target, credentials))
    except RuntimeError as error:
        raise SmartDJError(
            ErrorCode.SERVER_CONFIG,
            f"the server can't listen at {target}",
            "Another program has the port, perhaps another smartdj serve: stop it, or give another --port (0: any).",
            "port",
        ) from error


async def _tell_health(watch: health.aio.HealthServicer, workers: list[DeviceWorker]) -> None:
    """Keep the health of what needs a device up to date."""
    known: bool | None = None
    while True:
        ready = any(worker.ready.is_set() for worker in workers)
        if ready is not known:
            known = ready
            response = health_pb2.HealthCheckResponse
            status = response.SERVING if ready else response.NOT_SERVING
            for name in ["", *service_names(*_WORKING)]:
                await watch.set(name, status)
        if ready:
            await asyncio.sleep(0.25)
        else:
            waiting = [asyncio.create_task(worker.ready.wait()) for worker in workers]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()


async def _retain(store: JobStore, blobs: BlobStore, jobs: JobManager, settings: Callable[[], Settings]) -> None:
    """End what waits in vain and delete what needn't be kept, now and every minute."""
    while True:
        held = settings()
        policy = Policy(held.keep_s, held.keep_unfetched_s, held.max_store_bytes)
        try:
            await jobs.expire_reviews(time.time() - held.review_s)
            gone = await asyncio.to_thread(enforce, store, blobs, policy, time.time())
            if gone.jobs or gone.audio:
                log.info("deleted", extra={"jobs": len(gone.jobs), "files": len(gone.audio)})
        except SmartDJError as error:
            log.error("retention failed: %s", error.message)
        await asyncio.sleep(RETENTION_EVERY_S)
