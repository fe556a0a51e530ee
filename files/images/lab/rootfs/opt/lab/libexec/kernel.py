"""The Python kernel, started fast: `ipykernel_launcher` with the archive of modules."""

import gc
import sys

# Nothing that is loaded here becomes garbage.
gc.disable()
import bundle  # noqa: E402

bundle.install()
# This script's own directory; the kernel puts the notebook's there.
del sys.path[0]


def main() -> None:
    from ipykernel import kernelapp

    gc.freeze()
    gc.enable()
    kernelapp.launch_new_instance()


# See jupyterhub-singleuser.
main.__code__ = main.__code__.replace(co_stacksize=34_000)
main()
