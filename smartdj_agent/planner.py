"""The planner: what was heard and what is asked → steps, one by one as they are written, or a question.

`NETWORKS` has the language models by preset; `smartdj_agent.planner_endpoint` writes by way of a chat endpoint.

What is asked word by word is read (`smartdj_agent.direct`); the rest, a scene or a mood, is the language model's.
Decoding is constrained to the step grammar over the sounds that are there (heard, or named in the instruction) and the
sounds that can be added; see `smartdj_agent.grammar`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smartdj_agent.audio import Audio, resample, to_stereo
from smartdj_agent.beyond import BeyondClassifier
from smartdj_agent.constraints import (
    Constraint,
    ConstraintKind,
    Leeway,
    Located,
    leeway,
    mend_function_words,
    read_constraints,
    repairs,
)
from smartdj_agent.direct import Meaning, Requests, mend_spelling, read_requests
from smartdj_agent.doubts import Doubt
from smartdj_agent.events import Heard, Listening
from smartdj_agent.forbidding import Forbidding
from smartdj_agent.grammar import ACCEPT, START, Automaton, FreeText, free_text, plan_automaton
from smartdj_agent.models.audio_lm import AudioPlannerLM
from smartdj_agent.models.planner_lm import HEAR_RATE, EventToken, PlannerLM, PlannerModel, Prompt, base_tokenizer
from smartdj_agent.models.prompts import MAX_STEPS
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import role_folder
from smartdj_agent.opposites import opposed
from smartdj_agent.plan_text import plan_text, read_plan_text, short_step
from smartdj_agent.steps import Operation, Step

MAX_TOKENS = 220
TEMPERATURE = 0.8
"""Of draws with a seed other than 0."""
SPOKEN_CONFIDENCE = 0.9
USUAL_CHOICES = ("make this a quiet forest", "remove the loudest sound", "add soft rain")
"""Offered where the model has fewer than two different ideas of its own."""
SAME_SOUND = 0.5
"""Sentence similarity from which an unknown noun means a sound that was heard."""
CHANGES = re.compile(
    r"\b(turn|lower|raise|reduce|boost|remove|delete|mute|cut|drop|lose|kill|quieter|louder|softer|down|up|off|out|move|pan"
    r"|put|send|shift|delay|earlier|later|reverb|echo|muffled?|bright(er)?|dark(er)?|warm(er)?|cold(er)?|extract|isolate"
    r"|solo|keep|only|just|without|no|less|more|rid|leave|db|decibels?)\b"
)
"""Words that change a sound which is there."""
ADDS = re.compile(r"\b(add|adding|insert|include|introduce|bring in|sound like|feel like|into|place like)\b")
"""Words by which a clause adds a sound or names a place."""


@dataclass(frozen=True)
class Asked:
    """The planner's question instead of a plan."""

    text: str
    choices: tuple[str, ...]


NETWORKS: dict[str, Callable[[Path, str, SentenceEncoder], PlannerModel]] = {
    "small": lambda folder, device, encoder: PlannerLM.load(folder, device, encoder.vectors),
    "paper": lambda folder, device, encoder: AudioPlannerLM.load(folder, device),
}
"""The language models by preset: folder, device and sentence encoder → one that is ready to write."""


@dataclass(frozen=True)
class Limits:
    """What a plan may say.

    Attributes
    ----------
    present
        Names of sounds that are there.
    mentioned
        Names that the instruction uses.
    addable
        Known names that may be added.
    bound
        What the instruction forbids.
    may_ask
        Whether a question may come instead.
    """

    present: frozenset[str]
    mentioned: frozenset[str]
    addable: frozenset[str]
    bound: Leeway
    may_ask: bool


