"""Puts REAPER's scripts, which lie in integrations/reaper/, into the built package; all else is in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithScripts(build_py):
    """Copies integrations/reaper/ to smartdj_agent/reaper/files; an editable install reads the working copy."""

    def run(self) -> None:
        super().run()
        source = Path(__file__).parent / "integrations" / "reaper"
        if not self.editable_mode and source.is_dir():
            target = Path(self.build_lib) / "smartdj_agent" / "reaper" / "files"
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithScripts})
