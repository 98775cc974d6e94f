"""Constrained decoding: which tokens may come next, so that an invalid plan can't be written.

A plan's lines are built of segments (a verb, a sound's name, a place, an amount). The tokenizer splits at spaces, so
that a segment that begins with a space has the same tokens wherever it stands; segments become paths in one
non-deterministic automaton over tokens, and decoding keeps the set of states that the tokens so far can be in.

A name that the step language would misread after a verb, such as ``radio at left``, is written in quotes there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from smartdj_agent.constraints import Leeway, on_side
from smartdj_agent.errors import SmartDJError
from smartdj_agent.steps import DIRECTIONS, Operation, Step, Timbre, parse_step

Tokenize = Callable[[str], list[int]]

START = 0
ACCEPT = 1

CHOICES = (2, 4)
"""Fewest and most choices of a question."""

PLACES = tuple(f" at the {name}" for name in DIRECTIONS)
GOALS = tuple(f" to the {name}" for name in DIRECTIONS)
AMOUNTS = tuple(f" by {n} dB" for n in range(1, 25))
GAINS = tuple(f" with {n} dB" for n in range(-24, 25))
# Tenths and quarters up to 10 s; the step language prints one second in the singular.
SHIFTS = tuple(
    f" by {sign}{n / 100:g} second{'' if n == 100 else 's'}"
    for n in sorted({*range(10, 1001, 10), *range(25, 1000, 25)})
    for sign in ("", "-")
)
LEVELS = tuple(f" with reverb level {n}" for n in range(1, 11))
COLOURS = tuple(f" to be more {timbre.value}" for timbre in Timbre)

VERBS: dict[str, tuple[str, ...]] = {
    "remove": ("",),
    "extract": ("",),
    "turn up": AMOUNTS,
    "turn down": AMOUNTS,
    "change": GOALS,
    "shift": SHIFTS,
    "reverb": LEVELS,
    "change the timbre of": COLOURS,
}
"""Verbs for sounds that are there: how their lines may end, after an optional place."""


@lru_cache(maxsize=1 << 15)
def spelled_name(verb: str, name: str) -> str | None:
    """How to write a folded name after a verb: plain, in quotes where it would be misread, None if neither reads back.

    Decided by reading lines with places and amounts of every kind.
    """
    if verb == "add":
        # Hundreds of sounds can be added, and none of them is written without a place.
        endings = [PLACES[0] + GAINS[0]]
    else:
        tails = VERBS[verb]
        kinds = tails if tails is GOALS else (*tails[:2], tails[-1])
        endings = [place + tail for place in ("", PLACES[0], PLACES[2]) for tail in kinds]
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    for spelling in (name, f'"{escaped}"'):
        if all(_reads_back(verb, spelling, ending, name) for ending in endings):
            return spelling
    return None


def _reads_back(verb: str, spelling: str, ending: str, name: str) -> bool:
    try:
        return parse_step(f"{verb} {spelling}{ending}") == replace(_example(f"{verb} dog{ending}"), target=name)
    except SmartDJError:
        return False


@lru_cache
def _example(text: str) -> Step:
    return parse_step(text)


def _folded(names: Iterable[str]) -> list[str]:
    """Names as steps hold them, sorted; what can't name a sound is left out."""
    found = set()
    for name in names:
        try:
            found.add(Step(Operation.REMOVE, name).target)
        except SmartDJError:
            continue
    return sorted(found)


@dataclass(frozen=True)
class FreeText:
    """Tokens that a question and its choices may be written with.

    Attributes
    ----------
    openings
        Tokens of one space and more.
    space
        Tokens that are one space.
    words
        Tokens that begin with another character than a space.
    inner
        Everything printable.
    """

    openings: frozenset[int]
    space: frozenset[int]
    words: frozenset[int]
    inner: frozenset[int]


