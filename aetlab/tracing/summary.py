"""Lines on a tracing: the sites that rules removed, the names that are not decided, and why there are no atoms."""

from __future__ import annotations

import numpy as np

from aetlab.core.backend import to_numpy
from aetlab.core.nouns import TracedAtoms, Volume
from aetlab.core.physics import SYMBOLS
from aetlab.spec import TraceSpec
from aetlab.tracing.sites import RULES
from aetlab.tracing.species import DECIDED

#: The background of a volume is an offset if the median exceeds this share of the greatest deviation from it.
OFFSET_SHARE = 0.2
#: Share of the greatest value from which a background is reported, blocks along each axis in which it is determined,
#: and the fewest voxels along an axis of a block.
_BACKGROUND_SHARE, _BLOCKS, _LEAST_VOXELS = 0.05, 3, 12
#: A voxel is hot if it exceeds its neighbours within a voxel, diagonal ones included, by this factor: atoms are wider.
HOT_FACTOR = 20.0


def describe(traced: TracedAtoms) -> list[str]:
    """Return a line on the sites that each rule removed, and one on the names if some are not decided."""
    parts = [f"{traced.removed[rule]} {meaning}" for rule, meaning in RULES.items() if traced.removed.get(rule)]
    lines = [f"{len(traced)} atoms of {traced.n_candidates} candidates; removed: {', '.join(parts) or 'none'}"]
    undecided = int(traced.species.get("n_undecided", 0))
    elements = tuple(traced.species.get("elements", ()))
    if undecided:
        names = ", ".join(SYMBOLS[number] for number in elements)
        lines.append(f"{undecided} of {len(traced)} names are below a probability of {DECIDED:g}: the signals do not "
                     f"decide between {names} there")
    absent = [number for number in elements if len(traced) and not (traced.numbers == number).any()]
    if absent and elements != (0,):
        lines.append(f"no atom is named {', '.join(SYMBOLS[number] for number in absent)}: it has none, they are too "
                     "faint, or they look like those of another element")
    no_atoms = int((traced.numbers == 0).sum()) if elements != (0,) else 0
    if no_atoms:
        lines.append(f"{no_atoms} sites are probably no atoms (number 0)")
    return lines


def explain_nothing(volume: Volume, spec: TraceSpec) -> list[str]:
    """Return reasons why a volume has no atoms that can be traced, and what to try; the settings if none is found."""
    values = to_numpy(volume.potential_V)
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return ["the volume has no finite voxel"]
    lines = describe_contrast(volume)
    highest = float(finite.max())
    if highest < spec.min_intensity_V:
        lines.append(f"its maximum of {highest:g} is below the lowest peak that counts as an atom, "
                     f"{spec.min_intensity_V:g}: lower trace.min_intensity_V (--min-intensity)")
    width_A = spec.width_start * volume.voxel_A
    return lines or [
        f"no peak of {spec.min_intensity_V:g} or more with a width near {width_A:.2f} Å is {spec.min_significance:g} "
        "times the noise: try a lower trace.min_intensity_V (--min-intensity), another width (--width-A) or a lower "
        "trace.min_significance"]


def describe_missing(volume: Volume) -> list[str]:
    """Return a line on the voxels that are not finite; empty if all are."""
    finite = np.isfinite(to_numpy(volume.potential_V))
    n_missing = finite.size - int(finite.sum())
    if not n_missing:
        return []
    return [f"{n_missing} of {finite.size} voxels ({100 * n_missing / finite.size:.2g} %) are not finite: they are "
            "missing data, which no fit uses and where no atom is found"]


def describe_contrast(volume: Volume) -> list[str]:
    """Return what is unlike a potential in V about a volume, each with what to try; empty if nothing is.

    Atoms are bright peaks of several voxels on a background near 0. Offsets, negative contrast and hot voxels are
    found.
    """
    values = to_numpy(volume.potential_V)
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return []
    low, middle, high = (float(value) + 0.0 for value in (finite.min(), np.median(finite), finite.max()))  # no -0
    if low == high:
        return [f"all of its finite voxels are {low:g}: it shows nothing; take another file, or another --dataset"]
    lines = []
    place, neighbour = _brightest(values)
    hot = high - middle > HOT_FACTOR * max(neighbour - middle, 0.0) and high - middle > middle - low
    if hot:
        without = values.copy()
        without[place] = np.nan
        high = max(float(np.nanmax(np.where(np.isfinite(without), without, np.nan))), middle)
        lines.append(f"voxel {tuple(int(i) for i in place)} (z, x, y) of {float(values[place]):g} is hot (its "
                     f"neighbours are at most {neighbour:g}): replace it, or give the lowest peak that counts as an "
                     "atom (--min-intensity)")
    if middle - low > 2 * (high - middle):
        lines.append(f"its peaks are negative (from {low:g} to {high:g}, median {middle:g}): atoms must be bright, "
                     "change the sign (multiply it by -1)")
    elif abs(middle) > OFFSET_SHARE * (high - middle):
        lines.append(f"its background is {middle:g}, not 0 (maximum {high:g}): subtract the background first")
    else:
        lines += _describe_background(values, high)
    return lines


def _describe_background(values: np.ndarray, high: float) -> list[str]:
    """Return a line if the background of a volume is not 0 everywhere; ``high`` is the greatest value of an atom.

    The background of a block is the commonest value in it, which atoms and noise do not move.
    """
    blocks = [values]
    for axis in range(3):
        n = max(min(_BLOCKS, values.shape[axis] // _LEAST_VOXELS), 1)
        blocks = [part for block in blocks for part in np.array_split(block, n, axis=axis)]
    modes = [_commonest(block[np.isfinite(block)].astype(np.float64), high) for block in blocks]
    low, top = min(modes), max(modes)
    if max(abs(low), abs(top)) <= _BACKGROUND_SHARE * high:
        return []
    where = f"is about {top:.3g}" if top - low <= _BACKGROUND_SHARE * high else f"varies from {low:.3g} to {top:.3g}"
    return [f"its background {where}, not 0 (maximum {high:g}): faint atoms can be lost and false ones appear; "
            "subtract the background first"]


def _commonest(values: np.ndarray, high: float) -> float:
    """Return the commonest of ``values`` to a hundredth of ``high``, averaged over its neighbours; 0 without values."""
    if not len(values):
        return 0.0
    counts, edges = np.histogram(values, np.linspace(-high, high, 201))
    smooth = np.convolve(counts, np.ones(5), "same")
    place = int(smooth.argmax())
    near = slice(max(place - 2, 0), place + 3)
    if not counts[near].sum():
        return float(np.median(values))
    middles = (edges[:-1] + edges[1:])[near] / 2
    return float((counts[near] * middles).sum() / counts[near].sum())


def _brightest(values: np.ndarray) -> tuple[tuple[int, ...], float]:
    """Return the place of the greatest voxel, and the greatest of its finite neighbours; its own value if it has none.
    """
    place = tuple(int(i) for i in np.unravel_index(np.argmax(np.where(np.isfinite(values), values, -np.inf)),
                                                   values.shape))
    box = tuple(slice(max(i - 1, 0), i + 2) for i in place)
    near = values[box].astype(np.float64)
    near[tuple(i - part.start for i, part in zip(place, box, strict=True))] = np.nan
    near = near[np.isfinite(near)]
    return place, float(near.max()) if len(near) else float(values[place])
