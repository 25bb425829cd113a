"""Take the digests of input files when settings are bound: they identify the run, and what is read is checked by them.

The digest of a measured series is taken where its file is read (:func:`aetlab.series.imported.bind_measured`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from aetlab.core.checks import SpecError
from aetlab.core.files import describe, file_signature, sha256
from aetlab.spec.run import RunSpec


def bind_inputs(settings: RunSpec) -> RunSpec:
    """Return settings of ``sample=file`` with the digest of their structure file; others as they are.

    Raises
    ------
    SpecError
        If the file cannot be read, or ``sample.digest`` is given and is not that of the file.
    """
    sample = settings.sample
    if sample.kind != "file" or settings.data.kind == "measured":
        return settings
    path = Path(sample.path).expanduser()
    try:
        found = _digest(path.absolute(), file_signature(path))
    except OSError as error:
        raise SpecError(f"sample.path={sample.path!r} cannot be read: {describe(error)}; give a structure "
                        "file") from None
    if sample.digest:
        require_digest("sample", sample.path, sample.digest, found)
    return replace(settings, sample=replace(sample, digest=found))


@lru_cache(maxsize=1024)
def _digest(path: Path, signature: tuple[int, ...]) -> str:
    """Return the digest of a file, which the jobs of a sweep share; every reader checks the content that it reads."""
    return sha256(path)


def require_digest(group: str, path: str, expected: str, found: str) -> None:
    """Raise :class:`SpecError` unless the digest ``found`` of an input file is the one that the settings hold."""
    if found != expected:
        raise SpecError(f"{group}.path={path!r} cannot be used: the file has changed since the settings were bound "
                        f"({group}.digest={expected[:12]}…, now {found[:12]}…); start again")