class Planner:
    """A language model with its vocabulary; loaded when it is first needed.

    Parameters
    ----------
    preset
        Whose planner: a key of `NETWORKS`.
    device
        A torch device name.
    encoder
        Sentence encoder, for what nouns mean and for the events of a prompt.
    """

    def __init__(self, preset: str, device: str, encoder: SentenceEncoder) -> None:
        self.preset = preset
        self.device = device
        self.encoder = encoder

    @property
    def name(self) -> str:
        """Who writes, as a plan's provenance says it."""
        return self.preset

    @cached_property
    def model(self) -> PlannerModel:
        """The network."""
        return NETWORKS[self.preset](role_folder(self.preset, "planner"), self.device, self.encoder)

    @cached_property
    def vocabulary(self) -> dict[str, dict[str, object]]:
        """Known sounds: label → noun and wordings."""
        loaded: dict[str, dict[str, object]] = self._knowledge("vocabulary.json")
        return loaded

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """What people call several sounds at once, with their labels."""
        loaded: dict[str, list[str]] = self._knowledge("groups.json")
        return loaded

    @cached_property
    def forbidding(self) -> Forbidding:
        """Tells constraints in words that no pattern knows."""
        return Forbidding.load()

    @cached_property
    def beyond(self) -> BeyondClassifier:
        """Tells instructions that ask for no edit."""
        return BeyondClassifier.load()

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Sentence vectors (n, width)."""
        return self.encoder.vectors(list(texts)).cpu().numpy()

    def _knowledge(self, name: str) -> Any:
        """Read a file of the planner's folder; a published model as it is has none, and takes ours."""
        own = role_folder(self.preset, "planner") / name if self.preset in NETWORKS else None
        path = own if own is not None and own.exists() else role_folder("small", "planner") / name
        return json.loads(path.read_text(encoding="utf-8"))

    def meant_by(self, noun: str, present: Sequence[str]) -> tuple[str, ...]:
        """Names of sounds that a noun means: those that are there and known ones, by wording, group or meaning.

        Parameters
        ----------
        noun
            As the person says it, for example ``voice``.
        present
            Names of what is there.
        """
        forms = {noun, f"{noun}s", noun.removesuffix("s")}
        labels = {label for label in self.vocabulary if forms & {word.lower() for word in self.words(label)}}
        labels |= {label for group, members in self.groups.items() if group in forms for label in members}
        names = {word for label in labels for word in self.words(label)}
        there = [name for name in present if name in names or name.lower() in forms]
        if not labels and not there and present:
            # No wording that we know: what comes nearest of what is there, if it is near.
            vectors = self.encoder.vectors([noun, *present])
            near = vectors[1:] @ vectors[0]
            there = [name for name, score in zip(present, near.tolist(), strict=True) if score >= SAME_SOUND]
        return (*there, *(name for name in sorted(names) if name not in there))

    @cached_property
    def free_text(self) -> FreeText:
        """What a question may be written with."""
        tokenizer = self.model.tokenizer
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        # Byte-level pieces write ASCII as it is and a space as Ġ; decoding all of them one by one takes seconds.
        pieces = {token: piece.replace("Ġ", " ") for piece, token in tokenizer.get_vocab().items()}
        return free_text({t: piece for t, piece in pieces.items() if piece.isascii() and t not in special})

    def tokens(self, text: str) -> list[int]:
        """Tokens of a part of a line; each is asked of the tokenizer once, all known sounds together."""
        known = self._tokens
        if text not in known:
            known[text] = self.model.tokenizer(text, add_special_tokens=False).input_ids
        return known[text]

    @cached_property
    def _tokens(self) -> dict[str, list[int]]:
        # One by one, the tokenizer takes seconds for them.
        names = sorted({f" {word.lower()}" for label in self.vocabulary for word in self.words(label)})
        return dict(zip(names, self.model.tokenizer(names, add_special_tokens=False).input_ids, strict=True))

    def words(self, label: str) -> tuple[str, ...]:
        """All wordings of a label, itself first."""
        entry = self.vocabulary.get(label)
        if entry is None:
            return (label,)
        return (label, *(str(word) for word in entry["words"]), str(entry["noun"]))  # type: ignore[attr-defined]

    def named_in(self, instruction: str) -> tuple[str, ...]:
        """Sounds that the instruction names, as it names them."""
        text = f" {re.sub(r'[^a-z0-9]+', ' ', instruction.lower())} "
        found = []
        for label in self.vocabulary:
            hits = [word for word in self.words(label) if f" {word.lower()} " in text]
            if hits:
                found.append(max(hits, key=len))
        return tuple(dict.fromkeys(found))

    def spoken_of(self, heard: Sequence[Heard], instruction: str) -> tuple[Heard, ...]:
        """Sounds that the person asks to change: they are there, whether the listener heard them or not.

        A name counts where its clause changes something ("turn the dog down"), not where it paints a scene ("like a
        dog park") or adds. What the listener heard under any wording of the name is not repeated.
        """
        known = {word for item in heard for word in self.words(item.label)}
        clauses = re.split(r"[,;.]|\b(?:and|then|but)\b", instruction.lower())
        names: dict[str, None] = {}
        for clause in clauses:
            if CHANGES.search(clause) and not ADDS.search(clause):
                names.update(dict.fromkeys(self.named_in(clause)))
        end = max((item.end_s for item in heard), default=10.0)
        return tuple(Heard(name, SPOKEN_CONFIDENCE, -25.0, None, 0.0, end) for name in names if name not in known)

    def adds_by_name(self, instruction: str) -> bool:
        """Whether the person asks for a sound that we know to be added ("add rain")."""
        clauses = re.split(r"[,;.]|\b(?:and|then|but)\b", instruction.lower())
        return any(re.match(r"\s*(?:please )?add\b", clause) and self.named_in(clause) for clause in clauses)

    def meaning(self, noun: str, heard: Sequence[Heard]) -> Meaning:
        """What a noun of a direct request names: sounds that are there, or one that we know."""
        present = [item.label for item in heard]
        names = self.meant_by(noun, sorted(set(present)))
        there = tuple(Located(item.label, item.azimuth_deg) for item in heard if item.label in names)
        return Meaning(tuple(dict.fromkeys(there)), bool(names))

    def read(self, heard: Sequence[Heard], instruction: str) -> Requests:
        """Read what the instruction asks word by word; misspelt words are mended where it can't be read as it is."""
        located = tuple(Located(item.label, item.azimuth_deg) for item in heard)
        found = read_requests(instruction, located, lambda noun: self.meaning(noun, heard))
        if found.steps and not found.rest:
            return found
        mended = self.mended(instruction, [item.label for item in heard])
        if mended == instruction.lower():
            return found
        again = read_requests(mended, located, lambda noun: self.meaning(noun, heard))
        return again if len(again.steps) > len(found.steps) and len(again.rest) <= len(found.rest) else found

    def constraints(self, instruction: str, present: Sequence[str]) -> tuple[Constraint, ...]:
        """What an instruction forbids, also where it is misspelt or said in words that no pattern knows."""

        def resolve(noun: str) -> tuple[str, ...]:
            return self.meant_by(noun, present)

        names = self.names.union(name.lower() for name in present)

        def guess(clause: str) -> tuple[ConstraintKind, str] | None:
            return self.forbidding.guess(clause, names, self.vectors)

        found = read_constraints(instruction, resolve)
        mended = mend_function_words(self.mended(instruction, present), self.is_word)
        # What is guessed is guessed of mended words: "don't chage the deer" is no unknown wording.
        more = read_constraints(mended, resolve, guess)
        return (*found, *(item for item in more if item not in found))

    def mended(self, instruction: str, present: Sequence[str]) -> str:
        """The instruction in lower case with slips of the pen mended towards commands and names of sounds."""
        words = self._sound_words.union(*(label.split() for label in present))
        return mend_spelling(instruction, words, self.is_word)

    @cached_property
    def names(self) -> frozenset[str]:
        """All wordings of known sounds and groups, in lower case."""
        return frozenset({name.lower() for label in self.vocabulary for name in self.words(label)} | set(self.groups))

    @cached_property
    def _sound_words(self) -> frozenset[str]:
        names = (name for label in self.vocabulary for name in self.words(label))
        return frozenset(word for name in names for word in name.lower().split())

    def is_word(self, word: str) -> bool:
        """Whether the language model's tokenizer knows a word as one piece, which slips of the pen seldom are."""
        return f"Ġ{word}" in self._pieces

    @cached_property
    def _pieces(self) -> frozenset[str]:
        return frozenset(base_tokenizer().get_vocab())

    def draft(self, heard: Sequence[Heard], instruction: str, *, seed: int, audio: Audio | None = None) -> Draft:
        """Begin a plan: read what can be read, lay out what may be written; see `Draft`."""
        return Draft(self, heard, instruction, seed, audio)

    def write(
        self,
        heard: Sequence[Heard],
        instruction: str,
        *,
        seed: int,
        audio: Audio | None = None,
        search: Search | None = None,
    ) -> Iterator[Step | Asked | str | Listening]:
        """Write a plan: one step at a time, or one question.

        Parameters
        ----------
        heard
            The listener's findings, surest first.
        instruction
            Checked by `smartdj_agent.instruction.check_instruction`.
        seed
            0 takes the likeliest token throughout; other seeds draw from the model's distribution.
        audio
            The recording, for networks that hear it themselves.
        search
            Listens for sounds by name; asked where all that is wanted is about sounds that were not heard. What it
            finds no trace of can't be changed, so that a question comes instead of a plan that does nothing.

        Yields
        ------
        Step, Asked, str or Listening
            A text is the line as far as it is written; `Listening` is how far the search is.
        """
        draft = self.draft(heard, instruction, seed=seed, audio=audio)
        if search is not None and (names := draft.unheard):
            absent = yield from search(names)
            if len(absent) == len(names):
                yield absent_question(draft)
                return
        yield from draft.opening()
        if not draft.done:
            yield from self.go_on(draft)
        yield from draft.closing()

    @torch.inference_mode()
    def go_on(self, draft: Draft) -> Iterator[Step | str]:
        """Write what no reader could read."""
        decoding = self.model.begin(draft.prompt())
        while True:
            token = draft.choose(decoding.logits)
            yield from draft.push(token)
            if draft.done:
                return
            decoding.push(token)


