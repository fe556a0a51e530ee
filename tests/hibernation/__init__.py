"""Sessions that hibernate for real, on a test host: for the scenario `hibernation` and the benchmark of the same name."""

# Made on the host from nothing: what a session runs is the host's own, bound into it.
IMAGE = "hibernation-holder:1"
