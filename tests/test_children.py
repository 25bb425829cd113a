"""Processes of a pool do not outlive the process that started them."""

import subprocess
import sys

POOL = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from aetlab.core.children import end_with_parent
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent) as pool:
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_processes_of_a_pool_end_when_the_process_that_started_them_is_killed():
    with subprocess.Popen([sys.executable, "-c", POOL], stdout=subprocess.PIPE, text=True) as process:
        assert int(process.stdout.readline()) != process.pid
        process.kill()
        # The worker has inherited the pipe, which is closed when it ends.
        assert process.communicate(timeout=20)[0] == ""
