"""Snakemake that asks Slurm for the state of its jobs every two seconds.

The executor plugin waits ten seconds longer after each query without a finished job, which suits jobs of hours; here
these waits are most of the time of a run.
"""

import asyncio

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _sleep(_: RemoteExecutor) -> None:
    await asyncio.sleep(2)


if __name__ == "__main__":
    RemoteExecutor.sleep = _sleep  # type: ignore[method-assign]
    main()
