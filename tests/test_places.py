"""Places of the sites of a path through the posterior, and how probable their atoms are."""

from __future__ import annotations

import numpy as np

from aetlab.refinement.naming import with_presence
from aetlab.refinement.places import N_PLACES, Places, Tally, presence_of_atoms, presence_on_path


def test_a_tally_reports_the_most_frequent_place() -> None:
    """A site that is at A for 6 steps, at B for 3 and away for 1, and one that is never there."""
    home_A = np.zeros((2, 3))
    b_A = np.array([[1.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    tally = Tally(home_A)
    moves_A = np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1])
    for move in moves_A:
        tally.add(home_A, np.full((2, 3), move), np.full((2, 3), 0.05), np.array([True, False]))
    for _ in range(3):
        tally.add(b_A, np.zeros((2, 3)), np.zeros((2, 3)), np.array([True, False]))
    tally.add(b_A, np.zeros((2, 3)), np.zeros((2, 3)), np.array([False, False]))
    found = tally.places()
    np.testing.assert_allclose(found.presence, [0.6, 0.0])
    np.testing.assert_allclose(found.positions_A[0], 0.05)
    np.testing.assert_allclose(found.spread_A2[0], 0.01)


def test_a_place_that_is_left_and_found_again_is_one_and_near_ones_are_joined() -> None:
    tally, there = Tally(np.zeros((1, 3))), np.ones(1, bool)
    for x in (0.0, 2.0, 0.2, 0.7, 2.1, 0.1):  # 0.7 is another centre, but its mean lies within 0.8 Å of the others
        tally.add(np.array([[x, 0.0, 0.0]]), np.zeros((1, 3)), np.zeros((1, 3)), there)
    found = tally.places()
    np.testing.assert_allclose(found.presence, 4 / 6)
    np.testing.assert_allclose(found.positions_A[0], [np.mean([0.0, 0.2, 0.7, 0.1]), 0, 0])


def test_the_rarest_place_gives_way() -> None:
    tally, there = Tally(np.zeros((1, 3))), np.ones(1, bool)
    for i, n in enumerate((3, 5, 1, 2, 4)):
        for _ in range(n):
            tally.add(np.array([[2.0 * i, 0.0, 0.0]]), np.zeros((1, 3)), np.zeros((1, 3)), there)
    assert N_PLACES == 4
    np.testing.assert_allclose(tally.places().presence, 5 / 15)
    np.testing.assert_allclose(tally.places().positions_A[0], [2.0, 0, 0])


def test_sites_that_take_turns_at_one_place_are_one_atom() -> None:
    positions_A = np.array([[0.0, 0, 0], [0.3, 0, 0], [5.0, 0, 0], [5.0, 0.6, 0], [5.0, 1.2, 0], [9.0, 0, 0]])
    presence = presence_of_atoms(Places(positions_A, np.zeros((6, 3)), np.array([0.7, 0.4, 0.3, 0.4, 0.1, 0.0])))
    np.testing.assert_allclose(presence, [1.0, 0, 0, 0.8, 0, 0])


def test_no_count_of_steps_states_that_an_atom_is_certain() -> None:
    """A site that never left its atom but may, one that was not drawn, one that left, and three in turns."""
    positions_A = np.outer([0.0, 5.0, 9.0, 14.0, 14.3, 14.6], [1.0, 0.0, 0.0])
    places = Places(positions_A, np.zeros((6, 3)), np.array([1.0, 1.0, 0.7, 0.6, 0.4, 0.2]))
    presence = presence_on_path(places, np.array([0.06, 0.0, 0.1, 0.1, 0.1, 0.1]), 100)
    np.testing.assert_allclose(presence, [0.94, 0.995, 0.7, 0.995, 0, 0])


def test_presence_replaces_the_odds_of_an_atom_and_keeps_those_of_elements() -> None:
    named = np.array([[0.6, 0.2, 0.2], [0.01, 0.03, 0.96], [0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    posterior = with_presence(named, np.array([[0.0, 0.0], [0.0, 0.0], [0.1, 0.9], [0.0, 0.0]]),
                              np.array([0.4, 1.0, 0.5, np.nan]))
    np.testing.assert_allclose(posterior, [[0.3, 0.1, 0.6], [0.25, 0.75, 0.0], [0.05, 0.45, 0.5], named[3]])
