"""Why a model said what it said: explainers are made of a model's bytes when asked for, and work beside the loop."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tidemill_engine.explain import Explainer, explainer_of
from tidemill_engine.onnx import UnsupportedModelError
from tidemill_serving.domain.extras import Seen
from tidemill_serving.domain.scoring import Weighted

KEPT = 8
Json = dict[str, Any]


class Explainers:
    """The explainers that were asked last."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        """`read` gives a model's bytes by digest."""
        self._read = read
        self._known: OrderedDict[str, Explainer | str] = OrderedDict()
        self._lock = asyncio.Lock()

    async def explain(self, seen: Sequence[Seen]) -> list[list[Json]]:
        """For each instance, and each member of its release: base value, raw score, what each feature adds to it.

        In log-odds: the base and all contributions come to the raw score, whose sigmoid is the member's probability.
        A model that was not written by the trainer has an `error` instead.
        """
        async with self._lock:  # one at a time: this may take a core for a while, and others are answered meanwhile
            return await asyncio.to_thread(self._explain, seen)

    def _explain(self, seen: Sequence[Seen]) -> list[list[Json]]:
        return [[self._one(found, member) for member in found.members] for found in seen]

    def _one(self, seen: Seen, member: Weighted) -> Json:
        about: Json = {"model": member.digest, "version": member.version, "weight": member.weight}
        explainer = self._explainer(member.digest)
        if isinstance(explainer, str):
            return about | {"error": explainer}
        found = explainer(seen.vector.astype(np.float32)[None, :])
        added = dict(zip(seen.features, found.contributions[0].tolist(), strict=True))
        return about | {"base": found.base, "raw": float(found.raw[0]), "contributions": added}

    def _explainer(self, digest: str) -> Explainer | str:
        known = self._known.get(digest)
        if known is None:
            try:
                known = explainer_of(self._read(digest))
            except UnsupportedModelError as error:
                known = str(error)
            self._known[digest] = known
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        return known
