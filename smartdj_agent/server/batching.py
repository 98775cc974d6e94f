"""Several tasks on one device: their network calls of equal shape are made as one.

A GPU needs about as long for four short clips as for one. Tasks run on threads of their own; where all of them have
come to a call of a shared network, or one has waited long enough, the calls are joined along the first axis, made once,
and parted again. Sums of joined calls are rounded otherwise than those of single ones: results differ by about 1e-5.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from smartdj_agent.audio import Audio
from smartdj_agent.events import Event
from smartdj_agent.plan import Plan

if TYPE_CHECKING:
    from smartdj_agent.agent import Agent

PATIENCE_S = 0.005
"""How long a call waits for others: less than a denoising step takes."""


class _Call:
    """One call that waits to be made."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.function = function
        self.values = (arguments, keywords)
        self.inference = torch.is_inference_mode_enabled()
        self.size = _batch_size(self.values)
        # A call without one batch size is like no other.
        self.kind: Hashable = (function, self.inference, _kind(self.values)) if self.size else object()
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None


class Gatherer:
    """Where the calls of several threads meet.

    Parameters
    ----------
    max_batch
        Most calls that are made as one.
    patience_s
        How long a call waits for the other threads that take part, seconds.

    Attributes
    ----------
    calls
        How many calls were asked for.
    made
        How many were made.
    """

    def __init__(self, max_batch: int, patience_s: float = PATIENCE_S) -> None:
        self.max_batch = max_batch
        self.patience_s = patience_s
        self.calls = 0
        self.made = 0
        self._changed = threading.Condition()
        self._taking_part = 0
        self._waiting: list[_Call] = []
        self._making = False

    @contextlib.contextmanager
    def taking_part(self) -> Iterator[None]:
        """Have other threads' calls wait for calls of this one."""
        with self._changed:
            self._taking_part += 1
        try:
            yield
        finally:
            with self._changed:
                self._taking_part -= 1
                self._changed.notify_all()

    def share(self, owner: object, *methods: str) -> None:
        """Replace methods by ones that gather.

        Every tensor among the arguments needs the batch as its first axis; calls for which that isn't so are made
        alone. Other arguments need to be equal for calls to be joined. Results are tensors, or tuples, lists and
        dataclasses of them.
        """
        for name in methods:
            setattr(owner, name, functools.partial(self.call, getattr(owner, name)))

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call a function, together with other threads' calls of it."""
        call = _Call(function, arguments, keywords)
        with self._changed:
            self.calls += 1
            self._waiting.append(call)
            self._changed.notify_all()
            latest = time.monotonic() + self.patience_s
            while not call.done:
                left = latest - time.monotonic()
                if self._making:
                    self._changed.wait()
                elif len(self._waiting) < self._taking_part and left > 0:
                    self._changed.wait(left)
                else:
                    self._make_waiting()
        if call.error is not None:
            raise call.error
        return call.result

    def _make_waiting(self) -> None:
        """Make all calls that wait, on this thread; the lock is let go meanwhile."""
        waiting, self._waiting = self._waiting, []
        kinds: dict[Hashable, list[_Call]] = {}
        for call in waiting:
            kinds.setdefault(call.kind, []).append(call)
        groups = [
            calls[start : start + self.max_batch]
            for calls in kinds.values()
            for start in range(0, len(calls), self.max_batch)
        ]
        self._making = True
        self._changed.release()
        try:
            for group in groups:
                _make(group)
        finally:
            self._changed.acquire()
            self._making = False
            self.made += len(groups)
            for call in waiting:
                call.done = True
            self._changed.notify_all()


def _make(group: list[_Call]) -> None:
    """Make calls of one kind as one; where that fails, each alone, so that each gets its own error."""
    first = group[0]
    with torch.inference_mode(first.inference):
        if len(group) > 1:
            try:
                arguments, keywords = _joined([call.values for call in group])
                whole = first.function(*arguments, **keywords)
                for call, part in zip(group, _parted(whole, [call.size for call in group]), strict=True):
                    call.result = part
                return
            except Exception:
                for call in group:
                    call.result = None
        for call in group:
            try:
                call.result = call.function(*call.values[0], **call.values[1])
            except Exception as error:
                call.error = error


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors(_parts(value))


