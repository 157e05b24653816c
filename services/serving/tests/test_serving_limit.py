"""At the limit of the log: refuse, or log a marked sample of what is answered, and count the rest."""

from pathlib import Path

import pytest
from serving_spool import everything

from tidemill_serving.domain.entries import Entry, LogRefusedError
from tidemill_serving.spool import Spool, SpoolLimits, SpoolReader
from tidemill_serving.spool.sampling import SAMPLED

LIMIT = 20_000


def entry(number: int, kind: str = "prediction") -> Entry:
    headers = [("ce_id", f"id-{number}".encode())]
    return Entry(kind, "flights", "t", 0, b"key", b"v" * 100, headers, 7)  # type: ignore[arg-type] # a kind


def filled(folder: Path, sample: float | None) -> Spool:
    spool = Spool(folder, SpoolLimits(segment_bytes=2000, pending_bytes=LIMIT, keep_bytes=0, sample=sample))
    spool.open()
    while spool.pending_bytes <= LIMIT:
        spool.append([entry(0)])
    return spool


def test_a_sample_is_logged_with_its_mark_and_the_rest_counted(tmp_path: Path) -> None:
    spool = filled(tmp_path, 0.25)
    first = spool.append([entry(number) for number in range(100)] + [entry(1000, "timer")])
    found = [record for _, _, record in everything(SpoolReader(spool, first))]
    predictions = [record for record in found if record.kind == "prediction"]
    assert 10 <= len(predictions) <= 45
    assert spool.unlogged == {"flights": 100 - len(predictions)}
    assert all((SAMPLED, b"0.25") in record.headers for record in predictions)
    assert [record.headers for record in found if record.kind == "timer"] == [[("ce_id", b"id-1000")]]
    again = spool.append([entry(number) for number in range(100)])
    repeated = [record for _, _, record in everything(SpoolReader(spool, again))]
    assert [record.headers for record in repeated] == [record.headers for record in predictions], "chosen by id"
    spool.close()


def test_above_a_quarter_more_it_is_refused_after_all_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1.0)
    while spool.pending_bytes <= LIMIT + LIMIT // 4:
        spool.append([entry(1)])
    with pytest.raises(LogRefusedError):
        spool.append([entry(2)])
    assert spool.pending_bytes <= LIMIT * 1.25 + 2000
    spool.trim(spool.end)
    before = spool.end
    assert spool.append([entry(5)]) == before
    assert spool.unlogged == {}
    spool.close()


def test_refusing_is_the_default(tmp_path: Path) -> None:
    spool = filled(tmp_path, None)
    with pytest.raises(LogRefusedError):
        spool.append([entry(1)])
    spool.close()


def test_a_batch_of_which_nothing_is_kept_writes_nothing(tmp_path: Path) -> None:
    spool = filled(tmp_path, 1e-9)
    end, size = spool.end, spool.pending_bytes
    assert spool.append([entry(number) for number in range(50)]) == end == spool.end
    assert spool.pending_bytes == size
    assert spool.unlogged == {"flights": 50}
    spool.close()
