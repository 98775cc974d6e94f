"""What a stranger can make us do: nothing above these numbers. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from smartdj_osc.packet import DEFAULT_PACKET_LIMITS, PacketLimits

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """All limits of the core.

    Attributes
    ----------
    packet
        Size of one packet.
    peer_rate, peer_burst
        Messages per second of one peer, and how many at once.
    total_rate, total_burst
        The same of all together.
    complaint_rate
        Answers per second to one peer about unknown addresses and malformed packets.
    lease_s
        Of a subscription that names none.
    max_subscribers, max_peers, max_scheduled
        Table sizes: subscriptions, peers whose rate is counted, messages that wait for their time tag.
    max_ahead_s
        Farthest time tag.
    update_hz
        Progress per second and job, and updates per second of a step that somebody drags.
    reply_factor, reply_floor_bytes
        Most bytes that a packet brings back to a UDP peer on another machine that isn't subscribed: so many times its
        own size, but at least the floor. Addresses can be forged; nobody shall use us to flood a third.
    """

    packet: PacketLimits = DEFAULT_PACKET_LIMITS
    peer_rate: float = 1000.0
    peer_burst: float = 2000.0
    total_rate: float = 10_000.0
    total_burst: float = 20_000.0
    complaint_rate: float = 20.0
    lease_s: int = 60
    max_subscribers: int = 64
    max_peers: int = 1024
    max_scheduled: int = 512
    max_ahead_s: float = 3600.0
    update_hz: float = 10.0
    reply_factor: int = 4
    reply_floor_bytes: int = 384


DEFAULT_LIMITS = Limits()


@dataclass
class Bucket:
    """A token bucket: `rate` per second, at most `burst` saved up."""

    rate: float
    burst: float
    now_s: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, now_s: float, count: float = 1.0) -> bool:
        """Take tokens if there are enough."""
        self.tokens = min(self.burst, self.tokens + max(now_s - self.now_s, 0.0) * self.rate)
        self.now_s = now_s
        if self.tokens < count:
            return False
        self.tokens -= count
        return True


class Buckets(Generic[Key]):
    """One bucket per key; the longest unused is forgotten where there are too many."""

    def __init__(self, rate: float, burst: float, max_keys: int) -> None:
        self._rate, self._burst, self._max_keys = rate, burst, max_keys
        self._buckets: OrderedDict[Key, Bucket] = OrderedDict()

    def take(self, key: Key, now_s: float, count: float = 1.0) -> bool:
        """Take tokens of a key if there are enough."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate, self._burst, now_s)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now_s, count)

    def __len__(self) -> int:
        return len(self._buckets)