Search = Callable[[Sequence[str]], Generator[Listening, None, tuple[str, ...]]]
"""Listens for sounds by name, telling how far it is; returns those of which there is no trace."""


class Draft:
    """One plan while it is written: knows which tokens may follow, turns them into steps.

    `Planner.write` drives one; whoever has many instructions drives many through one batch.

    Attributes
    ----------
    done
        Whether nothing is left for the network to write.
    """

    def __init__(
        self, planner: Planner, heard: Sequence[Heard], instruction: str, seed: int, audio: Audio | None = None
    ) -> None:
        self.planner = planner
        self.instruction = instruction
        self.seed = seed
        self.audio = audio
        self.question = ""
        self.choices: tuple[str, ...] = ()
        self.requests = planner.read(heard, instruction)
        spoken = planner.spoken_of(heard, instruction)
        asked = {step.target: step for step in self.requests.steps if step.operation is not Operation.ADD}
        end = max((item.end_s for item in heard), default=10.0)
        known = {item.label for item in (*spoken, *heard)}
        spoken += tuple(
            Heard(name, SPOKEN_CONFIDENCE, -25.0, step.azimuth_deg, 0.0, end)
            for name, step in asked.items()
            if name not in known
        )
        self.heard = (*spoken, *heard)
        self._truly_heard = {item.label for item in heard}
        present = {item.label for item in self.heard}
        self.located = tuple(Located(item.label, item.azimuth_deg) for item in self.heard)
        self.constraints = planner.constraints(instruction, sorted(present))
        if self.requests.lifted:
            self.constraints = tuple(item for item in self.constraints if item not in self.requests.lifted)
        self.emitted: list[Step] = []
        self.asking = False
        self.written: list[int] = []
        self.literal = 0
        self.done = self.settled = False
        self._generator = torch.Generator().manual_seed(seed)
        self._automaton: Automaton | None = None
        self._states = frozenset({START})
        self._clear = bool(spoken) or planner.adds_by_name(instruction)

    @property
    def unheard(self) -> tuple[str, ...]:
        """Sounds that all that is asked for is about, and that were not heard; empty where something else is to do."""
        steps = self.requests.steps
        if self.requests.doubt or self.requests.rest or any(step.operation is Operation.ADD for step in steps):
            return ()
        names = dict.fromkeys(step.target for step in steps)
        return () if any(name in self._truly_heard for name in names) else tuple(names)

    def opening(self) -> Iterator[Step | Asked | str]:
        """What needs no network: the steps that are asked word by word, or a question where that can't be met."""
        if doubt := self.requests.doubt or self._no_edit():
            self.done = self.asking = self.settled = True
            yield Asked(doubt.text, doubt.choices)
            return
        # What is said of single sounds was read: "the loud dog quiet" is no contradiction.
        if opposites := opposed("; ".join(self.requests.rest) if self.requests.steps else self.instruction):
            self.done = self.asking = self.settled = True
            one, other = opposites
            yield Asked(
                f"“{one}” and “{other}” exclude each other. Which shall it be?",
                (f"make it {one}", f"make it {other}"),
            )
            return
        for step in self.requests.steps[:MAX_STEPS]:
            self.emitted.append(step)
            yield step
        self.literal = len(self.emitted)
        wanted = self.emitted or repairs((), self.located, self.constraints)
        self.done = (bool(wanted) and not self.requests.rest) or self.literal >= MAX_STEPS

    def _no_edit(self) -> Doubt | None:
        """What to ask where nothing of the instruction is an edit."""
        if self.requests.steps or self.constraints:
            return None
        return self.planner.beyond.doubt(self.instruction, [item.label for item in self.heard], self.planner.vectors)

    @cached_property
    def limits(self) -> Limits:
        """What may be written behind the steps that stand; asked for after `opening`."""
        planner = self.planner
        present = {item.label for item in self.heard}
        # Other wordings of what is there name no other sound: "dog" beside "dog barking".
        there = {word for label in present for word in planner.words(label)} - present
        known = {word for label in planner.vocabulary for word in planner.words(label)[:-1]} - there
        mentioned = set(planner.named_in(self.instruction)) - there
        bound = leeway(sorted(present | mentioned), self.constraints)
        if self.emitted:
            # What is asked word by word is settled.
            settled = {step.target for step in self.emitted}
            adds = {step.target for step in self.emitted if step.operation is Operation.ADD}
            bound = replace(
                bound,
                changeable=bound.changeable - settled,
                extractable=frozenset(),
                absent=bound.absent | adds,
            )
        nothing_to_do = not bound.changeable and not bound.addable
        return Limits(
            frozenset(present),
            frozenset(mentioned),
            frozenset((known | mentioned) - present),
            bound,
            # Who names what to change or to add need not be asked back.
            may_ask=nothing_to_do or not self._clear,
        )

    @property
    def events(self) -> tuple[EventToken, ...]:
        """What was heard, and what the person says is there."""
        return tuple(
            EventToken(item.label, item.confidence, item.level_db, item.azimuth_deg, item.start_s, item.end_s)
            for item in self.heard
        )

    @property
    def standing(self) -> str:
        """The plan's lines so far."""
        return plan_text(self.emitted)

    def prompt(self) -> Prompt:
        """What the network is told; lays out what it may write."""
        planner, limits = self.planner, self.limits
        self._automaton = plan_automaton(
            planner.tokens,
            planner.model.end_token,
            limits.present | limits.mentioned,
            limits.addable,
            max_steps=MAX_STEPS - self.literal,
            free=planner.free_text if limits.may_ask else None,
            bound=limits.bound,
            may_end=self.literal > 0,
        )
        longest_s = planner.model.hears_s
        mono = heard_part(self.audio, self.heard, longest_s) if self.audio is not None and longest_s else None
        return Prompt(self.events, self.instruction, self.standing, mono)

    def choose(self, logits: Tensor) -> int:
        """The next token by the network's scores (vocabulary,), among those that may follow."""
        assert self._automaton is not None
        scores = logits.float().cpu()
        masked = torch.full_like(scores, -torch.inf)
        index = torch.tensor(sorted(self._automaton.allowed(self._states)))
        masked[index] = scores[index]
        if self.seed == 0:
            return int(masked.argmax())
        return int(torch.multinomial(torch.softmax(masked / TEMPERATURE, -1), 1, generator=self._generator))

    def push(self, token: int) -> Iterator[Step | str]:
        """Take a token; yields a step where it ends one, else the line so far."""
        assert self._automaton is not None
        tokenizer = self.planner.model.tokenizer
        self._states = self._automaton.next_states(self._states, token)
        if ACCEPT in self._states and token == self.planner.model.end_token:
            self.done = True
            return
        self.written.append(token)
        self.done = len(self.written) >= MAX_TOKENS
        text = tokenizer.decode(self.written)
        self.asking = self.asking or text.startswith("ask")
        if text.endswith("\n") and not self.asking:
            (step,), _, _ = read_plan_text(text.splitlines()[-1])
            if self.accept(step):
                yield step
        else:
            yield text.rpartition("\n")[2]

    def accept(self, step: Step) -> bool:
        """Take a written step, unless an earlier one did or undid it already."""
        if not _useful(step, self.emitted):
            return False
        self.emitted.append(step)
        return True

    def closing(self) -> Iterator[Step | Asked]:
        """What the constraints still need, or the question."""
        if self.settled:
            return
        if not self.asking:
            for step in repairs(self.emitted, self.located, self.constraints)[: MAX_STEPS - len(self.emitted)]:
                self.emitted.append(step)
                yield step
        if self.asking or not self.emitted:
            if self.written and self.asking:
                _, self.question, self.choices = read_plan_text(self.planner.model.tokenizer.decode(self.written))
            ways = tuple(dict.fromkeys((*self.choices, *USUAL_CHOICES)))[: max(2, len(set(self.choices)))]
            yield Asked(self.question or "What should change in this recording?", ways)


