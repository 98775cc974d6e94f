"""File names of sound effects: the Universal Category System's, and plain ones.

A UCS name is ``CatID[-UserCategory]_[VendorCategory-]FXName_CreatorID_SourceID[_UserData]``, for example
``DOORWood_Old Gate Creak Slow_ABC_FIELD.wav``. A CatID is a category's code in capitals and a subcategory's after it.
The category system is in the public domain (universalcategorysystem.com). We know its categories, and spell out what
is commonly shortened in subcategories; the name itself says the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

CATEGORIES: Final[dict[str, str]] = {
    "AERO": "aircraft",
    "AIR": "air",
    "ALRM": "alarm",
    "AMB": "ambience",
    "ANML": "animal",
    "ARCHV": "archived",
    "BEEP": "beep",
    "BELL": "bell",
    "BIRD": "bird",
    "BLLT": "bullet",
    "BOAT": "boat",
    "CERM": "ceramics",
    "CHAIN": "chain",
    "CHEM": "chemical",
    "CLOCK": "clock",
    "CLOTH": "cloth",
    "CMPT": "computer",
    "COM": "communication",
    "CREA": "creature",
    "CRWD": "crowd",
    "DEST": "destruction",
    "DESTR": "destruction",
    "DIRT": "dirt and sand",
    "DOOR": "door",
    "DRWR": "drawer",
    "DSGN": "designed",
    "ELEC": "electricity",
    "EQUIP": "equipment",
    "EXPL": "explosion",
    "FART": "fart",
    "FEET": "footsteps",
    "FGHT": "fight",
    "FIRE": "fire",
    "FOLY": "foley",
    "FOOD": "food and drink",
    "FRWK": "fireworks",
    "GAME": "game",
    "GEO": "geothermal",
    "GLAS": "glass",
    "GORE": "gore",
    "GUN": "gun",
    "HMN": "human",
    "HORN": "horn",
    "ICE": "ice",
    "LASR": "laser",
    "LETHR": "leather",
    "LIQ": "liquid and mud",
    "MACH": "machine",
    "MAG": "magic",
    "MAGC": "magic",
    "MECH": "mechanical",
    "METL": "metal",
    "MOTR": "motor",
    "MUSC": "musical",
    "NATD": "natural disaster",
    "OBJ": "object",
    "PAPR": "paper",
    "PLAS": "plastic",
    "RAIN": "rain",
    "ROBT": "robot",
    "ROCK": "rock",
    "ROPE": "rope",
    "RUBR": "rubber",
    "SCI": "science fiction",
    "SNOW": "snow",
    "SPRT": "sports",
    "SWSH": "swoosh",
    "TOOL": "tool",
    "TOON": "cartoon",
    "TOY": "toy",
    "TRN": "train",
    "UI": "user interface",
    "VEGE": "vegetation",
    "VEH": "vehicle",
    "VOX": "voice",
    "WATR": "water",
    "WEAP": "weapon",
    "WHSL": "whistle",
    "WIND": "wind",
    "WING": "wings",
    "WNDW": "window",
    "WOOD": "wood",
    "WTHR": "weather",
}
"""Codes of categories in plain words."""

SHORTENED: Final[dict[str, str]] = {
    "Amus": "amusement",
    "Angr": "angry",
    "Anml": "animal",
    "Antq": "antique",
    "Apls": "applause",
    "Appl": "appliance",
    "Aqua": "aquatic",
    "Brk": "break",
    "Brst": "burst",
    "Brth": "breath",
    "Bubl": "bubbles",
    "Buzr": "buzzer",
    "Cele": "celebration",
    "Chim": "chime",
    "Chld": "children",
    "Clik": "click",
    "Clok": "clock",
    "Clth": "cloth",
    "Cnst": "construction",
    "Comb": "combustion",
    "Conc": "concrete",
    "Conv": "conversation",
    "Crkl": "crackle",
    "Crsh": "crash",
    "Drip": "drip",
    "Drnk": "drinking",
    "Dsgn": "designed",
    "Dsrt": "desert",
    "Elec": "electric",
    "Emrg": "emergency",
    "Forst": "forest",
    "Fric": "friction",
    "Glas": "glass",
    "Hart": "heartbeat",
    "Heli": "helicopter",
    "Hmn": "human",
    "Hors": "horse",
    "Hosp": "hospital",
    "Ign": "ignite",
    "Impt": "impact",
    "Ind": "industrial",
    "Insc": "insect",
    "Intr": "interior",
    "Knck": "knock",
    "Laff": "laughter",
    "Lrg": "large",
    "Ltch": "latch",
    "Mech": "mechanism",
    "Med": "medical",
    "Metl": "metal",
    "Mil": "military",
    "Motr": "motor",
    "Mrkt": "market",
    "Mvmt": "movement",
    "Naut": "nautical",
    "Offc": "office",
    "Offi": "office",
    "Pis": "pistol",
    "Plas": "plastic",
    "Prim": "primate",
    "Prisn": "prison",
    "Publ": "public place",
    "Rckt": "rocket",
    "Rdnt": "rodent",
    "Reac": "reaction",
    "Rept": "reptile",
    "Rest": "restaurant",
    "Rif": "rifle",
    "Rlgn": "religious",
    "Rmbl": "rumble",
    "Room": "room tone",
    "Rtch": "ratchet",
    "Rurl": "rural",
    "Schl": "school",
    "Sea": "sea",
    "Shel": "shell",
    "Shotg": "shotgun",
    "Sirn": "siren",
    "Slid": "sliding",
    "Sneez": "sneeze",
    "Snor": "snore",
    "Splt": "splat",
    "Sprk": "sparks",
    "Sprt": "sport",
    "Sqk": "squeak",
    "Stm": "steam",
    "Ston": "stone",
    "Subn": "suburban",
    "Surf": "surf",
    "Swmp": "swamp",
    "Swng": "swinging",
    "Swsh": "swish",
    "Swtch": "switch",
    "Tech": "hitech",
    "Telph": "telephone",
    "Tonl": "tonal",
    "Traf": "traffic",
    "Tran": "transportation",
    "Trop": "tropical",
    "Undr": "underground",
    "Undwtr": "underwater",
    "Urbn": "urban",
    "Veh": "vehicle",
    "Wash": "wash",
    "Wave": "waves",
    "Wcat": "wild cat",
    "Whis": "whistle",
    "Whsh": "whoosh",
}
"""Subcategories as they are commonly shortened."""

UNTOLD: Final = frozenset({"misc", "general"})
"""Subcategories that say nothing."""

_CAT_ID = re.compile(r"(?P<category>[A-Z]{2,5})(?P<subcategory>[A-Z][a-z]+(?:[A-Z][a-z]+)*)")


@dataclass(frozen=True)
class UcsName:
    """What a UCS file name says.

    Attributes
    ----------
    cat_id
        As written, for example ``DOORWood``.
    category, subcategory
        In plain words; the subcategory is empty where it says nothing.
    user_category, vendor_category
        What stands behind the CatID's and before the name's hyphen; empty where there is none.
    fx_name
        What the sound is, as written.
    creator_id, source_id
        Who made it, and for what; empty where the name doesn't say.
    user_data
        The rest.
    """

    cat_id: str
    category: str
    subcategory: str
    user_category: str
    vendor_category: str
    fx_name: str
    creator_id: str
    source_id: str
    user_data: str

    @property
    def words(self) -> str:
        """What the sound is, in plain words: the name, then what the categories add."""
        told = plain_words(self.fx_name)
        known = set(told.split())
        more = [
            word
            for part in (self.subcategory, self.category)
            for word in part.split()
            if word not in known and f"{word}s" not in known and word.removesuffix("s") not in known
        ]
        return " ".join([told, *dict.fromkeys(more)]).strip()


def parse_ucs(name: str) -> UcsName | None:
    """Read a UCS name.

    Parameters
    ----------
    name
        A file's name, with or without an ending.

    Returns
    -------
    UcsName or None
        None where the name isn't one: it needs a known category's code and a name behind an underscore.
    """
    stem = _without_ending(name)
    first, underscore, rest = stem.partition("_")
    cat_id, _, user_category = first.partition("-")
    found = _split_cat_id(cat_id)
    if not underscore or found is None:
        return None
    fx_name, _, behind = rest.partition("_")
    vendor_category, hyphen, inner = fx_name.partition("-")
    # A vendor's category is one word run together; "Creak - Slow" and "Half-Open Gate" are names with a hyphen.
    if hyphen and inner and re.fullmatch(r"[A-Z][A-Z0-9]*", vendor_category):
        fx_name = inner
    else:
        vendor_category = ""
    if not any(character.isalnum() for character in fx_name):
        return None
    creator_id, _, behind = behind.partition("_")
    source_id, _, user_data = behind.partition("_")
    return UcsName(
        cat_id,
        *found,
        user_category.strip(),
        vendor_category,
        fx_name.strip(),
        creator_id.strip(),
        source_id.strip(),
        user_data.strip(),
    )


def _without_ending(name: str) -> str:
    """A name without its folder and its ending; what follows a dot may also be part of the name (``v1.2 final``)."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and stem and re.fullmatch(r"[A-Za-z0-9]{1,5}", ending) else name


