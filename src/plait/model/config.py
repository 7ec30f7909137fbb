"""What `plait up`, `join` and `kubernetes install` decide once and daemons read at each start."""

from __future__ import annotations

from typing import Final

import msgspec

from plait.model.objects import ClusterSpec

DEFAULT_PORT: Final = 6440
"""TCP port of the server."""


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a server. `cluster` is used when the store is empty, and never after."""

    port: int = DEFAULT_PORT
    addresses: tuple[str, ...] = ()
    """Addresses by which agents reach this server: names of its certificate."""
    names: tuple[str, ...] = ()
    """Host names by which agents reach this server."""
    cluster: ClusterSpec = ClusterSpec()


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an agent."""

    node: str
    server: str
    """URL, `https://host:port`."""
    address: str = ""
    """Underlay address, if the user chose it: with or without prefix length."""
    interface: str = ""
    """Underlay interface, if the user chose it."""
    site: str = ""
    """Informative name of the place."""


class KubernetesConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a connector to Kubernetes."""

    kubeconfig: str = ""
    """Absolute path; empty: the pod's service account, or root's `.kube/config`."""
    context: str = ""
    """Of the kubeconfig; empty: its current one."""
    network: str = ""
    """Plait's network that pods are in; empty: the one that `plait up` makes."""
    server: str = ""
    """URL of Plait's server; empty: the one of this host."""
    token_file: str = ""
    """Absolute path of a file with a token of the role `connector`, for `server`."""
    lease_namespace: str = "kube-system"
    """Where in Kubernetes the Lease stands that says which connector writes."""
    listen: str = ""
    """`ADDRESS:PORT` where health and metrics are served beside the socket; empty: nowhere."""
