"""Perform one job of a sweep, in this process or in a worker on any machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from aetlab.cli.jobs import run_job
from aetlab.cli.ledger import read_order, read_result, write_result
from aetlab.cli.workers import Workers, share_machine
from aetlab.core import console
from aetlab.core.files import StorageError


@dataclass(frozen=True)
class Task:
    """The task function of a launch of jobs: those of ``ledger`` with these ``numbers``, in their order."""

    ledger: Path
    numbers: tuple[int, ...]
    workers: Workers

    def __call__(self, config: DictConfig) -> None:
        """Perform the job that Hydra has given to this process; its settings are in the ledger, not in ``config``."""
        perform(self.ledger, self.numbers[int(HydraConfig.get().job.num)], self.workers)


def perform(ledger: Path, number: int, workers: Workers) -> None:
    """Perform job ``number`` of a sweep and write its result, unless it has one.

    A failed run is a result. Raises :class:`StorageError` if the ledger is gone or damaged.
    """
    console.protect_streams()
    if read_result(ledger, number) is not None:  # written before its worker died or was queued again
        return
    job, order = read_order(ledger, number)
    result = run_job(share_machine(order.spec, workers), job.label, outputs=Path(order.outputs),
                     use_other_code=order.use_other_code, part=order.part)
    try:
        write_result(ledger, number, result)
    except StorageError as error:  # the record is complete and its result printed
        print(f"{result.label}: {error}", file=sys.stderr)
