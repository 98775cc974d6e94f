"""Choose, arrange and encode the sound library that ships with SmartDJ.

Clips come from the bank, by licence: CC0, public domain, MIT, BSD-like and CC BY only;
`training/synthesised_sounds.py` makes what is missing. Who made a clip stands in ``starter_credits.csv``,
written from the copyright statements (and authors' lists) inside the Debian packages.

Of a class's free clips those are taken that the shipped listener hears as their class: it judges every added sound
(`smartdj_agent.relisten`). Clips of the test split only stand in for classes that have no others.

Run with ``python -m training.starter_library --bank BANK --out smartdj_agent/data/library``.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from smartdj_agent.agent import Agent
from training.clips import read_manifest
from training.evaluate import LabelRanker, Ranker
from training.synthesised_sounds import RATE, RECIPES, synthesise

LISTENER_RATE = 24_000
HEARD_S = 6.0
"""How much of a clip is listened to."""

MAX_BYTES = 15_000_000
"""Most that the encoded library may weigh."""

VORBIS_COMPRESSION = 0.35
"""libsndfile's compression level for Vorbis: 0 is best, 1 smallest; this is about quality 6.5."""

COLUMNS = ("path", "label", "licence", "author", "source", "url", "duration_s", "kind", "split")

FREE_LICENCES = ("CC0-1.0", "public domain", "MIT", "MIT (Expat)", "BSD-like", "CC-BY-3.0")
"""What may be shipped; anything else in the bank is left out."""

CLIPS_PER_CLASS = {
    "ambience": 4, "nature": 4, "animal": 4, "human": 4, "vehicle": 3, "household": 3, "alarm": 3,
    "machine": 3, "impact": 2, "instrument": 1,
}  # fmt: skip

NOT_WANTED = (
    "laser gun firing",
    "punch",
    "music",
    "rubbing with an eraser",
    "vinyl scratching",
    "burp",
    "fart",
)
"""Classes that no everyday scene needs."""

STATEMENTS = {
    "MIT": "Copyright (c) 2000-2002, 2008 Frank Wen; Copyright (c) 2008 Toby Smithe",
    "MIT (Expat)": "Copyright (c) 2015-2021 TenPlus1",
}

MIT_TEXT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the
Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions
of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED
TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL
THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER
DEALINGS IN THE SOFTWARE.
"""


@dataclass(frozen=True)
class Credit:
    """Who made the files of `package` whose path matches `pattern`, and under what licence."""

    package: str
    pattern: str
    author: str
    licence: str
    url: str


@dataclass(frozen=True)
class Row:
    """One clip of the bank, with its credit."""

    path: str
    label: str
    category: str
    kind: str
    duration_s: float
    package: str
    package_path: str
    split: str
    credit: Credit

    @property
    def source(self) -> str:
        """Package and path inside it, without the marks that the bank's recipe adds."""
        return f"Debian package {self.package}: {self.package_path}"

    @property
    def origin(self) -> str:
        """The recording that it comes from; pitch variants of one soundfont sample share it."""
        return re.sub(r"/key.*|@[\d.]+s$", "", f"{self.package}:{self.package_path}")

    @property
    def key_distance(self) -> int:
        """Semitones from the key at which a soundfont effect sounds as it was recorded (60); 0 for
        recordings."""
        key = re.search(r"/key(\d+)", self.package_path)
        return abs(int(key.group(1)) - 60) if key else 0


@dataclass(frozen=True)
class Arrangement:
    """A series of single hits of the bank, set out as one would hear them: steps of a walk, barks of a dog.

    Attributes
    ----------
    pattern
        Which clips, as a pattern on the bank's path.
    gaps_s
        Time from one hit to the next; used in turn, varied by a few percent.
    """

    name: str
    label: str
    pattern: str
    hits: int
    gaps_s: tuple[float, ...]
    kind: str = "continuous"


