"""Tests of the designer: its knowledge, its designs, and the chat endpoint that can replace it."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from smartdj_agent.chat import ChatEndpoint
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.steps import DIRECTIONS, Operation, Step, format_step, parse_step
from training.designer import (
    MAX_STEPS,
    QUESTION_SHARES,
    SCENES_FOLDER,
    STYLE_SHARES,
    Constraint,
    ConstraintKind,
    Design,
    SceneKnowledge,
    ScenePresent,
    Verdict,
    _misspelt,
    alternative_plans,
    default_knowledge,
    design,
    plan_problems,
    scene_plan,
    violations,
)
from training.designer_endpoint import EndpointDesigner, system_prompt

BANK_LABELS = 257
DESIGNS = 2000
KNOWLEDGE = default_knowledge()


def sample_present(rng: np.random.Generator) -> list[ScenePresent]:
    labels = rng.choice(KNOWLEDGE.labels, int(rng.integers(2, 6)), replace=False)
    azimuths = [None, *DIRECTIONS.values()]
    return [ScenePresent(str(label), azimuths[int(rng.integers(len(azimuths)))]) for label in labels]


@pytest.fixture(scope="module")
def designs() -> list[tuple[list[ScenePresent], Design]]:
    made = []
    for seed in range(DESIGNS):
        rng = np.random.default_rng(seed)
        present = sample_present(rng)
        made.append((present, design(rng, present, KNOWLEDGE.labels, KNOWLEDGE)))
    return made


# --- knowledge ---


def test_every_bank_label_has_wordings() -> None:
    assert len(KNOWLEDGE.labels) == BANK_LABELS
    seen: dict[str, str] = {}
    for label in KNOWLEDGE.labels:
        words = KNOWLEDGE.words(label)[1:]
        assert 3 <= len(words) <= 6, label
        assert label not in words
        assert len(KNOWLEDGE.names(label)) >= 3, label
        for word in words:
            assert seen.setdefault(word, label) == label
            assert KNOWLEDGE.bank_label(word.upper()) == label
    assert KNOWLEDGE.noun("dog barking") == "dog"


def test_labels_match_the_shared_bank() -> None:
    manifest = Path("/work/shared/bank/manifest.csv")
    if not manifest.exists():
        pytest.skip("the shared bank is not on this machine")
    rows = [line.split(",") for line in manifest.read_text().splitlines()[1:]]
    assert {row[1]: row[2] for row in rows} == {label: KNOWLEDGE.category(label) for label in KNOWLEDGE.labels}


def test_there_are_enough_scenes_and_each_is_rich_enough() -> None:
    scenes = KNOWLEDGE.scenes("all")
    assert len(scenes) >= 300
    for scene in scenes:
        assert len(scene.phrases) >= 4
        assert len(set(scene.phrases)) == len(scene.phrases)
        assert len(scene.moods) in (0, 2)
        for entry in scene.belongs:
            step = Step(Operation.ADD, entry.label)
            assert parse_step(format_step(step)) == step
            assert '"' not in format_step(step), f"{entry.label!r} reads like a parameter"


def test_every_label_has_a_verdict_in_every_scene() -> None:
    counts: Counter[Verdict] = Counter()
    for scene in KNOWLEDGE.scenes("all"):
        given = KNOWLEDGE._verdicts[scene.name]
        assert set(given) == set(KNOWLEDGE.labels), scene.name
        counts.update(given.values())
    assert min(counts.values()) > BANK_LABELS  # none of the four is a rarity


@pytest.mark.parametrize(
    ("scene", "label", "verdict"),
    [
        ("sunny forest", "birds chirping", Verdict.BELONGS),
        ("sunny forest", "jackhammer or drill", Verdict.CLASHES),
        ("sunny forest", "owl hooting", Verdict.FITS),
        ("library", "man speaking", Verdict.CLASHES),  # the scene's group goes before the setting's
        ("library", "person whispering", Verdict.BELONGS),
        ("busy city street", "engine rev", Verdict.FITS),  # a paraphrase of car engine
        ("busy city street", "something unheard of", Verdict.FITS),
    ],
)
def test_verdicts(scene: str, label: str, verdict: Verdict) -> None:
    assert KNOWLEDGE.verdict(KNOWLEDGE.scene(scene), label) is verdict


def test_splits_are_disjoint_and_near_their_shares() -> None:
    names = {split: {s.name for s in KNOWLEDGE.scenes(split)} for split in ("train", "valid", "test")}
    phrases = {s: {p.lower() for scene in KNOWLEDGE.scenes(s) for p in scene.phrases} for s in names}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not names[one] & names[other]
        assert not phrases[one] & phrases[other]
    total = len(KNOWLEDGE.scenes("all"))
    assert sum(map(len, names.values())) == total
    assert 0.80 <= len(names["train"]) / total <= 0.90
    assert 0.03 <= len(names["valid"]) / total <= 0.08
    assert 0.07 <= len(names["test"]) / total <= 0.14


def test_wordings_of_test_are_not_in_training() -> None:
    wordings = KNOWLEDGE.wordings
    groups = [*wordings.scene.values(), *wordings.constraint.values(), *wordings.direct.values()]
    groups += [wordings.lookalike.scene, *wordings.lookalike.direct]
    groups += [entry for entries in KNOWLEDGE.questions.kinds.values() for entry in entries]
    groups += KNOWLEDGE.questions.fillers.values()
    taken = {"{mash}"}  # random letters, other ones in test
    for templates in groups:
        assert not ({*templates.train, *templates.shared} & set(templates.test)) - taken
    for vague in wordings.vague.values():
        assert not {item.words for item in vague.train} & {item.words for item in vague.test}
    poles = [pole for axis in KNOWLEDGE.questions.axes.values() for pole in axis]
    assert not {w for pole in poles for w in pole.train} & {w for pole in poles for w in pole.test}
    assert not set(wordings.genres.train) & set(wordings.genres.test)
    moments = {split: [m for m in KNOWLEDGE.moments if m.split == split] for split in ("train", "test")}
    assert not {m.name for m in moments["train"]} & {m.name for m in moments["test"]}
    assert not {p for m in moments["train"] for p in m.phrases} & {p for m in moments["test"] for p in m.phrases}


def test_test_requests_use_no_shared_wording() -> None:
    shared = {text.split(" {")[0] for templates in KNOWLEDGE.wordings.scene.values() for text in templates.shared}
    assert shared
    for seed in range(200):
        rng = np.random.default_rng([7, seed])
        made = design(rng, sample_present(rng), KNOWLEDGE.labels, KNOWLEDGE, split="test")
        assert not made.instruction.lower().startswith(tuple(shared))


def test_contradictions_come_from_many_pairs() -> None:
    axes, kinds = KNOWLEDGE.questions.axes, KNOWLEDGE.questions.kinds
    trained = [poles for poles in axes.values() if all(pole.train for pole in poles)]
    pairs = sum(len(first.train) * len(second.train) for first, second in trained)
    assert len(trained) >= 25
    assert pairs * sum(len(entry.train) for entry in kinds["opposites"]) > 5000
    assert len(axes) > len(trained)  # some are never heard in training


def test_every_template_can_be_filled() -> None:
    known = {"noun", "noun2", "absent", "sound", "scene", "scene2", "bare", "bare2", "a", "a2", "b", "db", "db2", "n"}
    known |= {"mash", *KNOWLEDGE.questions.fillers}
    for entries in KNOWLEDGE.questions.kinds.values():
        for entry in entries:
            for text in (*entry.train, *entry.test, entry.question, *entry.choices):
                assert set(re.findall(r"\{(\w*)\}", text)) <= known, text


def test_scenes_move_to_other_times_and_places() -> None:
    street, farm = KNOWLEDGE.scene("busy city street"), KNOWLEDGE.scene("peaceful farm night")
    names = {moment.name for moment in KNOWLEDGE.moments_for(street, "train")}
    assert {"in the middle ages", "in the rain"} <= names
    assert names.isdisjoint({m.name for m in KNOWLEDGE.moments_for(street, "test")})
    assert "at night" not in {moment.name for moment in KNOWLEDGE.moments_for(farm, "train")}
    moved = KNOWLEDGE.scene("busy city street, in the middle ages")
    assert KNOWLEDGE.verdict(street, "car horn") is Verdict.BELONGS
    assert KNOWLEDGE.verdict(moved, "car horn") is Verdict.CLASHES
    assert KNOWLEDGE.verdict(moved, "horse galloping") is Verdict.BELONGS
    assert "a busy city street in the Middle Ages" in moved.phrases


def test_every_moment_fits_some_scene() -> None:
    for moment in KNOWLEDGE.moments:
        scenes = [s for s in KNOWLEDGE.scenes(moment.split) if moment in KNOWLEDGE.moments_for(s, moment.split)]
        assert len(scenes) >= (5 if moment.split == "train" else 2), moment.name
        for scene in scenes:
            assert len(KNOWLEDGE.moved(scene, moment).belongs) >= 4


def test_lookalikes_are_planned(designs: list[tuple[list[ScenePresent], Design]]) -> None:
    found = [made for _, made in designs if "lookalike" in made.traits]
    assert len(found) > 0.05 * DESIGNS
    assert {made.kind for made in found} >= {"scene", "direct"}
    assert all(made.steps for made in found)


def test_slips_keep_numbers_and_length() -> None:
    text = "turn the woodpecker down by 12 dB and don't touch the friendly neighbour"
    slips = {_misspelt(np.random.default_rng(seed), text) for seed in range(200)}
    assert len(slips - {text}) > 100
    for slipped in slips:
        assert "12" in slipped
        assert abs(len(slipped) - len(text)) <= 5
    assert _misspelt(np.random.default_rng(0), "go on 3 dB") == "go on 3 dB"


def _broken_copy(tmp_path: Path, change: Callable[[list[dict[str, Any]]], None]) -> Path:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for path in SCENES_FOLDER.glob("*.yaml"):
        if path.stem != "nature":
            shutil.copy(path, folder)
    entries = yaml.safe_load((SCENES_FOLDER / "nature.yaml").read_text())
    change(entries)
    (folder / "mine.yaml").write_text(yaml.safe_dump(entries))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[0].update(phrases=["a wood"]), "mine.yaml: scene 'sunny forest': phrases"),
        (lambda s: s[0].update(seting="x"), "seting"),
        (lambda s: s[0].update(setting="moon"), "setting 'moon' is unknown"),
        (lambda s: s[0]["belongs"].append("purring = cat purring"), "no bank label"),
        (lambda s: s[0]["belongs"].append("thunder | noisy"), "loudness 'noisy'"),
        (lambda s: s[0]["belongs"].append("thunder | loud | above"), "belongs"),
        (lambda s: s[0]["belongs"].append("birdsong"), "belongs twice"),
        (lambda s: s[0]["belongs"].append("woodpecker tapping = thunder"), "belongs twice|elsewhere"),
        (lambda s: s[0].update(clashes=["@nobody"]), "@nobody"),
        (lambda s: s[0].update(clashes=["rain"], fits=["rain"]), "listed twice"),
        (lambda s: s[1].update(phrases=list(s[0]["phrases"])), "is also in"),
        (lambda s: s.append(dict(s[0])), "there twice"),
    ],
)
def test_errors_in_the_data_are_named(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], message: str
) -> None:
    with pytest.raises(SmartDJError) as caught:
        SceneKnowledge.load(_broken_copy(tmp_path, change))
    assert caught.value.code is ErrorCode.USAGE
    assert re.search(message, caught.value.message)
    assert caught.value.hint


def test_a_key_given_twice_is_an_error(tmp_path: Path) -> None:
    folder = _broken_copy(tmp_path, lambda scenes: None)
    with (folder / "mine.yaml").open("a") as file:
        file.write("- name: twice\n  name: again\n")
    with pytest.raises(SmartDJError, match="given twice"):
        SceneKnowledge.load(folder)


# --- designs ---


def test_same_seed_same_design() -> None:
    fresh = SceneKnowledge.load()
    for seed in range(60):
        made = []
        for knowledge in (KNOWLEDGE, fresh):
            rng = np.random.default_rng(seed)
            made.append(design(rng, sample_present(rng), knowledge.labels, knowledge, split="test"))
        assert made[0] == made[1]


def test_plans_are_valid(designs: list[tuple[list[ScenePresent], Design]]) -> None:
    for present, made in designs:
        if made.kind == "question":
            continue
        assert plan_problems(made.steps, present, KNOWLEDGE.labels, KNOWLEDGE) == [], made
        assert violations(made.steps, present, made.constraints, KNOWLEDGE) == [], made
        names = {sound.label for sound in present}
        for step in made.steps:
            assert parse_step(format_step(step)) == step
            if step.operation is Operation.ADD:
                assert KNOWLEDGE.bank_label(step.target) in KNOWLEDGE.labels
            else:
                assert step.target in names
                known = {sound.azimuth_deg for sound in present if sound.label == step.target}
                assert step.azimuth_deg is None or step.azimuth_deg in known
        extracts = [i for i, step in enumerate(made.steps) if step.operation is Operation.EXTRACT]
        assert extracts in ([], [0])


def test_plans_look_like_the_published_ones(designs: list[tuple[list[ScenePresent], Design]]) -> None:
    scenes = [made for _, made in designs if made.kind == "scene"]
    lengths = [len(made.steps) for made in scenes]
    assert 3.2 <= np.mean(lengths) <= 3.9
    assert np.mean([2 <= length <= 4 for length in lengths]) > 0.75
    assert max(lengths) <= MAX_STEPS
    adds = [step for made in scenes for step in made.steps if step.operation is Operation.ADD]
    counts = [sum(step.operation is Operation.ADD for step in made.steps) for made in scenes]
    assert max(counts) <= 3
    assert np.mean([count in (1, 2) for count in counts]) > 0.75
    assert np.mean([step.azimuth_deg in (-90.0, 0.0, 90.0) for step in adds]) > 0.85
    assert {step.azimuth_deg for step in adds} == set(DIRECTIONS.values())
    gains = [step.gain_db for step in adds]
    assert np.mean([gain in (1.0, 2.0, 3.0, 4.0) for gain in gains]) > 0.85
    assert all(gain is not None and gain == round(gain) for gain in gains)
    used = {step.operation for _, made in designs for step in made.steps}
    assert used == set(Operation)


def test_kinds_and_styles_come_in_their_proportions(designs: list[tuple[list[ScenePresent], Design]]) -> None:
    kinds = Counter(made.kind for _, made in designs)
    assert 0.52 < kinds["scene"] / DESIGNS < 0.66
    assert 0.11 < kinds["direct"] / DESIGNS < 0.21
    assert 0.07 < kinds["mixed"] / DESIGNS < 0.16
    assert 0.08 < kinds["question"] / DESIGNS < 0.16
    styles = {made.style for _, made in designs if made.kind == "scene"}
    assert styles == {*STYLE_SHARES, "lookalike"}
    traits = Counter(trait for _, made in designs for trait in made.traits)
    assert traits["elsewhere"] > 0.04 * DESIGNS
    assert 0.06 < traits["misspelt"] / DESIGNS < 0.14
    assert {c.kind for _, made in designs for c in made.constraints} == set(ConstraintKind)
    instructions = [made.instruction for _, made in designs]
    assert len(set(instructions)) > 0.9 * DESIGNS
    assert all(text.strip() == text and 2 <= len(text) <= 400 and "{" not in text for text in instructions)


def test_questions_offer_ways_out(designs: list[tuple[list[ScenePresent], Design]]) -> None:
    questions = [made for _, made in designs if made.kind == "question"]
    assert {made.style for made in questions} == set(QUESTION_SHARES)
    for made in questions:
        assert made.steps == ()
        assert made.question.endswith("?")
        assert 2 <= len(made.choices) <= 3
        assert len(set(made.choices)) == len(made.choices)
    for _, made in designs:
        assert bool(made.question) == (made.kind == "question") == bool(made.choices)


def test_every_scene_can_be_planned() -> None:
    rng = np.random.default_rng(5)
    for scene in KNOWLEDGE.scenes("all"):
        present = sample_present(rng)
        steps = scene_plan(rng, scene, present, KNOWLEDGE.labels, KNOWLEDGE)
        assert plan_problems(steps, present, KNOWLEDGE.labels, KNOWLEDGE) == []
        clashing = {s.label for s in present if KNOWLEDGE.verdict(scene, s.label) is Verdict.CLASHES}
        up = {step.target for step in steps if (step.gain_db or 0) > 0 and step.operation is not Operation.ADD}
        assert not clashing & up


def test_what_clashes_goes_and_what_belongs_stays() -> None:
    scene = KNOWLEDGE.scene("serene beach")
    present = [ScenePresent("sea waves", 0.0), ScenePresent("chainsaw or circular saw", 90.0)]
    for seed in range(100):
        steps = scene_plan(np.random.default_rng(seed), scene, present, KNOWLEDGE.labels, KNOWLEDGE)
        waves = [step for step in steps if step.target == "sea waves"]
        saw = [step for step in steps if step.target == "chainsaw or circular saw"]
        assert not any(step.operation is Operation.REMOVE for step in waves)
        extracted = any(step.operation is Operation.EXTRACT for step in waves)
        assert extracted or saw[0].operation is Operation.REMOVE or (saw[0].gain_db or 0.0) <= -3.0


def test_only_what_can_be_had_is_added() -> None:
    present = [ScenePresent("dog bark", None)]
    for seed in range(100):
        rng = np.random.default_rng(seed)
        made = design(rng, present, ["rain", "thunder"], KNOWLEDGE)
        if made.kind != "question":
            assert plan_problems(made.steps, present, ["rain", "thunder"], KNOWLEDGE) == []


@pytest.mark.parametrize(
    ("constraint", "broken"),
    [
        (Constraint(ConstraintKind.KEEP, ("rain",)), Step(Operation.REMOVE, "rain")),
        (Constraint(ConstraintKind.KEEP, ("rain",)), Step(Operation.EXTRACT, "piano")),
        (Constraint(ConstraintKind.KEEP, ("rain",)), Step(Operation.VOLUME, "rain fall", gain_db=-3.0)),
        (Constraint(ConstraintKind.UNTOUCHED, ("rain",)), Step(Operation.VOLUME, "rain", gain_db=3.0)),
        (Constraint(ConstraintKind.CLEAR_SIDE, side="left"), Step(Operation.REMOVE, "piano")),
        (
            Constraint(ConstraintKind.NO_ADD_SIDE, side="left"),
            Step(Operation.ADD, "thunder", azimuth_deg=-45.0),
        ),
        (Constraint(ConstraintKind.NO_ADD), Step(Operation.ADD, "thunder")),
        (Constraint(ConstraintKind.ONLY_ADD), Step(Operation.REMOVE, "piano")),
        (Constraint(ConstraintKind.EXCLUDE, ("thunder", "rain")), Step(Operation.ADD, "thunder")),
        (Constraint(ConstraintKind.EXCLUDE, ("rain",)), Step(Operation.REMOVE, "piano")),
    ],
)
def test_violations_are_found(constraint: Constraint, broken: Step) -> None:
    present = [ScenePresent("rain", -90.0), ScenePresent("piano", 90.0)]
    assert violations([broken], present, [constraint], KNOWLEDGE)
    if constraint.kind is ConstraintKind.CLEAR_SIDE:
        moved = Step(Operation.DIRECTION, "rain", -90.0, to_azimuth_deg=0.0)
        assert violations([moved], present, [constraint], KNOWLEDGE) == []


def test_alternatives_are_different_valid_plans(designs: list[tuple[list[ScenePresent], Design]]) -> None:
    rng = np.random.default_rng(1)
    planned = [pair for pair in designs if pair[1].kind == "scene"][:30]
    for present, made in planned + [pair for pair in designs if pair[1].kind == "mixed"][:15]:
        plans = alternative_plans(rng, made, present, KNOWLEDGE.labels, KNOWLEDGE, 2)
        assert len({frozenset(plan) for plan in (*plans, made.steps)}) == len(plans) + 1
        for plan in plans:
            assert set(made.literal) <= set(plan)
            assert violations(plan, present, made.constraints, KNOWLEDGE) == []
            assert plan_problems(plan, present, KNOWLEDGE.labels, KNOWLEDGE) == []


def test_bad_arguments() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least one sound"):
        design(rng, [], KNOWLEDGE.labels, KNOWLEDGE)
    with pytest.raises(ValueError, match="split"):
        design(rng, [ScenePresent("rain", None)], KNOWLEDGE.labels, KNOWLEDGE, split="dev")


# --- the endpoint ---

PRESENT = [ScenePresent("rain", 0.0), ScenePresent("car horn", -90.0)]
GOOD = {
    "instruction": "Make this sound like a stormy night",
    "steps": ["remove the sound of car horn", "add the sound of thunder at right with 3 dB"],
}
KEY = "sk-very-secret-key"


class FakeServer:
    """Answers with the given contents, one a request, and keeps what was asked."""

    def __init__(self, *contents: Any, status: int = 200) -> None:
        self.contents = list(contents)
        self.status = status
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        content = self.contents.pop(0)
        if isinstance(content, Exception):
            raise content
        if self.status != 200:
            return httpx.Response(self.status, text=f"you sent {request.headers['authorization']}")
        text = content if isinstance(content, str) else json.dumps(content)
        return httpx.Response(200, json={"choices": [{"message": {"content": text}}]})


def endpoint(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> EndpointDesigner:
    monkeypatch.setenv("MY_KEY", KEY)
    transport = httpx.MockTransport(server)
    return EndpointDesigner(ChatEndpoint("http://host/v1/", "m", "MY_KEY", transport=transport), KNOWLEDGE)


def test_endpoint_good_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(GOOD)
    designer = endpoint(server, monkeypatch)
    made = designer.design(PRESENT, ["thunder"], seed=7)
    assert made.instruction == GOOD["instruction"]
    assert format_step(made.steps[0]) == "remove the sound of car horn"
    request = server.requests[0]
    assert str(request.url) == "http://host/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    body = json.loads(request.content)
    assert body["seed"] == 7
    assert body["messages"][0]["content"] == system_prompt()
    assert json.loads(body["messages"][1]["content"])["can_be_added"] == ["thunder"]
    assert vars(designer.counts) == {"accepted": 1, "repaired": 0, "rejected": 0, "failed": 0}


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ("Sure! Here is a plan.", "JSON"),
        ({"instruction": "Make it rain", "steps": []}, "steps"),
        ({**GOOD, "note": "hi"}, "note"),
        ({**GOOD, "steps": ["dance with the car horn"]}, "step 1"),
        ({**GOOD, "steps": ["turn up the volume of rain by 99 dB"]}, "step 1"),
        ({**GOOD, "steps": ["remove the sound of piano"]}, "not in the recording"),
        ({**GOOD, "steps": ["add the sound of raining at left with 2 dB"]}, "there already"),
        ({**GOOD, "steps": ["add the sound of lava at left with 2 dB"]}, "not on the list"),
        (
            {**GOOD, "steps": ["remove the sound of rain", "remove the sound of car horn"]},
            "nothing of the recording",
        ),
        ({**GOOD, "steps": [GOOD["steps"][0], "turn up the volume of car horn by 2 dB"]}, "again"),
    ],
)
def test_endpoint_repairs_once(bad: Any, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer(bad, GOOD)
    designer = endpoint(server, monkeypatch)
    designer.design(PRESENT, ["thunder"])
    assert complaint in json.loads(server.requests[1].content)["messages"][-1]["content"]
    assert vars(designer.counts) == {"accepted": 1, "repaired": 1, "rejected": 1, "failed": 0}

    designer = endpoint(FakeServer(bad, bad), monkeypatch)
    with pytest.raises(SmartDJError) as caught:
        designer.design(PRESENT, ["thunder"])
    assert caught.value.code is ErrorCode.ENDPOINT_FAILED
    assert vars(designer.counts) == {"accepted": 0, "repaired": 0, "rejected": 2, "failed": 1}


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (FakeServer(httpx.ReadTimeout("slow")), "within 60 seconds"),
        (FakeServer(httpx.ConnectError("refused")), "can't be reached"),
        (FakeServer("", status=401), "status 401"),
        (FakeServer("", status=500), "status 500"),
    ],
)
def test_endpoint_transport_failures_never_show_the_key(
    server: FakeServer, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    designer = endpoint(server, monkeypatch)
    with caplog.at_level(logging.DEBUG), pytest.raises(SmartDJError) as caught:
        designer.design(PRESENT, ["thunder"])
    assert caught.value.code is ErrorCode.ENDPOINT_FAILED
    assert message in caught.value.message
    assert KEY not in f"{caught.value} {caplog.text} {designer!r}"
    assert designer.counts.failed == 1


def test_endpoint_answers_that_are_no_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    for body in ("<html>", "[]", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}'):
        transport = httpx.MockTransport(lambda _, body=body: httpx.Response(200, text=body))
        designer = EndpointDesigner(ChatEndpoint("http://host/v1", "m", "", transport=transport), KNOWLEDGE)
        with pytest.raises(SmartDJError) as caught:
            designer.design(PRESENT, ["thunder"])
        assert caught.value.code is ErrorCode.ENDPOINT_FAILED


def test_endpoint_key(monkeypatch: pytest.MonkeyPatch) -> None:
    designer = endpoint(FakeServer(GOOD), monkeypatch)
    monkeypatch.setenv("MY_KEY", "clé\n")
    with pytest.raises(SmartDJError) as caught:
        designer.design(PRESENT, ["thunder"])
    assert "clé" not in str(caught.value)
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(SmartDJError, match="MY_KEY is not set"):
        designer.design(PRESENT, ["thunder"])
    server = FakeServer(GOOD)
    chat = ChatEndpoint("http://h", "m", api_key_env="", transport=httpx.MockTransport(server))
    open_server = EndpointDesigner(chat, KNOWLEDGE)
    open_server.design(PRESENT, ["thunder"])
    assert "authorization" not in server.requests[0].headers
