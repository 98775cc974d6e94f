"""The bank of prepared slots: what is there, what is being computed, what plays. Pure: events in, effects out.

The shell carries out the effects in their order and tells the bank what came of them. Two promises hold whatever comes
when: a result that is late or stale never silences what sounds (only `SlotBank.stop` and `SlotBank.clear` do), and the
slot that was fired last is the one that plays in the end, however late its result is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.plan import Plan

At = Literal["now", "beat", "bar"]

MAX_SLOTS = 256
MAX_NAME_CHARS = 64


class SlotState(StrEnum):
    """What a controller shows of a slot."""

    EMPTY = "empty"
    PREPARING = "preparing"
    READY = "ready"
    PLAYING = "playing"
    LATE = "late"
    FAILED = "failed"


@dataclass(frozen=True)
class Definition:
    """What a slot shall be.

    Attributes
    ----------
    source
        What is edited: a path, or a name that the shell knows.
    instruction
        The wish in words; empty where a plan is given, or where the source is to be played as it is.
    plan
        The steps, or None.
    seed
        Same seed, same result.
    loop
        Whether the result begins again at its end.
    """

    source: str
    instruction: str = ""
    plan: Plan | None = None
    seed: int = 0
    loop: bool = True


@dataclass(frozen=True)
class Slot:
    """One slot.

    Attributes
    ----------
    name
        Its name.
    definition
        What it shall be.
    revision
        Counts computations of the whole bank; the one that is under way, or was the last.
    computing
        Whether it is under way.
    sound
        Revision of the result that can be played; 0 for none.
    playing
        Whether this slot sounds (perhaps with an earlier result).
    late
        Whether it was fired, and its beat came before its result.
    error
        Why the last computation failed; None where it didn't.
    """

    name: str
    definition: Definition
    revision: int = 0
    computing: bool = False
    sound: int = 0
    playing: bool = False
    late: bool = False
    error: SmartDJError | None = field(default=None, compare=False)

    @property
    def state(self) -> SlotState:
        """What a controller shows; what is heard goes first, then what the performer waits for."""
        if self.late:
            return SlotState.LATE
        if self.playing:
            return SlotState.PLAYING
        if self.computing:
            return SlotState.PREPARING
        if self.sound:
            return SlotState.READY
        return SlotState.FAILED if self.error is not None else SlotState.EMPTY


@dataclass(frozen=True)
class Compute:
    """Begin to compute a slot; then say `prepared` or `failed` with this revision."""

    slot: str
    revision: int
    definition: Definition


@dataclass(frozen=True)
class CancelCompute:
    """Nobody wants that result any more."""

    slot: str
    revision: int


@dataclass(frozen=True)
class Adopt:
    """Give the engine this result of the slot."""

    slot: str
    revision: int


@dataclass(frozen=True)
class Play:
    """Have the engine swap to the slot; then say `started` when it has."""

    slot: str
    at: At


@dataclass(frozen=True)
class Stop:
    """Have the engine fade out."""

    at: At


@dataclass(frozen=True)
class Withdraw:
    """Have the engine forget the swap or stop that waits for its beat: something else was fired since."""


@dataclass(frozen=True)
class Clear:
    """Have the engine empty the slot; what plays from it fades out."""

    slot: str


@dataclass(frozen=True)
class Late:
    """Tell the controllers: the slot's beat has come, its result hasn't; the old sound goes on."""

    slot: str


@dataclass(frozen=True)
class Failed:
    """Tell the controllers: the slot could not be computed; the old sound goes on."""

    slot: str
    error: SmartDJError = field(compare=False)


@dataclass(frozen=True)
class Changed:
    """Tell the controllers the slot's state."""

    slot: str
    state: SlotState


Effect = Compute | CancelCompute | Adopt | Play | Stop | Withdraw | Clear | Late | Failed | Changed


@dataclass(frozen=True)
class _Wish:
    """What was fired last, and hasn't its result yet."""

    slot: str
    at: At
    due_s: float


