"""Lengths as files write them."""

from __future__ import annotations

#: Å in each unit of length; symbols in lower case, spellings of several programs.
_ANGSTROM = {"å": 1.0, "a": 1.0, "angstrom": 1.0, "ångström": 1.0, "nm": 10.0, "n_m": 10.0, "nanometer": 10.0,
             "pm": 0.01, "p_m": 0.01, "um": 1e4, "µm": 1e4, "μm": 1e4, "u_m": 1e4, "micron": 1e4, "mm": 1e7,
             "m": 1e10}
_RECIPROCAL = ("1/", "^-1", "-1", "⁻¹", "mrad", "rad")


def length_A(unit: object) -> float | None:
    """Return the Å in a ``unit`` of length, None for any other."""
    text = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
    return _ANGSTROM.get(text.strip().strip("[]").replace("\u212b", "å").casefold())


def is_reciprocal(unit: object) -> bool:
    """Return whether a ``unit`` belongs to a diffraction pattern: an angle or one over a length."""
    text = unit.decode(errors="replace") if isinstance(unit, bytes) else str(unit)
    return any(part in text for part in _RECIPROCAL)
