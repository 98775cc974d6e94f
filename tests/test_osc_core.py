"""The protocol without sockets: bytes and reports in, packets and wishes out."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pythonosc import osc_bundle, osc_message
from pythonosc.osc_packet import OscPacket
from smartdj_osc import effects as fx
from smartdj_osc.core import Core
from smartdj_osc.effects import Effect, Peer, Send
from smartdj_osc.limits import Limits
from smartdj_osc.namespace import COMMANDS, REPLIES, CallError, Kind, understand
from smartdj_osc.packet import Element, Message, Midi, PacketError, bundle, decode, encode
from smartdj_osc.patterns import PatternError, matching
from smartdj_osc.slip import SlipDecoder, SlipError, frame

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.plan import make_plan

NOW = 1_750_000_000.0
PAD = Peer("127.0.0.1", 5001)
TABLET = Peer("127.0.0.1", 5002)
STRANGER = Peer("10.0.0.9", 5003)
PLAN = make_plan(["remove the sound of dog", "turn up the volume of wind by 3 dB", "add the sound of rain"], "rain")
SOURCE = fx.SourceReady("walk.wav", 10.0, 44_100, 2)


def send(core: Core, address: str, *arguments: Any, peer: Peer = PAD, now: float = NOW) -> list[Effect]:
    return core.receive(encode(Message(address, arguments)), peer, now)


def told(effects: list[Effect], peer: Peer = PAD) -> list[Message]:
    """What a peer is sent."""
    packets = [effect.data for effect in effects if isinstance(effect, Send) and effect.peer == peer]
    return [element.message for packet in packets for element in decode(packet)]


def addresses(effects: list[Effect], peer: Peer = PAD) -> list[str]:
    return [message.address for message in told(effects, peer)]


def wishes(effects: list[Effect]) -> list[Effect]:
    """What the core wants to be done, besides sending."""
    return [effect for effect in effects if not isinstance(effect, Send)]


def loaded(**limits: Any) -> Core:
    core = Core(Limits(**limits))
    [load] = wishes(send(core, "/smartdj/source/load", "walk.wav"))
    assert isinstance(load, fx.Load)
    core.report(load.job, SOURCE, NOW)
    return core


def planned(**limits: Any) -> Core:
    core = loaded(**limits)
    [make] = wishes(send(core, "/smartdj/plan", "rain"))
    assert isinstance(make, fx.MakePlan)
    core.report(make.job, fx.PlanMade(PLAN), NOW)
    return core


def running(core: Core, id: str = "r", peer: Peer = PAD) -> int:
    [run] = wishes(send(core, "/smartdj/run", id, peer=peer))
    assert isinstance(run, fx.Run)
    return run.job


# --- packets ----------------------------------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    """As in the examples of the OSC 1.0 specification, and one of each type."""
    assert encode(Message("/oscillator/4/frequency", (440.0,))) == bytes.fromhex(
        "2f6f7363696c6c61746f722f342f6672657175656e637900 2c660000 43dc0000"
    )
    foo = bytes.fromhex("2f666f6f00000000 2c69697366660000 000003e8 ffffffff 68656c6c6f000000 3f9df3b6 40b5b22d")
    assert decode(foo) == [
        Element(Message("/foo", (1000, -1, "hello", pytest.approx(1.234), pytest.approx(5.678))), None)
    ]
    every = Message("/t", (True, False, None, 2**40, b"abcde", (1, "x"), Midi(0, 0xB0, 20, 127)))
    golden = bytes.fromhex(
        "2f740000 2c54464e68625b69735d6d00 0000010000000000 00000005 6162636465000000 00000001 78000000 00b0147f"
    )
    assert encode(every) == golden
    assert decode(golden) == [Element(every, None)]


def test_golden_session() -> None:
    """The bytes of a short session do not change by accident."""
    core = Core()
    [pong] = send(core, "/smartdj/ping", "a")
    assert isinstance(pong, Send)
    assert pong.data == b"/smartdj/pong\0\0\0,sss\0\0\0\0a\0\0\x000.1.0\0\0\0idle\0\0\0\0"
    [error] = send(core, "/x")
    assert isinstance(error, Send)
    assert error.data == (
        b"/smartdj/error\0\0,ssss\0\0\0\0\0\0\0NOT_FOUND\0\0\0no such address /x\0\0see /smartdj/help\0\0\0"
    )


def test_bundle_bytes_and_time() -> None:
    inner = encode(Message("/a"))
    packet = bundle([inner, bundle([inner], NOW + 2)], NOW + 1)
    assert packet[:20] == b"#bundle\0" + struct.pack(">II", int(NOW) + 2_208_988_800 + 1, 0) + struct.pack(">i", 8)
    assert [element.due_s for element in decode(packet)] == [NOW + 1, NOW + 2]
    assert decode(bundle([inner]))[0].due_s is None


ARGUMENT = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    st.binary(min_size=1, max_size=20),  # python-osc builds no empty blob
    st.booleans(),
    st.none(),
    st.builds(Midi, *[st.integers(0, 255)] * 4),
    st.tuples(st.integers(0, 5), st.text("abc", max_size=3)),
)


@given(st.lists(ARGUMENT, max_size=20))
def test_what_is_written_is_read_again_and_python_osc_reads_the_same(arguments: list[Any]) -> None:
    message = Message("/some/address", tuple(arguments))
    packet = encode(message)
    assert decode(packet) == [Element(message, None)]
    theirs = OscPacket(packet).messages[0].message.params
    ours = [(a.port, a.status, a.data1, a.data2) if isinstance(a, Midi) else a for a in arguments]
    assert [
        list(a) if isinstance(a, tuple) and isinstance(b, list) else a for a, b in zip(ours, theirs, strict=True)
    ] == theirs


@given(st.binary(max_size=200), st.sampled_from([b"", b"/a\0\0,", b"#bundle\0"]))
@settings(max_examples=500)
def test_any_bytes_are_a_packet_or_a_packet_error(data: bytes, start: bytes) -> None:
    elements: list[Element] = []
    with contextlib.suppress(PacketError):
        elements = decode(start + data[: len(data) // 4 * 4])
    for element in elements:
        assert str(element.message).startswith(element.message.address)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no bytes"),
        (b"abc", "multiple of four"),
        (b"abcd", "without end"),
        (b"a\0\0\0", "without slash"),
        (b"/a\0\0,s\0\0abcd", "without end"),
        (b"/a\0\0,i\0\0", "cut off"),
        (b"/a\0\0i\0\0\0", "without comma"),
        (b"/a\0\0,Q\0\0", "type tag"),
        (b"/a\0\0,b\0\0\xff\xff\xff\xfc", "blob"),
        (b"/a\0\0,[\0\0", "without"),
        (b"/a\0\0,]\0\0", "without"),
        (b"/a\0\0,\0\0\0abcd", "too many"),
        (b"/a\n\0,\0\0\0", "control characters"),
        (b"#bundle\0", "time tag"),
        (b"#bundle\0" + bytes(8) + struct.pack(">i", -4), "element of -4"),
        (b"#bundle\0" + bytes(8) + struct.pack(">i", 400) + b"/a\0\0", "element of 400"),
        (encode(Message("/a", tuple(range(100)))), "100 arguments"),
        (bundle([encode(Message("/a"))] * 100), "more than 64"),
        (bundle([bundle([bundle([bundle([bundle([encode(Message("/a"))])])])])]), "5 deep"),
        (encode(Message("/a", ("x" * 9000,))), "allowed are 8192"),
    ],
)
def test_malformed_packets_are_counted_and_reported(data: bytes, why: str) -> None:
    core = Core()
    [error] = told(core.receive(data, PAD, NOW))
    assert error.address == "/smartdj/error"
    assert error.arguments[:2] == ("", "INVALID_ARGUMENT")
    assert why in str(error.arguments[2])
    assert core.counters.malformed == 1
    assert addresses(send(core, "/smartdj/ping")) == ["/smartdj/pong"]


def test_python_osc_still_has_the_faults_that_ours_avoids() -> None:
    """If this fails, python-osc has been mended and may be used for reading too."""
    deep = encode(Message("/a"))
    for _ in range(2000):
        deep = bundle([deep])
    with pytest.raises(RecursionError):
        osc_bundle.OscBundle(deep)
    assert osc_message.OscMessage(b"/a\0\0,Qi\0\0\0\0\7").params == [7]


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 7))
def test_slip_survives_any_cut(packets: list[bytes], size: int) -> None:
    stream = b"".join(frame(packet) for packet in packets)
    decoder = SlipDecoder(40)
    got = [packet for at in range(0, len(stream), size) for packet in decoder.feed(stream[at : at + size])]
    assert got == packets


@pytest.mark.parametrize("stream", [b"\xc0" + b"x" * 50, b"\xc0a\xdbb"])
def test_slip_refuses_what_is_too_long_or_wrong(stream: bytes) -> None:
    with pytest.raises(SlipError):
        SlipDecoder(40).feed(stream)


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/a/b", ["/a/b"]),
        ("/a/?", ["/a/b", "/a/c"]),
        ("/*/b", ["/a/b"]),
        ("/*", []),
        ("/a/*", ["/a/b", "/a/c", "/a/bcd"]),
        ("/a/[!b]", ["/a/c"]),
        ("/a/[a-b]*", ["/a/b", "/a/bcd"]),
        ("/a/{bcd,c}", ["/a/c", "/a/bcd"]),
        ("/a/{b,bc}*d", ["/a/bcd"]),
        ("/a/" + "*b" * 60, []),
    ],
)
def test_patterns(pattern: str, found: list[str]) -> None:
    assert matching(pattern, ["/a/b", "/a/c", "/a/bcd"]) == found


@pytest.mark.parametrize("pattern", ["/a/[b", "/a/{b"])
def test_patterns_without_end(pattern: str) -> None:
    with pytest.raises(PatternError):
        matching(pattern, ["/a/b"])
    assert addresses(send(Core(), pattern)) == ["/smartdj/error"]


def test_a_pattern_reaches_all_commands_whose_arguments_fit() -> None:
    core = planned()
    assert addresses(send(core, "/smartdj/p{ing,lan/get}")) == [
        "/smartdj/pong",
        "/smartdj/plan/begin",
        *["/smartdj/plan/step"] * 3,
        "/smartdj/plan/end",
    ]
    assert addresses(send(core, "/smartdj/step/{get,set}", 1))[0] == "/smartdj/plan/step"
    assert addresses(send(core, "/smartdj/step/{set,add}")) == ["/smartdj/error"]


def test_unknown_addresses_are_answered_with_the_nearest() -> None:
    core = Core()
    [error] = told(send(core, "/smartdj/pin"))
    assert error.arguments == ("", "NOT_FOUND", "no such address /smartdj/pin", "did you mean /smartdj/ping?")
    assert core.counters.unknown == 1


@pytest.mark.parametrize("address", sorted(set(REPLIES) - set(COMMANDS)))
def test_two_servers_never_answer_each_others_answers(address: str) -> None:
    assert send(Core(), address, "a", "b") == []


def test_every_command_is_carried_out_and_documented() -> None:
    core = Core()
    assert set(core._commands) == set(COMMANDS)
    for command in COMMANDS.values():
        assert command.summary.endswith(".")
        assert set(command.replies) <= set(REPLIES)
        # A button that is let go must not be read as a value.
        optional = [parameter.kind for parameter in command.parameters if not parameter.required]
        assert not command.button or set(optional) <= {Kind.WORD}


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "arguments", "id", "values"),
    [
        ("/smartdj/ping", (), "", {}),
        ("/smartdj/ping", ("a",), "a", {}),
        ("/smartdj/plan", ("rain",), "", {"instruction": "rain"}),
        ("/smartdj/plan", ("a", "rain"), "a", {"instruction": "rain"}),
        ("/smartdj/plan", ("rain", 3.0), "", {"instruction": "rain", "seed": 3}),
        ("/smartdj/plan", ("a", "rain", 3), "a", {"instruction": "rain", "seed": 3}),
        ("/smartdj/step/set", (1.0, "pan", 0.5), "", {"step": 1, "field": "pan", "value": 0.5}),
        ("/smartdj/step/set", ("a", 1, "text", "x"), "a", {"step": 1, "field": "text", "value": "x"}),
        ("/smartdj/run", ("generate",), "", {"mode": "generate"}),
        ("/smartdj/run", ("a",), "a", {}),
        ("/smartdj/slot/fire", ("pad",), "", {"slot": "pad"}),
        ("/smartdj/slot/fire", (3.0,), "", {"slot": "3"}),
        ("/smartdj/slot/fire", ("pad", "beat"), "", {"slot": "pad", "at": "beat"}),
        ("/smartdj/slot/fire", ("a", "pad"), "a", {"slot": "pad"}),
        ("/smartdj/slot/fire", ("a", "pad", "beat", 1.0), "a", {"slot": "pad", "at": "beat"}),
        ("/smartdj/subscribe", (9001.0,), "", {"port": 9001}),
        ("/smartdj/subscribe", ("a", 9001, 30), "a", {"port": 9001, "lease": 30}),
        ("/smartdj/monitor", (1.0,), "", {"on": True}),
        ("/smartdj/tempo", (121,), "", {"bpm": 121.0}),
        ("/smartdj/capture", (8, "bars"), "", {"amount": 8.0, "unit": "bars"}),
    ],
)
def test_arguments_with_and_without_id(address: str, arguments: Any, id: str, values: dict[str, Any]) -> None:
    call = understand(COMMANDS[address], arguments)
    assert (call.id, call.values, call.pressed) == (id, values, True)


@pytest.mark.parametrize(
    ("address", "arguments", "id", "text"),
    [
        ("/smartdj/plan", (), "", "instruction is missing"),
        ("/smartdj/plan", (3,), "", "instruction must be a text"),
        ("/smartdj/step/get", ("a", 1.5), "a", "whole number"),
        ("/smartdj/step/get", ("a", 99), "a", "allowed is 1 to 50"),
        ("/smartdj/step/get", (math.nan,), "", "must be a number"),
        ("/smartdj/run", ("a", "b", "c"), "a", "mode must be one of"),
        ("/smartdj/ping", ("x" * 65,), "x" * 64, "allowed are 64"),
        ("/smartdj/slot/fire", (True,), "", "switch"),
        ("/smartdj/monitor", ("a", "b"), "a", "must be 0 or 1"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(address: str, arguments: Any, id: str, text: str) -> None:
    with pytest.raises(CallError, match=text) as caught:
        understand(COMMANDS[address], arguments)
    assert caught.value.id == id
    assert caught.value.hint == f"give {COMMANDS[address].signature}"


@pytest.mark.parametrize("released", [0, 0.0, False])
def test_buttons_fire_on_1_and_ignore_0(released: Any) -> None:
    core = planned()
    assert send(core, "/smartdj/run", "a", released) == []
    assert send(core, "/smartdj/run", released) == []
    assert wishes(send(core, "/smartdj/run", 1.0))


@given(st.sampled_from(sorted(COMMANDS)), st.lists(ARGUMENT, max_size=5))
@settings(max_examples=500)
def test_any_arguments_get_an_answer(address: str, arguments: list[Any]) -> None:
    core = planned()
    effects = send(core, address, *arguments)
    button = COMMANDS[address].button and arguments and isinstance(arguments[-1], bool | int | float)
    assert effects or button
    for effect in effects:
        if isinstance(effect, Send):
            assert decode(effect.data)[0].message.address in REPLIES


# --- a whole edit -----------------------------------------------------------------------------------------------------


def test_a_whole_edit_with_ids() -> None:
    core = Core()
    effects = send(core, "/smartdj/source/load", "l1", "/music/walk.wav")
    assert addresses(effects) == ["/smartdj/ack"]
    assert wishes(effects) == [fx.Load(1, "/music/walk.wav")]
    assert told(core.report(1, SOURCE, NOW)) == [Message("/smartdj/source", ("l1", "walk.wav", 10.0, 44_100, 2))]

    assert wishes(send(core, "/smartdj/plan", "p1", "  make it\train ", 7)) == [fx.MakePlan(2, "make it rain", 7)]
    made = told(core.report(2, fx.PlanMade(PLAN), NOW))
    assert made[0] == Message("/smartdj/plan/begin", ("p1", 3, "rain"))
    assert made[2] == Message("/smartdj/plan/step", ("p1", 2, "volume", "turn up the volume of wind by 3 dB", True))
    assert made[-1] == Message("/smartdj/plan/end", ("p1",))

    assert told(send(core, "/smartdj/step/set", "s1", 1, "enable", 0.0))[0].arguments[-1] is False
    [run] = wishes(send(core, "/smartdj/run", "r1"))
    assert isinstance(run, fx.Run)
    assert [step.enabled for step in run.plan.steps] == [False, True, True]
    # The first enabled step is the plan's second: controllers know it by that number.
    assert told(core.report(3, fx.StepReady(0, "/out/2.wav", -20.5), NOW)) == [
        Message("/smartdj/step/done", ("r1", 2, "/out/2.wav", -20.5))
    ]
    assert told(core.report(3, fx.ResultReady("/out/all.wav"), NOW)) == [
        Message("/smartdj/done", ("r1", "/out/all.wav"))
    ]
    assert core.state == "idle"
    assert core.report(3, fx.Fraction(1, 0.5), NOW) == []


def test_errors_carry_the_id_and_the_canonical_code() -> None:
    core = Core()
    [error] = told(send(core, "/smartdj/plan", "p", "rain"))
    assert error.arguments[:2] == ("p", "FAILED_PRECONDITION")
    core = loaded()
    assert told(send(core, "/smartdj/plan", "p", "   "))[0].arguments[:2] == ("p", "INVALID_ARGUMENT")
    assert told(send(core, "/smartdj/plan", "p", "x" * 2500))[0].arguments[:2] == ("p", "INVALID_ARGUMENT")
    assert told(send(core, "/smartdj/run", "r"))[0].arguments[:2] == ("r", "FAILED_PRECONDITION")
    assert told(send(core, "/smartdj/step/get", "g", 1))[0].arguments[:2] == ("g", "OUT_OF_RANGE")
    [make] = wishes(send(core, "/smartdj/plan", "p", "rain"))
    assert isinstance(make, fx.MakePlan)
    [error] = told(core.report(make.job, fx.Broke(SmartDJError(ErrorCode.MODEL_MISSING, "not\nthere", "pull")), NOW))
    assert error.arguments == ("p", "NOT_FOUND", "not there", "pull")
    assert core.state == "idle"


def test_one_job_at_a_time_and_cancel() -> None:
    core = planned()
    job = running(core, "r1")
    [error] = told(send(core, "/smartdj/plan", "p2", "snow", peer=TABLET), TABLET)
    assert error.arguments == ("p2", "RESOURCE_EXHAUSTED", "busy: running r1", "wait, or send /smartdj/cancel")
    effects = send(core, "/smartdj/cancel", "c", peer=TABLET)
    assert told(effects, TABLET) == [Message("/smartdj/ack", ("c",))]
    assert wishes(effects) == [fx.Cancel(job)]
    [error] = told(core.report(job, fx.Broke(SmartDJError(ErrorCode.CANCELLED, "cancelled")), NOW))
    assert error.arguments[:2] == ("r1", "CANCELLED")
    assert wishes(send(core, "/smartdj/cancel")) == []


def test_another_recording_takes_the_plan_over() -> None:
    core = planned()
    core.plan = replace(core.plan, source_sha256="a" * 64)
    [load] = wishes(send(core, "/smartdj/source/load", "b.wav"))
    assert isinstance(load, fx.Load)
    core.report(load.job, SOURCE, NOW)
    assert core.plan.source_sha256 == ""
    assert len(core.plan.steps) == 3


@pytest.mark.parametrize(
    ("step", "field", "value", "text"),
    [
        (2, "gain_db", -6, "turn down the volume of wind by 6 dB"),
        (2, "target", "storm", "turn up the volume of storm by 3 dB"),
        (3, "pan", -1.0, "add the sound of rain at the left with 0 dB"),
        (3, "text", "shift the sound of bell by 1 second", "shift the sound of bell by 1 second"),
        (4, "shift_ms", 250, "shift the sound of bell by 0.25 seconds"),
        (5, "wet", 1.0, "reverb the sound of man with reverb level 10"),
        (5, "reverb_level", 3.4, "reverb the sound of man with reverb level 3"),
        (6, "timbre", "warm", "change the timbre of the sound of man to be more warm"),
        (7, "pan", 0.5, "change the sound of man to 45 degrees right"),
    ],
)
def test_steps_are_changed_by_field(step: int, field: str, value: Any, text: str) -> None:
    core = planned()
    for more in (
        "shift the sound of bell by 1 s",
        "reverb the sound of man",
        "make man brighter",
        "pan man to the left",
    ):
        send(core, "/smartdj/step/add", more)
    [message] = told(send(core, "/smartdj/step/set", "i", step, field, value))
    shown = {"change the sound of man to 45 degrees right": "change the sound of man to the right front"}.get(
        text, text
    )
    assert message.arguments[3] == shown


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("gain_db", 99, "OUT_OF_RANGE"),
        ("gain_db", "loud", "INVALID_ARGUMENT"),
        ("gain_db", math.nan, "INVALID_ARGUMENT"),
        ("nonsense", 1, "INVALID_ARGUMENT"),
        ("shift_s", 1, "INVALID_ARGUMENT"),
        ("timbre", 3, "INVALID_ARGUMENT"),
        ("text", "sing", "INVALID_ARGUMENT"),
        ("enable", "x", "INVALID_ARGUMENT"),
        ("target", "", "INVALID_ARGUMENT"),
    ],
)
def test_wrong_fields_change_nothing(field: str, value: Any, code: str) -> None:
    core = planned()
    before = core.plan
    [error] = told(send(core, "/smartdj/step/set", "i", 2, field, value))
    assert error.arguments[:2] == ("i", code)
    assert error.arguments[3]
    assert core.plan == before


def test_steps_are_read_added_moved_and_removed() -> None:
    core = planned()
    got = told(send(core, "/smartdj/step/get", "g", 2))
    assert got[1:] == [
        Message("/smartdj/step/field", ("g", 2, "target", "wind")),
        Message("/smartdj/step/field", ("g", 2, "azimuth_deg", None)),
        Message("/smartdj/step/field", ("g", 2, "gain_db", 3.0)),
    ]
    send(core, "/smartdj/step/add", "remove the sound of cat", 1)
    send(core, "/smartdj/step/move", 1, 3)
    send(core, "/smartdj/step/remove", 1)
    assert [step.step.target for step in core.plan.steps] == ["wind", "cat", "rain"]
    send(core, "/smartdj/plan/clear", 1.0)
    assert core.plan.steps == ()


def test_questions_and_what_is_heard_are_told() -> None:
    core = loaded()
    [make] = wishes(send(core, "/smartdj/plan", "p", "rain"))
    assert isinstance(make, fx.MakePlan)
    [heard] = told(core.report(make.job, fx.SoundHeard(fx.Heard("dog", 0.5, -20.0, None, 0.0, 1.0)), NOW))
    assert heard.arguments[:3] == ("p", "dog", 0.5)
    [question] = told(core.report(make.job, fx.Asked("Which?", ("the dog", "the cat")), NOW))
    assert question.arguments == ("p", "Which?", "the dog", "the cat")


# --- subscriptions ----------------------------------------------------------------------------------------------------


def test_subscribing_brings_the_state_and_the_lease_ends() -> None:
    core = planned()
    assert addresses(send(core, "/smartdj/subscribe", "t", peer=TABLET), TABLET) == [
        "/smartdj/subscribed",
        "/smartdj/state",
        "/smartdj/source",
        "/smartdj/plan/begin",
        *["/smartdj/plan/step"] * 3,
        "/smartdj/plan/end",
    ]
    job = running(core)
    assert core.wake_s() == NOW + 60
    send(core, "/smartdj/subscribe", "t", 0, 10, peer=TABLET, now=NOW + 55)
    core.tick(NOW + 64)
    assert addresses(core.report(job, fx.Fraction(0, 0.5), NOW + 64.9), TABLET) == ["/smartdj/progress"]
    assert told(core.report(job, fx.Fraction(0, 0.6), NOW + 65.1), TABLET) == []
    core.tick(NOW + 65.1)
    assert core.subscribers == ()
    assert core.wake_s() is None


def test_a_port_for_apps_that_listen_at_a_fixed_one() -> None:
    core = planned()
    screen = Peer("127.0.0.1", 9001)
    effects = send(core, "/smartdj/subscribe", "t", 9001.0, peer=TABLET)
    assert told(effects, TABLET) == []
    assert addresses(effects, screen)[0] == "/smartdj/subscribed"
    assert addresses(send(core, "/smartdj/ping", peer=TABLET), screen) == ["/smartdj/pong"]
    assert addresses(send(core, "/smartdj/unsubscribe", peer=TABLET), screen) == ["/smartdj/unsubscribed"]
    assert addresses(send(core, "/smartdj/ping", peer=TABLET), TABLET) == ["/smartdj/pong"]


def test_a_new_port_takes_the_old_ones_place() -> None:
    core = Core()
    send(core, "/smartdj/subscribe", 9001, peer=TABLET)
    send(core, "/smartdj/subscribe", 9002, peer=TABLET)
    assert core.subscribers == (Peer("127.0.0.1", 9002),)


def test_ten_controllers_see_their_own_answers_and_the_shared_state() -> None:
    core = planned()
    peers = [Peer("127.0.0.1", 6000 + number) for number in range(10)]
    for number, peer in enumerate(peers):
        send(core, "/smartdj/subscribe", f"c{number}", peer=peer)
    for number, peer in enumerate(peers):
        effects = send(core, "/smartdj/ping", f"ping {number}", peer=peer)
        assert [effect.peer for effect in effects if isinstance(effect, Send)] == [peer]
        assert told(effects, peer)[0].arguments[0] == f"ping {number}"
    effects = send(core, "/smartdj/step/add", "mine", "add the sound of bell", peer=peers[3])
    for peer in peers:
        assert addresses(effects, peer) == ["/smartdj/plan/begin", *["/smartdj/plan/step"] * 4, "/smartdj/plan/end"]
    job = running(core, "r", peers[7])
    effects = core.report(job, fx.ResultReady("/out.wav"), NOW)
    for peer in peers:
        assert addresses(effects, peer) == ["/smartdj/done", "/smartdj/state"]


def test_who_asks_without_subscribing_hears_of_its_own_edit_but_no_progress() -> None:
    core = planned()
    send(core, "/smartdj/subscribe", peer=TABLET)
    job = running(core, "r", PAD)
    assert addresses(core.report(job, fx.Fraction(0, 0.1), NOW), PAD) == []
    effects = core.report(job, fx.ResultReady("/out.wav"), NOW)
    assert addresses(effects, PAD) == ["/smartdj/done"]
    assert addresses(effects, TABLET) == ["/smartdj/done", "/smartdj/state"]


def test_too_many_subscribers() -> None:
    core = Core(Limits(max_subscribers=2))
    for port in (1, 2):
        send(core, "/smartdj/subscribe", peer=Peer("127.0.0.1", port))
    assert told(send(core, "/smartdj/subscribe", "x"))[0].arguments[:2] == ("x", "RESOURCE_EXHAUSTED")
    assert addresses(send(core, "/smartdj/subscribe", peer=Peer("127.0.0.1", 1)), Peer("127.0.0.1", 1))


def test_a_closed_connection_is_forgotten() -> None:
    core = Core()
    connection = Peer("127.0.0.1", 4711, stream=True)
    send(core, "/smartdj/subscribe", 9001, peer=connection)
    assert core.subscribers == (connection,)
    core.receive(bundle([encode(Message("/smartdj/ping"))], NOW + 1), connection, NOW)
    core.forget(connection)
    assert (core.subscribers, core.scheduled) == ((), 0)


@given(
    st.lists(st.tuples(st.sampled_from(["subscribe", "unsubscribe", "ping", "wait"]), st.integers(1, 4)), max_size=40)
)
def test_leases_never_outlive_their_time(actions: list[tuple[str, int]]) -> None:
    core, now = Core(), NOW
    until: dict[Peer, float] = {}
    for action, number in actions:
        peer = Peer("127.0.0.1", number)
        if action == "wait":
            now += 10 * number
            core.tick(now)
        else:
            send(core, f"/smartdj/{action}", *([0, 20] if action == "subscribe" else []), peer=peer, now=now)
            if action == "subscribe":
                until[peer] = now + 20
            elif action == "unsubscribe":
                until.pop(peer, None)
        assert set(core.subscribers) - {p for p, end in until.items() if end > now} == set()
        assert {p for p, end in until.items() if end > now} <= set(core.subscribers)


# --- coalescing -------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=100))
@settings(max_examples=50)
def test_progress_is_at_most_ten_a_second_and_the_last_word_arrives(pauses: list[float]) -> None:
    core = planned()
    send(core, "/smartdj/subscribe", peer=TABLET)
    job, now = running(core), NOW
    sent: list[tuple[float, float]] = []

    def note(effects: list[Effect]) -> None:
        for message in told(effects, TABLET):
            if message.address == "/smartdj/progress":
                sent.append((now, float(message.arguments[2])))  # type: ignore[arg-type]

    for number, pause in enumerate(pauses):
        until = now + pause
        while (wake := core.wake_s()) is not None and wake <= until and wake < NOW + 59:
            now = max(now, wake)
            note(core.tick(now))
        now = until
        note(core.report(job, fx.Fraction(0, number / 128), now))
    now += 0.1
    note(core.tick(now))
    times = [time for time, _ in sent]
    assert all(after - before >= 0.1 - 1e-6 for before, after in itertools.pairwise(times))
    assert sent[-1][1] == (len(pauses) - 1) / 128


def test_a_dragged_fader_reaches_others_at_most_ten_times_a_second() -> None:
    core = planned()
    send(core, "/smartdj/subscribe", peer=PAD)
    send(core, "/smartdj/subscribe", peer=TABLET)
    own, others, now = 0, [], NOW
    for number in range(100):
        now = NOW + number / 100
        for effects in (core.tick(now), send(core, "/smartdj/step/set", 2, "gain_db", 1 + number / 10, now=now)):
            own += len(told(effects, PAD))
            others += told(effects, TABLET)
    others += told(core.tick(now + 0.1), TABLET)
    assert own == 100
    assert len(others) <= 11
    assert "10.9 dB" in str(others[-1].arguments[3])


# --- time tags --------------------------------------------------------------------------------------------------------


def test_bundles_wait_for_their_time_and_block_nothing() -> None:
    core = Core()
    packet = bundle(
        [encode(Message("/smartdj/ping", ("later",))), encode(Message("/smartdj/ping", ("then",)))], NOW + 2
    )
    assert core.receive(packet, PAD, NOW) == []
    assert core.wake_s() == NOW + 2
    assert addresses(send(core, "/smartdj/ping", "now")) == ["/smartdj/pong"]
    assert core.tick(NOW + 1.999) == []
    assert [message.arguments[0] for message in told(core.tick(NOW + 2))] == ["later", "then"]
    assert core.wake_s() is None


def test_late_and_immediate_bundles_go_at_once() -> None:
    core = Core()
    for due_s in (None, NOW - 5, NOW):
        assert addresses(core.receive(bundle([encode(Message("/smartdj/ping"))], due_s), PAD, NOW)) == ["/smartdj/pong"]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30))
@settings(max_examples=50)
def test_scheduled_messages_come_in_the_order_of_their_time(delays: list[int]) -> None:
    core = Core()
    for delay in delays:
        core.receive(bundle([encode(Message("/smartdj/ping", (str(delay),)))], NOW + delay / 100), PAD, NOW)
    came = []
    while (wake := core.wake_s()) is not None:
        came += [int(str(message.arguments[0])) for message in told(core.tick(wake))]
    assert came == sorted(delays)


def test_no_endless_waiting_room() -> None:
    core = Core(Limits(max_scheduled=3))
    ping = encode(Message("/smartdj/ping"))
    assert core.receive(bundle([ping] * 3, NOW + 5), PAD, NOW) == []
    assert told(core.receive(bundle([ping], NOW + 5), PAD, NOW))[0].arguments[1] == "RESOURCE_EXHAUSTED"
    assert told(core.receive(bundle([ping], NOW + 9e6), PAD, NOW))[0].arguments[1] == "OUT_OF_RANGE"
    assert core.scheduled == 3


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_flood_of_one_is_dropped_told_and_hurts_nobody_else() -> None:
    core = Core(Limits(peer_rate=10, peer_burst=20, complaint_rate=5))
    answers = [message for _ in range(100) for message in told(send(core, "/smartdj/ping"))]
    assert [message.address for message in answers].count("/smartdj/pong") == 20
    assert [message.address for message in answers].count("/smartdj/error") == 5
    assert core.counters.dropped == 80
    assert addresses(send(core, "/smartdj/ping", peer=TABLET), TABLET) == ["/smartdj/pong"]
    assert addresses(send(core, "/smartdj/ping", now=NOW + 1)) == ["/smartdj/pong"]


def test_a_bundle_counts_for_all_its_messages() -> None:
    core = Core(Limits(peer_rate=10, peer_burst=20))
    assert addresses(core.receive(bundle([encode(Message("/smartdj/ping"))] * 30), PAD, NOW)) == ["/smartdj/error"]


def test_many_forged_senders_fill_no_memory() -> None:
    core = Core(Limits(max_peers=100))
    for port in range(1, 5000):
        send(core, "/x", peer=Peer("127.0.0.1", port))
    assert len(core._peers) <= 100
    assert len(core._complaints) <= 100


@pytest.mark.parametrize("address", ["/smartdj/help", "/smartdj/status", "/smartdj/{help,status,ping}"])
def test_nobody_is_flooded_through_us(address: str) -> None:
    """Answers to a forgeable address stay within a few times of what came in, until it has subscribed."""
    core = planned()
    packet = encode(Message(address))
    effects = core.receive(packet, STRANGER, NOW)
    limit = max(core.limits.reply_floor_bytes, core.limits.reply_factor * len(packet))
    assert sum(len(effect.data) for effect in effects if isinstance(effect, Send)) <= limit
    assert told(effects, STRANGER)[-1].arguments[1:2] == ("RESOURCE_EXHAUSTED",)
    assert core.counters.withheld
    here = core.receive(packet, PAD, NOW)
    assert sum(len(effect.data) for effect in here if isinstance(effect, Send)) > limit
    send(core, "/smartdj/subscribe", peer=STRANGER)
    assert len(told(core.receive(packet, STRANGER, NOW), STRANGER)) == len(told(here))


def test_a_bundle_of_requests_has_one_allowance() -> None:
    core = planned()
    packet = bundle([encode(Message("/smartdj/status"))] * 20)
    effects = core.receive(packet, STRANGER, NOW)
    assert sum(len(effect.data) for effect in effects if isinstance(effect, Send)) <= 4 * len(packet)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_help_lists_every_command() -> None:
    core = Core()
    assert [message.arguments[1] for message in told(send(core, "/smartdj/help"))] == list(COMMANDS)
    [line] = told(send(core, "/smartdj/help", "i", "/smartdj/run"))
    assert line.arguments[:3] == ("i", "/smartdj/run", COMMANDS["/smartdj/run"].signature)
    assert told(send(core, "/smartdj/help", "/nothing"))[0].arguments[1] == "NOT_FOUND"


def test_status_shows_the_counters() -> None:
    core = planned()
    core.receive(b"junk", PAD, NOW)
    send(core, "/nothing")
    counters = told(send(core, "/smartdj/status"))[-1]
    assert counters == Message("/smartdj/counters", (5, 1, 1, 0, 0))


def test_a_monitor_sees_the_traffic_of_others_only() -> None:
    core = Core()
    assert told(send(core, "/smartdj/monitor", 1))[0].arguments[1] == "FAILED_PRECONDITION"
    send(core, "/smartdj/subscribe")
    send(core, "/smartdj/monitor", 1)
    assert addresses(send(core, "/smartdj/ping")) == ["/smartdj/pong"]
    seen = told(send(core, "/smartdj/ping", "t", peer=TABLET))
    assert [message.arguments for message in seen] == [
        ("in", "127.0.0.1:5002", "/smartdj/ping 't'"),
        ("out", "127.0.0.1:5002", "/smartdj/pong 't' '0.1.0' 'idle'"),
    ]
    assert told(send(core, "/smartdj/monitor", 1, peer=STRANGER), STRANGER)[0].arguments[1] == "PERMISSION_DENIED"


def test_slots_and_tempo_go_to_the_stage() -> None:
    core = planned()
    [live] = wishes(send(core, "/smartdj/slot/define", "i", "pad", " make it  rain", "last 8 bars"))
    assert isinstance(live, fx.Live)
    assert (live.action, live.values) == (
        "slot/define", {"slot": "pad", "instruction": "make it rain", "from": "last 8 bars"},
    )  # fmt: skip
    [live] = wishes(send(core, "/smartdj/slot/define", "pad", "plan"))
    assert isinstance(live, fx.Live)
    assert live.values["plan"] == core.plan
    effects = core.answer(live.request, [Message("/smartdj/slot/state", ("", "pad", "ready", "x"))], NOW, shared=True)
    assert addresses(effects) == ["/smartdj/slot/state"]
    effects = send(core, "/smartdj/capture", "c", 8, "bars")
    assert addresses(effects) == ["/smartdj/ack"]
    assert core.state == "loading"


@given(st.binary(max_size=120), st.booleans())
@settings(max_examples=300)
def test_nothing_that_comes_in_is_fatal(data: bytes, local: bool) -> None:
    core = planned()
    core.receive(data, PAD if local else STRANGER, NOW)
    core.tick(NOW + 1)
    assert addresses(send(core, "/smartdj/ping", now=NOW + 1)) == ["/smartdj/pong"]
