"""What administrators decide while the hub runs and what must outlive it: invitations, what came with them, blocks, drains of nodes.

Tables of their own in the hub's database, beside the ledger's. An invitation's token is not in them, only its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import sqlalchemy as sa

from .core.accounts import Invitation
from .ledger import Ledger

VERSION = 1

_metadata = sa.MetaData()
_schema = sa.Table("metalhub_records_schema", _metadata, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
_invites = sa.Table(
    "metalhub_invites",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("token", sa.Unicode(64), nullable=False, unique=True),
    sa.Column("what", sa.UnicodeText, nullable=False),
    sa.Column("by", sa.Unicode(255), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("taken_by", sa.Unicode(255)),
    sa.Column("taken_at", sa.BigInteger),
)
_grants = sa.Table(
    "metalhub_grants",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user", sa.Unicode(255), nullable=False),
    sa.Column("source", sa.Unicode(80), nullable=False),
    sa.Column("quota", sa.UnicodeText, nullable=False),
    sa.Column("profiles", sa.UnicodeText, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Index("metalhub_grants_user", "user"),
)
_blocks = sa.Table(
    "metalhub_blocks",
    _metadata,
    sa.Column("user", sa.Unicode(255), primary_key=True),
    sa.Column("reason", sa.UnicodeText, nullable=False),
    sa.Column("by", sa.Unicode(255), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
_drains = sa.Table(
    "metalhub_drains",
    _metadata,
    sa.Column("node", sa.Unicode(64), primary_key=True),
    sa.Column("name", sa.Unicode(255), nullable=False),
    sa.Column("reason", sa.UnicodeText, nullable=False),
    sa.Column("by", sa.Unicode(255), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("notice", sa.Integer, nullable=False),
    sa.Column("done", sa.Boolean, nullable=False),
)


@dataclass(frozen=True)
class Invite:
    """An invitation that was made; ``taken_by`` is empty while nobody took it. Times are seconds since the epoch."""

    number: int
    what: Invitation
    by: str
    at: int
    until: int
    taken_by: str = ""
    taken_at: int | None = None


@dataclass(frozen=True)
class Grant:
    """What a user has beyond the inventory: a quota's text, profiles, and where it is from."""

    user: str
    source: str
    quota: str
    profiles: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A user who may not come in."""

    user: str
    reason: str
    by: str
    at: int


@dataclass(frozen=True)
class Drain:
    """A node that is being taken out of service: at ``until`` its sessions end, announced ``notice`` seconds; ``done`` when that is so."""

    node: str
    name: str
    reason: str
    by: str
    at: int
    until: int
    notice: int
    done: bool = False


def digest(token: str) -> str:
    """What is kept of an invitation's token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Records:
    """The tables. Every method is one transaction and raises LedgerError."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def create(self) -> None:
        """Make the tables where they are missing. Raises LedgerError for those of a newer release."""
        self._ledger.make(_metadata, _schema, VERSION, "the records'")

    # Invitations

    def invite(self, token: str, what: Invitation, by: str, now: int) -> Invite:
        """Write an invitation down, by its token's digest."""
        text = {"email": what.email, "name": what.name, "groups": what.groups, "quota": what.quota, "profiles": what.profiles}
        until = now + what.expires
        values = {"token": digest(token), "what": json.dumps(text), "by": by, "at": now, "until": until}
        statement = _invites.insert().values(**values).returning(_invites.c.id)
        return Invite(int(self._ledger.change(lambda connection: connection.execute(statement).scalar_one())), what, by, now, until)

    def invites(self, now: int, token: str | None = None) -> list[Invite]:
        """Those that can still be taken, the oldest first, or the one of a token."""
        table = _invites.c
        statement = sa.select(_invites).where(table.until > now, table.taken_at.is_(None)).order_by(table.id)
        if token is not None:
            statement = statement.where(table.token == digest(token))
        found = []
        for row in self._ledger.do(lambda connection: connection.execute(statement).mappings().all()):
            what = json.loads(row["what"])
            asked = Invitation(
                what["email"], what["name"], tuple(what["groups"]), what["quota"], tuple(what["profiles"]), row["until"] - row["at"]
            )
            found.append(Invite(row["id"], asked, row["by"], row["at"], row["until"], row["taken_by"] or "", row["taken_at"]))
        return found

    def take(self, invite: Invite, user: str, source: str, now: int) -> bool:
        """Use an invitation up for a user, and give them what comes with it, all in one step. False where it cannot be taken any more."""
        table, what = _invites.c, invite.what
        take = sa.update(_invites).where(table.id == invite.number, table.taken_at.is_(None), table.until > now)

        def work(connection: sa.Connection) -> bool:
            if not connection.execute(take.values(taken_at=now, taken_by=user)).rowcount:
                return False
            if what.quota or what.profiles:
                values = {"user": user, "source": source, "quota": what.quota, "profiles": json.dumps(what.profiles), "at": now}
                connection.execute(_grants.insert().values(**values))
            return True

        return bool(self._ledger.change(work))

    def give_back(self, invite: Invite, user: str, now: int) -> None:
        """Undo ``take``: the account could not be made after all."""
        table, grants = _invites.c, _grants.c

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.update(_invites).where(table.id == invite.number).values(taken_at=None, taken_by=None))
            connection.execute(sa.delete(_grants).where(grants.user == user, grants.at == now))

        self._ledger.change(work)

    def withdraw(self, number: int, now: int) -> bool:
        """End an invitation. Returns whether there was one to end."""
        table = _invites.c
        statement = sa.update(_invites).where(table.id == number, table.taken_at.is_(None), table.until > now).values(until=now)
        return bool(self._ledger.change(lambda connection: connection.execute(statement).rowcount))

    # Grants and blocks

    def grants(self) -> list[Grant]:
        """All grants, the oldest first."""
        statement = sa.select(_grants).order_by(_grants.c.id)
        rows = self._ledger.do(lambda connection: connection.execute(statement).mappings().all())
        return [Grant(row["user"], row["source"], row["quota"], tuple(json.loads(row["profiles"]))) for row in rows]

    def forget(self, user: str) -> None:
        """A user is gone for good: nothing of them is left for the next one of that name."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(_grants).where(_grants.c.user == user))
            connection.execute(sa.delete(_blocks).where(_blocks.c.user == user))

        self._ledger.change(work)

    def blocks(self) -> list[Block]:
        """All who may not come in."""
        rows = self._ledger.do(lambda connection: connection.execute(sa.select(_blocks)).mappings().all())
        return [Block(row["user"], row["reason"], row["by"], row["at"]) for row in rows]

    def block(self, block: Block) -> None:
        """Keep somebody out; who is kept out already gets the newer reason."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(_blocks).where(_blocks.c.user == block.user))
            connection.execute(_blocks.insert().values(user=block.user, reason=block.reason, by=block.by, at=block.at))

        self._ledger.change(work)

    def unblock(self, user: str) -> bool:
        """Let somebody in again. Returns whether they were kept out."""
        statement = sa.delete(_blocks).where(_blocks.c.user == user)
        return bool(self._ledger.change(lambda connection: connection.execute(statement).rowcount))

    # Drains

    def drains(self) -> list[Drain]:
        """All nodes that are drained or will be."""
        rows = self._ledger.do(lambda connection: connection.execute(sa.select(_drains)).mappings().all())
        return [Drain(**row) for row in rows]

    def drain(self, drain: Drain) -> None:
        """Write a node's drain down, instead of what was said of that node before."""

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(_drains).where(_drains.c.node == drain.node))
            names = ("node", "name", "reason", "by", "at", "until", "notice", "done")
            connection.execute(_drains.insert().values(**{name: getattr(drain, name) for name in names}))

        self._ledger.change(work)

    def undrain(self, node: str) -> bool:
        """Forget a node's drain. Returns whether there was one."""
        statement = sa.delete(_drains).where(_drains.c.node == node)
        return bool(self._ledger.change(lambda connection: connection.execute(statement).rowcount))
