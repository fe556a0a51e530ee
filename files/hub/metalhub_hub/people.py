"""People: who is invited, what came with it, who is kept out. A thin service over the records."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import bcrypt
from jupyterhub import orm
from jupyterhub.metrics import TOTAL_USERS
from jupyterhub.utils import new_token
from tornado import web

from . import acting, mail
from .core import accounts, durations, quotas
from .core.accounts import Invitation, Person
from .core.quotas import INVITE, Quota
from .ledger import LedgerError
from .records import Block, Grant, Invite, Records

if TYPE_CHECKING:
    from .platform import Platform

log = logging.getLogger("metalhub")

PROVIDERS = "Accounts are the identity provider's here, so there is nothing to invite to or to add: add the person there."
OVER = "This invitation cannot be used: it was used already, has ended, or was taken back. Ask whoever sent it to you for a new one."
NO_RENAME = (
    "A user cannot be renamed, because their home, account, quotas and records go by the name: "
    "make a user of the new name and move the files there."
)
DISABLED = "Your account is disabled; ask an administrator."
# Of the EFF's long list, 7776 words: 51 bits.
WORDS = 4
_SIGNED = "metalhub: invitation"


class Impossible(web.HTTPError):  # type: ignore[misc]
    """What was asked for cannot be done; the text is one sentence."""

    def __init__(self, message: str, status: int = 409) -> None:
        # Tornado fills this text in.
        super().__init__(status, message.replace("%", "%%"))
        self.message = message

    def __str__(self) -> str:
        return self.message


def words() -> list[str]:
    """The list that passwords of words are made from."""
    from xkcdpass import xkcd_password

    return list(xkcd_password.generate_wordlist(wordfile=xkcd_password.locate_wordfile("eff-long"), min_length=1, max_length=99))


def passwords(count: int) -> list[str]:
    """Passwords that people can read out, copy by hand and remember until they have set their own."""
    from xkcdpass import xkcd_password

    known = words()
    assert accounts.bits(WORDS, len(known)) >= 50
    return [str(xkcd_password.generate_xkcdpassword(known, numwords=WORDS, delimiter="-")) for _ in range(count)]


def hashed(password: str) -> bytes:
    """What is kept of a password. Takes a good part of a second, so it is for a thread."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt())


