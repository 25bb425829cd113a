"""Code shared by the command lines: compose settings with Hydra, run one job, keep the ledger of a sweep."""
