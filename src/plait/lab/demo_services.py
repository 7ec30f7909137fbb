"""The demo's chapter on Services: one name for containers on three hosts."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from plait.client.polling import poll
from plait.lab.demo_stage import SETTLE, WGET, Check, Demo, Observation, web

SERVICE: Final = "pages"
ASKS: Final = 40
"""Requests of which every backend must see some: that one of three sees none of 40 has a chance of
one in three millions."""
CLIENT: Final = "h1"


def _backend(host: str) -> str:
    return f"page-{host}"


def _look(demo: Demo) -> dict[str, Any]:
    """The Service and its backends, as `plait service show` tells them."""
    told: dict[str, Any] = json.loads(demo.plait("h1", "service", "show", SERVICE, "--json"))
    return told


def _ready(demo: Demo) -> set[str]:
    return {backend["name"] for backend in _look(demo)["backends"] if backend["ready"]}


def _ask(demo: Demo, url: str) -> Counter[str]:
    """What came of many requests, one after the other: the page, or what wget said instead."""
    once = f"wget {' '.join(WGET)} {url} 2>&1 || echo lost"
    loop = f"for i in $(seq {ASKS}); do {once}; done"
    said = demo.docker(CLIENT, "exec", web(CLIENT), "sh", "-c", loop)
    return Counter(line.removeprefix("page of ") for line in said.splitlines())


def _ask_until(demo: Demo, wanted: set[str]) -> Counter[str]:
    """What came of many requests once all of these answer and nobody else does: the host that asks
    hears of a change a moment after the server; or what there was after SETTLE seconds."""
    return poll(
        lambda: _ask(demo, f"http://{SERVICE}/"),
        lambda counts: counts.keys() == wanted,
        seconds=SETTLE,
    )


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(counts.items()))


def one_name(demo: Demo) -> Observation:
    """`plait service create` gives containers on three hosts one name and one address"""
    for host in demo.hosts:
        demo.serve(host, _backend(host), "plait", "--label", "app=pages")
    argv = ("--selector", "app=pages", "--port", "80", "--type", "node")
    demo.plait("h1", "service", "create", SERVICE, *argv)
    own = _look(demo)["object"]["spec"]["addresses"][0]

    def answers() -> dict[str, str]:
        argv = ("getent", "ahostsv4", SERVICE)
        said = {h: demo.docker(h, "exec", web(h), *argv, check=False) for h in demo.hosts}
        return {host: text.partition(" ")[0] for host, text in said.items()}

    seen = poll(answers, lambda found: set(found.values()) == {own}, seconds=SETTLE)
    said = ", ".join(f"on {host} {address or 'unknown'}" for host, address in seen.items())
    return Observation(set(seen.values()) == {own}, f"{SERVICE} is {said}")


def spread(demo: Demo) -> Observation:
    """Requests to that name are spread over all of them, whichever host they are on"""
    everybody = set(map(_backend, demo.hosts))
    poll(lambda: _ready(demo), lambda ready: ready == everybody, seconds=SETTLE)
    counts = _ask_until(demo, everybody)
    return Observation(set(counts) == everybody, f"of {ASKS} requests {_told(counts)}")


def at_every_host(demo: Demo) -> Observation:
    """From outside it answers at every host's own addresses, over IPv4 and IPv6"""
    port = _look(demo)["object"]["spec"]["ports"][0]["nodePort"]
    pages = {}
    for host in demo.hosts:
        at = demo.lab.plan.hosts[host].interface
        for address in (at.address4.partition("/")[0], f"[{at.address6.partition('/')[0]}]"):
            pages[host, address] = demo.fetch_outside(f"http://{address}:{port}/")
    came = [page for page in pages.values() if page.startswith("page of page-")]
    wrong = [f"{a}: {page}" for (_, a), page in pages.items() if page not in came]
    return Observation(not wrong, "; ".join(wrong) or f"{len(came)} pages came from port {port}")


def backend_goes(demo: Demo) -> Observation:
    """A backend is removed: no request is lost on it any more"""
    gone = _backend(demo.hosts[1])
    demo.docker(demo.hosts[1], "rm", "-f", gone)
    left = {_backend(host) for host in demo.hosts} - {gone}
    poll(lambda: _ready(demo), lambda ready: ready == left, seconds=SETTLE)
    counts = _ask_until(demo, left)
    return Observation(set(counts) == left, f"of {ASKS} requests {_told(counts)}")


def refused(demo: Demo) -> Observation:
    """Without any backend callers are refused at once"""
    for host in (demo.hosts[0], demo.hosts[2]):
        demo.docker(host, "rm", "-f", _backend(host))
    poll(lambda: _ready(demo), lambda ready: not ready, seconds=SETTLE)
    argv = ("exec", web(CLIENT), "sh", "-c", f"wget -T2 -t1 -O- http://{SERVICE}/ 2>&1")
    said = poll(
        lambda: demo.docker(CLIENT, *argv, check=False),
        lambda text: "refused" in text,
        seconds=SETTLE,
    )
    return Observation("refused" in said, said.splitlines()[-1] if said else "nothing")


CHECKS: Final[tuple[Check, ...]] = (one_name, spread, at_every_host, backend_goes, refused)
