"""The main job, shown on real dockerds: three hosts on two sites, one network.

`python -m plait.lab.demo [--keep] [--name NAME]`. Each check prints what was observed; the exit
code is 0 only if all of them hold. The lab is taken down at the end, also on Ctrl-C and SIGTERM,
unless `--keep`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations

import click

from plait.cli import output
from plait.cli.frame import Command, run
from plait.client.polling import poll
from plait.lab import bringup, daemons, demo_services, hosts, state, topology
from plait.lab.demo_stage import SETTLE, SHOP, Check, Demo, Observation, web
from plait.lab.lab import Lab
from plait.model.errors import PlaitError

HOSTS = 3
SITES = 2
PUBLISHED = 8080

# The checks, in the order of the show.


def pages_by_name(demo: Demo) -> Observation:
    """Containers on different hosts fetch each other's pages by name, over IPv4 and IPv6"""
    wrong, right = [], 0
    for source, target in permutations(demo.hosts, 2):
        for family in (4, 6):
            url = f"http://{web(target)}/"
            wanted = f"page of {web(target)}"
            page = demo.fetch_until(source, web(source), url, wanted, family)
            if page == wanted:
                right += 1
            else:
                wrong.append(f"{source} -> {target} over IPv{family}: {page}")
    return Observation(not wrong, "; ".join(wrong) or f"{right} of {right} pages came")


def paths(demo: Demo) -> Observation:
    """Hosts of one site talk directly, across sites by vxlan"""
    listed = json.loads(demo.plait("h1", "peers", "--json"))["items"]
    seen = {peer["node"]: peer["encap"] for peer in listed}
    said = ", ".join(f"{node}: {encap}" for node, encap in sorted(seen.items()))
    return Observation(seen == {"h2": "vxlan", "h3": "direct"}, f"seen from h1, {said}")


def network_everywhere(demo: Demo) -> Observation:
    """`docker network create -d plait blue` on h1 makes the network on every host"""
    demo.docker("h1", "network", "create", "-d", "plait", "blue")

    def hosts() -> list[str]:
        return [h for h in demo.hosts if demo.docker(h, "network", "ls", "-qf", "name=^blue$")]

    there = poll(hosts, lambda found: found == demo.hosts, seconds=SETTLE)
    return Observation(there == demo.hosts, f"`docker network ls` shows it on {' '.join(there)}")


def network_works(demo: Demo) -> Observation:
    """Containers of the new network reach each other across hosts"""
    demo.serve("h1", "blue-h1", "blue")
    demo.serve("h2", "blue-h2", "blue")
    page = demo.fetch_until("h1", "blue-h1", "http://blue-h2/", "page of blue-h2")
    return Observation(page == "page of blue-h2", f"blue-h1 got: {page}")


def isolation(demo: Demo) -> Observation:
    """Two Docker networks do not reach each other, by address or by name"""
    leaks = []
    pairs = (
        ("h1", web("h1"), "h2", "blue-h2", "blue"),
        ("h1", "blue-h1", "h3", "web-h3", "plait"),
    )
    for host, source, other, target, network in pairs:
        leaks += [
            f"{source} pinged {address} of {target}"
            for address in demo.addresses(other, target, network)
            if demo.answers_ping(host, source, address)
        ]
        page = demo.fetch(host, source, f"http://{target}/")
        if page.startswith("page of"):
            leaks.append(f"{source} fetched {target}")
    return Observation(not leaks, "; ".join(leaks) or "4 addresses and 2 names out of reach")


def published(demo: Demo) -> Observation:
    """A published port answers from outside, over IPv4 and IPv6"""
    demo.serve("h2", "shop", "plait", "-p", f"{PUBLISHED}:80")
    at = demo.lab.plan.hosts["h2"].interface
    pages = {}
    for address in (at.address4.partition("/")[0], f"[{at.address6.partition('/')[0]}]"):
        url = f"http://{address}:{PUBLISHED}/"
        pages[url] = demo.fetch_outside(url)
    said = "; ".join(f"{url}: {page}" for url, page in pages.items())
    return Observation(set(pages.values()) == {"page of shop"}, said)


def upstream(demo: Demo) -> Observation:
    """Names of the world outside are forwarded, and what leaves the network is translated"""
    name = "outside.lab.test"
    known = demo.docker("h3", "exec", web("h3"), "nslookup", name, check=False)
    reached = demo.answers_ping("h3", web("h3"), name)
    outside = demo.lab.plan.hosts[topology.OUTSIDE].interface.address4.partition("/")[0]
    return Observation(
        outside in known and reached,
        f"{name} is {outside if outside in known else f'unknown ({known})'}, "
        f"{'answers' if reached else 'does not answer'}",
    )


