"""The designer: writes an instruction and its plan for a recording, from knowledge of everyday scenes.

The knowledge is data in ``training/scenes``, all of it written for this project:

``labels.yaml``
    Every label of the clip bank by category, with a noun and 3 to 6 short paraphrases.
``settings.yaml``
    Groups of labels, and the kinds of place (woodland, kitchen, …) that give every category a verdict.
``wordings.yaml``
    How people ask: sentence templates by style and split, direct requests, constraints, genres, wishes that only look
    like contradictions.
``questions.yaml``
    What can't be planned (contradictions composed from pairs of qualities, chatter, the impossible) and what is asked
    back.
``moments.yaml``
    Other times, places and weathers that scenes can be moved to ("a coffee shop in the 1920s").
every other ``*.yaml``
    A list of scenes::

        - name: serene beach                 # unique; its hash decides the split unless `split:` is given
          setting: coast                     # a key of settings.yaml
          phrases: [a serene beach, …]       # at least 4 noun phrases with article, in no other scene
          moods: [serene, soothing]          # optional, two adjectives
          belongs:                           # most typical first
            - waves lapping = sea waves | medium | front/right
            - {label: seagulls calling, like: seagull calling, gain_db: [2, 4], directions: [left], role: key}
          fits: [], soften: [], clashes: []  # labels, @groups or categories; they go before the setting's
          room: {kind: hall, level: 6}       # optional: none, small or hall; else the setting's
          timbre: muffled                    # optional: what the scene does to sounds

    A short form of `belongs` is ``WORDING [= BANK LABEL] | LOUDNESS | DIRECTION/DIRECTION | ROLE``; the parts
    after the wording may be left out. Loudness is faint, soft, medium, loud or dominant. To add a scene, add
    an entry.

`design` is a pure function of its random generator and its inputs: the same seed gives the same design.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cache, cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from smartdj_agent.constraints import Constraint, ConstraintKind, Located, on_side
from smartdj_agent.constraints import violations as broken
from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.steps import DIRECTIONS, Operation, Step, Timbre

SCENES_FOLDER = Path(__file__).parent / "scenes"

SPLITS = ("train", "valid", "test")
TRAIN_PERCENT, VALID_PERCENT = 85, 5
"""Share of scenes by hash of their name; the rest is test."""

KIND_SHARES = {"scene": 0.60, "direct": 0.16, "mixed": 0.12, "question": 0.12}
CONSTRAINT_SHARE = 0.24
"""Share of scene and direct designs whose instruction carries a constraint."""
SECOND_CONSTRAINT_SHARE = 0.12
"""How often a constraint is followed by another one."""
LEADING_SHARE = 0.20
"""How often a constraint stands before the wish, where its wording allows it."""
STYLE_SHARES = {
    "plain": 0.30,
    "terse": 0.11,
    "chatty": 0.12,
    "technical": 0.09,
    "first person": 0.13,
    "mood and place": 0.08,
    "mood only": 0.04,
    "genre only": 0.05,
    "story": 0.08,
}
MOMENT_SHARE = 0.16
"""How often a scene is moved to another time, place or weather, where one is possible."""
LOOKALIKE_SCENE_SHARE, LOOKALIKE_DIRECT_SHARE = 0.10, 0.20
"""How often a wish is worded so that it looks like a contradiction, a question or chatter, and is none."""
SHARED_WORDING_SHARE = 0.30
"""How often a style that has wordings common to training and validation (the published forms) uses one of them."""
MISSPELT_SHARE = 0.10
PLAN_LENGTH_SHARES = {1: 0.03, 2: 0.24, 3: 0.38, 4: 0.25, 5: 0.07, 6: 0.03}
ADD_COUNT_SHARES = {0: 0.04, 1: 0.42, 2: 0.45, 3: 0.09}
MAX_STEPS = 6
MAX_ADDS = 3
REMOVE_SHARE = 0.82
"""How often a clashing sound is removed; otherwise it is turned far down."""
EXTRACT_SHARE = 0.30
"""How often one kept sound is extracted where everything else would be removed."""
NAMED_DIRECTION_SHARE = 0.30
"""How often a step names the known direction of an existing sound (a change of direction always does)."""
OFF_LIST_DIRECTION_SHARE = 0.12
"""How often an added sound leaves the directions that its scene prefers, for any of the five."""
ADD_FALLBACK_DIRECTIONS = {
    "left": 0.36,
    "front": 0.20,
    "right": 0.36,
    "left front": 0.04,
    "right front": 0.04,
}
ROOM_REVERB_SHARE = 0.30
SCENE_TIMBRE_SHARE = 0.65
PARAPHRASE_SHARE = 0.40
"""How often an added sound that the scene names by its bank label is worded otherwise."""
DIRECT_OPERATION_SHARES = {
    "louder": 0.20,
    "quieter": 0.20,
    "remove": 0.17,
    "direction": 0.15,
    "add": 0.09,
    "reverb": 0.06,
    "timbre": 0.06,
    "later": 0.03,
    "earlier": 0.02,
    "extract": 0.02,
}
VAGUE_SHARE = 0.35
"""How often a direct request that has wordings without a number uses one."""
DIRECT_COUNT_SHARES = {1: 0.38, 2: 0.42, 3: 0.20}
QUESTION_SHARES = {
    "opposites": 0.34,
    "scene clash": 0.10,
    "reversal": 0.17,
    "impossible": 0.10,
    "empty": 0.09,
    "off topic": 0.08,
    "absent": 0.08,
    "nothing left": 0.04,
}
LOOKALIKE_DB, LOOKALIKE_SECONDS = 3, 1.0
"""What a wish such as "the dog louder, the piano later" means where it gives no number."""
BELONGS_WEIGHT, FITS_WEIGHT = 9.0, 1.5
"""How much a present sound that belongs or fits raises the chance of a scene (which starts at 1)."""

LOUDNESS_DB: dict[str, tuple[int, int]] = {
    "faint": (-2, 1),
    "soft": (1, 2),
    "medium": (1, 3),
    "loud": (2, 4),
    "dominant": (4, 6),
}
"""Level in dB at which a sound is added, both ends included, by the scene's word for it."""

CATEGORY_NOUNS = {
    "animal": "animals",
    "human": "people",
    "instrument": "music",
    "vehicle": "vehicles",
    "alarm": "alarms",
    "machine": "machines",
}
"""What a person calls a category in a constraint such as "no animals"."""

LOOKALIKE_CHANGES = ("louder", "quieter", "left", "right", "remove", "earlier", "later", "bright", "dark")

_T = TypeVar("_T")


# --- the knowledge as files ---------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelWords(_Strict):
    """How a bank label is said.

    Attributes
    ----------
    noun
        The sound's source, to be used after "the".
    words
        3 to 6 paraphrases.
    """

    noun: str = Field(min_length=2)
    words: tuple[str, ...] = Field(min_length=3, max_length=6)


class Group(_Strict):
    """A named set of bank labels."""

    noun: str = Field(min_length=2)
    labels: tuple[str, ...] = Field(min_length=1)


class Room(_Strict):
    """The room of a scene: its kind and a reverberation level, 0 (dry) to 10."""

    kind: Literal["none", "small", "hall"]
    level: int = Field(ge=0, le=10)


