"""Everything of Plait's on a lab host and in the server, as lines to compare.

Two pictures of one state are equal: what a kernel counts, numbers or ages is left out. Blocks
that a node claimed stay claimed when its endpoints go (that is how addresses are given without
asking), so they are no leak; what is lent out of them is.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from tests.lab.conftest import eventually

from plait.agent.ledger import Ledger
from plait.client.agent_socket import AgentClient
from plait.client.agent_socket import run as at_once
from plait.client.api import ApiClient
from plait.lab.daemons import FIRST
from plait.lab.lab import Lab
from plait.model.marks import DOOM_GROUP
from plait.model.objects import AddressBlock, Endpoint

KERNEL = r"""
ip -j link; echo
ip -j address; echo
ip -j -4 route show table all; echo
ip -j -6 route show table all; echo
ip -j -4 rule; echo
ip -j -6 rule; echo
ip -j neigh show nud permanent; echo
bridge -j fdb show dev plait.vx 2>/dev/null || echo '[]'; echo
tc -j qdisc show; echo
"""
SOCKETS = "ss -Hlntu"
TABLE = "nft -j -s list table inet plait"


def inside(lab: Lab, host: str, path: str) -> Path:
    """A file of a host, as this process can open it."""
    return Path(f"/proc/{lab.host(host).pid}/root{path}")


def verbs(lab: Lab, host: str) -> AgentClient:
    """A host's agent."""
    return AgentClient(inside(lab, host, "/run/plait/agent.sock"))


def status(lab: Lab, host: str) -> Any:
    """What a host's agent says of itself; None while it does not answer."""
    try:
        return at_once(verbs(lab, host).status())
    except Exception:
        return None


def ready(lab: Lab, host: str) -> bool:
    """A host's agent has programmed its kernel and hears the server."""
    said = status(lab, host)
    return bool(said and said.ready and said.server_connected)


def server_objects(lab: Lab, kind: Any) -> tuple[Any, ...]:
    """All objects of a kind."""

    async def ask() -> tuple[Any, ...]:
        path = inside(lab, FIRST, "/run/plait/server.sock")
        async with ApiClient("http://localhost", unix_socket=path) as client:
            return await client.list(kind)

    return asyncio.run(ask())


def _objects(text: str) -> Iterator[Any]:
    """The JSON values of a text that has one after the other."""
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:]


def kernel(lab: Lab, host: str) -> set[str]:
    """Links, addresses, routes, rules, neighbours, FDB entries and qdiscs of a host."""
    links, addresses, *tables, fdb, qdiscs = _objects(lab.run(host, ["sh", "-c", KERNEL]).stdout)
    # The agent closes and downs a link at once, and deletes it a little later with others.
    lines = {
        f"{DOOMED if link['group'] == str(DOOM_GROUP) else 'link'} {link['ifname']}"
        for link in links
    }
    for link in addresses:
        for entry in link["addr_info"]:
            lines.add(f"address {link['ifname']} {entry['local']}/{entry['prefixlen']}")
    for number, table in enumerate(tables):
        for row in table:
            kept = {key: value for key, value in row.items() if key not in VOLATILE}
            lines.add(f"row {number} {json.dumps(kept, sort_keys=True)}")
    # A handle of zero is the kernel's own qdisc.
    lines |= {f"qdisc {q.get('dev')} {q['kind']}" for q in qdiscs if q["handle"] != "0:"}
    lines |= {f"fdb {entry['mac']} {entry.get('dst')}" for entry in fdb if "dst" in entry}
    return lines


DOOMED = "doomed link"
VOLATILE = frozenset({"expires", "error", "flags", "pref", "metrics"})


