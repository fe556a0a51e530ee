# VS Code runs on a socket that only the session's own server can reach, and that asks for the hub's login.
c.ServerProxy.servers = {  # noqa: F821
    "vscode": {
        "command": [
            "/opt/code-server/bin/code-server",
            "--auth=none",
            "--disable-getting-started-override",
            "--disable-telemetry",
            "--disable-update-check",
            "--disable-workspace-trust",
            "--socket={unix_socket}",
            "--socket-mode=600",
        ],
        "unix_socket": True,
        "timeout": 60,
        "new_browser_tab": True,
        "launcher_entry": {"title": "VS Code"},
    }
}
c.ServerApp.default_url = "/vscode/?folder=/home/user"  # noqa: F821
