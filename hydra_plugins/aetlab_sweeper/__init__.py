"""Plugins by which Hydra launches the sweeps of aetlab. Hydra imports this package in every process: keep it light."""
