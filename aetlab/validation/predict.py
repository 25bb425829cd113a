"""Predict the images of the final models of a run: its volume, and its refined atoms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.nouns import Reconstruction, RefinedAtoms, TiltSeries, Volume
from aetlab.core.tiling import cut_poses
from aetlab.forward.posed_images import predict_amplitudes
from aetlab.reconstruction.refined_tiles import cut_refined
from aetlab.reconstruction.tiles import settings_of, tiles_of
from aetlab.refinement.predicted import predict_images
from aetlab.spec import RunSpec
from aetlab.spec.derived import averages_pixels


class Predict(Protocol):
    """Yield the amplitudes (F, X, Y) that a model predicts for each tilt of ``series``.

    ``numbers`` are the atomic numbers of the elements. ``series`` is divided by the brightness that the alignment found
    where the model is atoms.
    """

    def __call__(self, settings: RunSpec, series: TiltSeries, model: Reconstruction | RefinedAtoms,
                 numbers: tuple[int, ...]) -> Iterable[np.ndarray]: ...


def predict_whole(settings: RunSpec, series: TiltSeries, model: Reconstruction | RefinedAtoms,
                  numbers: tuple[int, ...]) -> Iterable[np.ndarray]:
    """Yield the amplitudes (F, X, Y) of the whole images of each tilt."""
    if isinstance(model, Reconstruction):
        return predict_amplitudes(series, to_numpy(model.volume.potential_V), model.poses,
                                  microscope=settings.microscope, n_layers_per_slice=settings.binning.n_layers,
                                  rotation=settings.engine.rotation)
    return predict_images(series, settings.scale.shape_zxy, model, numbers, settings.refine,
                          microscope=settings.microscope, n_layers_per_slice=settings.binning.n_layers,
                          averaged=averages_pixels(settings))


@dataclass(frozen=True)
class InTiles:
    """Predict the images tile by tile: the rows of the core of each from the volume or atoms of its rows.

    ``images`` (T, F, X, Y) receives the amplitudes.
    """

    images: np.ndarray

    def __call__(self, settings: RunSpec, series: TiltSeries, model: Reconstruction | RefinedAtoms,
                 numbers: tuple[int, ...]) -> Iterable[np.ndarray]:
        """Yield the amplitudes (F, X, Y) of each tilt."""
        voxel_A = settings.scale.voxel_A
        for tile in tiles_of(settings):
            part: Reconstruction | RefinedAtoms
            if isinstance(model, RefinedAtoms):
                part = cut_refined(settings, tile, model)
            else:
                potential_V = np.ascontiguousarray(model.volume.potential_V[..., tile.rows])
                poses = None if model.poses is None else cut_poses(model.poses, tile.offset_A(voxel_A))
                part = replace(model, volume=Volume(potential_V, voxel_A), poses=poses)
            of_tile = predict_whole(settings_of(settings, tile), series.cut(tile.rows), part, numbers)
            for i_tilt, amplitudes in enumerate(of_tile):
                self.images[i_tilt, ..., tile.first:tile.stop] = amplitudes[..., tile.core]
        return iter(self.images)
