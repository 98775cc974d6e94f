"""The protocol without sockets: bytes and reports in, packets and wishes out. Pure; the clock is passed in.

All controllers share one state: a source, a plan, what is computed at the moment, the last result. Whoever asks gets
the answers, at the port that it sends from; whoever subscribed gets what concerns all.
"""

from __future__ import annotations

import difflib
import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smartdj_agent import __version__
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.instruction import check_instruction
from smartdj_agent.plan import Plan
from smartdj_agent.steps import format_step
from smartdj_osc import effects as fx
from smartdj_osc.effects import Budget, Effect, Peer, Report, Request, Send
from smartdj_osc.fields import field_names, set_field
from smartdj_osc.limits import DEFAULT_LIMITS, Bucket, Buckets, Limits
from smartdj_osc.mapping import Mapping
from smartdj_osc.namespace import COMMANDS, REPLIES, Call, CallError, Command, clip, error, understand
from smartdj_osc.packet import Argument, Element, Message, PacketError, decode, encode
from smartdj_osc.patterns import PatternError, is_pattern, matching

_OWN_REPLIES = frozenset(REPLIES) - frozenset(COMMANDS)
_CLOCK_S = 1e-6  # seconds since 1970 in a float are no finer than 0.24 µs
_TOLD_BYTES = 128  # kept free in a budget for saying that it is used up
_LIVE = ("slot/define", "slot/prepare", "slot/fire", "slot/clear", "slot/list", "tempo", "tap", "play", "stop")


@dataclass
class Counters:
    """What has come in since the start."""

    packets: int = 0
    malformed: int = 0
    unknown: int = 0
    dropped: int = 0
    withheld: int = 0


@dataclass
class _Lease:
    until_s: float
    sources: set[Peer] = field(default_factory=set)
    monitor: bool = False


@dataclass
class _Job:
    number: int
    kind: str
    request: Request
    positions: tuple[int, ...] = ()
    sent_s: float = -1e9
    pending: Message | None = None


@dataclass
class _Touched:
    sent_s: float = -1e9
    editors: set[Peer] = field(default_factory=set)
    id: str = ""


