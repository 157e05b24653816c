"""Records of a topic that one service alone writes as its events."""

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

from aiokafka import ConsumerRecord

from tidemill_contracts import read_envelope
from tidemill_contracts.events.meta import Event

E = TypeVar("E", bound=Event)
_log = logging.getLogger(__name__)


def events_in(records: Iterable[ConsumerRecord], kind: type[E]) -> Iterator[E]:
    """Those of this kind, in order; what nobody can read is told in the log and left out."""
    for record in records:
        try:
            envelope = read_envelope(record.headers, record.value)
            found = kind.read(envelope.data) if envelope.type == kind.TYPE else None
        except ValueError as error:  # an envelope's or a schema's: garbage, since one service alone writes there
            _log.warning("%s/%d: offset %d: %s", record.topic, record.partition, record.offset, error)
            continue
        if found is not None:
            yield found
