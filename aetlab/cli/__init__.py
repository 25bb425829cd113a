"""What the command lines share: composing settings with Hydra, running one job, the ledger of a sweep."""
