import pytest

from tidemill_runtime.errors import Configuration
from tidemill_runtime.health import Health, partition_condition
from tidemill_runtime.settings import ServiceSettings, is_loopback


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_known_is_not_ready_and_one_reason_is_enough() -> None:
    health = Health()
    assert health.ready() == (False, [])
    health.set("b", ok=True)
    health.set("a", ok=True, reason="not shown while it holds")
    ok, conditions = health.ready()
    assert (ok, [(c.name, c.reason) for c in conditions]) == (True, [("a", ""), ("b", "")])
    health.set("a", ok=False, reason="away")
    assert not health.ready()[0]
    health.drop("a")
    assert health.ready()[0]


def test_lag_without_progress_and_without_a_reason_is_stuck() -> None:
    clock = Clock()
    health = Health(stuck_after_s=100, clock=clock)
    health.progress("g", "t", 0, position=5, end=9)
    clock.now = 99
    health.progress("g", "t", 0, position=5, end=20)
    assert health.alive()[0]
    clock.now = 101
    alive, stuck = health.alive()
    assert not alive
    assert [(c.name, c.reason) for c in stuck] == [("g/t/0", "15 behind, no progress")]
    health.set(partition_condition("g", 0), ok=False, reason="Postgres is away")
    assert health.alive()[0], "a reason is given: a restart would not help"
    health.drop(partition_condition("g", 0))
    health.progress("g", "t", 0, position=6, end=20)
    assert health.alive()[0]


def test_a_partition_that_has_caught_up_or_moved_away_is_never_stuck() -> None:
    clock = Clock()
    health = Health(stuck_after_s=100, clock=clock)
    health.progress("g", "t", 0, position=9, end=9)
    health.progress("g", "t", 1, position=0, end=9)
    health.forget("g", "t", 1)
    clock.now = 1000
    assert health.alive() == (True, [])
    health.progress("g", "t", 0, position=9, end=10)
    assert health.alive()[0], "the lag is young"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.1", False), ("example.org", False)],
)  # fmt: skip
def test_a_server_that_others_reach_needs_a_key(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    fields = {"kafka": "k", "postgres": "p", "artifacts": "a", "state": "s", "host": host}
    ServiceSettings.model_validate(fields | {"api_key": "secret"}).check_exposure()
    open_to_all = ServiceSettings.model_validate(fields)
    if loopback:
        open_to_all.check_exposure()
    else:
        with pytest.raises(Configuration, match="TIDEMILL_API_KEY"):
            open_to_all.check_exposure()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"KAFKA": "k:1", "POSTGRES": "p", "ARTIFACTS": "a", "STATE": "s", "API_KEY": "hush"}.items():
        monkeypatch.setenv(f"TIDEMILL_{name}", value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    settings = ServiceSettings()
    assert (settings.kafka, settings.otlp_endpoint, settings.port) == ("k:1", "http://collector:4318", 0)
    assert "hush" not in repr(settings)
