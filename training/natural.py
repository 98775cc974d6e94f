"""Measure a planner on instructions that people would say, which nothing was ever trained or tuned on.

    python -m training.natural --out runs/natural

The instructions stand in ``tests/data/natural_instructions.yaml`` with what each of them asks. They were written by
hand before the designer's wordings and the planner's patterns were read. Writes ``records.jsonl`` (every instruction
with its answer; a second call goes on where the first one stopped), ``summary.json`` and ``summary.md``; with
``--markdown docs/designer/natural.md`` the table goes there too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from rich.console import Console
from rich.progress import track

from smartdj_agent.constraints import on_side
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.events import Heard
from smartdj_agent.instruction import check_instruction
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.models.weights import role_folder
from smartdj_agent.planner import MAX_STEPS, Asked, Planner
from smartdj_agent.steps import DIRECTIONS, Operation, Step, format_step, parse_step
from training.designer import SceneKnowledge, default_knowledge

SET = Path(__file__).parent.parent / "tests" / "data" / "natural_instructions.yaml"
LOUDEST_DB = -20.0
"""Level of the loudest sound of a recording, dB relative to full scale."""
CONFIDENCE = 0.9
DURATION_S = 10.0
SIDES = ("left", "right", "front")
KINDS = (
    "direct",
    "mixed",
    "scene",
    "mood",
    "constraint",
    "contradiction",
    "lookalike",
    "impossible",
    "empty",
    "offtopic",
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rule(_Strict):
    """What a plan must hold to; see the head of the file of instructions."""

    keep: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    closed: tuple[Literal["left", "right", "front"], ...] = ()
    no_adds: bool = False
    max_steps: int = MAX_STEPS


class Natural(_Strict):
    """One instruction and what it asks; see the head of the file."""

    on: str
    says: str
    kind: Literal[
        "direct",
        "mixed",
        "scene",
        "mood",
        "constraint",
        "contradiction",
        "lookalike",
        "impossible",
        "empty",
        "offtopic",
    ]
    style: str = "plain"
    asks: bool = False
    steps: tuple[str, ...] = ()
    more: bool = False
    rule: Rule | None = None


class NaturalSet(_Strict):
    """Recordings and the instructions on them."""

    recordings: dict[str, tuple[tuple[str, str, float], ...]]
    instructions: tuple[Natural, ...]

    @model_validator(mode="after")
    def _known_recordings(self) -> NaturalSet:
        missing = sorted({item.on for item in self.instructions} - set(self.recordings))
        if missing:
            raise ValueError(f"no recording is called {', '.join(missing)}")
        return self

    def heard(self, name: str) -> tuple[Heard, ...]:
        """What a listener that errs in nothing reports of a recording."""
        return tuple(
            Heard(label, CONFIDENCE, LOUDEST_DB + level, DIRECTIONS[place], 0.0, DURATION_S)
            for label, place, level in self.recordings[name]
        )


def read_set(path: Path = SET) -> NaturalSet:
    """Read the instructions.

    Raises
    ------
    SmartDJError
        USAGE if the file can't be read or breaks its format.
    """
    hint = "The head of tests/data/natural_instructions.yaml says how an entry is written."
    try:
        # YAML 1.1 reads a bare "on" as true.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        return NaturalSet.model_validate(content)
    except OSError as error:
        raise SmartDJError(ErrorCode.USAGE, f"{path} can't be read: {error.strerror}", hint) from error
    except (yaml.YAMLError, ValidationError) as error:
        raise SmartDJError(ErrorCode.USAGE, f"{path.name}: {' '.join(str(error).split())}", hint) from error


# --- what is wanted ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """A step as the instruction asks for it; `free` names the values that it leaves open."""

    step: Step
    free: frozenset[str]


def read_wanted(text: str) -> Wanted:
    """Read a step in which ``*`` stands for a value that the instruction leaves open."""
    step = parse_step(text.replace("* dB", "3 dB").replace("*", "5"))
    free = set()
    if "* dB" in text:
        free.add("gain_db")
    if "level *" in text:
        free.add("reverb_level")
    return Wanted(step, frozenset(free))


def same_target(wanted: Wanted, step: Step, key: Callable[[str], str]) -> bool:
    """Whether a step does the wanted operation on the wanted sound, up or down as wanted."""
    want = wanted.step
    same = want.operation is step.operation and key(want.target) == key(step.target)
    return same and (
        want.operation is not Operation.VOLUME or ((want.gain_db or 0.0) > 0) == ((step.gain_db or 0.0) > 0)
    )


def same_step(wanted: Wanted, step: Step, key: Callable[[str], str]) -> bool:
    """Whether a step is wanted with all its values; where an existing sound is heard does not count."""
    names = {"gain_db", "to_azimuth_deg", "shift_s", "reverb_level", "timbre"} - wanted.free
    if wanted.step.operation is Operation.ADD:
        names.add("azimuth_deg")
    return same_target(wanted, step, key) and all(getattr(wanted.step, n) == getattr(step, n) for n in names)


def matched(
    wanted: Sequence[Wanted],
    steps: Sequence[Step],
    key: Callable[[str], str],
    same: Callable[[Wanted, Step, Callable[[str], str]], bool],
) -> int:
    """How many wanted steps are done, each by a step of its own."""
    left = list(steps)
    hits = 0
    for want in wanted:
        found = next((step for step in left if same(want, step, key)), None)
        if found is not None:
            left.remove(found)
            hits += 1
    return hits


def broken_rules(rule: Rule, steps: Sequence[Step], heard: Sequence[Heard], key: Callable[[str], str]) -> list[str]:
    """Say how a plan breaks a rule; written apart from the planner's own checks, which it is to judge."""
    present = [key(item.label) for item in heard]
    changes = [(step, key(step.target)) for step in steps if step.operation is not Operation.ADD]
    adds = [(step, key(step.target)) for step in steps if step.operation is Operation.ADD]
    gone = {name for step, name in changes if step.operation is Operation.REMOVE}
    for step, name in changes:
        if step.operation is Operation.EXTRACT:
            gone |= set(present) - {name}
    lowered = {n for s, n in changes if s.operation is Operation.VOLUME and (s.gain_db or 0.0) < 0}
    touched = {name for _, name in changes} | gone
    added = {name for _, name in adds}
    found = [f"{name} was to stay" for name in rule.keep if key(name) in gone | lowered]
    found += [f"{name} was to be left alone" for name in rule.untouched if key(name) in touched]
    found += [f"{name} was to be absent" for name in rule.absent if key(name) in added | (set(present) - gone)]
    if rule.only:
        others = (touched | added) - {key(name) for name in rule.only}
        found += [f"{name} was not to change" for name in sorted(others)]
    goals = [(name, step.azimuth_deg) for step, name in adds]
    goals += [(name, step.to_azimuth_deg) for step, name in changes if step.operation is Operation.DIRECTION]
    for side in rule.closed:
        for name, azimuth in goals:
            if azimuth == 0.0 if side == "front" else on_side(azimuth, side):
                found.append(f"{name} is put {'in' if side == 'front' else 'on the'} {side}")
    if rule.no_adds:
        found += [f"{name} is added" for name in sorted(added)]
    if len(steps) > rule.max_steps:
        found.append(f"{len(steps)} steps, allowed are {rule.max_steps}")
    return found


