"""Which column of a logged vector is which feature of which view, and which are expressions over the request."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.pipeline import PipelineSpec, ViewSpec

Places = NDArray[np.intp]
_REQUEST = "request."


@dataclass(frozen=True, eq=False)
class ViewColumns:
    """Columns `at` of the vector hold the features `of` of a view, places in its own vector; `is_age` marks ages."""

    view: str
    version: str
    at: Places
    of: Places
    is_age: NDArray[np.bool_]


class Layout:
    """The vectors of a release: feature names in their order, under the pipeline file it was made for."""

    def __init__(self, spec: PipelineSpec, features: Sequence[str]) -> None:
        """Raises ValueError for a feature that the pipeline file does not define."""
        self.spec, self.features = spec, tuple(features)
        self.digest = spec.vector_digest(self.features)
        places = {name: place for place, name in enumerate(features)}
        self.views = [part for view in spec.views if len((part := _columns(spec, view, places)).at)]
        self.expressions = {
            places[_REQUEST + name]: text for name, text in spec.request.features.items() if _REQUEST + name in places
        }
        known = sum(len(part.at) for part in self.views) + len(self.expressions)
        if known != len(self.features):
            raise ValueError(f"the pipeline file defines {known} of {len(self.features)} features")


def _columns(spec: PipelineSpec, view: str, places: dict[str, int]) -> ViewColumns:
    names = spec.views[view].feature_names(view)
    of = [place for place, name in enumerate(names) if name in places]
    at = [places[names[place]] for place in of]
    ages = np.array([function == "age_of_last" for function in _functions(spec.views[view])])
    return ViewColumns(view, spec.view_version(view), np.array(at, np.intp), np.array(of, np.intp), ages[of])


def _functions(view: ViewSpec) -> list[str]:
    """The function of each feature, in the order of the view's vector."""
    return [item.function for item in view.aggregations for _ in view.windows_of(item) or [""]]
