"""Ansible's own loader of collections, once and before any test imports from the collection."""

from pathlib import Path

from ansible.plugins.loader import init_plugin_loader
from hypothesis import settings

init_plugin_loader([str(Path(__file__).parents[2] / "collections")])

# How long an example takes says something of the machine, nothing of the code.
settings.register_profile("metalhub", deadline=None)
settings.load_profile("metalhub")
