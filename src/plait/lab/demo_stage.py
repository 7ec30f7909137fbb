"""What the checks of the demo have in common: a lab with dockerds, and words of a Docker user."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

from plait.client.polling import poll
from plait.lab import daemons
from plait.lab.lab import Lab
from plait.lab.topology import OUTSIDE
from plait.model.errors import PlaitError

SETTLE = 20.0
"""Seconds within which a change must be seen on every host, at the latest."""


class Observation(NamedTuple):
    """What a check saw."""

    ok: bool
    text: str


Check = Callable[["Demo"], Observation]


class Demo:
    """A lab with dockerds, and the words of a Docker user in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts = lab.plan.machines

    def docker(self, host: str, *argv: str, check: bool = True) -> str:
        """`docker …` on a host, as anybody would type it; PLAIT-LAB-006 when it fails."""
        done = self.lab.run(host, ["docker", *argv], check=False)
        if check and done.returncode:
            raise PlaitError(
                "PLAIT-LAB-006", f"`docker {argv[0]}` failed on {host}", why=done.stderr.strip()
            )
        return done.stdout.strip()

    def serve(self, host: str, name: str, network: str, *options: str) -> None:
        """A container with a web page that says its name."""
        page = f"echo page of {name} > /www/index.html; exec httpd -f -p 80 -h /www"
        self.docker(
            host,
            *("run", "-d", "--network", network, "--name", name, *options),
            *("busybox", "sh", "-c", page),
        )

    def start_webs(self) -> None:
        """A page on every host, under a name and an alias."""
        for host in self.hosts:
            self.serve(host, web(host), "plait", "--network-alias", f"alias-of-{host}")

    def fetch(self, host: str, container: str, url: str, family: int = 4) -> str:
        """A page as a container gets it, or what wget says instead."""
        argv = ["docker", "exec", container, "wget", f"-{family}", *WGET, url]
        return words(self.lab.run(host, argv, check=False))

    def fetch_until(self, host: str, container: str, url: str, wanted: str, family: int = 4) -> str:
        """The page once it is the wanted one, or what there was after SETTLE seconds."""
        return poll(
            lambda: self.fetch(host, container, url, family),
            lambda page: page == wanted,
            seconds=SETTLE,
        )

    def fetch_outside(self, url: str) -> str:
        """A page as the machine outside of the sites gets it, once there is one, or what wget says
        instead after SETTLE seconds."""
        return poll(
            lambda: words(self.lab.run(OUTSIDE, ["wget", *WGET, url], check=False)),
            lambda page: page.startswith("page of "),
            seconds=SETTLE,
        )

    def addresses(self, host: str, container: str, network: str) -> tuple[str, str]:
        """IPv4 and IPv6 address of a container on a network."""
        at = f'index .NetworkSettings.Networks "{network}"'
        form = f"{{{{({at}).IPAddress}}}} {{{{({at}).GlobalIPv6Address}}}}"
        four, six = self.docker(host, "inspect", "-f", form, container).split()
        return four, six

    def answers_ping(self, host: str, container: str, address: str) -> bool:
        """Whether an address answers a container within a second."""
        argv = ["docker", "exec", container, "ping", "-c1", "-W1", address]
        return self.lab.run(host, argv, check=False).returncode == 0

    def plait(self, host: str, *argv: str) -> str:
        """`plait …` on a host."""
        return daemons.plait(self.lab, host, *argv)

    def start_shop(self) -> None:
        """Three containers of namespace shop, each on a host of its own."""
        for host, name in zip(self.hosts, SHOP, strict=True):
            self.serve(host, name, "plait", "--label", "plait.namespace=shop")

    def pages(self, ways: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """Which container gets which one's page, by container and name."""
        return {
            (source, target): self.fetch(self._host_of(source), source, f"http://{target}/")
            == f"page of {target.partition('.')[0]}"
            for source, target in ways
        }

    def pages_until(self, wanted: dict[tuple[str, str], bool]) -> dict[tuple[str, str], bool]:
        """The pages once they come and stay away as wanted, or after SETTLE seconds."""
        return poll(lambda: self.pages(list(wanted)), lambda seen: seen == wanted, seconds=SETTLE)

    def why(self, src: str, dst: str) -> str:
        """What `plait why` says in its first line."""
        return self.plait("h1", "why", src, dst, "80/tcp").partition("\n")[0]

    def _host_of(self, container: str) -> str:
        if container in SHOP:
            return self.hosts[SHOP.index(container)]
        return next(host for host in self.hosts if web(host) == container)


WGET = ("-T2", "-t1", "-qO-")
SHOP = ("front", "api", "db")
"""Containers of namespace shop, in the order of the hosts that they are on."""


def words(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said, for people."""
    return done.stdout.strip() or done.stderr.strip() or f"nothing (exit code {done.returncode})"


def web(host: str) -> str:
    """Name of the container with a page that is on every host from the start."""
    return f"web-{host}"
