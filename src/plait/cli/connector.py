"""How the connector to Kubernetes is, for `plait kubernetes status` and `plait status`."""

from __future__ import annotations

from plait.cli import output
from plait.wire.connector import Report


def as_facts(report: Report) -> list[tuple[str, str]]:
    """The report as labelled values, kinds and problems aside."""
    if report.leads:
        role = "this one writes"
    else:
        role = f"{report.leader} writes" if report.leader else "nobody writes: no lease is held"
    heard = f"heard {report.age:.0f} s ago"
    link = f"connected, {heard}" if report.connected else f"not wholly connected, {heard}"
    if report.synced:
        due = "in step"
    elif report.leads:
        due = f"{report.due} objects may have to be written"
    else:
        due = "stands by"
    return [
        ("connector", f"{report.identity}, {role}"),
        ("api server", f"{report.api_server}, {link}"),
        ("plait", "connected" if report.server_connected else "out of reach"),
        ("objects", f"{due}; {report.written} written, {report.told} told to Kubernetes"),
    ]


def show(report: Report) -> None:
    """All of the report."""
    output.facts(as_facts(report))
    output.say()
    rows = [
        [kind.kind, kind.resource, str(kind.objects), kind.phase, f"{kind.age:.0f} s", kind.error]
        for kind in report.kinds
    ]
    output.table(["kind", "resource", "objects", "state", "heard", "error"], rows)
    if report.problems:
        output.say()
    for problem in report.problems:
        output.warn(output.clean(problem))
    if report.problem_count > len(report.problems):
        output.warn(f"and {report.problem_count - len(report.problems)} more")
