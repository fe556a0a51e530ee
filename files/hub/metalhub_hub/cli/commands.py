"""All nouns, in the order of the help."""

from __future__ import annotations

from . import audit, completion, node, profile, queue, quota, session, snapshot, usage, user

NOUNS = (session.NOUN, snapshot.NOUN, user.NOUN, node.NOUN, profile.NOUN, queue.NOUN, quota.NOUN, usage.NOUN, audit.NOUN, completion.NOUN)