ARRANGEMENTS = (
    Arrangement("footsteps_stone", "footsteps on stone", "footsteps_on_stone/openclonk*stephard*", 10, (0.55,)),
    Arrangement("footsteps", "footsteps", "footsteps_on_stone/openclonk*stephard*", 9, (0.62,)),
    Arrangement("footsteps_running", "person running", "footsteps_on_stone/openclonk*stephard*", 16, (0.31,)),
    Arrangement("footsteps_dirt", "footsteps on dirt", "footsteps_on_dirt/openclonk*stepsoft*", 10, (0.56,)),
    Arrangement("footsteps_snow", "footsteps on snow", "footsteps_on_snow/gcompris*", 8, (0.66,)),
    Arrangement("dog_barking", "dog barking", "dog_barking/openclonk*aroof*", 5, (0.55, 0.5, 1.5), kind="transient"),
    Arrangement("dog_barking_far", "dog barking", "dog_barking/fluid*key60*", 6, (0.45, 0.42, 1.3), kind="transient"),
    Arrangement("crow_cawing", "crow cawing", "crow_cawing/sonic-pi*", 4, (0.8, 0.75, 1.6), kind="transient"),
    Arrangement("hammering_wood", "hammering", "wood_impact/openclonk*wood_ocg_woodhit*", 7, (0.52,)),
    Arrangement(
        "hammering_metal",
        "blacksmith hammering metal",
        "metal_clang/openclonk*lightmetalhit*",
        7,
        (0.7, 0.35),
    ),
    Arrangement(
        "door_knocking",
        "door knocking",
        "wood_impact/*dullwoodhit*",
        4,
        (0.22, 0.2),
        kind="transient",
    ),
    Arrangement("axe_chopping", "axe chopping wood", "axe_chopping_wood/openclonk*chop*", 5, (1.1,)),
    Arrangement("digging", "digging soil", "digging_soil/openclonk*dig*", 6, (0.85,)),
    Arrangement("wings", "wings flapping", "wings_flapping/openclonk*flutter*", 3, (1.1,), kind="transient"),
)


def read_credits(path: Path | None = None) -> list[Credit]:
    """The table of authors; first match wins."""
    with (path or Path(__file__).with_name("starter_credits.csv")).open(encoding="utf-8", newline="") as file:
        return [Credit(**row) for row in csv.DictReader(file)]


def credit_of(package: str, package_path: str, stated_licence: str, credits: Sequence[Credit]) -> Credit | None:
    """The credit of one clip, or None where its licence does not allow shipping it.

    The bank's own statement decides first: whatever it does not call free stays out, even if a pattern would
    match.
    """
    free = ("CC0", "public-domain", "MIT", "Expat", "BSD-like")
    by = ("CC-BY-3.0", "CC-BY-3.0 (default of Sound.ocg/authors.txt)", "CC-BY-3.0 and CC0-1.0")
    if not (stated_licence.startswith(free) or stated_licence in by):
        return None
    if stated_licence.endswith("Sound.ocg/authors.txt)") and package_path.startswith(
        ("!/Objects.ocd", "!/Decoration.ocd")
    ):
        return None  # that authors' list speaks for its own archive only
    path = re.sub(r"@[\d.]+s$", "", package_path)
    for credit in credits:
        if credit.package == package and fnmatch.fnmatchcase(path, credit.pattern):
            return credit
    if stated_licence.startswith("CC-BY"):
        licence = "CC-BY-3.0"
    elif stated_licence.startswith("CC0"):
        licence = "CC0-1.0"
    elif stated_licence.startswith("public-domain"):
        licence = "public domain"
    else:
        return None  # an MIT or BSD notice has to name its holder
    return Credit(package, "*", f"authors of package {package}", licence, "")


def read_bank(bank: Path, credits: Sequence[Credit]) -> list[Row]:
    """The clips of the bank that may be shipped."""
    rows = []
    with (bank / "manifest.csv").open(encoding="utf-8", newline="") as file:
        for r in csv.DictReader(file):
            credit = credit_of(r["package"], r["package_path"], r["licence"], credits)
            if credit is not None and credit.licence in FREE_LICENCES:
                rows.append(
                    Row(r["path"], r["label"], r["category"], r["kind"], float(r["duration_s"]), r["package"],
                        r["package_path"], r["split"], credit)
                )  # fmt: skip
    return rows


def place_heard(samples: np.ndarray, sample_rate: int, label: str, ranker: Ranker) -> int:
    """The place of a sound's own class among all, by how surely the listener hears it; samples are mono (n,)."""
    mono = soxr.resample(samples, sample_rate, LISTENER_RATE)[: round(HEARD_S * LISTENER_RATE)]
    both = np.zeros((2, max(len(mono), 2 * LISTENER_RATE)), np.float32)
    both[:, : len(mono)] = mono * (0.5 / max(float(np.abs(mono).max()), 1e-9))
    return ranker.rank(both, label)


def shipped_ranker(labels: Sequence[str]) -> LabelRanker:
    """The shipped listener's."""
    editor = Agent(device="cpu").editor
    return LabelRanker(editor.listener, editor.encoder.vectors(list(labels)), labels)


