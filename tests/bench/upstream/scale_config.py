"""JupyterHub with SwarmSpawner and the idle culler, as their documentation sets them up, for tests/bench/scale.py.

Not the defaults: the proxy's API is somebody else's, the hub takes any number of starts at once as ours does (by default it refuses the
101st), the benchmark asks with a token that is cheap to look at, sessions outlive it, the sessions' address is the benchmark's, and the culler looks as often as ours does.
"""

import os
import sys

from dockerspawner import SwarmSpawner

c = get_config()  # noqa: F821


class Spawner(SwarmSpawner):
    """SwarmSpawner, which takes the address of a session with an internal one from its name: so does this, with no name service."""

    async def get_ip_and_port(self):
        return "127.0.0.1", self.port


c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"admin"}
c.JupyterHub.hub_bind_url = c.JupyterHub.hub_connect_url = os.environ["BENCH_HUB"]
c.JupyterHub.bind_url = "http://127.0.0.1:1"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['BENCH_PORT']}/chp"
c.ConfigurableHTTPProxy.auth_token = "d" * 32
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.db_url = "sqlite:///jupyterhub.sqlite"
c.JupyterHub.trust_user_provided_tokens = True  # the benchmark's own, which would cost 10 ms a look

c.JupyterHub.spawner_class = Spawner
c.Spawner.consecutive_failure_limit = 0
c.SwarmSpawner.image = "10.0.0.1:5000/lab@sha256:" + "a" * 64
c.SwarmSpawner.cmd = ["jupyterhub-singleuser"]
c.SwarmSpawner.network_name = "sessions"
c.SwarmSpawner.use_internal_ip = True
c.SwarmSpawner.port = int(os.environ["BENCH_PORT"])
c.SwarmSpawner.mem_limit = "2G"
c.SwarmSpawner.cpu_limit = 1
c.SwarmSpawner.extra_endpoint_spec = {"mode": "dnsrr"}
c.SwarmSpawner.extra_placement_spec = {"constraints": ["node.labels.metalhub.pool==cpu"]}

culler = [sys.executable, "-m", "jupyterhub_idle_culler", f"--timeout={os.environ['BENCH_IDLE']}", f"--cull-every={os.environ['BENCH_LOOK']}"]
c.JupyterHub.services = [{"name": "idle-culler", "command": culler}]
c.JupyterHub.load_roles = [
    {"name": "idle-culler", "services": ["idle-culler"], "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"]}
]
load_subconfig(os.environ["BENCH_PROBE"])  # noqa: F821
