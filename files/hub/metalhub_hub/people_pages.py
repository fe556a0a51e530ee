"""Invitations and accounts: the page of whoever was invited, and what administrators' programs ask for."""

from __future__ import annotations

from typing import Any

from jupyterhub import orm
from jupyterhub.apihandlers import APIHandler
from jupyterhub.handlers import BaseHandler
from nativeauthenticator.orm import UserInfo
from tornado import web

from . import acting, openapi, platform
from .core import accounts
from .ledger import LedgerError
from .openapi import array, fields, integer, text, truth
from .people import OVER, Impossible, invited
from .quota import instant

AWAY = "The hub's database does not answer right now, so nothing was changed; try again in a minute."

AWAY_FAULT = {503: "The database does not answer, and nothing was changed."}
FAULTS = {400: "The body is not legal.", 409: "It cannot be done; the message says why.", **AWAY_FAULT}
_WHAT = {
    "email": text("where it is mailed"),
    "name": text("the account's name; empty where the person picks one"),
    "groups": array(text(), "groups that they are put into"),
    "quota": text("a quota of their own"),
    "profiles": array(text(), "profiles that they may start beyond those of their groups"),
}
ASKED = fields(**_WHAT, expires=text("for how long it can be used, such as 7d"))
_INVITE = {"id": integer(), **_WHAT, "until": text("until when"), "by": text("who made it"), "at": text("when")}
INVITE = fields(_INVITE)
MADE_INVITE = fields({**_INVITE, "mailed": truth(), "why": text("why it was not mailed")}, link=text("where it was not mailed"))
ACCOUNT = fields(
    {
        "name": text(),
        "state": text(enum=["active", "waiting", "disabled", "no account"]),
        "reason": text("why it is disabled"),
        "by": text("by whom"),
        "at": text("since when", null=True),
        "profiles": array(text(), "what it was given beyond its groups"),
    }
)


class Admin(APIHandler):  # type: ignore[misc]
    """What all of them share: their errors as one sentence, and answers that nobody keeps."""

    def body(self, *known: str) -> dict[str, Any]:
        """The request's object. Raises 400 for what is none, or has other keys than these."""
        found = self.get_json_body()
        found = {} if found is None else found
        if not isinstance(found, dict) or set(found) - set(known):
            legal = f"an object with {', '.join(known)}" if known else "nothing"
            raise web.HTTPError(400, f"the body is {found!r}; legal is {legal}".replace("%", "%%"))
        return found

    def text(self, body: dict[str, Any], key: str) -> str:
        value = body.get(key, "")
        if not isinstance(value, str) or len(value) > 500:
            raise web.HTTPError(400, f"{key} is {value!r}; legal is text of at most 500 characters".replace("%", "%%"))
        return value.strip()

    @property
    def who(self) -> str:
        """Who asks: of the command line the person in front of it."""
        now = acting.request.get()
        return (now.operator if now else "") or str(self.current_user.name)

    def answer(self, data: Any, status: int = 200) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_status(status)
        self.finish(data)

    def _handle_request_exception(self, error: BaseException) -> None:
        if not isinstance(error, LedgerError):
            super()._handle_request_exception(error)
            return
        self.log.error("The database does not answer: %s", error)
        try:
            raise web.HTTPError(503, AWAY) from error
        except web.HTTPError as told:
            super()._handle_request_exception(told)


class InvitesHandler(Admin):
    """GET, POST /hub/metalhub/api/invites: those that can still be used, and one more, with its link."""

    @openapi.operation("The invitations that can still be used", "admin-ui", answer=fields({"invites": array(INVITE)}), faults=AWAY_FAULT)
    async def get(self) -> None:
        people = platform.current().people
        self.answer({"invites": [invited(each) for each in people.records.invites(people.now())]})

    @openapi.operation(
        "Make an invitation, and mail it where an address is given",
        "admin-ui",
        body=ASKED,
        body_needed=False,
        answer=MADE_INVITE,
        status=201,
        faults=FAULTS,
    )
    async def post(self) -> None:
        people = platform.current().people
        groups = {group.name for group in self.db.query(orm.Group)}
        asked = self.get_json_body()
        made, link = people.invite(groups, self.authenticator, {} if asked is None else asked, self.who)
        why = await people.send(made, link) if made.what.email else ""
        mailed = bool(made.what.email) and not why
        # A link that was mailed is the business of whoever gets the mail.
        self.answer({**invited(made), "mailed": mailed, "why": why, **({} if mailed else {"link": link})}, 201)


class InviteHandler(Admin):
    """DELETE /hub/metalhub/api/invites/<id>: it cannot be used any more."""

    @openapi.operation("Take an invitation back", "admin-ui", status=204, faults=AWAY_FAULT)
    async def delete(self, number: str) -> None:
        platform.current().people.withdraw(int(number), self.who)
        self.set_status(204)


