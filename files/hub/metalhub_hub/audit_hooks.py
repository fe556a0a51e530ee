"""Where the hub's events come from: the requests' beginning and end, and what changes in the hub's database.

What the database is told is recorded before it is committed, whichever page, API or program asked for it.
"""

from __future__ import annotations

import atexit
import functools
import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers.users import UserTokenListAPIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.handlers.login import LoginHandler
from jupyterhub.log import log_request
from nativeauthenticator.orm import UserInfo
from oauthenticator.oauth2 import OAuthCallbackHandler
from sqlalchemy import event, inspect

from . import acting, platform

log = logging.getLogger("metalhub")

ACCESS = "access:servers!server="

# Which requests log somebody in. The last one does when it has no token yet.
LOGINS = ((LoginHandler, "POST"), (OAuthCallbackHandler, "GET"), (UserTokenListAPIHandler, "POST"))


def install(host: platform.Platform, c: Any, document: Path) -> None:
    """Begin to record this process's events. Called once, by jupyterhub_config.py."""
    # JupyterHub has no setting for what comes first in each request.
    BaseHandler.get_current_user = _identified(BaseHandler.get_current_user)
    c.JupyterHub.tornado_settings = {"log_function": request_ended}
    c.Authenticator.post_auth_hook = logged_in
    _listen()
    host.audit.start(document)
    atexit.register(host.audit.close)


def _write(kind: str, **facts: Any) -> None:
    now = acting.request.get()
    if now is not None:
        facts["address"] = now.address
    platform.current().audit.write(kind, **facts)


# Requests


def _identified(get_current_user: Any) -> Any:
    @functools.wraps(get_current_user)
    async def identify(handler: Any) -> Any:
        first = not hasattr(handler, "_metalhub_request")
        if first:
            handler._metalhub_request = now = acting.Request("anonymous", str(handler.request.remote_ip))
            acting.request.set(now)
        user = await get_current_user(handler)
        if first and user:
            now.actor = f"{user.kind}:{user.name}"
            if now.actor == f"service:{acting.CLI}":
                now.operator = handler.request.headers.get("X-Metalhub-Operator", "")[:64]
        return user

    return identify


def logged_in(authenticator: Any, handler: Any, authentication: dict[str, Any]) -> dict[str, Any]:
    """``Authenticator.post_auth_hook``: somebody proved who they are and may come in."""
    now = acting.request.get()
    if now is not None:
        now.actor = f"user:{authentication['name']}"
    _write("login.ok", user=authentication["name"])
    return authentication


def request_ended(handler: Any) -> None:
    """``log_function`` of the hub's web server."""
    log_request(handler)
    now = acting.request.get()
    if now is None or now.actor != "anonymous" or handler.get_status() < 400:
        return
    for kind, method in LOGINS:
        if isinstance(handler, kind) and handler.request.method == method:
            _write("login.failed", user=_known(handler), status=handler.get_status())


def _known(handler: Any) -> str | None:
    """The name that was given, if it is an account's: people type passwords into the wrong field."""
    name = handler.get_body_argument("username", "") if handler.request.method == "POST" else ""
    name = handler.authenticator.normalize_username(name)
    if not name or (UserInfo.find(handler.db, name) is None and orm.User.find(handler.db, name) is None):
        return None
    return str(name)


class AuditedLogout:
    """For handlers that log somebody out."""

    def _backend_logout_cleanup(self, name: str) -> None:
        _write("logout.ok", user=name)
        super()._backend_logout_cleanup(name)  # type: ignore[misc]


# The database


def _changed(target: Any, name: str) -> tuple[Any, Any] | None:
    """The old and the new value of an attribute that is about to change."""
    history = inspect(target).attrs[name].history
    if not history.has_changes():
        return None
    return (history.deleted or [None])[0], (history.added or [None])[0]


def _owner(token: orm.APIToken) -> str:
    return f"user:{token.user.name}" if token.user else f"service:{token.service.name}" if token.service else ""


