"""What listening to results gains: figures from pairs of runs."""

from __future__ import annotations

from training.relisten_gain import Run, summary, table


def test_gain_warnings_and_cost_of_pairs_of_runs() -> None:
    plain = [Run(1.0, False, 1.0), Run(2.0, False, 1.0), Run(8.0, False, 3.0)]
    heard = [Run(4.0, True, 2.0), Run(2.0, True, 2.0), Run(8.0, False, 2.0)]
    found = summary(plain, heard)
    assert found["without"] == 2.0
    assert found["with"] == 4.0
    assert found["second try taken"] == 1 / 3
    assert found["gain where taken"] == 3.0
    assert found["warned"] == 2 / 3
    assert found["figure where warned"] == 3.0
    assert found["figure where not"] == 8.0
    assert (found["seconds without"], found["seconds with"]) == (1.0, 2.0)
    assert "| remove | 2.00 | 4.00 | 33 % | 3.00 | 67 % | 3.00 | 8.00 | 1.00 | 2.00 |" in table({"remove": found})


def test_nothing_warned_leaves_a_gap() -> None:
    run = [Run(1.0, False, 1.0)]
    assert summary(run, run)["figure where warned"] is None
    assert "| – |" in table({"add": summary(run, run)})
