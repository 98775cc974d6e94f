"""Fit what tells instructions that ask for no edit: sentence vectors of whole instructions → what they ask for.

    python -m training.beyond

Positives are the designer's training wordings of such questions and those of ``training/beyond.yaml``; negatives are
all its other training instructions, other questions too. The threshold is the least at which at most `FALSE_SHARE` of
the validation instructions that can be planned would be asked about. Weights go to
``smartdj_agent/data/beyond.safetensors``; test wordings are not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
import yaml
from safetensors.numpy import save_file

from smartdj_agent.beyond import KINDS, Beyond, BeyondClassifier, plain
from smartdj_agent.models.text import SentenceEncoder
from training.designer import Design
from training.sentences import FOLDS, designs, fit, folds, vectors_of

WORDINGS = Path(__file__).resolve().parent / "beyond.yaml"
TRAIN_COUNT, VALID_COUNT = 12_000, 4000
SEED = 1311
FALSE_SHARE, LEAST = 0.004, 0.5
"""Of all instructions that can be planned, and the least threshold."""
NONE_WEIGHT = 8.0
"""How much edits weigh, beside each kind's 1."""
IMPOSSIBLE = {
    "how long the recording is": Beyond.LENGTH,
    "only work on sound": Beyond.PICTURE,
    "what is said": Beyond.WORDS,
    "speed or pitch": Beyond.PITCH,
}
"""What the designer's questions say."""


def kind_of(written: Design) -> Beyond | None:
    """What a design's instruction asks for; None for an edit, and for other questions."""
    if written.style in ("empty", "off topic"):
        return Beyond.TALK
    if written.style != "impossible":
        return None
    return next((kind for words, kind in IMPOSSIBLE.items() if words in written.question), None)


def own_examples() -> list[tuple[str, int]]:
    """The wordings of the file, with the place of their kind counted from 1; 0 is an edit."""
    loaded = yaml.safe_load(WORDINGS.read_text(encoding="utf-8"))
    places = {"none": 0, **{kind.value: place for place, kind in enumerate(KINDS, 1)}}
    return [(plain(text), place) for kind, place in places.items() for text in loaded[kind]]


def framed_examples() -> list[tuple[str, int]]:
    """The file's places, each in every frame: edits."""
    loaded = yaml.safe_load(WORDINGS.read_text(encoding="utf-8"))
    return [(plain(frame.format(place)), 0) for frame in loaded["frames"] for place in loaded["places"]]


def drawn_examples() -> list[tuple[str, int]]:
    """The designer's training instructions, each once."""
    found = set()
    for written in designs("train", TRAIN_COUNT, SEED):
        kind = kind_of(written)
        found.add((plain(written.instruction), 0 if kind is None else 1 + KINDS.index(kind)))
    return sorted(found)


def main(out: Annotated[Path, typer.Option(help="Where the weights go.")] = BeyondClassifier.file) -> None:
    """Fit, choose the thresholds, report and write."""
    encoder = SentenceEncoder()
    own, drawn = own_examples(), [*framed_examples(), *drawn_examples()]
    texts, kinds = zip(*own, *drawn, strict=True)
    known, places = torch.from_numpy(vectors_of(encoder, texts)), torch.tensor(kinds)
    classes = 1 + len(KINDS)
    weight, bias = fit(known, places, classes, NONE_WEIGHT)
    model = BeyondClassifier(weight, bias, np.ones(len(KINDS), np.float32))

    valid = [written for written in designs("valid", VALID_COUNT, SEED) if written.kind != "question"]
    shares = [model.likeliest(vector)[1] for vector in vectors_of(encoder, [plain(v.instruction) for v in valid])]
    least = max(LEAST, float(np.quantile(shares, 1 - FALSE_SHARE)) + 1e-3)
    thresholds = np.full(len(KINDS), least, np.float32)

    told = {place: [0, 0] for place in range(classes)}
    fold = folds(len(own), SEED)
    for held in range(FOLDS):
        out_of_fit = torch.cat([fold == held, torch.zeros(len(drawn), dtype=torch.bool)])
        judge = BeyondClassifier(*fit(known[~out_of_fit], places[~out_of_fit], classes, NONE_WEIGHT), thresholds)
        for index in out_of_fit.nonzero()[:, 0].tolist():
            asked = judge.likeliest(known[index].numpy())[1] >= least
            count = told[kinds[index]]
            count[0] += asked if kinds[index] else not asked
            count[1] += 1
    print(f"{len(own)} wordings of our own, {len(drawn)} drawn; threshold {least:.2f}")
    print(f"{np.mean(np.array(shares) >= least):.2%} of {len(valid)} validation instructions would be asked about")
    for place, (right, asked_of) in told.items():
        name = "edits left alone" if place == 0 else f"{KINDS[place - 1]} told"
        print(f"{name}, of wordings left out of the fit: {right} of {asked_of}")
    save_file({"weight": model.weight, "bias": model.bias, "thresholds": thresholds}, out)


if __name__ == "__main__":
    typer.run(main)
