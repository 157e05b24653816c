"""Views and their versions: which are read, and that a release does not answer before its own have got as far."""

from tidemill_serving.domain.desk import Desk, Loaded
from tidemill_serving.domain.replica import Place, Replica


def wants(desk: Desk) -> dict[Place, int]:
    """(view, version) to width, of the pipeline file and of every release on hand."""
    champion = desk.champion
    releases = [found for found in (champion.active, champion.previous, *champion.staged) if found is not None]
    wanted: dict[Place, int] = {}
    for spec, places in [(desk.spec, desk.places), *((found.spec, found.plan.places) for found in releases)]:
        wanted |= {place: len(spec.views[place[0]].feature_names(place[0])) for place in places}
    return wanted


def advance(desk: Desk, replica: Replica) -> Loaded | None:
    """Let the highest release answer that may; None when there is none."""
    if not desk.champion.staged:
        return None
    watermark, active = desk.watermark_us(replica), desk.champion.active

    def is_ready(loaded: Loaded) -> bool:
        """Event time must not fall when other versions of views are read from then on."""
        if active is None or loaded.plan.places == active.plan.places:
            return True
        own = replica.watermark_us(loaded.plan.places)
        return own is not None and (watermark is None or own >= watermark)

    return desk.champion.advance(watermark, is_ready)
