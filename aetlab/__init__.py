"""aetlab: phase-contrast atomic electron tomography, from settings to scored atoms."""
