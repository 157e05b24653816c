"""The sources of all pipelines together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tidemill_contracts import PipelineSpec
from tidemill_ingestion.domain.source import Source


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Sources by name; `disputed` names those that two pipelines declare differently, where the first one counts."""

    sources: Mapping[str, Source] = field(default_factory=dict)
    disputed: tuple[str, ...] = ()


def catalogue(specs: Iterable[PipelineSpec], before: Mapping[str, Source]) -> Catalogue:
    """Every source once, by the name order of the pipelines; one that stayed the same is the object of `before`."""
    sources: dict[str, Source] = {}
    disputed: list[str] = []
    for spec in sorted(specs, key=lambda each: each.name):
        for name, source in spec.sources.items():
            known = sources.get(name)
            if known is None:
                old = before.get(name)
                same = old is not None and (old.spec, old.partitions) == (source, spec.partitions)
                sources[name] = old if same and old else Source.compile(name, source, spec.partitions)
            elif (known.spec, known.partitions) != (source, spec.partitions):
                disputed.append(name)
    return Catalogue(sources, tuple(sorted(set(disputed))))
