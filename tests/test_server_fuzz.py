"""A short run of `benchmarks/server_fuzz.py`: a real server process gets what no honest client would send."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("psutil")

from benchmarks.server_fuzz import METHODS, run


def test_every_method_is_known_to_the_fuzzer() -> None:
    assert {method.path.split("/")[1] for method in METHODS} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "smartdj.v1.AudioService",
        "smartdj.v1.EditService",
        "smartdj.v1.JobService",
        "smartdj.v1.ServerService",
    }


def test_hostile_messages_leave_the_server_whole(tmp_path: Path) -> None:
    result = run(1000, 3, tmp_path, looks=2)
    assert result["faults"] == []
    assert result["messages"] >= 1000
    assert {"USAGE", "OK", "PATH_FORBIDDEN", "UPLOAD_MISMATCH"} <= set(result["answers"])
