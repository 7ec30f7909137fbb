"""What the README and the scripts tell people to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from plait.__main__ import plait

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
GUIDES = ("architecture.md", "extending.md")
"""Pages that say where in the code to look."""
FILE = re.compile(r"`([\w./-]+\.(?:py|c|sh))`")
NAME = re.compile(r"`([a-z]+(?:_[a-z0-9]+)+)(?:\(\))?`")


def commands(page: Path) -> list[str]:
    """Lines of the page's shell blocks that call plait or a script, continuation lines joined."""
    lines = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.strip().removeprefix("$ ").removeprefix("sudo ").removeprefix("./")
            if words.startswith(("plait ", "scripts/")):
                lines.append(words)
    return lines


def known(words: list[str]) -> None:
    """Walk the words down the tree of commands and check each option by its name."""
    command: click.Command = plait
    ctx = click.Context(plait)
    rest = words[1:]
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(ctx, rest[0])
        assert found is not None, f"{' '.join(words)}: no command {rest[0]}"
        command, rest = found, rest[1:]
    options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
    for word in rest:
        if word in {"--", "|", "&&", ";", "<", ">", "#"} or word.startswith("#"):
            return
        if word.startswith("-") and word != "-" and not re.fullmatch(r"-\d+", word):
            assert word.partition("=")[0] in options, f"{' '.join(words)}: no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_in_the_documentation_exist(page: Path) -> None:
    for line in commands(page):
        words = shlex.split(line, comments=True)
        if words[0].startswith("scripts/"):
            assert (ROOT / words[0]).is_file(), line
        else:
            known(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_in_the_documentation_lead_somewhere(page: Path) -> None:
    links = LINK.findall(CODE.sub("", page.read_text()))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("guide", GUIDES)
def test_the_code_has_what_the_guides_say(guide: str) -> None:
    text = (ROOT / "docs" / guide).read_text()
    files = [p for top in ("src", "native", "tests") for p in (ROOT / top).rglob("*.*")]
    ends = [f"/{p.relative_to(ROOT)}" for p in files]
    assert [f for f in FILE.findall(text) if not any(e.endswith(f"/{f}") for e in ends)] == []
    words = {word for p in files if p.suffix == ".py" for word in re.findall(r"\w+", p.read_text())}
    assert set(NAME.findall(text)) - words == set()


def test_the_test_command_of_the_readme_is_what_ci_runs() -> None:
    assert "scripts/test" in commands(ROOT / "README.md")
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("./scripts/test")


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").iterdir()), ids=lambda p: p.name)
def test_scripts_say_what_they_are_for(script: Path) -> None:
    lines = script.read_text().splitlines()
    executable = script.suffix != ".sh"
    assert bool(script.stat().st_mode & 0o100) == executable
    assert lines[1 if executable else 0].startswith("# ")
