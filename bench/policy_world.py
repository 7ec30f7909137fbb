"""The policies that the benchmarks load, as objects and as rules of peers. Pure.

An endpoint has one of `APPS` labels `app=appN`. Policy number k selects one app and accepts one
other app on one port, so that each app has its share of all policies. The last one of an app
accepts `CALLER` on every port: whoever is let in passes all of the others first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from plait.model.objects import Metadata
from plait.model.policies import Peer, Policy, PolicySpec, Port, Rule, Subject
from plait.model.selectors import Selector

APPS = 100
CALLER = APPS - 1
"""The app that calls."""


class Grant(NamedTuple):
    """What one policy says."""

    number: int
    subject: int
    """App that is protected."""
    peer: int
    """App that may come."""
    port: int
    """TCP; 0: all ports of all protocols."""


def grants(count: int) -> list[Grant]:
    """`count` policies, spread over all apps; of a single one the subject is app 0."""
    made = [
        Grant(k, k % APPS, (k % APPS * 3 + k // APPS * 11 + 1) % CALLER, 1000 + k % 50000)
        for k in range(count)
    ]
    last = {grant.subject: grant.number for grant in made}
    return [
        grant._replace(peer=CALLER, port=0) if last[grant.subject] == grant.number else grant
        for grant in made
    ]


def app(number: int) -> Selector:
    """Selects an app."""
    return Selector(match_labels={"app": f"app{number}"})


def policy(grant: Grant) -> Policy:
    """The object; its name sorts by number."""
    ports = (Port(protocol="TCP", port=grant.port),) if grant.port else None
    return Policy(
        metadata=Metadata(name=f"bench-{grant.number:06}"),
        spec=PolicySpec(
            subject=Subject(endpoints=app(grant.subject)),
            ingress=(Rule(peers=(Peer(endpoints=app(grant.peer)),), ports=ports),),
        ),
    )


Members = Mapping[int, Sequence[str]]
"""IPv4 addresses of an app's endpoints."""


def iptables(rules: Sequence[Grant], members: Members, local: Sequence[str]) -> str:
    """What `iptables-restore` takes: a chain a policy with a rule a member, and for each local
    address a chain that jumps to those of its policies and drops the rest."""
    by_subject: dict[int, list[int]] = {}
    for grant in rules:
        by_subject.setdefault(grant.subject, []).append(grant.number)
    apps = {address: number for number, addresses in members.items() for address in addresses}
    places = {address: index for index, address in enumerate(local)}
    lines = ["*filter", ":FORWARD ACCEPT [0:0]"]
    lines += [f":POLICY-{grant.number} - [0:0]" for grant in rules]
    lines += [f":PLACE-{index} - [0:0]" for index in places.values()]
    lines.append("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
    lines += [f"-A FORWARD -d {address} -j PLACE-{index}" for address, index in places.items()]
    for address, index in places.items():
        applying = by_subject.get(apps[address], ())
        lines += [f"-A PLACE-{index} -j POLICY-{number}" for number in applying]
        if applying:
            lines.append(f"-A PLACE-{index} -j DROP")
    for grant in rules:
        lines += iptables_chain(grant, members)
    return "\n".join([*lines, "COMMIT", ""])


def iptables_chain(grant: Grant, members: Members) -> Iterator[str]:
    """The rules of one policy."""
    port = f" -p tcp --dport {grant.port}" if grant.port else ""
    for address in members.get(grant.peer, ()):
        yield f"-A POLICY-{grant.number} -s {address}{port} -j ACCEPT"


def one_chain(rules: Sequence[Grant], members: Members) -> str:
    """What `nft -f` takes: a set an app, and one chain with a rule a policy."""
    closed = sorted({grant.subject for grant in rules})
    sets = [
        f" set app{app} {{ type ipv4_addr; elements = {{ {', '.join(addresses)} }}; }}"
        for app, addresses in members.items()
    ]
    return "\n".join(
        [
            "table inet naive",
            "delete table inet naive",
            "table inet naive {",
            *sets,
            " chain forward { type filter hook forward priority 0;",
            "  ct state established,related accept",
            *(f"  {one_rule(grant)}" for grant in rules),
            *(f"  ip daddr @app{app} drop" for app in closed),
            " }",
            "}",
            "",
        ]
    )


def one_rule(grant: Grant) -> str:
    """The rule of one policy."""
    port = f" tcp dport {grant.port}" if grant.port else ""
    return f"ip daddr @app{grant.subject} ip saddr @app{grant.peer}{port} accept"
