"""The kind Pod: what an orchestrator says of a workload, before and while it runs.

Written by the connector of the orchestrator (`plait kubernetes`), read by agents. When a runtime
attaches a workload and names its pod, the node's agent takes name, labels and named ports from
here, and writes the Endpoint; when the Pod changes, so does the Endpoint. A Pod never opens
traffic by itself: without an attach there is no Endpoint, without a Pod an Endpoint that waits for
one has no identity.
"""

from __future__ import annotations

from typing import ClassVar

from plait.model.meta import Base, Object
from plait.model.ports import NamedPort


class PodSpec(Base, frozen=True, kw_only=True):
    """See the module's docstring. `metadata` has name, namespace and labels."""

    uid: str = ""
    """The orchestrator's own: it tells a pod from its successor of the same name."""
    node: str = ""
    """Name of our Node on which it runs; empty until it is placed."""
    hostname: str = ""
    """Its first DNS label where it has names of its own (Kubernetes' `hostname`)."""
    subdomain: str = ""
    """Name of the headless Service below which its hostname stands."""
    named_ports: tuple[NamedPort, ...] = ()
    host_network: bool = False
    """It has the host's addresses and is no endpoint: policies never mean it."""
    addresses: tuple[str, ...] = ()
    """As the orchestrator believes; names of pods are made of them, nothing else."""
    ready: bool = False
    """It answers, as the orchestrator's probes say; on its way out it may still."""
    terminating: bool = False
    """It is on its way out: a backend of Services only where no other one is ready."""
    finished: bool = False
    """It has ended and will not run again: its address may be another's already."""


class Pod(Object, frozen=True, kw_only=True, tag=True):
    """A workload of an orchestrator."""

    namespaced: ClassVar[bool] = True
    plural: ClassVar[str] = "pods"
    spec: PodSpec = PodSpec()
