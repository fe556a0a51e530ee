"""All nouns, in the order of the help."""

from __future__ import annotations

from . import audit, completion, node, session, user

NOUNS = (session.NOUN, user.NOUN, node.NOUN, audit.NOUN, completion.NOUN)
