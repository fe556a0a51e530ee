"""The Python kernel, started fast: `ipykernel_launcher` with the archive of modules. Run it with `python -P`."""

import gc
import os
import sys

# Nothing that is loaded here becomes garbage.
gc.disable()
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bundle  # noqa: E402

bundle.install()
del sys.path[0]


def main() -> None:
    from ipykernel import kernelapp

    gc.freeze()
    gc.enable()
    kernelapp.launch_new_instance()


# See jupyterhub-singleuser.
main.__code__ = main.__code__.replace(co_stacksize=34_000)
main()
