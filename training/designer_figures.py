"""Draw the figures of a set of pairs beside what is known of the paper's, and write them as numbers.

    python -m training.pairs --out data/pairs
    python -m training.designer_figures --pairs data/pairs --out docs/designer

Writes ``figures.csv`` (every number drawn), ``figures.png`` and ``README.md``. The paper's own counts of operations and
labels are not public; what is known of it are its scale, its bounds and the plans that its page shows, and only these
stand beside ours: see ``PUBLISHED_PLANS``.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from smartdj_agent.errors import SmartDJError
from smartdj_agent.files import write_file
from smartdj_agent.plan_text import read_plan_text
from smartdj_agent.steps import DIRECTIONS, Operation, parse_step
from training.designer import SceneKnowledge, default_knowledge, plan_problems, violations
from training.pairs import SPLITS, Pair, read_pairs

PUBLISHED_PLANS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Make this sound like a workshop by the dock",
        (
            "Remove the sound of metal knock",
            "Add the sound of seagulls squawking at left by 3dB",
            "Turn down the sound of motorboat running by 2dB",
            "Add the sound of waves lapping at right by 2dB",
        ),
    ),
    (
        "Make this sound like a protest in a city",
        (
            "Turn up the sound of emergency siren by 3dB",
            "Remove the sound of man speech",
            "Add the sound of crowd chanting at front by 3dB",
        ),
    ),
    (
        "Make this sound like a serene beach",
        (
            "Remove the sound of whistling",
            "Turn up the sound of wave crash by 4dB",
            "Add the sound of seagulls calling at front by 3dB",
        ),
    ),
    (
        "Make this sound like a busy city street",
        (
            "Add the sound of distant sirens at left by 3dB",
            "Add the sound of footsteps on pavement at right by 2dB",
            "Turn down the sound of engine rev by 2dB",
            "Remove the sound of bell ring",
        ),
    ),
    (
        "Make this sound like a cozy living room",
        (
            "Add the sound of fireplace crackle at left by 3dB",
            "Turn down the sound of woman speech by 2dB",
            "Remove the sound of cat meow",
        ),
    ),
    (
        "Make this sound like in an outdoor concert",
        (
            "Remove the sound of whistle",
            "Turn down the sound of woman speech by 2dB",
            "Add the sound of guitar strumming at left by 2dB",
        ),
    ),
    (
        "Make this sound like a busy office",
        (
            "Remove the sound of drilling",
            "Add the sound of phone ringing at right by 3dB",
            "Turn up the sound of typewriter type by 2dB",
        ),
    ),
    (
        "Make this sound like a quiet workshop",
        (
            "Add the sound of soft hammering at right by 2dB",
            "Remove the sound of tractor thud",
            "Change the sound of object crumple to left",
        ),
    ),
    (
        "Make this sound like a city park",
        (
            "Add the sound of bicycle bells at left by 3dB",
            "Add the sound of footsteps on gravel at right by 2dB",
            "Remove the sound of engine rev",
            "Turn up the sound of baby laugh by 2dB",
        ),
    ),
    (
        "Craft this sound like a peaceful farm night",
        (
            "Add the sound of crickets chirping at front by 2dB",
            "Turn up the sound of snore by 3dB",
            "Turn down the sound of goat bleat by 2dB",
        ),
    ),
    (
        "Make this sound like a busy daycare center",
        (
            "Turn up the sound of child cry by 3dB",
            "Remove the sound of car engine",
            "Add the sound of toys clattering at left by 2dB",
        ),
    ),
    (
        "Make this sound like a military training ground",
        ("Add the sound of cannon fire at right by 4dB", "Turn up the sound of clank by 2dB"),
    ),
)
"""The twelve plans on the paper's page: all of the paper's data that can be counted."""
PAPER = "paper's page (12 plans)"
PAPER_SCALE = {"train": 240_000, "test": 2_000}
PAPER_SOUNDS = (2, 5)
"""Fewest and most sounds of a scene in the paper."""
TOP_LABELS = 30
NGRAM = 5
"""Words in a row by which instructions of the two splits are compared."""


@dataclass
class Counts:
    """Everything counted over one set of pairs; each counter is one figure."""

    pairs: int = 0
    unsound: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    styles: Counter[str] = field(default_factory=Counter)
    traits: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    constraints: Counter[str] = field(default_factory=Counter)
    plans: Counter[str] = field(default_factory=Counter)
    plan_length: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    add_azimuths: Counter[str] = field(default_factory=Counter)
    gains_db: Counter[str] = field(default_factory=Counter)
    instruction_words: Counter[str] = field(default_factory=Counter)
    sounds: Counter[str] = field(default_factory=Counter)
    scenes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def shares(self, name: str) -> dict[str, float]:
        """Shares of one figure's values, the most frequent first."""
        counter: Counter[str] = getattr(self, name)
        total = counter.total()
        return {value: count / total for value, count in sorted(counter.items(), key=lambda kv: (-kv[1], kv[0]))}


