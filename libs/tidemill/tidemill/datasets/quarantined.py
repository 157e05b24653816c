"""Which events are quarantined, as the running stack's log tells it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

from pydantic import ValidationError

from tidemill.client.clients import Client
from tidemill.client.transport import Endpoints
from tidemill.ledger.topics import read_topic
from tidemill_contracts.events import QualityBreached, QuarantineReleased
from tidemill_contracts.topics import topic
from tidemill_engine.quarantine import Quarantine, quarantine

_EVER = 2**63 - 1


def quarantined(home: Path | None, source: str) -> Quarantine:
    """The events of a source in windows that broke a bound and that nobody has released.

    Raises TidemillError when the stack cannot be reached.
    """
    with Client(home) as client:
        endpoints = client.transport.endpoints
    with ThreadPoolExecutor(1) as pool:  # whoever asks may run a loop of their own
        breaches, released = pool.submit(lambda: asyncio.run(_told(endpoints))).result()
    return quarantine(breaches, frozenset(released), frozenset({source}), _EVER)


async def _told(endpoints: Endpoints) -> tuple[list[QualityBreached], set[UUID]]:
    breaches, released = list[QualityBreached](), set[UUID]()
    async for record in read_topic(endpoints.bootstrap(), topic("quality", prefix=endpoints.prefix)):
        word = record.envelope
        try:
            if word is not None and word.type == QualityBreached.TYPE:
                breaches.append(QualityBreached.read(word.data))
            elif word is not None and word.type == QuarantineReleased.TYPE:
                released.add(QuarantineReleased.read(word.data).quarantine_id)
        except ValidationError:
            continue  # ingestion alone writes here
    return breaches, released
