"""The command line as a whole: every command explains itself, none shows a traceback."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.__main__ import COMMANDS, plait
from plait.cli import frame
from plait.model.errors import PlaitError


def walk(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield from walk(found, (*path, name))


EVERY = [(path, command) for path, command in walk(plait, ())]
LEAVES = [(path, command) for path, command in EVERY if not isinstance(command, click.Group)]
READS = {
    ("status",), ("peers",), ("ps",), ("get",), ("describe",), ("version",),
    ("network", "ls"), ("network", "inspect"), ("token", "ls"), ("node", "ls"),
    ("policy", "ls"), ("policy", "show"), ("policy", "preview"), ("policy", "learn"),
    ("ipam", "show"), ("agent", "plan"), ("namespace", "ls"), ("policy", "matrix"),
    ("policy", "test"), ("why",), ("flows",), ("cni", "status"), ("kubernetes", "status"),
    ("service", "ls"), ("service", "show"),
}  # fmt: skip
NEITHER = {("completion",), ("server", "run"), ("agent", "run"), ("kubernetes", "run")}
"""Commands that neither read an object nor change one."""


def ids(value: object) -> str | None:
    return " ".join(value) or "plait" if isinstance(value, tuple) else ""


def run(*args: str) -> int:
    return frame.run(plait, list(args))


@pytest.mark.parametrize(("path", "command"), EVERY, ids=ids)
def test_every_help_has_an_example_and_fits_eighty_columns(
    path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*path, "--help") == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert f"  {' '.join(('plait', *path))}" in out.partition("Examples:")[2] or path == ()
    lines = out.partition("Examples:")[0].splitlines()
    assert max(map(len, lines)) <= 80
    assert (command.help or "").strip()


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=ids)
def test_reads_offer_json_and_changes_offer_a_dry_run(
    path: tuple[str, ...], command: click.Command
) -> None:
    names = {option for parameter in command.params for option in parameter.opts}
    if path[0] == "lab":
        assert names & {"--json", "--dry-run"} or path[1] in {"exec", "shell"}
    elif path in READS:
        assert "--json" in names
    elif path not in NEITHER:
        assert "--dry-run" in names


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["staus"], "`status`"),
        (["network", "creat"], "`create`"),
        (["get", "--jsn"], "--json"),
        (["tokn", "ls"], "`token`"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_word(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    err = capsys.readouterr().err
    assert hint in err
    assert err.startswith("error[PLAIT-CLI-001]: ")


def test_a_refusal_prints_code_reason_and_fix_and_ends_with_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def refuse() -> None:
        raise PlaitError("PLAIT-NET-006", "no network `x`", why="none", fix=("plait network ls",))

    group = click.Group("plait", commands={"refuse": refuse})
    assert frame.run(group, ["refuse"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error[PLAIT-NET-006]: no network `x`",
        "  why: none",
        "  fix: plait network ls",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError("x"), "PLAIT-CLI-003"),
        (PermissionError(13, "denied", "/x"), "PLAIT-HOST-002"),
        (OSError(28, "full", "/x"), "PLAIT-STORE-001"),
        (FileNotFoundError(2, "No such file or directory", "/x"), "PLAIT-CLI-002"),
        (ExceptionGroup("g", [PlaitError("PLAIT-NET-006", "x")]), "PLAIT-NET-006"),
    ],
    ids=repr,
)
def test_anything_that_goes_wrong_becomes_a_code(
    error: Exception, code: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def fail() -> None:
        raise error

    group = click.Group("plait", commands={"fail": fail})
    assert frame.run(group, ["fail"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error[{code}]")
    assert "Traceback" not in err
    monkeypatch.setenv("PLAIT_DEBUG", "1")
    with pytest.raises(type(error)):
        frame.run(group, ["fail"])


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from plait.cli import frame; from plait.__main__ import plait;"
        "frame.run(plait, ['--help']);"
        "bad = {'aiohttp', 'rich', 'msgspec', 'asyncio', 'yaml', 'ssl'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_entry_of_the_table_can_be_loaded_and_its_help_is_one_line() -> None:
    ctx = click.Context(plait)
    for name, entry in COMMANDS.items():
        assert plait.get_command(ctx, name) is not None
        assert entry.help.endswith(".") is False
        assert len(entry.help) < 60


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        [
            "sh",
            "-c",
            f"p='{sys.executable} -m plait'; $p get --help | true; $p --help | head -1",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_completion_knows_commands_without_loading_them(capsys: pytest.CaptureFixture[str]) -> None:
    items = plait.shell_complete(click.Context(plait), "ne")
    assert [item.value for item in items] == ["network"]
    assert run("completion", "bash") == 0
    assert "_PLAIT_COMPLETE=bash_complete" in capsys.readouterr().out


WORDS = st.sampled_from(
    [
        name
        for path, _ in EVERY
        for name in path
        if name not in {"run", "shell", "lab", "supervisor"}
    ]
    + [
        "--json",
        "--dry-run",
        "--help",
        "-",
        "--",
        "-n",
        "\x00",
        "ß" * 300,
        "../../etc",
        "a=b",
        "-f",
        "--name",
    ]
)


@settings(max_examples=60)
@given(st.lists(WORDS, max_size=6))
def test_no_command_line_ends_in_a_traceback(args: list[str]) -> None:
    # Nothing is installed below this root, so whatever asks for a server or an agent is refused.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAIT_ROOT", "/nonexistent")
        patch.setattr("os.geteuid", lambda: 1000)
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        assert frame.run(plait, args) in {0, 1, 2}
