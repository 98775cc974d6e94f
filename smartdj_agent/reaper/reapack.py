"""The ReaPack index: ``python -m smartdj_agent.reaper.reapack --url URL`` writes ``integrations/reaper/index.xml``.

ReaPack installs scripts only, to ``Scripts/SmartDJ/Items``: it needs `pip install` and sets no helper, so
``smartdj reaper install`` stays the way that does everything. Without ``--url`` the command only checks.
"""

from __future__ import annotations

import argparse
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

from smartdj_agent import __version__
from smartdj_agent.reaper.scripts import header_tags, read_scripts, script_files, script_folder

INDEX_NAME = "index.xml"
REMOTE, CATEGORY, PACKAGE = "SmartDJ", "Items", "SmartDJ.py"
AUTHOR = "SmartDJ Agent"
DESCRIPTION = "SmartDJ: edit items and tracks from an instruction"


def make_index(
    files: Sequence[tuple[str, bytes]], *, url: str, time: datetime, version: str = __version__, changelog: str = ""
) -> str:
    """Return the index with one package of one version.

    Parameters
    ----------
    files
        Path and content, as from `scripts.script_files`.
    url
        Where the files can be fetched, such as ``https://host/raw/v0.1.0/integrations/reaper``.
    time
        When the version was published; with a time zone.
    """
    index = ET.Element("index", version="1", name=REMOTE)
    category = ET.SubElement(index, "category", name=CATEGORY)
    package = ET.SubElement(category, "reapack", name=PACKAGE, type="script", desc=DESCRIPTION)
    published = time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    released = ET.SubElement(package, "version", name=version, author=AUTHOR, time=published)
    actions = {script.file for script in read_scripts(files)}
    for name, _ in files:
        source = ET.SubElement(released, "source", {"main": "main"} if name in actions else {}, file=name)
        source.text = f"{url.rstrip('/')}/{quote(name)}"
    if changelog:
        ET.SubElement(released, "changelog").text = changelog
    ET.indent(index)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(index, encoding="unicode") + "\n"


def check_index(text: str, files: Sequence[tuple[str, bytes]], version: str = __version__) -> list[str]:
    """Return what is wrong with an index, one sentence each: files, versions, which of them are actions."""
    try:
        index = ET.fromstring(text)
    except ET.ParseError as error:
        return [f"it is no XML: {error}"]
    faults = []
    if (index.tag, index.get("version"), index.get("name")) != ("index", "1", REMOTE):
        faults.append(f'it must begin with <index version="1" name="{REMOTE}">')
    newest = index.findall("./category/reapack/version")[-1:]
    if [released.get("name") for released in newest] != [version]:
        return [*faults, f"its newest version must be {version}"]
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", newest[0].get("time", "")):
        faults.append("the version's time must look like 2026-11-22T00:00:00Z")
    names = {name for name, _ in files}
    actions = {script.file for script in read_scripts(files)}
    listed = []
    for source in newest[0].findall("source"):
        name, url = source.get("file", ""), (source.text or "").strip()
        listed.append(name)
        if name not in names:
            faults.append(f"{name} is listed but isn't there")
        if not url.startswith("https://") or not unquote(url).endswith(f"/{name}"):
            faults.append(f"{name} has the address {url!r}")
        if (source.get("main") is not None) != (name in actions):
            faults.append(f"{name} must {'' if name in actions else 'not '}be marked main")
    faults += [f"{name} is there but isn't listed" for name in sorted(names - set(listed))]
    if len(set(listed)) != len(listed):
        faults.append("a file is listed twice")
    for name, content in files:
        stated = header_tags(content).get("version")
        if stated is not None and stated != version:
            faults.append(f"{name} says @version {stated}, not {version}")
    return faults


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the index of the working copy; return 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m smartdj_agent.reaper.reapack", description=__doc__)
    parser.add_argument("--url", help="where the files of this version can be fetched; writes the index")
    parser.add_argument("--changelog", default="", help="what is new")
    parser.add_argument("--folder", type=Path, default=None, help="the scripts' folder")
    options = parser.parse_args(argv)
    folder = script_folder() if options.folder is None else options.folder
    files, path = script_files(folder), folder / INDEX_NAME
    if options.url:
        text = make_index(files, url=options.url, time=datetime.now(UTC), changelog=options.changelog)
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        print(f"{path} isn't there: give --url to write it", file=sys.stderr)
        return 1
    faults = check_index(text, files)
    for fault in faults:
        print(f"{path}: {fault}", file=sys.stderr)
    if options.url and not faults:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path} ({len(files)} files)", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
