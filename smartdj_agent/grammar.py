"""Constrained decoding: which tokens may come next, so that an invalid plan can't be written.

A plan's lines are built of segments (a verb, a sound's name, a place, an amount). The tokenizer splits at spaces, so
that a segment that begins with a space has the same tokens wherever it stands; segments become paths in one
non-deterministic automaton over tokens, and decoding keeps the set of states that the tokens so far can be in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from smartdj_agent.steps import DIRECTIONS, Timbre

Tokenize = Callable[[str], list[int]]

START = 0
ACCEPT = 1


class Automaton:
    """Token automaton; state 0 is the start, state 1 the end of a whole plan."""

    def __init__(self) -> None:
        self.moves: list[dict[int, set[int]]] = [defaultdict(set), defaultdict(set)]
        self.free: dict[int, tuple[int, int]] = {}

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

    _inner: set[int]

    def __new__(cls) -> Automaton:
        """Make an automaton with no inner states yet."""
        made = super().__new__(cls)
        made._inner = set()
        return made

    def next_states(self, states: frozenset[int], token: int) -> frozenset[int]:
        """States after one more token; empty if the token is not allowed."""
        found: set[int] = set()
        for state in states:
            found |= self.moves[state].get(token, set())
            if state in self.free:
                forbidden, end = self.free[state]
                if token == forbidden:
                    found.add(end)
                else:
                    found.add(state)
        return frozenset(found)

    def allowed(self, states: frozenset[int]) -> set[int] | None:
        """Tokens that may follow; None if any token may."""
        if any(state in self.free for state in states):
            return None
        return {token for state in states for token in self.moves[state]}


def _numbers(maximum: int) -> list[str]:
    return [str(value) for value in range(1, maximum + 1)]


def plan_automaton(
    tokenize: Tokenize,
    end_token: int,
    existing: Iterable[str],
    addable: Iterable[str],
    *,
    max_steps: int,
    allow_question: bool,
) -> Automaton:
    """Build the automaton of all plans over given sounds.

    Parameters
    ----------
    tokenize
        Text to token ids, without special tokens.
    end_token
        What ends a plan.
    existing
        Names that removing, changing and extracting may use.
    addable
        Names that adding may use.
    max_steps
        Most lines of a plan.
    allow_question
        Whether the model may ask back instead.
    """
    automaton = Automaton()
    line_feed = tokenize("\n")
    names = sorted(set(existing))
    new_names = sorted(set(addable))
    places = [f" at the {name}" for name in DIRECTIONS]
    goals = [f" to the {name}" for name in DIRECTIONS]
    amounts = [f" by {n} dB" for n in _numbers(24)]
    gains = [f" with {n} dB" for n in ["0", *_numbers(24), *(f"-{n}" for n in _numbers(24))]]
    shifts = [f" by {sign}{n / 10:g} seconds" for n in range(1, 101) for sign in ("", "-")]
    levels = [f" with reverb level {n}" for n in _numbers(10)]
    colours = [f" to be more {timbre.value}" for timbre in Timbre]

    def join(start: int, options: Sequence[str], end: int) -> None:
        for option in options:
            automaton.path(start, tokenize(option), end)

    def line(start: int, end: int) -> None:
        def named(verb: str, tails: Sequence[str], *, place_first: bool = True) -> None:
            before, after = automaton.state(), automaton.state()
            automaton.path(start, tokenize(verb), before)
            join(before, [f" {name}" for name in names], after)
            if not tails:
                placed = automaton.state()
                join(after, places, placed)
                automaton.path(after, line_feed, end)
                automaton.path(placed, line_feed, end)
                return
            done = automaton.state()
            join(after, tails, done)
            if place_first:
                placed = automaton.state()
                join(after, places, placed)
                join(placed, tails, done)
            automaton.path(done, line_feed, end)

        if names:
            named("remove", ())
            named("extract", ())
            named("turn up", amounts)
            named("turn down", amounts)
            named("change", goals)
            named("shift", shifts)
            named("reverb", levels)
            named("change the timbre of", colours)
        before, after = automaton.state(), automaton.state()
        placed, levelled = automaton.state(), automaton.state()
        automaton.path(start, tokenize("add"), before)
        join(before, [f" {name}" for name in new_names], after)
        join(after, places, placed)
        join(placed, gains, levelled)
        automaton.path(levelled, line_feed, end)

    # The first line must be a step (or a question); after each line the plan may end.
    here = START
    for _ in range(max_steps):
        following = automaton.state()
        line(here, following)
        automaton.moves[following][end_token].add(ACCEPT)
        here = following
    if allow_question:
        question, choice, between = automaton.state(), automaton.state(), automaton.state()
        feed = line_feed[0]
        automaton.path(START, tokenize("ask"), question)
        automaton.free[question] = (feed, between)
        automaton.path(between, tokenize("or"), choice)
        automaton.free[choice] = (feed, between)
        automaton.moves[between][end_token].add(ACCEPT)
    return automaton
