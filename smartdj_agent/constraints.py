"""What an instruction forbids ("keep the voice", "nothing on the left"): read from its words, checked on a plan.

Pure: names are resolved by a function that the caller brings, so that this module knows no vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from smartdj_agent.steps import Operation, Step


class ConstraintKind(StrEnum):
    """What an instruction can forbid."""

    KEEP = "keep"
    UNTOUCHED = "untouched"
    CLEAR_SIDE = "clear_side"
    NO_ADD_SIDE = "no_add_side"
    NO_ADD = "no_add"
    ONLY_ADD = "only_add"
    EXCLUDE = "exclude"


@dataclass(frozen=True)
class Constraint:
    """A condition that a plan must meet.

    Attributes
    ----------
    kind
        Which condition.
    labels
        Sounds that KEEP, UNTOUCHED and EXCLUDE speak of.
    side
        ``left`` or ``right`` for CLEAR_SIDE and NO_ADD_SIDE.
    """

    kind: ConstraintKind
    labels: tuple[str, ...] = ()
    side: str = ""


@dataclass(frozen=True)
class Located:
    """A sound in the recording: its name, and its direction in degrees (negative is left), None where unknown."""

    label: str
    azimuth_deg: float | None


_NOT = r"(?:don't|do not|dont|never|please don't|please do not|no need to|you (?:must|may|should) not|not to|not)"
_THE = (
    r"(?:the |my |his |her |their |our |that |those |this |all |all the |any |any of the |both |"
    r"(?:an?y? )?sound of )*"
)
# Without "not": what is near in meaning is taken for a noun, and "the dog must not" is near to the dog.
_NOUN = r"(?P<noun>(?!(?:no|none|not|nothing)\b)[a-z](?:(?! (?:not|never|no)\b|n't\b)[a-z' -])*?)"
_SIDE = r"(?P<side>left|right)(?:[ -]hand)?(?: side| ear| channel| half| speaker)?"
_ON = rf"(?:on|to|at|in|from|over on|onto) (?:the |my )?{_SIDE}"
_PUT = r"(?:add|put|place|introduce|insert|bring in)"
_MUST = r"(?:must|should|shall|has to|have to|needs to|need to|ought to|is to|are to)"
_NEVER = rf"(?:(?:{_MUST}|may|can|could|will|would|is|are|does|do)(?:n't| not| never)|can't|cannot|won't)"
_STAY = (
    r"(?:(?:stay|stays|remain|remains|survive|survives|is here to stay)(?: in| there| put| in there)?|"
    r"(?:be|is|are|gets|get) (?:kept|preserved|retained|spared|saved)(?: in)?|be there|be left in|be (?:heard|audible))"
)
_SURELY = r"(?:(?:make sure|see to it|see|ensure|be sure|take care) )?(?:that )?"
_FREE = r"(?:empty|clear|free|silent|quiet|bare|untouched by sound)"
_AS_IS = (
    r"(?:exactly |just |precisely )?(?:as (?:it|they) (?:is|are)|as is|the way (?:it|they) (?:is|are)|"
    r"like (?:it|they) (?:is|are))"
)
_CHANGE = r"(?:remove|change|touch|alter|edit|modify|mess with|mute|delete|drop)"
_CHANGING = r"(?:removing|changing|touching|altering|editing|modifying|messing with)"
_ALL = (
    r"(?:anything|a thing|what's there|what is there|what is already there|what's already there|the rest|any of it|"
    r"anything (?:that's|that is) (?:already )?there|the existing sounds|existing sounds|the original|anything else)"
)
_SPARE = r"(?:lose|drop|remove|delete|cut|mute|kill|turn down|lower|take away|take out|get rid of|throw away|silence)"
_LOSING = r"(?:losing|removing|dropping|cutting|deleting|muting|taking away|getting rid of)"
_NEW = r"(?:new|added|additional|extra|further|other)"
_THINGS = r"(?:sounds?|things?|elements?|noises?|sources?|material)"
_WHAT_IS_THERE = (
    r"(?:what is|what's|the sounds that are|the sounds|whatever is|everything that is|everything that's|all that's|"
    r"all that is) "
    r"(?:already )?there"
)

_OLD = (
    rf"(?:everything|all(?: of it)?|{_WHAT_IS_THERE}|(?:all |all the |the )?(?:existing|original|old|recorded|"
    rf"present) "
    rf"{_THINGS}|the original(?: recording)?|the recording|what i (?:have|recorded))"
    rf"(?: (?:that's |that is )?(?:already )?there| else)?"
)
"""What the recording holds, as a whole."""
_GO = r"(?:removed|changed|touched|altered|deleted|muted|dropped|edited|lost|taken (?:away|out)|lowered|turned down)"
_AWAY = r"(?:off|out of|away from|clear of)"

_PATTERNS: tuple[tuple[ConstraintKind, str], ...] = (
    # First what says the opposite of a longer clause with nearly the same words: "keep the dog", "make sure it stays".
    (
        ConstraintKind.EXCLUDE,
        rf"keep {_THE}{_NOUN} (?:out|away)(?: of (?:it|this|there|here|the \w+)| from (?:it|this))?",
    ),
    (
        ConstraintKind.EXCLUDE,
        rf"{_SURELY}(?:absolutely )?(?:no|none of) {_THE}{_NOUN} (?:still |ever )?(?:(?:{_MUST}|can|may) )?"
        rf"(?:still |ever )?(?:{_STAY}|(?:be |is |are |gets )?(?:left|there|heard|audible|present|in (?:it|there)))",
    ),
    (
        ConstraintKind.EXCLUDE,
        rf"{_SURELY}there(?:'s| is| are| be| will be) (?:absolutely )?(?:no|none of) {_THE}{_NOUN}"
        rf"(?: at all| left| anywhere| in (?:it|there))?",
    ),
    (
        ConstraintKind.NO_ADD_SIDE,
        rf"(?:nothing|{_NEW} {_THINGS}|additions)(?: new)? (?:is|are|gets|get|may be|{_MUST} be|{_MUST})"
        rf"(?: to be| not be| not| never)? (?:added|put|placed)(?: {_ON}|"
        rf" {_AWAY} the {_SIDE.replace('side', 'side2', 1)})",
    ),
    (
        ConstraintKind.NO_ADD_SIDE,
        rf"(?:keep|hold|leave|have) (?:all |any |the )?(?:{_NEW} {_THINGS}|additions|{_NEW} ones) {_AWAY} (?:the|"
        rf"my) {_SIDE}",
    ),
    (
        ConstraintKind.NO_ADD_SIDE,
        rf"(?:{_NEW} {_THINGS}|additions|{_NEW} ones|(?:what|whatever|anything) (?:you|is|gets) (?:add|added))"
        rf" (?:(?:{_MUST}|may|can) )?(?:keep|keeps|stay|stays|go|goes|be|is|are|come|comes|belong|belongs)?"
        rf" ?(?:not|never|anywhere but|{_AWAY})(?: go| be| come)? (?:{_ON}|(?:the|my)"
        rf" {_SIDE.replace('side', 'side2', 1)})",
    ),
    (
        ConstraintKind.NO_ADD_SIDE,
        rf"{_NOT} use (?:the|my) {_SIDE} for (?:anything|{_THINGS}|what is|what's)?(?: ?new| ?added|"
        rf" ?{_NEW} {_THINGS})",
    ),
    (
        ConstraintKind.CLEAR_SIDE,
        rf"(?:i am|i'm|im|she is|she's|he is|he's|the listener is) (?:deaf|half deaf) (?:{_ON}|in (?:the|my|one) "
        rf"{_SIDE.replace('side', 'side2', 1)})",
    ),
    (
        ConstraintKind.CLEAR_SIDE,
        rf"(?:the|my) {_SIDE} (?:{_MUST} )?(?:be |is |stay |stays )?(?:off limits|"
        rf"out of bounds|taboo)",
    ),
    (
        ConstraintKind.CLEAR_SIDE,
        rf"(?:stay|keep|steer) (?:everything |all of it |all |it )?{_AWAY} (?:the|my)"
        rf" {_SIDE}",
    ),
    (ConstraintKind.CLEAR_SIDE, rf"(?:avoid|spare) (?:the|my) {_SIDE}"),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:nothing|none of it|no (?:existing |original )?{_THINGS})(?: (?:that's|that is) (?:already )?there)?"
        rf" (?:is|gets|{_MUST} (?:be|get)|may (?:be|get)|can be|to be)(?: to be)? {_GO}",
    ),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:nothing|none of it) (?:{_MUST}|may|can|is to) (?:go|disappear|vanish|leave|"
        rf"change)",
    ),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:no (?:changes|edits|cuts)|no change) (?:to|in|of) {_OLD}|no (?:removing|deleting|cutting|removals|"
        rf"deletions)"
        rf"(?: (?:of )?(?:anything|{_THINGS}))?",
    ),
    (
        ConstraintKind.ONLY_ADD,
        rf"{_OLD} (?:{_MUST} |is to |has to )?(?:just |simply |all )?(?:stays?|remains?|be kept|is kept|be left|"
        rf"is left)"
        rf"(?: (?:put|in|there|in there|in place|alone|unchanged|untouched|intact|the same|{_AS_IS}|where (?:it|"
        rf"they) (?:is|are)))?",
    ),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:leave|keep|let) {_OLD}(?: (?:in|there|in there|in place|alone|be|unchanged|untouched|intact|"
        rf"the same|{_AS_IS}))?",
    ),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:additions?|adds?|adding|{_NEW} {_THINGS}|additive)(?: changes)? only|"
        rf"only (?:additions|{_NEW} {_THINGS})"
        rf"|(?:purely|strictly|merely|simply) (?:additive|by adding|additions|add)(?: {_THINGS})?",
    ),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:(?:only|just) )?(?:build|layer|pile|stack|put (?:it|{_THINGS}|{_NEW} {_THINGS}))(?: {_THINGS}|"
        rf" {_NEW} {_THINGS}| it)?"
        rf" (?:up)?on(?: top)?(?: of)? {_OLD}|(?:only|just) (?:layer|build|pile|stack|put)"
        rf"(?: {_NEW})?(?: {_THINGS})? on top",
    ),
    (
        ConstraintKind.ONLY_ADD,
        rf"{_NOT} (?:take|throw) (?:anything|any of it|a thing|{_THINGS}) (?:away|out)|{_NOT} {_SPARE} {_ALL}"
        rf"|(?:take|throw) nothing (?:away|out)|(?:lose|drop|cut|delete|mute) nothing|without {_LOSING} {_ALL}",
    ),
    (
        ConstraintKind.UNTOUCHED,
        rf"(?:leave|keep) {_THE}{_NOUN} (?:the same|as (?:it was|they were|before)|where (?:it|they) (?:is|are)|"
        rf"out of (?:it|this))",
    ),
    (
        ConstraintKind.UNTOUCHED,
        rf"{_THE}{_NOUN} (?:{_MUST} )?(?:stays?|remains?) (?:the same|where (?:it|they) (?:is|are)|as (?:it was|"
        rf"they were|before))",
    ),
    (
        ConstraintKind.UNTOUCHED,
        rf"{_NOT} do anything (?:to|with|about) {_THE}{_NOUN}|(?:no|without)"
        rf" changes? to {_THE}{_NOUN.replace('noun', 'noun2')}",
    ),
    (
        ConstraintKind.UNTOUCHED,
        rf"(?:do )?nothing (?:happens |is done |is to happen |shall happen )?(?:to|with)"
        rf" {_THE}{_NOUN}",
    ),
    (
        ConstraintKind.UNTOUCHED,
        rf"{_THE}{_NOUN} (?:is|are) (?:off limits|not to be (?:touched|changed|altered|"
        rf"edited))",
    ),
    (
        ConstraintKind.UNTOUCHED,
        rf"(?:skip|bypass) {_THE}{_NOUN}|everything (?:but|except|apart from)"
        rf" {_THE}{_NOUN.replace('noun', 'noun2')}",
    ),
    (ConstraintKind.NO_ADD_SIDE, rf"{_NOT} {_PUT} (?:anything|a thing|new {_THINGS}|{_THINGS})(?: new| else)? {_ON}"),
    (ConstraintKind.NO_ADD_SIDE, rf"{_PUT} (?:nothing|no {_NEW} {_THINGS}|no additions|no {_THINGS})(?: new)? {_ON}"),
    (ConstraintKind.NO_ADD_SIDE, rf"(?:no|without) (?:{_NEW} {_THINGS}|additions|nothing new) {_ON}"),
    (
        ConstraintKind.NO_ADD_SIDE,
        rf"(?:nothing|anything) new (?:goes |comes |stays |is )?(?:(?:off|away from)"
        rf" the {_SIDE}|{_ON.replace('?P<side>', '?P<side2>')})",
    ),
    (
        ConstraintKind.NO_ADD_SIDE,
        rf"{_NEW} (?:{_THINGS} )?(?:not|never|stays? off|off) (?:{_ON}|"
        rf"the {_SIDE.replace('?P<side>', '?P<side2>')})",
    ),
    (
        ConstraintKind.NO_ADD_SIDE,
        rf"the {_SIDE} (?:gets|is to get|{_MUST} get|receives) (?:no|nothing)"
        rf" (?:{_NEW}(?: {_THINGS})?|additions)",
    ),
    (
        ConstraintKind.CLEAR_SIDE,
        rf"(?:with |have |put |leave |there {_MUST} be |there is )?(?:nothing|no sounds?)"
        rf"(?: at all)? {_ON}",
    ),
    (ConstraintKind.CLEAR_SIDE, rf"{_NOT} (?:put|place|leave|have) (?:anything|a sound) {_ON}"),
    (ConstraintKind.CLEAR_SIDE, rf"(?:keep|leave|make|have) (?:the|my) {_SIDE} {_FREE}"),
    (
        ConstraintKind.CLEAR_SIDE,
        rf"(?:the|my) {_SIDE} (?:{_MUST} |is to )?(?:be|stay|stays|remain|remains|is)"
        rf" {_FREE}",
    ),
    (ConstraintKind.CLEAR_SIDE, rf"i (?:can't|cant|cannot|can not|don't|do not) hear(?: anything| well)? {_ON}"),
    (ConstraintKind.CLEAR_SIDE, rf"(?:clear|empty|free|vacate|evacuate) (?:out |up )?(?:the|my) {_SIDE}"),
    (
        ConstraintKind.NO_ADD,
        rf"{_NOT} (?:add|bring in|introduce|insert|put in) (?:anything|any|"
        rf"a thing|{_NEW}|{_THINGS}|more)\b.*",
    ),
    (ConstraintKind.NO_ADD, rf"(?:add nothing|nothing new|no {_NEW} {_THINGS}|no additions|no adding)\b.*"),
    (ConstraintKind.NO_ADD, rf"without (?:adding|any {_NEW}|{_NEW}|additions|introducing|bringing in)\b.*"),
    (
        ConstraintKind.NO_ADD,
        rf"(?:use |with |work with |by using )?(?:only|just)(?: use| with| work with|"
        rf" by changing)? (?:{_WHAT_IS_THERE}|the existing {_THINGS})",
    ),
    (ConstraintKind.NO_ADD, r"additions (?:are |is )?(?:off limits|forbidden|not allowed|not wanted|unwelcome)"),
    (ConstraintKind.ONLY_ADD, rf"{_NOT} {_CHANGE}(?: or {_CHANGE})? {_ALL}"),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:only|just) (?:add|put)(?: in)?(?: things| {_THINGS}| something| stuff| to it|"
        rf" new {_THINGS})?(?: on top| to it)?",
    ),
    (ConstraintKind.ONLY_ADD, rf"(?:only |just )?by (?:means of )?(?:adding|additions)(?: {_THINGS}| only| alone)?"),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:leave|keep) (?:everything|all|{_WHAT_IS_THERE}|the original|existing {_THINGS})"
        rf"(?: that's there| that is there| else)? {_AS_IS}",
    ),
    (
        ConstraintKind.ONLY_ADD,
        rf"(?:everything|{_WHAT_IS_THERE}|(?:the )?existing {_THINGS})"
        rf" (?:{_MUST} )?(?:stays?|remains?|is left) (?:{_AS_IS}|unchanged|untouched)",
    ),
    (
        ConstraintKind.ONLY_ADD,
        r"(?:change|touch|remove) nothing(?: else| that's there| that is there|"
        r" of what's there)?",
    ),
    (ConstraintKind.ONLY_ADD, rf"without {_CHANGING}(?: or {_CHANGING})? {_ALL}"),
    (
        ConstraintKind.UNTOUCHED,
        rf"{_NOT} (?:touch|change|alter|edit|modify|mess with) {_THE}{_NOUN}(?: in any way|"
        rf" at all)?",
    ),
    (ConstraintKind.UNTOUCHED, rf"(?:without|not) {_CHANGING} {_THE}{_NOUN}(?: in any way| at all)?"),
    (
        ConstraintKind.UNTOUCHED,
        rf"(?:leave|keep|let) {_THE}{_NOUN} (?:alone|untouched|unchanged|intact|be|"
        rf"in peace|{_AS_IS})",
    ),
    (
        ConstraintKind.UNTOUCHED,
        rf"{_THE}{_NOUN} {_MUST} (?:not|never) (?:be )?(?:changed?|altered|touched|edited|"
        rf"modified)",
    ),
    (
        ConstraintKind.UNTOUCHED,
        rf"{_THE}{_NOUN} (?:{_MUST} )?(?:stays?|remains?|be left|is) (?:untouched|unchanged|"
        rf"intact|alone|{_AS_IS}|fine already|fine {_AS_IS}|good {_AS_IS}|perfect already)",
    ),
    (ConstraintKind.UNTOUCHED, rf"(?:hands off(?: of)?|no (?:edits|changes) (?:to|on)) {_THE}{_NOUN}"),
    (
        ConstraintKind.KEEP,
        rf"(?:keep|preserve|retain|save|hold on to|hang on to|conserve|maintain|spare|protect)"
        rf"(?! only| just| it\b| nothing| quiet| (?:the |my )?(?:left|right)\b) {_THE}{_NOUN}(?: in| there|"
        rf" in there)?",
    ),
    (ConstraintKind.KEEP, rf"leave {_THE}{_NOUN} (?:in|there|in there)"),
    (
        ConstraintKind.KEEP,
        rf"{_THE}{_NOUN} {_NEVER} (?:to )?(?:(?:be |get )(?:lost|removed|dropped|cut|deleted|muted|taken (?:out|away)|"
        rf"thrown (?:out|away))|go|go away|go missing|disappear|vanish)",
    ),
    (
        ConstraintKind.KEEP,
        rf"(?:make sure|see to it|ensure|be sure) (?:that )?{_THE}{_NOUN} (?:is|are|can be|stays?|remains?) "
        rf"(?:still )?(?:there|audible|heard|present|in (?:it|there))",
    ),
    (ConstraintKind.KEEP, rf"{_NOT} {_SPARE} {_THE}{_NOUN}"),
    (ConstraintKind.KEEP, rf"{_NOT} make {_THE}{_NOUN} (?:any )?(?:quieter|softer|lower)"),
    (ConstraintKind.KEEP, rf"without {_LOSING} {_THE}{_NOUN}"),
    (
        ConstraintKind.KEEP,
        rf"(?:make sure |see to it |"
        rf"ensure )?(?:that )?{_THE}{_NOUN} (?:still )?(?:{_MUST} )?{_STAY}",
    ),
    (
        ConstraintKind.KEEP,
        rf"i (?:still |really )*(?:need|want to keep|want to hear) (?!this\b|it\b|you\b|an?\b|some\b|more\b|"
        rf"less\b){_THE}{_NOUN}(?: in there|"
        rf" in it)?",
    ),
    (
        ConstraintKind.KEEP,
        rf"so (?:that )?{_THE}{_NOUN} (?:is|are|can be) (?:clearly |still |better |well )*(?:audible|heard)",
    ),
    (ConstraintKind.KEEP, rf"(?:but )?not (?:of |from )?(?:the|my) {_NOUN}"),
    (ConstraintKind.KEEP, rf"with {_THE}{_NOUN} still (?:there|in it|audible|in)"),
    (
        ConstraintKind.KEEP,
        rf"with {_THE}{_NOUN} (?:as loud as (?:before|now|it is|it was)|at the same (?:level|volume)(?: as before)?)",
    ),
    (ConstraintKind.KEEP, rf"{_THE}{_NOUN} is (?:important|essential|precious|sacred)"),
    (
        ConstraintKind.EXCLUDE,
        rf"(?:i |we )?{_NOT} (?:want|wish|need|like)(?: to hear)? {_THE}{_NOUN}(?: in (?:it|"
        rf"there))?",
    ),
    (
        ConstraintKind.EXCLUDE,
        rf"(?:i |we )(?:hate|can't stand|cant stand|cannot stand|can't bear|cant bear|dislike) {_THE}{_NOUN}",
    ),
    (
        ConstraintKind.EXCLUDE,
        rf"(?:with )?(?:no|without|minus|free of|free from|avoid|avoiding|leave out|"
        rf"leaving out|excluding) {_THE}{_NOUN}(?: at all| in it| whatsoever)?",
    ),
    (ConstraintKind.EXCLUDE, rf"there (?:must|should|shall|may|can) be no {_NOUN}"),
    (
        ConstraintKind.EXCLUDE,
        rf"{_THE}{_NOUN} {_NEVER} (?:to |any longer |still )*"
        rf"(?:{_STAY}|be (?:heard|there|audible|in it|present|in there))",
    ),
    (ConstraintKind.EXCLUDE, rf"{_SURELY}(?:nothing|none) of {_THE}{_NOUN} (?:(?:{_MUST}|may|can) )?{_STAY}"),
    (
        ConstraintKind.EXCLUDE,
        rf"{_THE}{_NOUN} (?:is|are) (?:forbidden|banned|unwelcome|not allowed|not welcome|"
        rf"taboo|out of the question)",
    ),
)
_BEFORE, _AFTER = (
    r"(?:(?:but|and|so|yet|please|also|just|then|oh|pls) )*",
    r"(?: please| though| in place| there| however| too| as well)?(?: and (?P<rest>.*))?",
)
_COMPILED = tuple((kind, re.compile(f"{_BEFORE}{pattern}{_AFTER}")) for kind, pattern in _PATTERNS)

# "and" and "with" may stand inside a name; so they part clauses only where the second begins like a constraint.
_CLAUSES = re.compile(
    r"[,;:.!?\n]|\s[-–—]+\s|\s+(?:but|while|though|yet)\s+"
    r"|\s+and\s+(?=keep|leave|don't|do not|never|make sure|nothing|no |without|add nothing|preserve|only add|"
    r"just add)"
    r"|\s+(?=without |with nothing |with no |free of |free from |so that |(?:with|and) (?:the|my) [a-z' -]+ still )"
)


SIDE = re.compile(r"\b(?:left|right)\b")
_BARE_NOT = re.compile(rf"{_BEFORE}not (?:the|my)\b")
"""Spares a sound behind a wish that takes others away ("no noise, lower the wind, not the dog"), else forbids it."""
_TAKING = re.compile(rf"\b(?:{_SPARE}|{_LOSING}|quieter|softer|less|without)\b")


def clauses(instruction: str) -> list[str]:
    """The parts of an instruction that may each state a constraint, in lower case."""
    text = " ".join(instruction.lower().replace("’", "'").split())
    parts = (clause.strip(" -–—\"'") for clause in _CLAUSES.split(text))
    return [clause for clause in parts if clause]


def read_constraints(
    instruction: str,
    resolve: Callable[[str], Sequence[str]],
    guess: Callable[[str], tuple[ConstraintKind, str] | None] = lambda clause: None,
) -> tuple[Constraint, ...]:
    """Read what an instruction forbids.

    Parameters
    ----------
    instruction
        The person's sentence.
    resolve
        Names of sounds that a noun such as "voice" means; empty for what names no sound, so that "keep it short" is
        no constraint.
    guess
        What a clause that fits no pattern forbids, with the noun that it speaks of or an empty text; None for nothing.

    Returns
    -------
    tuple of Constraint
        In the order of the clauses.
    """
    found: list[Constraint] = []
    for clause in clauses(instruction):
        for kind, pattern in _COMPILED:
            match = pattern.fullmatch(clause)
            if match is None:
                continue
            named = match.groupdict()
            side = named.get("side") or named.get("side2") or ""
            noun = (named.get("noun") or named.get("noun2") or "").strip()
            labels = tuple(resolve(noun)) if noun else ()
            if noun and not labels:
                continue
            if noun and (rest := named.get("rest")):  # "keep the dog and the cat"
                labels += tuple(label for label in resolve(re.sub(rf"^{_THE}", "", rest)) if label not in labels)
            if kind is ConstraintKind.KEEP and _BARE_NOT.match(clause) and not _TAKING.search(instruction.lower()):
                kind = ConstraintKind.EXCLUDE
            constraint = Constraint(kind, labels, side)
            if constraint not in found:
                found.append(constraint)
            break
        else:
            if (guessed := guess(clause)) is None:
                continue
            kind, noun = guessed
            labels = tuple(resolve(noun)) if noun else ()
            named_side = None if noun else SIDE.search(clause)
            constraint = Constraint(kind, labels, named_side[0] if named_side else "")
            if constraint not in found and (labels or not noun):
                found.append(constraint)
    return tuple(found)


FUNCTION_WORDS = (
    "add", "adding", "additions", "alone", "anything", "change", "channel", "deaf", "don't", "empty", "everything",
    "existing", "hear", "just", "keep", "leave", "left", "lose", "nothing", "only", "original", "remove", "right",
    "side", "sounds", "stay", "stays", "there", "things", "touch", "untouched", "without",
)  # fmt: skip
"""Words that constraints are made of."""
SWALLOWED = {"noting": "nothing", "jut": "just", "ony": "only", "thee": "there", "lave": "leave", "kep": "keep"}
"""Words of their own that are likelier a slip where a constraint comes of it."""


def mend_function_words(text: str, is_word: Callable[[str], bool]) -> str:
    """Replace what looks like a slip by the word of `FUNCTION_WORDS` it comes nearest to; in lower case.

    Meant for reading constraints alone: elsewhere "jut" may be meant.
    """

    def mended(match: re.Match[str]) -> str:
        word = match[0]
        if word in SWALLOWED:
            return SWALLOWED[word]
        if word in FUNCTION_WORDS or len(word) < 3 or is_word(word):
            return word
        near = get_close_matches(word, FUNCTION_WORDS, 1, 0.8)
        return near[0] if near and near[0][0] == word[0] else word

    return re.sub(r"[a-z']+", mended, text.lower())


def on_side(azimuth_deg: float | None, side: str) -> bool:
    """Whether a direction lies on a side; an unknown one does not."""
    return azimuth_deg is not None and (azimuth_deg < 0 if side == "left" else azimuth_deg > 0)


def violations(
    steps: Sequence[Step],
    present: Sequence[Located],
    constraints: Sequence[Constraint],
    key: Callable[[str], str] = str,
) -> list[str]:
    """Say how a plan breaks constraints; an empty list means that it honours them.

    Parameters
    ----------
    steps
        The plan.
    present
        What is in the recording.
    constraints
        Their labels are as `key` gives them.
    key
        Makes two wordings of one sound equal.
    """
    found: list[str] = []
    existing = [(step, key(step.target)) for step in steps if step.operation is not Operation.ADD]
    adds = [(step, key(step.target)) for step in steps if step.operation is Operation.ADD]
    removed = {name for step, name in existing if step.operation is Operation.REMOVE}
    for step, name in existing:
        if step.operation is Operation.EXTRACT:
            removed |= {key(sound.label) for sound in present} - {name}
    moved = {name: step.to_azimuth_deg for step, name in existing if step.operation is Operation.DIRECTION}
    lowered = {name for s, name in existing if s.operation is Operation.VOLUME and (s.gain_db or 0) < 0}
    for constraint in constraints:
        named = set(constraint.labels)
        match constraint.kind:
            case ConstraintKind.KEEP:
                found += [f"{name} was to be kept" for name in sorted(named & (removed | lowered))]
            case ConstraintKind.UNTOUCHED:
                touched = {name for _, name in existing} | removed
                found += [f"{name} was not to be touched" for name in sorted(named & touched)]
            case ConstraintKind.CLEAR_SIDE:
                stay = [(key(s.label), s.azimuth_deg) for s in present if key(s.label) not in removed]
                places = [(name, moved.get(name, azimuth)) for name, azimuth in stay]
                places += [(name, step.azimuth_deg) for step, name in adds]
                found += [f"{n} is on the {constraint.side}" for n, a in places if on_side(a, constraint.side)]
            case ConstraintKind.NO_ADD_SIDE:
                wrong = [name for step, name in adds if on_side(step.azimuth_deg, constraint.side)]
                found += [f"{name} is added on the {constraint.side}" for name in wrong]
            case ConstraintKind.NO_ADD:
                found += [f"{name} is added" for _, name in adds]
            case ConstraintKind.ONLY_ADD:
                found += [f"{name} is changed" for _, name in existing]
            case ConstraintKind.EXCLUDE:
                left = {key(sound.label) for sound in present} - removed
                found += [f"{name} was to be absent" for name in sorted(named & (left | {n for _, n in adds}))]
    return found


@dataclass(frozen=True)
class Leeway:
    """What a plan may do under constraints, as sets for constrained decoding.

    Attributes
    ----------
    changeable
        Sounds that are there and that some step may name.
    keep
        Of these, those that must not be removed or lowered.
    extractable
        Sounds that everything else may be dropped for.
    addable
        Whether anything may be added.
    absent
        Sounds that must not be added.
    closed_sides
        Sides that no sound may move to.
    closed_to_adds
        Sides that no sound may be added on.
    """

    changeable: frozenset[str]
    keep: frozenset[str]
    extractable: frozenset[str]
    addable: bool
    absent: frozenset[str]
    closed_sides: frozenset[str]
    closed_to_adds: frozenset[str]


def leeway(present: Sequence[str], constraints: Sequence[Constraint]) -> Leeway:
    """Turn constraints into what decoding may do with the sounds that are there."""
    by_kind: dict[ConstraintKind, set[str]] = {kind: set() for kind in ConstraintKind}
    sides: dict[ConstraintKind, set[str]] = {kind: set() for kind in ConstraintKind}
    kinds = {constraint.kind for constraint in constraints}
    for constraint in constraints:
        by_kind[constraint.kind] |= set(constraint.labels)
        sides[constraint.kind] |= {constraint.side} - {""}
    untouched, keep = by_kind[ConstraintKind.UNTOUCHED], by_kind[ConstraintKind.KEEP]
    # What must be absent can only be removed, which `repairs` does.
    absent = frozenset(by_kind[ConstraintKind.EXCLUDE])
    changeable = frozenset() if ConstraintKind.ONLY_ADD in kinds else frozenset(present) - untouched - absent
    protected = (untouched | keep) & set(present)
    closed = frozenset(sides[ConstraintKind.CLEAR_SIDE])
    return Leeway(
        changeable=changeable,
        keep=frozenset(keep),
        # Whoever keeps one sound alone drops all others, also those that were to stay.
        extractable=frozenset(name for name in changeable if protected <= {name}),
        addable=ConstraintKind.NO_ADD not in kinds,
        absent=absent,
        closed_sides=closed,
        closed_to_adds=closed | frozenset(sides[ConstraintKind.NO_ADD_SIDE]),
    )


def repairs(steps: Sequence[Step], present: Sequence[Located], constraints: Sequence[Constraint]) -> list[Step]:
    """Return steps that a plan lacks to honour its constraints: what must be absent goes, a side is cleared.

    Parameters
    ----------
    steps
        The plan so far; decoded within `leeway`.
    present
        What is in the recording.
    constraints
        Of the instruction.
    """
    missing: list[Step] = []
    bound = leeway([sound.label for sound in present], constraints)
    may_change = not any(constraint.kind is ConstraintKind.ONLY_ADD for constraint in constraints)
    untouched = {name for item in constraints if item.kind is ConstraintKind.UNTOUCHED for name in item.labels}
    named = {step.target for step in steps if step.operation in (Operation.REMOVE, Operation.DIRECTION)}
    for sound in present:
        if sound.label in named or sound.label in untouched or not may_change:
            continue
        if sound.label in bound.absent:
            if sound.label not in bound.keep:
                missing.append(Step(Operation.REMOVE, sound.label))
        elif any(on_side(sound.azimuth_deg, side) for side in bound.closed_sides):
            open_sides = {"left": -90.0, "right": 90.0}
            goals = [azimuth for side, azimuth in open_sides.items() if side not in bound.closed_sides]
            missing.append(Step(Operation.DIRECTION, sound.label, to_azimuth_deg=goals[0] if goals else 0.0))
    return missing
