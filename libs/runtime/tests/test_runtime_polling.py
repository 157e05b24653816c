import pytest

from tidemill_runtime.kafka import FETCH_WAIT_MS, close_client, open_consumer
from tidemill_runtime.polling import BUSY_FETCH_WAIT_MS, note_poll
from tidemill_runtime.settings import ServiceSettings

pytestmark = pytest.mark.anyio


async def test_fetches_wait_shortly_while_records_come(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer, idle = await open_consumer(settings), await open_consumer(settings)
    try:
        note_poll(consumer, found=True)
        note_poll(consumer, found=False)
        note_poll(idle, found=False)
        assert consumer._fetcher._fetch_max_wait_ms == BUSY_FETCH_WAIT_MS
        assert idle._fetcher._fetch_max_wait_ms == FETCH_WAIT_MS
        monkeypatch.setattr("tidemill_runtime.polling.BUSY_S", 0.0)
        note_poll(consumer, found=False)
        assert consumer._fetcher._fetch_max_wait_ms == FETCH_WAIT_MS
    finally:
        await close_client(consumer)
        await close_client(idle)
