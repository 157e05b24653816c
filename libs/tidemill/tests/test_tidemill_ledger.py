import json
from copy import deepcopy
from typing import Any

import pytest

from tidemill.ledger.counts import Counts, Ledger, equations
from tidemill.ledger.digest import DECISIONS, decisions_digest, digest_of
from tidemill.ledger.topics import Record, body
from tidemill_contracts import Envelope

BALANCED: Counts = {
    "events": {"accepted": 10, "distinct": 10, "applied": 7, "late": 2, "dead_lettered": 1},
    "predictions": {"answered": 5, "spooled": 5, "over_kafka": 2, "in_topic": 7, "repeated": 0},
    "labels": {
        "received": 6, "joined": 1, "pending": 1, "unmatched": 1, "expired": 1, "conflicting": 1, "duplicate": 1,
    },
    "training": {"requested": 4, "runs": 2, "coalesced": 1, "refused": 1, "by_trainer": 1},
    "releases": {"epochs": 2, "highest": 2, "events": 2},
}  # fmt: skip
COUNTED = [(part, name) for part, counts in BALANCED.items() for name in counts if name != "by_trainer"]


def test_a_balanced_ledger() -> None:
    assert equations(BALANCED) == []
    assert Ledger(BALANCED, []).balanced


@pytest.mark.parametrize(("part", "name"), COUNTED)
def test_every_count_stands_in_an_equation(part: str, name: str) -> None:
    counts = deepcopy(BALANCED)
    counts[part][name] += 1
    broken = equations(counts)
    assert broken
    assert all(" is not " in line for line in broken)
    assert not Ledger(counts, broken).balanced


def record(kind: str, identity: str, content: dict[str, Any]) -> Record:
    envelope = Envelope(identity, f"tidemill.{kind}.v1", "/s", 5, json.dumps(content).encode())
    return Record(0, 0, None, envelope, 1)


def decisions() -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {family: [] for family in DECISIONS}
    found["drift"] = [record("drift", "d-1", {"effect": 0.1}), record("drift", "d-2", {"effect": 0.2})]
    found["runs"] = [record("run-finished", "r-1", {"manifest": "m-1", "model": "sha"})]
    return found


def digest(found: dict[str, list[Record]], manifest: bytes = b'{"seed": 1}') -> str:
    return decisions_digest(found, {"m-1": manifest}.__getitem__)


def test_the_digest_is_of_what_was_decided() -> None:
    assert digest(decisions()) == digest(decisions())
    changed = decisions()
    changed["drift"][1] = record("drift", "d-2", {"effect": 0.3})
    renamed = decisions()
    renamed["drift"][1] = record("drift", "d-3", {"effect": 0.2})
    turned = decisions()
    turned["drift"].reverse()
    missing = decisions()
    missing["runs"] = []
    all_of_them = [digest(decisions()), *map(digest, (changed, renamed, turned, missing))]
    all_of_them.append(digest(decisions(), b'{"seed": 2}'))
    assert len(set(all_of_them)) == 6


def test_the_digest_does_not_see_how_a_body_is_written_or_where_it_stands() -> None:
    spaced, elsewhere = decisions(), decisions()
    envelope = Envelope("d-1", "tidemill.drift.v1", "/other", 5, b'{ "effect":0.1 }')
    spaced["drift"][0] = Record(0, 0, None, envelope, 1)
    elsewhere["drift"][0] = Record(3, 77, b"key", elsewhere["drift"][0].envelope, 9)
    assert digest(spaced) == digest(elsewhere) == digest(decisions())


def test_items_cannot_run_into_each_other() -> None:
    assert digest_of([("a", "b", 1, {}), ("c", "d", 1, {})]) != digest_of([("a", "b", 1, {})])


def test_a_record_that_is_no_event_has_an_empty_body() -> None:
    assert body(Record(0, 0, None, None, 3)) == {}
    assert body(Record(0, 0, None, Envelope("i", "t", "s", 0, b"[1]"), 3)) == {}
