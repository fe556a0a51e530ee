"""JupyterHub's configuration: static, all that an operator decides is in the document."""

import hashlib
import os
from pathlib import Path

from sqlalchemy import Engine, event

from metalhub_hub import acting, audit_hooks, auth, config, handlers, platform, sessions, spawner, visits
from metalhub_hub.core import approvals
from metalhub_hub.proxy import MetalhubProxy

c = get_config()  # noqa: F821

document_file = os.environ.get("METALHUB_HUB_CONFIG", "/etc/metalhub/hub.yml")
document = config.load(document_file)
audit_hooks.install(platform.use(platform.Platform(document)), c, Path(document_file))
package = Path(config.__file__).parent

c.JupyterHub.bind_url = c.JupyterHub.public_url = document.public_url
c.JupyterHub.hub_bind_url = document.listen
c.JupyterHub.hub_connect_url = document.connect_url
c.JupyterHub.cookie_secret_file = document.cookie_secret_file
c.JupyterHub.db_url = platform.database_url(document)
event.listen(Engine, "connect", platform.write_ahead)
if document.public_url.startswith("https:"):
    c.JupyterHub.tornado_settings["cookie_options"] = {"secure": True}
# Sessions outlive the hub and its proxy.
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
# At the hub's start, sessions that cannot be asked just now are checked behind its back.
c.JupyterHub.init_spawners_timeout = 10
c.ConfigurableHTTPProxy.should_start = False

c.JupyterHub.spawner_class = spawner.MetalhubSpawner
c.Spawner.consecutive_failure_limit = 0  # a full cluster is no reason for the hub to end
c.Spawner.http_timeout = 60
# Starts wait in the platform's own queue; a limit here would refuse them.
c.JupyterHub.concurrent_spawn_limit = 0
c.JupyterHub.allow_named_servers = document.named_servers > 0
c.JupyterHub.named_server_limit_per_user = document.named_servers

c.JupyterHub.proxy_class = MetalhubProxy
c.MetalhubProxy.should_start = False
c.MetalhubProxy.traefik_api_url = document.traefik.api_url
c.MetalhubProxy.traefik_api_username = document.traefik.api_user
c.MetalhubProxy.traefik_api_password = auth.secret(document.traefik.api_password_file)
c.MetalhubProxy.traefik_entrypoint = document.traefik.entrypoint
c.MetalhubProxy.dynamic_config_file = document.traefik.routes_file

auth.configure(c, document)
auth.install()

c.JupyterHub.template_paths = [str(package / "templates")]
c.JupyterHub.extra_handlers = handlers.HANDLERS
visits.install()
style = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((package / "static").iterdir()))).hexdigest()[:12]
c.JupyterHub.template_vars = {
    "metalhub_style": style,
    "metalhub_native": document.auth.oidc is None,
    "metalhub_session": document.session,
    "metalhub_reason": approvals.REASON_LIMIT,
    "metalhub_waiting": lambda user: platform.current().approvals.waiting(),
}

# Those tokens are 256 random bits. Of others each look at one costs the hub 10 ms, and every session asks for one each few minutes.
c.JupyterHub.trust_user_provided_tokens = True
# The hub asks sessions for their activity with a token of its own.
asking = sessions.token(auth.secret(document.cookie_secret_file))
platform.current().sessions.servers.token = asking
c.JupyterHub.services = [{"name": sessions.SERVICE, "api_token": asking}]
c.JupyterHub.load_roles = [{"name": sessions.SERVICE, "services": [sessions.SERVICE], "scopes": ["access:servers"]}]
if document.cli_token_file:
    c.JupyterHub.services.append({"name": acting.CLI, "api_token": auth.secret(document.cli_token_file)})
    c.JupyterHub.load_roles.append(
        {
            "name": acting.CLI,
            "services": [acting.CLI],
            # admin:server_state: a session's node and profile. admin-ui: what handlers.py has for administrators.
            "scopes": ["admin-ui", "list:users", "read:users", "read:servers", "delete:servers", "admin:server_state"],
        }
    )
