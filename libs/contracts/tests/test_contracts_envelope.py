"""The CloudEvents envelope: ours is the public SDK's, and nothing unreadable raises anything but EnvelopeError."""

import json
from contextlib import suppress

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from tidemill_contracts import Envelope, EnvelopeError, format_time, parse_time, read_envelope
from tidemill_contracts.envelope import Headers

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
PLAIN = Envelope(id="1", type="tidemill.test.v1", source="/test", time_us=1_357_041_600_000_000, data=b'{"n": 1}')
FULL = Envelope(
    id="2", type="tidemill.test.v1", source="/test", time_us=1, data=b"{}", subject="s", causation="c",
    correlation="d", traceparent=TRACE, origin=(1, 2, 3), seq=4,
)  # fmt: skip
INSTANTS = st.integers(-60_000_000_000_000_000, 250_000_000_000_000_000)  # from year 68 to year 9892


def without(name: str) -> Headers:
    """The headers of an envelope but one."""
    return [header for header in FULL.headers() if header[0] != name]


@pytest.mark.parametrize("envelope", [PLAIN, FULL])
def test_what_is_written_is_read_back(envelope: Envelope) -> None:
    assert read_envelope(envelope.headers(), envelope.data) == envelope


def test_the_public_codec_reads_ours() -> None:
    message = kafka.KafkaMessage(dict(FULL.headers()), None, PLAIN.data)
    event = kafka.from_binary(message, JSONFormat())
    assert (event.get_id(), event.get_type(), event.get_source()) == (FULL.id, FULL.type, FULL.source)
    assert (event.get_subject(), event.get_extension("causationid")) == (FULL.subject, FULL.causation)
    assert event.get_data() == {"n": 1}
    assert event.get_time() is not None


def test_we_read_the_public_codec() -> None:
    attributes = {"id": "7", "type": "t", "source": "/s", "subject": "x", "specversion": "1.0"}
    message = kafka.to_binary(CloudEvent(attributes | {"datacontenttype": "application/json"}, {"n": 2}), JSONFormat())
    headers = [*message.headers.items(), ("ce_time", b"2013-01-01T12:00:00Z")]
    envelope = read_envelope(headers, message.value)
    assert (envelope.id, envelope.subject, envelope.time_us) == ("7", "x", PLAIN.time_us)
    assert json.loads(envelope.data) == {"n": 2}


@pytest.mark.parametrize("name", ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time"])
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(EnvelopeError, match=name):
        read_envelope(without(name), b"{}")


@pytest.mark.parametrize("number", ["", "-1", "1.5", "x", "²", "9" * 20, "9" * 5000])
def test_a_number_that_is_none_is_named(number: str) -> None:
    """Also where Python calls the text digits, or has a limit of its own for how many it reads."""
    with pytest.raises(EnvelopeError, match="tm_seq"):
        read_envelope([*without("tm_seq"), ("tm_seq", number.encode())], b"{}")
    with pytest.raises(EnvelopeError, match="tm_origin"):
        read_envelope([*without("tm_origin"), ("tm_origin", f"0:{number}:0".encode())], b"{}")


@given(
    st.dictionaries(
        st.sampled_from(["ce_specversion", "ce_id", "ce_type", "ce_time", "traceparent", "tm_origin", "tm_seq"]),
        st.binary(max_size=30) | st.text(max_size=30).map(str.encode) | st.just(b"1.0"),
    )
)
def test_garbage_raises_nothing_else(changed: dict[str, bytes]) -> None:
    """Whatever a stranger writes into the headers is refused, or read."""
    with suppress(EnvelopeError):
        read_envelope([*(dict(FULL.headers()) | changed).items()], None)


@given(INSTANTS)
def test_times_survive_their_text(us: int) -> None:
    assert parse_time(format_time(us)) == us
