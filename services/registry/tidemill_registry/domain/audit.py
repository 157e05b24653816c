"""A hash chain over all decision events: changing, dropping or inserting a row breaks every hash after it.

Method: linked timestamps (Haber and Stornetta, 1991), SHA-256 over the previous hash and the canonical body.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Link:
    """One row of the chain; `body` is canonical JSON."""

    seq: int
    event_id: str
    type: str
    pipeline: str
    body: str
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the chain holds; `broken_at` is the first sequence number that does not fit, with the reason."""

    ok: bool
    links: int
    head: str
    broken_at: int | None = None
    reason: str = ""


def canonical(body: object) -> str:
    """JSON with sorted keys and no spaces."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def chain_hash(link: Link) -> str:
    """SHA-256 over the previous hash and all other fields of the row but its own hash, each length-prefixed."""
    digest = hashlib.sha256(link.previous.encode())
    for part in (str(link.seq), link.event_id, link.type, link.pipeline, link.body):
        raw = part.encode()
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()


def append(last: Link | None, *, event_id: str, type_: str, pipeline: str, body: object) -> Link:
    """The link after `last` (None for an empty chain)."""
    previous = last.hash if last is not None else GENESIS
    seq = last.seq + 1 if last is not None else 1
    link = Link(seq, event_id, type_, pipeline, canonical(body), previous, hash="")
    return replace(link, hash=chain_hash(link))


def verify(links: Iterable[Link]) -> Verdict:
    """Walks the chain in order of `seq` and names the first row that was changed, dropped or inserted."""
    previous, count = GENESIS, 0
    for link in links:
        expected = count + 1
        if link.seq != expected:
            return Verdict(False, count, previous, expected, f"row {expected} is missing")  # noqa: FBT003 - the field's name says it
        if link.previous != previous or link.hash != chain_hash(link):
            return Verdict(False, count, previous, link.seq, f"row {link.seq} was changed")  # noqa: FBT003
        previous, count = link.hash, expected
    return Verdict(True, count, previous)  # noqa: FBT003
