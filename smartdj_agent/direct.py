"""Direct requests: what an instruction asks of single sounds, word by word, as steps.

"Turn the dog down 6 dB and move the piano left" leaves nothing to invent, so it is read, not guessed. `read_requests`
parts an instruction into clauses and reads those that name an operation and a sound; what it can't read is handed back
as `rest`, for the language model. What can't be met as it is said ("louder and quieter") becomes a question
(`smartdj_agent.doubts`).

Pure: what a noun means is asked of a function that the caller brings, so that this module knows no vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from smartdj_agent.constraints import Constraint, ConstraintKind, Located, read_constraints
from smartdj_agent.direct_words import (
    ACROSS,
    ADD,
    AT_SAID,
    BARE,
    COMMAND_WORDS,
    CONJUNCTION,
    DB,
    DETERMINERS,
    DISTANT_ADD_DB,
    EARLIER,
    EARLIER_TIMED,
    EVERYTHING_BUT,
    EXTRACT,
    FILL,
    GERUNDS,
    IDLE,
    LARGE_DB,
    LARGE_LEVEL,
    LARGE_S,
    LATER,
    LATER_TIMED,
    LOUDNESS,
    LOUDNESS_TIMED,
    MAY_ADD,
    MOVED,
    NAMED_ONLY,
    PLACE,
    POLITE,
    PRONOUNS,
    QUALIFIED,
    REMOVE,
    REVERB,
    ROOM,
    SCENE_CUES,
    SECONDS,
    SMALL_DB,
    SMALL_LEVEL,
    SMALL_S,
    SOUND_OF,
    SOUND_TAIL,
    STOP,
    STRONG,
    SWAP,
    THANKS,
    TIMBRE,
    TURNED,
    USUAL_DB,
    USUAL_LEVEL,
    USUAL_S,
    WEAK,
    WHERE_OTHER,
    colour,
    number,
    percent_db,
    place_deg,
    room_level,
    sized,
    take_amounts,
    without,
)
from smartdj_agent.doubts import Doubt, find_doubt
from smartdj_agent.steps import DIRECTIONS, OPERATIONS, Operation, Step


@dataclass(frozen=True)
class Meaning:
    """What a noun means.

    Attributes
    ----------
    there
        Sounds of the recording that it names.
    known
        Whether it names a sound at all, there or not.
    """

    there: tuple[Located, ...] = ()
    known: bool = False


@dataclass(frozen=True)
class Requests:
    """What an instruction literally asks.

    Attributes
    ----------
    steps
        In the order in which they are said.
    rest
        Clauses that are no direct request and no constraint: a scene, a mood, what wasn't understood.
    lifted
        Constraints that the requests themselves lift ("don't remove it, just turn it down").
    doubt
        What can't be met as it is said; None where all can.
    """

    steps: tuple[Step, ...]
    rest: tuple[str, ...]
    lifted: tuple[Constraint, ...] = ()
    doubt: Doubt | None = None


@dataclass(frozen=True)
class _Mention:
    """A sound as a clause names it."""

    name: str
    there: bool
    heard_deg: float | None = None
    said_deg: float | None = None
    definite: bool = True


class _Reader:
    """Reads clauses in turn; remembers what "it" means."""

    def __init__(self, heard: Sequence[Located], mean: Callable[[str], Meaning]) -> None:
        self.heard = heard
        self.mean = mean
        self.last: tuple[_Mention, ...] = ()

    # nouns

    def sounds(self, text: str, *, new: bool = False) -> tuple[_Mention, ...] | None:
        """The sounds that a noun phrase names, of the recording or `new` ones; None where it names none."""
        text = SOUND_OF.sub("", text.strip(" ,"))
        if text in PRONOUNS:
            return self.last or None
        if match := EVERYTHING_BUT.match(text):
            spared = self.sounds(text[match.end() :])
            if spared is None:
                return None
            names = {mention.name for mention in spared}
            others = tuple(_Mention(s.label, True, s.azimuth_deg) for s in self.heard if s.label not in names)
            return others or None
        if any(sound.label == DETERMINERS.sub("", text) for sound in self.heard):
            return self._one(text, new=new)  # "man speaking and laughing" is one sound
        parts = [part for part in CONJUNCTION.split(text) if part]
        if not 1 <= len(parts) <= 6:
            return None
        each = [self._one(part, new=new) for part in parts]
        if any(part is None for part in each):
            return None
        return tuple(dict.fromkeys(mention for part in each if part is not None for mention in part))

    def _one(self, text: str, *, new: bool = False) -> tuple[_Mention, ...] | None:
        """The sounds of a noun phrase without a conjunction."""
        said_deg = None
        if match := re.search(rf" (?:over )?(?:on|at|in|from|coming from) {PLACE}$", text):
            said_deg, text = place_deg(match), text[: match.start()]
        else:
            match = re.match(r"(?:the )?(?P<place>left|right)(?: hand|-hand)? (?P<noun>[a-z].*)$", text)
            if match and self.mean(match["noun"]).known:
                said_deg, text = DIRECTIONS[match["place"]], match["noun"]
        text = SOUND_OF.sub("", text)
        bare = DETERMINERS.sub("", text)
        definite = bool(re.match(r"(?:the|that|this|those|these|my|your|his|her|their|our|both|all)\b", text))
        words = bare.split()
        exact = any(sound.label == bare for sound in self.heard)
        options = [bare, SOUND_TAIL.sub("", bare)]
        if not exact:
            if QUALIFIED.search(bare):
                options = [QUALIFIED.sub("", bare)]
                words = options[0].split()
            if not words or len(words) > 7 or set(words) & STOP or re.search(r"[0-9+]", bare):
                return None
            # "That awful barking": what stands before the name describes it.
            options += [" ".join(words[skip:]) for skip in (1, 2) if len(words) > skip]
        for option in dict.fromkeys(option for option in options if option):
            meaning = self.mean(option)
            if meaning.there and not new:
                there = [
                    s for s in meaning.there if said_deg is None or s.azimuth_deg is None or s.azimuth_deg == said_deg
                ]
                chosen = there or list(meaning.there)
                return tuple(_Mention(s.label, True, s.azimuth_deg, said_deg, definite) for s in chosen)
            if meaning.known:
                # What is added keeps its adjectives: "gentle rain".
                return (_Mention(bare if not definite else option, False, None, said_deg, definite),)
        return None

    # clauses

    def read(self, clause: str) -> tuple[Step, ...] | None:
        """The steps that a clause asks for; None where it is no direct request."""
        text = _plain(clause)
        if not text or re.match(r"(?:don't|do not|dont|never|not|nothing)\b", text):
            return None
        if any(len(pattern.findall(text)) > 1 for pattern in (DB, SECONDS)):
            return None  # two requests, not one
        for reader in (self._swap, self._extract, self._reverb, self._timbre, self._shift, self._direction,
                       self._volume, self._remove, self._add):  # fmt: skip
            found = reader(text)
            if found is not None:
                mentions, steps = found
                self.last = mentions
                return steps
        return None

    def remember(self, clause: str) -> None:
        """Note which sound a clause speaks of that asks for nothing itself ("don't remove the dog")."""
        for match in re.finditer(r"\b(?:the|my|that) ([a-z][a-z' -]*)", clause):
            found = self.sounds(match[0])
            if found:
                self.last = found
                return

    def _match(self, patterns: Sequence[re.Pattern[str]], text: str) -> tuple[_Mention, ...] | None:
        """The sounds of the first pattern that fits and whose ``x`` names sounds."""
        for pattern in patterns:
            match = pattern.fullmatch(text)
            mentions = self.sounds(match["x"]) if match else None
            if mentions is not None:
                return mentions
        return None

    _Found = tuple[tuple[_Mention, ...], tuple[Step, ...]]

    def _swap(self, text: str) -> _Found | None:
        match = SWAP.fullmatch(text)
        if match is None:
            return None
        one, two = self.sounds(match["x"]), self.sounds(match["y"])
        if not one or not two or len(one) != 1 or len(two) != 1:
            return None
        here, there = one[0].heard_deg, two[0].heard_deg
        if here is None or there is None or here == there:
            return None
        pairs = ((one[0], here, there), (two[0], there, here))
        steps = tuple(Step(Operation.DIRECTION, m.name, near(a), to_azimuth_deg=near(b)) for m, a, b in pairs)
        return (one[0], two[0]), steps

    def _extract(self, text: str) -> _Found | None:
        mentions = self._match(EXTRACT, text)
        if mentions is None:
            return None
        if len(mentions) == 1:
            return mentions, (Step(Operation.EXTRACT, mentions[0].name, mentions[0].said_deg),)
        # An extraction keeps one sound; to keep several, the others go.
        names = {mention.name for mention in mentions}
        others = [sound.label for sound in self.heard if sound.label not in names]
        return (mentions, tuple(Step(Operation.REMOVE, name) for name in others)) if others else None

    def _reverb(self, text: str) -> _Found | None:
        amounts = take_amounts(text)
        plain, size = sized(amounts.text)
        level = amounts.level or (USUAL_LEVEL, LARGE_LEVEL, SMALL_LEVEL)[size]
        for candidate in (text, amounts.text, plain):
            for pattern in ROOM:
                match = pattern.fullmatch(candidate)
                room = room_level(match["room"]) if match else None
                mentions = self.sounds(match["x"]) if match and room else None
                if mentions and room:
                    return mentions, _each(mentions, Operation.REVERB, reverb_level=amounts.level or room)
        plain = re.sub(r"^(\w+) (?:some|more|a|an) ", r"\1 ", plain)
        mentions = self._match(REVERB, " ".join(plain.split()))
        if mentions is None and (bare := BARE.search(plain)) and 1 <= number(bare["num"]) <= 10:
            mentions, level = self._match(REVERB, without(plain, bare)), int(number(bare["num"]))
        return (mentions, _each(mentions, Operation.REVERB, reverb_level=level)) if mentions else None

    def _timbre(self, text: str) -> _Found | None:
        text, _ = sized(re.sub(rf"\b{FILL} ", "", text))
        for pattern in TIMBRE:
            match = pattern.fullmatch(text)
            if match is None:
                continue
            mentions = self.sounds(match["x"])
            # "The rain bright" is no request of its own; "the rain brighter" is.
            if mentions:
                return mentions, _each(mentions, Operation.TIMBRE, timbre=colour(match["colour"]))
        return None

    def _shift(self, text: str) -> _Found | None:
        amounts = take_amounts(text)
        plain, size = sized(amounts.text)
        seconds = amounts.seconds if amounts.seconds is not None else (USUAL_S, LARGE_S, SMALL_S)[size]
        mentions = self._match(LATER if amounts.seconds is None else (*LATER, *LATER_TIMED), plain)
        if mentions:
            return mentions, _each(mentions, Operation.SHIFT, shift_s=seconds)
        mentions = self._match(EARLIER if amounts.seconds is None else (*EARLIER, *EARLIER_TIMED), plain)
        return (mentions, _each(mentions, Operation.SHIFT, shift_s=-abs(seconds))) if mentions else None

    def _direction(self, text: str) -> _Found | None:
        amounts = take_amounts(text)
        goal = amounts.azimuth_deg
        if goal is not None and abs(goal) <= 90:
            mentions = self._match(TURNED, re.sub(r" (?:to|at|by)$", "", amounts.text))
            if mentions:
                return mentions, _moves(mentions, goal)
        for candidate in dict.fromkeys((text, sized(text)[0])):
            for pattern in MOVED:
                match = pattern.fullmatch(candidate)
                mentions = self.sounds(match["x"]) if match else None
                if match is None or not mentions:
                    continue
                goal = place_deg(match)
                if candidate != text and abs(goal) == 90 and sized(text)[1] < 0:
                    goal /= 2  # "a bit to the left"
                movable = [m for m in mentions if m.there or m.definite]
                if len(movable) < len(mentions):
                    # "Put rain on the left": it isn't there yet.
                    return (mentions, _adds(mentions, goal, 0.0)) if pattern in MAY_ADD and not movable else None
                return mentions, _moves(mentions, goal)
            match = WHERE_OTHER.fullmatch(candidate)
            mentions, others = (self.sounds(match["x"]), self.sounds(match["y"])) if match else (None, None)
            if mentions and others and others[0].heard_deg is not None:
                return mentions, _moves(mentions, near(others[0].heard_deg))
            match = ACROSS.fullmatch(candidate)
            mentions = self.sounds(match["x"]) if match else None
            if mentions and all(mention.heard_deg for mention in mentions):
                return mentions, tuple(
                    Step(Operation.DIRECTION, m.name, near(m.heard_deg), to_azimuth_deg=-near(m.heard_deg))
                    for m in mentions
                    if m.heard_deg is not None
                )
        return None

    def _volume(self, text: str) -> _Found | None:
        amounts = take_amounts(text)
        plain = re.sub(rf"\b{FILL} (?=\w+er\b|much|far|way|loud|quiet|up|down)", "", amounts.text)
        plain, size = sized(plain)
        usual = (USUAL_DB, LARGE_DB, SMALL_DB)[size]
        # What is said: an amount in dB or percent, else a bare number ("dog down 4"), else none.
        said: list[tuple[str, float | None, bool]] = [
            (plain, amounts.db, amounts.signed),
            (amounts.text, amounts.db, False),
        ]
        if amounts.db is None:
            for bare in BARE.finditer(plain):
                said.append((without(plain, bare), number(bare["num"]), bare["num"][0] in "+-"))
        for words, db, signed in said:
            for up, default, options in LOUDNESS:
                mentions = self._match(options if db is None else (*options, *LOUDNESS_TIMED[up]), words)
                if mentions:
                    gain = (default or usual) if db is None else percent_db(db, up=up)
                    return mentions, _gains(mentions, gain if up else -gain)
            if db is not None and signed:
                mentions = self._match(NAMED_ONLY, words)
                if mentions and all(mention.there or mention.definite for mention in mentions):
                    return mentions, _gains(mentions, db)
        return None

    def _remove(self, text: str) -> _Found | None:
        mentions = self._match(REMOVE, text)
        if not mentions:
            return None
        steps = tuple(Step(Operation.REMOVE, m.name, m.said_deg) for m in mentions)
        left = {sound.label for sound in self.heard} - {mention.name for mention in mentions}
        # Who lets everything go is asked what shall remain.
        return (mentions, steps) if left or not self.heard or not all(m.there for m in mentions) else None

    def _add(self, text: str) -> _Found | None:
        amounts = take_amounts(text)
        match = ADD.fullmatch(amounts.text)
        if match is None:
            return None
        words, gain = match["x"], amounts.db if amounts.db is not None and amounts.db > -1000 else 0.0
        place = 0.0
        words = re.sub(
            r" (?:to|into|over|onto|on top of) (?:it|this|that|the (?:mix|scene|recording|audio|background|clip|"
            r"whole|track))$",
            "",
            words,
        )
        if found := re.search(rf" (?:somewhere )?{AT_SAID}{PLACE}$", words):
            place, words = place_deg(found), words[: found.start()]
        if amounts.azimuth_deg is not None and abs(amounts.azimuth_deg) <= 90:
            place = amounts.azimuth_deg
        quiet = re.compile(
            r" (?:far )?(?:in the (?:background|distance)|quietly|softly|faintly|very low|at low volume|underneath)"
            r"|^(?:soft|quiet|faint|distant|subtle) (?=\w)"
        )
        if found := quiet.search(words):
            words = words[: found.start()] + (" " if found.start() else "") + words[found.end() :]
            gain = gain or DISTANT_ADD_DB
        words = re.sub(
            r" (?:rolling|coming|drifting|floating|blowing|fading)(?: in| by| past)?$", "", words.strip(" ,")
        )
        mentions = self.sounds(words, new=True)
        return (mentions, _adds(mentions, place, gain)) if mentions else None


def near(azimuth_deg: float | None) -> float:
    """The nearest of the five named directions; 0 where unknown."""
    return min(DIRECTIONS.values(), key=lambda named: abs(named - (azimuth_deg or 0.0)))


def _each(mentions: Sequence[_Mention], operation: Operation, **values: object) -> tuple[Step, ...]:
    return tuple(_step(operation, m.name, m.said_deg, **values) for m in mentions)


def _step(operation: Operation, name: str, azimuth_deg: float | None, **values: object) -> Step:
    """A step with its numbers brought into their range: who says 60 dB means as much as there is."""
    for key, value in values.items():
        parameter = OPERATIONS[operation].parameter(key)
        if parameter is not None and parameter.minimum is not None and isinstance(value, int | float):
            assert parameter.maximum is not None
            values[key] = min(max(value, parameter.minimum), parameter.maximum)
    return Step(operation, name, azimuth_deg, **values)  # type: ignore[arg-type]


def _gains(mentions: Sequence[_Mention], gain_db: float) -> tuple[Step, ...]:
    return _each(mentions, Operation.VOLUME, gain_db=round(gain_db, 1))


def _moves(mentions: Sequence[_Mention], to_deg: float) -> tuple[Step, ...]:
    """Changes of direction; where the sound is heard is named, if it is known and another place."""
    steps = []
    for m in mentions:
        here = m.said_deg if m.said_deg is not None else (None if m.heard_deg is None else near(m.heard_deg))
        steps.append(Step(Operation.DIRECTION, m.name, here if here != to_deg else None, to_azimuth_deg=to_deg))
    return tuple(steps)


def _adds(mentions: Sequence[_Mention], azimuth_deg: float, gain_db: float) -> tuple[Step, ...]:
    return tuple(
        _step(Operation.ADD, m.name, m.said_deg if m.said_deg is not None else azimuth_deg, gain_db=gain_db)
        for m in mentions
    )


def _plain(text: str) -> str:
    """A clause in lower case without politeness, verbs in their plain form."""
    text = re.sub(r"^- | -$", "", " ".join(text.strip(" ,.!?;:\"'").split()))
    # "Could the man be louder?" asks for what "the man should be louder" says.
    text = re.sub(
        r"^(?:can|could|would|may|should|shouldn't|can't|couldn't) ((?:the|my|that|this) .+?) (?=(?:be|come|go|"
        r"sound|start|have|get)\b)",
        r"\1 should ",
        text,
    )
    before = None
    while before != text:
        before = text
        text = POLITE.sub("", THANKS.sub("", text)).strip(" ,")
    first, _, rest = text.partition(" ")
    return f"{GERUNDS.get(first, first)} {rest}".strip()


def _folded(instruction: str) -> str:
    text = instruction.lower().replace("’", "'").replace("−", "-").replace("–", "-").replace("—", " - ")
    text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    text = re.sub(r"(?:^|\s)\(?(?:\d{1,2}|[a-e])[.)]\s+(?=[a-z])", "; ", text)  # numbered wishes
    text = re.sub(r"^[-*•]\s+|\n\s*[-*•]\s+", "; ", text)
    text = re.sub(r"(?<=[a-z]): ?(?=[-+0-9a-z])", " ", text)  # "dog: -6 dB"
    return re.sub(r"[“”\"]", "", text)


def _groups(
    chunk: str, reader: _Reader, forbids: Callable[[str], bool]
) -> Iterator[tuple[str, tuple[Step, ...] | None]]:
    """The longest runs of comma- and and-parted pieces that can be read; a piece that can't is given with None."""
    pieces = WEAK.split(chunk)
    start, asked = 0, False
    while start < len(pieces):
        for end in range(len(pieces), start, -2):
            text = "".join(pieces[start:end]).strip(" ,")
            if not text:
                break
            # "Keep the dog and the cat" is one constraint; "keep the dog and remove the cat" is not.
            others = pieces[start + 2 : end : 2]
            if all(reader.sounds(piece) and not forbids(_plain(piece)) for piece in others) and forbids(_plain(text)):
                reader.remember(text)
                yield text, ()
                break
            steps = reader.read(text)
            if steps is None and asked and end == start + 1:
                # "Make the dog quieter and darker", "… and to the left"
                steps = next(
                    filter(
                        None, (reader.read(f"{verb} it {_plain(text)}") for verb in ("make", "move", "turn", "give"))
                    ),
                    None,
                )
            if steps is not None:
                asked = True
                yield text, steps
                break
        else:
            end = start + 1
            text = pieces[start].strip(" ,")
            if text:
                yield text, None
        start = end + 1


