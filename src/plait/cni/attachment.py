"""A call as an endpoint of the agent's, and the endpoint as a result. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from plait.client.agent import AttachRequest, AttachResult, Bandwidth, LocalEndpoint
from plait.model.dnsnames import dns_alias, dns_label
from plait.model.marks import GATEWAY4, GATEWAY6, HOST_MAC, RESOLVER6
from plait.model.objects import NamedPort, Pod, Workload
from plait.wire.cni.call import Attachment, Call
from plait.wire.cni.result import Interface, Ip, Result, Route

DEFAULT_ROUTES: Final = ("0.0.0.0/0", "::/0")


def prefix(name: str) -> str:
    """What the ids of all endpoints of a network configuration begin with."""
    return f"cni-{hashlib.sha256(name.encode()).hexdigest()[:12]}-"


def endpoint_id(name: str, attachment: Attachment) -> str:
    """Id of an attachment's endpoint: the same for each call that means it, in whatever version
    of the configuration."""
    words = f"{attachment.container}\0{attachment.ifname}"
    return prefix(name) + hashlib.sha256(words.encode()).hexdigest()[:24]


class Identity:
    """Who a workload is: what policies and names know of it."""

    def __init__(
        self,
        namespace: str,
        name: str = "",
        labels: dict[str, str] | None = None,
        named_ports: tuple[NamedPort, ...] = (),
        pod: str = "",
    ) -> None:
        """`name` may be any name of a runtime's; `pod` is the uid of the Pod that says it."""
        self.namespace = namespace
        self.name = dns_label(name)
        self.aliases = (dns_alias(name),) if name and self.name != name else ()
        self.labels = labels or {}
        self.named_ports = named_ports
        self.pod = pod

    @classmethod
    def of_pod(cls, pod: Pod) -> Identity:
        """As an orchestrator says it."""
        meta, spec = pod.metadata, pod.spec
        return cls(meta.namespace, meta.name, meta.labels, spec.named_ports, spec.uid)

    @classmethod
    def of_runtime(cls, call: Call) -> Identity:
        """As the runtime says it: podman names the container as K8S_POD_NAME."""
        wanted = call.wanted
        namespace = wanted.pod_namespace or call.settings.namespace
        return cls(namespace, wanted.pod_name, wanted.labels)


def request(call: Call, identity: Identity, *, default_route: bool) -> AttachRequest:
    """What the agent is asked for."""
    wanted = call.wanted
    rates = wanted.rates
    aliases = (dns_alias(alias) for alias in wanted.aliases)
    return AttachRequest(
        id=endpoint_id(call.name, call.attachment),
        network=call.settings.network,
        namespace=identity.namespace,
        name=identity.name,
        # Without the empty ones: nothing of such an alias can stand in DNS.
        aliases=tuple(dict.fromkeys(filter(None, (*identity.aliases, *aliases)))),
        labels=identity.labels,
        addresses=wanted.addresses,
        ranges=wanted.ranges,
        mac=wanted.mac,
        netns=call.netns,
        ifname=call.ifname,
        workload=Workload(runtime="cni", id=call.attachment.container, pod=identity.pod),
        ports=wanted.ports,
        named_ports=identity.named_ports,
        default_route=default_route,
        bandwidth=None
        if rates is None
        else Bandwidth(
            ingress_rate=rates.ingress_rate,
            ingress_burst=rates.ingress_burst,
            egress_rate=rates.egress_rate,
            egress_burst=rates.egress_burst,
        ),
        pod=identity.pod,
        began=call.started,
    )


def wants_default_route(call: Call, inside: Iterable[LocalEndpoint]) -> bool:
    """The first interface of a container carries the default routes; `inside` are the endpoints
    that its namespace has."""
    if call.settings.default_route is not None:
        return call.settings.default_route
    if call.previous and any(route.dst in DEFAULT_ROUTES for route in call.previous.routes):
        return False
    return not any(endpoint.request.default_route for endpoint in inside)


def result(call: Call, attached: AttachResult, *, default_route: bool) -> Result:
    """What we made: the host's side first, then the container's."""
    return Result(
        interfaces=(
            Interface(name=attached.interface, mac=HOST_MAC, mtu=attached.mtu),
            Interface(name=call.ifname, mac=attached.mac, mtu=attached.mtu, sandbox=call.netns),
        ),
        ips=tuple(
            Ip(address=_whole(address), gateway=_gateway(address), interface=1)
            for address in attached.addresses
        ),
        routes=tuple(_routes(attached, default_route and not attached.internal)),
        **({"dns": call.wanted.dns} if call.wanted.dns is not None else {}),
    )


def _routes(attached: AttachResult, default_route: bool) -> Iterable[Route]:
    """Those that the agent made inside (agent/desired/links.py)."""
    for address in attached.addresses:
        via, v6 = _gateway(address), ":" in address
        if default_route:
            yield Route(dst=DEFAULT_ROUTES[v6], gw=via)
            continue
        for pool in attached.pools:
            if (":" in pool) == v6:
                yield Route(dst=pool, gw=via)
        yield Route(dst=_whole(RESOLVER6), gw=via) if v6 else Route(dst=_whole(GATEWAY4))


def _gateway(address: str) -> str:
    return GATEWAY6 if ":" in address else GATEWAY4


def _whole(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"