def _named(value: Any, parts: Sequence[Any]) -> dict[str, Any]:
    return {item.name: part for item, part in zip(fields(value), parts, strict=True)}


def _parts(value: Any) -> tuple[Any, ...]:
    """Return what a dataclass such as `Hearing` holds."""
    return tuple(getattr(value, item.name) for item in fields(value))


def _batch_size(values: Any) -> int:
    """Return the length of all tensors' first axis; 0 where they differ or there are none."""
    sizes = {len(tensor) if tensor.dim() else 0 for tensor in _tensors(values)}
    return sizes.pop() if len(sizes) == 1 else 0


def _kind(value: Any) -> Hashable:
    """Return what has to be equal for two arguments to be joined."""
    if isinstance(value, Tensor):
        return (Tensor, value.shape[1:], value.dtype, value.device)
    if isinstance(value, tuple | list):
        return (type(value), *map(_kind, value))
    if isinstance(value, dict):
        return (dict, *((name, _kind(item)) for name, item in value.items()))
    if is_dataclass(value) and not isinstance(value, type):
        return (type(value), *map(_kind, _parts(value)))
    return cast(Hashable, value) if value.__hash__ is not None else id(value)


def _joined(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        return torch.cat(list(values))
    if isinstance(first, tuple | list):
        return type(first)(_joined(items) for items in zip(*values, strict=True))
    if isinstance(first, dict):
        return {name: _joined([value[name] for value in values]) for name in first}
    if is_dataclass(first) and not isinstance(first, type):
        return replace(first, **_named(first, _joined([_parts(value) for value in values])))
    return first


def _parted(value: Any, sizes: list[int]) -> list[Any]:
    if isinstance(value, Tensor):
        return list(value.split(sizes))
    if isinstance(value, tuple | list):
        return [type(value)(items) for items in zip(*(_parted(item, sizes) for item in value), strict=True)]
    if is_dataclass(value) and not isinstance(value, type):
        return [replace(value, **_named(value, parts)) for parts in _parted(_parts(value), sizes)]
    raise TypeError(f"a shared call returned {type(value).__name__}: only tensors can be parted")


class SharingAgent:
    """An agent that several threads may use at a time, on shared networks.

    Parameters
    ----------
    agent
        With its networks loaded.
    gatherer
        Where their calls meet.
    """

    def __init__(self, agent: Agent, gatherer: Gatherer) -> None:
        self._agent = agent
        self._gatherer = gatherer
        self.device = agent.device
        editor = agent.editor
        gatherer.share(editor.dit, "forward")
        gatherer.share(editor.codec, "encode_stereo", "decode_stereo")
        gatherer.share(editor.listener, "hear", "mask_logits")
        # Fast tokenizers refuse a second thread while they set up padding.
        lock = threading.RLock()  # vectors asks for states
        for encoder in {id(item): item for item in (editor.encoder, editor.text)}.values():
            for name in ("states", "vectors"):
                if hasattr(encoder, name):
                    setattr(encoder, name, _one_at_a_time(lock, getattr(encoder, name)))

    def plan(self, audio: Audio, instruction: str, *, seed: int = 0) -> Iterator[Event]:
        """See `smartdj_agent.agent.Agent.plan`."""
        yield from self._stepwise(self._agent.plan(audio, instruction, seed=seed))

    def apply(
        self, audio: Audio, plan: Plan, *, mode: str = "preserve", seed: int = 0, done: int = 0
    ) -> Iterator[Event]:
        """See `smartdj_agent.agent.Agent.apply`."""
        yield from self._stepwise(self._agent.apply(audio, plan, mode=mode, seed=seed, done=done))

    def _stepwise(self, events: Iterator[Event]) -> Iterator[Event]:
        # Between two events a thread writes files or waits: nobody should wait for it then.
        with contextlib.closing(cast("Generator[Event, None, None]", events)) as stream:
            while True:
                with self._gatherer.taking_part():
                    event = next(stream, None)
                if event is None:
                    return
                yield event


def _one_at_a_time(lock: AbstractContextManager[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def locked(*arguments: Any, **keywords: Any) -> Any:
        with lock:
            return function(*arguments, **keywords)

    return locked


def share_calls(agent: Agent, max_batch: int) -> SharingAgent:
    """Return the agent for up to `max_batch` threads at a time; the given one must not be used any more."""
    return SharingAgent(agent, Gatherer(max_batch))
