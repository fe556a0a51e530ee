"""SwarmSpawner as its documentation sets it up: the hub in a container on an overlay network that the sessions join.

Four settings are not the defaults, because without them no session starts here: this kernel has no IPVS (dnsrr), Docker's resolver cannot
be used from gVisor (the hub's address instead of its name) and answers the hub with the address of a task that is gone (the task's address
instead of the service's name), and sessions belong on the compute nodes.
"""

import os
import socket

from dockerspawner import SwarmSpawner

c = get_config()  # noqa: F821


class Spawner(SwarmSpawner):
    """SwarmSpawner, by the task's address."""

    async def get_ip_and_port(self):
        task = await self.get_task()
        return task["NetworksAttachments"][0]["Addresses"][0].partition("/")[0], self.port


c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.ip = "0.0.0.0"  # noqa: S104
c.JupyterHub.hub_ip = "0.0.0.0"  # noqa: S104
c.JupyterHub.hub_connect_url = f"http://{socket.gethostbyname(socket.gethostname())}:8081"
c.JupyterHub.spawner_class = Spawner
c.JupyterHub.services = [{"name": "bench", "api_token": os.environ["BENCH_TOKEN"]}]
c.JupyterHub.load_roles = [{"name": "bench", "services": ["bench"], "scopes": ["admin:users", "admin:servers", "access:servers"]}]
c.SwarmSpawner.image = os.environ["BENCH_IMAGE"]
c.SwarmSpawner.cmd = ["jupyterhub-singleuser"]
c.SwarmSpawner.network_name = os.environ["BENCH_NETWORK"]
c.SwarmSpawner.use_internal_ip = True
c.SwarmSpawner.mem_limit = "1G"
c.SwarmSpawner.cpu_limit = 1
c.SwarmSpawner.extra_endpoint_spec = {"mode": "dnsrr"}
c.SwarmSpawner.extra_placement_spec = {"constraints": [f"node.labels.metalhub.pool=={os.environ['BENCH_POOL']}"]}
