"""The designer by way of a chat endpoint: an online alternative to the scene knowledge.

`EndpointDesigner` asks any server that speaks the OpenAI chat protocol for an instruction and its plan. The
prompt is made from the table of operations; nothing that comes back is trusted: the answer has to be strict
JSON of the right form, every step has to parse, and the plan has to pass the same checks as our own designs.
A bad answer is sent back once with what is wrong with it; a second bad answer is an error.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.steps import OPERATIONS, Step, direction_name, parse_step, prompt_table
from training.designer import MAX_ADDS, MAX_STEPS, Design, SceneKnowledge, ScenePresent, plan_problems

_LOG = logging.getLogger(__name__)

MAX_REPLY_CHARS = 20_000
"""Longest answer that is looked at, characters; a plan needs a few hundred."""


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    instruction: str = Field(min_length=3, max_length=500)
    steps: list[str] = Field(min_length=1, max_length=MAX_STEPS)


class _BadAnswer(Exception):
    """An answer that is well transported but not what was asked for; its text goes back to the model."""


@dataclass
class AnswerCounts:
    """How the endpoint's answers fared.

    Attributes
    ----------
    accepted
        Designs handed out, repaired ones included.
    repaired
        Designs that needed the second answer.
    rejected
        Answers refused.
    failed
        Requests that gave no design.
    """

    accepted: int = 0
    repaired: int = 0
    rejected: int = 0
    failed: int = 0


@dataclass
class EndpointDesigner:
    """Writes designs through an OpenAI-compatible chat endpoint.

    Attributes
    ----------
    base_url
        Address up to and without ``/chat/completions``, such as ``http://127.0.0.1:8080/v1``.
    model
        Name of the model as the server knows it.
    knowledge
        Tells which wordings mean the same sound.
    api_key_env
        Name of the environment variable that holds the key; empty for a server without keys. The key is read
        when it is needed, goes into the request's header and nowhere else.
    timeout_s
        Longest wait for one answer, seconds.
    temperature
        Sampling temperature that is asked for.
    transport
        Replaces the network, for tests.
    counts
        How the answers fared so far.
    """

    base_url: str
    model: str
    knowledge: SceneKnowledge
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 60.0
    temperature: float = 0.8
    transport: httpx.BaseTransport | None = None
    counts: AnswerCounts = field(default_factory=AnswerCounts)

    def design(self, present: Sequence[ScenePresent], addable: Sequence[str], *, seed: int = 0) -> Design:
        """Ask for an instruction and a plan for a recording.

        Parameters
        ----------
        present
            What the recording holds, at least one sound.
        addable
            Sounds that can be added.
        seed
            Handed to the server, which may or may not honour it.

        Returns
        -------
        Design
            Of kind ``scene``, with an empty scene name.

        Raises
        ------
        SmartDJError
            ENDPOINT_FAILED where the server can't be reached, refuses, is too slow or answers badly twice.
        """
        messages = [
            {"role": "system", "content": system_prompt()},
            {"role": "user", "content": _task(present, addable)},
        ]
        problem = ""
        with self._client() as client:
            for attempt in range(2):
                try:
                    reply = self._ask(client, messages, seed + attempt)
                except SmartDJError:
                    self.counts.failed += 1
                    raise
                try:
                    made = self._read(reply, present, addable)
                except _BadAnswer as error:
                    problem = str(error)
                    self.counts.rejected += 1
                    _LOG.info("answer %d of %s rejected: %s", attempt + 1, self.model, problem)
                    messages += [
                        {"role": "assistant", "content": reply},
                        {
                            "role": "user",
                            "content": f"That can't be used: {problem}. Answer again with corrected JSON.",
                        },
                    ]
                else:
                    self.counts.accepted += 1
                    self.counts.repaired += attempt
                    return made
        self.counts.failed += 1
        raise SmartDJError(
            ErrorCode.ENDPOINT_FAILED,
            f"{self.model} gave no usable plan in two answers: {problem}",
            "Try another model, or use the built-in designer.",
        )

    def _client(self) -> httpx.Client:
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

    def _ask(self, client: httpx.Client, messages: list[dict[str, str]], seed: int) -> str:
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "seed": seed,
            "response_format": {"type": "json_object"},
        }
        try:
            response = client.post(f"{self.base_url.rstrip('/')}/chat/completions", json=body)
        except httpx.TimeoutException as error:
            raise _failed(f"no answer within {self.timeout_s:g} seconds", "Raise timeout_s or try later.") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _failed(f"it can't be reached ({type(error).__name__})", "Check base_url and the network.") from error
        if response.status_code != 200:
            hint = "Try later."
            if response.status_code in (401, 403):
                hint = f"Check the key in {self.api_key_env or 'api_key_env'}."
            elif response.status_code in (400, 404, 422):
                hint = "Check base_url and the model's name."
            # The body is left out: some servers quote the request, key included.
            raise _failed(f"it answered with status {response.status_code}", hint)
        try:
            content: Any = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise _failed("its answer is no chat completion", "Check that base_url ends in the API's root.") from error
        if not isinstance(content, str):
            raise _failed("its answer holds no text", "Try another model.")
        return content[:MAX_REPLY_CHARS]

    def _read(self, reply: str, present: Sequence[ScenePresent], addable: Sequence[str]) -> Design:
        try:
            answer = _Answer.model_validate_json(reply)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise _BadAnswer(f"{where + ': ' if where else ''}{first['msg']}") from error
        steps: list[Step] = []
        for number, text in enumerate(answer.steps, 1):
            try:
                steps.append(parse_step(text))
            except SmartDJError as error:
                raise _BadAnswer(f"step {number}: {error}") from error
        problems = plan_problems(steps, present, addable, self.knowledge)
        if problems:
            raise _BadAnswer("; ".join(problems))
        return Design(" ".join(answer.instruction.split()), "", tuple(steps), "scene", style="endpoint")


def _failed(message: str, hint: str) -> SmartDJError:
    return SmartDJError(ErrorCode.ENDPOINT_FAILED, f"the chat endpoint failed: {message}", hint)


def system_prompt() -> str:
    """What the model is told about its task, made from the table of operations."""
    verbs = ", ".join(operation.value for operation in OPERATIONS)
    return "\n".join(
        [
            "You invent training examples for an audio editor. You get the sounds that a recording holds and",
            "a list of sounds to add. Imagine an everyday place, time or mood that the recording could",
            "become, write the sentence with which a person would ask for it, and the plan that gets there.",
            "",
            f"A plan is a list of steps. The operations are {verbs}.",
            prompt_table(),
            "",
            "Rules:",
            f"- 2 to 4 steps as a rule, never more than {MAX_STEPS}; at most {MAX_ADDS} of them add a sound.",
            "- Remove or turn down what does not belong, turn up what does, add one or two missing sounds.",
            "- A step on an existing sound names it exactly as given. Added sounds come from the list.",
            "- Never add what is already there. Name each sound in one step only. Keep an original sound.",
            "- Whole decibels, mostly 1 to 4.",
            "- The sentence tells the goal, not the steps.",
            "",
            'Answer with one JSON object and nothing else: {"instruction": "...", "steps": ["...", "..."]}',
        ]
    )


def _task(present: Sequence[ScenePresent], addable: Sequence[str]) -> str:
    sounds = []
    for sound in present:
        place = "" if sound.azimuth_deg is None else direction_name(sound.azimuth_deg)
        sounds.append({"name": sound.label} | ({"direction": place} if place else {}))
    return json.dumps({"sounds": sounds, "can_be_added": list(addable)}, ensure_ascii=False)