class AccountsHandler(Admin):
    """GET, POST /hub/metalhub/api/accounts: who may come in and what they were given, and more of them with passwords of words."""

    @openapi.operation("Who may come in", "admin-ui", answer=fields({"accounts": array(ACCOUNT)}), faults=AWAY_FAULT)
    async def get(self) -> None:
        people = platform.current().people
        approved = {}
        if people.native:
            approved = {account.username: bool(account.is_authorized) for account in self.db.query(UserInfo)}
        found = []
        for name in sorted(approved.keys() | {name for (name,) in self.db.query(orm.User.name)}):
            block = people.disabled(name)
            state = "disabled" if block else "active"
            if people.native and not block:
                state = {True: "active", False: "waiting"}.get(approved.get(name), "no account")
            found.append(
                {
                    "name": name,
                    "state": state,
                    "reason": block.reason if block else "",
                    "by": block.by if block else "",
                    "at": instant(block.at) if block else None,
                    "profiles": sorted(people.granted_profiles(name)),
                }
            )
        self.answer({"accounts": found})

    @openapi.operation(
        "Make accounts with passwords of words, all of them or none",
        "admin-ui",
        body=fields({"users": array(fields({"name": text()}, groups=array(text())))}),
        answer=fields({"made": array(fields({"name": text(), "password": text(), "groups": array(text())})), "kept": array(text())}),
        status=201,
        faults={200: "All of them have an account already.", **FAULTS},
    )
    async def post(self) -> None:
        body = self.body("users")
        try:
            wanted = accounts.read_people(body.get("users"))
        except ValueError as error:
            raise Impossible(str(error), 400) from None
        made, kept = await platform.current().people.add(self, wanted)
        self.answer({"made": made, "kept": kept}, 201 if made else 200)


class DisableHandler(Admin):
    """POST /hub/metalhub/api/accounts/<name>/disable, with ``{"reason": …}`` or nothing."""

    # Not `user_name`: the scope is for all users or none.
    @openapi.operation(
        "Keep a user out: no login, cookie or token of theirs is good meanwhile, and their sessions end",
        "admin-ui",
        body=fields(reason=text("why, for the audit log")),
        body_needed=False,
        answer=fields({"name": text(), "disabled": truth(), "reason": text(), "stopping": integer("sessions that end")}),
        faults=FAULTS,
    )
    async def post(self, name: str) -> None:
        host = platform.current()
        reason = self.text(self.body("reason"), "reason")
        name = self.authenticator.normalize_username(name)
        stopping = host.people.disable(self.app, name, reason, self.who)
        for spawner in stopping:
            host.sessions.end(spawner)
        self.answer({"name": name, "disabled": True, "reason": reason, "stopping": len(stopping)})


class EnableHandler(Admin):
    """POST /hub/metalhub/api/accounts/<name>/enable."""

    @openapi.operation("Let a user in again", "admin-ui", answer=fields({"name": text(), "disabled": truth()}), faults=FAULTS)
    async def post(self, name: str) -> None:
        self.body()
        name = self.authenticator.normalize_username(name)
        platform.current().people.enable(name, self.who)
        self.answer({"name": name, "disabled": False})


class InvitationPage(BaseHandler):  # type: ignore[misc]
    """GET, POST /hub/metalhub/invite?token=…: who was invited picks a name and a password, and is in."""

    async def show(self, status: int = 200, **page: Any) -> None:
        host = platform.current()
        token = self.get_argument("token", "")
        invite = None
        try:
            invite = host.people.find(token)
        except LedgerError:
            page["problem"], status = AWAY, 503
        if invite is None and not page.get("problem"):
            page["over"], status = OVER, 410
        what = invite.what if invite else None
        profiles = host.document.profiles
        self.set_status(status)
        self.set_header("Cache-Control", "no-store")
        # The page's address is the secret.
        self.set_header("Referrer-Policy", "no-referrer")
        self.finish(
            await self.render_template(
                "invite.html",
                token=token,
                invite=invite,
                fixed=what.name if what else "",
                profiles=[profiles[each].title for each in what.profiles if each in profiles] if what else [],
                minimum=getattr(self.authenticator, "minimum_password_length", 1),
                **page,
            )
        )

    async def get(self) -> None:
        await self.show()

    async def post(self) -> None:
        people = platform.current().people
        token, name = self.get_argument("token", ""), self.get_body_argument("username", "")
        password = self.get_body_argument("password", "", strip=False)
        if self.current_user is not None:
            await self.show(409)
            return
        if password != self.get_body_argument("confirmation", "", strip=False):
            await self.show(400, problem="The two passwords are not the same; type them again.", typed=name)
            return
        try:
            name = await people.take(self, token, name, password)
        except Impossible as error:
            over = error.status_code == 410
            await self.show(error.status_code, **({"over": str(error)} if over else {"problem": str(error), "typed": name}))
            return
        except LedgerError as error:
            self.log.error("The database does not answer: %s", error)
            await self.show(503, problem=AWAY, typed=name)
            return
        await self.login_user({"username": name, "password": password})
        self.redirect(self.hub.base_url + "home")


HANDLERS = [
    (r"/metalhub/invite", InvitationPage),
    (r"/metalhub/api/invites", InvitesHandler),
    (r"/metalhub/api/invites/(\d{1,9})", InviteHandler),
    (r"/metalhub/api/accounts", AccountsHandler),
    (r"/metalhub/api/accounts/([^/]+)/disable", DisableHandler),
    (r"/metalhub/api/accounts/([^/]+)/enable", EnableHandler),
]