def read_requests(instruction: str, heard: Sequence[Located], mean: Callable[[str], Meaning]) -> Requests:
    """Read what an instruction asks word by word.

    Parameters
    ----------
    instruction
        The person's sentence.
    heard
        What is in the recording.
    mean
        What a noun means, in lower case and without article.

    Returns
    -------
    Requests
        Its steps name sounds as `heard` does, or as the person does where they weren't heard.
    """
    folded = _folded(instruction)

    def resolve(noun: str) -> tuple[str, ...]:
        meaning = mean(re.sub(DETERMINERS, "", noun))
        return tuple(sound.label for sound in meaning.there) or ((noun,) if meaning.known else ())

    def forbids(clause: str) -> bool:
        return bool(read_constraints(clause, resolve))

    reader = _Reader(heard, mean)
    steps: list[Step] = []
    rest: list[str] = []
    for chunk in STRONG.split(folded):
        if not chunk.strip():
            continue
        reason = re.match(r"(?:so|because|since)\b(?! (?:can|could|turn|make|remove|move|add)\b)", chunk.strip())
        groups = iter([(chunk.strip(), None)]) if reason else _groups(chunk.strip(), reader, forbids)
        for text, found in groups:
            if found is not None:
                steps += [step for step in found if step not in steps]
            elif SCENE_CUES.search(text) or not any(map(IDLE.fullmatch, (text, _plain(text)))):
                rest.append(text)
    constraints = read_constraints(instruction, resolve)
    lowered = {step.target for step in steps if step.operation is Operation.VOLUME and (step.gain_db or 0.0) < 0}
    lifted = tuple(item for item in constraints if item.kind is ConstraintKind.KEEP and lowered & set(item.labels))
    return Requests(
        tuple(steps),
        tuple(rest),
        lifted,
        find_doubt(folded, steps, constraints, [sound.label for sound in heard], resolve),
    )


