"""Checking a measured series before any reconstruction: verdicts, spectra, and what it can reach."""