def table(lab: Lab, host: str) -> set[str]:
    """Our nftables table: chains, rules, sets and their elements, but those that end by themselves
    (flows that were ended, addresses of names): they may do so between two pictures."""
    done = lab.run(host, ["sh", "-c", TABLE], check=False)
    if "No such file" in done.stderr:
        return {"no table"}
    assert done.returncode == 0, done.stderr
    lines = set()
    for item in json.loads(done.stdout)["nftables"]:
        ((kind, body),) = item.items()
        if kind == "metainfo":
            continue
        for element in body.pop("elem", ()):
            if _ends(element):
                continue
            lines.add(f"element {body['name']} {json.dumps(_bare(element), sort_keys=True)}")
        lines.add(f"{kind} {json.dumps(_bare(body), sort_keys=True)}")
    return lines


def _ends(element: Any) -> bool:
    """Whether an element of a set, or of a map, has a time to live."""
    key = element[0] if isinstance(element, list) else element
    return isinstance(key, dict) and "expires" in key.get("elem", ())


def _bare(value: Any) -> Any:
    """Without handles and counters, which differ from one life of a rule to the next."""
    if isinstance(value, dict):
        return {
            key: _bare(item)
            for key, item in value.items()
            if key not in {"handle", "counter", "packets", "bytes", "expires"}
        }
    return [_bare(item) for item in value] if isinstance(value, list) else value


def journal(lab: Lab, host: str) -> set[str]:
    """What the agent's journal says that is not at rest."""
    ledger = Ledger()
    file = inside(lab, host, "/var/lib/plait/agent/journal")
    ledger.fold([json.loads(line) for line in file.read_text().splitlines() if line])
    lines = {f"endpoint {ident}" for ident in ledger.endpoints}
    lines |= {f"unfinished {ident}" for ident in ledger.unfinished}
    lines |= {f"held {' '.join(key)}" for key in ledger.held}
    return lines | {f"lent {' '.join(key)}" for key in ledger.lent}


def server(lab: Lab) -> set[str]:
    """Endpoints and loans that the server knows of."""
    lines = {f"endpoint {item.key} on {item.spec.node}" for item in server_objects(lab, Endpoint)}
    for block in server_objects(lab, AddressBlock):
        lines |= {f"loan {block.metadata.name} {loan}" for loan in block.spec.loans}
    return lines


def sockets(lab: Lab, host: str) -> set[str]:
    """Ports that somebody listens on; a name server's client has one for a moment only."""
    lines = set()
    for line in lab.run(host, ["sh", "-c", SOCKETS]).stdout.splitlines():
        protocol, _, _, _, local, *_ = re.split(r"\s+", line)
        lines.add(f"listens {protocol} {local}")
    return lines


def census(lab: Lab, host: str) -> frozenset[str]:
    """All of it."""
    return frozenset(
        kernel(lab, host)
        | table(lab, host)
        | {f"journal {line}" for line in journal(lab, host)}
        | {f"server {line}" for line in server(lab)}
        | sockets(lab, host)
    )


def at_rest(lab: Lab, host: str, quiet: float = 2.0) -> frozenset[str]:
    """The host's picture once it has not changed for `quiet` seconds and nothing in it waits to be
    deleted.

    What other tests of the same lab took down goes a little later: a deleted network's blocks and
    routes, a released loan, the links of endpoints.
    """
    last = census(lab, host)
    since = time.monotonic()

    def still() -> bool:
        nonlocal last, since
        now = census(lab, host)
        if now != last:
            last, since = now, time.monotonic()
        waits = any(line.startswith(DOOMED) for line in now)
        return not waits and time.monotonic() - since >= quiet

    eventually(f"{host} is at rest", still)
    return last


def assert_back(
    lab: Lab,
    host: str,
    before: Collection[str],
    seconds: float = 30.0,
    look: Callable[[Lab, str], Collection[str]] = census,
) -> None:
    """The host comes back to an earlier picture; shows what differs when it does not."""
    differs: list[str] = []

    def same() -> bool:
        now = set(look(lab, host))
        differs[:] = [f"+ {line}" for line in sorted(now - set(before))]
        differs.extend(f"- {line}" for line in sorted(set(before) - now))
        return not differs

    eventually(f"{host} is as before", same, differs, seconds)