# --- asking the planner --------------------------------------------------------------------------------------


def answer(planner: Planner, heard: Sequence[Heard], says: str) -> dict[str, Any]:
    """Return what the planner answers: ``steps``, or a ``question`` with ``choices``."""
    steps: list[str] = []
    try:
        for item in planner.write(heard, check_instruction(says), seed=0):
            if isinstance(item, Step):
                steps.append(format_step(item))
            elif isinstance(item, Asked):
                return {"steps": [], "question": item.text, "choices": list(item.choices)}
    except SmartDJError as error:
        if error.code is not ErrorCode.INSTRUCTION_EMPTY:
            raise
        # Every door answers an empty instruction with what it should hold: it asks back.
        return {"steps": [], "question": error.message, "choices": []}
    return {"steps": steps, "question": "", "choices": []}


def words_of(text: str) -> str:
    """Fold a text to its words, for finding instructions that stand in a list."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def designer_wordings(knowledge: SceneKnowledge) -> frozenset[str]:
    """Requests that the designer writes word by word, such as "hello": who was trained on them is not surprised."""
    kinds = knowledge.questions.kinds.values()
    templates = {text for entries in kinds for entry in entries for text in entry.train if "{" not in text}
    return frozenset(map(words_of, templates | set(knowledge.questions.fillers["greeting"].train)))


def judge(
    item: Natural, heard: Sequence[Heard], answered: Mapping[str, Any], knowledge: SceneKnowledge
) -> dict[str, Any]:
    """Compare an answer with what was asked."""

    def key(label: str) -> str:
        return knowledge.bank_label(label) or label.lower()

    present = {key(sound.label) for sound in heard}
    verdict: dict[str, Any] = {
        "asked": bool(answered["question"]),
        "known": words_of(item.says) in designer_wordings(knowledge),
    }
    try:
        steps = [parse_step(text) for text in answered["steps"]]
        valid = verdict["asked"] or 1 <= len(steps) <= MAX_STEPS
    except SmartDJError:
        steps, valid = [], False
    verdict["valid"] = valid
    changes = [key(step.target) for step in steps if step.operation is not Operation.ADD]
    verdict["changes"], verdict["changes_there"] = len(changes), sum(name in present for name in changes)
    if item.rule is not None and not verdict["asked"]:
        verdict["broken"] = broken_rules(item.rule, steps, heard, key)
    if item.steps:
        wanted = [read_wanted(text) for text in item.steps]
        verdict["wanted"], verdict["written"] = len(wanted), len(steps)
        verdict["hits"] = matched(wanted, steps, key, same_target)
        verdict["exact_hits"] = matched(wanted, steps, key, same_step)
    return verdict


# --- figures -------------------------------------------------------------------------------------------------


def _share(values: Iterable[bool]) -> dict[str, Any]:
    taken = list(values)
    return {"share": round(sum(taken) / len(taken), 4) if taken else None, "of": len(taken)}


def _f1(records: Sequence[Mapping[str, Any]], hits: str) -> dict[str, Any]:
    done = sum(record["verdict"][hits] for record in records)
    total = sum(record["verdict"]["wanted"] + record["verdict"]["written"] for record in records)
    return {"share": round(2 * done / total, 4) if total else None, "of": len(records)}


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All figures over judged records: shares with the number of instructions (or steps) that they are taken over."""
    plans = [r for r in records if not r["asks"]]
    exact = [r for r in plans if "wanted" in r["verdict"] and not r["more"]]
    mixed = [r for r in plans if "wanted" in r["verdict"] and r["more"]]
    changes = sum(r["verdict"]["changes"] for r in records)
    there = sum(r["verdict"]["changes_there"] for r in records)
    found = {
        "grammar-valid": _share(r["verdict"]["valid"] for r in records),
        "changed sounds that are there": {"share": round(there / changes, 4) if changes else None, "of": changes},
        "question recall": _share(r["verdict"]["asked"] for r in records if r["asks"]),
        "question recall, no wording of the designer's": _share(
            r["verdict"]["asked"] for r in records if r["asks"] and not r["verdict"]["known"]
        ),
        "false questions": _share(r["verdict"]["asked"] for r in plans),
        "constraints kept (of plans)": _share(not r["verdict"]["broken"] for r in records if "broken" in r["verdict"]),
        "direct steps F1 (operation and sound)": _f1(exact, "hits"),
        "direct steps F1 (all values)": _f1(exact, "exact_hits"),
        "mixed: asked steps done": {
            "share": round(
                sum(r["verdict"]["hits"] for r in mixed) / max(1, sum(r["verdict"]["wanted"] for r in mixed)), 4
            ),
            "of": len(mixed),
        },
    }
    for kind in KINDS:
        of_kind = [r for r in records if r["kind"] == kind]
        if of_kind:
            found[f"asked back: {kind}"] = _share(r["verdict"]["asked"] for r in of_kind)
    for style in sorted({r["style"] for r in records}):
        of_style = [r for r in records if r["style"] == style]
        right = [r["verdict"]["asked"] == r["asks"] for r in of_style]
        found[f"plan or question as wanted: {style}"] = _share(right)
    return found


