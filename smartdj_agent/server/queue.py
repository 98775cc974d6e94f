"""Who is next: a bounded queue that takes turns between clients. Pure; used from one thread."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from smartdj_agent.errors import ErrorCode, SmartDJError

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of many clients; clients take turns, each client's own items keep their order.

    A client that fills its share delays another client by one item at most, however many it has queued.

    Parameters
    ----------
    limit
        Most items in all, at least 1.
    limit_per_client
        Most items of one client, at least 1.
    """

    def __init__(self, limit: int, limit_per_client: int) -> None:
        if limit < 1 or limit_per_client < 1:
            raise ValueError(f"limits need to be at least 1, got {limit} and {limit_per_client}")
        self.limit = limit
        self.limit_per_client = limit_per_client
        # In the order of turns; a client without items isn't there.
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def check(self, client: str) -> None:
        """Refuse what `put` would refuse.

        Raises
        ------
        SmartDJError
            QUEUE_FULL beyond a limit.
        """
        if len(self) >= self.limit:
            raise SmartDJError(
                ErrorCode.QUEUE_FULL,
                f"The server's queue is full: {self.limit} jobs are waiting.",
                "Try again when some of them are done.",
            )
        if len(self._waiting.get(client, ())) >= self.limit_per_client:
            raise SmartDJError(
                ErrorCode.QUEUE_FULL,
                f"{self.limit_per_client} of your jobs are waiting already, the most for one client.",
                "Try again when one of them is done, or cancel one.",
            )

    def put(self, client: str, item: T, *, force: bool = False) -> int:
        """Queue an item.

        Parameters
        ----------
        client
            Whose turn it takes.
        item
            What waits.
        force
            Whether it is queued beyond the limits, because it had a place before.

        Returns
        -------
        int
            How many items come before it, see `position`.

        Raises
        ------
        SmartDJError
            QUEUE_FULL beyond a limit.
        """
        if not force:
            self.check(client)
        self._waiting.setdefault(client, deque()).append(item)
        return self.position(item)

    def pop(self) -> T | None:
        """Take out the item whose turn it is; None from an empty queue."""
        if not self._waiting:
            return None
        client, mine = self._waiting.popitem(last=False)
        item = mine.popleft()
        if mine:
            self._waiting[client] = mine
        return item

    def remove(self, item: T) -> bool:
        """Take out an item, out of turn.

        Returns
        -------
        bool
            False where it is not (or no longer) queued.
        """
        for client, mine in self._waiting.items():
            if item in mine:
                mine.remove(item)
                if not mine:
                    del self._waiting[client]
                return True
        return False

    def position(self, item: T) -> int:
        """Count the items that come before this one if no other client comes along.

        Raises
        ------
        ValueError
            The item is not queued.
        """
        for before, other in enumerate(self):
            if other == item:
                return before
        raise ValueError(f"{item!r} is not queued")

    def __iter__(self) -> Iterator[T]:
        """Go through the items in the order in which `pop` would give them."""
        rounds = [iter(tuple(mine)) for mine in self._waiting.values()]
        while rounds:
            alive = []
            for items in rounds:
                for item in items:
                    yield item
                    alive.append(items)
                    break
            rounds = alive

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))
