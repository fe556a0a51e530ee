"""The images of a site in build order, each with the tag that says what it is made of."""

from __future__ import annotations

DOCUMENTATION = r"""
name: image_plan
short_description: Images in build order, each with its tag
version_added: 0.1.0
author: The Metalhub authors (@metalhub)
description:
  - Reads the build contexts on the controller. The tag is a digest of all that goes into an image, so that one with its tag in the
    registry needs no build.
options:
  _terms:
    description: The images, each a dict by name with one of C(build), C(reference) and C(archive).
    required: true
  extra_ca:
    description: A file that every build gets as C(extra-ca.crt).
    type: str
    default: ""
  base_image:
    description: The image that those are built on which do not name one of the site's.
    type: str
    default: ""
  arguments:
    description: Further build arguments.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show the tags
  ansible.builtin.debug:
    msg: "{{ lookup('metalhub.platform.image_plan', {'lab': {'build': 'lab'}}) }}"
"""

RETURN = r"""
_list:
  description: One dict an image, with C(name), C(tag), C(kind), and C(base), the image of the site that it is built on.
  type: list
"""

import dataclasses  # noqa: E402
import typing as t  # noqa: E402

from ansible.plugins.lookup import LookupBase  # noqa: E402
from ansible_collections.metalhub.platform.plugins.plugin_utils.images import read_plan  # noqa: E402


class LookupModule(LookupBase):
    def run(self, terms: list[t.Any], variables: t.Any = None, **kwargs: t.Any) -> list[dict[str, t.Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        images = {name: image for term in terms for name, image in term.items()}
        plan = read_plan(images, self.get_option("extra_ca"), self.get_option("base_image"), self.get_option("arguments"))
        return [dataclasses.asdict(item) for item in plan]
