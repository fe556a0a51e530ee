"""Configuration of the idle culler, which runs as a managed service of the hub."""

from metalhub_hub import culler

c = get_config()  # noqa: F821
c.IdleCuller.cull_arbiter_hook = culler.hook