class Core:
    """The state that controllers share, and who is told what.

    Every method that takes `now_s` returns what is to be done now, in order. `now_s` is seconds since 1970, of a clock
    that never goes back: time tags are measured by it.

    Parameters
    ----------
    limits
        What strangers may do.
    mapping
        Turns other devices' messages into ours.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS, mapping: Mapping | None = None) -> None:
        self.limits = limits
        self.mapping = mapping
        self.counters = Counters()
        self.plan = Plan(())
        self.source: fx.SourceReady | None = None
        self.result = ""
        self._job: _Job | None = None
        self._numbers = itertools.count(1)
        self._leases: dict[Peer, _Lease] = {}
        self._aliases: dict[Peer, Peer] = {}
        self._touched: dict[int, _Touched] = {}
        self._scheduled: list[tuple[float, int, Message, Peer, Budget]] = []
        self._order = itertools.count()
        self._peers: Buckets[Peer] = Buckets(limits.peer_rate, limits.peer_burst, limits.max_peers)
        self._complaints: Buckets[Peer] = Buckets(limits.complaint_rate, limits.complaint_rate, limits.max_peers)
        self._all: Bucket | None = None
        self._out: list[Effect] = []
        self._commands: dict[str, Callable[[Request, Call, float], None]] = {
            "/smartdj/ping": self._ping,
            "/smartdj/help": self._help,
            "/smartdj/status": self._status,
            "/smartdj/subscribe": self._subscribe,
            "/smartdj/unsubscribe": self._unsubscribe,
            "/smartdj/monitor": self._monitor,
            "/smartdj/source/load": self._source_load,
            "/smartdj/plan": self._plan,
            "/smartdj/plan/get": self._plan_get,
            "/smartdj/plan/load": self._plan_load,
            "/smartdj/plan/clear": self._plan_clear,
            "/smartdj/step/get": self._step_get,
            "/smartdj/step/set": self._step_set,
            "/smartdj/step/add": self._step_add,
            "/smartdj/step/remove": self._step_remove,
            "/smartdj/step/move": self._step_move,
            "/smartdj/run": self._run,
            "/smartdj/cancel": self._cancel,
            "/smartdj/capture": self._capture,
            **{f"/smartdj/{action}": self._live for action in _LIVE},
        }

    # --- what comes in ---------------------------------------------------------------------------------------------

    def receive(self, data: bytes, peer: Peer, now_s: float) -> list[Effect]:
        """Take a packet; nothing that can be in it is an exception."""
        self.counters.packets += 1
        budget = self._budget(peer, len(data), now_s)
        if not self._admit(peer, now_s, 1):
            return self._drop(peer, budget, now_s)
        try:
            elements = decode(data, self.limits.packet)
        except PacketError as failure:
            self.counters.malformed += 1
            self._complain(peer, budget, now_s, "INVALID_ARGUMENT", f"this is no OSC packet: {failure}", "see OSC 1.0")
            return self._done()
        if len(elements) > 1 and not self._admit(peer, now_s, len(elements) - 1):
            return self._drop(peer, budget, now_s)
        for element in elements:
            if element.due_s is None or element.due_s <= now_s:
                self._take(element.message, peer, budget, now_s)
            else:
                self._schedule(element, peer, budget, now_s)
        return self._done()

    def tick(self, now_s: float) -> list[Effect]:
        """Do what has become due."""
        while self._scheduled and self._scheduled[0][0] <= now_s:
            _, _, message, peer, budget = heapq.heappop(self._scheduled)
            self._take(message, peer, budget, now_s)
        for target in [target for target, lease in self._leases.items() if lease.until_s <= now_s]:
            self._end_lease(target)
        interval_s = 1 / self.limits.update_hz
        job = self._job
        if job is not None and job.pending is not None and now_s - job.sent_s >= interval_s - _CLOCK_S:
            self._send_progress(job, now_s)
        for position, touched in list(self._touched.items()):
            if touched.editors and now_s - touched.sent_s >= interval_s - _CLOCK_S:
                self._send_touched(position, touched, now_s)
        return self._done()

    def wake_s(self) -> float | None:
        """When `tick` has something to do, as far as is known now."""
        interval_s = 1 / self.limits.update_hz
        times = [lease.until_s for lease in self._leases.values()]
        if self._scheduled:
            times.append(self._scheduled[0][0])
        if self._job is not None and self._job.pending is not None:
            times.append(self._job.sent_s + interval_s)
        times += [touched.sent_s + interval_s for touched in self._touched.values() if touched.editors]
        return min(times, default=None)

    def forget(self, peer: Peer) -> None:
        """A connection has ended: nothing more is sent there."""
        target = self._aliases.get(peer, peer)
        if target.stream:
            self._end_lease(target)
        self._aliases.pop(peer, None)
        self._scheduled = [entry for entry in self._scheduled if entry[3] != peer]
        heapq.heapify(self._scheduled)

    def report(self, number: int, report: Report, now_s: float) -> list[Effect]:
        """Take a report about a job; of one that has ended already, nothing is told."""
        job = self._job
        if job is None or job.number != number:
            return []
        id = job.request.id
        if isinstance(report, fx.Fraction):
            position = 0 if report.index is None else self._position(job, report.index)
            job.pending = Message("/smartdj/progress", (id, position, float(report.fraction)))
            if now_s - job.sent_s >= 1 / self.limits.update_hz:
                self._send_progress(job, now_s)
            return self._done()
        if isinstance(report, fx.SoundHeard | fx.Note | fx.StepReady):
            if isinstance(report, fx.StepReady):
                job.pending = None
            self._tell(job.request, self._news(job, report), now_s)
            return self._done()
        self._job = None
        if isinstance(report, fx.Broke):
            self._tell(job.request, _error(id, report.error), now_s)
        elif isinstance(report, fx.Asked):
            choices = tuple(clip(choice, 120) for choice in report.choices[:8])
            self._tell(job.request, Message("/smartdj/question", (id, clip(report.text), *choices)), now_s)
        elif isinstance(report, fx.SourceReady):
            self.source = report
            # Another recording, the same wishes: the plan goes on to it.
            self.plan = replace(self.plan, source_sha256="", source_name="")
            self._tell(job.request, self._source_message(id), now_s)
        elif isinstance(report, fx.PlanMade):
            self._set_plan(job.request, report.plan, now_s)
        else:
            self.result = report.path
            self._tell(job.request, Message("/smartdj/done", (id, report.path)), now_s)
        self._tell_subscribers(self._state_message(), now_s)
        return self._done()

    def answer(self, request: Request, messages: Iterable[Message], now_s: float, *, shared: bool) -> list[Effect]:
        """Send the stage's answers: to who asked, and where it concerns all, to the subscribers too."""
        for message in messages:
            if shared:
                self._tell(request, message, now_s)
            else:
                self._answer(request, message)
        return self._done()

    def announce(self, messages: Iterable[Message], now_s: float) -> list[Effect]:
        """Tell all subscribers something that nobody asked for."""
        for message in messages:
            self._tell_subscribers(message, now_s)
        return self._done()

    # --- what is known ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``idle``, ``loading``, ``planning`` or ``running``."""
        return "idle" if self._job is None else self._job.kind

    @property
    def subscribers(self) -> tuple[Peer, ...]:
        """Where subscribed messages go."""
        return tuple(self._leases)

    @property
    def scheduled(self) -> int:
        """How many messages wait for their time tag."""
        return len(self._scheduled)

    def values(self) -> dict[str, tuple[Argument, ...]]:
        """The shared state by address, for OSCQuery."""
        found = {
            message.address: message.arguments
            for message in (self._state_message(), self._counters_message(), self._source_message(""))
        }
        return found

    # --- in ----------------------------------------------------------------------------------------------------------

    def _admit(self, peer: Peer, now_s: float, count: int) -> bool:
        if self._all is None:
            self._all = Bucket(self.limits.total_rate, self.limits.total_burst, now_s)
        return self._peers.take(peer, now_s, count) and self._all.take(now_s, count)

    def _drop(self, peer: Peer, budget: Budget, now_s: float) -> list[Effect]:
        self.counters.dropped += 1
        self._complain(peer, budget, now_s, "RESOURCE_EXHAUSTED", "too many messages: some were dropped", "send fewer")
        return self._done()

    def _complain(self, peer: Peer, budget: Budget, now_s: float, code: str, message: str, hint: str) -> None:
        if self._complaints.take(peer, now_s):
            self._answer(Request("", peer, budget), error("", code, message, hint))

    def _budget(self, peer: Peer, size: int, now_s: float) -> Budget:
        target = self._aliases.get(peer, peer)
        lease = self._leases.get(target)
        if peer.stream or peer.is_local or (lease is not None and lease.until_s > now_s):
            return Budget(None)
        return Budget(max(self.limits.reply_floor_bytes, self.limits.reply_factor * size))

    def _schedule(self, element: Element, peer: Peer, budget: Budget, now_s: float) -> None:
        due_s = element.due_s
        assert due_s is not None
        if due_s - now_s > self.limits.max_ahead_s:
            self._complain(
                peer, budget, now_s, "OUT_OF_RANGE",
                f"the time tag is {due_s - now_s:.0f} s ahead; allowed are {self.limits.max_ahead_s:.0f}",
                "set both machines' clocks",
            )  # fmt: skip
        elif len(self._scheduled) >= self.limits.max_scheduled:
            self.counters.dropped += 1
            self._complain(
                peer, budget, now_s, "RESOURCE_EXHAUSTED", "too many messages wait for their time", "send them later"
            )
        else:
            heapq.heappush(self._scheduled, (due_s, next(self._order), element.message, peer, budget))

    def _take(self, message: Message, peer: Peer, budget: Budget, now_s: float) -> None:
        self._mirror("in", peer, message)
        if not message.address.startswith("/smartdj") and self.mapping is not None:
            try:
                mapped = self.mapping.translate(message)
            except ValueError as failure:
                self._complain(peer, budget, now_s, "INVALID_ARGUMENT", str(failure), "see the mapping file")
                return
            if mapped is not None:
                for one in mapped:
                    self._dispatch(one, peer, budget, now_s)
                return
        self._dispatch(message, peer, budget, now_s)

    def _dispatch(self, message: Message, peer: Peer, budget: Budget, now_s: float) -> None:
        try:
            addresses = matching(message.address, COMMANDS)
        except PatternError as failure:
            self.counters.unknown += 1
            self._complain(peer, budget, now_s, "INVALID_ARGUMENT", str(failure), "close it")
            return
        if not addresses:
            self.counters.unknown += 1
            # Two servers must not answer each other's errors for ever.
            if message.address not in _OWN_REPLIES:
                near = difflib.get_close_matches(message.address[:80], COMMANDS, 1, 0.75)
                hint = f"did you mean {near[0]}?" if near else "see /smartdj/help"
                text = f"no such address {message.address}"
                self._complain(peer, budget, now_s, "NOT_FOUND", text, hint)
            return
        calls: list[Call] = []
        failed: CallError | None = None
        for address in addresses:
            try:
                calls.append(understand(COMMANDS[address], message.arguments))
            except CallError as failure:
                failed = failed or failure
        if failed is not None and (not calls or not is_pattern(message.address)):
            self._answer(
                Request(failed.id, peer, budget), error(failed.id, "INVALID_ARGUMENT", str(failed), failed.hint)
            )
            return
        for call in calls:
            if call.pressed:
                self._call(Request(call.id, peer, budget), call, now_s)

    def _call(self, request: Request, call: Call, now_s: float) -> None:
        try:
            self._commands[call.command.address](request, call, now_s)
        except SmartDJError as failure:
            self._answer(request, _error(request.id, failure))

    # --- commands ----------------------------------------------------------------------------------------------------

    def _ping(self, request: Request, call: Call, now_s: float) -> None:
        self._answer(request, Message("/smartdj/pong", (request.id, __version__, self.state)))

    def _help(self, request: Request, call: Call, now_s: float) -> None:
        asked = str(call.values.get("address", ""))
        try:
            addresses = matching(asked, COMMANDS) if asked else list(COMMANDS)
        except PatternError:
            addresses = []
        if not addresses:
            raise _refusal(ErrorCode.JOB_NOT_FOUND, f"no such address {asked}", "send /smartdj/help alone")
        for address in addresses:
            command: Command = COMMANDS[address]
            values = (request.id, address, command.signature, command.summary)
            self._answer(request, Message("/smartdj/help/line", values))

    def _status(self, request: Request, call: Call, now_s: float) -> None:
        self._burst(request)
        self._answer(request, self._counters_message())

    def _subscribe(self, request: Request, call: Call, now_s: float) -> None:
        peer = request.peer
        port = int(_number(call.values.get("port", 0)))
        target = replace(peer, port=port) if port and not peer.stream else peer
        lease_s = int(_number(call.values.get("lease", self.limits.lease_s)))
        before = self._aliases.get(peer)
        if before is not None and before != target:
            self._end_lease(before)
        lease = self._leases.get(target)
        if lease is None:
            if len(self._leases) >= self.limits.max_subscribers:
                raise _refusal(ErrorCode.QUEUE_FULL, "too many controllers", "end one, or wait for its lease")
            lease = self._leases[target] = _Lease(0.0)
        lease.until_s = now_s + lease_s
        if len(lease.sources) < 16:  # oscsend and its like use a new port each time
            lease.sources.add(peer)
            self._aliases[peer] = target
        here = Request(request.id, target)
        self._answer(here, Message("/smartdj/subscribed", (request.id, lease_s)))
        self._burst(here)
        self._out.append(fx.Live(here, "slot/list", {}))

    def _unsubscribe(self, request: Request, call: Call, now_s: float) -> None:
        target = self._aliases.get(request.peer, request.peer)
        self._answer(Request(request.id, target), Message("/smartdj/unsubscribed", (request.id,)))
        self._end_lease(target)

    def _monitor(self, request: Request, call: Call, now_s: float) -> None:
        lease = self._leases.get(self._aliases.get(request.peer, request.peer))
        if not request.peer.is_local:
            raise _refusal(
                ErrorCode.PATH_FORBIDDEN,
                "traffic is only shown on the server's machine",
                "run it there",
            )
        if lease is None:
            raise _refusal(ErrorCode.JOB_ENDED, "not subscribed", "send /smartdj/subscribe first")
        lease.monitor = bool(call.values["on"])
        self._answer(request, _ack(request))

    def _source_load(self, request: Request, call: Call, now_s: float) -> None:
        number = self._begin("loading", request, now_s)
        self._out.append(fx.Load(number, str(call.values["path"])))

    def _plan(self, request: Request, call: Call, now_s: float) -> None:
        instruction = check_instruction(str(call.values["instruction"]))
        self._need_source()
        number = self._begin("planning", request, now_s)
        self._out.append(fx.MakePlan(number, instruction, int(_number(call.values.get("seed", 0)))))

    def _plan_get(self, request: Request, call: Call, now_s: float) -> None:
        for message in self._plan_messages(request.id):
            self._answer(request, message)

    def _plan_load(self, request: Request, call: Call, now_s: float) -> None:
        number = self._begin("loading", request, now_s)
        self._out.append(fx.LoadPlan(number, str(call.values["path"])))

    def _plan_clear(self, request: Request, call: Call, now_s: float) -> None:
        self._set_plan(request, Plan(()), now_s)

    def _step_get(self, request: Request, call: Call, now_s: float) -> None:
        position = self._step_index(call)
        step = self.plan.steps[position].step
        self._answer(request, self._step_message(request.id, position))
        for name in ("target", *field_names(step)):
            value = getattr(step, name)
            shown = value if value is None or isinstance(value, int) else str(value)
            values = (request.id, position + 1, name, float(value) if isinstance(value, float) else shown)
            self._answer(request, Message("/smartdj/step/field", values))

    def _step_set(self, request: Request, call: Call, now_s: float) -> None:
        position = self._step_index(call)
        steps = list(self.plan.steps)
        steps[position] = set_field(steps[position], str(call.values["field"]), call.values["value"])
        self.plan = replace(self.plan, steps=tuple(steps))
        self._answer(request, self._step_message(request.id, position))
        # Others see where a fader has come to, not every place on its way.
        touched = self._touched.setdefault(position, _Touched())
        touched.editors.add(self._target(request.peer))
        touched.id = request.id
        if now_s - touched.sent_s >= 1 / self.limits.update_hz:
            self._send_touched(position, touched, now_s)

    def _step_add(self, request: Request, call: Call, now_s: float) -> None:
        before = call.values.get("before")
        position = len(self.plan.steps) if before is None else min(int(_number(before)) - 1, len(self.plan.steps))
        self._set_plan(request, self.plan.with_step(str(call.values["text"]), position=position), now_s)

    def _step_remove(self, request: Request, call: Call, now_s: float) -> None:
        self._set_plan(request, self.plan.without(self.plan.steps[self._step_index(call)].id), now_s)

    def _step_move(self, request: Request, call: Call, now_s: float) -> None:
        steps = list(self.plan.steps)
        step = steps.pop(self._step_index(call))
        steps.insert(int(_number(call.values["to"])) - 1, step)
        self._set_plan(request, replace(self.plan, steps=tuple(steps)), now_s)

    def _run(self, request: Request, call: Call, now_s: float) -> None:
        self._need_source()
        positions = tuple(index + 1 for index, step in enumerate(self.plan.steps) if step.enabled)
        if not positions:
            raise _refusal(
                ErrorCode.JOB_ENDED,
                "the plan has no step that is switched on",
                "send /smartdj/plan or /smartdj/step/add",
            )
        number = self._begin("running", request, now_s, positions)
        self._out.append(
            fx.Run(number, self.plan, str(call.values.get("mode", "preserve")), self.plan.provenance.seed or 0)
        )

    def _cancel(self, request: Request, call: Call, now_s: float) -> None:
        self._answer(request, _ack(request))
        if self._job is not None:
            self._out.append(fx.Cancel(self._job.number))

    def _capture(self, request: Request, call: Call, now_s: float) -> None:
        number = self._begin("loading", request, now_s)
        self._out.append(fx.Live(request, "capture", dict(call.values), number))

    def _live(self, request: Request, call: Call, now_s: float) -> None:
        values: dict[str, Any] = dict(call.values)
        action = call.command.address.removeprefix("/smartdj/")
        if action == "slot/define":
            instruction = str(values["instruction"])
            if instruction.strip() == "plan":
                if not self.plan.enabled_steps():
                    raise _refusal(ErrorCode.JOB_ENDED, "there is no plan", "send /smartdj/plan or /smartdj/step/add")
                values["plan"] = self.plan
            else:
                values["instruction"] = check_instruction(instruction)
        self._out.append(fx.Live(request, action, values))

    # --- jobs and plan -----------------------------------------------------------------------------------------------

    def _begin(self, kind: str, request: Request, now_s: float, positions: tuple[int, ...] = ()) -> int:
        if self._job is not None:
            raise _refusal(
                ErrorCode.QUEUE_FULL,
                f"busy: {self._job.kind} {self._job.request.id}".rstrip(),
                "wait, or send /smartdj/cancel",
            )
        self._job = _Job(next(self._numbers), kind, request, positions)
        self._answer(request, _ack(request))
        self._tell_subscribers(self._state_message(), now_s)
        return self._job.number

    def _need_source(self) -> None:
        if self.source is None:
            raise _refusal(ErrorCode.JOB_ENDED, "no recording is loaded", "send /smartdj/source/load s:path")

    def _set_plan(self, request: Request, plan: Plan, now_s: float) -> None:
        self.plan = plan
        self._touched.clear()
        for message in self._plan_messages(request.id):
            self._tell(request, message, now_s)

    def _step_index(self, call: Call) -> int:
        position = int(_number(call.values["step"]))
        if position > len(self.plan.steps):
            count = len(self.plan.steps)
            raise _refusal(ErrorCode.STEP_RANGE, f"there is no step {position}", f"the plan has {count}")
        return position - 1

    def _position(self, job: _Job, index: int) -> int:
        return job.positions[index] if index < len(job.positions) else index + 1

    # --- messages ----------------------------------------------------------------------------------------------------

    def _news(self, job: _Job, report: fx.SoundHeard | fx.Note | fx.StepReady) -> Message:
        id = job.request.id
        if isinstance(report, fx.SoundHeard):
            sound = report.sound
            azimuth = float("nan") if sound.azimuth_deg is None else sound.azimuth_deg
            return Message("/smartdj/heard", (id, clip(sound.label), sound.confidence, sound.level_db, azimuth))
        if isinstance(report, fx.Note):
            return Message("/smartdj/notice", (id, report.code, clip(report.message), clip(report.hint)))
        position = self._position(job, report.index)
        return Message("/smartdj/step/done", (id, position, report.path, float(report.lufs)))

    def _burst(self, request: Request) -> None:
        self._answer(request, self._state_message())
        if self.source is not None:
            self._answer(request, self._source_message(request.id))
        for message in self._plan_messages(request.id):
            self._answer(request, message)

    def _state_message(self) -> Message:
        source = self.source
        name, duration_s = (clip(source.name, 200), source.duration_s) if source is not None else ("", 0.0)
        values = (self.state, name, float(duration_s), len(self.plan.steps), self.result)
        return Message("/smartdj/state", values)

    def _source_message(self, id: str) -> Message:
        source = self.source or fx.SourceReady("", 0.0, 0, 0)
        values = (id, clip(source.name, 200), float(source.duration_s), source.sample_rate, source.channels)
        return Message("/smartdj/source", values)

    def _counters_message(self) -> Message:
        counted = self.counters
        values = (counted.packets, counted.malformed, counted.unknown, counted.dropped, len(self._leases))
        return Message("/smartdj/counters", values)

    def _plan_messages(self, id: str) -> list[Message]:
        count = len(self.plan.steps)
        return [
            Message("/smartdj/plan/begin", (id, count, clip(self.plan.instruction, 1000))),
            *(self._step_message(id, position) for position in range(count)),
            Message("/smartdj/plan/end", (id,)),
        ]

    def _step_message(self, id: str, position: int) -> Message:
        step = self.plan.steps[position]
        text = clip(format_step(step.step), 600)
        return Message("/smartdj/plan/step", (id, position + 1, step.step.operation.value, text, step.enabled))

    def _send_progress(self, job: _Job, now_s: float) -> None:
        assert job.pending is not None
        self._tell_subscribers(job.pending, now_s)
        job.pending, job.sent_s = None, now_s

    def _send_touched(self, position: int, touched: _Touched, now_s: float) -> None:
        only_editor = touched.editors if len(touched.editors) == 1 else set()
        message = self._step_message(touched.id, position)
        for target in self._living(now_s):
            if target not in only_editor:
                self._send(target, message)
        touched.editors = set()
        touched.sent_s = now_s

    # --- out ---------------------------------------------------------------------------------------------------------

    def _target(self, peer: Peer) -> Peer:
        return self._aliases.get(peer, peer)

    def _living(self, now_s: float) -> Sequence[Peer]:
        return [target for target, lease in self._leases.items() if lease.until_s > now_s]

    def _tell(self, request: Request, message: Message, now_s: float) -> None:
        living = self._living(now_s)
        if self._target(request.peer) not in living:
            self._answer(request, message)
        for target in living:
            self._send(target, message)

    def _tell_subscribers(self, message: Message, now_s: float) -> None:
        for target in self._living(now_s):
            self._send(target, message)

    def _answer(self, request: Request, message: Message) -> None:
        """Send to who asked, as far as the packet that asked allows."""
        budget = request.budget
        target = self._target(request.peer)
        if budget.left_bytes is None or target in self._leases:
            self._send(target, message)
            return
        size = len(encode(message))
        if size <= budget.left_bytes - _TOLD_BYTES:
            budget.left_bytes -= size
            self._send(target, message)
            return
        self.counters.withheld += 1
        if not budget.told:
            budget.told = True
            budget.left_bytes = 0
            id = request.id if len(request.id) <= 8 else ""
            self._send(target, error(id, "RESOURCE_EXHAUSTED", "more only for subscribers", "send /smartdj/subscribe"))

    def _send(self, target: Peer, message: Message) -> None:
        self._mirror("out", target, message)
        self._out.append(Send(target, encode(message)))

    def _mirror(self, direction: str, peer: Peer, message: Message) -> None:
        origin = self._target(peer)
        for target, lease in self._leases.items():
            if lease.monitor and target != origin and not self._is_monitor(origin):
                values = (direction, str(peer), clip(str(message), 1000))
                self._out.append(Send(target, encode(Message("/smartdj/traffic", values))))

    def _is_monitor(self, target: Peer) -> bool:
        lease = self._leases.get(target)
        return lease is not None and lease.monitor

    def _end_lease(self, target: Peer) -> None:
        lease = self._leases.pop(target, None)
        if lease is not None:
            for source in lease.sources:
                self._aliases.pop(source, None)

    def _done(self) -> list[Effect]:
        out, self._out = self._out, []
        return out


def _ack(request: Request) -> Message:
    return Message("/smartdj/ack", (request.id,))


def _error(id: str, failure: SmartDJError) -> Message:
    return error(id, failure.row.grpc_status, failure.message, failure.hint)


def _refusal(code: ErrorCode, message: str, hint: str) -> SmartDJError:
    return SmartDJError(code, message, hint)


def _number(value: Argument) -> float:
    assert isinstance(value, int | float)
    return value