def markdown(summary: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Write the figures as a table."""
    lines = [
        f"{about['instructions']} instructions of `tests/data/natural_instructions.yaml`, planner `{about['preset']}` "
        f"({about['planner_sha256'][:12]}), seed 0.",
        "",
        "| figure | share | of |",
        "|---|---|---|",
    ]
    for name, value in summary.items():
        share = "none" if value["share"] is None else f"{100 * value['share']:.1f} %"
        lines.append(f"| {name} | {share} | {value['of']} |")
    return "\n".join(lines) + "\n"


def _sha256(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def measure(out: Path, preset: str, instructions: Path, console: Console) -> dict[str, Any]:
    """Ask the planner every instruction that is not answered yet, judge all, write the figures; return them."""
    natural, knowledge = read_set(instructions), default_knowledge()
    out.mkdir(parents=True, exist_ok=True)
    weights = _sha256(sorted(path for path in role_folder(preset, "planner").iterdir() if path.is_file()))
    path = out / "records.jsonl"
    answers: dict[tuple[str, str], dict[str, Any]] = {}
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for line in lines[:-1]:
        record = json.loads(line)
        if record["planner_sha256"] == weights:
            answers[record["on"], record["says"]] = record["answer"]
    missing = [item for item in natural.instructions if (item.on, item.says) not in answers]
    if missing:
        # What a killed run left half written goes; whole records stay.
        path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
        planner = Planner(preset, "cpu", SentenceEncoder())
        with path.open("a", encoding="utf-8") as file:
            for item in track(missing, "instructions", console=console):
                answered = answer(planner, natural.heard(item.on), item.says)
                answers[item.on, item.says] = answered
                record = {"on": item.on, "says": item.says, "planner_sha256": weights, "answer": answered}
                file.write(json.dumps(record) + "\n")
                file.flush()
    records = []
    for item in natural.instructions:
        answered = answers[item.on, item.says]
        verdict = judge(item, natural.heard(item.on), answered, knowledge)
        records.append(item.model_dump(mode="json") | {"answer": answered, "verdict": verdict})
    about = {
        "preset": preset,
        "planner_sha256": weights,
        "instructions": len(records),
        "instructions_sha256": _sha256([instructions]),
    }
    summary = summarise(records)
    (out / "summary.json").write_text(
        json.dumps({"about": about, "figures": summary, "records": records}, indent=1) + "\n", encoding="utf-8"
    )
    (out / "summary.md").write_text(markdown(summary, about), encoding="utf-8")
    return {"about": about, "figures": summary}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.natural", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for records and figures")
    parser.add_argument("--preset", default="small", help="whose planner (default: small)")
    parser.add_argument("--instructions", type=Path, default=SET, help="another file of instructions")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: torch's choice)")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=True)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    try:
        found = measure(chosen.out, chosen.preset, chosen.instructions, console)
    except SmartDJError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return error.row.exit_code
    table = markdown(found["figures"], found["about"])
    if chosen.markdown is not None:
        chosen.markdown.parent.mkdir(parents=True, exist_ok=True)
        chosen.markdown.write_text(f"# The shipped planner on natural instructions\n\n{table}", encoding="utf-8")
    print(table, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
