"""What a new definition may not take away: a view that the release which answers reads."""

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_registry.domain.review import Standing


def missing_views(standing: Standing | None, spec: PipelineSpec) -> list[str]:
    """Views that the champion's features come from and `spec` does not define any more, sorted.

    Another version of a view is a change, which a release answers by its own rules; here only names are looked at.
    """
    if standing is None or standing.champion is None:
        return []
    champion = standing.champion
    others = [*champion.shadows, *([] if champion.challenger is None else [champion.challenger])]
    features = [*champion.features, *(name for other in others for name in other.features or ())]
    read = {name.partition(".")[0] for name in features}
    return sorted(read & set(standing.spec.views) - set(spec.views))