class People:
    """One a process."""

    def __init__(self, host: Platform) -> None:
        self.host = host
        self._grants: dict[str, list[Grant]] = {}
        self._blocks: dict[str, Block] = {}
        host.quota.given = self.granted_quotas

    @cached_property
    def records(self) -> Records:
        """Opened when they are first needed, which is after the hub has made its own tables. Raises LedgerError."""
        made = Records(self.host.quota.ledger)
        made.create()
        self._read(made)
        return made

    def _read(self, made: Records) -> None:
        grants: dict[str, list[Grant]] = {}
        for each in made.grants():
            grants.setdefault(each.user, []).append(each)
        self._blocks = {each.user: each for each in made.blocks()}
        self._grants = grants
        self.host.quota.forget_allowances()

    def now(self) -> int:
        return self.host.quota.clock.now()

    @property
    def native(self) -> bool:
        return self.host.document.auth.oidc is None

    # What a user has beyond the inventory

    def _of(self, user: str) -> list[Grant]:
        return self._grants.get(user, []) if self.records else []

    def granted_profiles(self, user: str) -> frozenset[str]:
        """The profiles that a user may start beyond those of their groups."""
        try:
            return frozenset(name for grant in self._of(user) for name in grant.profiles)
        except LedgerError as error:
            log.error("What %s was given is not known: %s", user, error)
            return frozenset()

    def granted_quotas(self, user: str) -> tuple[tuple[str, Quota], ...]:
        """The quotas of a user beyond the inventory's, each with its source. Raises LedgerError."""
        return tuple((grant.source, quotas.parse_quota(grant.quota)) for grant in self._of(user) if grant.quota)

    # Who is kept out

    def disabled(self, user: str) -> Block | None:
        """Whether somebody is kept out, and why. Raises LedgerError."""
        return self._blocks.get(user) if self.records else None

    def let_in(self, user: str) -> None:
        """Raises HTTPError with a sentence for who is kept out. Raises LedgerError."""
        if self.disabled(user):
            raise web.HTTPError(403, DISABLED)

    def disable(self, app: Any, name: str, reason: str, by: str) -> list[Any]:
        """Keep somebody out: no login and no cookie is good any more, no session goes on. Homes stay, and tokens, which ``let_in`` refuses.

        Returns the sessions that are being stopped. Raises Impossible and LedgerError.
        """
        user = orm.User.find(app.db, name)
        if user is None:
            raise Impossible(f"There is no user {name!r}.", 404)
        if name in self.host.document.auth.admins:
            raise Impossible(f"{name!r} is the administrator that the inventory names: give hub_admin another value first.")
        others = [other.name for other in app.db.query(orm.User).filter_by(admin=True) if other.name != name]
        if user.admin and not any(not self.disabled(other) for other in others):
            raise Impossible(f"{name!r} is the last administrator who can log in: make somebody else one first.")
        self.records.block(Block(name, reason, by, self.now()))
        self._read(self.records)
        self.host.audit.write("account.disabled", user=name, reason=reason, by=by)
        user.cookie_id = new_token()
        for token in list(user.api_tokens):
            if token.client_id != "jupyterhub":  # a browser's, for a session
                app.db.delete(token)
        for code in app.db.query(orm.OAuthCode).filter_by(user_id=user.id):
            app.db.delete(code)
        app.db.commit()
        stopping = []
        for spawner in list(app.users[name].spawners.values()) if name in app.users else ():
            if spawner.active and spawner.pending != "stop":
                spawner.stop_reason, spawner.stop_detail = "disabled", reason
                stopping.append(spawner)
        return stopping

    def enable(self, name: str, by: str) -> None:
        """Let somebody in again. Raises Impossible and LedgerError."""
        if not self.records.unblock(name):
            raise Impossible(f"{name!r} is not disabled.", 404)
        self._read(self.records)
        self.host.audit.write("account.enabled", user=name, by=by)

    def forget(self, name: str) -> None:
        """A user was deleted: who comes under the same name later is somebody else."""
        try:
            self.records.forget(name)
            self._read(self.records)
            for each in self.host.quota.overrides(name):
                self.host.quota.revoke(each.number, acting.HUB)
        except LedgerError as error:
            log.error("What %s was given is not forgotten: %s", name, error)

    # Accounts

    def reserved(self) -> set[str]:
        """Names that the inventory says something of: an invitation that anybody may take must not hand them out."""
        document = self.host.document
        return {*document.auth.admins, *document.quotas.users, *(name for names in document.groups.values() for name in names)}

    def enter(self, handler: Any, name: str, secret: bytes, groups: tuple[str, ...]) -> None:
        """Make an account, its user and their groups, which are made where they are missing. The caller commits."""
        db = handler.db
        handler.authenticator.add_account(name, secret)
        user = orm.User.find(db, name)
        if user is None:
            # As the hub's own handlers make them, but these commit, and nothing is to be there by halves.
            user = orm.User(name=name)
            db.add(user)
            user.roles.append(orm.Role.find(db, "user"))
            TOTAL_USERS.inc()
        for name in groups:
            group = orm.Group.find(db, name)
            if group is None:
                group = orm.Group(name=name)
                db.add(group)
            if group not in user.groups:
                group.users.append(user)

    async def add(self, handler: Any, people: tuple[Person, ...]) -> tuple[list[dict[str, Any]], list[str]]:
        """Make accounts with passwords of words, all or none. Returns those made, and the names that had one. Raises Impossible."""
        if not self.native:
            raise Impossible(PROVIDERS)
        native = handler.authenticator
        wrong = {one.name: why for one in people if (why := native.name_problem(one.name))}
        if wrong:
            raise Impossible("; ".join(wrong.values()), 400)
        fresh = [one for one in people if not native.user_exists(one.name)]
        made = dict(zip(fresh, await asyncio.to_thread(passwords, len(fresh)), strict=True))
        gate = asyncio.Semaphore(2)

        async def hash_one(password: str) -> bytes:
            async with gate:
                return await asyncio.to_thread(hashed, password)

        hashes = await asyncio.gather(*(hash_one(password) for password in made.values()))
        # From here on nothing else runs in between. Somebody may have signed up meanwhile.
        taken = {one.name for one in fresh if native.user_exists(one.name)}
        try:
            for one, secret in zip(fresh, hashes, strict=True):
                if one.name not in taken:
                    self.enter(handler, one.name, secret, one.groups)
            handler.db.commit()
        except Exception:
            handler.db.rollback()
            raise
        rows = [{"name": one.name, "password": made[one], "groups": list(one.groups)} for one in fresh if one.name not in taken]
        return rows, [one.name for one in people if one not in made or one.name in taken]

    # Invitations

    def _signature(self, nonce: str) -> str:
        key = Path(self.host.document.cookie_secret_file).read_bytes()
        return hmac.new(key, f"{_SIGNED} {nonce}".encode(), hashlib.sha256).hexdigest()[:32]

    def token(self) -> str:
        nonce = secrets.token_urlsafe(24)
        return f"{nonce}.{self._signature(nonce)}"

    def link(self, token: str) -> str:
        # In the query: neither the hub nor Traefik writes that into a log.
        return f"{self.host.document.public_url}/hub/metalhub/invite?token={quote(token)}"

    def invite(self, app_groups: set[str], native: Any, data: Any, by: str) -> tuple[Invite, str]:
        """Make an invitation. Returns it and its link. Raises Impossible and LedgerError."""
        if not self.native:
            raise Impossible(PROVIDERS)
        document = self.host.document
        known = {*document.groups, *document.quotas.groups, *app_groups}
        known.update(group for profile in document.profiles.values() for group in profile.groups)
        try:
            what = accounts.read_invitation(data, known, document.profiles.keys())
        except ValueError as error:
            raise Impossible(str(error), 400) from None
        if what.name and (problem := native.name_problem(what.name)):
            raise Impossible(problem, 400)
        if what.name and native.user_exists(what.name):
            raise Impossible(f"{what.name!r} has an account already.")
        token = self.token()
        made = self.records.invite(token, what, by, self.now())
        facts = {"email": what.email, "for": what.name, "groups": list(what.groups), "quota": what.quota, "profiles": list(what.profiles)}
        self.host.audit.write("invite.made", number=made.number, by=by, **facts)
        return made, self.link(token)

    async def send(self, made: Invite, link: str) -> str:
        """Mail an invitation. Returns why that did not work; empty where it did."""
        smtp = self.host.document.smtp
        if smtp is None:
            return "no mail server is set (hub_smtp_host)"
        site = self.host.document.public_url
        text = (
            f"You are invited to the notebooks at {site}.\n\n"
            f"Open this link, pick a {'password' if made.what.name else 'name and a password'}, and you are in:\n\n{link}\n\n"
            f"It works once, and for {durations.format_duration(made.what.expires)}. If you did not expect this mail, throw it away.\n"
        )
        try:
            await asyncio.to_thread(mail.send, smtp, made.what.email, f"Your invitation to {site}", text)
        except mail.MailError as error:
            log.error("The invitation %s was not mailed: %s", made.number, error)
            return f"the mail server did not take it: {error}"
        return ""

    def find(self, token: str) -> Invite | None:
        """The invitation of a link, if it can be taken. Raises LedgerError."""
        nonce, _, signature = token.partition(".")
        if not self.native or not hmac.compare_digest(signature.encode(), self._signature(nonce).encode()):
            return None
        return next(iter(self.records.invites(self.now(), token)), None)

    async def take(self, handler: Any, token: str, name: str, password: str) -> str:
        """Make the account of whoever was invited. Returns its name. Raises Impossible with a sentence for them, and LedgerError."""
        native = handler.authenticator
        invite = self.find(token)
        if invite is None:
            raise Impossible(OVER, 410)
        name = native.normalize_username(invite.what.name or name)
        if problem := native.name_problem(name) or self._taken(handler, invite, name):
            raise Impossible(problem, 400)
        if not native.is_password_strong(password):
            raise Impossible(native.password_legal, 400)
        secret = await asyncio.to_thread(hashed, password)
        # From here on nothing else runs in between.
        if problem := self._taken(handler, invite, name):
            raise Impossible(problem, 400)
        now = self.now()
        if not self.records.take(invite, name, INVITE, now):
            raise Impossible(OVER, 410)
        try:
            self.enter(handler, name, secret, invite.what.groups)
            handler.db.commit()
        except Exception:
            handler.db.rollback()
            self.records.give_back(invite, name, now)
            raise
        self._read(self.records)
        self.host.audit.write("invite.taken", user=name, number=invite.number)
        return name

    def _taken(self, handler: Any, invite: Invite, name: str) -> str:
        """Why an invited person cannot have a name; empty where they can."""
        if handler.authenticator.user_exists(name) or self.disabled(name):
            return f"The name {name} is taken; pick another."
        if name != invite.what.name and (orm.User.find(handler.db, name) is not None or name in self.reserved()):
            # Somebody whom the hub knows without an account: theirs is the home of that name.
            return f"The name {name} is taken; pick another."
        return ""

    def withdraw(self, number: int, by: str) -> None:
        """End an invitation. Raises Impossible and LedgerError."""
        if not self.records.withdraw(number, self.now()):
            raise Impossible(f"There is no invitation {number} that could still be used.", 404)
        self.host.audit.write("invite.withdrawn", number=number, by=by)


def invited(made: Invite) -> dict[str, Any]:
    """An invitation for the API; the token is not in it."""
    from .quota import instant

    what: Invitation = made.what
    return {
        "id": made.number,
        "email": what.email,
        "name": what.name,
        "groups": list(what.groups),
        "quota": what.quota,
        "profiles": list(what.profiles),
        "until": instant(made.until),
        "by": made.by,
        "at": instant(made.at),
    }
