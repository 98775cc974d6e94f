"""The planner: what was heard and what is asked → steps, one by one as they are written, or a question.

Decoding is constrained to the step grammar over the sounds that are there (heard, or named in the instruction) and the
sounds that can be added; see `smartdj_agent.grammar`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from smartdj_agent.constraints import Located, leeway, read_constraints, repairs
from smartdj_agent.events import Heard
from smartdj_agent.grammar import ACCEPT, START, FreeText, free_text, plan_automaton
from smartdj_agent.models.planner_lm import EventToken, PlannerLM, prompt_text
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import role_folder
from smartdj_agent.plan_text import read_plan_text
from smartdj_agent.steps import Operation, Step

MAX_STEPS = 6
MAX_TOKENS = 220
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


class Planner:
    """The language model with its vocabulary; loaded when it is first needed.

    Parameters
    ----------
    preset
        Whose planner to load.
    device
        A torch device name.
    encoder
        Sentence encoder for the audio tokens.
    """

    def __init__(self, preset: str, device: str, encoder: SentenceEncoder) -> None:
        self.preset = preset
        self.device = device
        self.encoder = encoder

    @cached_property
    def model(self) -> PlannerLM:
        """The network."""
        return PlannerLM.load(role_folder(self.preset, "planner"), self.device)

    @cached_property
    def vocabulary(self) -> dict[str, dict[str, object]]:
        """Known sounds: label → noun and wordings."""
        path = role_folder(self.preset, "planner") / "vocabulary.json"
        loaded: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
        return loaded

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """What people call several sounds at once, with their labels."""
        path = role_folder(self.preset, "planner") / "groups.json"
        loaded: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        return loaded

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

    @torch.inference_mode()
    def write(self, heard: Sequence[Heard], instruction: str, *, seed: int) -> Iterator[Step | Asked | str]:
        """Write a plan: one step at a time, or one question.

        Parameters
        ----------
        heard
            The listener's findings, surest first.
        instruction
            Checked by `smartdj_agent.instruction.check_instruction`.
        seed
            0 takes the likeliest token throughout; other seeds draw from the model's distribution.

        Yields
        ------
        Step, Asked or str
            A text is the line as far as it is written.
        """
        spoken = self.spoken_of(heard, instruction)
        heard = (*spoken, *heard)
        events = [
            EventToken(item.label, item.confidence, item.level_db, item.azimuth_deg, item.start_s, item.end_s)
            for item in heard
        ]
        model, tokenizer = self.model, self.model.tokenizer

        def tokenize(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
            return ids

        known = {word for label in self.vocabulary for word in self.words(label)[:-1]}
        present = {item.label for item in heard}
        mentioned = set(self.named_in(instruction))
        located = tuple(Located(item.label, item.azimuth_deg) for item in heard)
        constraints = read_constraints(instruction, lambda noun: self.meant_by(noun, sorted(present)))
        bound = leeway(sorted(present | mentioned), constraints)
        nothing_to_do = not bound.changeable and not bound.addable
        clear = bool(spoken) or self.adds_by_name(instruction)
        automaton = plan_automaton(
            tokenize,
            tokenizer.eos_token_id,
            present | mentioned,
            (known | mentioned) - present,
            max_steps=MAX_STEPS,
            # Who names what to change or to add need not be asked back.
            free=None if clear and not nothing_to_do else self.free_text,
            bound=bound,
        )
        ids = torch.tensor([tokenize(prompt_text(events, instruction))], device=self.device)
        if events:
            vectors = self.encoder.vectors([event.label for event in events])[None].to(self.device)
            stats = torch.tensor([[event.stats() for event in events]], device=self.device)
            embedded = model.prefix(vectors, stats, ids)
        else:
            embedded = model.lm.get_input_embeddings()(ids)
        generator = torch.Generator().manual_seed(seed)
        output = model.lm(inputs_embeds=embedded, use_cache=True)
        states = frozenset({START})
        written: list[int] = []
        emitted: list[Step] = []
        asking = False
        for _ in range(MAX_TOKENS):
            scores = output.logits[0, -1].float().cpu()
            logits = torch.full_like(scores, -torch.inf)
            index = torch.tensor(sorted(automaton.allowed(states)))
            logits[index] = scores[index]
            if seed == 0:
                token = int(logits.argmax())
            else:
                token = int(torch.multinomial(torch.softmax(logits / 0.8, -1), 1, generator=generator))
            states = automaton.next_states(states, token)
            if ACCEPT in states and token == tokenizer.eos_token_id:
                break
            written.append(token)
            text = tokenizer.decode(written)
            asking = asking or text.startswith("ask")
            if text.endswith("\n") and not asking:
                (step,), _, _ = read_plan_text(text.splitlines()[-1])
                if self._useful(step, emitted):
                    emitted.append(step)
                    yield step
            else:
                yield text.rpartition("\n")[2]
            output = model.lm(
                input_ids=torch.tensor([[token]], device=self.device),
                past_key_values=output.past_key_values,
                use_cache=True,
            )
        for step in repairs(emitted, located, constraints)[: MAX_STEPS - len(emitted)] if not asking else ():
            emitted.append(step)
            yield step
        if asking or not emitted:
            _, question, choices = read_plan_text(tokenizer.decode(written)) if asking else ((), "", ())
            ways = tuple(dict.fromkeys((*choices, *USUAL_CHOICES)))[: max(2, len(set(choices)))]
            yield Asked(question or "What should change in this recording?", ways)

    @staticmethod
    def _useful(step: Step, emitted: Sequence[Step]) -> bool:
        """Whether the step does something that no earlier step already did or undid."""
        if step in emitted:
            return False
        return not any(
            other.target == step.target and (other.operation is Operation.REMOVE or other.operation is step.operation)
            for other in emitted
        )
