#!/usr/bin/python
"""Build or fetch an image and push it to the platform's registry."""

DOCUMENTATION = r"""
module: image_publish
short_description: Build, load or mirror an image, and push it to a registry
version_added: 0.1.0
description:
  - Runs on the host that builds, by its engine's API. A build context or an archive is on the controller and is brought there.
  - It always does its work; see first whether the registry has the tag.
options:
  build:
    description: A directory of C(files/images), or an absolute path on the controller, with a C(Dockerfile).
    type: str
  archive:
    description: A file on the controller, made by C(docker save), with one image.
    type: path
  reference:
    description: An image in another registry, pinned by its digest.
    type: str
  extra_ca:
    description: A file on the controller that the build finds as C(extra-ca.crt).
    type: path
  build_args:
    description: Build arguments.
    type: dict
    default: {}
  registry:
    description: Host and port of the registry to push to.
    type: str
    required: true
  name:
    description: Name of the image in the registry.
    type: str
    required: true
  tag:
    description: Tag to push.
    type: str
    required: true
  username:
    description: Account that may push.
    type: str
    default: push
  password:
    description: Its password.
    type: str
    required: true
  ca:
    description: PEM of the authority of the registry's certificate.
    type: str
    required: true
  keep:
    description: Digests of images that stay in the registry. With any given, the others with this name but the new one are removed from it.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Says that it would push.
    support: full
  diff_mode:
    description: Has nothing to show.
    support: none
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Build and push
  metalhub.platform.image_publish:
    build: lab
    registry: 10.0.0.5:5001
    name: lab
    tag: "{{ tag }}"
    password: "{{ password }}"
    ca: "{{ ca }}"
"""

RETURN = r"""
digest:
  description: The digest by which the registry knows the image; empty in check mode.
  returned: success
  type: str
removed:
  description: Digests that were removed from the registry.
  returned: when something was pushed
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.engine_api import EngineError  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.image_engine import ImageEngine, Registry  # noqa: E402


def publish(parameters):
    """Bring the image to the engine, push it, and return its digest and what was removed. Raises EngineError."""
    registry, name, tag = parameters["registry"], parameters["name"], parameters["tag"]
    account = parameters["username"], parameters["password"]
    engine = ImageEngine(registry, *account)
    repository = f"{registry}/{name}"
    if parameters["kind"] == "build":
        with open(parameters["path"], "rb") as context:
            engine.build(context, f"{repository}:{tag}", parameters["build_args"])
    else:
        if parameters["kind"] == "archive":
            with open(parameters["path"], "rb") as archive:
                source = engine.load(archive)
        else:
            source = parameters["reference"]
            engine.pull(source)
        engine.tag(source, repository, tag)
    engine.push(repository, tag)
    catalogue = Registry(registry, *account, parameters["ca"])
    digest = catalogue.digest(name, tag)
    if not digest:
        raise EngineError(f"{repository}:{tag} was pushed, and the registry does not have it")
    removed = catalogue.remove_others(name, [*parameters["keep"], digest]) if parameters["keep"] else []
    return digest, removed


def main():
    module = AnsibleModule(
        argument_spec={
            "kind": {"type": "str", "required": True},
            "path": {"type": "path"},
            "reference": {"type": "str"},
            "build_args": {"type": "dict", "default": {}},
            "registry": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "tag": {"type": "str", "required": True},
            "username": {"type": "str", "default": "push"},
            "password": {"type": "str", "required": True, "no_log": True},
            "ca": {"type": "str", "required": True},
            "keep": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=False,
    )
    try:
        digest, removed = publish(module.params)
    except (EngineError, OSError) as error:
        module.fail_json(msg=f"image {module.params['name']}: {error}")
    module.exit_json(changed=True, digest=digest, removed=removed)


if __name__ == "__main__":
    main()
