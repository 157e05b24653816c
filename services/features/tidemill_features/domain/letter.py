"""What this service writes to Kafka."""

from typing import NamedTuple

from tidemill_contracts.envelope import Headers


class Letter(NamedTuple):
    """A record for one partition of a topic; a value of None deletes the key."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
