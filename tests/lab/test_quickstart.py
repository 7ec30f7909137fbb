"""docs/quickstart.md, block by block, on the hosts that its blocks name.

A block begins with "sh host=HOST" and may say `save=NAME` (its output becomes a variable of later
blocks), `fails` (it must not succeed) or `soon` (what it asks for comes a moment after the block
before it: it is run until it succeeds). What a page promises and nobody runs is soon untrue.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.lab.conftest import made, unique

from plait.client.polling import poll
from plait.lab import daemons
from plait.lab.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.docker]
DEADLINE = 30.0
PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"


class Block(NamedTuple):
    words: frozenset[str]
    text: str

    def option(self, name: str) -> str:
        return next((w.partition("=")[2] for w in self.words if w.startswith(f"{name}=")), "")


def blocks(page: str) -> Iterator[Block]:
    for words, text in re.findall(r"^```sh( [^\n]*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield Block(frozenset(words.split()), text)


@pytest.fixture
def machines() -> Iterator[Lab]:
    """Two hosts with Docker and without Plait."""
    with made(unique("quick"), 2, bare=True) as lab:
        lab.state.docker = True
        daemons.start_dockers(lab)
        yield lab


def test_every_block_names_a_host_of_the_quickstart() -> None:
    found = list(blocks(PAGE.read_text()))
    assert {block.option("host") for block in found} == {"h1", "h2"}
    assert PAGE.read_text().count("```sh") == len(found)


def test_the_quickstart_works_as_written(machines: Lab) -> None:
    variables: dict[str, str] = {}

    def run(block: Block) -> subprocess.CompletedProcess[str]:
        given = "".join(f"{name}='{value}'\n" for name, value in variables.items())
        script = f"set -e\n{given}{block.text}"
        return machines.run(block.option("host"), ["bash", "-c", script], check=False, timeout=120)

    for block in blocks(PAGE.read_text()):
        wait = DEADLINE if "soon" in block.words else 0
        done = poll(partial(run, block), lambda done: done.returncode == 0, seconds=wait)
        said = f"{block.text}\n{done.stdout}\n{done.stderr}"
        if "fails" in block.words:
            assert done.returncode != 0, said
        else:
            assert done.returncode == 0, said
        if name := block.option("save"):
            variables[name] = done.stdout.strip()
