"""Settings of the regulariser; the regularisers themselves are the rows of :mod:`aetlab.methods.regularisers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aetlab.core.checks import require
from aetlab.core.setting import check_ranges, documented, setting
from aetlab.methods.regularisers import REGULARISERS
from aetlab.spec.own_settings import owners, with_own_settings

_WEIGHTED = f"reg={'|'.join(name for name, row in REGULARISERS.items() if row.weighted)}"
_OWN = {name: row.settings for name, row in REGULARISERS.items()}
#: The regularisers that read each setting that belongs to some of them alone.
OWNERS = owners(_OWN)


@documented
@dataclass(frozen=True, kw_only=True)
@with_own_settings("reg", _OWN)
class RegSpec:
    """The regulariser and its weight."""

    kind: str = setting(
        f"regulariser: {'; '.join(f'{name} ({row.meaning})' for name, row in REGULARISERS.items())}",
        choices=tuple(REGULARISERS))
    weight: float | str = setting(
        "weight; rule for rule_factor standard deviations of the noise in the gradient; auto for the weight that best "
        "predicts images left out of the fit", unit="1/V", within="[0, inf)", reads=(_WEIGHTED,), default="rule")
    rule_factor: float = setting("standard deviations of weight=rule", within="[0, inf)",
                                 reads=(_WEIGHTED, "reg.weight=rule|auto"), default=0.0)
    held_out: float = setting("share of the tilts that the reconstruction leaves out and predicts", within="[0, 0.5]",
                              default=0.0)
    iterations_factor: float = setting(
        "factor of the iterations that predict counts left out best, after which the fit ends; 0 takes "
        "engine.n_iterations", within="[0, inf)",
        reads=("dose.total_e_A2<inf", "align=false", "data=simulated|given"), default=0.0)

    def __post_init__(self) -> None:
        check_ranges("reg", self)
        if isinstance(self.weight, str):
            require(self.weight in ("rule", "auto"), "reg.weight", self.weight, "give a number, rule or auto")


def refuse_other_kind(choice: str, kind: str, content: Mapping[str, Any]) -> None:
    """Raise :class:`SpecError` for a ``choice`` of the group with the name of another regulariser than its ``kind``.

    ``content`` are the settings of the choice's file: one that belongs to other regularisers must have its default.
    """
    require(choice not in REGULARISERS or kind == choice, "reg.kind", kind,
            f"reg={choice} is the regulariser of that name; give another choice, or another name to the file")
    defaults = {field.name: field.default for field in fields(RegSpec)}
    for key, value in content.items():
        require(kind in OWNERS.get(key, (kind,)) or value == defaults[key], f"reg.{key}", value,
                f"the file of reg={choice} sets it, and only reg={'|'.join(OWNERS.get(key, ()))} reads it")
