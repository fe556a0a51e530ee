"""What the real nvidia-smi printed, in public captures: for the reader of it and for the simulator of it."""

# `mig -lgi` of an H100 with a 1g.10gb, a 3g.40gb and a 1g.10gb+me (starkdrift/prickle-exporter, h100-mig-mixed-20260729).
INSTANCES = """\
+---------------------------------------------------------+
| GPU instances:                                          |
| GPU   Name               Profile  Instance   Placement  |
|                            ID       ID       Start:Size |
|=========================================================|
|   0  MIG 1g.10gb           19       13          6:1     |
+---------------------------------------------------------+
|   0  MIG 3g.40gb            9        1          0:4     |
+---------------------------------------------------------+
|   0  MIG 1g.10gb+me        20       11          4:1     |
+---------------------------------------------------------+
"""
