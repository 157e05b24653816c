"""Events that were handled already: a row per consumer and event, written in the transaction of the effect."""

from uuid import UUID

from tidemill_runtime.postgres import Connection, sql

_FIRST = "INSERT INTO {schema}.inbox (consumer, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"


async def first_time(conn: Connection, schema: str, consumer: str, event_id: str | UUID) -> bool:
    """Whether `consumer` has not yet handled the event; remembered with the caller's transaction.

    A second transaction that handles the same event at the same time waits here for the first one's end.
    """
    status = await conn.execute(sql(schema, _FIRST), consumer, str(event_id))
    return not status.endswith(" 0")
