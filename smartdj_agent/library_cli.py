"""``smartdj library``: index the person's own sounds, look for one, list and forget indexes."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smartdj_agent.cli import (
    AddSource,
    Device,
    DeviceOption,
    JsonOption,
    LibraryOption,
    _columns,
    _count,
    agent_options,
)
from smartdj_agent.errors import ErrorCode, SmartDJError

if TYPE_CHECKING:
    from smartdj_agent.console import Screen
    from smartdj_agent.library_index import IndexSummary

PROGRESS_INTERVAL_S = 0.2
"""Least time between two progress lines."""
SHOWN_SKIPPED = 20
"""Files that can't be read that are named on a screen; JSON names them all."""

library_app = typer.Typer(help="Index and search your own sounds, to add them.", pretty_exceptions_enable=False)

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of sounds; nothing is written to it.")]


@library_app.command("index")
def index(
    folder: FolderArgument,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read every file again, not only what changed.")] = False,
    device: DeviceOption = Device.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Make a folder of sounds searchable, or bring its index up to date: names, metadata, and how each one sounds.

    The index lies in your data folder. Ctrl-C keeps what is done; run it again to go on.

    Example: smartdj library index ~/Sounds
    """
    from smartdj_agent.console import Screen
    from smartdj_agent.editor import choose_device, embed_sound
    from smartdj_agent.library_index import IndexProgress, IndexSummary, build_index
    from smartdj_agent.models.text import SentenceEncoder
    from smartdj_agent.models.weights import load_network, network_id

    if not folder.is_dir():
        raise SmartDJError(
            ErrorCode.AUDIO_NOT_FOUND, f"there is no folder {folder}", "give the folder that holds the sounds"
        )
    with Screen(as_json=as_json) as screen:
        screen.status("loading models")
        listener = load_network("small", "listener", choose_device(device.value))
        encoder = SentenceEncoder()
        run = build_index(
            folder,
            lambda texts: encoder.vectors(texts).numpy(),
            lambda mono: embed_sound(listener, mono),
            listener_id=network_id("small", "listener"),
            rebuild=rebuild,
        )
        at: IndexProgress | None = None
        shown = 0.0
        screen.status("looking through the folder")
        try:
            with closing(run) as items:  # type: ignore[type-var]
                for item in items:
                    if isinstance(item, IndexSummary):
                        _show_summary(item, folder, screen)
                        return
                    at = item
                    if time.monotonic() - shown < PROGRESS_INTERVAL_S:
                        continue
                    shown = time.monotonic()
                    _show_progress(item, screen)
        except KeyboardInterrupt:
            done = f"{at.done:,} of {at.count:,} files are done" if at is not None else "nothing was read yet"
            raise SmartDJError(ErrorCode.CANCELLED, f"stopped; {done}", "run the same command again to go on") from None


def _show_progress(item: Any, screen: Screen) -> None:
    from smartdj_agent.batch.summary import duration
    from smartdj_agent.eventjson import fields_to_dict

    screen.emit({"event": "library_progress", **fields_to_dict(item)})
    left = "" if item.seconds_left is None else f"{duration(item.seconds_left)} left"
    details = " · ".join(part for part in (f"{item.done:,}/{item.count:,}", left, item.name[-50:]) if part)
    screen.progress("indexing", item.done / max(item.count, 1), details)


def _show_summary(summary: IndexSummary, folder: Path, screen: Screen) -> None:
    from smartdj_agent.batch.summary import duration
    from smartdj_agent.eventjson import fields_to_dict

    screen.rest()
    screen.emit({"event": "library_indexed", "folder": str(folder.resolve()), **fields_to_dict(summary)})
    for name, reason in summary.skipped[:SHOWN_SKIPPED]:
        screen.line(f"skipped: {name}: {reason}", "yellow")
    more = len(summary.skipped) - SHOWN_SKIPPED
    if more > 0:
        screen.line(f"skipped: {more:,} more; --json names them all", "yellow")
    screen.line(
        f"{_count(summary.sounds, 'sound')} in the index ({summary.added:,} read, {summary.kept:,} as before, "
        f"{summary.removed:,} gone, {len(summary.skipped):,} can't be read; {duration(summary.seconds)})"
    )


@library_app.command("search")
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help='What it should be, e.g. "old door creaking".')],
    libraries: LibraryOption = None,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="Most sounds to show.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show which sounds fit a text best, in the order of fit; `add` takes one of the near-best.

    Example: smartdj library search "old door creaking"
    """
    from smartdj_agent.agent import Agent
    from smartdj_agent.console import Screen, one_line, write_stdout
    from smartdj_agent.instruction import check_instruction
    from smartdj_agent.library_index import IndexedLibrary

    wanted = check_instruction(text)
    with Screen(as_json=as_json) as screen:
        screen.status("searching")
        editor = Agent("small", "cpu", **agent_options(AddSource.AUTO, libraries)).editor
        shelf = editor.shelf
        for _, message, hint in shelf.warnings:
            screen.line(f"note: {message} ({hint})", "yellow")
        found = []
        for library in shelf.libraries or filter(None, [shelf.starter]):
            if isinstance(library, IndexedLibrary):
                found += library.search(wanted, editor.encode_labels, editor.embed_texts, count=count)
            else:
                found += library.find(wanted, editor.encode_labels, count=count)
        found = sorted(found, key=lambda match: -match.similarity)[:count]
        screen.rest()
        rows: list[tuple[str, ...]] = [("fit", "name", "ear", "length", "label", "licence", "file")]
        for match in found:
            clip = match.clip
            screen.emit(
                {
                    "event": "library_match",
                    "path": str(clip.path),
                    "label": clip.label,
                    "similarity": match.similarity,
                    "written": match.written,
                    "heard": match.heard,
                    "licence": clip.licence,
                    "author": clip.author,
                    "source": clip.source,
                    "duration_s": clip.duration_s,
                    "continuous": clip.continuous,
                }
            )
            parts = ["–" if part is None else f"{part:.0%}" for part in (match.written, match.heard)]
            shown = str(clip.path).encode("utf-8", "replace").decode()
            rows.append(
                (f"{match.similarity:.0%}", *parts, f"{clip.duration_s:.1f} s", one_line(clip.label)[:50],
                 one_line(clip.licence)[:24] or "unknown", one_line(shown))
            )  # fmt: skip
        if not as_json:
            write_stdout(_columns(rows, right={0, 1, 2, 3}))


@library_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the folders that are indexed; `add` looks in all of them unless some are named."""
    from smartdj_agent.console import Screen, write_stdout
    from smartdj_agent.eventjson import fields_to_dict
    from smartdj_agent.library_index import list_indexes

    with Screen(as_json=as_json) as screen:
        infos = list_indexes()
        for info in infos:
            screen.emit({"event": "library", **fields_to_dict(info)})
        if as_json:
            return
        if not infos:
            screen.line("no folder is indexed yet (smartdj library index DIR); the starter library is used")
            return
        rows = [("folder", "sounds", "hours", "can't be read", "")]
        rows += [
            (str(info.folder), f"{info.sounds:,}", f"{info.duration_s / 3600:.1f}", f"{info.skipped:,}",
             "" if info.there else "not there now")
            for info in infos
        ]  # fmt: skip
        write_stdout(_columns(rows, right={1, 2, 3}))


@library_app.command("remove")
def remove(folder: FolderArgument) -> None:
    """Forget an indexed folder: only the index goes, the sounds stay."""
    from smartdj_agent.console import Screen
    from smartdj_agent.library_index import remove_index

    with Screen(as_json=False) as screen:
        if not remove_index(folder):
            raise SmartDJError(
                ErrorCode.AUDIO_NOT_FOUND, f"there is no index of {folder}", "`smartdj library list` names them all"
            )
        screen.line(f"forgot {folder}; its sounds are as they were")


def add_to(app: typer.Typer) -> None:
    """Give a command line the commands of ``library``."""
    app.add_typer(library_app, name="library")