def free_text(tokens: Mapping[int, str]) -> FreeText:
    """Sort a vocabulary, without its special tokens, into `FreeText`; line feeds and parts of characters fall out."""
    inner = {token: text for token, text in tokens.items() if text and text.isprintable() and "\ufffd" not in text}
    return FreeText(
        frozenset(token for token, text in inner.items() if text[0] == " " and text[1:2].strip()),
        frozenset(token for token, text in inner.items() if text == " "),
        frozenset(token for token, text in inner.items() if text[0] != " "),
        frozenset(inner),
    )


def _open(phrases: Sequence[str], closed_sides: frozenset[str]) -> tuple[str, ...]:
    """Places that lie on no closed side."""
    named = zip(phrases, DIRECTIONS.values(), strict=True)
    return tuple(phrase for phrase, azimuth in named if not any(on_side(azimuth, side) for side in closed_sides))


REPEATED = 1 << 32
"""States from here on are those of repeated lines."""


class Automaton:
    """Token automaton; state 0 is the start, state 1 the end of a whole plan."""

    def __init__(self) -> None:
        self.moves: list[dict[int, set[int]]] = [defaultdict(set), defaultdict(set)]
        self.wide: dict[int, list[tuple[frozenset[int], int]]] = {}
        self._inner: set[int] = set()
        self._part: tuple[int, range, int] | None = None
        self._layers: list[tuple[int, int]] = []

    def state(self) -> int:
        """Make a new state."""
        self.moves.append(defaultdict(set))
        return len(self.moves) - 1

    def path(self, start: int, tokens: Sequence[int], end: int) -> None:
        """Let `tokens` lead from `start` to `end`; beginnings are shared."""
        here = start
        for token in tokens[:-1]:
            # Only private inner states may be shared, never another segment's end.
            known = [state for state in self.moves[here][token] if state in self._inner]
            if known:
                here = known[0]
            else:
                fresh = self.state()
                self._inner.add(fresh)
                self.moves[here][token].add(fresh)
                here = fresh
        self.moves[here][tokens[-1]].add(end)

    def repeat(self, start: int, inner: range, end: int, layers: Sequence[tuple[int, int]]) -> None:
        """Let what leads from `start` through the states `inner` to `end` also lead from one state to another.

        A plan has six lines of thousands of states each that differ in nothing but where they begin and end; so they
        are laid once, and the states of a layer are numbers that name layer and state.
        """
        self._part = (start, inner, end)
        self._layers = list(layers)

    def _tokens(self, state: int) -> Iterator[Mapping[int, set[int]]]:
        """What leads out of a state, before targets are moved to their layer."""
        if self._part is None or state < REPEATED:
            yield self.moves[state]
            yield from (self.moves[self._part[0]] for begin, _ in self._layers if self._part and begin == state)
        else:
            inner = self._part[1]
            yield self.moves[inner[(state - REPEATED) % len(inner)]]

    def _targets(self, state: int, token: int) -> set[int]:
        if self._part is None:
            return self.moves[state].get(token, set())
        opening, inner, end = self._part
        if state >= REPEATED:
            layer, place = divmod(state - REPEATED, len(inner))
            found: set[int] = set()
            parts = [(layer, self.moves[inner[place]])]
        else:
            found = set(self.moves[state].get(token, ()))
            parts = [(layer, self.moves[opening]) for layer, (begin, _) in enumerate(self._layers) if begin == state]
        for layer, moves in parts:
            first = REPEATED + layer * len(inner) - inner.start
            found |= {self._layers[layer][1] if target == end else first + target for target in moves.get(token, ())}
        return found

    def next_states(self, states: frozenset[int], token: int) -> frozenset[int]:
        """States after one more token; empty if the token is not allowed."""
        found: set[int] = set()
        for state in states:
            found |= self._targets(state, token)
            found |= {end for tokens, end in self.wide.get(state, ()) if token in tokens}
        return frozenset(found)

    def allowed(self, states: frozenset[int]) -> set[int]:
        """Tokens that may follow."""
        found = {token for state in states for moves in self._tokens(state) for token in moves}
        return found.union(*(tokens for state in states for tokens, _ in self.wide.get(state, ())))


