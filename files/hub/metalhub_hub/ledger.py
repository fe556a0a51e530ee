"""The ledger of allocations: intervals in tables of its own in the hub's database.

An interval says that a session held a resource from ``started`` to ``ended``; while it is open, ``seen`` is the last heartbeat at which the
hub knew it to be held. Each change is one transaction, so that a hub killed anywhere leaves either all of it or nothing. A hub writes the
id of its process (``run``) into what it knows to be held, and its heartbeat moves only those: what another process left open counts to
that one's last heartbeat until its session is found again (then the time in between was held, too, and counts) or is not (then it is
closed there).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from .core.quotas import Key, Override, Span
from .core.showback import SESSION, Interval

VERSION = 1

# Not JupyterHub's metadata: its revisions and ours must not know of each other.
_metadata = sa.MetaData()
_schema = sa.Table("metalhub_ledger_schema", _metadata, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
_intervals = sa.Table(
    "metalhub_ledger",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user", sa.Unicode(255), nullable=False),
    sa.Column("server", sa.Unicode(255), nullable=False),
    sa.Column("session", sa.Unicode(80), nullable=False),
    sa.Column("profile", sa.Unicode(80), nullable=False),
    sa.Column("groups", sa.UnicodeText, nullable=False),
    sa.Column("resource", sa.Unicode(80), nullable=False),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("memory", sa.BigInteger, nullable=False),
    sa.Column("started", sa.BigInteger, nullable=False),
    sa.Column("ended", sa.BigInteger),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sa.Column("run", sa.Unicode(32), nullable=False),
    sa.Index("metalhub_ledger_user", "user", "ended"),
    sa.Index("metalhub_ledger_ended", "ended"),
    sa.Index("metalhub_ledger_session", "session"),
)
_overrides = sa.Table(
    "metalhub_quota_overrides",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user", sa.Unicode(255), nullable=False),
    sa.Column("resource", sa.Unicode(80), nullable=False),
    sa.Column("extra", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.UnicodeText, nullable=False),
    sa.Column("by", sa.Unicode(255), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Index("metalhub_quota_overrides_until", "until"),
)


class LedgerError(Exception):
    """The database did not take or give something; what it says is the message."""


@dataclass(frozen=True)
class Held:
    """One open interval. ``sure``: this process knows that it is held."""

    user: str
    server: str
    session: str
    profile: str
    groups: tuple[str, ...]
    resource: str
    count: int
    memory: int
    started: int
    seen: int
    sure: bool = True


@dataclass(frozen=True)
class Granted:
    """An override that is in the ledger: whose, by whom and when it was given."""

    number: int
    user: str
    override: Override
    by: str
    at: int


class Ledger:
    """The tables. Every method is one transaction and raises LedgerError; times are whole seconds since the epoch."""

    def __init__(self, url: str, run: str, settle: Callable[[], Any] = lambda: None) -> None:
        self.run, self.settle = run, settle
        # The hub writes to the same SQLite file from the same thread: waiting long for it would be waiting for oneself. So ``settle``
        # ends, before each change, what the hub has begun to write.
        arguments = {"check_same_thread": False, "timeout": 1} if url.startswith("sqlite") else {}
        self.engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"), connect_args=arguments)

    def create(self) -> None:
        """Make the tables where they are missing. Raises LedgerError for those of a newer release."""
        self.make(_metadata, _schema, VERSION, "the ledger's")

    def make(self, tables: sa.MetaData, schema: sa.Table, version: int, whose: str) -> None:
        """The same for any tables in this database; in ``schema`` is their version."""

        def work(connection: sa.Connection) -> None:
            tables.create_all(connection)
            found = connection.execute(sa.select(sa.func.max(schema.c.version))).scalar()
            if found is None:
                connection.execute(schema.insert().values(version=version))
            elif found > version:
                raise LedgerError(f"{whose} tables are of version {found}, and this release knows {version}: install the newer one")

        self.change(work)

    def close(self) -> None:
        """Let go of the database."""
        self.engine.dispose()

    def do(self, work: Callable[[sa.Connection], Any]) -> Any:
        """Do something in a transaction, which goes by ``change`` where it writes. Raises LedgerError."""
        try:
            with self.engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise LedgerError(str(error.__cause__ or error)) from error

    def change(self, work: Callable[[sa.Connection], Any]) -> Any:
        """Write something, in a transaction. Raises LedgerError."""
        try:
            self.settle()
        except SQLAlchemyError as error:
            raise LedgerError(str(error.__cause__ or error)) from error
        return self.do(work)

    # Intervals

    def begin(self, rows: Sequence[Held], stale: str = "", at: int = 0) -> None:
        """Open intervals; in the same step the session ``stale`` is closed, which a second try replaces."""
        values = [
            {
                "user": row.user,
                "server": row.server,
                "session": row.session,
                "profile": row.profile,
                "groups": json.dumps(row.groups),
                "resource": row.resource,
                "count": row.count,
                "memory": row.memory,
                "started": row.started,
                "seen": row.seen,
                "run": self.run,
            }
            for row in rows
        ]

        def work(connection: sa.Connection) -> None:
            if stale:
                connection.execute(self._ending(stale, at))
            connection.execute(_intervals.insert(), values)

        self.change(work)

    def _ending(self, session: str, at: int, resources: Collection[str] | None = None) -> sa.Update:
        table = _intervals.c
        # What this process does not know to be held counts to its last heartbeat; and no interval ends before it begins.
        end = sa.case((table.run != self.run, table.seen), (table.started > at, table.started), else_=at)
        found = sa.update(_intervals).where(table.session == session, table.ended.is_(None)).values(ended=end)
        return found.where(table.resource.in_(resources)) if resources is not None else found

    def end(self, session: str, at: int, resources: Collection[str] | None = None) -> None:
        """Close a session's open intervals, or those of some resources. Those that are closed stay as they are."""
        self.change(lambda connection: connection.execute(self._ending(session, at, resources)))

    def adopt(self, session: str, at: int) -> None:
        """A session that another process left open is held still."""
        table = _intervals.c
        statement = sa.update(_intervals).where(table.session == session, table.ended.is_(None)).values(run=self.run, seen=at)
        self.change(lambda connection: connection.execute(statement))

    def beat(self, at: int) -> None:
        """The heartbeat: all that this process knows to be held was held until now."""
        table = _intervals.c
        statement = sa.update(_intervals).where(table.ended.is_(None), table.run == self.run, table.seen < at).values(seen=at)
        self.change(lambda connection: connection.execute(statement))

    def shift(self, before: int, after: int) -> None:
        """The clock was set: what is held ends at ``before`` by the old time and goes on from ``after`` by the new one."""
        table, names = _intervals.c, [column.name for column in _intervals.columns if column.name != "id"]
        held = (table.ended.is_(None), table.run == self.run)

        def work(connection: sa.Connection) -> None:
            # The copies are told from the originals by their run until those are closed.
            now: sa.ColumnElement[Any] = sa.literal(after)
            changed = {"started": now, "seen": now, "run": sa.literal(f"{self.run}+")}
            copies = sa.select(*(changed.get(name, table[name]).label(name) for name in names)).where(*held)
            connection.execute(_intervals.insert().from_select(names, copies))
            end = sa.case((table.started > before, table.started), else_=before)
            connection.execute(sa.update(_intervals).where(*held).values(ended=end))
            connection.execute(sa.update(_intervals).where(table.run == f"{self.run}+").values(run=self.run))

        self.change(work)

    def held(self) -> list[Held]:
        """All open intervals, the oldest first."""
        statement = sa.select(_intervals).where(_intervals.c.ended.is_(None)).order_by(_intervals.c.id)
        rows = self.do(lambda connection: connection.execute(statement).mappings().all())
        return [
            Held(
                row["user"], row["server"], row["session"], row["profile"], tuple(json.loads(row["groups"])), row["resource"],
                row["count"], row["memory"], row["started"], row["seen"], row["run"] == self.run,
            )
            for row in rows
        ]  # fmt: skip

    def seconds(self, spans: Mapping[str, Span], users: Collection[str] | None = None) -> dict[str, dict[Key, int]]:
        """Of each user, or of these, the seconds of closed intervals by resource and window. Who has none is missing."""
        table = _intervals.c
        sums = []
        for window, span in spans.items():
            end = sa.case((table.ended > span.end, span.end), else_=table.ended)
            start = sa.case((table.started < span.start, span.start), else_=table.started)
            inside = sa.case((end > start, (end - start) * table.count), else_=0)
            sums.append(sa.func.sum(inside).label(window))
        earliest = min(span.start for span in spans.values())
        statement = (
            sa.select(table.user, table.resource, *sums)
            .where(table.ended > earliest, table.resource != SESSION)
            .group_by(table.user, table.resource)
        )
        if users is not None:
            statement = statement.where(table.user.in_(users))
        found: dict[str, dict[Key, int]] = {}
        for row in self.do(lambda connection: connection.execute(statement).mappings().all()):
            own = found.setdefault(row["user"], {})
            own.update({(row["resource"], window): int(row[window]) for window in spans})
        return found

    def intervals(self, span: Span) -> list[Interval]:
        """All that reaches into a span of time; what is open, up to its last heartbeat."""
        table = _intervals.c
        end = sa.func.coalesce(table.ended, table.seen)
        columns = (table.user, table.groups, table.profile, table.resource, table.count, table.memory, table.started, end)
        statement = sa.select(*columns).where(
            table.started < span.end, sa.or_(table.ended > span.start, sa.and_(table.ended.is_(None), table.seen > span.start))
        )
        groups: dict[str, tuple[str, ...]] = {}
        found = []
        for user, text, *rest in self.do(lambda connection: connection.execute(statement).all()):
            if text not in groups:
                groups[text] = tuple(json.loads(text))
            found.append(Interval(user, groups[text], *rest))
        return found

    def running(self) -> list[tuple[str, str, int, int, int]]:
        """Of each session that holds something: its name, and a resource, its count, its memory and the seconds by now, closed ones too."""
        table = _intervals.c
        seconds = sa.func.sum(sa.func.coalesce(table.ended, table.seen) - table.started)
        held = sa.select(table.session).where(table.ended.is_(None))
        key = (table.session, table.resource, table.count, table.memory)
        statement = sa.select(*key, seconds).where(table.session.in_(held)).group_by(*key)
        return [(*row[:4], int(row[4])) for row in self.do(lambda connection: connection.execute(statement).all())]

    def lasted(self, since: int) -> dict[str, list[float]]:
        """How long sessions lasted that ended after an instant, in seconds and the shortest first, by their profile."""
        table = _intervals.c
        seconds = table.ended - table.started
        statement = sa.select(table.profile, seconds).where(table.ended > since, table.resource == SESSION).order_by(seconds)
        found: dict[str, list[float]] = {}
        for profile, number in self.do(lambda connection: connection.execute(statement).all()):
            found.setdefault(profile, []).append(float(number))
        return found

    # Overrides

    def grant(self, user: str, override: Override, by: str, at: int) -> int:
        """Write an override down. Returns its number."""
        values = {"user": user, "resource": override.resource, "extra": override.extra, "until": override.until}
        statement = _overrides.insert().values(**values, reason=override.reason, by=by, at=at)
        with_number = statement.returning(_overrides.c.id)
        return int(self.change(lambda connection: connection.execute(with_number).scalar_one()))

    def revoke(self, number: int, at: int) -> bool:
        """End an override now. Returns whether there was one to end; it stays in the table."""
        table = _overrides.c
        statement = sa.update(_overrides).where(table.id == number, table.until > at).values(until=at)
        return bool(self.change(lambda connection: connection.execute(statement).rowcount))

    def granted(self, now: int) -> list[Granted]:
        """The overrides that have not ended, the oldest first."""
        statement = sa.select(_overrides).where(_overrides.c.until > now).order_by(_overrides.c.id)
        rows: Iterable[Any] = self.do(lambda connection: connection.execute(statement).mappings().all())
        return [
            Granted(row["id"], row["user"], Override(row["resource"], row["extra"], row["until"], row["reason"]), row["by"], row["at"])
            for row in rows
        ]