FIGURES = (
    "kinds",
    "styles",
    "traits",
    "questions",
    "constraints",
    "plans",
    "plan_length",
    "operations",
    "add_azimuths",
    "gains_db",
    "instruction_words",
    "sounds",
    "scenes",
    "labels",
)
PLACES = {azimuth: name for name, azimuth in DIRECTIONS.items()}


def _word_class(text: str) -> str:
    count = len(text.split())
    return f"{count}" if count <= 30 else "over 30"


def _count_steps(counts: Counts, texts: Iterable[str], knowledge: SceneKnowledge) -> None:
    steps = [parse_step(text) for text in texts]
    counts.plan_length[str(len(steps))] += 1
    for step in steps:
        counts.operations[step.operation.value] += 1
        counts.labels[knowledge.bank_label(step.target) or step.target] += 1
        if step.operation is Operation.ADD and step.azimuth_deg is not None:
            counts.add_azimuths[PLACES[step.azimuth_deg]] += 1
        if step.gain_db is not None:
            counts.gains_db[f"{step.gain_db:g}"] += 1


def unsound(pair: Pair, knowledge: SceneKnowledge) -> bool:
    """Whether one of a pair's plans can't be read, breaks the rules of plans or the instruction's constraints."""
    for text in pair.plans:
        try:
            steps, question, choices = read_plan_text(text)
        except SmartDJError:
            return True
        if pair.kind == "question":
            if not question or not 2 <= len(choices) <= 3:
                return True
        elif plan_problems(steps, pair.present, knowledge.labels, knowledge) or violations(
            steps, pair.present, pair.constraints, knowledge
        ):
            return True
    return False


def count_pairs(pairs: Iterable[Pair], knowledge: SceneKnowledge) -> Counts:
    """Count a set; of several plans the reference counts."""
    counts = Counts()
    for pair in pairs:
        counts.pairs += 1
        counts.unsound += unsound(pair, knowledge)
        counts.kinds[pair.kind] += 1
        counts.traits.update(pair.traits or ("none",))
        counts.constraints.update([item.kind.value for item in pair.constraints] or ["none"])
        counts.instruction_words[_word_class(pair.instruction)] += 1
        counts.sounds[str(len(pair.present))] += 1
        counts.plans[str(len(pair.plans))] += 1
        if pair.kind == "question":
            counts.questions[pair.style] += 1
            continue
        counts.styles[pair.style] += 1
        if pair.scene:
            counts.scenes[pair.scene.partition(",")[0]] += 1
        _count_steps(counts, pair.plans[0].splitlines(), knowledge)
    return counts


def count_published(knowledge: SceneKnowledge) -> Counts:
    """Count the plans on the paper's page."""
    counts = Counts()
    for instruction, steps in PUBLISHED_PLANS:
        counts.pairs += 1
        counts.kinds["scene"] += 1
        counts.instruction_words[_word_class(instruction)] += 1
        _count_steps(counts, steps, knowledge)
    return counts


def words_of(text: str) -> tuple[str, ...]:
    """Words of an instruction, folded: neither capitals nor punctuation make two instructions different."""
    return tuple(re.findall(r"[a-z0-9']+", text.lower()))


