"""Logs and angle files joined with the images that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aetlab.core.errors import SeriesError
from aetlab.series.angles import ANGLE_FILES, read_angles
from aetlab.series.frames import FrameInfo, FrameSource
from aetlab.series.serialem import Mdoc, MdocFrame, read_mdoc

_TILT_ROUNDING_DEG, _DEFOCUS_ROUNDING_NM = 0.05, 0.5


@dataclass(frozen=True)
class Described:
    """A file of images with what its own header and its log and angle files say.

    ``times`` are those of the exposures in seconds, None where not known.
    """

    source: FrameSource
    infos: tuple[FrameInfo, ...]
    times: tuple[float | None, ...]
    pixel_A: tuple[float, float] | None
    header: dict[str, Any]
    notes: tuple[str, ...]


def describe(sources: Sequence[FrameSource], logs: Sequence[Path], angles: Sequence[Path]) -> list[Described]:
    """Return all files of images with what logs (.mdoc) and angle files (.rawtlt, .tlt) say of them.

    If none of a kind is given, one with the name of a stack, in its folder, is taken. Angle files overrule logs, which
    overrule the headers of the images.

    Raises
    ------
    SeriesError
        If a given file fits none of the images, or holds another number of them.
    """
    described = [_from_header(source) for source in sources]
    for path in logs:
        described = _join_log(described, read_mdoc(path), given=True)
    for i, source in enumerate(sources):
        for path in [] if logs else _next_to(source.path, (".mdoc",)):
            try:
                described = _join_log(described, read_mdoc(path), given=False)
            except SeriesError as error:
                described[i] = _note(described[i], f"{path.name}, next to {source.path.name}, is left out: {error}")
    for path in angles:
        described = _join_given_angles(described, path)
    for i, source in enumerate(sources):
        for path in [] if angles else _next_to(source.path, ANGLE_FILES)[:1]:
            described[i] = _join_found_angles(described[i], path)
    return described


def _from_header(source: FrameSource) -> Described:
    return Described(source, tuple(source.infos), (None,) * source.n_frames, source.pixel_A, dict(source.header),
                     tuple(source.notes))


def _next_to(path: Path, endings: Sequence[str]) -> list[Path]:
    """Files of the endings with the name of an image file, with or without its own ending."""
    names = [path.with_name(path.name + ending) for ending in endings] + [path.with_suffix(end) for end in endings]
    return [name for name in names if name.is_file()]


def _note(described: Described, *lines: str) -> Described:
    return replace(described, notes=(*described.notes, *lines))


def _join_log(described: list[Described], log: Mdoc, *, given: bool) -> list[Described]:
    joined = list(described)
    own = {frame.image.replace("\\", "/").split("/")[-1]: frame for frame in log.frames if frame.index is None}
    if own:
        matched = [i for i, item in enumerate(joined) if item.source.path.name in own and item.source.n_frames == 1]
        for i in matched:
            joined[i] = _apply_log(joined[i], log, [own[joined[i].source.path.name]], given=given)
        if given and not matched:
            raise SeriesError(f"{log.path} describes files that are not given, such as {next(iter(own))}")
        return joined
    place = _stack_of(joined, log)
    if place is None:
        raise SeriesError(f"{log.path} describes {log.image_file or 'a stack'}, which is not given")
    item, frames = joined[place], {frame.index: frame for frame in log.frames}
    name, n, size = item.source.path.name, item.source.n_frames, item.source.shape_xy
    reason = ""
    if set(frames) != set(range(n)):
        reason = f"{log.path.name} describes {len(frames)} images, {name} holds {n}"
    elif log.size_xy is not None and log.size_xy != size:
        reason = (f"{log.path.name} describes images of {log.size_xy[0]} x {log.size_xy[1]} pixels, {name} holds "
                  f"{size[0]} x {size[1]}")
    if reason and given:
        raise SeriesError(reason)
    joined[place] = _note(item, f"{reason}; it is left out") if reason else _apply_log(
        item, log, [frames[k] for k in range(n)], given=given)
    return joined


def _stack_of(described: list[Described], log: Mdoc) -> int | None:
    stem = log.path.name[:-len(".mdoc")]
    for i, item in enumerate(described):
        name = item.source.path.name
        if stem in (name, Path(name).stem) or log.image_file.replace("\\", "/").split("/")[-1] == name:
            return i
    return 0 if len(described) == 1 else None


def _apply_log(item: Described, log: Mdoc, frames: list[MdocFrame], *, given: bool) -> Described:
    notes = [*log.notes, f"{log.path.name}{'' if given else ', found next to it,'} describes {item.source.path.name}"]
    infos = []
    for info, frame in zip(item.infos, frames):
        infos.append(replace(info, tilt_deg=_first(frame.tilt_deg, info.tilt_deg),
                             defocus_nm=_first(frame.defocus_nm, info.defocus_nm),
                             dose_e_A2=_first(frame.dose_e_A2, info.dose_e_A2)))
    for name, rounding in (("tilt_deg", _TILT_ROUNDING_DEG), ("defocus_nm", _DEFOCUS_ROUNDING_NM)):
        notes += _disagreement(log.path.name, name, rounding, infos, item.infos)
    pixel_A = item.pixel_A
    if log.pixel_A is not None:
        if pixel_A is None or (pixel_A == (1.0, 1.0) and log.pixel_A != 1.0):
            pixel_A = (log.pixel_A, log.pixel_A)
            notes.append(f"{log.path.name}: pixel {log.pixel_A:g} Å; the header of {item.source.path.name} gives none")
        elif abs(log.pixel_A / pixel_A[0] - 1) > 1e-3:
            notes.append(f"{item.source.path.name}: its pixel of {pixel_A[0]:.5g} Å is used; {log.path.name} says "
                         f"{log.pixel_A:.5g} Å")
    return replace(item, infos=tuple(infos), times=tuple(frame.time for frame in frames), pixel_A=pixel_A,
                   header={**item.header, **log.header}, notes=(*item.notes, *notes))


def _join_given_angles(described: list[Described], path: Path) -> list[Described]:
    values, notes = read_angles(path)
    joined = list(described)
    joined[0] = _note(joined[0], *notes)
    stem = path.stem
    of_stem = [i for i, item in enumerate(joined) if stem in (item.source.path.stem, item.source.path.name)]
    total = sum(item.source.n_frames for item in joined)
    if len(of_stem) == 1 and len(values) == joined[of_stem[0]].source.n_frames:
        joined[of_stem[0]] = _join_angles(joined[of_stem[0]], path, values, path.name)
        return joined
    if len(values) != total:
        n = joined[of_stem[0]].source.n_frames if len(of_stem) == 1 else total
        raise SeriesError(f"{path} holds {len(values)} angles, the files hold {n} images")
    start = 0
    for i, item in enumerate(joined):
        joined[i] = _join_angles(item, path, values[start:start + item.source.n_frames], path.name)
        start += item.source.n_frames
    return joined


def _join_found_angles(item: Described, path: Path) -> Described:
    name = item.source.path.name
    try:
        values, _ = read_angles(path)
    except SeriesError as error:
        return _note(item, f"{path.name}, next to {name}, is left out: {error}")
    if len(values) != item.source.n_frames:
        return _note(item, f"{path.name}, next to {name}, is left out: {len(values)} angles, {item.source.n_frames} "
                           "images")
    return _join_angles(item, path, values, f"{path.name}, found next to it")


def _join_angles(item: Described, path: Path, values: list[float], name: str) -> Described:
    infos = tuple(replace(info, tilt_deg=value) for info, value in zip(item.infos, values))
    notes = _disagreement(path.name, "tilt_deg", _TILT_ROUNDING_DEG, infos, item.infos)
    return _note(replace(item, infos=infos), f"{item.source.path.name}: tilt angles from {name}", *notes)


def _disagreement(name: str, field: str, rounding: float, new: Sequence[FrameInfo],
                  old: Sequence[FrameInfo]) -> list[str]:
    apart = []
    for after, before in zip(new, old):
        a, b = getattr(after, field), getattr(before, field)
        if a is not None and b is not None and abs(a - b) > rounding:
            apart.append(f"{before.name}: {a:g} against {b:g}")
    if not apart:
        return []
    return [f"{name}: {field} of {len(apart)} of {len(new)} images differs from what was known; {name} is used "
            f"({'; '.join(apart[:3])}{'; …' if len(apart) > 3 else ''})"]


def _first(value: float | None, otherwise: float | None) -> float | None:
    return otherwise if value is None else value
