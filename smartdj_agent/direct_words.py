"""The words of direct requests: numbers, amounts, places, nouns and verbs, as patterns over one clause.

All data and the reading of numbers; `smartdj_agent.direct` puts them together. Clauses are in lower case; where
patterns say so, numbers and words of degree have been taken out before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import log10

from smartdj_agent.steps import DIRECTIONS, Timbre

USUAL_DB, SMALL_DB, LARGE_DB = 3.0, 2.0, 6.0
"""Change of level where none is said, for "a bit" and for "a lot"."""
TOO_MUCH_DB, FAINT_DB, BACKGROUND_DB = 4.0, 12.0, 8.0
"""For "too loud", "barely audible", "into the background"."""
USUAL_S, SMALL_S, LARGE_S = 1.0, 0.5, 2.0
USUAL_LEVEL, SMALL_LEVEL, LARGE_LEVEL = 5, 3, 8
DISTANT_ADD_DB = -6.0
"""Level of a sound that is added "in the background"."""


@dataclass(frozen=True)
class _Amounts:
    """Numbers and degrees of a clause, taken out of it."""

    text: str
    db: float | None = None
    signed: bool = False
    seconds: float | None = None
    azimuth_deg: float | None = None
    level: int | None = None


# --- words ---------------------------------------------------------------------------------------------------

POLITE = re.compile(
    r"^(?:hey|hi|hello|ok|okay|so|well|um|uh|please|pls|plz|kindly|just|also|then|and|now|maybe|perhaps|first|"
    r"firstly|(?:i|we) (?:think|feel|believe|guess|find|reckon)(?: that)?|i'd say|it seems(?: that)?|in my opinion|"
    r"to my ears|"
    r"second|secondly|third|finally|lastly|next|after that|but|yes|yeah|right|actually|simply|"
    r"(?:can|could|would|will) (?:you|we|u)(?: mind)?|(?:i want|i'd like|i would like|i'd love|i need|we need|"
    r"we want)"
    r"(?: for)? (?:you )?to(?! hear)|you (?:should|could|can|may)|let's|let us|go ahead and|try to|be so kind and|"
    r"do me a favou?r and|there's|there is|is it possible to|i wonder if you could|any chance you (?:can|could))"
    r"\b[, ]*"
)
THANKS = re.compile(
    r"[, ]*\b(?:please|pls|plz|thanks(?: a lot)?|thank you|thx|cheers|for me|if you can|if possible|if you would|"
    r"okay|ok|"
    r"will you|would you|can you|could you|right now|than (?:it|they) (?:is|are|was|were)(?: (?:right )?now)?|than now|"
    r"than before|somehow|as well|too(?! \w)|again|instead|"
    r"(?:in|from|of) (?:the|this|that|my) (?:mix|recording|audio|clip|track|file|sound|background music|scene|take))$"
)
GERUNDS = {
    "turning": "turn", "making": "make", "moving": "move", "removing": "remove", "panning": "pan", "putting": "put",
    "placing": "place", "adding": "add", "lowering": "lower", "raising": "raise", "reducing": "reduce",
    "boosting": "boost", "muting": "mute", "deleting": "delete", "taking": "take", "getting": "get",
    "bringing": "bring", "shifting": "shift", "delaying": "delay", "keeping": "keep", "isolating": "isolate",
    "giving": "give", "cutting": "cut", "dropping": "drop", "sending": "send", "increasing": "increase",
    "decreasing": "decrease",
}  # fmt: skip
_NUMBER_WORDS = {
    "a quarter of a": 0.25, "a quarter": 0.25, "half a": 0.5, "half an": 0.5, "half": 0.5, "one and a half": 1.5,
    "a couple of": 2.0, "a couple": 2.0, "a few": 3.0, "several": 4.0, "one": 1.0, "two": 2.0, "three": 3.0,
    "four": 4.0, "five": 5.0, "six": 6.0, "seven": 7.0, "eight": 8.0, "nine": 9.0, "ten": 10.0, "eleven": 11.0,
    "twelve": 12.0, "fifteen": 15.0, "twenty": 20.0, "another": 1.0, "an": 1.0, "a": 1.0,
}  # fmt: skip
_NUM = (
    r"(?P<num>[+-]? ?\d+(?:[.,]\d+)?|" + "|".join(sorted(map(re.escape, _NUMBER_WORDS), key=len, reverse=True)) + r")"
)
_BEFORE_NUM = r"(?:(?:by|with|about|around|roughly|some|exactly|at least|only|just|another|an extra|at|to) )*"
_OUT = r"(?: (?:more|extra|further|or so|less))?"
DB = re.compile(rf"(?:^|(?<= )){_BEFORE_NUM}{_NUM} ?(?:db|dbs|decibels?|desibels?)\b{_OUT}")
_PERCENT = re.compile(rf"(?:^|(?<= )){_BEFORE_NUM}(?P<num>\d+(?:[.,]\d+)?) ?(?:%|percent\b|per cent\b)")
SECONDS = re.compile(
    rf"(?:^|(?<= )){_BEFORE_NUM}{_NUM} ?(?P<unit>ms|milliseconds?|msecs?|seconds?|secs?|(?<![a-z])s|minutes?|mins?)"
    rf"\b{_OUT}"
    r"(?: too)?"
)
_DEGREES = re.compile(
    rf"(?:^|(?<= ))(?:(?:by|to|at|about|around) )*{_NUM} ?(?:°|degrees?\b|deg\b)(?: (?:to|on|towards)? ?(?:the |my )?"
    r"(?P<side>left|right))?"
)
_LEVEL = re.compile(
    r"(?:(?:at|with|of|to|a|on) )*(?:(?:reverb(?:eration)? )?level (?:of )?(?P<num>10|[1-9])\b|(?P<of>10|[1-9])"
    r" ?(?:/ ?|out of )10\b)"
)
BARE = re.compile(rf"(?:^|(?<= )){_BEFORE_NUM}(?P<num>[+-]? ?\d+(?:[.,]\d+)?)(?= |$)")
_SMALL = (
    r"(?:(?:just )?(?:a|one) (?:little )?(?:bit|tiny bit|touch|tad|hair|notch|smidge|smidgen)(?: of)?|a little|"
    r"slightly|"
    r"somewhat|gently|subtly|lightly|a hint(?: of)?|a trace(?: of)?|subtle|slight|light|faint|small|mild)"
)
_LARGE = (
    r"(?:(?:quite )?a (?:lot|whole lot|good deal|great deal|good bit)(?: of)?|lots of|loads of|tons of|much(?! of)|"
    r"way|far|considerably|significantly|substantially|drastically|dramatically|strongly|heavily|massively|hugely|"
    r"a ton(?: of)?|plenty of|heavy|strong|big|huge|massive|long)"
)
_SIZES = ((_SMALL, -1), (_LARGE, 1))
FILL = r"(?:really|very|even|quite|so|such|still|nice|nicely|properly|clearly)"


def number(text: str) -> float:
    text = text.strip()
    return _NUMBER_WORDS[text] if text in _NUMBER_WORDS else float(text.replace(" ", "").replace(",", "."))


def duration_s(match: re.Match[str]) -> float:
    """Seconds of a match of `SECONDS`."""
    unit = match["unit"]
    scale = 60.0 if unit.startswith("mi") and not unit.startswith("mil") else 1e-3 if unit.startswith("m") else 1.0
    return number(match["num"]) * scale


def without(text: str, match: re.Match[str]) -> str:
    return " ".join(f"{text[: match.start()]} {text[match.end() :]}".split()).strip(" ,")


def take_amounts(text: str) -> _Amounts:
    """Take numbers with units out of a clause."""
    found = _Amounts(text)
    if match := DB.search(found.text):
        value = number(match["num"])
        found = replace(found, text=without(found.text, match), db=value, signed=match["num"][0] in "+-")
    elif match := _PERCENT.search(found.text):
        # Amplitude: half is 6 dB. What is lowered by p % keeps 100 − p; what is raised by p % has 100 + p.
        found = replace(found, text=without(found.text, match), db=-float(match["num"].replace(",", ".")) * 1000)
    if match := SECONDS.search(found.text):
        found = replace(found, text=without(found.text, match), seconds=duration_s(match))
    if match := _DEGREES.search(found.text):
        value = number(match["num"])
        if match["side"] == "left":
            value = -abs(value)
        found = replace(found, text=without(found.text, match), azimuth_deg=value)
    if match := _LEVEL.search(found.text):
        level = int(match["num"] or match["of"])
        rest = found.text[: match.start()] + ("reverb" if "reverb" in match[0] else "") + found.text[match.end() :]
        found = replace(found, text=" ".join(rest.split()), level=level)
    return found


def percent_db(db: float, *, up: bool) -> float:
    """dB of a change by percent, which `take_amounts` marks as −1000 times itself."""
    if db > -1000:
        return abs(db)
    share = -db / 100_000
    if up:
        return 20 * log10(1 + share)
    return 24.0 if share >= 1 else -20 * log10(1 - share)


def sized(text: str) -> tuple[str, int]:
    """Take a word of degree out of a clause: the clause without it, and −1 (small), 0 or 1 (large)."""
    for pattern, size in _SIZES:
        match = re.search(rf"(?:^|(?<= ))(?:by ){{0,1}}{pattern}(?= |$)", text)
        if match:
            return without(text, match), size
    return text, 0


# --- places --------------------------------------------------------------------------------------------------

_PLACE_WORDS: dict[str, float] = {
    **DIRECTIONS,
    "l": -90.0,
    "r": 90.0,
    "c": 0.0,
    "front left": -45.0, "front right": 45.0, "left-front": -45.0, "right-front": 45.0, "front-left": -45.0,
    "front-right": 45.0, "half left": -45.0, "half right": 45.0, "halfway left": -45.0, "halfway right": 45.0,
    "slightly left": -45.0, "slightly right": 45.0, "centre": 0.0, "center": 0.0, "middle": 0.0, "centre front": 0.0,
    "center front": 0.0, "front center": 0.0, "front centre": 0.0, "centred": 0.0, "centered": 0.0, "in front": 0.0,
    "ahead": 0.0, "straight ahead": 0.0, "leftwards": -90.0, "rightwards": 90.0, "leftmost": -90.0,
    "rightmost": 90.0,
}  # fmt: skip
PLACE = (
    r"(?:(?:hard|far|extreme|fully|completely|totally|all the way(?: over)?(?: to the| on the| to)?|over to the|"
    r"over to|"
    r"more to the|more to|further to the|further|the|my|our|your|very|dead) )*"
    r"(?P<place>" + "|".join(sorted(map(re.escape, _PLACE_WORDS), key=len, reverse=True)) + r")"
    r"(?: ?-?hand)?(?: (?:side|ear|channel|speaker|half|corner|headphone))?(?: of (?:me|us|the (?:mix|stage|"
    r"stereo (?:field|image)|room|listener)))?"
)
_AT = r"(?:(?:over )?(?:to|on|at|in|into|onto|toward|towards|from|coming from|from the direction of) )?"
AT_SAID = r"(?:over )?(?:to|on|at|in|into|onto|toward|towards|from|coming from) "
_OTHER_SIDE = r"(?:to |on |onto )?the (?:other|opposite) side"


def place_deg(match: re.Match[str]) -> float:
    return _PLACE_WORDS[match["place"]]


# --- nouns ---------------------------------------------------------------------------------------------------

DETERMINERS = re.compile(
    r"^(?:(?:the|that|this|those|these|my|your|his|her|their|our|a|an|some|any|all the|all of the|all|both the|both|"
    r"every|each|more|another|of the|of)(?: |$))+"
)
SOUND_OF = re.compile(
    r"^(?:(?:the )?(?:sounds?|noises?|volume|level|loudness|gain|position|direction|timbre|tone|colou?r) (?:of|"
    r"from) )"
)
SOUND_TAIL = re.compile(r"(?:'s)? (?:sounds?|noises?|volume|levels?|loudness|audio|effect|stuff|part|bit)$")
QUALIFIED = re.compile(
    r" (?:that|which|who|i hear|you hear|we hear|in the (?:back|fore)ground|in the distance|outside|far away|"
    r"nearby)\b.*$"
)
PRONOUNS = frozenset({"it", "them", "that", "those", "him", "her", "that one", "that sound"})
EVERYTHING_BUT = re.compile(
    r"^(?:everything|all|all (?:the )?(?:other )?(?:sounds|noises|rest)|all of it|anything|every (?:other )?sound|"
    r"whatever)"
    r"(?: else)?(?: there)?,? (?:but|except(?: for)?|apart from|other than|besides|save(?: for)?|that isn't|"
    r"that is not"
    r"|which isn't|which is not|not being) "
)
_STOP_WORDS = """
it this that them make makes turn turned like as into to from with without but so if when where while i you we
they he she is are be was were in on at of for by not no a an the sound sounds sounding feel feels more less add
put move take get keep up down left right louder quieter softer brighter darker warmer colder later earlier too
loud quiet remove delete mute only just db seconds
"""
STOP = frozenset(_STOP_WORDS.split())
"""Words that a sound's name seldom holds; what holds one must be the exact name of something heard."""
CONJUNCTION = re.compile(r" (?:and|as well as|plus|or|&) (?:also )?|, ?(?:and )?| & ")


