"""Processes of a pool do not outlive the process that started them."""

import multiprocessing
import subprocess
import sys

import pytest

POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from aetlab.reporting.forks import end_with_parent
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("{start}"), initializer=end_with_parent) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_processes_of_a_pool_end_when_the_process_that_started_them_is_killed(start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip("processes are not forked here")
    code = POOL.format(start=start)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert int(process.stdout.readline()) != process.pid
        process.kill()
        # The worker has inherited the pipe, which is closed when it ends.
        assert process.communicate(timeout=20)[0] == ""
