"""What a peer may ask of this process, and how often it may do what costs it nothing."""

from dataclasses import dataclass

from tidemill_runtime.rpc.frames import ConnectionFault, ErrorCode

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes.

    `message`: one message, unpacked. `streams` of one connection, `calls` of all, above which a connection still
    has its `share`: who keeps many open shuts nobody out. `held`: messages of all connections
    that are not whole yet or that nobody has taken. `window` and `shared_window`: what a stream and a connection may
    send before it hears of more. `head`: all headers of a call. `odd` and `resets`: frames that carry nothing, and
    calls that are taken back, of one connection: so many at once, and then so many in a second.
    """

    message: int = 16 * _MIB
    streams: int = 1024
    calls: int = 4096
    share: int = 16
    held: int = 256 * _MIB
    window: int = _MIB
    shared_window: int = 16 * _MIB
    head: int = 16 * 1024
    continuations: int = 16
    odd: tuple[int, int] = (1000, 100)
    resets: tuple[int, int] = (2048, 1024)
    waiting: int = 64


@dataclass(slots=True)
class Ledger:
    """What all connections of a server have of it at the moment."""

    held: int = 0
    calls: int = 0


class Toll:
    """So many at once, and then so many in a second: more end the connection."""

    __slots__ = ("_at", "_left", "_most", "_rate", "_what")

    def __init__(self, rate: tuple[int, int], what: str, now: float) -> None:
        self._most, self._rate = rate
        self._left, self._at, self._what = float(self._most), now, what

    def pay(self, now: float) -> None:
        """For one more; raises ConnectionFault."""
        self._left -= 1.0
        if self._left >= 0.0:
            return
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 0.0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {self._what}")
