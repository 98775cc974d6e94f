"""Qualities that exclude each other: "silent but very loud", "eerie yet cheerful".

`opposed` finds two words from the two ends of one axis that are asked of the same thing at the same time. Pure; the
axes are data. "Quiet dog, loud piano" speaks of two things, "from calm to hectic" and "not silent but loud" of one
quality: they are no contradictions.
"""

from __future__ import annotations

import re

_AXES: tuple[tuple[str, str], ...] = (
    ("silent quiet hushed noiseless soundless mute inaudible whisper-quiet silence",
     "loud noisy deafening blaring roaring thunderous ear-splitting earsplitting booming noise"),
    ("calm relaxed peaceful serene tranquil restful relaxing placid soothing laid-back sleepy still",
     "hectic frantic chaotic frenzied wild agitated stressful turbulent rushed restless agitating panicked"),
    ("happy cheerful joyful merry jolly joyous gleeful upbeat carefree light-hearted",
     "sad gloomy melancholic melancholy mournful sorrowful depressing miserable bleak tragic sombre somber eerie "
     "creepy menacing sinister ominous"),
    ("safe cosy cozy comforting homely reassuring harmless",
     "scary terrifying frightening creepy eerie spooky menacing threatening horrifying sinister dangerous nightmarish"),
    ("empty deserted abandoned lonely solitary desolate uninhabited",
     "crowded packed bustling overcrowded teeming full busy"),
    ("indoors indoor", "outdoors outdoor open-air"),
    ("hot scorching sweltering boiling tropical", "cold freezing icy frosty chilly frozen arctic"),
    ("noon midday daytime sunlit sunny", "midnight nighttime moonlit pitch-dark pitch-black"),
    ("arid parched bone-dry desert-dry", "rainy soaked drenched flooded underwater wet"),
    ("ancient prehistoric", "futuristic modern contemporary"),
    ("slow sluggish leisurely unhurried", "fast rapid hurried quick breakneck speedy"),
    ("close near intimate nearby", "far distant remote faraway"),
    ("bright sunny radiant luminous", "dark gloomy pitch-dark pitch-black"),
    ("minimal minimalist sparse bare austere", "dense cluttered overloaded lavish overflowing opulent"),
    ("serious solemn grave dignified stern", "silly goofy comical ridiculous funny slapstick hilarious"),
    ("natural organic rural", "artificial synthetic urban industrial"),
    ("huge vast gigantic enormous spacious immense", "tiny cramped claustrophobic narrow small"),
    ("orderly tidy disciplined", "chaotic messy disorderly"),
    ("clean pristine crystal-clear crisp", "dirty distorted muffled gritty muddy"),
    ("harmonious melodic consonant", "dissonant cacophonous jarring"),
    ("boring dull monotonous uneventful", "exciting thrilling gripping eventful"),
    ("friendly welcoming kind", "hostile aggressive unfriendly unwelcoming cruel"),
    ("gentle soft tender delicate mild", "harsh brutal violent aggressive rough fierce"),
    ("romantic loving", "hateful disgusting repulsive"),
    ("familiar ordinary everyday mundane", "alien otherworldly surreal unearthly"),
    ("high-pitched shrill", "deep low-pitched"),
    ("motionless static frozen", "moving racing rushing"),
    ("alive lively vibrant", "dead lifeless"),
)  # fmt: skip

_FILLERS = """
and but yet though although while however also still both very really totally completely extremely super utterly
absolutely a an bit rather quite somehow kind of as well equally simultaneously at the same time once it be is should to
make sound feel with or even so too incredibly perfectly wonderfully terribly in all full
"""
_BETWEEN = frozenset(_FILLERS.split())
"""What may stand between two qualities of one thing."""
_NOT_BOTH = re.compile(
    r"\b(?:not|isn't|no longer|neither|nor|instead of|rather than|from|never|than|less|without|anything but|stop being|"
    r"used to|was|were|too|turn(?:ing)? (?:this|the|it)|becom\w+|then|into|or)\b"
)
"""What makes one of them a quality that isn't wanted, or not at the same time."""


def opposed(instruction: str) -> tuple[str, str] | None:
    """Two qualities that an instruction asks for at once and that exclude each other; None where there are none.

    Parameters
    ----------
    instruction
        The person's sentence.
    """
    text = instruction.lower().replace("’", "'")
    words = [(match[0], match.start(), match.end()) for match in re.finditer(r"[a-z][a-z'-]*", text)]
    for place, (one, start, end) in enumerate(words):
        for other, other_start, other_end in words[place + 1 : place + 10]:
            if not _on_one_axis(one, other):
                continue
            between = text[end:other_start]
            if re.search(r"[.!?]", between) or not set(re.findall(r"[a-z'-]+", between)) <= _BETWEEN:
                continue
            if not re.search(r",|\b(?:and|but|yet|though|although|while|however|as well as|still|/)\b", between):
                continue
            if _NOT_BOTH.search(text[max(0, start - 30) : start]) or _NOT_BOTH.search(between.replace(" or ", " ")):
                continue
            return text[start:end], text[other_start:other_end]
    return None


def _on_one_axis(one: str, other: str) -> bool:
    return any(
        (one in left.split() and other in right.split()) or (one in right.split() and other in left.split())
        for left, right in _AXES
    )