def plan_automaton(
    tokenize: Tokenize,
    end_token: int,
    existing: Iterable[str],
    addable: Iterable[str],
    *,
    max_steps: int,
    free: FreeText | None,
    bound: Leeway | None = None,
    may_end: bool = False,
) -> Automaton:
    """Build the automaton of all plans over given sounds.

    Parameters
    ----------
    tokenize
        Text to token ids, without special tokens; a line feed is one token.
    end_token
        What ends a plan.
    existing
        Names that removing, changing and extracting may use.
    addable
        Names that adding may use.
    max_steps
        Most lines of a plan.
    free
        What a question may be written with; None if the model may not ask back.
    bound
        What the instruction forbids; None for nothing.
    may_end
        Whether the plan may end before its first line; where steps stand before it.

    Raises
    ------
    ValueError
        If nothing at all could be written.
    """
    automaton = Automaton()
    line_feed = tokenize("\n")
    names, new_names = _folded(existing), _folded(addable)
    allowed = dict.fromkeys(VERBS, names)
    goals, places = GOALS, PLACES
    if bound is not None:
        changeable = [name for name in names if name in bound.changeable]
        kept = [name for name in changeable if name not in bound.keep]
        allowed = {verb: kept if verb in ("remove", "turn down") else changeable for verb in VERBS}
        allowed["extract"] = [name for name in changeable if name in bound.extractable]
        goals = _open(GOALS, bound.closed_sides)
        places = _open(PLACES, bound.closed_to_adds)
        new_names = [name for name in new_names if name not in bound.absent] if bound.addable else []
        names = changeable
    if not names and not new_names and free is None and not may_end:
        raise ValueError("a plan needs a sound to change or to add, or leave to ask")

    def join(start: int, options: Iterable[str], end: int) -> None:
        for option in options:
            automaton.path(start, tokenize(option), end)

    def join_names(verb: str, start: int, options: Sequence[str]) -> int | None:
        spelled = [spelling for name in options if (spelling := spelled_name(verb, name)) is not None]
        if not spelled:
            return None
        before, after = automaton.state(), automaton.state()
        automaton.path(start, tokenize(verb), before)
        join(before, [f" {spelling}" for spelling in spelled], after)
        return after

    def line(start: int, end: int) -> None:
        for verb, tails in VERBS.items():
            after = join_names(verb, start, allowed[verb])
            if after is None:
                continue
            tails = goals if tails is GOALS else tails
            placed = automaton.state()
            join(after, PLACES, placed)
            done = automaton.state()
            for here in (after, placed):
                if tails == ("",):
                    automaton.path(here, line_feed, end)
                else:
                    join(here, tails, done)
            automaton.path(done, line_feed, end)
        after = join_names("add", start, new_names)
        if after is not None:
            placed, levelled = automaton.state(), automaton.state()
            join(after, places, placed)
            join(placed, GAINS, levelled)
            automaton.path(levelled, line_feed, end)

    def sentence(start: int, word: str, free: FreeText) -> int:
        opening, spaced, text, end = (automaton.state() for _ in range(4))
        automaton.path(start, tokenize(word), opening)
        automaton.wide[opening] = [(free.openings, text), (free.space, spaced)]
        automaton.wide[spaced] = [(free.words, text)]
        automaton.wide[text] = [(free.inner, text)]
        automaton.path(text, line_feed, end)
        return end

    # The first line must be a step (or a question); after each line the plan may end.
    here = START
    if may_end:
        automaton.moves[START][end_token].add(ACCEPT)
    ends = [automaton.state() for _ in range(max_steps)]
    for end in ends:
        automaton.moves[end][end_token].add(ACCEPT)
    opening, after = automaton.state(), automaton.state()
    first = len(automaton.moves)
    line(opening, after)
    layers = list(zip((START, *ends), ends, strict=False))
    automaton.repeat(opening, range(first, len(automaton.moves)), after, layers)
    if free is not None:
        here = sentence(START, "ask", free)
        for count in range(1, CHOICES[1] + 1):
            here = sentence(here, "or", free)
            if count >= CHOICES[0]:
                automaton.moves[here][end_token].add(ACCEPT)
    return automaton