def heard_part(audio: Audio, heard: Sequence[Heard], longest_s: float) -> np.ndarray:
    """The part of a recording that a network hears, shape (n,), mono at `HEAR_RATE`.

    All of it where it is short enough, else the stretch in which most of what was heard sounds; what was heard in the
    rest, the network reads.
    """
    start_s = 0.0
    if audio.duration_s > longest_s:
        starts = {0.0, *(min(item.start_s, audio.duration_s - longest_s) for item in heard)}

        def sounding(start: float) -> float:
            spans = (min(item.end_s, start + longest_s) - max(item.start_s, start) for item in heard)
            return sum(max(0.0, span) for span in spans)

        start_s = max(sorted(starts), key=sounding)
    first = round(start_s * audio.sample_rate)
    part = audio.samples[:, first : first + round(longest_s * audio.sample_rate)]
    stereo = to_stereo(part.astype(np.float32, copy=False))
    return resample(stereo.mean(axis=0, keepdims=True), audio.sample_rate, HEAR_RATE)[0]


def absent_question(draft: Draft) -> Asked:
    """What is asked where nothing that is to be changed is there; the choices are what is, likest first."""
    step = draft.requests.steps[0]
    names = list(dict.fromkeys(item.label for item in draft.heard if item.label not in draft.unheard))
    vectors = draft.planner.encoder.vectors([step.target, *names])
    likeness = dict(zip(names, (vectors[1:] @ vectors[0]).tolist(), strict=True))
    nearest = sorted(names, key=lambda name: -likeness[name])[:2]
    choices = tuple(short_step(replace(step, target=name, azimuth_deg=None)) for name in nearest)
    return Asked(f"I hear no {step.target} in this recording. What is meant?", (*choices, f"add {step.target}")[:3])


def _useful(step: Step, emitted: Sequence[Step]) -> bool:
    """Whether the step does something that no earlier step already did or undid."""
    if step in emitted:
        return False
    return not any(
        other.target == step.target and (other.operation is Operation.REMOVE or other.operation is step.operation)
        for other in emitted
    )
