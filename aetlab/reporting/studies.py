"""Studies: which records answer which experiments, that is the rows and panels of the paper.

An experiment is a small change of the default settings. The settings that any experiment changes are the questions; all
others (scale, engine, ...) are the circumstances. Records with equal circumstances form a study, and a record of it
answers an experiment if it agrees with it in every question. Records of another sample or microscope than the paper's
are of no study. Records that differ in the seed only are repeats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aetlab.core.inert import file_name
from aetlab.reporting.columns import LABELS, all_settings
from aetlab.reporting.stored_run import StoredRun
from aetlab.spec import RunSpec

#: Questions that a record may answer differently where none answers them exactly: for example a study with fewer
#: iterations, or with other tracing thresholds than those of the row.
NEGLIGIBLE = (
    "engine.n_iterations",
    "engine.step",
    "engine.step_decay",
    "reg.weight",
    "reg.rule_factor",
    "reg.inner_iterations",
    "reg.warm_start",
    "trace.min_intensity_V",
    "trace.min_significance",
)
#: Beginnings of the names of circumstances that a record of the paper's experiments shares with them.
OF_THE_PAPER = ("data.", "sample.", "microscope.", "simulate.kind", "align.enabled")


@dataclass(frozen=True)
class Study:
    """Records with equal circumstances.

    ``name`` can be part of a file's name. ``answers`` holds the records of each experiment, the lowest seed first.
    """

    name: str
    runs: tuple[StoredRun, ...]
    answers: dict[str, tuple[StoredRun, ...]]

    def one(self, experiment: str) -> StoredRun | None:
        """Return the record that represents ``experiment`` in figures; None where there is none."""
        return next(iter(self.answers.get(experiment, ())), None)


def flat_settings(given: StoredRun | RunSpec) -> dict[str, Any]:
    """Return the settings that determine the result, flat and hashable: ``{"dose.total_e_A2": 50000.0, ...}``."""
    if isinstance(given, StoredRun):
        seed, settings = given.spec.seed, given.all_settings
    else:
        seed, settings = given.seed, all_settings(given)
    return {"seed": seed} | {name: value for name, value in settings.items() if name not in LABELS}


def find_studies(runs: Sequence[StoredRun], experiments: Mapping[str, RunSpec], default: RunSpec) -> list[Study]:
    """Return the studies among ``runs``, the one that answers the most experiments first.

    Only records that share the circumstances :data:`OF_THE_PAPER` with the default are considered.
    """
    usual = flat_settings(default)
    asked = {name: flat_settings(spec) for name, spec in experiments.items()}
    questions = {key for settings in asked.values() for key in _different(settings, usual)}
    given = {run.identity: flat_settings(run) for run in runs}
    by_circumstances: dict[str, list[StoredRun]] = {}
    for run in runs:
        settings = given[run.identity]
        if any(name.startswith(OF_THE_PAPER) for name in _different(settings, usual) - questions):
            continue
        circumstances = {key: value for key, value in settings.items() if key not in questions | {"seed"}}
        by_circumstances.setdefault(json.dumps(circumstances, sort_keys=True), []).append(run)
    studies, names = [], set()
    for members in by_circumstances.values():
        own = [(run, given[run.identity]) for run in members]
        answers = {name: _answers(own, settings, questions) for name, settings in asked.items()}
        name = scale = file_name(members[0].spec.scale.name)
        number = 1
        while name in names:
            number += 1
            name = f"{scale}_{number}"
        names.add(name)
        studies.append(Study(name, tuple(members), {key: value for key, value in answers.items() if value}))
    return sorted(studies, key=lambda study: -len(study.answers))


def _different(settings: Mapping[str, Any], usual: Mapping[str, Any]) -> set[str]:
    return {key for key in settings.keys() | usual.keys() if settings.get(key) != usual.get(key)}


def _answers(
    given: Sequence[tuple[StoredRun, Mapping[str, Any]]], asked: Mapping[str, Any], questions: set[str]
) -> tuple[StoredRun, ...]:
    """Return the repeats that answer ``asked``, exactly or except for :data:`NEGLIGIBLE` settings.

    ``given`` are records with their settings. Of several sets of repeats the one that differs in the fewest settings
    is chosen, then the largest, then the latest.
    """
    for keys in (questions, questions - set(NEGLIGIBLE)):
        fitting = [run for run, settings in given if all(settings.get(key) == asked.get(key) for key in keys)]
        if fitting:
            repeats = group_repeats(fitting)
            ranks = [(-_n_different(flat_settings(group[0]), asked, questions), len(group), i)
                     for i, group in enumerate(repeats)]
            return tuple(sorted(repeats[max(ranks)[-1]], key=lambda run: run.spec.seed))
    return ()


def _n_different(settings: Mapping[str, Any], asked: Mapping[str, Any], keys: Iterable[str]) -> int:
    return sum(settings.get(key) != asked.get(key) for key in keys)


def group_repeats(runs: Iterable[StoredRun]) -> list[list[StoredRun]]:
    """Return groups of records that differ in the seed only, in the order of their first records."""
    return group_but_for(runs, lambda name: name == "seed")


def group_but_for(runs: Iterable[StoredRun], free: Callable[[str], bool]) -> list[list[StoredRun]]:
    """Return groups of records that differ only in settings whose name ``free(name)`` accepts."""
    groups: dict[str, list[StoredRun]] = {}
    for run in runs:
        settings = {name: value for name, value in flat_settings(run).items() if not free(name)}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    return list(groups.values())


def differences(runs: Sequence[StoredRun], asked: RunSpec) -> str:
    """Return the settings in which repeats differ from ``asked``, each with the one asked for; empty where none do.

    Settings of a scale of another name count as one.
    """
    wanted, own = flat_settings(asked), flat_settings(runs[0])
    scales = asked.scale.name, runs[0].spec.scale.name
    whole = scales[0] != scales[1]
    lines = [f"scale {scales[1]} ({scales[0]})"] if whole else []
    lines += [
        f"{name} {own.get(name, 'none')} ({wanted.get(name, 'none')})"
        for name in dict.fromkeys([*wanted, *own])
        if wanted.get(name) != own.get(name) and name != "seed" and not (whole and name.startswith("scale."))
    ]
    seeds = [run.spec.seed for run in runs]
    if seeds != [asked.seed]:
        lines.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} ({asked.seed})")
    return "; ".join(lines)


def departures(run: StoredRun, asked: RunSpec) -> dict[str, tuple[Any, Any]]:
    """Return the :data:`NEGLIGIBLE` settings in which ``run`` differs from ``asked``: (asked, own) by name."""
    wanted, own = flat_settings(asked), flat_settings(run)
    return {
        name: (wanted[name], own[name])
        for name in NEGLIGIBLE
        if name in wanted and name in own and wanted[name] != own[name]
    }
