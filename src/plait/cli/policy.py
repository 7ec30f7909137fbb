"""`plait policy`: what rules there are and what follows from them."""

from __future__ import annotations

import click

from plait.cli.expecting import check
from plait.cli.frame import Group
from plait.cli.learning import learn
from plait.cli.matrix import matrix
from plait.cli.policy_objects import list_, rm, show
from plait.cli.previewing import preview
from plait.cli.staging import enforce, stage


@click.group(
    cls=Group,
    examples=[
        "plait policy ls",
        "plait policy matrix --port 80/tcp",
        "plait policy test expect.yaml",
    ],
)
def policy() -> None:
    """Policies: who may talk to whom, and why."""


for command in (list_, show, rm, stage, enforce, matrix, preview, check, learn):
    policy.add_command(command)
