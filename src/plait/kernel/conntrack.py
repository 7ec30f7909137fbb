"""The door to connection tracking: flows of an address that goes are forgotten.

An entry outlives the endpoint that made it; without this, the next holder of an address or a
port would inherit flows, rewritten to where the last one was.

The kernel walks its whole table, of all namespaces, for every dump (12 ms with the usual 262,144
buckets, a filter in the kernel or not): `FlowReaper` does it beside the agent's loop, once for
all that was asked meanwhile.
"""

from __future__ import annotations

import errno
import ipaddress
import threading
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from plait.kernel.nfnetlink import NetfilterError, NfnetlinkSocket
from plait.wire import ctnetlink as ct
from plait.wire.nft_expr import PROTOCOLS

Called = tuple[int, str, int]
"""Protocol, address and port to which a flow is sent; the addresses 0.0.0.0 and :: are all of this
host."""
_OF_HOST = {4: "0.0.0.0", 6: "::"}


class Led(NamedTuple):
    """Addresses and ports to which a Service leads."""

    backends: frozenset[tuple[str, int]]
    """Those that it has."""
    gone: frozenset[tuple[str, int]] = frozenset()
    """Those that it had."""


class Conntrack:
    """The real door; of the network namespace in which it was opened."""

    def __init__(self) -> None:
        self._nl = NfnetlinkSocket()

    def close(self) -> None:
        """Close the socket."""
        self._nl.close()

    def flows(self) -> tuple[ct.Flow, ...]:
        """Every flow of both families."""
        found = (ct.flow(msg) for msg in self._nl.dump(ct.CT_GET, b""))
        return tuple(flow for flow in found if flow is not None)

    def flows_of(self, addresses: Iterable[str]) -> tuple[ct.Flow, ...]:
        """Flows of which one of the addresses is the sender, or the receiver as translated."""
        wanted = frozenset(ipaddress.ip_address(address).packed for address in addresses)
        found = (
            ct.flow(msg)
            for msg in self._nl.dump(ct.CT_GET, b"")
            if not wanted.isdisjoint(ct.ends(msg))
        )
        return tuple(flow for flow in found if flow is not None)

    def forget(self, flows: Iterable[ct.Flow]) -> int:
        """Delete these flows; how many there still were."""
        return self._delete(flows)

    def forget_addresses(self, addresses: Iterable[str]) -> int:
        """Delete the flows of these addresses, on whatever side; how many there were."""
        wanted = frozenset(addresses)
        return self._delete(flow for flow in self.flows() if touches(flow, wanted))

    def forget_ports(self, ports: Iterable[tuple[str, int]]) -> int:
        """Delete the flows that these (protocol, host port)s decided; how many there were."""
        wanted = frozenset((PROTOCOLS[name], port) for name, port in ports)
        return self._delete(flow for flow in self.flows() if decided(flow, wanted))

    def forget_services(self, services: Mapping[Called, Led]) -> int:
        """Delete the flows that were led astray, or missed their Service; how many there were."""
        return self._delete(flow for flow in self.flows() if astray(flow, services))

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


def astray(flow: ct.Flow, services: Mapping[Called, Led]) -> bool:
    """Whether a flow that was sent to one of these Services goes to none of its backends.

    A port of the host is ours at the host's own addresses only, and the flow does not say whose its
    address is: there it must go to a backend that went, or be translated in no way.
    """
    original, reply = flow.original, flow.reply
    receiver = (reply.src, reply.sport)
    led = services.get((flow.protocol, original.dst, original.dport))
    if led is not None:
        return receiver not in led.backends
    led = services.get((flow.protocol, _OF_HOST[flow.family], original.dport))
    if led is None:
        return False
    sender = (reply.dst, reply.dport)
    untouched = receiver == (original.dst, original.dport) and sender == (
        original.src,
        original.sport,
    )
    return receiver in led.gone or untouched


class FlowTable(Protocol):
    """What is needed to look for flows and end them. Both calls take a while."""

    def flows_of(self, addresses: Iterable[str]) -> tuple[ct.Flow, ...]:
        """Flows of which one of the addresses is the sender, or the receiver as translated."""

    def forget(self, flows: Iterable[ct.Flow]) -> int:
        """Delete these flows; how many there still were."""


class FlowDoor(Protocol):
    """What the filter needs of conntrack."""

    def forget_addresses(self, addresses: Iterable[str]) -> int:
        """Delete the flows of these addresses; how many there were."""

    def forget_ports(self, ports: Iterable[tuple[str, int]]) -> int:
        """Delete the flows of these (protocol, host port)s; how many there were."""

    def forget_services(self, services: Mapping[Called, Led]) -> int:
        """Delete the flows to these Services that go to none of their backends; how many there
        were."""

    def close(self) -> None:
        """Release the socket."""


