"""A machine with NVIDIA GPUs that are not there: its driver's MIG state, and `nvidia-smi` on top of it."""
