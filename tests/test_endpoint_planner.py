"""The planner by way of a chat endpoint, against a server in this process."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from smartdj_agent.agent import Agent
from smartdj_agent.audio import read_audio
from smartdj_agent.chat import ChatEndpoint
from smartdj_agent.cli import app
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Heard, PlanReady, Writing
from smartdj_agent.models.prompts import MAX_STEPS
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.planner import Asked
from smartdj_agent.planner_endpoint import KEY, MODEL, URL, EndpointPlanner
from smartdj_agent.steps import Step, format_step, prompt_table

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo.wav"
HEARD = (
    Heard("dog barking", 0.9, -20.0, -90.0, 0.0, 4.0),
    Heard("raining", 0.7, -31.0, None, 0.0, 10.0),
    Heard("piano", 0.6, -25.0, 45.0, 2.0, 9.0),
)
SCENE = "make this feel like a harbour at dawn"
SECRET = "key-not-to-be-seen"


class Chat(http.server.ThreadingHTTPServer):
    """Speaks the streaming part of the OpenAI protocol; gives `answers` in turn and keeps what it was sent."""

    def __init__(self, *answers: str, status: int = 200, stall_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.status, self.stall_s = list(answers), status, stall_s
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where a client hangs up."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Chat

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(json.loads(body))
        self.server.keys.append(self.headers.get("Authorization"))
        assert self.path == "/v1/chat/completions"
        self.send_response(self.server.status)
        self.end_headers()
        answer = self.server.answers.pop(0) if self.server.answers else ""
        for start in range(0, len(answer), 5):  # no server sends whole lines
            piece = {"choices": [{"delta": {"content": answer[start : start + 5]}}]}
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
        self.wfile.flush()
        time.sleep(self.server.stall_s)
        self.wfile.write(b'data: {"choices": []}\n\ndata: [DONE]\n\n')

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Chat] = []

    def start(*answers: str, **settings: Any) -> Chat:
        servers.append(Chat(*answers, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@cache
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


def planner(server: Chat) -> EndpointPlanner:
    return EndpointPlanner(ChatEndpoint(server.url, "m", "", timeout_s=10.0), encoder())


def written(server: Chat, instruction: str, seed: int = 0) -> list[str]:
    items = planner(server).write(HEARD, instruction, seed=seed)
    return [format_step(item) for item in items if isinstance(item, Step)]


def test_it_is_told_the_same_table_and_what_was_heard(serve: Any) -> None:
    server = serve("remove dog barking\nadd the sound of seagulls at left with 2 dB")
    assert written(server, SCENE) == [
        "remove the sound of dog barking",
        "add the sound of seagulls at the left with 2 dB",
    ]
    (request,) = server.requests
    system, user = (message["content"] for message in request["messages"])
    assert prompt_table() in system
    assert "- dog barking (left, -20 dBFS, 0.0 to 4.0 s, 90% sure)" in user
    assert "- raining (direction unclear, -31 dBFS" in user
    assert SCENE in user
    assert request["temperature"] == 0.0
    assert server.keys == [None]
    other = serve("remove dog barking")
    written(other, SCENE, seed=7)
    assert (other.requests[0]["seed"], other.requests[0]["temperature"] > 0) == (7, True)


def test_steps_come_as_they_are_written(serve: Any) -> None:
    server = serve("remove dog barking\nturn down ", stall_s=1.5)
    started = time.monotonic()
    items = planner(server).write(HEARD, SCENE, seed=0)
    first = next(item for item in items if isinstance(item, Step))
    assert format_step(first) == "remove the sound of dog barking"
    assert time.monotonic() - started < 1.0
    items.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("answer", ["", "remove dog bark"])
def test_waiting_can_be_cancelled(serve: Any, answer: str) -> None:
    server = serve(answer, stall_s=8.0)
    items = planner(server).write(HEARD, SCENE, seed=0)
    for _ in range(4):
        assert isinstance(next(items), str)
    started = time.monotonic()
    items.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 1.0


def test_the_dress_of_chat_models_is_taken_off(serve: Any) -> None:
    server = serve("```\n1. remove dog barking.\n- `turn down raining by 3 dB`\n\n```")
    assert written(server, SCENE) == ["remove the sound of dog barking", "turn down the volume of raining by 3 dB"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Sure! Here is a plan:", "no step"),
        ("remove violin", "no such sound"),
        ("add raining at left with 2 dB", "there already"),
        ("turn up raining by 99 dB", "no step"),
        ("remove piano", "to be kept"),
        ("add gulls at the right with 2 dB", "on that side"),
        ("change raining to the right", "on that side"),
        ("extract raining", "to stay"),
    ],
)
def test_what_can_not_be_used_goes_back_once(serve: Any, line: str, why: str) -> None:
    wish = f"{SCENE}, but keep the piano and nothing on the right"
    good = "turn down raining by 2 dB"
    server = serve(f"{good}\n{line}\nremove raining", "remove dog barking")
    steps = written(server, wish)
    assert steps[:2] == ["turn down the volume of raining by 2 dB", "remove the sound of dog barking"]
    answer, complaint = server.requests[1]["messages"][-2:]
    assert (answer["role"], answer["content"][: len(good)]) == ("assistant", good)
    assert why in complaint["content"]
    assert good in complaint["content"]

    server = serve(line, line)
    with pytest.raises(SmartDJError, match="no usable plan in 2 answers") as caught:
        list(planner(server).write(HEARD, wish, seed=0))
    assert caught.value.code is ErrorCode.ENDPOINT_FAILED
    assert len(server.requests) == 2


def test_a_question(serve: Any) -> None:
    server = serve("ask Shall it be calm or lively?\nor make it calm\nor make it lively")
    (asked,) = (item for item in planner(server).write(HEARD, SCENE, seed=0) if isinstance(item, Asked))
    assert asked == Asked("Shall it be calm or lively?", ("make it calm", "make it lively"))
    server = serve("ask What?\nor this", "remove raining")
    assert written(server, SCENE) == ["remove the sound of raining"]
    server = serve("remove raining\nask What?\nor this\nor that", "turn up piano by 2 dB")
    assert written(server, SCENE) == ["remove the sound of raining", "turn up the volume of piano by 2 dB"]


def test_no_more_steps_than_a_plan_has(serve: Any) -> None:
    server = serve("\n".join(f"add gull number {number} at left with 1 dB" for number in range(30)))
    assert len(written(server, SCENE)) == MAX_STEPS


def test_an_answer_without_end(serve: Any) -> None:
    with pytest.raises(SmartDJError, match="doesn't end"):
        list(planner(serve("x" * 30_000, "y" * 30_000)).write(HEARD, SCENE, seed=0))


def test_what_is_asked_word_by_word_asks_nobody(serve: Any) -> None:
    server = serve()
    assert written(server, "turn the dog down 6 dB") == ["turn down the volume of dog barking by 6 dB"]
    assert server.requests == []
    server = serve("add gulls at left with 1 dB")
    assert written(server, f"remove the dog and {SCENE}") == [
        "remove the sound of dog barking",
        "add the sound of gulls at the left with 1 dB",
    ]
    assert "THESE STEPS STAND" in server.requests[0]["messages"][-1]["content"]


@pytest.mark.parametrize(("status", "hint"), [(401, KEY), (404, "model's name"), (500, "later")])
def test_refusals_never_show_the_key(
    serve: Any, status: int, hint: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    server = serve(status=status)
    with pytest.raises(SmartDJError, match=f"status {status}") as caught:
        list(EndpointPlanner(ChatEndpoint(server.url, "m", KEY), encoder()).write(HEARD, SCENE, seed=0))
    assert server.keys == [f"Bearer {SECRET}"]
    assert hint in caught.value.hint
    assert SECRET not in f"{caught.value!r} {caught.value.hint} {capfd.readouterr()}"


def test_nobody_there() -> None:
    chat = ChatEndpoint("http://127.0.0.1:9/v1", "m", "", timeout_s=2.0)
    with pytest.raises(SmartDJError, match="can't be reached"):
        list(EndpointPlanner(chat, encoder()).write(HEARD, SCENE, seed=0))


def test_no_endpoint_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL, raising=False)
    with pytest.raises(SmartDJError, match=URL) as caught:
        list(Agent("small", "cpu", planner="endpoint").plan(read_audio(DEMO), SCENE))
    assert caught.value.code is ErrorCode.ENDPOINT_FAILED


def test_from_the_command_line(serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = serve("add seagulls at the left with 2 dB")
    monkeypatch.setenv(URL, server.url)
    monkeypatch.setenv(MODEL, "big-model")
    monkeypatch.delenv(KEY, raising=False)
    out = tmp_path / "plan.yaml"
    told = ["plan", str(DEMO), SCENE, "--planner", "endpoint", "--device", "cpu", "-o", str(out)]
    result = CliRunner().invoke(app, told)
    assert result.exit_code == 0, result.output
    made = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert "endpoint big-model" in str(made)
    assert "seagulls" in str(made["steps"])
    sent = json.dumps(server.requests)
    assert len(sent) < 10_000  # words, no sound
    assert server.requests[0]["model"] == "big-model"
    events = list(Agent("small", "cpu", planner="endpoint").plan(read_audio(DEMO), "remove the dog"))
    assert isinstance(events[-1], PlanReady)
    assert not any(isinstance(event, Writing) for event in events)
    assert len(server.requests) == 1
