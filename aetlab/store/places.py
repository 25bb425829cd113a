"""Name all files and folders under an outputs folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """All paths under ``outputs``."""

    outputs: Path

    @property
    def records(self) -> Path:
        """Return the folder of complete records, one folder each."""
        return self.outputs / "records"

    @property
    def cache(self) -> Path:
        """Return the folder of stages that runs share."""
        return self.outputs / "cache"

    @property
    def sweeps(self) -> Path:
        """Return the folder of the ledgers of sweeps."""
        return self.outputs / "sweeps"

    @property
    def damaged(self) -> Path:
        """Return the folder of records that were set aside because they are damaged or superseded."""
        return self.outputs / "set_aside"

    def work(self, run_id: str) -> Path:
        """Return the working folder of an unfinished run, which holds its checkpoint."""
        return self.outputs / "work" / run_id

    @property
    def logs(self) -> Path:
        """Return the folder of the logs of runs without a record yet."""
        return self.outputs / "logs"

    def log(self, run_id: str) -> Path:
        """Return the log of a run without a record yet."""
        return self.logs / f"{run_id}.log"

    def checkpoint(self, run_id: str) -> Path:
        """Return the checkpoint file of an unfinished run."""
        return self.work(run_id) / "checkpoint.h5"

    @property
    def index(self) -> Path:
        """Return the index of the records that hold the same reconstruction."""
        return self.outputs / "index.txt"

    def lock(self, run_id: str) -> Path:
        """Return the lock file of a run."""
        return self.outputs / "locks" / f"{run_id}.lock"
