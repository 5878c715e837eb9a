"""Where notebooks run side by side: threads of this process, or a dask cluster."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

LOCAL = "local"
"""Instead of an address: a cluster of processes on this machine."""

# How often a seed is tried again whose worker has died.
_RETRIES = 2
# How long a scheduler may take to answer.
_PATIENCE = "10s"


@contextmanager
def pool(workers: int, cluster: str | None = None) -> Iterator[Executor]:
    """Give an executor; what still waits at its end is dropped.

    Args:
        workers: how many notebooks run at once; a running cluster has its own number.
        cluster: None for threads, "local", or the address of a running dask scheduler. The
            scheduler's workers need the same clone of the course in a folder that all share.

    Raises:
        ModuleNotFoundError: if a cluster is wanted, and dask is not installed.
        OSError: if there is no scheduler at the address.
    """
    if cluster is None:
        threads = ThreadPoolExecutor(workers)
        try:
            yield threads
        finally:
            threads.shutdown(cancel_futures=True)
        return
    try:
        from dask.distributed import Client, LocalCluster
    except ModuleNotFoundError:
        message = "a cluster needs dask: pip install 'kexue-lab[scale]'"
        raise ModuleNotFoundError(message) from None
    with ExitStack() as stack:
        if cluster == LOCAL:
            # A notebook has a kernel, a process of its own: a worker's thread only waits for it.
            cluster = stack.enter_context(
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
            )
        client = stack.enter_context(Client(cluster, timeout=_PATIENCE))
        yield client.get_executor(pure=False, retries=_RETRIES)