def server_dies(demo: Demo) -> Observation:
    """The server is killed (SIGKILL, and kept down): not one packet is lost"""
    target = demo.addresses("h2", web("h2"), "plait")[0]
    # 50 packets a second for 3 seconds, the kill among them.
    argv = ["docker", "exec", web("h1"), "ping", "-i", "0.02", "-c", "150", target]
    inside = hosts.command(demo.lab.host("h1"), argv)
    with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as ping:
        assert ping.stdout is not None
        seen = [ping.stdout.readline(), ping.stdout.readline()]  # the heading, the first answer
        bringup.kill_server(demo.lab)
        bringup.stop_server(demo.lab)
        seen += ping.stdout.read().splitlines()
    line = next((line for line in seen if "packets transmitted" in line), "".join(seen))
    return Observation(" 0% packet loss" in line, line)


def lookups_go_on(demo: Demo) -> Observation:
    """Without a server: names that nobody asked for before are found, pages come"""
    names = [f"alias-of-{host}" for host in demo.hosts]
    pages = {name: demo.fetch("h1", web("h1"), f"http://{name}/") for name in names}
    dead = daemons.program_pid(demo.lab, daemons.FIRST, "server") == 0
    said = "; ".join(f"{name}: {page}" for name, page in pages.items())
    came = all(page.startswith("page of web-") for page in pages.values())
    return Observation(came and dead, f"the server is {'down' if dead else 'up'}; {said}")


def attaching_goes_on(demo: Demo) -> Observation:
    """Without a server: a new container gets an address and reaches the others by name"""
    demo.serve("h3", "late", "plait")
    wanted = f"page of {web('h1')}"
    page = demo.fetch_until("h3", "late", f"http://{web('h1')}/", wanted)
    address = demo.addresses("h3", "late", "plait")[0]
    return Observation(page == wanted, f"late has {address} and got: {page}")


def server_returns(demo: Demo) -> Observation:
    """The server comes back: all hosts know the container that was started meanwhile"""
    bringup.start_server(demo.lab)
    page = demo.fetch_until("h1", web("h1"), "http://late/", "page of late")
    return Observation(page == "page of late", f"web-h1 got: {page}")


# Rules: front, api and db in namespace shop, a visitor in namespace default.

VISITOR = "web-h1"
PATHS = (("front", "api"), ("api", "db"), ("front", "db"))
"""Who asks whom within the shop."""


def open_at_first(demo: Demo) -> Observation:
    """Without policies everybody reaches the shop, and `plait why` says that nothing decided"""
    demo.start_shop()
    wanted = dict.fromkeys((*PATHS, (VISITOR, "db.shop")), True)
    seen = demo.pages_until(wanted)
    said = demo.why(f"default/{VISITOR}", "shop/db")
    return Observation(seen == wanted and said.endswith("80/tcp: allowed"), said)


def isolated(demo: Demo) -> Observation:
    """`plait isolate shop`: the visitor is locked out of all hosts, the shop itself goes on"""
    demo.plait("h1", "isolate", "shop")
    closed = {(VISITOR, f"{name}.shop"): False for name in SHOP}
    wanted = closed | dict.fromkeys(PATHS, True)
    seen = demo.pages_until(wanted)
    said = demo.why(f"default/{VISITOR}", "shop/db")
    return Observation(seen == wanted and "isolate.shop" in said, _told(seen, wanted, said))


def allowed(demo: Demo) -> Observation:
    """`plait allow` opens front for the visitor, on port 80, and nothing else"""
    argv = ("allow", "shop/front", "--from", VISITOR, "--port", "80/tcp")
    demo.plait("h1", *argv)
    wanted = {
        (VISITOR, "front.shop"): True,
        (VISITOR, "api.shop"): False,
        (VISITOR, "db.shop"): False,
        ("front", "api"): True,
    }
    seen = demo.pages_until(wanted)
    said = demo.why(f"default/{VISITOR}", "shop/front")
    return Observation(
        seen == wanted and said.endswith("80/tcp: allowed"), _told(seen, wanted, said)
    )


def denied(demo: Demo) -> Observation:
    """`plait deny` keeps front from db: only api may ask it"""
    demo.plait("h1", "deny", "shop/db", "--from", "shop/front")
    wanted = {("front", "db"): False, ("api", "db"): True, ("front", "api"): True}
    seen = demo.pages_until(wanted)
    said = demo.why("shop/front", "shop/db")
    good = "deny.shop.db.from.shop.front" in said
    return Observation(seen == wanted and good, _told(seen, wanted, said))