def choose(rows: Sequence[Row], place: Callable[[Row], int]) -> list[Row]:
    """Some clips of every class: no test clips, what is heard as the class, recordings before soundfonts, other
    recordings before more of the same, long first.

    Parameters
    ----------
    rows
        What may be shipped.
    place
        See `place_heard`.
    """
    classes: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.label not in NOT_WANTED:
            classes[row.label].append(row)
    chosen = []
    for label in sorted(classes):
        left = sorted(
            classes[label],
            key=lambda r: (
                r.split == "test", min(place(r), 4), r.package.startswith("fluid"), r.key_distance,
                -min(r.duration_s, 6.0), r.path,
            ),
        )  # fmt: skip
        wanted, taken = CLIPS_PER_CLASS[left[0].category], []
        used: dict[str, int] = defaultdict(int)
        while left and len(taken) < wanted:
            best = min(left, key=lambda r: used[r.origin])
            if used[best.origin] and best.package.startswith("fluid"):
                break  # what is left are pitch variants of samples that we have
            left.remove(best)
            used[best.origin] += 1
            taken.append(best)
        chosen += taken
    return chosen


def clearest(manifest: Sequence[dict[str, str]], places: Mapping[str, int]) -> list[dict[str, str]]:
    """The rows without the clips that are heard as something else, where their class has some that are not.

    Parameters
    ----------
    manifest
        What was encoded.
    places
        See `place_heard`; by path. A path that isn't there can't be judged and stays.
    """
    clear = {row["label"] for row in manifest if places.get(row["path"]) == 1}
    return [row for row in manifest if row["label"] not in clear or places.get(row["path"], 1) == 1]


def arrange(arrangement: Arrangement, rows: Sequence[Row], bank: Path) -> tuple[np.ndarray, list[Row]]:
    """Set single hits out in a row.

    Raises
    ------
    ValueError
        Where the bank has no clip of the pattern.
    """
    parts = sorted((r for r in rows if fnmatch.fnmatchcase(r.path, arrangement.pattern)), key=lambda r: r.path)
    if not parts:
        raise ValueError(f"The bank has no free clip like {arrangement.pattern}.")
    rng = np.random.default_rng([int(b) for b in arrangement.name.encode()])
    hits = [soundfile.read(bank / r.path, dtype="float64")[0] for r in parts]
    at_s, pieces, previous = 0.0, [], -1
    for k in range(arrangement.hits):
        choices = [i for i in range(len(hits)) if i != previous or len(hits) == 1]
        previous = int(rng.choice(choices))
        pieces.append((round(at_s * RATE), hits[previous] * rng.uniform(0.75, 1.0)))
        at_s += arrangement.gaps_s[k % len(arrangement.gaps_s)] * rng.uniform(0.95, 1.05)
    n = max(at + len(x) for at, x in pieces)
    if arrangement.kind == "continuous":
        n = max(n, round(at_s * RATE))  # so that a loop keeps its pace
    out = np.zeros(n)
    for at, x in pieces:
        out[at : at + len(x)] += x
    return out, parts


