"""What all of the command line's nouns share: how they are declared, what they answer with, and their exit codes."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from .api import Hub

Read = TypeVar("Read")

EXIT_CODES = {
    0: "done",
    1: "refused, not found, or a log that was changed",
    2: "wrong usage: nothing was asked of the hub",
    3: "the hub does not answer, or its configuration cannot be read",
}


class Stop(Exception):
    """The end of a command, with one message for people."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Usage(Stop):
    """An argument that is not legal: nothing was asked of the hub."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 2)


def legal(name: str, read: Callable[[str], Read], text: str) -> Read:
    """An argument's value. Raises Usage for what ``read`` refuses by ValueError."""
    try:
        return read(text)
    except ValueError as error:
        raise Usage(f"{name}: {error}") from None


@dataclass(frozen=True)
class Argument:
    """A verb's argument, or an option where the name begins with ``--``. ``settings`` are argparse's."""

    name: str
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verb:
    """``run`` gets the Ask, and returns the exit code or nothing. It raises Stop; ``json`` is whether it has ``--json``."""

    name: str
    help: str
    run: Callable[[Ask], int | None]
    arguments: tuple[Argument, ...] = ()
    json: bool = True

    @property
    def all_arguments(self) -> tuple[Argument, ...]:
        return (*self.arguments, JSON) if self.json else self.arguments


@dataclass(frozen=True)
class Noun:
    name: str
    help: str
    verbs: tuple[Verb, ...]


JSON = Argument("--json", "print JSON instead of a table", {"action": "store_true"})

# A column's title, and its text for a row.
Column = tuple[str, Callable[[Mapping[str, Any]], object]]


class Ask:
    """One call of the command: its arguments, the hub, and where the answer goes."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    @functools.cached_property
    def hub(self) -> Hub:
        return Hub.local()

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
        """Print rows, or with ``--json`` a list of objects."""
        if self.options.json:
            self.json(list(rows))
            return
        texts = [[title for title, _ in columns], *([str(text(row)) for _, text in columns] for row in rows)]
        widths = [max(len(line[number]) for line in texts) for number in range(len(columns))]
        for line in texts:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())

    def one(self, row: Mapping[str, Any], columns: Sequence[Column]) -> None:
        """Print one thing, a line a fact, or with ``--json`` an object."""
        if self.options.json:
            self.json(row)
            return
        width = max(len(title) for title, _ in columns)
        for title, text in columns:
            print(f"{title.ljust(width)}  {text(row)}".rstrip())

    def done(self, answer: Any, words: str) -> None:
        """Print that something was done, or with ``--json`` what the hub answered."""
        if self.options.json:
            self.json(answer)
        else:
            print(words)

    def json(self, data: Any) -> None:
        print(json.dumps(data, ensure_ascii=False, indent=2))


class Parser(argparse.ArgumentParser):
    """One line for a mistake, instead of the whole usage before it."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def parser(nouns: Iterable[Noun]) -> argparse.ArgumentParser:
    """The parser of the whole command."""
    codes = "\n".join(f"  {code}  {words}" for code, words in EXIT_CODES.items())
    top = Parser(
        prog="metalhub",
        description="Administer the platform from its control host, as root.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    below = top.add_subparsers(metavar="NOUN", required=True, dest="noun")
    for noun in nouns:
        part = below.add_parser(noun.name, help=noun.help, description=noun.help, allow_abbrev=False)
        verbs = part.add_subparsers(metavar="VERB", required=True, dest="verb")
        for verb in noun.verbs:
            one = verbs.add_parser(verb.name, help=verb.help, description=verb.help, allow_abbrev=False)
            for argument in verb.all_arguments:
                one.add_argument(argument.name, help=argument.help, **argument.settings)
            one.set_defaults(run=verb.run, prog=one.prog)
    return top