def _split_cat_id(cat_id: str) -> tuple[str, str] | None:
    match = _CAT_ID.fullmatch(cat_id)
    if match is None or match["category"] not in CATEGORIES:
        return None
    short = match["subcategory"]
    subcategory = SHORTENED.get(short) or " ".join(re.findall(r"[A-Z][a-z]+", short)).casefold()
    return CATEGORIES[match["category"]], "" if subcategory in UNTOLD else subcategory


def plain_words(text: str) -> str:
    """Words of a name in lower case: runs of capitals and numbers are told apart, numbers and signs left out.

    ``Dog-Bark_03`` is "dog bark", ``DoorCreakSlow02`` is "door creak slow".
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    words = [word for word in re.split(r"[\W\d_]+", spaced) if len(word) > 1 or word in ("a", "A")]
    return " ".join(words).casefold()


NOISE_WORDS: Final = frozenset(
    {
        "sfx", "fx", "wav", "mp3", "flac", "ogg", "aif", "aiff", "mono", "stereo", "take", "tk", "khz", "hz", "bit",
        "db", "edit", "final", "master", "version", "ver", "loop", "copy", "untitled", "audio", "track", "recording",
        "rec", "zoom", "tascam", "file", "sound", "sounds", "sample", "samples", "new", "id",
    }
)  # fmt: skip
"""Words of names that say nothing about the sound."""


def words_of_path(path: PurePath, *, folders: int = 2) -> str:
    """What a file's name and those of its folders say, in plain words; empty where they say nothing.

    Parameters
    ----------
    path
        Relative to the library.
    folders
        How many of the folders around the file count, inner ones first.
    """
    ucs = parse_ucs(path.name)
    told = ucs.words if ucs is not None else plain_words(path.stem)
    parts = [told, *(plain_words(part) for part in list(reversed(path.parent.parts))[:folders])]
    words: dict[str, None] = {}
    for part in parts:
        for word in part.split():
            if word not in NOISE_WORDS:
                words.setdefault(word)
    return " ".join(words)
