"""The order of the tests, which lets several processes end together."""

from __future__ import annotations

import pytest

from tests.conftest import deal


@pytest.mark.parametrize(("n_items", "n_long", "n_runs"), [(20, 7, 3), (10, 0, 3), (9, 4, 2), (5, 3, 1), (0, 0, 4)])
def test_every_run_begins_with_its_share_of_the_long_items(n_items: int, n_long: int, n_runs: int) -> None:
    items = list(range(n_items))
    deal(items, n_long, n_runs)
    assert sorted(items) == list(range(n_items))
    # As pytest-xdist shares them: each process takes an equal part of what the earlier ones have left.
    left, runs = items, []
    for i in range(n_runs):
        runs.append(left[:len(left) // (n_runs - i)])
        left = left[len(runs[-1]):]
    for i, run in enumerate(runs):
        share = list(range(i, n_long, n_runs))
        assert run[:len(share)] == share and all(item >= n_long for item in run[len(share):])


def test_no_item_is_lost_where_most_are_long() -> None:
    for n_long in range(6):
        items = list(range(6))
        deal(items, n_long, 4)
        assert sorted(items) == list(range(6))
