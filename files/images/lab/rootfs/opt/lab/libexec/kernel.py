"""The Python kernel, started fast: `ipykernel_launcher` with the archive of modules. Run it with `python -P`."""

import gc
import os
import sys

# Nothing that is loaded here becomes garbage.
gc.disable()
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bundle  # noqa: E402

if not os.environ.get("METALHUB_NO_BUNDLE"):
    bundle.install()
del sys.path[0]


def main() -> None:
    from ipykernel import kernelapp

    gc.freeze()
    gc.enable()
    kernelapp.launch_new_instance()


if __name__ == "__main__":
    main()
