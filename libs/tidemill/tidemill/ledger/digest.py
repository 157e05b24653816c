"""One hash over everything that was decided: two runs over the same log must print the same one.

It covers drift, requests, manifests, model digests, gate verdicts and releases: event ids, event times and bodies, in
the order of each topic. Physical offsets and wall-clock times are in no decision, so nothing has to be left out.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from tidemill.ledger.topics import Record, body, read_topic
from tidemill_contracts.events import RunProgress
from tidemill_contracts.topics import Family, topic

DECISIONS: tuple[Family, ...] = ("drift", "training", "runs", "versions", "releases")


def digest_of(decisions: Iterable[tuple[str, str, int, dict[str, Any]]]) -> str:
    """SHA-256 over (type, id, event time, body) of decisions, in order."""
    digest = hashlib.sha256()
    for item in decisions:
        digest.update(json.dumps(item, sort_keys=True, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()


async def read_decisions(bootstrap: str, *, prefix: str = "tidemill") -> dict[str, list[Record]]:
    """Records of each decision topic in order, a repeated event id once."""
    found: dict[str, list[Record]] = {}
    for family in DECISIONS:
        seen: set[str] = set()
        found[family] = []
        async for record in read_topic(bootstrap, topic(family, prefix=prefix)):
            if record.envelope is None or record.envelope.type == RunProgress.TYPE:
                continue  # a notice, not a decision
            if record.envelope.id not in seen:
                seen.add(record.envelope.id)
                found[family].append(record)
    return found


def decisions_digest(found: dict[str, list[Record]], manifest: Callable[[str], bytes]) -> str:
    """The digest over all decision topics; `manifest` fetches a training manifest by digest: a wrong one shows too."""
    items: list[tuple[str, str, int, dict[str, Any]]] = []
    for family in DECISIONS:
        for record in found[family]:
            envelope = record.envelope
            if envelope is not None:
                items.append((envelope.type, envelope.id, envelope.time_us, body(record)))
                named = body(record).get("manifest")
                if family == "runs" and named:
                    items.append(("manifest", named, 0, json.loads(manifest(named))))
    return digest_of(items)
