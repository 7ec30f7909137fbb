"""The manifests of docs/policy.md are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plait.cli.manifests import objects
from plait.model.objects import Group, Policy
from plait.policy import validate

PAGE = Path(__file__).parents[3] / "docs/policy.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
MANIFESTS = [block for block in BLOCKS if "apiVersion:" in block]


def test_the_page_has_manifests() -> None:
    assert MANIFESTS


@pytest.mark.parametrize("block", MANIFESTS, ids=range(len(MANIFESTS)))
def test_manifests_of_the_page_are_valid(block: str) -> None:
    for found in objects(block, "policy.md"):
        if isinstance(found, Policy):
            validate.policy(found.spec)
        elif isinstance(found, Group):
            validate.group(found.spec)