class FlowReaper:
    """Forgets flows in a thread of its own; the calls return at once, with 0.

    A released address rests before it is used again, for much longer than this takes.
    """

    def __init__(self, door: FlowDoor) -> None:
        self._door = door
        self._changed = threading.Condition()
        self._addresses: set[str] = set()
        self._ports: set[tuple[str, int]] = set()
        self._services: dict[Called, Led] = {}
        self._busy = False
        self._closed = False
        self.forgotten = 0
        """Flows that were deleted."""
        self.error = ""
        """Of the last round, empty when it went well."""
        self._thread = threading.Thread(target=self._work, name="plait-flows", daemon=True)
        self._thread.start()

    def forget_addresses(self, addresses: Iterable[str]) -> int:
        """Delete, soon, the flows of these addresses."""
        with self._changed:
            self._addresses |= set(addresses)
            self._changed.notify_all()
        return 0

    def forget_ports(self, ports: Iterable[tuple[str, int]]) -> int:
        """Delete, soon, the flows of these (protocol, host port)s."""
        with self._changed:
            self._ports |= set(ports)
            self._changed.notify_all()
        return 0

    def forget_services(self, services: Mapping[Called, Led]) -> int:
        """Delete, soon, the flows to these Services that go to none of their backends."""
        with self._changed:
            for called, led in services.items():
                before = self._services.get(called)
                gone = led.gone | before.gone if before else led.gone
                self._services[called] = Led(led.backends, gone - led.backends)
            self._changed.notify_all()
        return 0

    def wait(self, seconds: float) -> bool:
        """Wait until all that was asked is done; False when it takes longer."""
        with self._changed:
            return self._changed.wait_for(self._idle, seconds)

    def close(self) -> None:
        """Finish what was asked, then end the thread and close the door."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._door.close()

    def _idle(self) -> bool:
        return not (self._due() or self._busy)

    def _due(self) -> bool:
        return bool(self._addresses or self._ports or self._services)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due() or self._closed)
                if not self._due():
                    return
                addresses, self._addresses = self._addresses, set()
                ports, self._ports = self._ports, set()
                services, self._services = self._services, {}
                self._busy = True
            count, error = self._round(addresses, ports, services)
            with self._changed:
                self.forgotten += count
                self.error = error
                self._busy = False
                self._changed.notify_all()

    def _round(
        self, addresses: set[str], ports: set[tuple[str, int]], services: Mapping[Called, Led]
    ) -> tuple[int, str]:
        try:
            count = self._door.forget_addresses(addresses) if addresses else 0
            count += self._door.forget_ports(ports) if ports else 0
            return count + (self._door.forget_services(services) if services else 0), ""
        except OSError as error:
            return 0, str(error)
        except Exception as defect:
            # Nor does a defect end the thread: nobody would ever clean up again.
            return 0, f"a defect: {defect!r}"


class FakeConntrack:
    """The fake door: a list of flows."""

    def __init__(self, flows: Iterable[ct.Flow] = ()) -> None:
        self.entries = list(flows)

    def close(self) -> None:
        """Nothing to close."""

    def flows(self) -> tuple[ct.Flow, ...]:
        """Every flow."""
        return tuple(self.entries)

    def flows_of(self, addresses: Iterable[str]) -> tuple[ct.Flow, ...]:
        """See Conntrack."""
        wanted = frozenset(addresses)
        return tuple(
            flow
            for flow in self.entries
            if not wanted.isdisjoint((flow.original.src, flow.reply.src))
        )

    def forget(self, flows: Iterable[ct.Flow]) -> int:
        """See Conntrack."""
        return self._forget([flow for flow in flows if flow in self.entries])

    def forget_addresses(self, addresses: Iterable[str]) -> int:
        """See Conntrack."""
        wanted = frozenset(addresses)
        return self._forget([flow for flow in self.entries if touches(flow, wanted)])

    def forget_ports(self, ports: Iterable[tuple[str, int]]) -> int:
        """See Conntrack."""
        wanted = frozenset((PROTOCOLS[name], port) for name, port in ports)
        return self._forget([flow for flow in self.entries if decided(flow, wanted)])

    def forget_services(self, services: Mapping[Called, Led]) -> int:
        """See Conntrack."""
        return self._forget([flow for flow in self.entries if astray(flow, services)])

    def _forget(self, flows: list[ct.Flow]) -> int:
        self.entries = [flow for flow in self.entries if flow not in flows]
        return len(flows)
