"""`plait policy test`: expectations kept beside the policies, for a repository's CI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plait.cli.frame import Command
from plait.cli.offline import files_option
from plait.cli.options import json_option

if TYPE_CHECKING:
    from plait.cli.manifests import Document
    from plait.policy.expectations import PolicyTest, Result
    from plait.policy.world import World


@click.command(
    "test",
    cls=Command,
    examples=[
        "plait policy test expect.yaml",
        "plait policy test expect.yaml -f manifests/ --junit report.xml",
        "plait policy test expect.yaml --server",
    ],
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@files_option
@click.option("--server", is_flag=True, help="Ask about what the server has, not manifests.")
@click.option(
    "--junit",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write a JUnit report there; - prints it, and nothing else.",
)
@json_option
def check(
    paths: tuple[str, ...],
    files: tuple[str, ...],
    server: bool,
    junit: str | None,
    as_json: bool,
) -> None:
    """Hold the expectations in FILE against policies; exit with 1 when one is not met.

    The policies are those of the manifests that FILE names, by default all beside it; of -f; or
    with --server what is in force. docs/policy.md describes the format.
    """
    from plait.cli import output
    from plait.policy import expectations

    if server and files:
        raise click.UsageError("give --server or --file, not both")
    if junit == "-" and as_json:
        raise click.UsageError("give --junit - or --json, not both")
    results = [result for path in paths for result in _results(path, files, server)]
    report = "" if junit is None else expectations.junit(", ".join(paths), results)
    if junit is not None and junit != "-":
        Path(junit).write_text(report)
    failed = [result for result in results if not result.passed]
    if junit == "-":
        output.say(report)
    elif as_json:
        output.json_out({"passed": not failed, "results": [_data(result) for result in results]})
    else:
        _tell(results, failed)
    if failed:
        raise click.exceptions.Exit(1)


def _results(path: str, files: Sequence[str], server: bool) -> list[Result]:
    from plait.cli.offline import stored, world_of
    from plait.policy.expectations import run
    from plait.policy.world import World

    found = []
    worlds: dict[tuple[str, ...], World] = {}
    for document, test in read(path):
        beside = tuple(str(Path(path).parent / name) for name in test.manifests)
        given = () if server else tuple(files) or beside
        if given not in worlds:
            worlds[given] = world_of(given) if given else World.of(stored())
        found += [
            run(worlds[given], case, document.where(f"$.cases[{i}]"), test.namespace)
            for i, case in enumerate(test.cases)
        ]
    return found


def read(path: str) -> list[tuple[Document, PolicyTest]]:
    """The expectations of a file; PLAIT-CLI-004 names file and line of a mistake."""
    from plait.cli.manifests import documents
    from plait.cli.reading import texts
    from plait.model.errors import PlaitError

    found = [
        (document, _understood(document))
        for text, source in texts([path])
        for document in documents(text, source)
    ]
    if not found:
        raise PlaitError("PLAIT-CLI-004", f"there are no expectations in {path}")
    return found


def _understood(document: Document) -> PolicyTest:
    import msgspec

    from plait.cli.frame import nearest
    from plait.model.errors import PlaitError
    from plait.policy.expectations import Case, PolicyTest

    try:
        return msgspec.convert(document.data, type=PolicyTest)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at ")
        path = at.strip("`") or "$"
        fix: tuple[str, ...] = ()
        if unknown := re.search(r"unknown field `(.+)`", text):
            kind = Case if "cases" in path else PolicyTest
            known = [f.encode_name for f in msgspec.structs.fields(kind)]
            hints = nearest(unknown.group(1), known)
            fix = (f"write `{hints[0]}`" if hints else "fields are " + ", ".join(known),)
            path = f"{path}.{unknown.group(1)}"
        elif path.endswith(".expect"):
            fix = ("write `allow` or `deny`",)
        elif path in {"$.kind", "$.apiVersion"} or "required field `kind`" in text:
            fix = ("expectations begin with `apiVersion: plait/v1` and `kind: PolicyTest`",)
        raise PlaitError(
            "PLAIT-CLI-004",
            "the expectations are not valid",
            where=document.where(path),
            why=f"{at.strip('`').removeprefix('$.')}: {text}" if at else text,
            fix=fix,
        ) from None


def _tell(results: list[Result], failed: list[Result]) -> None:
    from plait.cli import output

    for result in failed:
        output.say(f"FAILED {output.clean(result.where)} {output.clean(result.case.title)}")
        if result.error:
            output.say(f"  {output.clean(result.error)}")
        else:
            output.say(f"  expected: {output.clean(result.case.expected)}")
        for line in result.wrong:
            output.say(f"  {output.clean(line)}")
    flows = sum(result.asked for result in results)
    output.say(f"{len(results) - len(failed)} of {len(results)} expectations hold ({flows} flows)")


def _data(result: Result) -> dict[str, object]:
    return {
        "name": result.case.title,
        "where": result.where,
        "passed": result.passed,
        "expect": result.case.expect,
        "flows": result.asked,
        "wrong": result.wrong,
        "error": result.error,
    }
