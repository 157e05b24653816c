"""Clients that ask until they are answered, and what the log must hold of it afterwards."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx
from serving_cases import HOUR_US, T0_US, inputs, linear, released
from serving_stack import Stack, until

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import Prediction
from tidemill_contracts.ids import prediction_id

PAUSE_S = 0.02


async def begin(stack: Stack) -> str:
    """One release that answers, one known entity, a watermark; the digest of the model."""
    digest = stack.artifacts.put(linear(stack.spec.feature_names()))
    await stack.vector("by-carrier", "AA", [12.5, 3.0], revision=7)
    await stack.watermark(T0_US + HOUR_US)
    await stack.release(released(stack.spec, 1, digest))
    await stack.until_status(ready=True, epoch=1, progress_us=T0_US + HOUR_US)
    return digest


class Load:
    """Clients that ask again with the same id until they have an answer. `once` are ids that were asked one time."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.answers, self.failures = stack, dict[str, dict[str, Any]](), Counter[str]()
        self.once = set[str]()
        self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, clients: int, *, once: int = 0, prefix: str = "") -> None:
        """So many clients, and `once` more that give up at the first failure; ids begin with `prefix`."""
        self._tasks = [asyncio.ensure_future(self._client(f"{prefix}{number}")) for number in range(clients)]
        self._tasks += [asyncio.ensure_future(self._hasty(f"{prefix}hasty-{number}")) for number in range(once)]

    async def stop(self) -> None:
        """After the answers under way."""
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def until_more(self, count: int) -> None:
        """Until so many more answers have come."""
        enough = len(self.answers) + count
        await until(lambda: len(self.answers) >= enough, f"{count} more answers")

    async def _client(self, name: str) -> None:
        count = 0
        while not self._is_over:
            identity = f"{name}-{count}"
            count += 1
            self.answers[identity] = await self.ask(identity)

    async def _hasty(self, name: str) -> None:
        count = 0
        while not self._is_over:
            identity = f"{name}-{count}"
            count += 1
            self.once.add(identity)
            answer = await self._try(identity)
            if answer is None:
                await asyncio.sleep(PAUSE_S)
            else:
                self.answers[identity] = answer

    async def ask(self, identity: str) -> dict[str, Any]:
        """The answer, whatever it takes."""
        while True:
            answer = await self._try(identity)
            if answer is not None:
                return answer
            await asyncio.sleep(PAUSE_S)

    async def _try(self, identity: str) -> dict[str, Any] | None:
        try:
            answer = await self.stack.predict(inputs(flight=f"F-{identity}"), id=identity)
        except httpx.TransportError as error:
            self.failures[type(error).__name__] += 1
            return None
        if answer.status_code == 200:
            found: dict[str, Any] = answer.json()
            return found
        self.failures[str(answer.status_code)] += 1
        return None


async def check_log(stack: Stack, answers: dict[str, dict[str, Any]], *, once: Sequence[str] = ()) -> None:
    """Every answer is in the topic once, with what was answered; origins rise in each partition.

    Nothing else is there but ids of `once`, which were asked and may have been answered to nobody: each once or not.
    """
    await until(lambda: _is_shipped(stack, at_least=len(answers)), "everything is shipped", deadline_s=120)
    if not once:
        await stack.until_status(answered=len(answers), shipped=len(answers))
    check_records(stack, await stack.logged(), answers, once=once)


def check_records(
    stack: Stack, records: Sequence[tuple[int, Envelope]], answers: dict[str, dict[str, Any]], *, once: Sequence[str]
) -> None:
    """As `check_log` for records that were read before."""
    predictions = [Prediction.read(envelope.data) for _, envelope in records if envelope.type == Prediction.TYPE]
    logged = {str(prediction.prediction_id): prediction for prediction in predictions}
    counts = Counter(envelope.id for _, envelope in records)
    assert max(counts.values()) == 1
    answered = {answer["prediction_id"] for answer in answers.values()}
    assert logged.keys() >= answered
    assert logged.keys() - answered <= {str(prediction_id(stack.spec.name, identity)) for identity in once}
    for answer in answers.values():
        record = logged[answer["prediction_id"]]
        assert (record.score, record.epoch, record.degraded) == (answer["score"], answer["epoch"], answer["degraded"])
    highest: dict[tuple[int, int], int] = {}
    for partition, envelope in records:
        assert envelope.origin is not None
        identity, number, _ = envelope.origin
        assert number > highest.get((partition, identity), -1)
        highest[partition, identity] = number


async def _is_shipped(stack: Stack, *, at_least: int) -> bool:
    found = await stack.status()
    return bool(found) and found["answered"] == found["spooled"] == found["shipped"] >= at_least
