"""Ansible's own loader of collections, once and before any test imports from the collection."""

from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

init_plugin_loader([str(Path(__file__).parents[2] / "collections")])
