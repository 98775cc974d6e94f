"""The Python client of a SmartDJ server: it hides chunks, resuming and retries.

`Client` is for scripts and threads, `AsyncClient` for asyncio programs; both have the same methods. `RemoteAgent`
stands in for `smartdj_agent.agent.Agent` wherever one is expected.

Examples
--------
>>> from smartdj_agent.audio import write_audio
>>> from smartdj_agent.client import Client
>>> with Client("localhost:50551") as client:
...     with client.edit("walk.wav", "remove the dog, add gulls on the left") as run:
...         for event in run:
...             print(event)
...     write_audio("beach.wav", run.audio)
"""

from smartdj_agent.client.aio import AsyncClient, AsyncRun, Source
from smartdj_agent.client.connection import DEFAULT_PORT, read_token
from smartdj_agent.client.remote_agent import RemoteAgent
from smartdj_agent.client.sync import Client, Run
from smartdj_agent.client.values import (
    Capabilities,
    DeviceInfo,
    Job,
    JobState,
    Limits,
    ModelInfo,
    OperationInfo,
    ParameterInfo,
    RemoteAudio,
    Validation,
)

__all__ = [
    "DEFAULT_PORT",
    "AsyncClient",
    "AsyncRun",
    "Capabilities",
    "Client",
    "DeviceInfo",
    "Job",
    "JobState",
    "Limits",
    "ModelInfo",
    "OperationInfo",
    "ParameterInfo",
    "RemoteAgent",
    "RemoteAudio",
    "Run",
    "Source",
    "Validation",
    "read_token",
]
