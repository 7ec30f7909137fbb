"""House rules that a machine can check: design section 9, CONTRIBUTING.md."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from plait.model.errors import CODES

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src/plait").rglob("*.py"))
PYTHON = [
    *SOURCES,
    *sorted(p for d in ("tests", "bench", "native") for p in (ROOT / d).rglob("*.py")),
]
CODE = re.compile(r"PLAIT-[A-Z]+-\d{3}")
HARD_LIMIT = 700


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name(path))


def test_the_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("package", ["agent", "cni", "model", "policy", "selection", "services"])
def test_a_charter_names_every_module(package: str) -> None:
    folder = ROOT / "src/plait" / package
    charter = ast.get_docstring(tree(folder / "__init__.py")) or ""
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    # A line of the list names modules first, then says what they are.
    listed = {
        word
        for line in charter.splitlines()
        if (found := re.match(r"    (\w+(?:, \w+)*) {2,}", line))
        for word in found[1].split(", ")
    }
    assert listed == modules


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_error_code_that_is_used_is_known(path: Path) -> None:
    used = {
        found
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for found in CODE.findall(node.value)
    }
    assert used <= CODES.keys()


def test_every_error_code_has_a_title_and_a_status() -> None:
    for code, (status, title) in CODES.items():
        assert CODE.fullmatch(code)
        assert 400 <= status < 600
        assert title
        assert title == title.strip()
        assert title[0].islower() or title.split()[0] == "Plait", code


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_shell_is_ever_used(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            words = ast.unparse(node.func)
            assert words not in {"os.system", "os.popen", "subprocess.getoutput"}, node.lineno
            for keyword in node.keywords:
                assert keyword.arg != "shell", node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = ast.get_docstring(tree(path))
    assert text
    assert len(text) > 10


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_files_stay_small_and_finished(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= HARD_LIMIT
    if path == Path(__file__):
        return
    for number, line in enumerate(lines, 1):
        assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", line), number


@pytest.mark.parametrize("path", PYTHON, ids=name)
def test_no_test_waits_for_a_time(path: Path) -> None:
    if "tests" not in path.parts:
        return
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in {"time.sleep", "sleep"}:
            continue
        argument = node.args[0] if node.args else None
        # A poll of a condition is short; a wait for something that "must have happened by now"
        # is not.
        assert isinstance(argument, ast.Constant), node.lineno
        assert float(argument.value) <= 0.1, node.lineno  # type: ignore[arg-type]


def test_committed_files_name_no_place_of_one_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    hosts = re.compile(rb"file:///opt|/opt/(?:wheels|pypi)")
    for entry in filter(None, listed.split("\0")):
        path = ROOT / entry
        if path == Path(__file__) or not path.is_file():
            continue
        assert not hosts.search(path.read_bytes()), entry