def ngrams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    """All runs of `n` words."""
    return (tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def overlap(train: Iterable[str], test: Iterable[str], n: int = NGRAM) -> dict[str, float]:
    """How much of the test instructions stands in training ones.

    Returns
    -------
    dict
        ``same``: share of test instructions that stand in training word by word; ``ngrams``: share of all runs of `n`
        words in test instructions that occur in any training instruction.
    """
    whole: set[tuple[str, ...]] = set()
    runs: set[tuple[str, ...]] = set()
    for text in train:
        words = words_of(text)
        whole.add(words)
        runs.update(ngrams(words, n))
    # "???" and "..." hold no word that could be compared.
    tests = [words for text in test if (words := words_of(text))]
    of_test = [run for words in tests for run in ngrams(words, n)]
    return {
        "same": sum(words in whole for words in tests) / max(1, len(tests)),
        "ngrams": sum(run in runs for run in of_test) / max(1, len(of_test)),
    }


# --- writing -------------------------------------------------------------------------------------------------


def table_csv(columns: Mapping[str, Counts]) -> str:
    """Write every number as CSV: figure, value, set, count, share."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("figure", "value", "set", "count", "share"))
    for figure in FIGURES:
        for name, counts in columns.items():
            counter: Counter[str] = getattr(counts, figure)
            for value, share in counts.shares(figure).items():
                writer.writerow((figure, value, name, counter[value], f"{share:.5f}"))
    return text.getvalue()


COLOURS = ("#2b6cb0", "#7fb2e5", "#3a8f5c", "#dd8a2f")


def _bars(axes: Axes, columns: Mapping[str, Counts], figure: str, values: Sequence[str], title: str) -> None:
    """Bars side by side, one group per value; what a set has nothing of is left out of it."""
    shown = [(name, counts) for name, counts in columns.items() if getattr(counts, figure)]
    if not shown or not values:
        axes.set_axis_off()
        return
    width = 0.8 / len(shown)
    for place, (name, counts) in enumerate(shown):
        shares = counts.shares(figure)
        at = [index + (place - (len(shown) - 1) / 2) * width for index in range(len(values))]
        colour = COLOURS[list(columns).index(name)]
        axes.bar(at, [100 * shares.get(value, 0.0) for value in values], width, label=name, color=colour)
    axes.set_xticks(range(len(values)), values, rotation=0 if max(map(len, values)) < 4 else 35, ha="right")
    if max(map(len, values)) < 4:
        axes.set_xticks(range(len(values)), values, ha="center")
    axes.set_title(title, fontsize=10)
    axes.set_ylabel("%")
    axes.spines[["top", "right"]].set_visible(False)


def _by_number(values: Iterable[str]) -> list[str]:
    return sorted(set(values), key=float)


def draw(path: Path, columns: Mapping[str, Counts]) -> None:
    """Draw the figures, ours beside the paper's where it has any."""
    figure = Figure(figsize=(15, 17), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(4, 3)
    first = next(iter(columns.values()))
    lengths = _by_number(value for counts in columns.values() for value in counts.plan_length)
    _bars(grid[0][0], columns, "plan_length", lengths, "steps in a plan")
    _bars(grid[0][1], columns, "operations", [operation.value for operation in Operation], "operations")
    _bars(grid[0][2], columns, "add_azimuths", list(DIRECTIONS), "where sounds are added")
    gains = [str(gain) for gain in range(-12, 13) if gain]
    _bars(grid[1][0], columns, "gains_db", gains, "level of additions and changes, dB")
    grid[1][0].tick_params(axis="x", labelsize=7)
    words = [str(count) for count in range(1, 31)] + ["over 30"]
    _bars(grid[1][1], columns, "instruction_words", words, "words of an instruction")
    grid[1][1].set_xticks(range(0, 31, 5), [words[at] for at in range(0, 31, 5)], rotation=0, ha="center")
    _bars(grid[1][2], columns, "sounds", _by_number(first.sounds), "sounds in the recording (paper: 2 to 5)")
    _bars(grid[2][0], columns, "kinds", list(first.shares("kinds")), "kinds of request")
    _bars(grid[2][1], columns, "styles", list(first.shares("styles")), "styles of wording")
    _bars(grid[2][2], columns, "questions", list(first.shares("questions")), "questions: why asked back")
    _bars(grid[3][0], columns, "constraints", list(first.shares("constraints"))[1:], "constraints (% of requests)")
    _bars(grid[3][1], columns, "traits", list(first.shares("traits"))[1:], "traits (% of requests)")
    labels = list(first.shares("labels"))[:TOP_LABELS]
    _bars(grid[3][2], columns, "labels", labels, f"labels in steps, the {TOP_LABELS} most frequent")
    grid[3][2].tick_params(axis="x", labelsize=6, rotation=90)
    handles = [grid[0][0].containers[at] for at in range(len(grid[0][0].containers))]
    figure.legend(handles, [name for name, c in columns.items() if c.plan_length], loc="outside upper center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def _mean(counts: Counts, figure: str) -> float:
    counter: Counter[str] = getattr(counts, figure)
    return sum(float(value) * count for value, count in counter.items()) / max(1, counter.total())


def page(columns: Mapping[str, Counts], same: Mapping[str, float], manifest: Mapping[str, object]) -> str:
    """Write the page that explains the figures."""
    rows = []
    for name, counts in columns.items():
        adds = counts.operations["add"] / max(1, counts.operations.total())
        rows.append(
            f"| {name} | {counts.pairs:,} | {_mean(counts, 'plan_length'):.2f} | {100 * adds:.0f} % "
            f"| {len(counts.labels)} | {len(counts.scenes) or '-'} |"
        )
    scale = ", ".join(f"{count:,} {split}" for split, count in PAPER_SCALE.items())
    unsound_plans = ", ".join(f"{counts.unsound} of {name}" for name, counts in columns.items() if counts.scenes)
    return "\n".join(
        [
            "# The designer's pairs in figures",
            "",
            "Written by `python -m training.designer_figures`; every number drawn stands in `figures.csv`.",
            "",
            "![figures](figures.png)",
            "",
            "| set | pairs | steps in a plan | additions among steps | labels | scenes |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"The paper's set has {scale} pairs with {PAPER_SOUNDS[0]} to {PAPER_SOUNDS[1]} sounds each. Its shares "
            "of operations and labels are not public, so the twelve plans on its page are counted instead. They answer "
            "scene requests only, so ours of that kind stand beside them once more on their own; the whole set holds "
            "direct requests, constraints and questions too.",
            "",
            f"- Unsound pairs (a plan that can't be read, breaks a rule of plans or a constraint): {unsound_plans}.",
            f"- Of the {manifest['test']:,} test instructions, {100 * same['same']:.2f} % stand word by word among the "
            f"{manifest['train']:,} training ones; of their runs of {NGRAM} words, {100 * same['ngrams']:.2f} %.",
            f"- Hashes: train `{manifest['train_sha256']}`, test `{manifest['test_sha256']}`.",
            "",
        ]
    )


def write_figures(pairs: Path, out: Path, first: int | None = None) -> dict[str, Counts]:
    """Count a finished set, or the `first` pairs of each split, and write table, drawing and page.

    The overlap of wordings is always taken over the whole set.

    Raises
    ------
    SmartDJError
        ``USAGE`` if there is no finished set in `pairs`.
    """
    knowledge = default_knowledge()
    columns = {f"our {split}": count_pairs(islice(read_pairs(pairs, split), first), knowledge) for split in SPLITS}
    scenes = (pair for pair in islice(read_pairs(pairs, "train"), first) if pair.kind == "scene")
    columns["our train, scene requests"] = count_pairs(scenes, knowledge)
    columns[PAPER] = count_published(knowledge)
    texts = {split: (pair.instruction for pair in read_pairs(pairs, split)) for split in SPLITS}
    same = overlap(texts["train"], texts["test"])
    manifest = json.loads((pairs / "manifest.json").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / "figures.csv", table_csv(columns), overwrite=True)
    draw(out / "figures.png", columns)
    write_file(out / "README.md", page(columns, same, manifest), overwrite=True)
    return columns


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m training.designer_figures", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=Path, required=True, help="folder that training.pairs wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/designer"), help="folder for table, drawing and page")
    parser.add_argument("--first", type=int, help="count only so many pairs of each split (default: all)")
    chosen = parser.parse_args(arguments)
    try:
        columns = write_figures(chosen.pairs, chosen.out, chosen.first)
    except SmartDJError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        return error.row.exit_code
    print(f"{chosen.out}: " + ", ".join(f"{name} {counts.pairs:,}" for name, counts in columns.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