# --- patterns ------------------------------------------------------------------------------------------------
# Clauses come without politeness, numbers and words of degree; ``x`` is what names the sound.


def _all(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


_X = r"(?P<x>.+?)"
_OF = r"(?:the (?:volume|level|gain|loudness|sound|fader) (?:of|on|for) )?"
_SHALL = r"(?:should|must|shall|needs? to|has to|have to|ought to|could|can|may|is to|are to)"

SWAP = re.compile(
    r"(?:swap|exchange|switch|trade) (?:the (?:places|positions|sides|directions) of )?(?P<x>.+?) (?:and|with|for)"
    r" (?P<y>.+?)(?: around| over| places)?"
)
EXTRACT = _all(
    rf"(?:extract|isolate|solo|single out|pull out|lift out)(?: only| just)? {_X}",
    rf"(?:keep|leave|leave me with|retain) (?:only|just|nothing but|nothing except|nothing else than|solely) {_X}",
    rf"(?:only|just|solely) (?:keep|leave|hear|play) {_X}",
    rf"(?:only|just|nothing but|nothing except|solely) {_X}(?: left| alone)?",
    rf"i (?:only|just) (?:want|need|wish|would like)(?: to hear| to keep)? {_X}",
    rf"(?:i want to hear|let me hear|give me|play|keep) (?:only|just|nothing but) {_X}",
    rf"(?:remove|delete|mute|drop|lose|kill|cut|silence|get rid of|take out|erase) (?:everything|all|anything|"
    rf"all (?:the )?(?:other )?sounds|every sound|the rest)"
    rf"(?: else)?,? (?:but|except(?: for)?|apart from|other than|besides|save|that isn't|that is not) {_X}",
    rf"(?:strip|take|cut|filter|throw) (?:everything|all|all (?:the )?(?:other )?sounds)(?: else)? (?:away|out),? "
    rf"(?:but|except(?: for)?|apart from|other than|besides|save) {_X}",
    rf"{_X} (?:alone|only|solo)",
)

_RV = r"(?:reverb|reverberation|reverbs|echo|echoes|room sound|room|hall|ambience|reverberance)"
_RV_ADJ = r"(?:(?:some|more|a|an|of|the|nice|deep|lush|extra|little) )*"
REVERB = _all(
    rf"(?:add|put|apply|bring|use|stick|throw|lay|set|insert|want)(?: in)? {_RV_ADJ}{_RV} (?:to|on|onto|for|around|"
    rf"over|behind|in|of) {_X}",
    rf"{_RV_ADJ}{_RV} (?:to|on|onto|for|around|over|behind) {_X}",
    rf"(?:reverb|reverberate|echo) {_X}(?: up| (?:at|to|with|by))?",
    rf"(?:give|lend) {_X} {_RV_ADJ}{_RV}",
    rf"{_X} (?:with|needs|wants|gets|should have|must have|could use) {_RV_ADJ}{_RV}",
    rf"make {_X} (?:sound )?(?:more )?(?:echo|echoey|echoing|echoic|reverberant|reverby|roomy|roomier|spacious|"
    rf"cavernous|ring|ring out|wetter|wet)",
    rf"(?:let|have|make) {_X} (?:echo|ring|ring out|reverberate|resound|resonate)",
)
_ROOMS: tuple[tuple[str, int], ...] = (
    (r"cathedral|canyon", 10),
    (r"church|cave|cavern|arena|stadium|temple|dome", 9),
    (r"(?:big|large|huge|vast|giant|concert|great|empty|grand)[\w ]* (?:hall|room|space)|tunnel|warehouse|"
        r"auditorium|hangar|theat(?:er|re)|ballroom", 8),
    (r"hall|gym|gymnasium|well|swimming pool|stairwell|staircase|stairway", 7),
    (r"corridor|garage|bathroom|shower|cellar|basement|courtyard", 5),
    (r"(?:small|tiny|little|narrow)[\w ]* (?:room|space|hall|chamber)|closet|wardrobe|cupboard|box", 2),
    (r"(?:living )?room|kitchen|chamber|studio", 3),
)  # fmt: skip
_IN_ROOM = r"(?:in|inside|into|within|from) (?:a|an|the) (?P<room>[\w -]+)"
ROOM = _all(
    rf"(?:put|place|set|move|have|make|let|transport) {_X}(?: to)? (?:sound |be |ring |echo )?(?:as if |like |"
    rf"as though )?(?:(?:it(?:'s| is| were| was)|they(?:'re| are| were)) )?(?:coming )?{_IN_ROOM}",
    rf"{_X} (?:should |must )?(?:sounds? |be |is |rings? )(?:as if |like |as though )?(?:(?:it(?:'s| is| were| was)"
    rf") )?(?:coming )?{_IN_ROOM}",
    rf"{_X} (?:as if |like |as though )(?:(?:it(?:'s| is| were| was)) )?{_IN_ROOM}",
    rf"let {_X} (?:ring|ring out|echo|resound) {_IN_ROOM}",
)

_COLOURS: tuple[tuple[str, Timbre], ...] = (
    (r"bright(?:er)?|crisp(?:er|y)?|sharp(?:er)?|brilliant|shin(?:y|ier)|sparkl(?:y|ing)|trebl(?:y|ier)|airy|"
        r"airier|crystal clear|clear(?:er)?", Timbre.BRIGHT),
    (r"dark(?:er)?|dull(?:er)?|deeper|gloom(?:y|ier)", Timbre.DARK),
    (r"warm(?:er)?|mellow(?:er)?|fuller|rounder|cosier|cozier|smoother", Timbre.WARM),
    (r"cold(?:er)?|cool(?:er)?|thin(?:ner)?|tinn(?:y|ier)|ic[ey] cold|icy|icier|metallic", Timbre.COLD),
    (r"muffled|muted|dampened|under ?water|behind (?:a|the) (?:closed )?(?:wall|door|curtain)|through (?:a|the)"
        r" (?:wall|door|pillow)|(?:from )?(?:next door|the next room|another room)|under a (?:blanket|"
        r"pillow)", Timbre.MUFFLED),
)  # fmt: skip
_COLOUR = r"(?P<colour>" + "|".join(words for words, _ in _COLOURS) + r")"
_AS_IF = r"(?:as if |like |as though )?(?:(?:it(?:'s| is| were| was)|they(?:'re| are| were)) )?(?:coming )?"
TIMBRE = _all(
    rf"(?:make|render|turn|have|get|let|want|i want|i'd like) {_X}(?: to)? (?:sound |be |appear |seem |"
    rf"become )?(?:more )?{_AS_IF}{_COLOUR}",
    rf"{_X} (?:{_SHALL} )?(?:sound |be |get |become )(?:more )?{_AS_IF}{_COLOUR}",
    rf"{_X} (?:more |as if |like )(?:it's |it is |it were )?{_COLOUR}",
    rf"{_X} (?P<colour>brighter|crisper|sharper|darker|duller|warmer|mellower|colder|thinner|tinnier|muffled)",
    rf"(?:a )?(?:more )?(?P<colour>brighter|crisper|darker|duller|warmer|colder|thinner|muffled|bright|dark|warm|"
    rf"cold) {_X}",
    rf"(?:give|lend) {_X} (?:a |an )?(?:more )?{_COLOUR} (?:tone|timbre|sound|colou?r|character|tint|quality)",
    rf"(?:change|shift) (?:the )?(?:timbre|tone|colou?r|sound) of {_X} to (?:be )?(?:more )?{_COLOUR}",
    rf"(?P<colour>brighten|darken|warm|cool|muffle|dull|mellow)(?: up| down)? {_X}",
    rf"(?P<colour>brighten|darken|warm|cool|muffle|dull) {_X} (?:up|down)",
)
_COLOUR_VERBS = {
    "brighten": Timbre.BRIGHT, "darken": Timbre.DARK, "warm": Timbre.WARM, "cool": Timbre.COLD,
    "muffle": Timbre.MUFFLED, "dull": Timbre.DARK, "mellow": Timbre.WARM,
}  # fmt: skip

_LATE = r"(?:later|late|afterwards)"
_SOON = r"(?:earlier|sooner|early)"
_ENTER = r"(?:to )?(?:start|begin|come|come in|play|happen|enter|set in|kick in|occur|sound) "
_IN_TIME = r"(?: in time| on the timeline)?"
_MOVE_TIME = r"(?:shift|move|push|start|play|begin|have|let|make|bring|nudge|slide|put|get|i want|want|pull|drag)"
LATER = _all(
    rf"(?:delay|postpone|retard|hold back) {_X}(?: a moment)?",
    rf"{_MOVE_TIME} {_X} (?:{_ENTER})?{_LATE}{_IN_TIME}",
    rf"{_X} (?:{_SHALL} )?(?:{_ENTER}|starts |begins |comes |comes in |enters )?{_LATE}",
)
LATER_TIMED = _all(
    rf"{_MOVE_TIME} {_X} (?:{_ENTER})?(?:back|backwards?|after|behind){_IN_TIME}",
    rf"(?:shift|offset|displace) {_X}(?: by)?{_IN_TIME}",
    rf"(?:push|move|shift) back {_X}",
)
EARLIER = _all(
    rf"{_MOVE_TIME} {_X} (?:{_ENTER})?{_SOON}{_IN_TIME}",
    rf"(?:advance|hasten|rush) {_X}",
    rf"{_X} (?:{_SHALL} )?(?:{_ENTER}|starts |begins |comes |comes in |enters )?{_SOON}",
    rf"(?:bring|move|pull) {_X} forwards? in time",
)
EARLIER_TIMED = _all(
    rf"{_MOVE_TIME} {_X} (?:{_ENTER})?(?:forwards?|ahead|before|up){_IN_TIME}",
    rf"(?:bring|pull|move) forward {_X}",
)

_MOVE = r"(?:move|take|pan|send|shift|push|drag|throw|swing|turn|change|relocate|slide|bring|steer)"
MOVED = _all(
    rf"{_MOVE} {_X} {_AT}{PLACE}",
    rf"(?:put|place|position|set|have|keep|i want|i'd like|i need|want|let) {_X}(?: to)?(?: be| come| sound| sit|"
    rf" go| move| appear)? ?{AT_SAID}{PLACE}",
    rf"(?:put|place|position|set) {_X} {PLACE}",
    rf"make {_X} (?:come|sound|sit|go|appear|be heard) {_AT}{PLACE}",
    rf"(?:change|move) (?:the )?(?:direction|position|place) of {_X} to {PLACE}",
    rf"{_X} (?:{_SHALL} )(?:be |come |go |sit |sound |move |appear |be heard )?{_AT}{PLACE}",
    rf"{_X} (?:goes|comes|moves|sits) {_AT}{PLACE}",
    rf"{_X} {_AT}{PLACE}",
    rf"(?:i want to hear|let me hear) {_X} {AT_SAID}{PLACE}",
)
MAY_ADD = frozenset({MOVED[1], MOVED[8]})
"""What also asks for a sound that isn't there ("put rain on the left")."""
TURNED = _all(
    rf"(?:{_MOVE}|put|place|position|set|rotate) {_X}",
)
WHERE_OTHER = re.compile(rf"(?:{_MOVE}|put|place|set) (?P<x>.+?) (?:to )?where (?P<y>.+?) (?:is|are|sits|comes from)")
ACROSS = re.compile(rf"(?:{_MOVE}|put|place) {_X} (?:over )?{_OTHER_SIDE}")

_UP_VERB = r"(?:turn|crank|bring|push|pull|fade|take|move|nudge|bump|pump|dial|ride|mix|tune|go|pep|volume|set)"
_LOUDER = (
    r"(?:louder|stronger|more prominent|more audible|clearer|more present|bigger|audible|better audible|"
    r"more loud|higher|more clearly audible)"
)
_QUIETER = (
    r"(?:quieter|softer|less loud|less prominent|lower|weaker|fainter|calmer|more quiet|more silent|"
    r"more subtle|less audible|less present|more soft|smaller)"
)
_UP = _all(
    rf"{_UP_VERB} {_OF}{_X} (?:back )?up",
    rf"{_UP_VERB} up {_OF}{_X}",
    rf"(?:hear |let me hear |i want to hear |i'd like )?more of {_X}",
    rf"(?:bring|push|put) {_X} (?:forwards?|upfront|up front|to the fore|more forward)",
    rf"(?:crank|pump) {_OF}{_X}",
    rf"(?:raise|increase|boost|lift|amplify|strengthen|emphasi[sz]e|elevate|enhance|bring out|highlight|intensify|"
    rf"accentuate|up) {_OF}{_X}(?: up)?",
    rf"(?:make|get|have|let|want|i want|i'd like|i'd prefer|i prefer) {_X} (?:to )?(?:sound |be |get |become |"
    rf"come (?:out|through)"
    rf" )?{_LOUDER}",
    rf"(?:make|let|have) {_X} (?:to )?(?:stand out|come through|cut through|shine)",
    rf"{_X} (?:{_SHALL} )?(?:be |get |sound |come |go |become )?(?:{_LOUDER}|up)",
    rf"(?:more|louder|a louder|a loud|a stronger) {_X}",
    rf"give {_X} (?:some |more |a )?(?:boost|gain|lift|push|volume|level|power|presence)",
)
_UP_TOO_QUIET = _all(rf"{_X} (?:is|are|sounds?|seems?) too (?:quiet|soft|low|faint|weak|silent)")
_UP_UNHEARD = _all(
    rf"i (?:can't|cannot|can not|can barely|can hardly|barely|hardly) (?:hear|make out) {_X}(?: at all)?"
)
_UP_TWICE = _all(rf"double {_OF}{_X}", rf"(?:make )?{_X} (?:twice|double) as loud")
_DOWN = _all(
    rf"{_UP_VERB}(?:s)? {_OF}{_X} (?:back )?down",
    rf"(?:{_UP_VERB}|tone|calm|quiet) down {_OF}{_X}",
    rf"(?:lower|reduce|decrease|attenuate|soften|quieten|quiet|dampen|dim|diminish|lessen|duck|ease off|back off|"
    rf"tame|weaken|subdue|hush) {_OF}{_X}(?: down| back)?",
    rf"(?:make|get|have|let|want|i want|i'd like|i'd prefer|i prefer) {_X} (?:to )?(?:sound |be |get |"
    rf"become )?{_QUIETER}",
    rf"{_X} (?:{_SHALL} )?(?:be |get |sound |come |go |become )?(?:{_QUIETER}|down)",
    rf"(?:less|quieter|a quieter|a quiet|softer|a softer|not so much|less of) {_X}",
    rf"{_X} (?:not so|less|not as) loud",
    rf"(?:duck|lower|push) {_X} (?:under|behind|below) .+",
)
_DOWN_TOO_LOUD = _all(
    rf"{_X} (?:\w+s |(?:is|are) \w+ing )?(?:is |are |sounds? |seems? )?(?:too|so) (?:loudly|loud|strong|prominent|"
    rf"dominant|noisy|present|overpowering)",
    rf"{_X} (?:is|are) (?:overpowering|deafening|drowning everything(?: out)?)",
)
_DOWN_FAINT = _all(
    rf"(?:make|let|have) {_X} (?:be |sound )?(?:barely|hardly|almost|nearly|scarcely) (?:audible|inaudible|"
    rf"be heard|heard|there|noticeable)",
    rf"{_X} {_SHALL} (?:barely|hardly|only just|scarcely) be (?:heard|audible|there|noticeable)",
    rf"{_X} (?:barely|hardly|almost|nearly) (?:audible|inaudible)",
)
_DOWN_BACK = _all(
    rf"(?:put|push|move|keep|send|place|fade|bring|pull|drop|let|have) {_X} (?:fade |go |sink )?(?:deep |far |"
    rf"back |further |more )*(?:in|into|to) the (?:back|background|distance)",
    rf"(?:make|have|let) {_X} (?:to )?(?:sound |be |seem )?(?:more )?(?:further away|farther away|distant|far away|"
    rf"further back)",
    rf"{_X} (?:in|into|to) the (?:background|distance)",
)
_DOWN_HALF = _all(
    rf"halve {_OF}{_X}",
    rf"(?:make )?{_X} half as loud",
    rf"(?:cut|turn|reduce|lower) {_OF}{_X}(?: down)? (?:in|by) half",
)
LOUDNESS: tuple[tuple[bool, float, tuple[re.Pattern[str], ...]], ...] = (
    (True, 6.0, _UP_TWICE),
    (False, 6.0, _DOWN_HALF),
    (True, TOO_MUCH_DB, _UP_TOO_QUIET),
    (True, LARGE_DB, _UP_UNHEARD),
    (False, TOO_MUCH_DB, _DOWN_TOO_LOUD),
    (False, FAINT_DB, _DOWN_FAINT),
    (False, BACKGROUND_DB, _DOWN_BACK),
    (True, 0.0, _UP),
    (False, 0.0, _DOWN),
)
LOUDNESS_TIMED = {
    True: _all(rf"add (?:volume |gain |level )?(?:to|on) {_X}", rf"give {_X}", rf"{_X} plus"),
    False: _all(
        rf"(?:take|knock|shave|trim|pull|cut|drop|lose|remove)(?: off| from| of| out of| away from)? {_X}",
        rf"(?:drop|cut|trim|pad|gain) {_OF}{_X}(?: by| off)?",
        rf"{_X} minus",
    ),
}
"""Verbs that change a level where an amount in dB stands beside them, and mean something else without one."""
NAMED_ONLY = _all(rf"(?:set |change |adjust |put |gain )?{_OF}{_X}")

_GONE = r"(?:out|off|gone|away)"
REMOVE = _all(
    rf"(?:remove|delete|erase|eliminate|mute|silence|kill|drop|lose|cut|strip|scrap|ditch|omit|exclude|discard|"
    rf"suppress|banish|get rid of|rid (?:it|this|me) of|take (?:away|out|off)|"
    rf"cut (?:out|away)|filter out|strip (?:out|away)|edit out|throw (?:out|away)|do away with|clear (?:out|away)|"
    rf"wipe|wipe out|chop|chop out|axe|leave out|turn off|switch off|shut off|shut up|tune out|block out) "
    rf"{_X}(?: {_GONE})?(?: completely| entirely| altogether| totally| fully)?",
    rf"(?:take|get|cut|edit|filter|strip|throw|leave|turn|switch|shut|have|want|i want) {_X} {_GONE}(?: completely|"
    rf" entirely| altogether)?(?: of (?:here|there|it|this))?",
    rf"shut {_X} up",
    rf"(?:make|let|have) {_X} (?:to )?(?:disappear|vanish|go away|go|silent|inaudible|stop|be gone|shut up)",
    rf"{_X} {_SHALL} (?:go|go away|disappear|vanish|stop|be (?:gone|removed|muted|deleted|cut|silent|silenced|out))"
    rf"(?: completely| entirely)?",
    rf"{_X} (?:out|gone|away|off|mute|muted|removed|deleted)",
    rf"(?:no more|enough of|away with|down with|out with) {_X}",
)  # fmt: skip
ADD = re.compile(
    rf"(?:add(?: in)?|insert|include|introduce|bring in|mix in|throw in|drop in|layer(?: in)?|overlay|put in|"
    rf"sprinkle(?: in)?|blend in|fade in|superimpose|place|put|give me|i want|i want to hear|i'd like to hear|"
    rf"i'd like|i need|let there be|with added) {_X}(?: in| on top)?"
)


def room_level(room: str) -> int | None:
    return next((level for words, level in _ROOMS if re.search(rf"(?:^|\b)(?:{words})$", room)), None)


def colour(word: str) -> Timbre:
    return _COLOUR_VERBS.get(word) or next(timbre for words, timbre in _COLOURS if re.fullmatch(words, word))


# --- clauses -------------------------------------------------------------------------------------------------

STRONG = re.compile(
    r"(?:[;!?\n]|\.(?!\d)|\s-\s|\s--\s)+|,? (?:and )?then |,? while |,? whereas |"
    r"(?<!everything)(?<!all)(?<! else)(?<!sounds)(?<!sound)(?<!anything)(?<!nothing),? but (?:also )?|"
    r",? (?=(?:so that|because|since|without|so the|so i|so we)\b)"
)
WEAK = re.compile(r"(,? and also |,? and |, ?| plus | & |/)")
IDLE = re.compile(
    r"(?:(?:so that|so|because|since|as)\b.*|thanks.*|thank you.*|please|pls|that's (?:it|all)|ok(?:ay)?|hi|hey|"
    r"hello|"
    r"(?:it|that|this|they)(?:'s|'re| is| are| sounds?)? (?:just |really |so |too |very |a bit |way too )*(?:loud|"
    r"annoying|distracting|disturbing|"
    r"quiet|much|noisy|bad|good|great|nice|irritating|terrible|boring|harsh|dry)|(?:it|that) (?:annoys|disturbs|"
    r"bothers) me|"
    r"(?:and )?nothing else|the rest (?:is fine|can stay|stays)(?: as it is)?|everything else (?:is fine|can stay|"
    r"stays)(?: as it is)?)"
)
SCENE_CUES = re.compile(r"\b(like|into|feels?|atmosphere|mood|vibe|scene|place|world|make this|make it|turn this)\b")


_COMMANDS = """
turn down louder quieter remove delete mute move left right front centre center volume decibels reverb echo
later earlier seconds second delay shift brighter darker warmer colder muffled raise lower boost reduce increase
decrease extract isolate keep only everything except without background please make put place the and sound add
bring softer bigger smaller get rid take out up off leave alone touch untouched nothing anything stays should
must there still change lose hear want stand empty side new sounds other away
"""
COMMAND_WORDS = frozenset(_COMMANDS.split())
"""What a misspelt word may have been meant as, beside the names of sounds."""
