"""OSC address patterns: ``? * [a-z] [!a-z] {one,other}``. Pure, and quick for any pattern (no backtracking)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

_SPECIAL = frozenset("*?[]{}")


class PatternError(ValueError):
    """An address pattern that doesn't end."""


def is_pattern(address: str) -> bool:
    """Whether an address holds characters that only patterns have."""
    return not _SPECIAL.isdisjoint(address)


def matching(pattern: str, addresses: Iterable[str]) -> list[str]:
    """Return the addresses that a pattern names, in their order; no wildcard steps over a slash.

    Raises
    ------
    PatternError
        For ``[`` or ``{`` without end.
    """
    if not is_pattern(pattern):
        return [address for address in addresses if address == pattern]
    tokens = _tokens(pattern)
    return [address for address in addresses if _matches(tokens, address)]


_Token = tuple[str, frozenset[str] | tuple[str, ...]]


@lru_cache(maxsize=256)
def _tokens(pattern: str) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            if not tokens or tokens[-1][0] != "many":
                tokens.append(("many", ()))
        elif char == "?":
            tokens.append(("any", ()))
        elif char in "[{":
            end = pattern.find("]" if char == "[" else "}", at)
            if end < 0:
                raise PatternError(f"{pattern!r} has a {char} without end")
            inside = pattern[at + 1 : end]
            if char == "{":
                tokens.append(("words", tuple(inside.split(","))))
            else:
                tokens.append(("none of" if inside.startswith("!") else "one of", _characters(inside.lstrip("!"))))
            at = end
        else:
            tokens.append(("one of", frozenset(char)))
        at += 1
    return tuple(tokens)


def _characters(inside: str) -> frozenset[str]:
    found: set[str] = set()
    at = 0
    while at < len(inside):
        if inside[at + 1 : at + 2] == "-" and at + 2 < len(inside):
            first, last = ord(inside[at]), ord(inside[at + 2])
            found.update(chr(code) for code in range(first, min(last, 0x17F) + 1))
            at += 3
        else:
            found.add(inside[at])
            at += 1
    return frozenset(found)


def _matches(tokens: tuple[_Token, ...], address: str) -> bool:
    """Walk all ways at once: `reached` are the places in the address that the tokens so far can end at."""
    reached = {0}
    for kind, allowed in tokens:
        after: set[int] = set()
        for at in reached:
            here = address[at : at + 1]
            if kind == "many":
                after.add(at)
                while at < len(address) and address[at] != "/":
                    at += 1
                    after.add(at)
            elif kind == "words":
                after.update(at + len(word) for word in allowed if address.startswith(word, at))
            elif here and (
                (kind == "one of" and here in allowed)
                or (kind == "any" and here != "/")
                or (kind == "none of" and here not in allowed and here != "/")
            ):
                after.add(at + 1)
        reached = after
        if not reached:
            return False
    return len(address) in reached
