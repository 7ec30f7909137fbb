"""The door to Docker's DOCKER-USER chain: through the `iptables` programs, as Docker does.

Rules made by another way would be refused by iptables as "incompatible" ever after. Both
back ends and both families may hold the chain. Looking has no side effect: iptables-legacy makes
the tables that it lists, so it is asked only where the kernel says that they are there; and
nothing is run while no ruleset changed.
"""

from __future__ import annotations

import contextlib
import errno
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from plait.kernel.nfnetlink import NetfilterError, NfnetlinkSocket
from plait.wire import nft, nft_read
from plait.wire.nfnetlink import SUBSYS_NFTABLES
from plait.wire.nft_expr import NFPROTO

CHAIN: Final = "DOCKER-USER"
_TIMEOUT: Final = 10.0
"""Seconds for one run, waiting for the lock included."""
_LOCK_SECONDS: Final = "5"


class Variant(NamedTuple):
    """A back end of a family."""

    command: str
    family: int
    legacy_tables: str
    """Where the kernel lists the tables of the legacy back end; empty for nf_tables."""


VARIANTS: Final = (
    Variant("iptables-nft", 4, ""),
    Variant("ip6tables-nft", 6, ""),
    Variant("iptables-legacy", 4, "/proc/thread-self/net/ip_tables_names"),
    Variant("ip6tables-legacy", 6, "/proc/thread-self/net/ip6_tables_names"),
)


class IptablesDoor(Protocol):
    """What the DOCKER-USER programmer needs; `Iptables` and `FakeIptables` offer it."""

    def rules(self) -> dict[str, tuple[str, ...]]:
        """Rules of DOCKER-USER as `-S` prints them, by command, where the chain exists."""

    def run(self, command: str, arguments: Sequence[str]) -> str:
        """Change the chain; the error's text, empty when it was done."""


class Iptables:
    """The real door; of the network namespace of the calling thread, and its sockets'."""

    def __init__(self) -> None:
        self._nl = NfnetlinkSocket()
        self._generation = -1
        self._held: dict[str, tuple[str, ...]] = {}

    def close(self) -> None:
        """Close the socket."""
        self._nl.close()

    def rules(self) -> dict[str, tuple[str, ...]]:
        """See IptablesDoor."""
        generation = self._nft_generation()
        found = {}
        for variant in VARIANTS:
            if not self._exists(variant):
                continue
            if not variant.legacy_tables and generation == self._generation:
                if variant.command in self._held:
                    found[variant.command] = self._held[variant.command]
                continue
            done = _run(variant.command, ["-S", CHAIN])
            if done is not None and done.returncode == 0:
                lines = done.stdout.splitlines()
                found[variant.command] = tuple(x for x in lines if x.startswith(f"-A {CHAIN} "))
        self._generation, self._held = generation, found
        return found

    def run(self, command: str, arguments: Sequence[str]) -> str:
        """See IptablesDoor."""
        done = _run(command, arguments)
        if done is None:
            return f"{command} cannot be run"
        return "" if done.returncode == 0 else done.stderr.strip() or f"exit {done.returncode}"

    def _nft_generation(self) -> int:
        found = self._nl.call(SUBSYS_NFTABLES << 8 | nft.GETGEN, b"")
        return nft_read.generation(found[0])

    def _exists(self, variant: Variant) -> bool:
        if variant.legacy_tables:
            with contextlib.suppress(OSError):
                return "filter" in Path(variant.legacy_tables).read_text("ascii").split()
            return False
        try:
            self._nl.call(
                SUBSYS_NFTABLES << 8 | nft.GETCHAIN,
                nft_read.chain_query("filter", CHAIN),
                family=NFPROTO[variant.family],
            )
        except NetfilterError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True


def _run(command: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            [command, "-w", _LOCK_SECONDS, *arguments],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


class FakeIptables:
    """The fake door: chains as lists of rules, by command."""

    def __init__(self, chains: dict[str, list[str]] | None = None) -> None:
        self.chains = chains or {}
        self.fail_next = ""
        """Error of the next run."""

    def rules(self) -> dict[str, tuple[str, ...]]:
        """See IptablesDoor."""
        return {command: tuple(rules) for command, rules in self.chains.items()}

    def run(self, command: str, arguments: Sequence[str]) -> str:
        """See IptablesDoor."""
        if self.fail_next:
            error, self.fail_next = self.fail_next, ""
            return error
        rules = self.chains.get(command)
        if rules is None:
            return "No chain/target/match by that name."
        verb, chain, *rest = arguments
        if verb == "-I":
            position, *rest = rest
            rules.insert(int(position) - 1, shlex.join(["-A", chain, *rest]))
            return ""
        line = shlex.join(["-A", chain, *rest])
        if line not in rules:
            return "Bad rule (does a matching rule exist in that chain?)."
        rules.remove(line)
        return ""
