"""The scale of the defocus against what the table gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aetlab.core.doubts import doubts
from aetlab.core.nouns import TiltSeries
from aetlab.core.poses import Poses
from aetlab.validation.defocus_scale import find_defocus_scale


def test_defoci_that_are_all_six_per_cent_off_are_told_from_heights_and_errors() -> None:
    rng, n = np.random.default_rng(0), 30
    given_A = np.array([-200.0, -450.0, -750.0])
    weight = np.ones((n, 3))
    weight[3, 1] = weight[5, 0] = weight[5, 1] = 0
    series = TiltSeries(np.ones((n, 3, 4, 4), np.float32), np.linspace(-70, 70, n), given_A, 0.5, weight=weight)
    poses = Poses.nominal(series.tilt_deg, 3)
    poses = replace(poses, defocus_A=0.06 * given_A + rng.normal(0, 20, (n, 3)),
                    shift_A=rng.normal(0, 50, (n, 3)))
    scale, error = find_defocus_scale(series, poses)
    # 20 Å of scatter over the 275, 17 and 283 Å of the planes from their mean, in 30 tilts.
    assert scale == pytest.approx(1.06, abs=3 * error) and error == pytest.approx(20 / 390 / np.sqrt(n), rel=0.4)
    line = doubts({"defocus_scale": scale, "defocus_scale_error": error})[0]
    assert "too large" in line and "times the given ones" in line
    assert not doubts({"defocus_scale": 1.039, "defocus_scale_error": 0.021})
    line, = doubts({"defocus_scale": 0.9702, "defocus_scale_error": 0.0005})
    assert "the pixel is stated 1.5 % too small" in line
    assert np.isnan(find_defocus_scale(series.select(np.arange(4)), Poses.nominal(series.tilt_deg[:4], 3))[0])
