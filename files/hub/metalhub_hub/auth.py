"""How people log in: native accounts, or an OpenID Connect provider."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import bcrypt
from jupyterhub import apihandlers, orm
from jupyterhub.apihandlers.auth import TokenAPIHandler
from jupyterhub.apihandlers.users import UserAPIHandler
from jupyterhub.handlers import BaseHandler
from jupyterhub.handlers.login import LoginHandler, LogoutHandler
from jupyterhub.scopes import needs_scope
from nativeauthenticator import NativeAuthenticator
from nativeauthenticator.handlers import DiscardHandler, ToggleAuthorizationHandler
from nativeauthenticator.handlers import LoginHandler as NativeLoginHandler
from nativeauthenticator.orm import UserInfo
from oauthenticator.generic import GenericOAuthenticator
from oauthenticator.oauth2 import OAuthLogoutHandler
from tornado import web

from . import audit_hooks, people, platform
from .config import Document
from .core import accounts

# bcrypt reads no more, and its release 5 raises an error instead of cutting.
LONGEST_PASSWORD = 72


def secret(path: str) -> str:
    """A secret's text. Raises OSError."""
    return Path(path).read_text(encoding="utf-8").strip()


class _SameOrigin:
    """Upstream approves and discards accounts by GET: a link on any page would do it for an administrator."""

    async def get(self, *arguments: Any) -> None:
        if self.request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":  # type: ignore[attr-defined]
            raise web.HTTPError(403, "Open the list of accounts and use its buttons.")
        await super().get(*arguments)  # type: ignore[misc]


class _Login(LoginHandler):  # type: ignore[misc]
    """The hub's own login. NativeAuthenticator 1.3 brings one that JupyterHub 6 breaks (it has no statsd any more)."""

    def _render(self, login_error: str | None = None, username: str | None = None, **kwargs: Any) -> Any:
        if login_error and username and (why := self.authenticator.kept_out(username, self._password())):
            login_error = why
        return super()._render(login_error=login_error, username=username, **kwargs)

    def _password(self) -> str:
        return str(self.get_body_argument("password", default="", strip=False))


class _Toggle(_SameOrigin, ToggleAuthorizationHandler):  # type: ignore[misc]
    pass


class _Discard(_SameOrigin, DiscardHandler):  # type: ignore[misc]
    pass


class _Logout(audit_hooks.AuditedLogout, LogoutHandler):  # type: ignore[misc]
    pass


class _OAuthLogout(audit_hooks.AuditedLogout, OAuthLogoutHandler):  # type: ignore[misc]
    pass


class _Known:
    """What the hub itself says of people, wherever their accounts are."""

    async def check_blocked_users(self, username: str, authentication: Any = None) -> bool:
        """Whether somebody may come in. A database that does not answer lets nobody in: its error is raised."""
        # JupyterHub asks None of who has proved nothing.
        if username and platform.current().people.disabled(username):
            return False
        return bool(super().check_blocked_users(username, authentication))  # type: ignore[misc]

    def delete_user(self, user: Any) -> Any:
        """Forget somebody. The hub waits for what is returned; NativeAuthenticator, which discards accounts by this, does not."""
        super().delete_user(user)  # type: ignore[misc]
        platform.current().people.forget(user.name)
        # Who is removed waits for nothing any more.
        return asyncio.ensure_future(platform.current().admission.dismiss(user))


def _let_in(prepare: Any) -> Any:
    """Who is disabled gets nothing, also by a token that is theirs, whoever made it."""

    @functools.wraps(prepare)
    async def let_in(handler: Any) -> None:
        await prepare(handler)
        user = handler.current_user
        if user is not None and user.kind == "user":
            platform.current().people.let_in(user.name)

    return let_in


class _TokenOwner(TokenAPIHandler):  # type: ignore[misc]
    """JupyterHub's older way for services to ask whose a token is."""

    def get(self, token: str) -> None:
        found = orm.APIToken.find(self.db, token)
        if found is not None and found.user is not None:
            platform.current().people.let_in(found.user.name)
        super().get(token)


class _OneUser(UserAPIHandler):  # type: ignore[misc]
    """A user in JupyterHub's API, which would give them another name and leave all that is theirs behind."""

    @needs_scope("admin:users")
    async def patch(self, user_name: str) -> None:
        body = self.get_json_body()
        if isinstance(body, dict) and "name" in body:
            if body.pop("name") != user_name:
                raise web.HTTPError(409, people.NO_RENAME)
            # JupyterHub 6.1's page sends the name along, and its API writes one that does not change as none at all.
            self.request.body = json.dumps(body).encode()
        await super().patch(user_name)


def install() -> None:
    """JupyterHub has no setting for these. Called once, by jupyterhub_config.py."""
    BaseHandler.prepare = _let_in(BaseHandler.prepare)
    ours = {TokenAPIHandler: _TokenOwner, UserAPIHandler: _OneUser}
    apihandlers.default_handlers[:] = [(path, ours.get(handler, handler), *rest) for path, handler, *rest in apihandlers.default_handlers]


