"""The designer by way of a chat endpoint: an online alternative to the scene knowledge.

`EndpointDesigner` asks any server that speaks the OpenAI chat protocol for an instruction and its plan. The
prompt is made from the table of operations; nothing that comes back is trusted: the answer has to be strict
JSON of the right form, every step has to parse, and the plan has to pass the same checks as our own designs.
A bad answer is sent back once with what is wrong with it; a second bad answer is an error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smartdj_agent.chat import ChatEndpoint
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.steps import OPERATIONS, Step, direction_name, parse_step, prompt_table
from training.designer import MAX_ADDS, MAX_STEPS, Design, SceneKnowledge, ScenePresent, plan_problems

_LOG = logging.getLogger(__name__)


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
    chat
        Where to ask.
    knowledge
        Tells which wordings mean the same sound.
    counts
        How the answers fared so far.
    """

    chat: ChatEndpoint
    knowledge: SceneKnowledge
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
        with self.chat.client() as client:
            for attempt in range(2):
                try:
                    reply = self.chat.ask(client, messages, seed + attempt)
                except SmartDJError:
                    self.counts.failed += 1
                    raise
                try:
                    made = self._read(reply, present, addable)
                except _BadAnswer as error:
                    problem = str(error)
                    self.counts.rejected += 1
                    _LOG.info("answer %d of %s rejected: %s", attempt + 1, self.chat.model, problem)
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
            f"{self.chat.model} gave no usable plan in two answers: {problem}",
            "Try another model, or use the built-in designer.",
        )

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
