"""The population test: bins, counts that add up, and alarms that need both an effect and significance."""

import json

import numpy as np
import pytest
from scipy import stats

from tidemill_engine.arrays import Float32s
from tidemill_engine.drift import HistogramReference, merge, population_test

NAMES = ["smooth", "few", "code", "nulls"]
CATEGORICAL = frozenset({"code"})


def rows(seed: int, count: int, *, shift: float = 0.0, code: float = 0.0, nulls: float = 0.1) -> Float32s:
    rng = np.random.default_rng(seed)
    table = np.column_stack(
        (
            rng.normal(size=count) + shift,
            rng.integers(0, 3, count),
            np.where(rng.random(count) < code, 99, rng.integers(0, 20, count)),
            np.where(rng.random(count) < nulls, np.nan, rng.normal(size=count)),
        )
    )
    return table.astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> HistogramReference:
    return HistogramReference.fit(rows(1, 5000), NAMES, categorical=CATEGORICAL)


def drifted(reference: HistogramReference, table: Float32s) -> list[str]:
    return [result.name for result in population_test(reference, reference.count(table)) if result.drifted]


def test_every_reference_row_has_one_bin(reference: HistogramReference) -> None:
    assert [int(counts.sum()) for counts in reference.counts] == [5000] * 4
    assert reference.rows == 5000
    assert reference.counts[0][:10].min() > 450
    assert reference.columns[1].edges == (0.0, 1.0, 2.0)
    assert int(reference.counts[3][-1]) == np.count_nonzero(np.isnan(rows(1, 5000)[:, 3]))


def test_edges_belong_to_the_bin_below(reference: HistogramReference) -> None:
    column = reference.columns[0]
    edge = np.array([column.edges[4]])
    assert column.counts(edge)[4] == 1
    assert column.counts(np.nextafter(edge, np.inf))[5] == 1
    assert column.counts(np.array([1e30, -1e30, np.nan])).tolist() == [1, *[0] * 8, 1, 1]


def test_values_never_seen_are_other(reference: HistogramReference) -> None:
    code = reference.columns[2]
    counts = code.counts(np.array([0.0, 0.5, 99.0, np.nan]))
    assert (counts[0], counts[-2], counts[-1]) == (1, 2, 1)
    assert (code.label(0), code.label(code.size - 2), code.label(code.size - 1)) == ("0", "other", "null")


def test_panes_add_up(reference: HistogramReference) -> None:
    table = rows(2, 1000)
    total = reference.empty()
    for pane in np.array_split(table, 7):
        total = merge(total, reference.count(pane))
    assert all(np.array_equal(a, b) for a, b in zip(total, reference.count(table), strict=True))


@pytest.mark.parametrize("count", [150, 1000, 50_000])
def test_the_same_population_stays_quiet_at_any_size(reference: HistogramReference, count: int) -> None:
    assert [drifted(reference, rows(seed, count)) for seed in range(2, 12)] == [[]] * 10


def test_chance_adds_nothing_to_the_effect(reference: HistogramReference) -> None:
    """Uncorrected, the index of 150 rows in ten bins is about 0.06 on average."""
    effects = [population_test(reference, reference.count(rows(seed, 150)))[0].effect for seed in range(40)]
    assert np.mean(effects) < 0.025


def test_a_shift_too_small_to_matter_stays_quiet_however_significant(reference: HistogramReference) -> None:
    result = population_test(reference, reference.count(rows(3, 200_000, shift=0.15)))[0]
    assert result.adjusted_p < 1e-6
    assert not result.drifted


@pytest.mark.parametrize(
    ("change", "name", "bin_name"),
    [({"shift": 1.0}, "smooth", "< x"), ({"code": 0.3}, "code", "other"), ({"nulls": 0.6}, "nulls", "null")],
)
def test_a_planted_change_is_found_and_named(
    reference: HistogramReference, change: dict[str, float], name: str, bin_name: str
) -> None:
    table = rows(4, 1000, **change)
    assert drifted(reference, table) == [name]
    result = next(r for r in population_test(reference, reference.count(table)) if r.drifted)
    assert bin_name in result.bin
    assert result.after > result.before


def test_a_large_effect_in_a_handful_of_rows_is_no_evidence(reference: HistogramReference) -> None:
    assert drifted(reference, rows(5, 60, shift=3.0)) == []
    assert drifted(reference, rows(5, 0)) == []


def test_chi_square_equals_the_contingency_table(reference: HistogramReference) -> None:
    window = reference.count(rows(6, 800, shift=0.2))
    result = population_test(reference, window)[0]
    table = np.stack((reference.counts[0][:-1], window[0][:-1]))
    expected = stats.chi2_contingency(table, correction=False)
    assert result.chi_square == pytest.approx(expected.statistic)
    assert result.p_value == pytest.approx(expected.pvalue)


def test_p_values_are_corrected_for_the_number_of_features() -> None:
    """Forty features at alpha 0.05: uncorrected, seven of eight quiet streams would alarm."""
    names = [f"f{i}" for i in range(40)]
    alarmed = significant = 0
    for seed in range(25):
        table = np.random.default_rng(seed).normal(size=(2000, 40)).astype(np.float32)
        wide = HistogramReference.fit(table[:1500], names)
        results = population_test(wide, wide.count(table[1500:]), effect=0.0, alpha=0.05)
        alarmed += any(result.drifted for result in results)
        significant += any(result.p_value < 0.05 for result in results)
    assert alarmed <= 4
    assert significant >= 18


def test_a_constant_or_absent_feature_is_harmless() -> None:
    table = np.column_stack((np.full(500, 3.0), np.full(500, np.nan))).astype(np.float32)
    reference = HistogramReference.fit(table, ["constant", "absent"])
    assert drifted(reference, table) == []
    assert drifted(reference, np.column_stack((np.full(500, 4.0), np.ones(500))).astype(np.float32)) == [
        "constant",
        "absent",
    ]


def test_a_reference_survives_json(reference: HistogramReference) -> None:
    restored = HistogramReference.from_dict(json.loads(json.dumps(reference.to_dict())))
    table = rows(8, 700, shift=0.5)
    assert population_test(restored, restored.count(table)) == population_test(reference, reference.count(table))


def test_what_does_not_fit_is_refused(reference: HistogramReference) -> None:
    with pytest.raises(ValueError, match="reference needs"):
        HistogramReference.fit(rows(1, 0), NAMES)
    with pytest.raises(ValueError, match="reference needs"):
        HistogramReference.fit(rows(1, 10), NAMES[:2])
    with pytest.raises(ValueError, match="rows must be"):
        reference.count(rows(1, 10)[:, :2])
    with pytest.raises(ValueError, match="do not fit"):
        population_test(reference, tuple(counts[:-1] for counts in reference.counts))
