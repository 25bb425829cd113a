"""Choose the records that the figures of a report show, where there are more than one page can hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aetlab.reporting.stored_run import StoredRun
    from aetlab.reporting.studies import Study

#: Up to this many records, figures show all; of more they show the second number.
ALL_UP_TO, OF_MORE = 60, 8


def choose_drawn(runs: Sequence[StoredRun], studies: Sequence[Study], n_drawn: int | None) -> list[StoredRun]:
    """Return the records that figures show, in the order of ``runs``.

    These are taken in turn from several lists until there are ``n_drawn`` of them (by default all of up to
    :data:`ALL_UP_TO` records, otherwise :data:`OF_MORE`): the records that answer the paper's experiments in the order
    of these, and for each sample and size its records, the latest first.
    """
    if n_drawn is None:
        n_drawn = len(runs) if len(runs) <= ALL_UP_TO else OF_MORE
    if n_drawn >= len(runs):
        return list(runs)
    queues = [_answers(studies), *(iter(group) for group in _latest_by_sample(runs))]
    chosen: dict[str, None] = {}
    while queues and len(chosen) < n_drawn:
        queue = queues.pop(0)
        run = next((run for run in queue if run.identity not in chosen), None)
        if run is not None:
            chosen[run.identity] = None
            queues.append(queue)
    return [run for run in runs if run.identity in chosen]


def describe_choice(n_drawn: int, n_runs: int) -> str:
    """Return the rule of :func:`choose_drawn` in one line; empty where figures show all records."""
    if n_drawn >= n_runs:
        return ""
    return (f"Figures and details show {n_drawn} of {n_runs} records: in turn one that answers an experiment of the "
            "paper and the latest one of each sample and size; --select chooses other records, --draw their number")


def sample_key(run: StoredRun) -> tuple[bool, str, str, str, str]:
    """Return what records of one sample and size have in common: truth, sample, its file, its series, and scale."""
    from aetlab.reporting.columns import sample_name  # imports pandas, which takes longer than the command's help

    spec = run.spec
    return run.has_truth, sample_name(spec), spec.sample.digest or spec.sample.path, spec.data.digest, spec.scale.name


def _answers(studies: Sequence[Study]) -> Iterator[StoredRun]:
    return (run for study in studies for answers in study.answers.values() for run in answers[:1])


def _latest_by_sample(runs: Sequence[StoredRun]) -> list[list[StoredRun]]:
    groups: dict[tuple[bool, str, str, str, str], list[StoredRun]] = {}
    for run in sorted(runs, key=lambda run: str(run.environment.get("finished", "")), reverse=True):
        groups.setdefault(sample_key(run), []).append(run)
    return list(groups.values())
