"""Where added sounds come from: the person's libraries, and the small one that ships, behind one question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.excerpt import read_excerpt
from smartdj_agent.library import Encode, LibraryMatch, SoundLibrary
from smartdj_agent.library_index import IndexedLibrary, index_file, list_indexes, near_best

AddSource = Literal["auto", "edit", "generate", "library"]
ADD_SOURCES: Final[tuple[AddSource, ...]] = ("auto", "edit", "generate", "library")

SURE: Final = 0.5
"""Similarity from which on a sound stands for what was asked."""
POOR: Final = 0.3
"""Similarity below which a sound is something else."""
SURER: Final = 0.1
"""How much surer (0 to 1) a generated sound has to be heard to be taken instead of a file that may not be it."""
TRIED: Final = 12
"""Sounds that are tried before giving up, where files are missing or damaged."""
LOOP_S: Final = 60.0
"""Most that is taken of a sound that goes on; the rest repeats it."""

Warning = tuple[str, str, str]
"""Code, message, hint."""


@dataclass(frozen=True)
class Pick:
    """A sound from a library, ready to be placed.

    Attributes
    ----------
    samples
        Mono float32 (n,) at the rate that was asked for.
    match
        Which, and how well it fits.
    continuous
        Whether it may be repeated.
    told
        File, name, licence and how well it fits, in words.
    warnings
        What the person should know.
    """

    samples: np.ndarray
    match: LibraryMatch
    continuous: bool
    told: str
    warnings: tuple[Warning, ...] = ()


@dataclass
class Shelf:
    """Libraries in the order in which they were named, and the one that ships as a last resort.

    Attributes
    ----------
    libraries
        The person's.
    starter
        The one that ships; None to do without.
    warnings
        What the person should know of the libraries; told with the first sound.
    """

    libraries: Sequence[SoundLibrary | IndexedLibrary] = ()
    starter: SoundLibrary | None = None
    warnings: tuple[Warning, ...] = field(default=())

    @classmethod
    def open(cls, folders: Sequence[Path] | None, listener_id: str | None) -> Shelf:
        """Open libraries: by their index, else by manifest or file names.

        Parameters
        ----------
        folders
            Which; None for all that the person has indexed and that are there.
        listener_id
            See `IndexedLibrary`.

        Raises
        ------
        SmartDJError
            ``AUDIO_NOT_FOUND`` or ``AUDIO_UNREADABLE``, where a folder was named that isn't there or is no library.
        """
        named = folders is not None
        wanted = folders if folders is not None else [info.folder for info in list_indexes() if info.there]
        opened: list[SoundLibrary | IndexedLibrary] = []
        warnings: list[Warning] = []
        for folder in dict.fromkeys(Path(folder).expanduser().resolve() for folder in wanted):
            mend = f'Run: smartdj library index "{folder}"'
            if not index_file(folder).is_file():
                opened.append(SoundLibrary.open(folder))
                warnings.append(
                    ("library_not_indexed", f"{folder} has no index: only its file names are looked at.", mend)
                )
                continue
            try:
                index = IndexedLibrary(folder, listener_id)
            except SmartDJError as error:
                if named:
                    raise
                warnings.append(("library_left_out", error.message, error.hint))
                continue
            if index.stale:
                warnings.append(
                    ("library_index_old", f"{folder} was indexed with another listener: only texts count.", mend)
                )
            opened.append(index)
        return cls(tuple(opened), SoundLibrary.starter(), tuple(warnings))

    def matches(self, text: str, encode: Encode, embed: Encode | None, *, seed: int) -> list[LibraryMatch]:
        """The sounds to try for a text, in order: what is surely right of the person's own before what ships."""
        own: list[LibraryMatch] = []
        for library in self.libraries:
            if isinstance(library, IndexedLibrary):
                own += library.search(text, encode, embed, count=2 * TRIED)
            else:
                own += library.find(text, encode, seed=seed, count=2 * TRIED)
        own = near_best(sorted(own, key=lambda match: -match.similarity), seed)
        shipped = self.starter.find(text, encode, seed=seed, count=TRIED) if self.starter is not None else []
        if _best(own) >= SURE:
            return [*own, *shipped]
        return sorted([*own, *shipped], key=lambda match: -match.similarity)

    def take(
        self,
        text: str,
        encode: Encode,
        embed: Encode | None,
        *,
        seed: int,
        sample_rate: int,
        longest_s: float,
        least: float = 0.0,
    ) -> Pick | None:
        """Find and read the sound for a text; None where nothing fits as well as `least`.

        A file that is gone or damaged gives way to the next best, and the person is told.

        Raises
        ------
        SmartDJError
            As `read_excerpt`, where nothing that fits can be read.
        """
        matches = [match for match in self.matches(text, encode, embed, seed=seed) if match.similarity >= least]
        warnings: list[Warning] = list(self.warnings)
        first: SmartDJError | None = None
        for match in matches[:TRIED]:
            clip = match.clip
            shipped = self._is_shipped(clip.path)
            known = clip.continuous if shipped or clip.continuous or self._is_indexed(clip.path) else None
            try:
                samples, continuous, span = read_excerpt(
                    clip.path, sample_rate, min(longest_s, LOOP_S) if known else longest_s, continuous=known
                )
            except SmartDJError as error:
                first = first or error
                code = "library_file_missing" if error.code is ErrorCode.AUDIO_NOT_FOUND else "library_file_unusable"
                warnings.append((code, f"{error.message} The next best is taken.", error.hint))
                continue
            if self.libraries and shipped:
                warnings.append(
                    (
                        "starter_library",
                        f"Your libraries hold nothing surely called “{text}”; the sound that ships is taken.",
                        "Look what they hold: smartdj library search TEXT.",
                    )
                )
            self.warnings = ()
            told = describe(match, self._shown(clip.path), span)
            return Pick(samples, match, continuous, told, tuple(warnings))
        if first is not None:
            raise first
        return None

    def _is_shipped(self, path: Path) -> bool:
        return self.starter is not None and path.is_relative_to(self.starter.folder)

    def _is_indexed(self, path: Path) -> bool:
        return any(
            path.is_relative_to(library.folder) for library in self.libraries if isinstance(library, IndexedLibrary)
        )

    def _shown(self, path: Path) -> str:
        """A file's place inside its library: enough to find it, and nothing about the person's disk."""
        for library in self.libraries:
            if path.is_relative_to(library.folder):
                shown = path.relative_to(library.folder).as_posix()
                return "".join(c if c.isprintable() else "?" for c in shown.encode("utf-8", "replace").decode())
        return path.name


