"""Errors with a stable code, in the form of RFC 9457 on the wire and of a compiler on a screen.

Every refusal explains itself (P9): what is wrong, where, why, and which command mends it. Codes
are stable: a code is never reused for another meaning. Each code stands in `CODES` with its
title and HTTP status; an error of an unknown code is a defect that a house test finds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec


class Code(NamedTuple):
    """Meaning of a code."""

    status: int
    """HTTP status (RFC 9110)."""
    title: str


CODES: Final[dict[str, Code]] = {
    # API: the request itself
    "PLAIT-API-001": Code(400, "the body is not valid JSON"),
    "PLAIT-API-002": Code(422, "the object is not valid"),
    "PLAIT-API-003": Code(404, "no such kind"),
    "PLAIT-API-004": Code(404, "no such object"),
    "PLAIT-API-005": Code(409, "the object exists already"),
    "PLAIT-API-006": Code(409, "the object was changed by somebody else"),
    "PLAIT-API-007": Code(413, "the body is too large"),
    "PLAIT-API-008": Code(410, "the watch cannot continue from that revision"),
    "PLAIT-API-009": Code(429, "too many requests"),
    "PLAIT-API-010": Code(405, "the method is not allowed here"),
    "PLAIT-API-011": Code(409, "the object is in use"),
    "PLAIT-API-012": Code(503, "the server cannot be reached"),
    "PLAIT-API-013": Code(500, "the server failed"),
    "PLAIT-API-014": Code(404, "no such path"),
    "PLAIT-API-015": Code(415, "the content type is not supported"),
    "PLAIT-API-016": Code(421, "the host name is not this server's"),
    "PLAIT-API-017": Code(408, "the request took too long"),
    # Names
    "PLAIT-NAME-001": Code(422, "the name is not a DNS label"),
    "PLAIT-DNS-001": Code(409, "the resolver's port is taken"),
    # Networks and pools
    "PLAIT-NET-001": Code(409, "the pools of two networks overlap"),
    "PLAIT-NET-002": Code(409, "the pool overlaps something that a host uses"),
    "PLAIT-NET-003": Code(409, "the cluster's pools are used up"),
    "PLAIT-NET-004": Code(422, "the pool is not a valid CIDR"),
    "PLAIT-NET-005": Code(409, "a network's pools cannot be changed"),
    "PLAIT-NET-006": Code(404, "no such network"),
    # Addresses
    "PLAIT-IPAM-010": Code(409, "the address is in use"),
    "PLAIT-IPAM-011": Code(422, "the address is outside the network's pool"),
    "PLAIT-IPAM-012": Code(409, "the pool has no free address"),
    "PLAIT-IPAM-013": Code(503, "no block can be claimed while the server is away"),
    "PLAIT-IPAM-014": Code(422, "the address is reserved"),
    "PLAIT-IPAM-015": Code(409, "the block's owner does not lend the address"),
    # Services
    "PLAIT-SERVICE-001": Code(409, "the address is another's"),
    "PLAIT-SERVICE-002": Code(409, "the service pools have no free address"),
    "PLAIT-SERVICE-003": Code(409, "the node port is taken"),
    "PLAIT-SERVICE-004": Code(409, "no node port is free"),
    "PLAIT-SERVICE-005": Code(409, "a service's addresses cannot be changed"),
    "PLAIT-SERVICE-006": Code(409, "the pool of services overlaps something else"),
    "PLAIT-SERVICE-007": Code(409, "the cluster has no service pool"),
    # Trust
    "PLAIT-AUTH-001": Code(401, "authentication is required"),
    "PLAIT-AUTH-002": Code(403, "that is not allowed"),
    "PLAIT-AUTH-003": Code(401, "the token is not valid"),
    "PLAIT-AUTH-004": Code(401, "the token has expired"),
    "PLAIT-AUTH-005": Code(401, "the server's certificate authority is not the expected one"),
    "PLAIT-AUTH-006": Code(403, "a node writes its own objects only"),
    "PLAIT-AUTH-007": Code(401, "the server does not know the node any more"),
    # Agent and kernel
    "PLAIT-AGENT-001": Code(503, "the agent does not answer"),
    "PLAIT-AGENT-002": Code(409, "the agent and the server are of different versions"),
    "PLAIT-AGENT-003": Code(404, "no such endpoint"),
    "PLAIT-AGENT-004": Code(404, "no such network namespace"),
    "PLAIT-AGENT-005": Code(409, "the interface name is taken"),
    "PLAIT-AGENT-006": Code(504, "the kernel was not ready in time"),
    "PLAIT-AGENT-007": Code(409, "the host port is taken"),
    "PLAIT-AGENT-008": Code(503, "the agent has not yet seen the whole network"),
    "PLAIT-AGENT-009": Code(504, "the pod is not known yet"),
    "PLAIT-KERNEL-001": Code(500, "the kernel refused an operation"),
    "PLAIT-KERNEL-002": Code(501, "the kernel lacks a feature"),
    "PLAIT-KERNEL-003": Code(500, "the kernel's rules cannot be read"),
    # Docker
    "PLAIT-DOCKER-001": Code(400, "the request of dockerd is not valid"),
    "PLAIT-DOCKER-002": Code(422, "the network option is not supported"),
    "PLAIT-DOCKER-003": Code(501, "swarm services are not supported"),
    "PLAIT-DOCKER-004": Code(503, "the network is not yet known to Plait"),
    # Kubernetes' API server
    "PLAIT-KUBE-001": Code(422, "the kubeconfig cannot be used"),
    "PLAIT-KUBE-002": Code(503, "the Kubernetes API server cannot be reached"),
    "PLAIT-KUBE-003": Code(401, "the Kubernetes API server does not accept the credentials"),
    "PLAIT-KUBE-004": Code(403, "the Kubernetes API server does not allow that"),
    "PLAIT-KUBE-005": Code(404, "no such object in Kubernetes"),
    "PLAIT-KUBE-006": Code(409, "the object in Kubernetes was changed by somebody else"),
    "PLAIT-KUBE-007": Code(410, "the Kubernetes API server cannot continue from there"),
    "PLAIT-KUBE-008": Code(429, "the Kubernetes API server has too many requests"),
    "PLAIT-KUBE-009": Code(502, "the Kubernetes API server failed"),
    "PLAIT-KUBE-010": Code(422, "the Kubernetes API server refused the object"),
    "PLAIT-KUBE-011": Code(502, "the Kubernetes API server's answer is not understood"),
    "PLAIT-KUBE-012": Code(401, "the Kubernetes API server's certificate is not the expected one"),
    "PLAIT-KUBE-013": Code(404, "the Kubernetes API server does not serve the resource"),
    # Host
    "PLAIT-HOST-001": Code(412, "a program is missing"),
    "PLAIT-HOST-002": Code(403, "root is required"),
    "PLAIT-HOST-003": Code(409, "the pool overlaps something on this host"),
    "PLAIT-HOST-004": Code(409, "Plait runs here already"),
    "PLAIT-HOST-005": Code(412, "Plait does not run here"),
    "PLAIT-HOST-006": Code(412, "the underlay address cannot be determined"),
    "PLAIT-HOST-007": Code(409, "the port is taken"),
    "PLAIT-HOST-008": Code(504, "a process did not become ready in time"),
    "PLAIT-HOST-009": Code(409, "the host was set up with other settings"),
    "PLAIT-HOST-010": Code(412, "containers would reach no resolver of the host's"),
    # Store
    "PLAIT-STORE-001": Code(507, "the disk is full"),
    "PLAIT-STORE-002": Code(500, "the store is damaged"),
    "PLAIT-STORE-003": Code(503, "the store is closed"),
    "PLAIT-STORE-004": Code(404, "no such lease"),
    "PLAIT-STORE-005": Code(422, "the key, value or lease is outside the store's limits"),
    "PLAIT-STORE-006": Code(409, "the store is in use"),
    "PLAIT-STORE-007": Code(503, "a file cannot be read or written"),
    "PLAIT-STORE-008": Code(500, "the store was written by a newer version"),
    # Lab
    "PLAIT-LAB-001": Code(404, "no such lab"),
    "PLAIT-LAB-002": Code(404, "no such lab host"),
    "PLAIT-LAB-003": Code(409, "the lab exists already"),
    "PLAIT-LAB-004": Code(404, "no such workload"),
    "PLAIT-LAB-005": Code(504, "a lab host did not come up in time"),
    "PLAIT-LAB-006": Code(500, "a command on a lab host failed"),
    # Command line
    "PLAIT-CLI-001": Code(400, "the command line is not valid"),
    "PLAIT-CLI-002": Code(500, "the operating system refused"),
    "PLAIT-CLI-003": Code(500, "plait failed"),
    "PLAIT-CLI-004": Code(422, "the manifest is not valid"),
}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457 problem details; `code`, `why` and `fix` are extension members."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""
    where: str = ""
    why: str = ""
    fix: tuple[str, ...] = ()


class PlaitError(Exception):
    """An error that a user may see.

    `detail` is one sentence in lower case that names the things concerned; `where` names the
    object; `why` gives the evidence; `fix` holds commands that mend it, best first.
    """

    def __init__(
        self, code: str, detail: str, *, where: str = "", why: str = "", fix: tuple[str, ...] = ()
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.where = where
        self.why = why
        self.fix = fix

    @property
    def status(self) -> int:
        """HTTP status of the code."""
        return CODES[self.code].status

    def problem(self) -> Problem:
        """The error as RFC 9457 problem details."""
        code = CODES[self.code]
        return Problem(
            type=f"https://plait.invalid/errors/{self.code}",
            title=code.title,
            status=code.status,
            code=self.code,
            detail=self.detail,
            where=self.where,
            why=self.why,
            fix=self.fix,
        )

    @classmethod
    def from_problem(cls, problem: Problem) -> PlaitError:
        """The error that a peer sent."""
        code = problem.code if problem.code in CODES else "PLAIT-API-013"
        return cls(code, problem.detail, where=problem.where, why=problem.why, fix=problem.fix)

    def render(self) -> str:
        """The error as it stands on a screen, without colour."""
        lines = [f"error[{self.code}]: {self.detail}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.why:
            lines.append(f"  why: {self.why}")
        lines += [f"  {'fix' if i == 0 else ' or'}: {fix}" for i, fix in enumerate(self.fix)]
        return "\n".join(lines)
