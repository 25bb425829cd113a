"""Reasons to doubt the atoms of a run."""

from __future__ import annotations

import pytest

from aetlab.core.doubts import doubts


@pytest.mark.parametrize(("of_volume", "of_atoms", "doubtful"), [
    (1.093, 1.368, True),    # 35 % of a cluster of gold found, 59 % false
    (1.066, 1.395, True),    # ceria traced with false oxygen
    (1.113, 1.022, False),   # all atoms of a platinum particle right
    (1.537, 1.291, False),   # all atoms of palladium and gold right, electrons of a pixel 6 % off
    (0.93, 1.04, False),     # a volume that follows the noise
])
def test_atoms_that_explain_the_images_worse_than_the_volume_are_doubted(of_volume, of_atoms, doubtful):
    found = doubts({"chi_square_volume": of_volume, "chi_square_atoms": of_atoms, "refined_contrast": 0.96})
    assert [f"{of_atoms:.3f} against {of_volume:.3f}" in line for line in found] == [True] * doubtful


def test_a_contrast_that_the_named_elements_do_not_explain_is_doubted():
    assert "heavier" in doubts({"refined_contrast": 1.4})[0] and "lighter" in doubts({"refined_contrast": 0.5})[0]
    assert not doubts({"refined_contrast": 0.94}) and not doubts({})


def test_the_hand_is_doubted_where_the_mirror_image_fits_as_well_or_better():
    assert "mirror image of the atoms fits the images better" in doubts({"refined_hand": -12.0})[0]
    assert "do not tell" in doubts({"refined_hand": 1.2})[0]
    assert not doubts({"refined_hand": 9.0})
