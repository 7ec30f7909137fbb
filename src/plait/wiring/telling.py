"""What the parts beside the agent tell about themselves, as the agent's metrics and problems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from plait.agent.metrics import Metric, counter, gauge
from plait.cni.plugin import CniPlugin
from plait.dns.server import DnsServer
from plait.docker.plugin import DockerPlugin
from plait.kernel.conntrack import FlowReaper

RCODES: Final = {
    0: "NOERROR",
    1: "FORMERR",
    2: "SERVFAIL",
    3: "NXDOMAIN",
    4: "NOTIMP",
    5: "REFUSED",
}
"""RFC 1035 section 4.1.1; others appear as their number."""


def flow_problems(flows: FlowReaper) -> tuple[str, ...]:
    """Old connections that could not be ended."""
    if not flows.error:
        return ()
    return (
        f"connection tracking cannot be cleaned ({flows.error}): old connections of an address "
        "or port may go on to its former holder until they end",
    )


def flow_metrics(flows: FlowReaper) -> Iterator[Metric]:
    """Of connection tracking."""
    yield counter("plait_conntrack_forgotten_flows", flows.forgotten)


def dns_metrics(server: DnsServer) -> Iterator[Metric]:
    """Of the resolver."""
    stats = server.stats
    yield gauge("plait_dns_listening", len(server.addresses))
    for rcode, count in sorted(stats.answers.items()):
        yield counter("plait_dns_answers", count, rcode=RCODES.get(rcode, str(rcode)))
    yield counter("plait_dns_forwarded", stats.forwarded)
    yield counter("plait_dns_cache_hits", stats.cache_hits)
    yield counter("plait_dns_upstream_failures", stats.upstream_failures)
    yield counter("plait_dns_upstream_invalid", stats.upstream_invalid)
    yield counter("plait_dns_dropped", stats.dropped)
    yield counter("plait_dns_connections", stats.connections)
    yield counter("plait_dns_refused_connections", stats.refused_connections)


def docker_metrics(plugin: DockerPlugin) -> Iterator[Metric]:
    """Of the Docker plug-in."""
    yield gauge("plait_docker_connected", plugin.connected)
    yield gauge("plait_docker_problems", len(plugin.problems))


def cni_metrics(plugin: CniPlugin) -> Iterator[Metric]:
    """Of the CNI plugin."""
    yield gauge("plait_cni_kept_dels", plugin.waiting)
    for (verb, code), count in sorted(plugin.served.items()):
        yield counter("plait_cni_calls", count, verb=verb, code=str(code))
