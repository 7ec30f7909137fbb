"""The door to connection tracking: flows of an address that goes are forgotten.

An entry outlives the endpoint that made it; without this, the next holder of an address or a
port would inherit flows, rewritten to where the last one was.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Final

from plait.kernel.nfnetlink import NetfilterError, NfnetlinkSocket
from plait.wire import ctnetlink as ct
from plait.wire.nft_expr import PROTOCOLS

_FILTERED_LIMIT: Final = 2
"""Up to so many addresses the kernel looks for them; for more, one dump is cheaper."""
_SIDES: Final[tuple[ct.Side, ...]] = ("original src", "original dst", "reply src", "reply dst")


class Conntrack:
    """The real door; of the network namespace in which it was opened."""

    def __init__(self) -> None:
        self._nl = NfnetlinkSocket()

    def close(self) -> None:
        """Close the socket."""
        self._nl.close()

    def flows(self) -> tuple[ct.Flow, ...]:
        """Every flow of both families."""
        return tuple(self._dump(b"", 0))

    def forget_addresses(self, addresses: Iterable[str]) -> int:
        """Delete the flows of these addresses, on whatever side; how many there were."""
        wanted = frozenset(addresses)
        if len(wanted) > _FILTERED_LIMIT:
            return self._delete(flow for flow in self.flows() if touches(flow, wanted))
        found: dict[bytes, ct.Flow] = {}
        for address in wanted:
            family = ct.AF[6 if ":" in address else 4]
            for side in _SIDES:
                for flow in self._dump(ct.address_query(address, side), family):
                    if touches(flow, wanted):
                        found[flow.key] = flow
        return self._delete(found.values())

    def forget_ports(self, ports: Iterable[tuple[str, int]]) -> int:
        """Delete the flows that these (protocol, host port)s decided; how many there were."""
        wanted = frozenset((PROTOCOLS[name], port) for name, port in ports)
        return self._delete(flow for flow in self.flows() if decided(flow, wanted))

    def _dump(self, query: bytes, family: int) -> Iterator[ct.Flow]:
        for msg in self._nl.dump(ct.CT_GET, query, family=family):
            flow = ct.flow(msg)
            if flow is not None:
                yield flow

    def _delete(self, flows: Iterable[ct.Flow]) -> int:
        count = 0
        for flow in flows:
            try:
                self._nl.call(ct.CT_DELETE, flow.key, family=ct.AF[flow.family])
            except NetfilterError as error:
                # It ended by itself meanwhile.
                if error.errno != errno.ENOENT:
                    raise
            else:
                count += 1
        return count


def touches(flow: ct.Flow, addresses: frozenset[str]) -> bool:
    """Whether one of the addresses is a party of the flow, before or after translation."""
    return not addresses.isdisjoint((*flow.original[:2], *flow.reply[:2]))


def decided(flow: ct.Flow, ports: frozenset[tuple[int, int]]) -> bool:
    """Whether a flow to a host port was led by its published port, or missed it.

    A translated flow of any protocol was led. Of those not translated only UDP's can be a
    client's that goes on sending to a port published later; a TCP connection to the same port
    of some other host is none of our business.
    """
    if (flow.protocol, flow.original.dport) not in ports:
        return False
    translated = flow.original.dst != flow.reply.src or flow.original.dport != flow.reply.sport
    return translated or flow.protocol == PROTOCOLS["udp"]


class FakeConntrack:
    """The fake door: a list of flows."""

    def __init__(self, flows: Iterable[ct.Flow] = ()) -> None:
        self.entries = list(flows)

    def close(self) -> None:
        """Nothing to close."""

    def flows(self) -> tuple[ct.Flow, ...]:
        """Every flow."""
        return tuple(self.entries)

    def forget_addresses(self, addresses: Iterable[str]) -> int:
        """See Conntrack."""
        wanted = frozenset(addresses)
        return self._forget([flow for flow in self.entries if touches(flow, wanted)])

    def forget_ports(self, ports: Iterable[tuple[str, int]]) -> int:
        """See Conntrack."""
        wanted = frozenset((PROTOCOLS[name], port) for name, port in ports)
        return self._forget([flow for flow in self.entries if decided(flow, wanted)])

    def _forget(self, flows: list[ct.Flow]) -> int:
        self.entries = [flow for flow in self.entries if flow not in flows]
        return len(flows)
