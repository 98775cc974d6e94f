"""The house's rules: imports run downwards, every error shows at every door, `--help` needs nothing heavy."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from smartdj_agent.errors import ERROR_TABLE, ErrorCode, SmartDJError

PACKAGE = Path(__file__).parent.parent / "smartdj_agent"

# From the ground up; a module may import from lower floors and from its own.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors"}),
    frozenset({"chat", "files", "scatter"}),
    frozenset({"steps", "audio", "spatial", "instruction", "ucs", "soundfacts", "excerpt"}),
    frozenset({"direct_words", "guided", "sentences"}),
    frozenset(
        {
            "beyond",
            "constraints",
            "direct",
            "doubts",
            "forbidding",
            "grammar",
            "library",
            "library_index",
            "models",
            "opposites",
            "plan",
            "plan_text",
            "render",
            "sampling",
            "separation",
            "shelf",
        }
    ),
    frozenset({"events", "listening", "wire", "wire_status"}),
    frozenset({"editor", "planner", "planner_endpoint", "planners", "relisten"}),
    frozenset({"agent"}),
    frozenset({"client", "console", "doctor", "eventjson", "outputs", "report", "report_page", "review"}),
    frozenset({"batch", "cli", "library_cli", "reaper", "server", "ui"}),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}

GRPC_STATUSES = {
    "CANCELLED",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "UNAUTHENTICATED",
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "smartdj_agent" and len(parts) > 1 and parts[1] in FLOOR_OF:
                rooms.add(parts[1])
            assert parts[0] != "training", f"{path.name} imports training"
    return rooms


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in FLOOR_OF, f"{room} has no floor yet: put it into FLOORS"
    higher = {other for other in imported_rooms(path) if FLOOR_OF[other] > FLOOR_OF[room]}
    assert not higher, f"{room} imports {sorted(higher)} from above"


def test_every_code_has_a_row_and_no_two_share_an_exit_status() -> None:
    assert set(ERROR_TABLE) == set(ErrorCode)
    statuses = [row.exit_code for row in ERROR_TABLE.values()]
    assert len(set(statuses)) == len(statuses)
    assert all(0 < status < 256 for status in statuses)
    assert {row.grpc_status for row in ERROR_TABLE.values()} <= GRPC_STATUSES


def test_an_error_shows_message_and_hint() -> None:
    error = SmartDJError(ErrorCode.DISK_FULL, "no space", "free some", field="-o")
    assert (error.row.exit_code, str(error)) == (43, "no space (free some)")
