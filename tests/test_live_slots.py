"""The bank of slots: a late or stale result never silences what sounds, and what was fired last wins."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from smartdj_osc.live.slots import (
    Adopt,
    At,
    CancelCompute,
    Changed,
    Clear,
    Compute,
    Definition,
    Effect,
    Failed,
    Late,
    Play,
    SlotBank,
    SlotState,
    Stop,
    Withdraw,
)

from smartdj_agent.errors import ErrorCode, SmartDJError

NAMES = ("a", "b", "c")
BROKEN = SmartDJError(ErrorCode.INTERNAL, "it broke", "try again")


def computed(effects: tuple[Effect, ...]) -> Compute:
    (found,) = [effect for effect in effects if isinstance(effect, Compute)]
    return found


def of(effects: tuple[Effect, ...], *kinds: type) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kinds)]


def ready_bank(*names: str) -> SlotBank:
    bank = SlotBank()
    for name in names:
        bank.define(name, Definition("demo.wav", f"make it {name}"))
        bank.prepared(name, computed(bank.prepare(name)).revision)
    return bank


def test_from_empty_over_preparing_and_ready_to_playing() -> None:
    bank = SlotBank()
    assert bank.define("a", Definition("demo.wav", "rain")) == (Changed("a", SlotState.EMPTY),)
    effects = bank.prepare("a")
    compute = computed(effects)
    assert compute.definition == Definition("demo.wav", "rain")
    assert effects[-1] == Changed("a", SlotState.PREPARING)
    assert bank.prepared("a", compute.revision) == (
        Adopt("a", compute.revision),
        Changed("a", SlotState.READY),
    )
    assert bank.fire("a", "bar", 2.0) == (Play("a", "bar"),)
    assert bank.started("a") == (Changed("a", SlotState.PLAYING),)
    assert bank.playing == "a"
    assert bank.ended("a") == (Changed("a", SlotState.READY),)


def test_what_is_fired_before_it_is_ready_is_late_once_and_plays_when_it_is_there() -> None:
    bank = ready_bank("old")
    bank.started("old")
    bank.define("a", Definition("demo.wav", "rain"))
    compute = computed(bank.prepare("a"))
    assert of(bank.fire("a", "bar", 2.0), Play, Stop, Compute) == []
    assert bank.tick(1.99) == ()
    assert bank.tick(2.0) == (Late("a"), Changed("a", SlotState.LATE))
    assert bank.tick(2.5) == ()
    assert bank.playing == "old"
    effects = bank.prepared("a", compute.revision)
    assert effects[:2] == (Adopt("a", compute.revision), Play("a", "bar"))
    assert bank.tick(9.0) == ()
    assert bank.started("a") == (Changed("old", SlotState.READY), Changed("a", SlotState.PLAYING))


def test_firing_what_was_never_prepared_computes_it() -> None:
    bank = SlotBank()
    bank.define("a", Definition("demo.wav", "rain"))
    compute = computed(bank.fire("a", "beat", 1.0))
    assert Play("a", "beat") in bank.prepared("a", compute.revision)


def test_what_waits_in_the_engine_is_withdrawn_by_a_later_fire_that_has_to_wait() -> None:
    bank = ready_bank("a")
    bank.fire("a", "bar", 2.0)
    bank.define("b", Definition("demo.wav", "rain"))
    effects = bank.fire("b", "bar", 2.0)
    assert Withdraw() in effects
    bank.stop("bar")
    assert of(bank.prepared("b", computed(effects).revision), Play) == []


def test_what_is_no_slot_overrules_what_is_late() -> None:
    bank = SlotBank()
    bank.define("a", Definition("demo.wav", "rain"))
    compute = computed(bank.fire("a", "bar", 1.0))
    bank.tick(1.0)
    assert bank.overrule() == (Changed("a", SlotState.PREPARING),)
    assert of(bank.prepared("a", compute.revision), Play) == []


def test_a_stale_result_is_ignored() -> None:
    bank = SlotBank()
    bank.define("a", Definition("demo.wav", "rain"))
    old = computed(bank.prepare("a"))
    assert bank.define("a", Definition("demo.wav", "snow"))[0] == CancelCompute("a", old.revision)
    assert bank.prepared("a", old.revision) == ()
    new = computed(bank.prepare("a"))
    assert bank.prepared("a", old.revision) == ()
    assert not bank.accepts("a", old.revision)
    assert bank.accepts("a", new.revision)


def test_redefining_what_was_fired_computes_and_plays_the_new() -> None:
    bank = SlotBank()
    bank.define("a", Definition("demo.wav", "rain"))
    old = computed(bank.fire("a", "bar", 1.0))
    new = computed(bank.define("a", Definition("demo.wav", "snow")))
    assert new.revision != old.revision
    assert Play("a", "bar") in bank.prepared("a", new.revision)


def test_a_failure_is_told_and_the_slot_refuses_until_it_is_prepared_again() -> None:
    bank = ready_bank("old")
    bank.started("old")
    bank.define("a", Definition("demo.wav", "rain"))
    compute = computed(bank.fire("a", "bar", 1.0))
    assert bank.failed("a", compute.revision, BROKEN) == (
        Failed("a", BROKEN),
        Changed("a", SlotState.FAILED),
    )
    assert (bank.playing, bank.awaited) == ("old", "")
    with pytest.raises(SmartDJError, match="it broke"):
        bank.fire("a", "bar", 3.0)
    again = computed(bank.prepare("a"))
    bank.prepared("a", again.revision)
    assert bank.fire("a", "bar", 3.0) == (Play("a", "bar"),)


def test_an_earlier_result_outlives_a_failure_of_the_same_definition() -> None:
    bank = ready_bank("a")
    compute = computed(bank.prepare("a"))
    bank.failed("a", compute.revision, BROKEN)
    assert bank.state("a") is SlotState.READY
    assert bank.fire("a", "now", 0.0) == (Play("a", "now"),)


def test_the_same_definition_again_changes_nothing() -> None:
    bank = ready_bank("a")
    assert bank.define("a", Definition("demo.wav", "make it a")) == ()
    assert bank.state("a") is SlotState.READY


def test_preparing_twice_computes_once() -> None:
    bank = SlotBank()
    bank.define("a", Definition("demo.wav"))
    assert of(bank.prepare("a"), Compute)
    assert bank.prepare("a") == ()


def test_clearing_cancels_and_empties() -> None:
    bank = ready_bank("a")
    bank.started("a")
    compute = computed(bank.prepare("a"))
    assert bank.clear("a") == (
        CancelCompute("a", compute.revision),
        Clear("a"),
        Changed("a", SlotState.EMPTY),
    )
    assert bank.prepared("a", compute.revision) == ()
    assert bank.ended("a") == ()
    assert bank.clear("a") == ()
    assert bank.slots() == ()


@pytest.mark.parametrize("call", ["prepare", "fire"])
def test_unknown_slots_are_refused_and_the_known_named(call: str) -> None:
    bank = ready_bank("a")
    with pytest.raises(SmartDJError, match=r"'zz'.*defined are: a") as refused:
        bank.prepare("zz") if call == "prepare" else bank.fire("zz", "bar", 0.0)
    assert (refused.value.code, refused.value.field) == (ErrorCode.USAGE, "slot")


@pytest.mark.parametrize("name", ["", "x" * 65, "a\n"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(SmartDJError) as refused:
        SlotBank().define(name, Definition("demo.wav"))
    assert refused.value.field == "slot"


def test_a_slot_needs_a_source_and_not_two_wishes() -> None:
    from smartdj_agent.plan import make_plan

    plan = make_plan(("remove the sound of dog barking",), "")
    for definition, field in ((Definition(""), "source"), (Definition("demo.wav", "rain", plan), "plan")):
        with pytest.raises(SmartDJError) as refused:
            SlotBank().define("a", definition)
        assert refused.value.field == field


def test_slots_are_limited() -> None:
    bank = SlotBank(2)
    bank.define("a", Definition("demo.wav"))
    bank.define("b", Definition("demo.wav"))
    bank.define("b", Definition("other.wav"))
    with pytest.raises(SmartDJError) as full:
        bank.define("c", Definition("demo.wav"))
    assert full.value.code is ErrorCode.QUEUE_FULL
    bank.clear("a")
    bank.define("c", Definition("demo.wav"))


class Stage(RuleBasedStateMachine):
    """A bank with a model of engine and workers around it: everything late, out of order, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = SlotBank()
        self.now = 0.0
        self.edition = 0
        self.running: dict[tuple[str, int], Definition] = {}
        self.loaded: dict[str, int] = {}
        self.pending: str | None = None  # "" is a stop
        self.sounding = ""
        self.silence_asked = False
        self.last_fired = ""  # what shall play in the end; "" where that is silence or nobody cares
        self.lates: set[tuple[str, float]] = set()
        self.fired_at = 0.0

    def carry_out(self, effects: tuple[Effect, ...], *, may_silence: bool = False) -> None:
        for effect in effects:
            if isinstance(effect, Compute):
                assert (effect.slot, effect.revision) not in self.running
                self.running[effect.slot, effect.revision] = effect.definition
            elif isinstance(effect, Adopt):
                self.loaded[effect.slot] = effect.revision
            elif isinstance(effect, Play):
                assert effect.slot in self.loaded, "the engine would refuse"
                self.pending = effect.slot
            elif isinstance(effect, Withdraw):
                self.pending = None
            elif isinstance(effect, Stop):
                assert may_silence
                self.pending = ""
            elif isinstance(effect, Clear):
                assert may_silence
                self.loaded.pop(effect.slot, None)
                if self.pending == effect.slot:
                    self.pending = None
                if self.sounding == effect.slot:
                    self.sounding = ""
            elif isinstance(effect, Changed):
                assert self.bank.state(effect.slot) is effect.state

    @rule(name=st.sampled_from(NAMES), anew=st.booleans())
    def define(self, name: str, anew: bool) -> None:
        self.edition += anew
        self.carry_out(self.bank.define(name, Definition("demo.wav", f"edition {self.edition}")))

    @rule(name=st.sampled_from(NAMES))
    def prepare(self, name: str) -> None:
        try:
            self.carry_out(self.bank.prepare(name))
        except SmartDJError as error:
            assert "no slot" in error.message  # noqa: PT017

    @rule(name=st.sampled_from(NAMES), at=st.sampled_from(["now", "beat", "bar"]))
    def fire(self, name: str, at: At) -> None:
        before = (self.pending, self.bank.awaited)
        try:
            effects = self.bank.fire(name, at, self.now + 1.0)
        except SmartDJError:
            assert (self.pending, self.bank.awaited) == before  # a refusal changes nothing
            return
        self.carry_out(effects)
        self.last_fired = name
        self.fired_at = self.now

    @precondition(lambda self: self.running)
    @rule(data=st.data(), works=st.booleans())
    def finish(self, data: st.DataObject, works: bool) -> None:
        name, revision = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[name, revision]
        sounding = self.sounding
        if works:
            self.carry_out(self.bank.prepared(name, revision))
        else:
            awaited = self.bank.awaited
            effects = self.bank.failed(name, revision, BROKEN)
            self.carry_out(effects)
            if effects and awaited == name:
                self.last_fired = ""
        assert self.sounding == sounding

    @rule(seconds=st.floats(0.1, 2.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        effects = self.bank.tick(self.now)
        for late in of(effects, Late):
            assert isinstance(late, Late)
            assert late.slot == self.last_fired == self.bank.awaited
            assert self.now >= self.fired_at + 1.0
            assert not any(isinstance(effect, Play | Stop | Clear) for effect in effects)
        self.carry_out(effects)
        assert not of(self.bank.tick(self.now), Late)

    @rule()
    def beat(self) -> None:
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        old, self.sounding = self.sounding, pending
        if pending:
            self.carry_out(self.bank.started(pending))
        elif old:
            self.carry_out(self.bank.ended(old))

    @rule(at=st.sampled_from(["now", "bar"]))
    def stop(self, at: At) -> None:
        self.carry_out(self.bank.stop(at), may_silence=True)
        self.last_fired = ""

    @rule(name=st.sampled_from(NAMES))
    def clear(self, name: str) -> None:
        old = self.sounding
        self.carry_out(self.bank.clear(name), may_silence=True)
        if name == self.last_fired:
            self.last_fired = ""
        if old != self.sounding:
            self.carry_out(self.bank.ended(old))

    @invariant()
    def the_bank_knows_what_sounds(self) -> None:
        assert self.bank.playing == self.sounding
        assert sum(slot.playing for slot in self.bank.slots()) <= 1
        late = [slot.name for slot in self.bank.slots() if slot.late]
        assert late in ([], [self.bank.awaited])

    @invariant()
    def the_last_fired_is_on_its_way_or_sounds(self) -> None:
        if not self.last_fired:
            return
        if self.bank.awaited:
            assert self.bank.awaited == self.last_fired
            assert self.pending is None
            assert any(name == self.last_fired for name, _ in self.running)
        else:
            assert self.last_fired in (self.pending, self.sounding)

    def teardown(self) -> None:
        """All computations end well, the beat comes: the last fired plays."""
        for name, revision in sorted(self.running, reverse=True):
            self.carry_out(self.bank.prepared(name, revision))
        wanted = self.last_fired
        self.beat()
        if wanted:
            assert self.sounding == wanted
            assert self.bank.state(wanted) is SlotState.PLAYING


def test_clearing_a_late_slot_tells_only_its_end() -> None:
    bank = SlotBank()
    bank.define("a", Definition("demo.wav", "calm"))
    bank.fire("a", "now", 1.0)
    assert of(bank.tick(1.0), Late)
    assert [effect.state for effect in of(bank.clear("a"), Changed)] == [SlotState.EMPTY]  # type: ignore[attr-defined]


Stage.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStage = Stage.TestCase