def mend_spelling(text: str, names: Iterable[str], is_word: Callable[[str], bool]) -> str:
    """Replace words that look like slips by the command or sound that they come nearest to.

    Parameters
    ----------
    text
        An instruction.
    names
        Words that name sounds.
    is_word
        Whether a word is English as it stands.

    Returns
    -------
    str
        In lower case; as it was where nothing was near enough.
    """
    lexicon = sorted({*COMMAND_WORDS, *(name for name in names if len(name) > 2)})
    known = set(lexicon)

    def mended(match: re.Match[str]) -> str:
        word = match[0]
        if word in known or len(word) < 3 or word.removesuffix("s") in known or is_word(word):
            return word
        swapped = next((other for other in lexicon if len(other) == len(word) and _is_swap(word, other)), None)
        if swapped or len(word) < 4:
            return swapped or word
        near_words = get_close_matches(word, lexicon, 1, 0.84 if len(word) > 4 else 0.75)
        return near_words[0] if near_words and near_words[0][0] == word[0] else word

    return re.sub(r"[a-z]+", mended, text.lower())


def _is_swap(one: str, two: str) -> bool:
    """Whether two neighbouring letters changed places."""
    places = [i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    return (
        len(places) == 2
        and places[1] == places[0] + 1
        and one[places[0]] == two[places[1]]
        and one[places[1]] == two[places[0]]
    )
