"""The flags of ``python -m aetlab.run``, and what of them Hydra gets."""

from __future__ import annotations

import pytest

from aetlab.cli.flags import read_flags
from aetlab.spec import SpecError


def test_words_and_flags_come_in_any_order() -> None:
    flags = read_flags(["dose=inf", "-m", "tilts=-70:70:2", "--estimate", "~align"])
    assert flags.words == ("dose=inf", "tilts=-70:70:2", "~align")
    assert flags.multirun and flags.estimate and not flags.asks_hydra


@pytest.mark.parametrize(("argv", "passed_on"), [
    (["--cfg", "job", "-p", "dose", "--resolve"], ["--cfg=job", "--package=dose", "--resolve"]),
    (["-c", "hydra"], ["--cfg=hydra"]),
    (["--info"], ["--info=all"]),
    (["-i", "plugins"], ["--info=plugins"]),
    (["-sc", "query=bash"], ["--shell-completion"]),
    (["--hydra-help"], ["--hydra-help"]),
    (["-m", "seed=1,2"], []),
])
def test_hydra_answers_its_own_flags(argv: list[str], passed_on: list[str]) -> None:
    flags = read_flags(argv)
    assert flags.for_hydra() == passed_on and flags.asks_hydra == bool(passed_on)


@pytest.mark.parametrize(("argv", "told"), [
    (["--multi"], "--multi cannot be used: choose from --run, --multirun,"),
    (["--config-path=x"], "--config-path=x cannot be used"),
    (["--cfg"], "--cfg/-c: expected one argument"),
    (["--cfg", "all", "--info"], "--cfg and --info cannot be used together"),
    (["--estimate", "--cfg", "job"], "--estimate and --cfg cannot be used together"),
    (["--resolve"], "--resolve cannot be used without --cfg"),
    (["--config-dir", "nowhere"], "--config-dir=nowhere cannot be used: there is no such folder"),
])
def test_wrong_flags_are_refused_in_one_line(argv: list[str], told: str) -> None:
    with pytest.raises(SpecError) as refusal:
        read_flags(argv)
    assert told in str(refusal.value) and "\n" not in str(refusal.value)
