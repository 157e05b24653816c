"""Numbers read from bytes are JSON's, rounded as every other reader rounds them; anything else is refused."""

import json
import math
import random
import struct

import numpy as np
import pytest

from tidemill_serving.domain.numbers import Places, read_arrays, scaled

SEED = 11


def read(
    *texts: bytes, heights: list[int], width: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], list[bytes | None]]:
    """Values and texts of arrays that stand in one piece of bytes, with other things between."""
    starts, raw = [], b""
    for text in texts:
        raw += b"x"
        starts.append(len(raw))
        raw += text
    values = np.full((sum(heights), width), 7, np.float32)
    found = read_arrays(Places(raw, starts, heights), values).texts
    return values, [None if text is None else bytes(text) for text in found]


def one(text: str) -> float | None:
    values, (found,) = read(f"[{text}]".encode(), heights=[1], width=1)
    return None if found is None else float(values[0, 0])


def some_number(made: random.Random) -> str:
    kind = made.randrange(5)
    if kind == 0:
        return repr(struct.unpack("<d", made.randbytes(8))[0])
    if kind == 1:
        return repr(float(struct.unpack("<f", made.randbytes(4))[0]))
    if kind == 2:
        return repr(made.uniform(-10, 10))
    if kind == 3:
        return f"{made.randrange(10 ** made.randrange(1, 19))}E{made.randrange(-60, 40):+d}"
    return f"-{made.randrange(1000)}.{made.randrange(10 ** made.randrange(1, 12)):0{made.randrange(1, 12)}d}"


def test_every_number_is_the_one_that_others_read() -> None:
    made, taken = random.Random(SEED), 0
    for _ in range(8000):
        text = some_number(made)
        found = one(text)
        if found is not None:
            taken += 1
            with np.errstate(over="ignore"):
                assert found == float(np.float32(json.loads(text))), text
    assert taken > 4000


def test_a_scaled_integer_is_the_nearest_double_or_is_left_to_others() -> None:
    made, unclear = random.Random(SEED), 0
    for _ in range(20_000):
        digits, exponent = made.randrange(1, 10 ** made.randrange(1, 19)), made.randrange(-340, 310)
        found = scaled(np.uint64(digits), exponent)
        unclear += math.isnan(found)
        assert math.isnan(found) or found == float(f"{digits}e{exponent}"), (digits, exponent)
    assert unclear < 4000  # beyond the normal numbers, for the most part
    # Half-way between two doubles, and one digit beside it.
    assert [scaled(np.uint64(2**53 + 1 + more), 0) for more in (1, 2)] == [2.0**53 + 2, 2.0**53 + 4]
    assert math.isnan(scaled(np.uint64(2**53 + 1), 0))


@pytest.mark.parametrize("text", [
    "", "-", "+1", "01", "-01", "1.", ".5", "1e", "1e+", "1e5.0", "0x1", "NaN", "Infinity", "-Infinity", "nan", "1_0",
    "1 2", "true", "null", '"1"', "[1]", "1,", ",1", "1,2", "1}", "\x0b1", "\xa01", "1\x00", "--1", "1e1e1", "1.5.5",
    "\u0661", "-0",
    "1e39", "3.5e38", "1e999", "1e99999", "123456789012345678901", "0." + "1" * 30, "1e-400",
])  # fmt: skip
def test_what_is_no_json_number_in_float32_is_refused(text: str) -> None:
    assert one(text) is None


@pytest.mark.parametrize(
    "text", ["0", "-0.0", "0e5", "1e5", "1E-5", "1e+05", " \t\r\n1\n", "9" * 17, "1e-45", "3.4028234e38"]
)
def test_what_is_one_is_taken(text: str) -> None:
    found = one(text)
    assert found is not None
    assert struct.pack("<f", found) == np.float32(float(text)).tobytes()


def test_each_text_fills_its_own_rows_and_a_bad_one_leaves_zeros() -> None:
    texts = [b"[1, 2,3,4 ]", b"[5,null]", b"[6,7]", b"[8,9", b"[1,2,3]", b"[]"]
    values, found = read(*texts, heights=[2, 1, 1, 1, 1, 1], width=2)
    assert values.tolist() == [[1, 2], [3, 4], [0, 0], [6, 7], [0, 0], [0, 0], [0, 0]]
    assert found == [b"[1,2],[3,4]", None, b"[6,7]", None, None, None]


def test_mutated_arrays_are_taken_only_where_json_has_them() -> None:
    made, taken = random.Random(SEED), 0
    for _ in range(6000):
        raw = bytearray(json.dumps([made.choice([0, 1.5, -2e-7, 12345]) for _ in range(4)]).encode())
        for _ in range(made.randrange(3)):
            raw[made.randrange(1, len(raw))] = made.choice(b'0123456789.,-+eE[] \n\x00"nN:{')
        values, (text,) = read(bytes(raw), heights=[2], width=2)
        if text is None:
            continue
        taken += 1
        upto = bytes(raw[: raw.index(b"]") + 1])
        assert values.ravel().tolist() == np.array(json.loads(upto), np.float32).tolist(), raw
        assert json.loads(b"[" + text + b"]") == [json.loads(upto)[:2], json.loads(upto)[2:]]
    assert taken > 1500
