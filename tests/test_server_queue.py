"""The queue: turns between clients, order within one, limits, and positions that come true."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartdj_agent.errors import ErrorCode, SmartDJError
from smartdj_agent.server.queue import FairQueue


def drained(queue: FairQueue[str]) -> list[str]:
    items = []
    while (item := queue.pop()) is not None:
        items.append(item)
    return items


def test_clients_take_turns_and_each_keeps_its_order() -> None:
    queue: FairQueue[str] = FairQueue(10, 10)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item[0], item)
    assert drained(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert queue.pop() is None


def test_a_client_that_was_just_served_waits_for_the_others() -> None:
    queue: FairQueue[str] = FairQueue(10, 10)
    queue.put("a", "a1")
    queue.put("a", "a2")
    queue.put("b", "b1")
    assert queue.pop() == "a1"
    queue.put("c", "c1")
    assert drained(queue) == ["b1", "a2", "c1"]


def test_beyond_the_limits_it_is_full_and_nothing_is_queued() -> None:
    queue: FairQueue[str] = FairQueue(3, 2)
    queue.put("a", "a1")
    queue.put("a", "a2")
    with pytest.raises(SmartDJError, match="your jobs") as own:
        queue.put("a", "a3")
    queue.put("b", "b1")
    with pytest.raises(SmartDJError, match="server's queue") as all_of_them:
        queue.put("c", "c1")
    assert own.value.code is all_of_them.value.code is ErrorCode.QUEUE_FULL
    assert own.value.hint
    assert all_of_them.value.hint
    assert drained(queue) == ["a1", "b1", "a2"]


def test_a_removed_item_is_gone_and_makes_room() -> None:
    queue: FairQueue[str] = FairQueue(2, 1)
    queue.put("a", "a1")
    queue.put("b", "b1")
    assert queue.remove("a1")
    assert not queue.remove("a1")
    with pytest.raises(ValueError, match="a1"):
        queue.position("a1")
    assert queue.put("a", "a2") == 1
    assert drained(queue) == ["b1", "a2"]


def test_limits_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        FairQueue(0, 1)


@given(st.lists(st.sampled_from(["a", "b", "c", "pop", "remove"]), max_size=60))
def test_positions_come_true_and_nothing_is_lost(actions: list[str]) -> None:
    queue: FairQueue[str] = FairQueue(100, 100)
    queued: list[str] = []
    for number, action in enumerate(actions):
        if action == "pop":
            item = queue.pop()
            assert (item is None) == (not queued)
            if item is not None:
                queued.remove(item)
        elif action == "remove":
            if queued:
                assert queue.remove(queued.pop(len(queued) // 2))
        else:
            item = f"{action}{number}"
            queued.append(item)
            assert queue.put(action, item) == queue.position(item)
    assert len(queue) == len(queued)
    positions = {item: queue.position(item) for item in queued}
    order = drained(queue)
    assert {item: order.index(item) for item in queued} == positions
    of_client = defaultdict(list)
    for item in order:
        of_client[item[0]].append(int(item[1:]))
    assert all(numbers == sorted(numbers) for numbers in of_client.values())
    # Nobody is served twice while somebody else waits.
    for first, second in pairwise(order):
        if first[0] == second[0]:
            assert {item[0] for item in order[order.index(second) :]} == {first[0]}
