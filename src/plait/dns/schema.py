"""Kubernetes' names: what is meant by the labels before the cluster's domain. Pure.

Source: Kubernetes DNS-Based Service Discovery 1.1.0 (kubernetes/dns, docs/specification.md), and
names of pods by their address, as CoreDNS has them.

| Labels | Means |
|---|---|
| – | the domain itself |
| `dns-version` | the version of the schema |
| `svc`, `pod` | nothing, but there is more below |
| `<ns>.svc`, `<ns>.pod` | a namespace |
| `<service>.<ns>.svc` | a Service |
| `<hostname>.<service>.<ns>.svc` | a backend of it |
| `_<port>._<protocol>.<service>.<ns>.svc` | a named port of it |
| `_<protocol>.<service>.<ns>.svc` | nothing, but there is more below |
| `<a-b-c-d>.<ns>.pod` | a pod, by its address |
"""

from __future__ import annotations

import socket
from typing import Final, Literal, NamedTuple

VERSION: Final = b"1.1.0"
SERVICES: Final = b"svc"
PODS: Final = b"pod"

Labels = tuple[bytes, ...]

What = Literal["apex", "version", "branch", "namespace", "named", "pod", "nothing"]


class Meaning(NamedTuple):
    """What a name is a name of."""

    what: What
    namespace: bytes = b""
    labels: Labels = ()
    """Of `named`: the Service's name, with what stands before it. Of `pod`: none."""
    address: bytes = b""
    """Of `pod`: packed."""


def meaning(labels: Labels) -> Meaning:
    """What is meant; `labels` in lower case, without the domain."""
    match labels:
        case ():
            return Meaning("apex")
        case (b"dns-version",):
            return Meaning("version")
        case (b"svc" | b"pod",):
            return Meaning("branch")
        case (namespace, b"svc" | b"pod"):
            return Meaning("namespace", namespace)
        case (dashed, namespace, b"pod"):
            address = undashed(dashed)
            return Meaning("pod", namespace, address=address) if address else Meaning("nothing")
        case (*rest, namespace, b"svc"):
            return Meaning("named", namespace, tuple(rest))
        case _:
            return Meaning("nothing")


def dashed(packed: bytes) -> bytes:
    """An address as one label: `10-0-0-1`, `fd00--1`. It begins and ends with a digit, for a label
    has no hyphen at its ends (RFC 1123)."""
    if len(packed) == 4:
        return b"-".join(b"%d" % octet for octet in packed)
    text = socket.inet_ntop(socket.AF_INET6, packed).replace(":", "-")
    return f"{'0' * text.startswith('-')}{text}{'0' * text.endswith('-')}".encode()


def undashed(label: bytes) -> bytes:
    """The packed address of such a label; empty if it is none."""
    try:
        text = label.decode("ascii")
        if text.count("-") == 3:
            try:
                return socket.inet_pton(socket.AF_INET, text.replace("-", "."))
            except OSError:
                pass
        return socket.inet_pton(socket.AF_INET6, text.replace("-", ":"))
    except (OSError, ValueError):
        return b""