class MetalhubOAuthenticator(_Known, GenericOAuthenticator):  # type: ignore[misc]
    """An OpenID Connect provider's accounts."""

    logout_handler = _OAuthLogout


class MetalhubNativeAuthenticator(_Known, NativeAuthenticator):  # type: ignore[misc]
    """Native accounts whose first administrator is there before anybody can sign up under that name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        auth = platform.current().document.auth
        for name in auth.admins[:1]:
            self.make_admin(self.normalize_username(name), auth.admin_password_file)

    def make_admin(self, name: str, password_file: str) -> None:
        """Make the account once. Later the password is the person's own business."""
        if self.user_exists(name):
            return
        hashed = bcrypt.hashpw(secret(password_file).encode()[:LONGEST_PASSWORD], bcrypt.gensalt())
        self.db.add(UserInfo(username=name, password=hashed, is_authorized=True))
        self.db.commit()
        self.log.info("Made the administrator's account %s", name)

    async def authenticate(self, handler: Any, data: dict[str, str]) -> Any:
        if len(data.get("password", "").encode()) > LONGEST_PASSWORD:
            return None
        return await super().authenticate(handler, data)

    def kept_out(self, username: str, password: str) -> str:
        """Why somebody who knows the account's password may not come in; empty for all others."""
        user, name = self.get_user(username), self.normalize_username(username)
        disabled = platform.current().people.disabled(name)
        if user is None or (user.is_authorized and not disabled) or len(password.encode()) > LONGEST_PASSWORD:
            return ""
        if self.is_blocked(name) or not user.is_valid_password(password):
            return ""
        return people.DISABLED if disabled else "Your account is waiting for an administrator's approval."

    def is_password_strong(self, password: str) -> bool:
        return len(password.encode()) <= LONGEST_PASSWORD and bool(super().is_password_strong(password))

    @property
    def password_legal(self) -> str:
        """What a password must be, in a sentence."""
        return f"Pick a password of {self.minimum_password_length} to {LONGEST_PASSWORD} characters that is not a common one."

    def name_problem(self, name: str) -> str:
        """Why nobody can have an account of this name; empty where somebody can."""
        if not name or len(name) > 64 or name != self.normalize_username(name) or not self.validate_username(name):
            return f"{name[:64]!r} is not a name for an account: legal is {accounts.NAME_LEGAL}."
        return ""

    def add_account(self, name: str, hashed: bytes) -> None:
        """Make an approved account of a name that ``name_problem`` lets pass. The caller commits."""
        self.db.add(UserInfo(username=name, password=hashed, is_authorized=True))

    def create_user(self, username: str, password: str, **kwargs: Any) -> Any:
        # Upstream approves whoever signs up under an administrator's name.
        if self.normalize_username(username) in {self.normalize_username(name) for name in self.admin_users}:
            return None
        return super().create_user(username, password, **kwargs)

    def get_handlers(self, app: Any) -> list[Any]:
        ours = {
            ToggleAuthorizationHandler: _Toggle,
            DiscardHandler: _Discard,
            NativeLoginHandler: _Login,
        }
        return [(path, ours.get(handler, handler)) for path, handler in super().get_handlers(app)] + [(r"/logout", _Logout)]


def configure(c: Any, document: Document) -> None:
    """Set the hub's authenticator up."""
    auth = document.auth
    c.Authenticator.admin_users = set(auth.admins)
    if auth.oidc is None:
        c.JupyterHub.authenticator_class = MetalhubNativeAuthenticator
        # Who has an account must still be approved: NativeAuthenticator.authenticate asks for it.
        c.Authenticator.allow_all = True
        native = c.MetalhubNativeAuthenticator
        native.enable_signup = auth.signup
        native.open_signup = False
        native.minimum_password_length = 10
        native.check_common_password = True
        native.allowed_failed_logins = 10
        native.seconds_before_next_try = 60
        c.JupyterHub.load_groups = {name: {"users": sorted(users)} for name, users in document.groups.items()}
        return
    oidc = auth.oidc
    c.JupyterHub.authenticator_class = MetalhubOAuthenticator
    generic = c.GenericOAuthenticator
    generic.login_service = oidc.title
    generic.client_id = oidc.client_id
    generic.client_secret = secret(oidc.client_secret_file)
    generic.authorize_url = oidc.authorize_url
    generic.token_url = oidc.token_url
    generic.userdata_url = oidc.userdata_url
    generic.oauth_callback_url = f"{document.public_url}/hub/oauth_callback"
    generic.scope = list(oidc.scope)
    generic.username_claim = oidc.username_claim
    generic.allow_all = not oidc.allowed_groups
    generic.custom_403_message = "You may not log in here; ask an administrator."
    if oidc.groups_claim:
        generic.manage_groups = True
        generic.auth_state_groups_key = f"oauth_user.{oidc.groups_claim}"
        generic.allowed_groups = set(oidc.allowed_groups)
        generic.admin_groups = set(oidc.admin_groups)
