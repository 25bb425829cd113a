"""The vertex through three values, against parabolas whose vertex is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aetlab.core.parabola import vertex


@given(place=st.floats(-0.5, 0.5), height=st.floats(-1e3, 1e3), bend=st.floats(0.01, 100),
       sign=st.sampled_from([1, -1]))
def test_a_parabola_gives_its_own_vertex(place: float, height: float, bend: float, sign: int) -> None:
    before, here, after = (height + sign * bend * (k - place) ** 2 for k in (-1, 0, 1))
    found = vertex(before, here, after)
    assert found.place == pytest.approx(place, abs=1e-9 * (1 + abs(height) / bend))
    assert here + found.rise == pytest.approx(height, abs=1e-9 * (abs(height) + bend))


def test_three_values_by_hand() -> None:
    # 8 - 2 (x - 1/4)² at -1, 0, 1
    assert vertex(4.875, 7.875, 6.875) == (0.25, 0.125)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_keep_their_precision(dtype: type) -> None:
    rows = [4.875, -4.875, 1, 0], [7.875, -7.875, 1, 2], [6.875, -6.875, 1, 2]
    before, here, after = (np.array(row, dtype) for row in rows)
    found = vertex(before, here, after)
    np.testing.assert_array_equal(found.place, [0.25, 0.25, 0, 0.5])
    np.testing.assert_array_equal(found.rise, [0.125, -0.125, 0, 0.25])
    assert found.place.dtype == found.rise.dtype == dtype


@pytest.mark.parametrize("values", [(-math.inf, 1.0, 0.5), (-math.inf, 1.0, -math.inf), (1.0, 1.0, 1.0),
                                    (math.nan, 1.0, 0.0), (math.inf, math.inf, math.inf)])
def test_without_a_vertex_the_middle_is_taken(values: tuple[float, float, float]) -> None:
    assert vertex(*values) == (0, 0)
    assert [float(part[0]) for part in vertex(*(np.array([value]) for value in values))] == [0, 0]
