"""What was refused (or, for classes that log all, let through): one JSON line each, repeated ones counted, in files of a bounded size."""

from __future__ import annotations

import collections
import json
import os
import threading
import time
import typing as t

Key = tuple[t.Any, ...]
FIELDS = ("verdict", "source", "class", "destination", "port", "protocol", "via", "reason")


class Journal:
    """Writes lines, and never makes anybody wait: what comes faster than the disk takes it is counted and dropped.

    The first of its kind is written at once; more of the same within `window` seconds are one line at its end, with their number.
    `describe` turns a session's address into the fields that say whose it is; it may take its time, for it runs in the writer's thread.
    """

    def __init__(
        self,
        path: str,
        describe: t.Callable[[str], t.Mapping[str, str]],
        *,
        size: int = 16 * 2**20,
        files: int = 4,
        window: float = 60,
        capacity: int = 10_000,
        clock: t.Callable[[], float] = time.time,
    ) -> None:
        self._path, self._describe, self._size, self._files = path, describe, size, files
        self._window, self._capacity, self._clock = window, capacity, clock
        self._lock = threading.Condition()
        self._queue: collections.deque[tuple[float, Key, int]] = collections.deque()
        self._repeated: dict[Key, tuple[float, int]] = {}
        self.dropped = 0
        self.counts: collections.Counter[tuple[str, str, str, str]] = collections.Counter()

    def note(self, **fields: t.Any) -> None:
        """Note one refusal; `fields` are those of FIELDS. Returns at once."""
        key = tuple(fields[name] for name in FIELDS)
        now = self._clock()
        with self._lock:
            self.counts[(fields["class"], fields["verdict"], fields["via"], fields["reason"])] += 1
            if key in self._repeated:
                first, count = self._repeated[key]
                self._repeated[key] = (first, count + 1)
            elif len(self._queue) >= self._capacity or len(self._repeated) >= self._capacity:
                self.dropped += 1
            else:
                self._repeated[key] = (now, 0)
                self._queue.append((now, key, 1))
                self._lock.notify()

    def run(self) -> None:
        """Write for ever; the body of a thread."""
        while True:
            with self._lock:
                if not self._queue:
                    self._lock.wait(1)
            self.write()

    def write(self, final: bool = False) -> None:
        """Write what is due now; with `final`, also what is still being counted."""
        now = self._clock()
        with self._lock:
            due = list(self._queue)
            self._queue.clear()
            for key, (first, count) in list(self._repeated.items()):
                if final or now - first >= self._window:
                    del self._repeated[key]
                    if count:
                        due.append((now, key, count))
        if due:
            self._append("".join(self._line(*one) for one in due))

    def _line(self, when: float, key: Key, count: int) -> str:
        fields = {name: key[place] for place, name in enumerate(FIELDS)}
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
        return json.dumps({"time": stamp, **self._describe(fields["source"]), **fields, "count": count}, sort_keys=True) + "\n"

    def _append(self, text: str) -> None:
        try:
            if os.path.exists(self._path) and os.path.getsize(self._path) + len(text) > self._size:
                for number in range(self._files - 1, 0, -1):
                    older = self._path if number == 1 else f"{self._path}.{number - 1}"
                    if os.path.exists(older):
                        os.replace(older, f"{self._path}.{number}")
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:  # a full disk: traffic goes on being judged, the count says what is missing
            self.dropped += text.count("\n")
            print(f"{self._path}: {error.strerror}", flush=True)

    def lines(self, since: str = "") -> t.Iterator[dict[str, t.Any]]:
        """What was written at or after a time (as in a line's `time`), the oldest first."""
        for number in range(self._files - 1, -1, -1):
            try:
                with open(f"{self._path}.{number}" if number else self._path, encoding="utf-8") as stream:
                    for text in stream:
                        line = json.loads(text)
                        if line["time"] >= since:
                            yield line
            except FileNotFoundError:
                continue
