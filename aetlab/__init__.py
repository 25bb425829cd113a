"""aetlab: phase-contrast atomic electron tomography, from settings to scored atoms."""

from aetlab.kernel_cache import use_cache_of_this_code

use_cache_of_this_code()
