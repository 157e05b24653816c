"""Whom a key belongs to, and the mix of members, bit for bit by a loop over plain floats."""

from hashlib import blake2b

import numpy as np
import pytest

from tidemill_engine.rollout import bound, mix, mix_one, point

KEYS = [f"key-{number}" for number in range(20_000)]


def test_a_mix_is_the_same_bits_as_a_loop_over_floats_in_whatever_batches() -> None:
    made = np.random.default_rng(3)
    for members in (1, 2, 3, 7, 40):
        table = made.random((members, 500))
        table[made.random(table.shape) < 0.2] = np.nan
        weights = made.random(members).tolist()
        whole = mix(list(table), weights)
        halves = np.concatenate([mix(list(table[:, :123]), weights), mix(list(table[:, 123:]), weights)])
        assert whole.tobytes() == halves.tobytes()
        for row in range(table.shape[1]):
            scores = [None if value != value else value for value in table[:, row].tolist()]  # noqa: PLR0124 - NaN
            alone = mix_one(scores, weights)
            assert (alone is None) == bool(np.isnan(whole[row]))
            assert alone is None or alone == whole[row]


def test_who_has_no_score_or_no_weight_takes_no_part() -> None:
    half, nothing = np.array([0.5, np.nan]), np.array([np.nan, np.nan])
    assert mix([half, nothing], [0.3, 9.0]).tolist()[0] == 0.5
    assert np.isnan(mix([half, nothing], [0.3, 9.0])[1])
    assert mix_one([0.5], [0.0]) is None
    assert np.isnan(mix([half], [0.0])).all()


def test_a_point_is_what_its_description_says() -> None:
    assert point("s", "k") == int.from_bytes(blake2b(b"s\x00k", digest_size=8).digest(), "big")
    assert (bound(0.5), bound(1.0)) == (2**63, 2**64)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_an_arm_has_its_share_of_the_keys_and_only_grows(share: float) -> None:
    mine = {key for key in KEYS if point("a", key) < bound(share)}
    assert len(mine) / len(KEYS) == pytest.approx(share, abs=4 * (share * (1 - share) / len(KEYS)) ** 0.5)
    assert mine <= {key for key in KEYS if point("a", key) < bound(min(1.0, share + 0.05))}


def test_another_salt_draws_other_keys() -> None:
    first, second = ({key for key in KEYS if point(salt, key) < bound(0.1)} for salt in ("a", "b"))
    assert len(first & second) / len(first) == pytest.approx(0.1, abs=0.05)
