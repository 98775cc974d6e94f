"""Files up and down: in pieces, resumed where a connection broke, checked by their hash."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import grpc.aio

from smartdj.v1 import audio_pb2
from smartdj_agent.audio import Audio, AudioFormat, file_sha256, read_audio, write_audio
from smartdj_agent.client.connection import Connection, raise_stalled
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.files import publish, temporary_beside, write_error
from smartdj_agent.wire_status import from_rpc_error

CHUNK_BYTES = 256 * 1024
"""Data per message."""

STALL_S = 60.0
"""How long one piece may take before the transfer counts as stuck, seconds; slow lines need less."""

Report = Callable[[str], None]
"""Is told in words what is going on."""


async def upload_file(connection: Connection, path: Path, report: Report) -> audio_pb2.AudioInfo:
    """Send a file, unless the server has it; go on where an earlier try, also of another process, ended.

    Raises
    ------
    SmartDJError
        AUDIO_NOT_FOUND, AUDIO_UNREADABLE; what the server finds wrong with the file; SERVER_UNREACHABLE, DEADLINE.
    """
    sha256 = await asyncio.to_thread(file_sha256, path)
    async with connection.sending(sha256):  # what several tasks need is sent by the first
        return await _upload(connection, path, sha256, report)


async def _upload(connection: Connection, path: Path, sha256: str, report: Report) -> audio_pb2.AudioInfo:
    size = path.stat().st_size
    patience, furthest, started_anew = connection.patience(), -1, False
    while True:
        request = audio_pb2.GetUploadRequest(sha256=sha256)
        there = await connection.call(connection.stubs.audio.GetUpload, request)
        if there.HasField("audio"):
            return there.audio
        offset = min(there.received_bytes, size)
        if offset > furthest:
            furthest = offset
            patience.succeeded()
        header = audio_pb2.UploadHeader(sha256=sha256, size_bytes=size, offset_bytes=offset)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return await _send(connection, header, file, report)
        except grpc.RpcError as error:
            if from_rpc_error(error).code is ErrorCode.UPLOAD_MISMATCH and offset and not started_anew:
                started_anew = True  # what had arrived before was damaged; the server has dropped it
                continue
            report("connection lost; trying again")
            await connection.retry(error, patience)


async def _send(
    connection: Connection, header: audio_pb2.UploadHeader, file: BinaryIO, report: Report
) -> audio_pb2.AudioInfo:
    call = connection.stubs.audio.Upload(metadata=connection.metadata)
    sent = header.offset_bytes
    try:
        async with asyncio.timeout(STALL_S):
            await call.write(audio_pb2.UploadRequest(header=header))
        while not call.done():  # a server that has the file meanwhile answers before everything was sent
            data = await asyncio.to_thread(file.read, CHUNK_BYTES)
            if not data:
                break
            async with asyncio.timeout(STALL_S):
                await call.write(audio_pb2.UploadRequest(data=data))
            sent += len(data)
            report(f"sending the recording, {sent / header.size_bytes:.0%}")
        async with asyncio.timeout(STALL_S):
            if not call.done():
                await call.done_writing()
            response = await call
        connection.reached()
        return response.audio
    except TimeoutError:
        raise_stalled(connection.target, STALL_S)
    except asyncio.InvalidStateError:  # it ended between our look and our writing
        return (await call).audio
    except grpc.aio.AioRpcError as error:
        raise await _own_error(call, error) from error
    finally:
        call.cancel()


async def _own_error(call: Any, error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """Find out why a call ended while we were writing.

    When the server ends a call, grpc.aio 1.85 fails the write under way with an INTERNAL error of its own making.
    Mostly the server's answer then replaces it within milliseconds; in one of ten cases the answer came first and is
    lost. Sending again then brings it out, so that counts as a lost connection.
    """
    for _ in range(10):
        if error.code() is not grpc.StatusCode.INTERNAL or error.details() != "Internal error from Core":
            return error
        await asyncio.sleep(0.01)
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        error = grpc.aio.AioRpcError(await call.code(), initial, trailing, await call.details())
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, initial, trailing, "the server ended the upload")


async def upload_audio(connection: Connection, audio: Audio, report: Report) -> audio_pb2.AudioInfo:
    """Send the samples as they are: as a FLOAT WAV, as DOUBLE where they are float64; no format, no tags."""
    exact = AudioFormat("WAV", "DOUBLE" if audio.samples.dtype.itemsize == 8 else "FLOAT")
    with tempfile.TemporaryDirectory(prefix="smartdj-") as folder:
        path = Path(folder) / "recording.wav"
        await asyncio.to_thread(write_audio, path, replace(audio, format=exact, tags=()))
        return await upload_file(connection, path, report)


async def download_file(connection: Connection, sha256: str, path: Path) -> audio_pb2.AudioInfo:
    """Fetch a file; it appears under its name only when it is whole and its hash is right.

    Raises
    ------
    SmartDJError
        OUTPUT_EXISTS, OUTPUT_UNWRITABLE, DISK_FULL; AUDIO_NOT_FOUND where the server doesn't have it; ENDPOINT_FAILED
        for damaged data; SERVER_UNREACHABLE, DEADLINE.
    """
    temporary: Path | None = None
    try:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "it exists")
        temporary = temporary_beside(path)
        with temporary.open("wb") as file:
            info = await _receive(connection, sha256, file)
        await asyncio.to_thread(publish, temporary, path, overwrite=False)
        return info
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


async def _receive(connection: Connection, sha256: str, file: BinaryIO) -> audio_pb2.AudioInfo:
    digest, patience, offset = hashlib.sha256(), connection.patience(), 0
    while True:
        request = audio_pb2.DownloadRequest(sha256=sha256, offset_bytes=offset)
        call = connection.stubs.audio.Download(request, metadata=connection.metadata)
        info = None
        try:
            messages = aiter(call)
            while True:
                async with asyncio.timeout(STALL_S):
                    message = await anext(messages, None)
                if message is None:
                    break
                connection.reached()
                if message.WhichOneof("payload") == "audio":
                    info = message.audio
                    continue
                await asyncio.to_thread(_append, file, digest, message.data)
                offset += len(message.data)
                patience.succeeded()
                if info is None or offset > info.size_bytes:
                    break
        except TimeoutError:
            raise_stalled(connection.target, STALL_S)
        except grpc.RpcError as error:
            await connection.retry(error, patience)
            continue
        finally:
            call.cancel()
        if info is None or offset != info.size_bytes or digest.hexdigest() != sha256:
            raise SmartDJError(
                ErrorCode.ENDPOINT_FAILED,
                f"the recording {sha256[:12]}… arrived damaged from {connection.target}",
                "try again; if it stays so, the file at the server is damaged",
            )
        return info


def _append(file: BinaryIO, digest: hashlib._Hash, data: bytes) -> None:
    digest.update(data)
    file.write(data)


async def download_audio(connection: Connection, sha256: str) -> Audio:
    """Fetch a recording into memory, in the format and with the tags that its file has."""
    with tempfile.TemporaryDirectory(prefix="smartdj-") as folder:
        path = Path(folder) / "recording"
        await download_file(connection, sha256, path)
        return await asyncio.to_thread(read_audio, path)
