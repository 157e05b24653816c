"""Labelled rows in columns, in the order of the merge, with a digest that names exactly these rows."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]
Texts = npt.NDArray[np.str_]


@dataclass(frozen=True, slots=True, eq=False)
class Origins:
    """Where N rows come from: ids of predictions [N], source partitions and dense numbers of label events [N]."""

    predictions: Texts
    partitions: Ints
    seqs: Ints

    def take(self, index: npt.NDArray[np.int64] | slice) -> "Origins":
        """Those at `index`."""
        return Origins(self.predictions[index], self.partitions[index], self.seqs[index])


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """N labelled rows: times of label [N] in us, float32 inputs [N, F], labels [N] of 0 and 1, segments [N] by name.

    `origins` are there for rows of logged predictions.
    """

    labelled_us: Ints
    features: Float32s
    labels: Floats
    segments: dict[str, Texts]
    origins: Origins | None = None

    def __len__(self) -> int:
        return len(self.labelled_us)

    def take(self, index: npt.NDArray[np.int64] | slice) -> "Rows":
        """The rows at `index`."""
        segments = {name: values[index] for name, values in self.segments.items()}
        origins = None if self.origins is None else self.origins.take(index)
        return Rows(self.labelled_us[index], self.features[index], self.labels[index], segments, origins)

    def digest(self) -> str:
        """SHA-256 over the columns' bytes; a null is one bit pattern, whatever NaN it came as."""
        features = np.where(np.isnan(self.features), np.float32(np.nan), self.features)
        digest = hashlib.sha256(f"{self.features.shape}".encode())
        for column in (self.labelled_us, features, self.labels):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def concatenate(parts: Sequence[Rows]) -> Rows:
    """All rows of the parts, in order, with their origins if all have them; raises IndexError without parts."""
    names, origins = parts[0].segments, [part.origins for part in parts if part.origins is not None]
    return Rows(
        np.concatenate([part.labelled_us for part in parts]),
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        {name: np.concatenate([part.segments[name] for part in parts]) for name in names},
        _concatenate(origins) if len(origins) == len(parts) else None,
    )


def _concatenate(parts: Sequence[Origins]) -> Origins:
    return Origins(
        np.concatenate([part.predictions for part in parts]),
        np.concatenate([part.partitions for part in parts]),
        np.concatenate([part.seqs for part in parts]),
    )