def _encode(path: Path, x: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    peak = np.max(np.abs(x))
    level = np.asarray(x * (10 ** (-3 / 20) / peak), dtype=np.float32)
    with soundfile.SoundFile(
        path,
        "w",
        samplerate=RATE,
        channels=1,
        format="OGG",
        subtype="VORBIS",
        compression_level=VORBIS_COMPRESSION,
    ) as file:
        for start in range(0, len(level), 16_384):  # libsndfile's Vorbis encoder overflows its stack on long writes
            file.write(level[start : start + 16_384])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _keep_same(old: Path, new: Path) -> None:
    """Put the old file in the new one's place where both decode to the same samples."""
    if old.is_file() and np.array_equal(soundfile.read(old)[0], soundfile.read(new)[0]):
        shutil.copyfile(old, new)


def build(bank: Path, out: Path) -> list[dict[str, str]]:
    """Write the library: clips, ``manifest.csv`` and ``CREDITS.md``; an older one in `out` is replaced.

    Files of the older one that hold the same samples stay as they are, byte for byte: Ogg streams carry a
    random number, so encoding them again would only make the repository grow.

    Returns
    -------
    list of dict
        The rows of the manifest.
    """
    rows = read_bank(bank, read_credits())
    labels = sorted({clip.label for clip in read_manifest(bank)})
    ranker = shipped_ranker(labels)
    places: dict[str, int] = {}
    made = out.with_name(out.name + ".new")
    if made.exists():
        shutil.rmtree(made)
    manifest: list[dict[str, str]] = []

    def keep(name: str, label: str, x: np.ndarray, kind: str, **words: str) -> None:
        path = Path(_slug(label)) / f"{name}.ogg"
        _encode(made / path, x)
        _keep_same(out / path, made / path)
        if label in labels:
            places[path.as_posix()] = place_heard(x.astype(np.float32), RATE, label, ranker)
        manifest.append(
            {
                "path": path.as_posix(),
                "label": label,
                "kind": kind,
                "duration_s": f"{len(x) / RATE:.3f}",
                **words,
            }
        )

    def heard(row: Row) -> int:
        return place_heard(*soundfile.read(bank / row.path, dtype="float32"), row.label, ranker)

    arranged = {a.label for a in ARRANGEMENTS}
    for arrangement in ARRANGEMENTS:
        x, parts = arrange(arrangement, rows, bank)
        source = "arranged from " + "; ".join(sorted({p.source for p in parts}))
        splits = "+".join(sorted({p.split for p in parts}))
        licences = {p.credit.licence for p in parts}
        licence = "CC-BY-3.0" if "CC-BY-3.0" in licences else sorted(licences)[0]  # the one that asks for more
        authors = "; ".join(dict.fromkeys(p.credit.author for p in parts))
        urls = " ".join(dict.fromkeys(p.credit.url for p in parts if p.credit.url))
        keep(f"arranged_{arrangement.name}", arrangement.label, x, arrangement.kind, licence=licence,
             author=authors, source=source, url=urls, split=splits)  # fmt: skip
    for row in choose(rows, heard):
        if row.label in arranged and row.duration_s < 0.6:
            continue  # a single step or bark; the arrangement is what one wants to hear
        x = soundfile.read(bank / row.path, dtype="float64")[0]
        name = _slug(Path(row.path).stem)[:80]
        keep(name, row.label, x, row.kind, licence=row.credit.licence, author=row.credit.author,
             source=row.source, url=row.credit.url, split=row.split)  # fmt: skip
    for name, recipe in RECIPES.items():
        keep(f"synthesised_{name}", recipe.label, synthesise(name), recipe.kind, licence="CC0-1.0",
             author="SmartDJ Agent", source="synthesised by SmartDJ", url="", split="")  # fmt: skip

    kept = sorted(clearest(manifest, places), key=lambda row: row["path"])
    for path in {row["path"] for row in manifest} - {row["path"] for row in kept}:
        (made / path).unlink()
    manifest = kept
    with (made / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(manifest)
    (made / "CREDITS.md").write_text(credits_text(manifest), encoding="utf-8")
    if out.exists():
        shutil.rmtree(out)
    made.rename(out)
    return manifest


def credits_text(manifest: Sequence[dict[str, str]]) -> str:
    """The attribution that the licences ask for, clips of one author together."""
    lines = [
        "# Credits of the starter sound library",
        "",
        "Every recording was mixed to mono, resampled to 32 kHz, trimmed, levelled to a peak of −3 dBFS and",
        "encoded as Ogg Vorbis; arranged files set several short recordings out in a row. `manifest.csv`",
        "names package and path of each.",
        "Names are those that the Debian packages' copyright statements and authors' lists give.",
        "",
    ]  # fmt: skip
    groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in manifest:
        groups[row["licence"], row["author"], row["url"]].append(row["path"])
    titles = {
        "CC-BY-3.0": "CC BY 3.0 (https://creativecommons.org/licenses/by/3.0/)",
        "CC0-1.0": "CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/)",
    }
    for licence in sorted({k[0] for k in groups}):
        lines += [f"## {titles.get(licence, licence)}", ""]
        if licence in STATEMENTS:
            lines += [STATEMENTS[licence], "", *MIT_TEXT.splitlines(), ""]
        if licence == "BSD-like":
            lines += [
                "Copyright (c) 1999-2001 Language Technologies Institute, Carnegie Mellon University.",
                "All rights reserved. Speech made with flite; free use and distribution with this notice,",
                "modifications marked, names of the authors kept and not used for endorsement; no warranty.",
                "",
            ]  # fmt: skip
        for key in sorted(k for k in groups if k[0] == licence):
            _, author, url = key
            lines.append(f"- **{author}**" + (f" — {url}" if url else "") + f": {', '.join(sorted(groups[key]))}")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the sound library that ships with SmartDJ.")
    parser.add_argument("--bank", type=Path, required=True, help="folder of the clip bank (has manifest.csv)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an older library there is replaced")
    arguments = parser.parse_args()
    manifest = build(arguments.bank, arguments.out)
    size = sum(f.stat().st_size for f in arguments.out.rglob("*") if f.is_file())
    labels = len({r["label"] for r in manifest})
    made = sum(r["source"].startswith("synthesised") for r in manifest)
    print(f"{len(manifest)} clips ({made} synthesised), {labels} labels, {size / 1e6:.1f} MB in {arguments.out}")
    if size > MAX_BYTES:
        print(f"That is more than the {MAX_BYTES / 1e6:.0f} MB allowed.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
