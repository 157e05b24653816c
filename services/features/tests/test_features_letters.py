"""Vectors written in one pass are exactly the contract, whatever the entities are called and whenever they are."""

import numpy as np
import pytest
from features_cases import START_US

from tidemill_contracts.base import format_time
from tidemill_contracts.envelope import read_envelope
from tidemill_contracts.events import FeatureVector
from tidemill_features.domain.encode import Encoder, Outgoing, Vectors
from tidemill_features.domain.letter import Letter, Mail, as_letters, joined

ENTITIES = ["AA", "é\u2028😀", '"\\/', "".join(map(chr, range(1, 0x30))), "\x7f\x80", '["a",1]', "x" * 400]
TIMES_US = [
    0, START_US, START_US + 1, 951_782_399_999_999, 951_782_400_000_000, 951_868_800_000_000, 4_294_967_295_000_000,
]  # fmt: skip
VERSION = "0123456789abcdef"
VALUES = [1.0, 0.1, -0.0, 1e300, 5e-324, float("nan"), 1 / 3]


def encoder() -> Encoder:
    return Encoder("v", VERSION, topic="t", partition=3)


def rows(*, traced: bool = True) -> Vectors:
    count = len(ENTITIES)
    seqs = np.arange(3 * count).reshape(count, 3)
    seqs[1, 0] = seqs[2, 2] = -1
    seqs[3] = -1
    return Vectors(
        [entity.encode() for entity in ENTITIES], np.array([VALUES] * count), np.array(TIMES_US),
        2 ** np.arange(count) * 10, np.array([0, 7, 200]), seqs,
        [b"00-%d" % n if traced and n % 2 else None for n in range(count)],
    )  # fmt: skip


def test_each_vector_is_the_contract() -> None:
    given = rows()
    letters = encoder().vectors(given)
    assert len(letters) == len(list(letters)) == len(ENTITIES)
    for n, letter in enumerate(letters):
        named = zip(given.partitions.tolist(), given.seqs[n].tolist(), strict=True)
        model = FeatureVector(
            view="v", version=VERSION, entity=ENTITIES[n], at_us=TIMES_US[n], revision=int(given.revisions[n]),
            values=[None if np.isnan(value) else value for value in VALUES],
            positions={str(source): seq for source, seq in named if seq >= 0},
        )  # fmt: skip
        assert FeatureVector.read(letter.value or b"") == model
        assert (letter.topic, letter.partition, letter.key) == ("t", 3, ENTITIES[n].encode())
        envelope = read_envelope(letter.headers, letter.value)
        assert (envelope.type, envelope.source) == (FeatureVector.TYPE, "tidemill/features/v")
        assert envelope.id == f"v/{VERSION}/{ENTITIES[n]}/{model.revision}"
        assert dict(letter.headers)["ce_time"].decode() == format_time(TIMES_US[n])
        assert envelope.traceparent == (f"00-{n}" if n % 2 else None)


def test_without_traces_there_is_no_header_of_them() -> None:
    assert all(len(letter.headers) == 6 for letter in encoder().vectors(rows(traced=False)))


def test_vectors_deletions_and_the_watermark_lie_in_one_buffer() -> None:
    out = Outgoing(encoder(), rows(), [b"gone"], (START_US, {0: 5}))
    letters = out.letters()
    assert len(letters) == out.records == len(ENTITIES) + 2
    expected = [*encoder().vectors(rows()), encoder().deletion(b"gone"), encoder().watermark(START_US, {0: 5})]
    assert list(letters) == expected
    assert list(as_letters(expected)) == expected
    assert out.contexts() == ["00-1", "00-3", "00-5"]
    assert list(joined([as_letters(expected[:2]), as_letters(expected[2:])])) == expected


def test_mail_is_what_it_is_made_of() -> None:
    single = [Letter("dlq", 0, None, b"x", [])]
    letters = encoder().vectors(rows())
    mail = Mail([single, [], letters])
    assert list(mail) == [*single, *letters]
    assert [mail[0], mail[-1], *mail[1:3]] == [*single, letters[-1], letters[0], letters[1]]
    with pytest.raises(IndexError):
        mail[len(mail)]
