"""aetlab: phase-contrast atomic electron tomography, from settings to scored atoms."""

import os

from aetlab.core.kernel_cache import use_cache_of_this_code

use_cache_of_this_code()
# Linear algebra is a small part here: threads of its own would only take the cores from those of the kernels. Read when
# NumPy is first imported.
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
