"""The planner by way of a chat endpoint: any server that speaks the OpenAI protocol, told as text what was heard.

No sound leaves the machine. What comes back is trusted no more than what our own networks write: every line has to be
a step of the language, over sounds that are there or may be added, within what the instruction forbids. A line that is
not goes back once, with what is wrong with it; a second one is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from smartdj_agent.chat import MAX_REPLY_CHARS, ChatEndpoint, failed
from smartdj_agent.constraints import on_side
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.grammar import CHOICES
from smartdj_agent.models.prompts import MAX_STEPS, planner_rules, request_text
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.plan_text import ASK, OR, short_step
from smartdj_agent.planner import TEMPERATURE, Draft, Limits, Planner
from smartdj_agent.steps import Operation, Step, parse_step

URL, MODEL, KEY = "SMARTDJ_ENDPOINT_URL", "SMARTDJ_ENDPOINT_MODEL", "SMARTDJ_ENDPOINT_KEY"
"""Environment variables: address without ``/chat/completions``, the model's name there, the key where one is needed."""
ATTEMPTS = 2
DRESS = re.compile(r"^(?:[-*•]|\d{1,2}[.)])\s+")
"""What chat models put before a line of a list."""


def endpoint_from_environment() -> ChatEndpoint:
    """The endpoint that the environment names.

    Raises
    ------
    SmartDJError
        ENDPOINT_FAILED if none is named.
    """
    url, model = os.environ.get(URL, ""), os.environ.get(MODEL, "")
    if not url or not model:
        raise SmartDJError(
            ErrorCode.ENDPOINT_FAILED,
            f"No endpoint is named for planning: {URL if not url else MODEL} is not set.",
            f"Set {URL} (such as http://127.0.0.1:8080/v1), {MODEL}, and {KEY} where the server wants a key.",
            "--planner",
        )
    return ChatEndpoint(url, model, KEY if os.environ.get(KEY) else "")


class _Refused(Exception):
    """A line that can't be used; its text goes back to the model."""


class EndpointPlanner(Planner):
    """Writes plans through a chat endpoint; reads direct requests and constraints as every planner does.

    Parameters
    ----------
    chat
        Where to ask.
    encoder
        Sentence encoder, for what nouns mean.
    """

    def __init__(self, chat: ChatEndpoint, encoder: SentenceEncoder) -> None:
        super().__init__("endpoint", "cpu", encoder)
        self.chat = chat

    @property
    def name(self) -> str:
        """Who writes, as a plan's provenance says it."""
        return f"endpoint {self.chat.model}"

    def go_on(self, draft: Draft) -> Iterator[Step | str]:
        """Ask for what no reader could read, and take it line by line.

        Raises
        ------
        SmartDJError
            ENDPOINT_FAILED where the server can't be reached, refuses, is too slow or answers badly twice.
        """
        chat = replace(self.chat, temperature=0.0 if draft.seed == 0 else TEMPERATURE)
        request = request_text(draft.events, draft.instruction, draft.standing)
        messages = [{"role": "system", "content": planner_rules()}, {"role": "user", "content": request}]
        problem = ""
        with chat.client() as client:
            for attempt in range(ATTEMPTS):
                said: list[str] = []
                asked: list[str] = []
                try:
                    for piece in _lines(chat.stream(client, messages, draft.seed + attempt), said):
                        if isinstance(piece, str):
                            yield piece
                        elif piece.text.startswith((ASK, OR)) or asked:
                            asked.append(piece.text)
                        elif (step := _read_step(piece.text, draft)) is not None:
                            yield step
                            if len(draft.emitted) >= MAX_STEPS:
                                return
                    if asked:
                        draft.question, draft.choices = _read_question(asked, draft)
                        draft.asking = True
                    elif not draft.emitted:
                        raise _Refused("there is no step in it")
                    return
                except _Refused as error:
                    problem = str(error)
                    complaint = f"That can't be used: {problem}. Write it again, lines of the language alone."
                    if draft.emitted:
                        complaint += f" These steps stand, write only what is missing:\n{draft.standing}"
                    messages += [
                        {"role": "assistant", "content": "".join(said)},
                        {"role": "user", "content": complaint},
                    ]
        raise failed(
            f"{chat.model} gave no usable plan in {ATTEMPTS} answers: {problem}",
            "Try another model, or --planner small.",
        )


class _Line:
    """A whole line of an answer."""

    def __init__(self, text: str) -> None:
        self.text = text


def _lines(pieces: Iterator[str], said: list[str]) -> Iterator[_Line | str]:
    """Whole lines without the dress of lists, and after every piece the line so far; `said` gathers all."""
    waiting = ""
    for piece in pieces:
        said.append(piece)
        waiting += piece
        *whole, waiting = waiting.split("\n")
        for line in whole:
            if text := _undressed(line):
                yield _Line(text)
        yield _undressed(waiting)
    if sum(map(len, said)) >= MAX_REPLY_CHARS:
        raise _Refused("it doesn't end")
    if text := _undressed(waiting):
        yield _Line(text)


def _undressed(line: str) -> str:
    text = DRESS.sub("", line.strip()).strip("`").strip()
    return text if text.startswith((ASK, OR)) else text.rstrip(".")


def _read_step(text: str, draft: Draft) -> Step | None:
    try:
        step = parse_step(text)
    except SmartDJError as error:
        raise _Refused(f"“{text[:100]}” is no step: {error.message}") from error
    if problem := refusal(step, draft.limits):
        raise _Refused(f"“{short_step(step)}”: {problem}")
    return step if draft.accept(step) else None


def _read_question(lines: Sequence[str], draft: Draft) -> tuple[str, tuple[str, ...]]:
    question, *rest = lines
    choices = [line.removeprefix(OR).strip() for line in rest if line.startswith(OR)]
    fewest, most = CHOICES
    if not question.startswith(ASK) or len(choices) != len(rest) or not fewest <= len(choices) <= most:
        raise _Refused(f"a question is one line that begins with “ask ” and {fewest} or more that begin with “or ”")
    if draft.emitted or not draft.limits.may_ask:
        raise _Refused("the wish is clear enough to be planned; write steps")
    return question.removeprefix(ASK).strip(), tuple(choices)


def refusal(step: Step, limits: Limits) -> str:
    """Why a step may not stand in a plan of these limits; empty where it may.

    The same rules as `smartdj_agent.grammar` lays into what our networks can write; only that what is added may have
    any name.
    """
    bound, target = limits.bound, step.target
    if step.operation is Operation.ADD:
        if not bound.addable:
            return "nothing is to be added"
        if target in limits.present:
            return "it is there already"
        if target in bound.absent:
            return "it must not be there"
        if any(on_side(step.azimuth_deg, side) for side in bound.closed_to_adds):
            return "nothing is to be put on that side"
        return ""
    if target not in limits.present | limits.mentioned:
        return "no such sound stands under HEARD"
    if target not in bound.changeable:
        return "it is to be left as it is"
    lowers = step.operation is Operation.VOLUME and (step.gain_db or 0) < 0
    if target in bound.keep and (lowers or step.operation is Operation.REMOVE):
        return "it is to be kept"
    if step.operation is Operation.EXTRACT and target not in bound.extractable:
        return "the other sounds are to stay"
    if step.operation is Operation.DIRECTION and any(on_side(step.to_azimuth_deg, side) for side in bound.closed_sides):
        return "nothing is to be put on that side"
    return ""