def user_added(mapper: Any, connection: Any, user: orm.User) -> None:
    _write("user.add", user=user.name, admin=bool(user.admin))


def user_changed(mapper: Any, connection: Any, user: orm.User) -> None:
    if change := _changed(user, "name"):
        _write("user.rename", user=user.name, before=change[0])
        _forget(str(change[0]))
    if (change := _changed(user, "admin")) and bool(change[0]) != bool(change[1]):
        _write("user.admin", user=user.name, admin=bool(change[1]))


def user_deleted(mapper: Any, connection: Any, user: orm.User) -> None:
    _write("user.delete", user=user.name)
    _forget(user.name)


def _forget(name: str) -> None:
    """Whoever gets this name next is approved for nothing."""
    try:
        platform.current().approvals.forget(name)
    except OSError as error:
        log.error("The approvals of %s, who is gone, stay in the file until it can be written: %s", name, error)


def account_added(mapper: Any, connection: Any, account: UserInfo) -> None:
    _write("account.add", user=account.username, authorised=bool(account.is_authorized))


def account_changed(mapper: Any, connection: Any, account: UserInfo) -> None:
    if change := _changed(account, "is_authorized"):
        _write("account.authorised" if change[1] else "account.suspended", user=account.username)
    if _changed(account, "password"):
        _write("account.password", user=account.username)


def account_deleted(mapper: Any, connection: Any, account: UserInfo) -> None:
    _write("account.discarded", user=account.username)


def token_added(mapper: Any, connection: Any, token: orm.APIToken) -> None:
    facts: dict[str, Any] = {"id": token.api_id, "owner": _owner(token), "scopes": list(token.scopes or [])}
    if token.expires_at:
        facts["expires"] = token.expires_at.isoformat(timespec="seconds") + "Z"
    for scope in facts["scopes"]:
        # What a browser gets for a session, when its page is opened.
        user, slash, server = scope.removeprefix(ACCESS).partition("/")
        if scope.startswith(ACCESS) and slash and facts["owner"] != f"user:{user}":
            _write("access", user=user, server=server, by=facts["owner"])
    _write("token.made", **facts)


def token_deleted(mapper: Any, connection: Any, token: orm.APIToken) -> None:
    over = token.expires_at and token.expires_at <= datetime.now(timezone.utc).replace(tzinfo=None)
    _write("token.revoked", id=token.api_id, **({"cause": "expired"} if over else {}))


def share_added(mapper: Any, connection: Any, share: orm.Share) -> None:
    whom = f"user:{share.user.name}" if share.user else f"group:{share.group.name}" if share.group else ""
    _write("share.granted", user=share.owner.name, server=share.spawner.name, to=whom)


def share_deleted(mapper: Any, connection: Any, share: orm.Share) -> None:
    _write("share.revoked", user=share.owner.name if share.owner else "", id=share.id)


def group_joined(group: orm.Group, user: orm.User, initiator: Any) -> None:
    _write("group.join", group=group.name, user=user.name)


def group_left(group: orm.Group, user: orm.User, initiator: Any) -> None:
    _write("group.leave", group=group.name, user=user.name)


def _listen() -> None:
    for model, moment, heard in (
        (orm.User, "after_insert", user_added),
        (orm.User, "after_update", user_changed),
        (orm.User, "after_delete", user_deleted),
        (UserInfo, "after_insert", account_added),
        (UserInfo, "after_update", account_changed),
        (UserInfo, "after_delete", account_deleted),
        (orm.APIToken, "after_insert", token_added),
        (orm.APIToken, "after_delete", token_deleted),
        (orm.Share, "after_insert", share_added),
        (orm.Share, "after_delete", share_deleted),
        (orm.Group.users, "append", group_joined),
        (orm.Group.users, "remove", group_left),
    ):
        event.listen(model, moment, heard)
