"""No backend exceeds the errors in docs/accuracy.json, and the measurement finds injected errors."""

import json
from pathlib import Path

import numpy as np
import pytest

from evidence import accuracy

TABLE = json.loads((Path(__file__).parents[2] / "docs" / "accuracy.json").read_text())


def sample(dtype: str) -> np.ndarray:
    """Sort values of every exponent, which the table includes."""
    if dtype == "float32":
        return np.arange(0, 2**32, 2**16 + 1).astype(np.uint32).view(np.float32)
    return next(accuracy.iterate_chunks(dtype, 0))[:: 2**8 if dtype == "float64" else 1]


@pytest.fixture(scope="module")
def workers():
    with accuracy.start_workers(1) as pool:
        yield pool


@pytest.mark.framework("torch", "keras", "flax", "parity")
@pytest.mark.parametrize("dtype", accuracy.FORMATS)
def test_no_backend_exceeds_the_errors_of_the_table(workers, dtype: str) -> None:
    stored = {(row["dtype"], row["backend"], row["function"]): row for row in TABLE["rows"]}
    found = workers.submit(accuracy.measure, dtype, sample(dtype)).result()
    assert found or dtype == "float64"  # which needs a long double that is longer
    same = all(TABLE[key] == accuracy.describe_setting()[key] for key in ("processor", "versions"))
    for key, errors in found.items():
        backend, function = key.split("|")
        row, known = accuracy.make_row(dtype, backend, function, errors), stored[dtype, backend, function]
        for b, a in row["a_normal"].items():
            if same:
                assert a <= known["a_normal"][b], (key, b)
            elif b >= "1":  # elsewhere two u more: a tolerance that the table gives has that much room
                assert a <= known["a_normal"][b] + 2, (key, b)
        if same:
            assert all(number <= known["curve"][exponent] for exponent, number in row["curve"].items()), key
            assert row["zero"] <= known["zero"], key
            assert row["nan_lost"] <= known["nan_lost"], key
            assert row["mismatch"] <= known["mismatch"], key


def test_right_function_has_half_an_ulp_and_an_injected_error_is_located() -> None:
    x = np.linspace(-105, 90, 40_001, dtype=np.float32)  # from results of 0 to results of infinity
    exact = accuracy.Exact(x, accuracy.compute_exact("exp", x.astype(np.float64)), "float32")
    with np.errstate(over="ignore", under="ignore"):
        right = exact.values.astype(np.float32)
    errors = exact.errors(right)
    row = accuracy.make_row("float32", "numpy", "exp", errors)
    assert 0.9 < row["a_normal"]["0"] <= 1
    assert row["a"]["1"] <= 1
    assert (row["count"], row["zero"], row["flushes"], row["nan_lost"], row["mismatch"]) == (40_001, 0, False, 0, 0)

    wrong = right.copy()
    inside = (exact.values >= 2**-3) & (exact.values < 2**-2)
    wrong[inside] *= np.float32(1 + 10 * 2**-24)
    row = accuracy.make_row("float32", "numpy", "exp", exact.errors(wrong))
    curve = {int(exponent): number for exponent, number in row["curve"].items() if int(exponent) >= -126}
    assert 8 <= curve.pop(-3) <= 12  # 10, and up to 1 each for two roundings
    assert max(curve.values()) <= 1
    assert 8 <= row["a_normal"]["0"] <= 12
    assert row["a_normal"]["0"] - 8 <= row["a_normal"]["1"] <= row["a_normal"]["0"] - 4  # 1 / |exact| is 4 to 8 there
    assert row["a_normal"]["4"] <= 1  # which allows all of it


def test_flushed_and_lost_and_misplaced_values_are_counted() -> None:
    x = np.array([-100.0, -90.0, 1.0, 2.0, 100.0, np.nan], np.float32)
    exact = accuracy.Exact(x, accuracy.compute_exact("exp", x.astype(np.float64)), "float32")
    got = np.array([0.0, 0.0, np.nan, np.inf, 3e38, 1.0], np.float32)
    row = accuracy.make_row("float32", "numpy", "exp", exact.errors(got))
    assert (row["flushes"], row["nan_lost"], row["mismatch"]) == (True, 1, 3)
    assert row["a"]["0"] == pytest.approx(2**24, rel=1e-3)
    assert row["a_normal"]["0"] == 0


def test_error_far_below_u_is_measured() -> None:
    """The smallest a at b = 2 is 3 for |error| = (3 |exact| + 2) u."""
    x = np.linspace(-4, 4, 1001)
    exact = accuracy.Exact(x, accuracy.compute_exact("sigmoid", x), "float32")
    row = accuracy.make_row(
        "float32", "numpy", "sigmoid", exact.errors(exact.values + (3 * exact.values + 2) * 2.0**-24)
    )
    assert row["a"]["2"] == pytest.approx(3, rel=1e-3)
    assert row["a"]["1"] > 4
    assert row["absolute"] == pytest.approx(3 * float(exact.values.max()) + 2, rel=1e-3)