def _best(matches: Iterable[LibraryMatch]) -> float:
    return max((match.similarity for match in matches), default=0.0)


def describe(match: LibraryMatch, file: str, span: tuple[float, float]) -> str:
    """File, name, licence and how well it fits, as one line for reports."""
    clip = match.clip
    parts = [clip.label or "no name", clip.licence or "licence unknown"]
    if clip.author:
        parts.append(f"by {clip.author}")
    fits = f"fits {match.similarity:.0%}"
    if match.written is not None and match.heard is not None:
        fits += f": {match.written:.0%} by name, {match.heard:.0%} by ear"
    elif match.heard is not None:
        fits += " by ear alone"
    if span[1] - span[0] < clip.duration_s - 0.25:
        fits += f", from {span[0]:.1f} to {span[1]:.1f} s"
    return f"library: {file} ({', '.join(parts)}; {fits})"


def check_add_source(name: str) -> AddSource:
    """Return the source of sounds of that name.

    Raises
    ------
    SmartDJError
        USAGE where there is none.
    """
    for source in ADD_SOURCES:
        if source == name:
            return source
    raise SmartDJError(
        ErrorCode.USAGE, f"Unknown source of sounds {name!r}.", f"Use {', '.join(ADD_SOURCES)}.", field="--add-source"
    )