class _Verdicts(_Strict):
    fits: tuple[str, ...] = ()
    soften: tuple[str, ...] = ()
    clashes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _once_each(self) -> _Verdicts:
        names = [*self.fits, *self.soften, *self.clashes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed twice among fits, soften and clashes")
        return self


class Setting(_Verdicts):
    """A kind of place that scenes share; gives every category a verdict."""

    room: Room


def _read_belonging(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    wording, *rest = (part.strip() for part in value.split("|"))
    label, _, like = (part.strip() for part in wording.partition("="))
    entry: dict[str, Any] = {"label": label, "like": like}
    if len(rest) > 3:
        raise ValueError(f"{value!r} has more than three parts after the wording")
    if rest:
        if rest[0] not in LOUDNESS_DB:
            raise ValueError(f"loudness {rest[0]!r} in {value!r} is none of {', '.join(LOUDNESS_DB)}")
        entry["gain_db"] = LOUDNESS_DB[rest[0]]
    if len(rest) > 1:
        entry["directions"] = [direction.strip() for direction in rest[1].split("/")]
    if len(rest) > 2:
        entry["role"] = rest[2]
    return entry


class Belonging(_Strict):
    """A sound that belongs to a scene.

    Attributes
    ----------
    label
        Its name in plans; any natural wording.
    like
        The bank label it stands for; empty where `label` is a bank label or one of its paraphrases.
    gain_db
        Lowest and highest level at which it is added, dB; or a word of `LOUDNESS_DB`.
    directions
        Preferred directions, best first; empty for any.
    role
        ``key`` sounds make the scene and are added first, ``detail`` sounds fill it.
        Empty: the first two of a scene are key.
    """

    label: str = Field(min_length=2, max_length=60)
    like: str = ""
    gain_db: tuple[int, int] = LOUDNESS_DB["medium"]
    directions: tuple[Literal["left", "left front", "front", "right front", "right"], ...] = ()
    role: Literal["key", "detail", ""] = ""

    @model_validator(mode="before")
    @classmethod
    def _loudness_word(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("gain_db") in LOUDNESS_DB:
            return values | {"gain_db": LOUDNESS_DB[values["gain_db"]]}
        return values

    @model_validator(mode="after")
    def _ordered(self) -> Belonging:
        low, high = self.gain_db
        if not -24 <= low <= high <= 24:
            raise ValueError(f"gain_db must be a range within -24 to 24 dB, low end first, not {low} to {high}")
        return self


class Scene(_Verdicts):
    """One everyday scene; see the module's docstring for the fields."""

    name: str = Field(min_length=3)
    setting: str
    phrases: tuple[str, ...] = Field(min_length=4)
    moods: tuple[str, ...] = ()
    belongs: tuple[Annotated[Belonging, BeforeValidator(_read_belonging)], ...] = Field(min_length=3)
    room: Room | None = None
    timbre: Timbre | None = None
    split: Literal["train", "valid", "test", ""] = ""

    @property
    def effective_split(self) -> str:
        """The split given, else the one that the name's hash falls into."""
        if self.split:
            return self.split
        percent = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big") % 100
        if percent < TRAIN_PERCENT:
            return "train"
        return "valid" if percent < TRAIN_PERCENT + VALID_PERCENT else "test"


class Moment(_Verdicts):
    """Another time, place or weather for scenes; see ``moments.yaml`` for the fields."""

    name: str = Field(min_length=3)
    split: Literal["train", "test"]
    phrases: tuple[str, ...] = Field(min_length=3)
    settings: tuple[str, ...] = Field(min_length=1)
    unlike: tuple[str, ...] = ()
    belongs: tuple[Annotated[Belonging, BeforeValidator(_read_belonging)], ...] = Field(min_length=2)


class Templates(_Strict):
    """Wordings by split: `train` serves train and valid, as does `shared`, `test` only test."""

    train: tuple[str, ...] = Field(min_length=1)
    test: tuple[str, ...] = Field(min_length=1)
    shared: tuple[str, ...] = ()

    def own(self, split: str) -> tuple[str, ...]:
        """The wordings that belong to a split alone."""
        return self.test if split == "test" else self.train


class Pole(_Strict):
    """Wordings of one end of an axis by split; without `train` the axis is for test alone."""

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = Field(min_length=1)

    def own(self, split: str) -> tuple[str, ...]:
        """The wordings of a split; empty where it has none."""
        return self.test if split == "test" else self.train


class Asking(Templates):
    """Wordings of one sort of request that can't be planned, what is asked back, and instructions that would work."""

    question: str = Field(pattern=r"\?$")
    choices: tuple[str, ...] = Field(max_length=3)


class Questions(_Strict):
    """The content of ``questions.yaml``."""

    axes: dict[str, tuple[Pole, Pole]]
    kinds: dict[str, tuple[Asking, ...]]
    fillers: dict[str, Templates]

    @model_validator(mode="after")
    def _kinds_as_drawn(self) -> Questions:
        if set(self.kinds) != set(QUESTION_SHARES):
            raise ValueError(f"the kinds are {', '.join(QUESTION_SHARES)}")
        return self


class Vague(_Strict):
    """A wording without a number, and the number it stands for."""

    words: str
    value: int


class VagueWords(_Strict):
    """Wordings without a number by split."""

    train: tuple[Vague, ...]
    test: tuple[Vague, ...]


class LookalikeRequest(Templates):
    """Direct wishes on two sounds that look like a contradiction.

    Attributes
    ----------
    steps
        Pairs of what is done (`LOOKALIKE_CHANGES`) and ``noun`` or ``noun2``.
    keep
        Which of the two must stay.
    """

    steps: tuple[tuple[str, Literal["noun", "noun2"]], ...] = Field(min_length=1)
    keep: tuple[Literal["noun", "noun2"], ...] = ()

    @model_validator(mode="after")
    def _known_changes(self) -> LookalikeRequest:
        unknown = sorted({change for change, _ in self.steps} - set(LOOKALIKE_CHANGES))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is none of {', '.join(LOOKALIKE_CHANGES)}")
        return self


class Lookalikes(_Strict):
    """Wishes that look like contradictions, chatter or questions, and are none."""

    scene: Templates
    direct: tuple[LookalikeRequest, ...]


class Genres(_Strict):
    """Kinds of films, shows and music with the scenes that they could open with, by split."""

    train: dict[str, tuple[str, ...]]
    test: dict[str, tuple[str, ...]]

    def own(self, split: str) -> dict[str, tuple[str, ...]]:
        """The genres of a split; valid has none of its own scenes among them, so it draws none."""
        return {"train": self.train, "test": self.test}.get(split, {})


class Wordings(_Strict):
    """The content of ``wordings.yaml``."""

    scene: dict[str, Templates]
    constraint: dict[str, Templates]
    leading: tuple[str, ...]
    lookalike: Lookalikes
    direct: dict[str, Templates]
    vague: dict[str, VagueWords]
    timbre_words: dict[Timbre, tuple[str, ...]]
    where_words: dict[str, tuple[str, ...]]
    joiners: tuple[str, ...]
    genres: Genres
    uncountable: tuple[str, ...]


class _Labels(_Strict):
    categories: dict[str, dict[str, LabelWords]]


class _Moments(_Strict):
    moments: tuple[Moment, ...]


class _Settings(_Strict):
    groups: dict[str, Group]
    settings: dict[str, Setting]


class _UniqueKeyLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that refuses a key given twice, which YAML would silently overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _fail(message: str, hint: str, where: str = "") -> SmartDJError:
    return SmartDJError(ErrorCode.USAGE, message, hint, where)


def _load_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise _fail(f"{path} can't be read: {error.strerror}", "Check the folder of scenes.") from error
    except yaml.YAMLError as error:
        text = " ".join(str(error).split())
        raise _fail(f"{path.name} is not valid YAML: {text}", "Mend the line named.") from error


_Model = TypeVar("_Model", bound=BaseModel)


def _validate(model: type[_Model], data: Any, path: Path, what: str) -> _Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _fail(
            f"{path.name}: {what}{': ' + where if where else ''}: {first['msg']}",
            "training/designer.py says how an entry is written.",
            where,
        ) from error


# --- the knowledge in use -----------------------------------------------------------------------------------


class Verdict(IntEnum):
    """What a scene thinks of a sound."""

    BELONGS = 0
    FITS = 1
    SOFTEN = 2
    CLASHES = 3


class SceneKnowledge:
    """All that the designer knows: labels and their wordings, settings, scenes, sentence templates.

    Raises
    ------
    SmartDJError
        USAGE, naming file, entry and field, where the data contradict the format or each other.
    """

    def __init__(
        self,
        labels: Mapping[str, Mapping[str, LabelWords]],
        groups: Mapping[str, Group],
        settings: Mapping[str, Setting],
        scenes: Sequence[Scene],
        wordings: Wordings,
        questions: Questions,
        moments: Sequence[Moment],
    ) -> None:
        self._words = {label: words for members in labels.values() for label, words in members.items()}
        self._category = {label: category for category, members in labels.items() for label in members}
        self.categories = tuple(labels)
        self.labels = tuple(self._words)
        self.groups = dict(groups)
        self.settings = dict(settings)
        self.wordings = wordings
        self.questions = questions
        self.moments = tuple(moments)
        self._scenes = {scene.name: scene for scene in scenes}
        self._bank_label: dict[str, str] = {}
        self._check_labels()
        self._check_selectors()
        self._check_scenes(scenes)
        self._check_moments()
        self._check_genres()
        self._verdicts = {
            scene.name: self._verdicts_of(scene.belongs, scene, self.settings[scene.setting]) for scene in scenes
        }
        self._moved: dict[str, Scene] = {}
        self._last_wordings: tuple[tuple[str, ...], frozenset[str]] = ((), frozenset())
        self._scenes_by_split = {
            split: tuple(s for s in scenes if split in ("all", s.effective_split)) for split in (*SPLITS, "all")
        }

    @classmethod
    def load(cls, folder: Path = SCENES_FOLDER) -> SceneKnowledge:
        """Read and check a folder of scenes."""
        path = folder / "labels.yaml"
        labels = _validate(_Labels, {"categories": _load_yaml(path)}, path, "labels").categories
        path = folder / "settings.yaml"
        settings = _validate(_Settings, _load_yaml(path), path, "settings")
        path = folder / "wordings.yaml"
        wordings = _validate(Wordings, _load_yaml(path), path, "wordings")
        path = folder / "questions.yaml"
        questions = _validate(Questions, _load_yaml(path), path, "questions")
        path = folder / "moments.yaml"
        moments = _validate(_Moments, {"moments": _load_yaml(path)}, path, "moments").moments
        scenes: list[Scene] = []
        for path in sorted(folder.glob("*.yaml")):
            if path.stem in ("labels", "settings", "wordings", "questions", "moments"):
                continue
            entries = _load_yaml(path)
            if not isinstance(entries, list):
                raise _fail(f"{path.name} is not a list of scenes", "Begin each scene with '- name: …'.")
            for index, entry in enumerate(entries):
                name = entry.get("name", index) if isinstance(entry, dict) else index
                scenes.append(_validate(Scene, entry, path, f"scene {name!r}"))
        return cls(labels, settings.groups, settings.settings, scenes, wordings, questions, moments)

    # checks

    def _check_labels(self) -> None:
        for label in self._words:
            self._bank_label[label] = label
        for label, words in self._words.items():
            for word in words.words:
                if self._bank_label.setdefault(word, label) != label or word != word.lower():
                    raise _fail(
                        f"labels.yaml: {word!r} of {label!r} also means {self._bank_label[word]!r} or has capitals",
                        "Each wording belongs to one label and is in lower case.",
                    )

    def _check_selectors(self) -> None:
        for name, group in self.groups.items():
            for label in group.labels:
                if label not in self._words:
                    raise _fail(f"settings.yaml: group {name!r} names {label!r}, no bank label", "See labels.yaml.")
        for name, setting in self.settings.items():
            self._check_verdicts(setting, f"settings.yaml: setting {name!r}")
            given = {*setting.fits, *setting.soften, *setting.clashes}
            missing = [category for category in self.categories if category not in given]
            if missing:
                raise _fail(
                    f"settings.yaml: setting {name!r} gives no verdict on {', '.join(missing)}",
                    "Put each category under fits, soften or clashes.",
                )

    def _check_verdicts(self, verdicts: _Verdicts, where: str) -> None:
        for selector in (*verdicts.fits, *verdicts.soften, *verdicts.clashes):
            known = (
                selector[1:] in self.groups
                if selector.startswith("@")
                else selector in self._words or selector in self.categories
            )
            if not known:
                raise _fail(f"{where} names {selector!r}, no label, @group or category", "See labels.yaml.")

    def _check_scenes(self, scenes: Sequence[Scene]) -> None:
        if len(self._scenes) != len(scenes):
            names = [scene.name for scene in scenes]
            raise _fail(f"scene {next(n for n in names if names.count(n) > 1)!r} is there twice", "Rename one.")
        phrases: dict[str, str] = {}
        for scene in scenes:
            where = f"scene {scene.name!r}"
            if scene.setting not in self.settings:
                raise _fail(f"{where}: setting {scene.setting!r} is unknown", f"One of {', '.join(self.settings)}.")
            self._check_verdicts(scene, where)
            for phrase in scene.phrases:
                if phrases.setdefault(phrase.lower(), scene.name) != scene.name:
                    raise _fail(f"{where}: phrase {phrase!r} is also in {phrases[phrase.lower()]!r}", "Reword one.")
            self._check_belongs(where, scene.belongs)

    def _check_belongs(self, where: str, belongs: Sequence[Belonging]) -> None:
        seen: set[str] = set()
        for entry in belongs:
            like = entry.like or self._bank_label.get(entry.label, "")
            if like not in self._words:
                raise _fail(
                    f"{where}: {entry.label!r} is like {like or 'nothing'!r}, which is no bank label",
                    "Say which bank label it sounds like: 'WORDING = BANK LABEL'.",
                )
            if self._bank_label.setdefault(entry.label, like) != like:
                raise _fail(
                    f"{where}: {entry.label!r} is like {like!r} here but {self._bank_label[entry.label]!r} elsewhere",
                    "A wording stands for one bank label; reword one of them.",
                )
            if like in seen:
                raise _fail(f"{where}: {like!r} belongs twice", "Name each bank label once in a scene.")
            seen.add(like)

    def _check_moments(self) -> None:
        names: set[str] = set()
        for moment in self.moments:
            where = f"moments.yaml: {moment.name!r}"
            if moment.name in names:
                raise _fail(f"{where} is there twice", "Rename one.")
            names.add(moment.name)
            unknown = sorted(set(moment.settings) - set(self.settings))
            if unknown:
                raise _fail(f"{where}: setting {unknown[0]!r} is unknown", f"One of {', '.join(self.settings)}.")
            self._check_verdicts(moment, where)
            self._check_belongs(where, moment.belongs)

    def _check_genres(self) -> None:
        for split in ("train", "test"):
            for genre, names in self.wordings.genres.own(split).items():
                for name in names:
                    if name not in self._scenes or self._scenes[name].effective_split != split:
                        raise _fail(
                            f"wordings.yaml: genre {genre!r} names {name!r}, no scene of the split {split}",
                            "Name a scene that is there, in the split of the genre.",
                        )

    # verdicts

    def _verdicts_of(self, belongs: Iterable[Belonging], *scopes: _Verdicts) -> dict[str, Verdict]:
        """Verdicts on all labels; of `scopes` the first speaks last."""
        verdicts: dict[str, Verdict] = {}
        # From the weakest word to the strongest, each overwriting: category, @group, label; setting, scene, moment.
        for scope in reversed(scopes):
            lists = (
                (Verdict.CLASHES, scope.clashes),
                (Verdict.SOFTEN, scope.soften),
                (Verdict.FITS, scope.fits),
            )
            for rank in ("category", "group", "label"):
                for verdict, selectors in lists:
                    for selector in selectors:
                        if self._rank(selector) == rank:
                            verdicts.update(dict.fromkeys(self.select(selector), verdict))
        verdicts.update({self.like(entry): Verdict.BELONGS for entry in belongs})
        return verdicts

    def _rank(self, selector: str) -> str:
        if selector.startswith("@"):
            return "group"
        return "label" if selector in self._words else "category"

    def select(self, selector: str) -> tuple[str, ...]:
        """The bank labels that a label, @group or category stands for."""
        if selector.startswith("@"):
            return self.groups[selector[1:]].labels
        if selector in self._words:
            return (selector,)
        return tuple(label for label, category in self._category.items() if category == selector)

    def verdict(self, scene: Scene, label: str) -> Verdict:
        """What a scene thinks of a sound; a sound that nothing is known about fits."""
        return self._verdicts[scene.name].get(self.bank_label(label) or "", Verdict.FITS)

    def room(self, scene: Scene) -> Room:
        """The scene's room, else its setting's."""
        return scene.room or self.settings[scene.setting].room

    # words

    def scenes(self, split: str) -> tuple[Scene, ...]:
        """The scenes of a split: ``train``, ``valid`` or ``test``; ``all`` for every one."""
        return self._scenes_by_split[split]

    def scene(self, name: str) -> Scene:
        """The scene of that name; ``SCENE, MOMENT`` is the scene moved there."""
        if name in self._scenes:
            return self._scenes[name]
        scene, _, at = name.rpartition(", ")
        return self.moved(self._scenes[scene], next(moment for moment in self.moments if moment.name == at))

    def moments_for(self, scene: Scene, split: str) -> tuple[Moment, ...]:
        """The moments of a split that a scene can be moved to: right setting, nothing said twice or against it."""
        own = "test" if split == "test" else "train"
        words = set(re.findall(r"[a-z0-9'-]+", " ".join((scene.name, *scene.phrases)).lower()))
        return tuple(
            moment
            for moment in self.moments
            if moment.split == own
            and scene.setting in moment.settings
            and not any(set(unlike.split()) <= words for unlike in moment.unlike)
        )

    def moved(self, scene: Scene, moment: Moment) -> Scene:
        """The scene at another moment: both lists of sounds in turn, less what clashes with the moment."""
        name = f"{scene.name}, {moment.name}"
        if name not in self._moved:
            out = {label for selector in moment.clashes for label in self.select(selector)}
            new = {self.like(entry) for entry in moment.belongs}
            own = [entry for entry in scene.belongs if self.like(entry) not in out | new]
            pairs = zip_longest(own, moment.belongs)
            belongs = tuple(entry for pair in pairs for entry in pair if entry is not None)
            phrases = tuple(f"{phrase} {when}" for phrase in scene.phrases for when in moment.phrases)
            update = {"name": name, "belongs": belongs, "phrases": phrases}
            self._verdicts[name] = self._verdicts_of(belongs, moment, scene, self.settings[scene.setting])
            self._moved[name] = scene.model_copy(update=update)
        return self._moved[name]

    @cached_property
    def genres_of(self) -> dict[str, tuple[str, ...]]:
        """Scene → the genres that it could open."""
        found: dict[str, list[str]] = {}
        for split in ("train", "test"):
            for genre, names in self.wordings.genres.own(split).items():
                for name in names:
                    found.setdefault(name, []).append(genre)
        return {name: tuple(genres) for name, genres in found.items()}

    def bank_label(self, wording: str) -> str | None:
        """The bank label that a label, paraphrase or scene wording stands for; None where unknown."""
        return self._bank_label.get(wording.lower())

    def bank_labels(self, wordings: Iterable[str]) -> frozenset[str]:
        """The bank labels of many wordings; an unknown one stands for itself, in lower case."""
        given = tuple(wordings)
        # The same list of sounds to add comes with every plan.
        if self._last_wordings[0] != given:
            labels = frozenset(self.bank_label(wording) or wording.lower() for wording in given)
            self._last_wordings = (given, labels)
        return self._last_wordings[1]

    def like(self, entry: Belonging) -> str:
        """The bank label of a sound that belongs to a scene."""
        return self._bank_label[entry.label]

    def category(self, label: str) -> str:
        """The category of a bank label, or of what stands for one; empty where unknown."""
        return self._category.get(self.bank_label(label) or "", "")

    def words(self, label: str) -> tuple[str, ...]:
        """A bank label and all its paraphrases, clauses such as "a dog barks" among them."""
        return (label, *self._words[label].words)

    def names(self, label: str) -> tuple[str, ...]:
        """A bank label and those of its paraphrases that can follow "the sound of"."""
        return tuple(w for w in self.words(label) if not w.startswith(("a ", "an ", "someone ", "something ")))

    def noun(self, label: str) -> str:
        """What a person calls a sound, to be used after "the"; the wording itself where nothing is known."""
        bank = self.bank_label(label)
        return self._words[bank].noun if bank else label

    @cached_property
    def _score_matrices(self) -> dict[str, np.ndarray]:
        columns = self.labels
        matrices = {}
        for split in (*SPLITS, "all"):
            rows = [[self._verdicts[s.name][label] for label in columns] for s in self.scenes(split)]
            verdicts = np.array(rows, dtype=np.int8).reshape(len(rows), len(columns))
            matrices[split] = BELONGS_WEIGHT * (verdicts == Verdict.BELONGS) + FITS_WEIGHT * (verdicts == Verdict.FITS)
        return matrices

    @cached_property
    def _column(self) -> dict[str, int]:
        return {label: index for index, label in enumerate(self.labels)}

    def scene_weights(self, present: Iterable[str], split: str) -> np.ndarray:
        """How apt each scene of a split is for what is present.

        Returns
        -------
        np.ndarray
            (scenes of the split,), summing to 1, in the order of `scenes`.
        """
        columns = [self._column[bank] for bank in map(self.bank_label, present) if bank]
        weights = 1.0 + self._score_matrices[split][:, columns].sum(axis=1)
        return weights / weights.sum()


@cache
def default_knowledge() -> SceneKnowledge:
    """The knowledge in this folder, loaded once."""
    return SceneKnowledge.load()


# --- what a design is ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScenePresent:
    """A sound in the recording.

    Attributes
    ----------
    label
        Its name; plans use it as it is. A bank label or any wording that `SceneKnowledge.bank_label` knows.
    azimuth_deg
        Where it is, −90 (left) to 90 (right); None where unknown.
    """

    label: str
    azimuth_deg: float | None


@dataclass(frozen=True)
class Design:
    """An instruction and what it means.

    Attributes
    ----------
    instruction
        What a person says.
    scene
        Name of the scene; empty for direct requests and most questions.
    steps
        The plan; empty for a question.
    kind
        ``scene``, ``direct``, ``mixed`` or ``question``.
    question
        What to ask back; empty unless kind is ``question``.
    choices
        Two or three instructions that would work; empty unless kind is ``question``.
    constraints
        What the instruction forbids; the steps honour it.
    style
        The style of wording, or the sort of question.
    traits
        What else is special: ``misspelt``, ``elsewhere`` (moved to another time or place), ``lookalike`` (looks like
        a contradiction and is none).
    literal
        Those of a mixed request's steps that it asks for word by word.
    """

    instruction: str
    scene: str
    steps: tuple[Step, ...]
    kind: str
    question: str = ""
    choices: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = field(default=())
    style: str = ""
    traits: tuple[str, ...] = ()
    literal: tuple[Step, ...] = ()


def violations(
    steps: Sequence[Step],
    present: Sequence[ScenePresent],
    constraints: Sequence[Constraint],
    knowledge: SceneKnowledge,
) -> list[str]:
    """Say how a plan breaks an instruction's constraints; see `smartdj_agent.constraints.violations`."""
    located = [Located(sound.label, sound.azimuth_deg) for sound in present]
    return broken(steps, located, constraints, lambda label: knowledge.bank_label(label) or label)


def plan_problems(
    steps: Sequence[Step], present: Sequence[ScenePresent], addable: Iterable[str], knowledge: SceneKnowledge
) -> list[str]:
    """Say what is wrong with a plan whoever wrote it; an empty list means a sound plan.

    A sound plan has 1 to `MAX_STEPS` steps and at most `MAX_ADDS` additions, changes only what is there, adds
    only what is not there and can be had, names no sound twice and leaves something of the recording.
    """

    def key(label: str) -> str:
        return knowledge.bank_label(label) or label.lower()

    there = {key(sound.label) for sound in present}
    available = knowledge.bank_labels(addable)
    found: list[str] = []
    if not 1 <= len(steps) <= MAX_STEPS:
        found.append(f"a plan has 1 to {MAX_STEPS} steps, not {len(steps)}")
    named: set[str] = set()
    left = set(there)
    adds = 0
    for number, step in enumerate(steps, 1):
        name = key(step.target)
        if name in named:
            found.append(f"step {number} names {step.target!r} again")
        named.add(name)
        if step.operation is Operation.ADD:
            adds += 1
            if name in there:
                found.append(f"step {number} adds {step.target!r}, which is there already")
            elif name not in available:
                found.append(f"step {number} adds {step.target!r}, which is not on the list of sounds to add")
        elif name not in there:
            found.append(f"step {number} changes {step.target!r}, which is not in the recording")
        if step.operation is Operation.REMOVE:
            left.discard(name)
        if step.operation is Operation.EXTRACT:
            left &= {name}
    if adds > MAX_ADDS:
        found.append(f"a plan adds at most {MAX_ADDS} sounds, not {adds}")
    if there and not left:
        found.append("nothing of the recording is left")
    return found


# --- chance -------------------------------------------------------------------------------------------------


def _pick(rng: np.random.Generator, items: Sequence[_T]) -> _T:
    return items[int(rng.integers(len(items)))]


def _draw(rng: np.random.Generator, shares: Mapping[_T, float]) -> _T:
    keys = list(shares)
    weights = np.array([shares[key] for key in keys])
    return keys[int(rng.choice(len(keys), p=weights / weights.sum()))]


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _shuffled(rng: np.random.Generator, items: Sequence[_T]) -> list[_T]:
    return [items[i] for i in rng.permutation(len(items))]


# --- the plan of a scene ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sound:
    """A distinct sound of the recording: its name, the key it is known by, and where it is if known."""

    name: str
    key: str
    azimuth_deg: float | None


def _distinct(present: Sequence[ScenePresent], knowledge: SceneKnowledge) -> list[_Sound]:
    """Merge sounds of one label; where their places differ the place is left unsaid: a step means both."""
    sounds: dict[str, _Sound] = {}
    for sound in present:
        key = knowledge.bank_label(sound.label) or sound.label.lower()
        known = sounds.get(key)
        if known is None:
            sounds[key] = _Sound(sound.label, key, sound.azimuth_deg)
        elif known.azimuth_deg != sound.azimuth_deg:
            sounds[key] = _Sound(known.name, key, None)
    return list(sounds.values())


def _named_azimuth(azimuth_deg: float | None) -> float | None:
    """The nearest of the five named directions."""
    if azimuth_deg is None:
        return None
    return min(DIRECTIONS.values(), key=lambda named: abs(named - azimuth_deg))


def _heard_at(rng: np.random.Generator, sound: _Sound) -> float | None:
    return _named_azimuth(sound.azimuth_deg) if _chance(rng, NAMED_DIRECTION_SHARE) else None


def _allowed_azimuths(constraints: Sequence[Constraint], *, adding: bool) -> list[float]:
    kinds = {ConstraintKind.CLEAR_SIDE} | ({ConstraintKind.NO_ADD_SIDE} if adding else set())
    closed = [c.side for c in constraints if c.kind in kinds]
    return [a for a in DIRECTIONS.values() if not any(on_side(a, side) for side in closed)]


def _other_azimuth(rng: np.random.Generator, sound: _Sound, allowed: Sequence[float]) -> float:
    """A named direction for a sound to move to: rather far from where it is."""
    here = _named_azimuth(sound.azimuth_deg)
    options = [a for a in allowed if a != here]
    weights = np.array(
        [(1.0 if a in (-90.0, 0.0, 90.0) else 0.25) * (1.0 + abs(a - (here or 0.0)) / 90.0) for a in options]
    )
    return options[int(rng.choice(len(options), p=weights / weights.sum()))]


def _add_step(
    rng: np.random.Generator,
    entry: Belonging,
    knowledge: SceneKnowledge,
    allowed: Sequence[float],
    used: set[float],
) -> Step:
    bank = knowledge.like(entry)
    name = entry.label
    if name == bank and _chance(rng, PARAPHRASE_SHARE):
        name = _pick(rng, knowledge.names(bank))
    if entry.directions and not _chance(rng, OFF_LIST_DIRECTION_SHARE):
        wanted = [DIRECTIONS[direction] for direction in entry.directions]
        wanted = [a for a in wanted if a in allowed and a not in used] or [a for a in wanted if a in allowed]
    else:
        wanted = []
    if wanted:
        azimuth = wanted[0] if _chance(rng, 0.7) else _pick(rng, wanted)
    else:
        fallback = {DIRECTIONS[n]: share for n, share in ADD_FALLBACK_DIRECTIONS.items() if DIRECTIONS[n] in allowed}
        free = {a: share for a, share in fallback.items() if a not in used}
        azimuth = _draw(rng, free or fallback)
    used.add(azimuth)
    return Step(Operation.ADD, name, azimuth_deg=azimuth, gain_db=float(_between(rng, *entry.gain_db)))


def _add_candidates(
    rng: np.random.Generator, scene: Scene, taken: set[str], addable: frozenset[str], knowledge: SceneKnowledge
) -> list[Belonging]:
    """What could be added, the likeliest first: key sounds tend to come before details."""
    entries = []
    for index, entry in enumerate(scene.belongs):
        bank = knowledge.like(entry)
        if bank in addable and bank not in taken:
            is_key = entry.role == "key" if entry.role else index < 2
            entries.append((float(rng.random()) + (0.45 if is_key else 0.0), entry))
    entries.sort(key=lambda pair: -pair[0])
    return [entry for _, entry in entries]


def scene_plan(
    rng: np.random.Generator,
    scene: Scene,
    present: Sequence[ScenePresent],
    addable: Sequence[str],
    knowledge: SceneKnowledge,
    *,
    constraints: Sequence[Constraint] = (),
    reserved: Iterable[str] = (),
    max_steps: int = MAX_STEPS,
    max_adds: int = MAX_ADDS,
) -> tuple[Step, ...]:
    """Plan how a recording becomes a scene; called again with another generator it gives another valid plan.

    Parameters
    ----------
    rng
        Source of chance.
    scene
        The goal.
    present
        What the recording holds.
    addable
        Bank labels (or wordings of them) of which there are clips to add.
    knowledge
        What is known of scenes.
    constraints
        Conditions to honour.
    reserved
        Bank labels that other steps of the same plan speak of; left alone, neither changed nor added.
    max_steps
        Longest plan, 1 to `MAX_STEPS`.
    max_adds
        Most additions, 0 to `MAX_ADDS`.

    Returns
    -------
    tuple[Step, ...]
        Empty only where the constraints leave nothing to do.
    """
    sounds = _distinct(present, knowledge)
    held = set(reserved)
    by_kind: dict[ConstraintKind, set[str]] = {kind: set() for kind in ConstraintKind}
    for constraint in constraints:
        by_kind[constraint.kind] |= set(constraint.labels)
    kinds = {constraint.kind for constraint in constraints}
    excluded = by_kind[ConstraintKind.EXCLUDE]
    protected = by_kind[ConstraintKind.KEEP] | by_kind[ConstraintKind.UNTOUCHED]
    frozen = held | by_kind[ConstraintKind.UNTOUCHED]
    if ConstraintKind.ONLY_ADD in kinds:
        frozen |= {sound.key for sound in sounds}

    editable = [sound for sound in sounds if sound.key not in frozen]
    verdicts = {sound.key: knowledge.verdict(scene, sound.name) for sound in sounds}
    gone = [s for s in editable if s.key in excluded or (verdicts[s.key] is Verdict.CLASHES and s.key not in protected)]
    if gone and len(gone) == len(sounds):
        # Something of the recording stays: the one that is not expressly excluded, or the first.
        spare = [s for s in gone if s.key not in excluded] or gone
        gone.remove(_pick(rng, spare))
    gone_keys = {sound.key for sound in gone}
    stay = [sound for sound in editable if sound.key not in gone_keys]

    must: list[Step] = []
    may: list[tuple[float, Step]] = []
    stepped: set[str] = set()
    move_to = _allowed_azimuths(constraints, adding=False)

    lone = [sound for sound in sounds if sound.key not in gone_keys]
    if (
        gone
        and len(lone) == 1
        and _may_extract(lone[0], stay, protected, verdicts, constraints)
        and _chance(rng, EXTRACT_SHARE)
    ):
        must.append(Step(Operation.EXTRACT, lone[0].name, azimuth_deg=_heard_at(rng, lone[0])))
        stepped.add(lone[0].key)
    else:
        for sound in gone:
            stepped.add(sound.key)
            clear = ConstraintKind.CLEAR_SIDE in kinds
            if sound.key in excluded or clear or _chance(rng, REMOVE_SHARE):
                must.append(Step(Operation.REMOVE, sound.name, azimuth_deg=_heard_at(rng, sound)))
            else:
                gain_db = -float(_between(rng, 3, 8))
                must.append(Step(Operation.VOLUME, sound.name, azimuth_deg=_heard_at(rng, sound), gain_db=gain_db))

    for sound in stay:
        if sound.key not in stepped and sound.azimuth_deg is not None and not _stays_clear(sound, constraints):
            goal = _other_azimuth(rng, sound, move_to)
            must.append(Step(Operation.DIRECTION, sound.name, _named_azimuth(sound.azimuth_deg), to_azimuth_deg=goal))
            stepped.add(sound.key)

    must = must[:max_steps]
    room = knowledge.room(scene)
    free = [sound for sound in stay if sound.key not in stepped]
    for sound in _shuffled(rng, free):
        may.append(_gentle_change(rng, sound, verdicts[sound.key], sound.key in protected, move_to, scene, room))
    may.sort(key=lambda pair: -pair[0])

    adds: list[Step] = []
    candidates: list[Belonging] = []
    if ConstraintKind.NO_ADD not in kinds:
        taken = {sound.key for sound in sounds} | held | excluded
        available = knowledge.bank_labels(addable)
        candidates = _add_candidates(rng, scene, taken, available, knowledge)
    length = min(max_steps, _draw(rng, PLAN_LENGTH_SHARES))
    add_count = _draw(rng, ADD_COUNT_SHARES)
    room_for_adds = max_steps - len(must)
    # The drawn number of additions goes first; then changes of what stays fill the plan, then more additions.
    add_count = min(add_count, max(length - len(must), 1 if add_count else 0), room_for_adds, max_adds, len(candidates))
    changes = [step for weight, step in may if weight > 0][: max(0, length - len(must) - add_count)]
    while len(must) + len(changes) + add_count < length and add_count < min(max_adds, len(candidates)):
        add_count += 1
    rest = [step for weight, step in may if step not in changes]
    changes += rest[: max(0, length - len(must) - len(changes) - add_count)]
    if not must and not changes and not add_count:
        changes = rest[:1]
        add_count = 0 if changes else min(1, max_adds, len(candidates))
    used: set[float] = set()
    add_to = _allowed_azimuths(constraints, adding=True)
    for entry in candidates[:add_count]:
        adds.append(_add_step(rng, entry, knowledge, add_to, used))
    return _ordered(rng, must, changes, adds)


def _may_extract(
    sound: _Sound,
    stay: Sequence[_Sound],
    protected: set[str],
    verdicts: Mapping[str, Verdict],
    constraints: Sequence[Constraint],
) -> bool:
    """Whether keeping only this sound says the same as removing the others: it must be worth keeping."""
    wanted = sound in stay and verdicts[sound.key] is not Verdict.CLASHES
    return wanted and sound.key not in protected and _stays_clear(sound, constraints)


def _stays_clear(sound: _Sound, constraints: Sequence[Constraint]) -> bool:
    sides = [c.side for c in constraints if c.kind is ConstraintKind.CLEAR_SIDE]
    return not any(on_side(sound.azimuth_deg, side) for side in sides)


def _gentle_change(
    rng: np.random.Generator,
    sound: _Sound,
    verdict: Verdict,
    is_protected: bool,
    move_to: Sequence[float],
    scene: Scene,
    room: Room,
) -> tuple[float, Step]:
    """A change of a sound that stays, with its urgency: above 0 wanted, below 0 only to fill a plan."""
    here = _heard_at(rng, sound)
    if scene.timbre is not None and _chance(rng, SCENE_TIMBRE_SHARE):
        return 0.6 + float(rng.random()), Step(Operation.TIMBRE, sound.name, here, timbre=scene.timbre)
    if room.kind == "hall" and verdict is not Verdict.CLASHES and _chance(rng, ROOM_REVERB_SHARE):
        level = int(np.clip(room.level + _between(rng, -1, 1), 1, 10))
        return 0.3 + float(rng.random()), Step(Operation.REVERB, sound.name, here, reverb_level=level)
    if len(move_to) > 1 and _chance(rng, 0.16):
        goal = _other_azimuth(rng, sound, move_to)
        step = Step(Operation.DIRECTION, sound.name, _named_azimuth(sound.azimuth_deg), to_azimuth_deg=goal)
        return 0.2 + float(rng.random()), step
    if verdict is Verdict.BELONGS:
        up = float(_between(rng, 1, 4))
        return 0.5 + float(rng.random()), Step(Operation.VOLUME, sound.name, here, gain_db=up)
    if verdict is Verdict.FITS or is_protected:
        up = float(_between(rng, 1, 3))
        down = -up if not is_protected and _chance(rng, 0.45) else up
        return -1.0 + float(rng.random()) * 0.5, Step(Operation.VOLUME, sound.name, here, gain_db=down)
    low, high = (1, 4) if verdict is Verdict.SOFTEN else (3, 8)
    return 1.0 + float(rng.random()), Step(Operation.VOLUME, sound.name, here, gain_db=-float(_between(rng, low, high)))


def _ordered(rng: np.random.Generator, must: list[Step], changes: list[Step], adds: list[Step]) -> tuple[Step, ...]:
    """Free order, as in the published plans, but an extraction goes first: it would swallow additions."""
    steps = must + changes + adds if _chance(rng, 0.5) else _shuffled(rng, must + changes + adds)
    return tuple(sorted(steps, key=lambda step: step.operation is not Operation.EXTRACT))


# --- words --------------------------------------------------------------------------------------------------


def _template(rng: np.random.Generator, templates: Templates, split: str) -> str:
    # The published forms stand in every training set; a test of new wordings leaves them out.
    if templates.shared and split != "test" and _chance(rng, SHARED_WORDING_SHARE):
        return _pick(rng, templates.shared)
    return _pick(rng, templates.own(split))


def _bare(phrase: str) -> str:
    return re.sub(r"^(a|an|the|some) ", "", phrase)


def _is_activity(phrase: str) -> bool:
    return bool(re.search(r"\b\w+ing\b", phrase)) and not phrase.startswith(("a ", "an ", "the "))


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _scene_words(
    rng: np.random.Generator, scene: Scene, style: str, genre: str, knowledge: SceneKnowledge, split: str
) -> str:
    """An instruction for a scene in a style."""
    wordings = knowledge.wordings
    templates = wordings.lookalike.scene if style == "lookalike" else wordings.scene[style]
    text = _template(rng, templates, split)
    # "someone doing the dishes" can't be stood in; "the kitchen" can.
    places = [phrase for phrase in scene.phrases if not ("in {scene}" in text and _is_activity(phrase))]
    phrase = _pick(rng, places or scene.phrases)
    moods = _shuffled(rng, scene.moods) if len(scene.moods) > 1 else ["", ""]
    return text.format(
        scene=phrase,
        bare=_bare(phrase),
        mood=moods[0],
        mood2=moods[1],
        far=_far_mood(rng, scene, knowledge, split) if "{far}" in text else "",
        genre=genre,
        a_genre=genre if genre in wordings.uncountable or not genre else _with_article(genre),
    )


def _far_mood(rng: np.random.Generator, scene: Scene, knowledge: SceneKnowledge, split: str) -> str:
    """A quality that other kinds of scene have and this one does not."""
    others = [s for s in knowledge.scenes(split) if s.setting != scene.setting and len(s.moods) > 1]
    moods = sorted({mood for other in others for mood in other.moods} - set(scene.moods))
    return _pick(rng, moods)


NEIGHBOUR_KEYS = {
    letter: row[max(0, at - 1) : at] + row[at + 1 : at + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for at, letter in enumerate(row)
}
SOUND_SPELLINGS = (("ph", "f"), ("ie", "ei"), ("ei", "ie"), ("ck", "k"), ("ce", "se"), ("ee", "ea"), ("ou", "uo"))
"""How people write what they hear."""


def _misspelt_word(rng: np.random.Generator, word: str) -> str:
    """One slip: letters swapped, doubled, lost or hit beside the key, or spelt as they sound."""
    at = _between(rng, 1, len(word) - 2)
    slip = _between(rng, 0, 4)
    if slip == 4:
        spellings = [(heard, written) for heard, written in SOUND_SPELLINGS if heard in word[1:]]
        if spellings:
            heard, written = _pick(rng, spellings)
            return word[0] + word[1:].replace(heard, written, 1)
    if slip == 3 and word[at].lower() in NEIGHBOUR_KEYS:
        return word[:at] + _pick(rng, NEIGHBOUR_KEYS[word[at].lower()]) + word[at + 1 :]
    if slip == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word[:at] + word[at] * (2 if slip == 1 else 0) + word[at + 1 :]


def _misspelt(rng: np.random.Generator, text: str) -> str:
    """One to three slips in words of four letters and more, now and then a lost blank or apostrophe."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    for i in _shuffled(rng, long)[: _between(rng, 1, 3)]:
        words[i] = _misspelt_word(rng, words[i])
    if len(words) > 3 and _chance(rng, 0.15):
        at = _between(rng, 0, len(words) - 2)
        if words[at].isalpha() and words[at + 1].isalpha():
            words[at : at + 2] = [words[at] + words[at + 1]]
    written = " ".join(words)
    return written.replace("'", "") if _chance(rng, 0.4) else written


def _finished(rng: np.random.Generator, made: Design) -> Design:
    """How people close a sentence: with or without a capital, a full stop, a typing error."""
    text, traits = made.instruction, made.traits
    if _chance(rng, MISSPELT_SHARE):
        slipped = _misspelt(rng, text)
        if slipped != text:
            text, traits = slipped, (*traits, "misspelt")
    if _chance(rng, 0.5):
        text = text[:1].upper() + text[1:]
    if text[-1:].isalnum() and _chance(rng, 0.22):
        text += "."
    return replace(made, instruction=text, traits=traits)


def _mention(rng: np.random.Generator, sound: _Sound, sounds: Sequence[_Sound], knowledge: SceneKnowledge) -> str:
    """What to call a sound after "the", so that it can't be taken for another one that is there."""
    noun = knowledge.noun(sound.key)
    if any(knowledge.noun(other.key) == noun for other in sounds if other.key != sound.key):
        return sound.key
    if knowledge.bank_label(sound.key) and _chance(rng, 0.2):
        return _pick(rng, knowledge.names(sound.key))
    return noun


# --- direct requests ----------------------------------------------------------------------------------------


def _amount(rng: np.random.Generator) -> int:
    return _pick(rng, (1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 6, 8, 10, 12))


def _request_on(
    rng: np.random.Generator,
    operation: str,
    sound: _Sound,
    sounds: Sequence[_Sound],
    knowledge: SceneKnowledge,
    split: str,
) -> tuple[str, Step]:
    """One request about an existing sound, and the step that it literally asks for."""
    wordings = knowledge.wordings
    noun = _mention(rng, sound, sounds, knowledge)
    here = _named_azimuth(sound.azimuth_deg)
    says_where = here is not None and _chance(rng, 0.18)
    if says_where:
        place = next(name for name, azimuth in DIRECTIONS.items() if azimuth == here)
        noun = f"{noun} {'in' if place == 'front' else 'on'} the {place}"
    at = here if says_where or _chance(rng, NAMED_DIRECTION_SHARE) else None
    slots: dict[str, Any] = {"noun": noun}
    vague = wordings.vague.get(operation)
    chosen = None
    if vague is not None and _chance(rng, VAGUE_SHARE):
        chosen = _pick(rng, vague.test if split == "test" else vague.train)
    template = chosen.words if chosen else _template(rng, wordings.direct[operation], split)
    match operation:
        case "louder" | "quieter":
            slots["db"] = chosen.value if chosen else _amount(rng)
            sign = 1.0 if operation == "louder" else -1.0
            step = Step(Operation.VOLUME, sound.name, at, gain_db=sign * slots["db"])
        case "remove":
            step = Step(Operation.REMOVE, sound.name, at)
        case "extract":
            step = Step(Operation.EXTRACT, sound.name, at)
        case "direction":
            goal = _other_azimuth(rng, sound, list(DIRECTIONS.values()))
            name = next(name for name, azimuth in DIRECTIONS.items() if azimuth == goal)
            slots["where"] = _pick(rng, wordings.where_words[name])
            step = Step(Operation.DIRECTION, sound.name, here, to_azimuth_deg=goal)
        case "later" | "earlier":
            seconds = _pick(rng, (0.25, 0.5, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0, 2.5, 3.0, 4.0))
            slots["seconds"] = f"{seconds:g}"
            step = Step(Operation.SHIFT, sound.name, at, shift_s=seconds if operation == "later" else -seconds)
        case "reverb":
            slots["level"] = chosen.value if chosen else _between(rng, 1, 10)
            step = Step(Operation.REVERB, sound.name, at, reverb_level=slots["level"])
        case _:
            timbre = _pick(rng, list(Timbre))
            slots["timbre"] = _pick(rng, wordings.timbre_words[timbre])
            step = Step(Operation.TIMBRE, sound.name, at, timbre=timbre)
    return template.format(**slots), step


def _request_to_add(
    rng: np.random.Generator, options: Sequence[str], knowledge: SceneKnowledge, split: str
) -> tuple[str, Step]:
    name = _pick(rng, knowledge.names(_pick(rng, options)))
    where = _pick(rng, list(DIRECTIONS)) if _chance(rng, 0.3) else _pick(rng, ("left", "right", "front"))
    template = _template(rng, knowledge.wordings.direct["add"], split)
    gain_db = _between(rng, 1, 4) if "{db}" in template else 0
    text = template.format(sound=name, where=_pick(rng, knowledge.wordings.where_words[where]), db=gain_db)
    return text, Step(Operation.ADD, name, azimuth_deg=DIRECTIONS[where], gain_db=float(gain_db))


def _direct_requests(
    rng: np.random.Generator,
    sounds: Sequence[_Sound],
    addable: Sequence[str],
    knowledge: SceneKnowledge,
    split: str,
    count: int,
    *,
    may_extract: bool,
) -> list[tuple[str, Step]]:
    """Requests on different sounds, with their steps; at least one original sound stays."""
    requests: list[tuple[str, Step]] = []
    free = _shuffled(rng, sounds)
    present = {sound.key for sound in sounds}
    absent = sorted({bank for bank in map(knowledge.bank_label, addable) if bank} - present)
    removed = 0
    while len(requests) < count and (free or absent):
        shares = dict(DIRECT_OPERATION_SHARES)
        if not free:
            shares = {"add": 1.0}
        if not absent:
            shares.pop("add")
        if removed + 1 >= len(sounds):
            shares.pop("remove", None)
        if not may_extract or count > 1 or len(sounds) < 2:
            shares.pop("extract", None)
        operation = _draw(rng, shares)
        if operation == "add":
            request = _request_to_add(rng, absent, knowledge, split)
            absent.remove(knowledge.bank_label(request[1].target) or "")
        else:
            request = _request_on(rng, operation, free.pop(), sounds, knowledge, split)
            removed += operation == "remove"
        requests.append(request)
    return requests


def _joined(rng: np.random.Generator, texts: Sequence[str], knowledge: SceneKnowledge) -> str:
    text = texts[0]
    for following in texts[1:]:
        text += _pick(rng, knowledge.wordings.joiners) + following
    return text


# --- constraints --------------------------------------------------------------------------------------------


def _voices(sounds: Sequence[_Sound], knowledge: SceneKnowledge) -> list[str]:
    return [sound.key for sound in sounds if sound.key in knowledge.groups["speech"].labels]


def _constraint(
    rng: np.random.Generator,
    scene: Scene | None,
    sounds: Sequence[_Sound],
    busy: set[str],
    knowledge: SceneKnowledge,
    split: str,
) -> tuple[str, Constraint] | None:
    """A clause and the constraint that it states; None where chance picks one that does not apply."""
    free = [sound for sound in sounds if sound.key not in busy]
    shares = {ConstraintKind.KEEP: 0.34, ConstraintKind.UNTOUCHED: 0.14, ConstraintKind.EXCLUDE: 0.16}
    if scene is not None:
        shares |= {
            ConstraintKind.CLEAR_SIDE: 0.12,
            ConstraintKind.NO_ADD_SIDE: 0.12,
            ConstraintKind.NO_ADD: 0.06,
            ConstraintKind.ONLY_ADD: 0.06,
        }
    else:
        shares.pop(ConstraintKind.EXCLUDE)
    kind = _draw(rng, shares)
    labels: tuple[str, ...] = ()
    side = noun = ""
    match kind:
        case ConstraintKind.KEEP | ConstraintKind.UNTOUCHED:
            if not free:
                return None
            clashing = [s for s in free if scene and knowledge.verdict(scene, s.name) is Verdict.CLASHES]
            sound = _pick(rng, clashing if clashing and _chance(rng, 0.6) else free)
            voices = _voices(sounds, knowledge)
            if sound.key in voices and not busy & set(voices) and _chance(rng, 0.5):
                labels, noun = tuple(voices), "voice" if len(voices) == 1 else "voices"
            else:
                labels, noun = (sound.key,), _mention(rng, sound, sounds, knowledge)
        case ConstraintKind.CLEAR_SIDE | ConstraintKind.NO_ADD_SIDE:
            side = _pick(rng, ("left", "right"))
        case ConstraintKind.EXCLUDE:
            assert scene is not None
            chosen = _excluded(rng, scene, sounds, knowledge)
            if chosen is None:
                return None
            noun, labels = chosen
        case _:
            pass
    text = _template(rng, knowledge.wordings.constraint[kind.value], split).format(noun=noun, side=side)
    return text, Constraint(kind, labels, side)


def _constrained(
    rng: np.random.Generator,
    text: str,
    scene: Scene | None,
    sounds: Sequence[_Sound],
    busy: set[str],
    knowledge: SceneKnowledge,
    split: str,
) -> tuple[str, tuple[Constraint, ...]]:
    """The wish with one or two clauses that bind its plan, or as it is where chance finds none that applies."""
    first = _constraint(rng, scene, sounds, busy, knowledge, split)
    if first is None:
        return text, ()
    clause, constraint = first
    if not clause.startswith(("but ", "with ", "without ", "by ")) and _chance(rng, LEADING_SHARE):
        text = clause + _pick(rng, knowledge.wordings.leading) + text
    else:
        text = _with_clause(rng, text, clause)
    if _chance(rng, SECOND_CONSTRAINT_SHARE):
        second = _constraint(rng, scene, sounds, busy | set(constraint.labels), knowledge, split)
        if second is not None and second[1].kind is not constraint.kind:
            return _with_clause(rng, text, second[0]), (constraint, second[1])
    return text, (constraint,)


def _excluded(
    rng: np.random.Generator, scene: Scene, sounds: Sequence[_Sound], knowledge: SceneKnowledge
) -> tuple[str, tuple[str, ...]] | None:
    """What an instruction rules out: a kind of sound, one that is there, or one that the scene suggests."""
    present = {sound.key for sound in sounds}
    if _chance(rng, 0.35):
        category = _pick(rng, list(CATEGORY_NOUNS))
        labels = knowledge.select(category)
        if present and not present - set(labels):
            return None
        return CATEGORY_NOUNS[category], labels
    if len(sounds) > 1 and _chance(rng, 0.5):
        sound = _pick(rng, sounds)
        return _mention(rng, sound, sounds, knowledge), (sound.key,)
    missing = [knowledge.like(entry) for entry in scene.belongs if knowledge.like(entry) not in present]
    nouns = {knowledge.noun(key) for key in present}
    missing = [bank for bank in missing if knowledge.noun(bank) not in nouns]
    if not missing:
        return None
    bank = _pick(rng, missing)
    return knowledge.noun(bank), (bank,)


def _with_clause(rng: np.random.Generator, text: str, clause: str) -> str:
    if clause.startswith(("but ", "with ", "without ")):
        joint = _pick(rng, (", ", " "))
    else:
        joint = _pick(rng, (", but ", ", ", ". ", " - ", ", and "))
    return text.rstrip("?!., ") + joint + clause


# --- questions ----------------------------------------------------------------------------------------------


def _question(
    rng: np.random.Generator,
    sounds: Sequence[_Sound],
    addable: Sequence[str],
    knowledge: SceneKnowledge,
    split: str,
) -> Design | None:
    """A request that can't be planned, with what to ask back and instructions that would work.

    None where chance picks one that needs more sounds than there are.
    """
    kind = _draw(rng, QUESTION_SHARES)
    entries = knowledge.questions.kinds[kind]
    # The more wordings an entry has, the oftener it is drawn, so that every wording is about as frequent.
    entry = entries[_weighted(rng, [len(entry.own(split)) for entry in entries])]
    template = _template(rng, entry, split)
    likely = _likely_scenes(rng, sounds, knowledge, split)
    slots = _question_slots(rng, (template, entry.question, *entry.choices), sounds, addable, likely, knowledge, split)
    if slots is None:
        return None
    choices = [choice.format(**slots) for choice in entry.choices]
    wanted = max(2, len(choices)) if entry.choices else _between(rng, 2, 3)
    if len(choices) == 2 and _chance(rng, 0.3):
        wanted = 3
    as_scene = [f"make this sound like {_pick(rng, scene.phrases)}" for scene in likely[2:]]
    choices = list(dict.fromkeys([*choices, *as_scene]))[:wanted]
    text = template.format(**slots)
    return Design(text, "", (), "question", entry.question.format(**slots), tuple(choices), style=kind)


def _weighted(rng: np.random.Generator, weights: Sequence[int]) -> int:
    total = np.array(weights, dtype=float)
    return int(rng.choice(len(weights), p=total / total.sum()))


def _likely_scenes(
    rng: np.random.Generator, sounds: Sequence[_Sound], knowledge: SceneKnowledge, split: str
) -> list[Scene]:
    scenes = knowledge.scenes(split)
    weights = knowledge.scene_weights([sound.key for sound in sounds], split)
    return [scenes[i] for i in rng.choice(len(scenes), size=5, replace=False, p=weights)]


def _question_slots(
    rng: np.random.Generator,
    texts: Sequence[str],
    sounds: Sequence[_Sound],
    addable: Sequence[str],
    likely: Sequence[Scene],
    knowledge: SceneKnowledge,
    split: str,
) -> dict[str, str] | None:
    """What stands in the slots of a request, its question and its choices; None where there are too few sounds."""
    names = {name for text in texts for name in re.findall(r"\{(\w+)\}", text)}
    slots: dict[str, str] = {}
    if len(sounds) < ("noun" in names) + ("noun2" in names):
        return None
    for name, sound in zip(("noun", "noun2"), _shuffled(rng, sounds), strict=False):
        slots[name] = _mention(rng, sound, sounds, knowledge)
    if names & {"absent", "sound"}:
        absent = [label for label in knowledge.labels if not _is_there(label, sounds, knowledge)]
        there = set(addable)
        bank = _pick(rng, [label for label in absent if label in there] or absent)
        slots["absent"], slots["sound"] = knowledge.noun(bank), _pick(rng, knowledge.names(bank))
    for name, scene in (("scene", likely[0]), ("scene2", likely[1])):
        phrase = _pick(rng, scene.phrases)
        slots[name], slots[name.replace("scene", "bare")] = phrase, _bare(phrase)
    if names & {"a", "b"}:
        axes = [poles for poles in knowledge.questions.axes.values() if all(pole.own(split) for pole in poles)]
        first, second = _shuffled(rng, _pick(rng, axes))
        slots["a"], slots["b"] = _pick(rng, first.own(split)), _pick(rng, second.own(split))
        slots["a2"] = _pick(rng, [word for word in first.own(split) if word != slots["a"]] or first.own(split))
    slots["db"], slots["db2"], slots["n"] = str(_amount(rng)), str(_amount(rng)), str(_between(rng, 2, 30))
    letters = "qwertyuiop" if split == "test" else "asdfghjkl"
    slots["mash"] = "".join(_pick(rng, letters) for _ in range(_between(rng, 3, 8)))
    for name in sorted(names - set(slots)):
        slots[name] = _pick(rng, knowledge.questions.fillers[name].own(split))
    return slots


def _is_there(label: str, sounds: Sequence[_Sound], knowledge: SceneKnowledge) -> bool:
    """Whether a sound, or one that could be taken for it by its name or kind, is in the recording."""
    noun = set(knowledge.noun(label).split())
    for sound in sounds:
        if sound.key == label or noun & set(knowledge.noun(sound.key).split()) or noun & set(sound.key.split()):
            return True
    return False


# --- the designer -------------------------------------------------------------------------------------------


def design(
    rng: np.random.Generator,
    present: Sequence[ScenePresent],
    addable: Sequence[str],
    knowledge: SceneKnowledge,
    *,
    split: str = "train",
) -> Design:
    """Write an instruction and its plan for a recording.

    Parameters
    ----------
    rng
        Source of chance; the only one.
    present
        What the recording holds, at least one sound. Sounds of the same label count as one.
    addable
        Bank labels (or wordings of them) of which there are clips to add.
    knowledge
        What is known of scenes.
    split
        ``train``, ``valid`` or ``test``: which scenes and wordings are used.

    Returns
    -------
    Design
        1 to `MAX_STEPS` steps, or a question. Every step on an existing sound names it as `present` does;
        every added sound leads back to a label of `addable` by `SceneKnowledge.bank_label`.

    Raises
    ------
    ValueError
        If `present` is empty or the split is unknown.
    """
    if not present:
        raise ValueError("a design needs at least one sound in the recording")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    sounds = _distinct(present, knowledge)
    while True:
        match _draw(rng, KIND_SHARES):
            case "question":
                made = _question(rng, sounds, addable, knowledge, split)
            case "direct":
                made = _design_direct(rng, sounds, present, addable, knowledge, split)
            case "mixed":
                made = _design_scene(rng, sounds, present, addable, knowledge, split, direct_count=_between(rng, 1, 2))
            case _:
                made = _design_scene(rng, sounds, present, addable, knowledge, split, direct_count=0)
        # Rarely a constraint leaves nothing to do or can't be met; then chance is asked again.
        if made is not None and (
            made.kind == "question" or (made.steps and not violations(made.steps, present, made.constraints, knowledge))
        ):
            return _finished(rng, made)


def _design_direct(
    rng: np.random.Generator,
    sounds: Sequence[_Sound],
    present: Sequence[ScenePresent],
    addable: Sequence[str],
    knowledge: SceneKnowledge,
    split: str,
) -> Design | None:
    if len(sounds) > 1 and _chance(rng, LOOKALIKE_DIRECT_SHARE):
        return _lookalike_request(rng, sounds, knowledge, split)
    count = _draw(rng, DIRECT_COUNT_SHARES)
    requests = _direct_requests(rng, sounds, addable, knowledge, split, count, may_extract=True)
    text = _joined(rng, [text for text, _ in requests], knowledge)
    steps = tuple(step for _, step in requests)
    constraints: tuple[Constraint, ...] = ()
    if _chance(rng, CONSTRAINT_SHARE):
        busy = {knowledge.bank_label(step.target) or step.target for step in steps}
        text, constraints = _constrained(rng, text, None, sounds, busy, knowledge, split)
    return Design(text, "", steps, "direct", constraints=constraints, style="direct")


def _lookalike_request(
    rng: np.random.Generator, sounds: Sequence[_Sound], knowledge: SceneKnowledge, split: str
) -> Design:
    """A wish on two sounds that looks like a contradiction, and the steps that it asks for."""
    request = _pick(rng, knowledge.wordings.lookalike.direct)
    template = _template(rng, request, split)
    named = dict(zip(("noun", "noun2"), _shuffled(rng, sounds), strict=False))
    slots = {name: _mention(rng, sound, sounds, knowledge) for name, sound in named.items()}
    amounts = {"noun": _amount(rng), "noun2": _amount(rng)}
    slots |= {"db": str(amounts["noun"]), "db2": str(amounts["noun2"])}
    steps = []
    for change, name in request.steps:
        says_db = ("{db}" if name == "noun" else "{db2}") in template
        steps.append(_lookalike_step(rng, change, named[name], amounts[name] if says_db else LOOKALIKE_DB))
    kept = tuple(Constraint(ConstraintKind.KEEP, (named[name].key,)) for name in request.keep)
    text = template.format(**slots)
    return Design(text, "", tuple(steps), "direct", constraints=kept, style="direct", traits=("lookalike",))


def _lookalike_step(rng: np.random.Generator, change: str, sound: _Sound, db: int) -> Step:
    at = _heard_at(rng, sound)
    match change:
        case "louder" | "quieter":
            return Step(Operation.VOLUME, sound.name, at, gain_db=float(db if change == "louder" else -db))
        case "left" | "right":
            here = _named_azimuth(sound.azimuth_deg)
            return Step(Operation.DIRECTION, sound.name, here, to_azimuth_deg=DIRECTIONS[change])
        case "earlier" | "later":
            seconds = LOOKALIKE_SECONDS if change == "later" else -LOOKALIKE_SECONDS
            return Step(Operation.SHIFT, sound.name, at, shift_s=seconds)
        case "bright" | "dark":
            return Step(Operation.TIMBRE, sound.name, at, timbre=Timbre(change))
        case _:
            return Step(Operation.REMOVE, sound.name, at)


def _design_scene(
    rng: np.random.Generator,
    sounds: Sequence[_Sound],
    present: Sequence[ScenePresent],
    addable: Sequence[str],
    knowledge: SceneKnowledge,
    split: str,
    *,
    direct_count: int,
) -> Design | None:
    scene, style, genre = _scene_and_style(rng, sounds, knowledge, split)
    traits: tuple[str, ...] = ("lookalike",) if style == "lookalike" else ()
    if style not in ("mood only", "genre only", "lookalike") and _chance(rng, MOMENT_SHARE):
        moments = knowledge.moments_for(scene, split)
        if moments:
            scene, traits = knowledge.moved(scene, _pick(rng, moments)), ("elsewhere",)
    text = _scene_words(rng, scene, style, genre, knowledge, split)
    constraints: tuple[Constraint, ...] = ()
    asked: list[tuple[str, Step]] = []
    if direct_count:
        asked = _direct_requests(rng, sounds, addable, knowledge, split, direct_count, may_extract=False)
    elif _chance(rng, CONSTRAINT_SHARE):
        text, constraints = _constrained(rng, text, scene, sounds, set(), knowledge, split)
    literal = tuple(step for _, step in asked)
    reserved = {knowledge.bank_label(step.target) or step.target for step in literal}
    gone = {step.target for step in literal if step.operation is Operation.REMOVE}
    steps = scene_plan(
        rng,
        scene,
        present,
        addable,
        knowledge,
        constraints=constraints,
        reserved=reserved,
        max_steps=MAX_STEPS - len(literal),
        max_adds=MAX_ADDS - sum(step.operation is Operation.ADD for step in literal),
    )
    removed = gone | {step.target for step in steps if step.operation is Operation.REMOVE}
    if not steps or len(removed) >= len(sounds) or any(s.operation is Operation.EXTRACT for s in steps if literal):
        return None
    if literal:
        wish = _joined(rng, [text for text, _ in asked], knowledge)
        if _chance(rng, 0.7):
            text, steps = (
                text.rstrip("?!., ") + _pick(rng, (" and ", ", and ", ", ", ". ")) + wish,
                steps + literal,
            )
        else:
            text, steps = wish + _pick(rng, (" and ", ", then ", ", ", ". ")) + text, literal + steps
    kind = "mixed" if literal else "scene"
    return Design(text, scene.name, steps, kind, constraints=constraints, style=style, traits=traits, literal=literal)


def _scene_and_style(
    rng: np.random.Generator, sounds: Sequence[_Sound], knowledge: SceneKnowledge, split: str
) -> tuple[Scene, str, str]:
    """A scene that suits what is there, a style that can word it, and a genre for the style that needs one."""
    scenes = knowledge.scenes(split)
    weights = knowledge.scene_weights([sound.name for sound in sounds], split)
    style = _draw(rng, STYLE_SHARES)
    if style == "genre only":
        weights = weights * np.array([scene.name in knowledge.genres_of for scene in scenes])
        if not weights.any():
            style, weights = "plain", knowledge.scene_weights([sound.name for sound in sounds], split)
    scene = scenes[int(rng.choice(len(scenes), p=weights / weights.sum()))]
    genre = _pick(rng, knowledge.genres_of[scene.name]) if style == "genre only" else ""
    if len(scene.moods) < 2 and "mood" in style:
        style = "plain"
    elif len(scene.moods) > 1 and style != "genre only" and _chance(rng, LOOKALIKE_SCENE_SHARE):
        style = "lookalike"
    return scene, style, genre


def alternative_plans(
    rng: np.random.Generator,
    made: Design,
    present: Sequence[ScenePresent],
    addable: Sequence[str],
    knowledge: SceneKnowledge,
    count: int,
) -> list[tuple[Step, ...]]:
    """Further valid plans for an instruction, all different; none for direct requests and questions.

    What a mixed request asks literally stands in every plan as it does in the first one.


    Parameters
    ----------
    rng
        Source of chance.
    made, present, addable, knowledge
        As given to and by `design`.
    count
        How many are wanted; fewer come back where the scene leaves no choice.
    """
    if made.kind not in ("scene", "mixed"):
        return []
    scene = knowledge.scene(made.scene)
    reserved = {knowledge.bank_label(step.target) or step.target for step in made.literal}
    plans: list[tuple[Step, ...]] = []
    known = {frozenset(made.steps)}
    for _ in range(8 * count):
        if len(plans) == count:
            break
        plan = scene_plan(
            rng,
            scene,
            present,
            addable,
            knowledge,
            constraints=made.constraints,
            reserved=reserved,
            max_steps=MAX_STEPS - len(made.literal),
            max_adds=MAX_ADDS - sum(step.operation is Operation.ADD for step in made.literal),
        )
        if made.literal and any(step.operation is Operation.EXTRACT for step in plan):
            continue
        leads = made.literal == made.steps[: len(made.literal)]
        plan = made.literal + plan if leads else plan + made.literal
        valid = len(plan) > len(made.literal) and not violations(plan, present, made.constraints, knowledge)
        valid = valid and not plan_problems(plan, present, addable, knowledge)
        if valid and frozenset(plan) not in known:
            known.add(frozenset(plan))
            plans.append(plan)
    return plans