def logged(demo: Demo) -> Observation:
    """`plait flows --denied` names who was denied what, by which policy"""
    wanted = {
        (f"default/{VISITOR}", "shop/db", "isolate.shop"),
        ("shop/front", "shop/db", "deny.shop.db.from.shop.front"),
    }

    def denied() -> set[tuple[str, ...]]:
        lines = demo.plait("h1", "flows", "--denied", "--json").splitlines()
        return {
            (*(f"{r[end]['namespace']}/{r[end]['name']}" for end in ("src", "dst")), r["policy"])
            for r in map(json.loads, lines)
            if r.get("policy") and all("name" in r[end] for end in ("src", "dst"))
        }

    seen = poll(denied, wanted.issubset, seconds=SETTLE)
    said = "; ".join(f"{src} to {dst} by policy {by}" for src, dst, by in sorted(wanted & seen))
    return Observation(wanted <= seen, said or f"{len(seen)} others, none of them that one")


def rules_without_server(demo: Demo) -> Observation:
    """The rules need no server: with it down they stand, and a new container meets them"""
    bringup.stop_server(demo.lab)
    try:
        demo.serve("h3", "stranger", "plait")
        page = f"page of {VISITOR}"
        open_ = demo.fetch_until("h3", "stranger", f"http://{VISITOR}/", page)
        closed = demo.fetch("h3", "stranger", "http://db.shop/")
        kept = demo.pages([(VISITOR, "front.shop"), (VISITOR, "db.shop")])
    finally:
        bringup.start_server(demo.lab)
    good = open_ == page and not closed.startswith("page of")
    stands = kept == {(VISITOR, "front.shop"): True, (VISITOR, "db.shop"): False}
    return Observation(good and stands, f"stranger got from {VISITOR}: {open_}; from db: {closed}")


def _told(seen: dict[tuple[str, str], bool], wanted: dict[tuple[str, str], bool], said: str) -> str:
    """What differs from what was wanted, or else what `plait why` said."""
    wrong = [
        f"{source} {'reaches' if seen[source, target] else 'does not reach'} {target}"
        for source, target in wanted
        if seen[source, target] != wanted[source, target]
    ]
    return "; ".join([*wrong, said])


CHECKS: tuple[Check, ...] = (
    pages_by_name,
    paths,
    network_everywhere,
    network_works,
    isolation,
    published,
    upstream,
    server_dies,
    lookups_go_on,
    attaching_goes_on,
    server_returns,
    open_at_first,
    isolated,
    allowed,
    denied,
    logged,
    rules_without_server,
    *demo_services.CHECKS,
)


def show(demo: Demo) -> list[str]:
    """Run all checks and print what each saw; returns the titles of those that failed."""
    failed = []
    for check in CHECKS:
        title = (check.__doc__ or "").strip()
        try:
            seen = check(demo)
        except PlaitError as error:
            seen = Observation(False, error.render())
        mark = "✓" if seen.ok else "✗"
        output.say(f"{mark} {title}")
        output.say(f"    {seen.text}")
        if not seen.ok:
            failed.append(title)
    return failed


def picture(demo: Demo) -> None:
    """Print what Plait says of itself."""
    for command in ("status", "peers", "ps", "policy ls", "service ls"):
        output.say(f"\n$ plait {command}        (on h1)")
        output.say(demo.plait("h1", *command.split()).rstrip())


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, so that it cleans up."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _take_down(lab: Lab) -> None:
    with lab.changing():
        left = lab.destroy()
    output.say("the lab is down" if not left else f"busy, and still there: {', '.join(left)}")


@click.command(cls=Command, examples=["scripts/demo", "scripts/demo --keep"])
@click.option("--keep", is_flag=True, help="Leave the lab up.")
@click.option("--name", default="demo", show_default=True, help="Name of the lab.")
def demo(keep: bool, name: str) -> None:
    """Three hosts on two sites with a dockerd each, and what Plait does for them."""
    if name in state.names():
        output.say(f'taking down the lab "{name}" of an earlier demo')
        _take_down(Lab(name))
    began = time.monotonic()
    with _interruptible():
        lab = bringup.up(name, HOSTS, sites=SITES, docker=True, say=output.good)
        output.say(f"  the lab stands after {time.monotonic() - began:.0f} s\n")
        try:
            shown = Demo(lab)
            shown.start_webs()
            output.good(f"a container with a page on each host: {', '.join(map(web, shown.hosts))}")
            failed = show(shown)
            picture(shown)
        except BaseException:
            keep = False
            raise
        finally:
            if not keep:
                output.say()
                _take_down(lab)
    if keep:
        output.say(f"\nthe lab is left up: plait lab exec --name {name} h1 -- docker ps")
        output.say(f"take it down with:  plait lab down --name {name}")
    took = time.monotonic() - began
    output.say(f"\n{len(CHECKS) - len(failed)} of {len(CHECKS)} checks hold, after {took:.0f} s")
    for title in failed:
        output.say(f"✗ {title}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(run(demo))
