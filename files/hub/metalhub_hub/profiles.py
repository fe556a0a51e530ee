"""The profiles that hold: the inventory's, and what administrators changed at runtime. The rules are core.profiles'."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import config, durable
from .audit import Audit
from .config import Document, DocumentError, Profile
from .core import profiles as rules
from .core.profiles import Difference, Entry, ProfileRefused

log = logging.getLogger("metalhub")

FILE = "profiles.json"
# What is told of a change by its name alone: these may hold what is nobody's business.
UNTOLD = ("environment", "startup")


class Profiles:
    """One a process. ``document`` has the profiles that hold now, ``broken`` those that name what is no longer there, with the reason."""

    def __init__(self, document: Document, audit: Audit, clock: Callable[[], float] = time.time) -> None:
        self.written, self.document, self.audit, self.clock = document, document, audit, clock
        self.broken: dict[str, str] = {}
        self.path = Path(document.state) / FILE
        # Of the document that the last change was made against.
        self._digest, self.runtime = durable.read(self.path, self._understand, (document.digest, {}))
        if self.runtime and self._digest != document.digest:
            self.converge("a converge wrote a new configuration")
        self._hold()

    @staticmethod
    def _understand(data: dict[str, Any]) -> tuple[str, dict[str, Entry]]:
        return str(data["document"]), rules.read_runtime(data["profiles"])

    def _hold(self) -> None:
        """Work out the profiles that hold."""
        held: dict[str, Profile] = {}
        self.broken = {}
        for name, entry in self.entries().items():
            faults = [*rules.profile_faults(f"profiles.{name}", entry, self.written.world)]
            try:
                if faults:
                    raise DocumentError([rules.words(fault) for fault in faults])
                held[name] = config.read_profile(self.written, name, entry)
            except DocumentError as error:
                self.broken[name] = str(error)
                log.error("The profile %s is broken, so nobody can start it: %s", name, error)
        self.document = dataclasses.replace(self.written, profiles=held)

    def _keep(self, runtime: dict[str, Entry]) -> None:
        """Write the changes down, and let them hold. Raises OSError, and then all is as it was."""
        pending = any(not each.stays for each in rules.differences(self.written.inventory, runtime))
        # The role asks for `pending`, to know whether a converge has anything to do.
        durable.write(self.path, document=self.written.digest, pending=pending, profiles=rules.plain_runtime(runtime))
        self.runtime, self._digest = runtime, self.written.digest
        self._hold()

    def entries(self) -> dict[str, dict[str, object]]:
        """All profiles as an inventory would write them."""
        return rules.merged(self.written.inventory, self.runtime)

    def change(self, name: str, values: object, how: str, by: str) -> list[str]:
        """Create, change or replace a profile, see core.profiles.changed. Returns doubts. Raises ProfileRefused and OSError."""
        known = name in self.entries()
        runtime = rules.changed(
            self.runtime, self.written.inventory, self.written.world, name, values, how=how, by=by, at=int(self.clock())
        )
        entry = rules.merged(self.written.inventory, runtime)[name]
        try:
            config.read_profile(self.written, name, entry)
        except DocumentError as error:
            raise ProfileRefused("bad", str(error)) from None
        if runtime != self.runtime:
            before = self.runtime.get(name, Entry()).fields
            self._keep(runtime)
            after = runtime.get(name, Entry()).fields
            told = {key: value.value for key, value in after.items() if before.get(key) != value and key not in UNTOLD}
            untold = [key for key, value in after.items() if before.get(key) != value and key in UNTOLD]
            facts = {"set": told, "also": untold, "dropped": sorted(before.keys() - after.keys())}
            self.audit.write("profile.changed" if known else "profile.created", profile=name, by=by, **facts)
        return [rules.words(fault) for fault in rules.profile_doubts(f"profiles.{name}", entry)]

    def delete(self, name: str, by: str) -> None:
        """Delete a profile that was made at runtime. Raises ProfileRefused and OSError."""
        self._keep(rules.deleted(self.runtime, self.written.inventory, name))
        self.audit.write("profile.deleted", profile=name, by=by)

    def converge(self, why: str) -> list[Difference]:
        """Let the inventory's own fields win. Returns what was dropped."""
        runtime, dropped = rules.converged(self.written.inventory, self.runtime)
        for each in dropped:
            log.warning("The inventory wins over profiles.%s.%s, which %s had changed: %s", each.profile, each.field, each.change.by, why)
        try:
            self._keep(runtime)
        except OSError as error:
            # The next start, or the next converge, does it again.
            log.error("Cannot write %s: %s", self.path, error)
            self.runtime = runtime
            self._hold()
        if dropped:
            self.audit.write("profile.converged", dropped=[f"{each.profile}.{each.field}" for each in dropped])
        return dropped

    # For the API

    def view(self, name: str) -> dict[str, Any]:
        """A profile: what it is now, where each change comes from, and what the next converge does with it. Raises KeyError."""
        entry = self.entries()[name]
        changes = [each for each in rules.differences(self.written.inventory, self.runtime) if each.profile == name]
        return {
            "name": name,
            "inventory": name in self.written.inventory,
            "broken": self.broken.get(name, ""),
            "fields": entry,
            "changes": [
                {
                    "field": each.field,
                    "by": each.change.by,
                    "at": each.change.at,
                    "inventory": each.inventory,
                    "stays": each.stays,
                }
                for each in changes
            ],
        }
