"""Fit what tells constraints in unknown words: sentence vectors of clauses → what they forbid.

    python -m training.forbidding

Positives are the designer's training wordings and the paraphrases of ``training/forbidding.yaml``; negatives are the
clauses of training instructions that state no constraint. Thresholds are the least at which at most `FALSE_SHARE` of
the validation instructions are given a constraint of a group that they don't state. Weights go to
``smartdj_agent/data/forbidding.safetensors``; test wordings are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
import yaml
from safetensors.numpy import save_file

from smartdj_agent.constraints import Constraint, ConstraintKind, clauses, read_constraints
from smartdj_agent.forbidding import BARE, CUE, KINDS, NAMED, SIDED, STAND_IN, Forbidding, name_in, plain
from smartdj_agent.models.text import SentenceEncoder
from smartdj_agent.planner import Planner
from training.designer import default_knowledge
from training.sentences import FOLDS, designs, fit, folds, vectors_of

PARAPHRASES = Path(__file__).resolve().parent / "forbidding.yaml"
TRAIN_COUNT, VALID_COUNT = 6000, 3000
SEED = 1207
GROUPS = (BARE, SIDED, NAMED)
FALSE_SHARE, LEAST = 0.0015, 0.4
"""Of each group, and the least threshold."""
NONE_WEIGHT = 3.0
"""How much clauses that forbid nothing weigh, beside each kind's 1."""


def instructions(split: str, count: int) -> Iterator[tuple[str, frozenset[str]]]:
    """Instructions of a split with the kinds of the constraints that they state."""
    for design in designs(split, count, SEED):
        yield design.instruction, frozenset(constraint.kind.value for constraint in design.constraints)


def group_of(kind: ConstraintKind) -> int:
    """Place in `GROUPS` of the group that a kind belongs to."""
    return next(place for place, group in enumerate(GROUPS) if kind in group)


def read_kinds(clause: str) -> tuple[Constraint, ...]:
    """What the patterns read in a clause, whatever its nouns mean."""
    return read_constraints(clause, lambda noun: (noun,))


@cache
def names() -> frozenset[str]:
    """What the planner takes for names of sounds."""
    return Planner("small", "cpu", SentenceEncoder()).names


def comparable(clause: str) -> str:
    """A clause as its vector is taken."""
    return plain(clause, name_in(clause, names()))


def examples() -> list[tuple[str, int]]:
    """Clauses with the place of their kind in `KINDS`, counted from 1; 0 forbids nothing."""
    wordings = default_knowledge().wordings.constraint
    found = {
        (comparable(text.format(noun=STAND_IN, side="left")), 1 + place)
        for place, kind in enumerate(KINDS)
        for text in wordings[kind.value].train
    }
    for kind, texts in yaml.safe_load(PARAPHRASES.read_text(encoding="utf-8")).items():
        place = 0 if kind == "none" else 1 + [kind.value for kind in KINDS].index(kind)
        found |= {(comparable(text), place) for text in texts}
    for instruction, kinds in instructions("train", TRAIN_COUNT):
        if not kinds:
            found |= {(comparable(clause), 0) for clause in clauses(instruction)}
    return sorted(found)


def main(out: Annotated[Path, typer.Option(help="Where the weights go.")] = Forbidding.file) -> None:
    """Fit, choose the threshold, report and write."""
    encoder = SentenceEncoder()
    texts, places = zip(*examples(), strict=True)
    known, kinds_of = torch.from_numpy(vectors_of(encoder, texts)), torch.tensor(places)
    weight, bias = fit(known, kinds_of, 1 + len(KINDS), NONE_WEIGHT)
    model = Forbidding(weight, bias, np.ones(len(KINDS), np.float32))

    # Of each validation instruction, the surest kind of each group that it doesn't state.
    wrong = np.zeros((len(GROUPS), VALID_COUNT))
    for index, (instruction, kinds) in enumerate(instructions("valid", VALID_COUNT)):
        asked = [clause for clause in clauses(instruction) if CUE.search(clause) and not read_kinds(clause)]
        named = [name_in(clause, names()) for clause in asked]
        for kind, share in map(model.likeliest, asked, named, vectors_of(encoder, list(map(plain, asked, named)))):
            group = group_of(kind)
            if kind.value not in kinds:
                wrong[group, index] = max(wrong[group, index], share)
    least = np.maximum(np.quantile(wrong, 1 - FALSE_SHARE, axis=1) + 1e-3, LEAST)
    thresholds = np.array([least[group_of(kind)] for kind in KINDS])
    right, asked_of = 0, 0
    fold = folds(len(texts), SEED)
    for held in range(FOLDS):
        rest = (fold != held) | (kinds_of == 0)
        others = Forbidding(*fit(known[rest], kinds_of[rest], 1 + len(KINDS), NONE_WEIGHT), thresholds)
        for place in (~rest).nonzero()[:, 0].tolist():
            kind, share = others.likeliest(texts[place], name_in(texts[place], names()), known[place].numpy())
            right += kind is KINDS[places[place] - 1] and share >= thresholds[KINDS.index(kind)]
            asked_of += 1
    false = (wrong >= least[:, None]).any(axis=0).mean()
    print(
        f"{len(texts)} clauses, {asked_of} of them forbid something; thresholds {', '.join(f'{t:.2f}' for t in least)}"
    )
    print(f"{false:.2%} of {VALID_COUNT} validation instructions given a false one")
    print(f"{right / asked_of:.1%} of wordings left out of the fit ({FOLDS} folds) told right")
    save_file({"weight": model.weight, "bias": model.bias, "thresholds": thresholds.astype(np.float32)}, out)


if __name__ == "__main__":
    typer.run(main)