class SlotBank:
    """All slots. Used from one thread; every method returns what is to be done, in order.

    Parameters
    ----------
    limit
        Most slots, at least 1.
    """

    def __init__(self, limit: int = MAX_SLOTS) -> None:
        self.limit = limit
        self._slots: dict[str, Slot] = {}
        self._wish: _Wish | None = None
        self._revision = 0

    def slots(self) -> tuple[Slot, ...]:
        """All slots, in the order they were defined."""
        return tuple(self._slots.values())

    def state(self, name: str) -> SlotState:
        """A slot's state; empty where there is none of that name."""
        slot = self._slots.get(name)
        return slot.state if slot is not None else SlotState.EMPTY

    @property
    def playing(self) -> str:
        """The slot that sounds; empty for none."""
        return next((slot.name for slot in self._slots.values() if slot.playing), "")

    @property
    def awaited(self) -> str:
        """The slot that was fired last and hasn't its result yet; empty for none."""
        return self._wish.slot if self._wish is not None else ""

    def accepts(self, name: str, revision: int) -> bool:
        """Whether a result is still wanted; ask before it is converted for the engine."""
        slot = self._slots.get(name)
        return slot is not None and slot.computing and slot.revision == revision

    def define(self, name: str, definition: Definition) -> tuple[Effect, ...]:
        """Say what a slot shall be. What plays from it goes on; an earlier result of another definition is forgotten.

        Raises
        ------
        SmartDJError
            USAGE for a bad name or definition, QUEUE_FULL beyond the limit.
        """
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
            raise SmartDJError(
                ErrorCode.USAGE, "a slot needs a printable name of up to 64 characters", "for example a1", field="slot"
            )
        if not definition.source:
            raise SmartDJError(ErrorCode.USAGE, "a slot needs a source", "name a recording", field="source")
        if definition.instruction and definition.plan is not None:
            raise SmartDJError(
                ErrorCode.USAGE, "a slot has an instruction or a plan, not both", "leave one out", field="plan"
            )
        slot = self._slots.get(name)
        if slot is None:
            if len(self._slots) >= self.limit:
                raise SmartDJError(
                    ErrorCode.QUEUE_FULL, f"all {self.limit} slots are taken", "clear one first", field="slot"
                )
            self._slots[name] = Slot(name, definition)
            return (Changed(name, SlotState.EMPTY),)
        if slot.definition == definition:
            return ()
        before = slot.state
        changed = replace(slot, definition=definition, computing=False, sound=0, late=False, error=None)
        self._slots[name] = changed
        effects: list[Effect] = []
        if slot.computing:
            effects.append(CancelCompute(name, slot.revision))
        if self._wish is not None and self._wish.slot == name:  # it was fired: what it is now shall play
            effects += self._compute(name)
        return (*effects, *self._told(name, before))

    def prepare(self, name: str) -> tuple[Effect, ...]:
        """Compute a slot, again where it was before; nothing where that is under way.

        Raises
        ------
        SmartDJError
            USAGE where it isn't defined.
        """
        slot = self._defined(name)
        if slot.computing:
            return ()
        before = slot.state
        return (*self._compute(name), *self._told(name, before))

    def fire(self, name: str, at: At, due_s: float) -> tuple[Effect, ...]:
        """Have a slot play: at its beat where its result is there, else as soon as it is.

        A slot that was never prepared is computed now. Whatever was fired before and hasn't come, doesn't come.

        Parameters
        ----------
        name
            Which.
        at
            When.
        due_s
            When that beat is, seconds of any clock; `tick` takes the same. From then on it is late.

        Raises
        ------
        SmartDJError
            USAGE where it isn't defined; where its computation failed, that error.
        """
        slot = self._defined(name)
        if slot.sound and not slot.computing:
            return (*self._forget_wish(), Play(name, at))
        if slot.error is not None and not slot.computing:
            raise slot.error
        effects = [*self._forget_wish(), Withdraw()]
        before = self._slots[name].state
        if not slot.computing:
            effects += self._compute(name)
        self._wish = _Wish(name, at, due_s)
        return (*effects, *self._told(name, before))

    def prepared(self, name: str, revision: int) -> tuple[Effect, ...]:
        """A result is there, converted for the engine. Nothing comes of one that nobody waits for any more."""
        if not self.accepts(name, revision):
            return ()
        slot = self._slots[name]
        before = slot.state
        self._slots[name] = replace(slot, computing=False, sound=revision, late=False, error=None)
        effects: list[Effect] = [Adopt(name, revision)]
        if self._wish is not None and self._wish.slot == name:
            effects.append(Play(name, self._wish.at))
            self._wish = None
        return (*effects, *self._told(name, before))

    def failed(self, name: str, revision: int, error: SmartDJError) -> tuple[Effect, ...]:
        """A computation failed. The old sound goes on, and an earlier result of the slot stays."""
        if not self.accepts(name, revision):
            return ()
        slot = self._slots[name]
        before = slot.state
        self._slots[name] = replace(slot, computing=False, late=False, error=error)
        if self._wish is not None and self._wish.slot == name:
            self._wish = None
        return (Failed(name, error), *self._told(name, before))

    def tick(self, now_s: float) -> tuple[Effect, ...]:
        """Time goes on: says `Late`, once, when the beat of what was fired has come and its result hasn't."""
        wish = self._wish
        if wish is None or now_s < wish.due_s or self._slots[wish.slot].late:
            return ()
        slot = self._slots[wish.slot]
        before = slot.state
        self._slots[wish.slot] = replace(slot, late=True)
        return (Late(wish.slot), *self._told(wish.slot, before))

    def started(self, name: str) -> tuple[Effect, ...]:
        """The engine has swapped to a slot."""
        effects: list[Effect] = []
        for slot in list(self._slots.values()):
            if slot.playing != (slot.name == name):
                before = slot.state
                self._slots[slot.name] = replace(slot, playing=slot.name == name)
                effects += self._told(slot.name, before)
        return tuple(effects)

    def ended(self, name: str) -> tuple[Effect, ...]:
        """The engine no longer plays a slot: it was stopped, or was over."""
        slot = self._slots.get(name)
        if slot is None or not slot.playing:
            return ()
        before = slot.state
        self._slots[name] = replace(slot, playing=False)
        return self._told(name, before)

    def stop(self, at: At = "now") -> tuple[Effect, ...]:
        """Fade to silence; what was fired and hasn't come, doesn't come (it is still computed)."""
        return (*self._forget_wish(), Stop(at))

    def overrule(self) -> tuple[Effect, ...]:
        """Something that is no slot was fired: what was fired before and hasn't come, doesn't come."""
        return self._forget_wish()

    def clear(self, name: str) -> tuple[Effect, ...]:
        """Empty a slot; what plays from it fades out. Unknown slots are empty already."""
        slot = self._slots.get(name)
        if slot is None:
            return ()
        if self.awaited == name:
            self._wish = None  # told by the slot's end; that it is no longer late as well would be a step back
        del self._slots[name]
        computing = (CancelCompute(name, slot.revision),) if slot.computing else ()
        return (*computing, Clear(name), Changed(name, SlotState.EMPTY))

    def _defined(self, name: str) -> Slot:
        slot = self._slots.get(name)
        if slot is None:
            raise SmartDJError(
                ErrorCode.USAGE,
                f"there is no slot {name!r}",
                "defined are: " + (", ".join(self._slots) or "none"),
                field="slot",
            )
        return slot

    def _compute(self, name: str) -> tuple[Effect, ...]:
        self._revision += 1
        slot = replace(self._slots[name], revision=self._revision, computing=True, error=None)
        self._slots[name] = slot
        return (Compute(name, slot.revision, slot.definition),)

    def _forget_wish(self) -> tuple[Effect, ...]:
        wish, self._wish = self._wish, None
        if wish is None:
            return ()
        slot = self._slots[wish.slot]
        before = slot.state
        self._slots[wish.slot] = replace(slot, late=False)
        return self._told(wish.slot, before)

    def _told(self, name: str, before: SlotState) -> tuple[Effect, ...]:
        state = self._slots[name].state
        return () if state is before else (Changed(name, state),)
