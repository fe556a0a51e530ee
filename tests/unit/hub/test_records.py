"""What administrators decide is written while the hub itself is halfway through a write to the same file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyterhub import orm
from metalhub_hub.core.accounts import Invitation
from metalhub_hub.ledger import Ledger, LedgerError
from metalhub_hub.records import Block, Drain, Records
from sqlalchemy.orm import Session

DRAIN = Drain("id-compute1", "compute1", "a fan", "admin", 0, 60, 30)
BLOCK = Block("ann", "left", "admin", 0)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Session]:
    """The hub's own session with the database, which makes its tables."""
    made = orm.new_session_factory(f"sqlite:///{tmp_path}/hub.sqlite")()
    yield made
    made.close()


@pytest.fixture
def make(tmp_path: Path, hub: Session) -> Iterator[Callable[..., Records]]:
    made: list[Ledger] = []

    def build(settle: Callable[[], Any], tables: bool = True) -> Records:
        made.append(Ledger(f"sqlite:///{tmp_path}/hub.sqlite", "one", settle))
        made[-1].create()
        book = Records(made[-1])
        if tables:
            book.create()
        return book

    yield build
    for each in made:
        each.close()


def begin(hub: Session) -> None:
    """A start is halfway: JupyterHub flushes and goes on to wait for something."""
    hub.add(orm.User(name="zoe"))
    hub.flush()


def taken(book: Records) -> None:
    invite = book.invite("token", Invitation(quota="sessions=9"), "admin", 0)
    assert book.take(invite, "ann", "invite", 1)


@pytest.mark.parametrize(
    ("before", "write"),
    [
        (None, lambda book: book.create()),
        (lambda book: None, lambda book: book.invite("token", Invitation(), "admin", 0)),
        (lambda book: book.invite("token", Invitation(quota="sessions=9"), "admin", 0), lambda book: book.take(*book.invites(0), "ann", "invite", 1)),
        (taken, lambda book: book.forget("ann")),
        (lambda book: book.invite("token", Invitation(), "admin", 0), lambda book: book.give_back(*book.invites(0), "ann", 1)),
        (lambda book: book.invite("token", Invitation(), "admin", 0), lambda book: book.withdraw(1, 1)),
        (lambda book: None, lambda book: book.block(BLOCK)),
        (lambda book: book.block(BLOCK), lambda book: book.unblock("ann")),
        (lambda book: None, lambda book: book.drain(DRAIN)),
        (lambda book: book.drain(DRAIN), lambda book: book.undrain(DRAIN.node)),
    ],
    ids=["create", "invite", "take", "forget", "give back", "withdraw", "block", "unblock", "drain", "undrain"],
)
def test_what_the_hub_has_not_committed_yet_does_not_lock_the_records(
    make: Callable[..., Records], hub: Session, before: Callable[[Records], Any] | None, write: Callable[[Records], Any]
) -> None:
    book = make(hub.commit, tables=before is not None)
    if before is not None:
        before(book)
    begin(hub)
    assert write(book) is not False
    assert hub.query(orm.User).count() == 1


def test_without_that_it_would(make: Callable[..., Records], hub: Session) -> None:
    book = make(lambda: None)
    begin(hub)
    with pytest.raises(LedgerError, match="database is locked"):
        book.block(BLOCK)
    hub.rollback()
    book.block(BLOCK)
    assert book.blocks() == [BLOCK]
