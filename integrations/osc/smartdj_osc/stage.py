"""Slots, tempo and what sounds: joins the bank (pure), the engine and the backend. Used from the event loop only."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_osc.backend import Backend
from smartdj_osc.effects import Live, Request
from smartdj_osc.live import slots
from smartdj_osc.live.slots import Definition, SlotBank
from smartdj_osc.live.tempo import Tempo
from smartdj_osc.namespace import clip, error
from smartdj_osc.packet import Message

if TYPE_CHECKING:
    from smartdj_agent.audio import Audio
    from smartdj_osc.live.engine import LiveEngine

_LAST = re.compile(r"last (\d+(?:\.\d+)?) (bars?|seconds?|s)")
_RESULT, _SOURCE = "@result", "@source"


class Stage:
    """What performers hear.

    Parameters
    ----------
    backend
        Computes.
    engine
        Sounds; None where nothing shall sound: slots are then computed and written only.
    soon
        Calls a function in the event loop, from any thread.
    tell
        Sends messages to all subscribers.
    """

    def __init__(
        self,
        backend: Backend,
        engine: LiveEngine | None,
        soon: Callable[[Callable[[], None]], None],
        tell: Callable[[list[Message]], None],
    ) -> None:
        self.bank = SlotBank()
        self.engine = engine
        self.tempo = engine.tempo if engine is not None else Tempo()
        self._backend = backend
        self._soon = soon
        self._tell = tell
        self._ids: dict[str, str] = {}
        self._sounds: dict[tuple[str, int], Any] = {}

    def perform(self, live: Live) -> tuple[list[Message], bool]:
        """Do something at once; returns the answers, and whether they concern all.

        Raises
        ------
        SmartDJError
            Whatever is in the way.
        """
        id, values = live.request.id, live.values
        if live.action == "slot/list":
            return [self._state(id, slot.name) for slot in self.bank.slots()], False
        if live.action.startswith("slot/"):
            slot = str(values["slot"])
            self._ids[slot] = id
            return self._slot(live.action, slot, values, live.request), True
        if live.action in ("tempo", "tap"):
            if live.action == "tap":
                self.tempo.tap(self._now())
            elif "bpm" in values:
                self.tempo.set(float(values["bpm"]), self._now())
            return [self._tempo(id)], live.action == "tap" or "bpm" in values
        engine = self._engine()
        at = values.get("at", "now")
        if live.action == "stop":
            self._carry_out(self.bank.stop(at))
            return [], True
        what = _SOURCE if values.get("what") == "source" else _RESULT
        scheduled = engine.play(what, at=at)
        return [self._playing(id, what, scheduled.time_s)], True

    def capture(self, values: dict[str, Any]) -> tuple[str, Audio]:
        """Take the last of the input; returns its name and it.

        Raises
        ------
        SmartDJError
            Where there is no input, or it isn't that long yet.
        """
        return self._captured(float(values["amount"]), str(values.get("unit", "bars")))

    def ready(self, what: str, audio: Audio) -> None:
        """A source or result can be played; called in the worker thread."""
        if self.engine is not None:
            self.engine.prepare(_SOURCE if what == "source" else _RESULT, audio)

    def tick(self) -> None:
        """Tell what has happened in the engine; called some fifty times a second."""
        if self.engine is None:
            return
        for event in self.engine.events():
            if event.kind == "started":
                self._carry_out(self.bank.started(event.slot))
                self._tell([self._playing(self._ids.get(event.slot, ""), event.slot, None)])
            else:
                self._carry_out(self.bank.ended(event.slot))
                if not self.engine.status().playing:
                    self._tell([self._playing("", "", None)])
        self._carry_out(self.bank.tick(self._now()))

    # --- slots -------------------------------------------------------------------------------------------------------

    def _slot(self, action: str, slot: str, values: dict[str, Any], request: Request) -> list[Message]:
        if action == "slot/define":
            plan = values.get("plan")
            instruction = "" if plan is not None else str(values["instruction"])
            effects = self.bank.define(slot, Definition(str(values.get("from", "source")), instruction, plan))
            self._carry_out(effects)
            told = any(isinstance(effect, slots.Changed) for effect in effects)
            return [] if told else [self._state(request.id, slot)]
        if action == "slot/prepare":
            effects = self.bank.prepare(slot)
            self._carry_out(effects)
            return [] if effects else [self._state(request.id, slot)]
        if action == "slot/clear":
            self._carry_out(self.bank.clear(slot))
            self._ids.pop(slot, None)
            return []
        engine = self._engine()
        at = values.get("at", "bar")
        now = engine.now()
        due_s = now if at == "now" else self.tempo.next(at, now)
        self._carry_out(self.bank.fire(slot, at, due_s))
        if self.bank.awaited == slot:
            return [Message("/smartdj/slot/late", (request.id, slot, self.bank.state(slot).value))]
        return [Message("/smartdj/slot/fired", (request.id, slot, max(due_s - now, 0.0)))]

    def _carry_out(self, effects: tuple[slots.Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, slots.Compute):
                self._compute(effect)
            elif isinstance(effect, slots.CancelCompute):
                self._backend.worker.cancel(("slot", effect.slot, effect.revision))
            elif isinstance(effect, slots.Adopt):
                sound = self._sounds.pop((effect.slot, effect.revision), None)
                if self.engine is not None and sound is not None:
                    self.engine.adopt(effect.slot, sound)
            elif isinstance(effect, slots.Play):
                scheduled = self._engine().play(effect.slot, at=effect.at)
                self._tell([self._playing(self._ids.get(effect.slot, ""), effect.slot, scheduled.time_s)])
            elif isinstance(effect, slots.Stop):
                self._engine().stop(at=effect.at)
            elif isinstance(effect, slots.Withdraw):
                self._engine().withdraw()
            elif isinstance(effect, slots.Clear):
                if self.engine is not None:
                    self.engine.clear(effect.slot)
            elif isinstance(effect, slots.Late):
                id = self._ids.get(effect.slot, "")
                self._tell([Message("/smartdj/slot/late", (id, effect.slot, self.bank.state(effect.slot).value))])
            elif isinstance(effect, slots.Failed):
                failure = effect.error
                id = self._ids.get(effect.slot, "")
                text = f"slot {effect.slot}: {failure.message}"
                self._tell([error(id, failure.row.grpc_status, text, failure.hint)])
            else:
                self._tell([self._state(self._ids.get(effect.slot, ""), effect.slot)])

    def _compute(self, effect: slots.Compute) -> None:
        slot, revision, wanted = effect.slot, effect.revision, effect.definition

        def done(audio: Audio | None, failure: SmartDJError | None) -> None:
            sound: Any = None
            path = ""
            if audio is not None:
                try:
                    if self.engine is not None:
                        sound = self.engine.convert(audio, loop=wanted.loop)
                    else:
                        path = self._backend.write("slot", audio)
                except SmartDJError as late:
                    failure = late
            self._soon(lambda: self._computed(slot, revision, sound, path, failure))

        try:
            last = _LAST.fullmatch(wanted.source)
            source: str | Audio = wanted.source
            if last is not None:  # as it is now, not when the worker comes to it
                source = self._captured(float(last[1]), "bars" if last[2].startswith("bar") else "seconds")[1]
            key = ("slot", slot, revision)
            self._backend.render(key, source, wanted.instruction, wanted.plan, wanted.seed, done)
        except SmartDJError as failure:
            found = failure
            # Not within the bank's own call.
            self._soon(lambda: self._computed(slot, revision, None, "", found))

    def _computed(self, slot: str, revision: int, sound: Any, path: str, failure: SmartDJError | None) -> None:
        if failure is not None:
            self._carry_out(self.bank.failed(slot, revision, failure))
        elif self.bank.accepts(slot, revision):
            self._sounds[slot, revision] = sound
            self._carry_out(self.bank.prepared(slot, revision))
            self._sounds.pop((slot, revision), None)
            if path:
                self._tell([Message("/smartdj/slot/file", (self._ids.get(slot, ""), slot, path))])

    # --- messages ----------------------------------------------------------------------------------------------------

    def _state(self, id: str, name: str) -> Message:
        found = next((slot for slot in self.bank.slots() if slot.name == name), None)
        text = ""
        if found is not None:
            wanted = found.definition
            text = wanted.instruction or (f"plan of {len(wanted.plan.steps)} steps" if wanted.plan is not None else "")
        return Message("/smartdj/slot/state", (id, name, self.bank.state(name).value, clip(text, 200)))

    def _tempo(self, id: str) -> Message:
        now = self._now()
        return Message("/smartdj/tempo", (id, self.tempo.bpm, self.tempo.beat_at(now), self.tempo.bar_phase(now)))

    def _playing(self, id: str, slot: str, due_s: float | None) -> Message:
        left_s = 0.0 if due_s is None else max(due_s - self._now(), 0.0)
        return Message("/smartdj/playing", (id, slot.removeprefix("@"), left_s))

    def _captured(self, amount: float, unit: str) -> tuple[str, Audio]:
        engine = self._engine()
        if unit == "bars":
            bars = round(amount)
            return f"last {bars} bars", engine.capture(bars=max(bars, 1))
        return f"last {amount:g} seconds", engine.capture(seconds=amount)

    def _now(self) -> float:
        return self.engine.now() if self.engine is not None else time.monotonic()

    def _engine(self) -> LiveEngine:
        if self.engine is None:
            raise SmartDJError(
                ErrorCode.DEVICE_UNAVAILABLE, "sound output is off", "start `smartdj osc` with --audio default or null"
            )
        return self.engine
