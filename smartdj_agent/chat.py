"""A chat endpoint that speaks the OpenAI protocol: text in, text out, whole or as it is written.

The key is read when it is needed, goes into the request's header and nowhere else: neither into messages of errors nor
into logs.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from smartdj_agent.errors import ErrorCode, SmartDJError

MAX_REPLY_CHARS = 20_000
"""Longest answer that is looked at, characters; a plan needs a few hundred."""
POLL_S = 0.1
"""How often who waits for an answer is asked whether to wait on."""


@dataclass(frozen=True)
class ChatEndpoint:
    """Where to ask, and how.

    Attributes
    ----------
    base_url
        Address up to and without ``/chat/completions``, such as ``http://127.0.0.1:8080/v1``.
    model
        Name of the model as the server knows it.
    api_key_env
        Name of the environment variable that holds the key; empty for a server without keys.
    timeout_s
        Longest wait for an answer, or for its next piece, seconds.
    temperature
        Sampling temperature that is asked for.
    transport
        Replaces the network, for tests.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 60.0
    temperature: float = 0.8
    transport: httpx.BaseTransport | None = None

    def client(self) -> httpx.Client:
        """Open a client, to be closed after use.

        Raises
        ------
        SmartDJError
            ENDPOINT_FAILED where the key is missing or can't be sent.
        """
        headers = {}
        if self.api_key_env:
            key = os.environ.get(self.api_key_env, "")
            if not key:
                raise SmartDJError(
                    ErrorCode.ENDPOINT_FAILED,
                    f"the environment variable {self.api_key_env} is not set",
                    "Set it to the endpoint's key, or give an empty api_key_env for a server without keys.",
                    "api_key_env",
                )
            headers["Authorization"] = f"Bearer {key}"
        try:
            return httpx.Client(headers=headers, timeout=self.timeout_s, transport=self.transport)
        except (ValueError, UnicodeError):
            # The original error would quote the key.
            raise SmartDJError(
                ErrorCode.ENDPOINT_FAILED,
                f"the key in {self.api_key_env} can't be sent in a header",
                "Check the variable for line breaks and special characters.",
                "api_key_env",
            ) from None

    def ask(self, client: httpx.Client, messages: Sequence[Mapping[str, str]], seed: int) -> str:
        """Return the answer, a JSON object as text, cut at `MAX_REPLY_CHARS`.

        Raises
        ------
        SmartDJError
            ENDPOINT_FAILED where the server can't be reached, refuses, is too slow or answers something else.
        """
        body = self._body(messages, seed) | {"response_format": {"type": "json_object"}}
        try:
            response = client.post(self._address, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        self._check_status(response.status_code)
        try:
            content: Any = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise failed("its answer is no chat completion", "Check that base_url ends in the API's root.") from error
        if not isinstance(content, str):
            raise failed("its answer holds no text", "Try another model.")
        return content[:MAX_REPLY_CHARS]

    def stream(self, client: httpx.Client, messages: Sequence[Mapping[str, str]], seed: int) -> Iterator[str]:
        """Yield the answer piece by piece as it is written, and empty texts while nothing comes.

        The empty texts are where one may stop waiting: closing the generator ends the request.

        Raises
        ------
        SmartDJError
            As `ask`.
        """
        found: queue.SimpleQueue[str | SmartDJError | None] = queue.SimpleQueue()
        given_up = threading.Event()
        body = self._body(messages, seed) | {"stream": True}
        arguments = (client, body, found, given_up)
        threading.Thread(target=self._read, args=arguments, name="chat endpoint", daemon=True).start()
        length = 0
        try:
            while length < MAX_REPLY_CHARS:
                try:
                    piece = found.get(timeout=POLL_S)
                except queue.Empty:
                    yield ""
                    continue
                if piece is None:
                    return
                if isinstance(piece, SmartDJError):
                    raise piece
                length += len(piece)
                yield piece
        finally:
            given_up.set()

    def _read(
        self,
        client: httpx.Client,
        body: dict[str, Any],
        found: queue.SimpleQueue[str | SmartDJError | None],
        given_up: threading.Event,
    ) -> None:
        """Read an answer into a queue, None or an error at its end; in a thread, as one can't wait a little."""
        try:
            with client.stream("POST", self._address, json=body) as response:
                self._check_status(response.status_code)
                for line in response.iter_lines():
                    if given_up.is_set():
                        return
                    data = line.removeprefix("data:").strip()
                    if not line.startswith("data:") or not data:
                        continue
                    if data == "[DONE]":
                        break
                    found.put(_piece(data))
            found.put(None)
        except SmartDJError as error:
            found.put(error)
        except Exception as error:  # of whatever kind: an error that stays in this thread lets its reader wait for ever
            found.put(self._unreachable(error))

    @property
    def _address(self) -> str:
        return f"{self.base_url.rstrip('/')}/chat/completions"

    def _body(self, messages: Sequence[Mapping[str, str]], seed: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            "temperature": self.temperature,
            "seed": seed,
        }

    def _check_status(self, status: int) -> None:
        if status == 200:
            return
        hint = "Try later."
        if status in (401, 403):
            hint = f"Check the key in {self.api_key_env or 'api_key_env'}."
        elif status in (400, 404, 422):
            hint = "Check base_url and the model's name."
        # The body is left out: some servers quote the request, key included.
        raise failed(f"it answered with status {status}", hint)

    def _unreachable(self, error: Exception) -> SmartDJError:
        if isinstance(error, httpx.TimeoutException):
            return failed(f"no answer within {self.timeout_s:g} seconds", "Raise timeout_s or try later.")
        return failed(f"it can't be reached ({type(error).__name__})", "Check base_url and the network.")


def _piece(data: str) -> str:
    """The text in one event of a stream."""
    try:
        choices = json.loads(data)["choices"]
        content = choices[0].get("delta", {}).get("content") if choices else ""
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise failed("its answer is no chat completion", "Check that base_url ends in the API's root.") from error
    return content if isinstance(content, str) else ""


def failed(message: str, hint: str) -> SmartDJError:
    """The error of an endpoint that gave nothing usable."""
    return SmartDJError(ErrorCode.ENDPOINT_FAILED, f"the chat endpoint failed: {message}", hint)
