"""Kubernetes' policies as ours, failing closed. Pure.

A rule with something that this version does not know accepts nothing (`policy.kubernetes`). A
policy that cannot be read at all, which an API server of the same version would have refused,
denies all that it may have meant to rule: what it selects, in the directions of which it speaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from plait.kubernetes import objects
from plait.model.errors import PlaitError
from plait.model.policies import DIRECTIONS, Policy, Rule
from plait.policy import validate
from plait.policy.kubernetes import to_policy

_TYPES: Final = ["Ingress", "Egress"]
DENY: Final = Rule(action="Deny", name="not-understood")


def network_policy(found: objects.NetworkPolicy, domain: str) -> tuple[Policy | None, str]:
    """The policy, and what is wrong with it; `domain` is the one of our own names."""
    manifest = _manifest(found)
    try:
        return _read(manifest, domain), ""
    except PlaitError as error:
        return _closed(manifest, error, _subjects(manifest["spec"]))


def cluster_network_policy(
    found: objects.ClusterNetworkPolicy, domain: str
) -> tuple[Policy | None, str]:
    """The policy, and what is wrong with it. Without a subject that can be read there is none:
    it may mean anybody."""
    manifest = _manifest(found)
    try:
        return _read(manifest, domain), ""
    except PlaitError as error:
        spec = manifest["spec"]
        policy, problem = _closed(manifest, error, _cluster_subjects(spec))
        if policy is None:
            return None, problem
        spoken = [direction for direction in DIRECTIONS if spec.get(direction)]
        rules = dict.fromkeys(spoken or DIRECTIONS, (DENY,))
        denying = msgspec.structs.replace(policy.spec, **rules)
        return msgspec.structs.replace(policy, spec=denying), problem


def _read(manifest: Mapping[str, Any], domain: str) -> Policy:
    policy = to_policy(manifest, strict=False)
    spec = validate.policy(policy.spec, domain=domain)
    return msgspec.structs.replace(policy, spec=spec)


def _manifest(found: objects.NetworkPolicy | objects.ClusterNetworkPolicy) -> dict[str, Any]:
    """The manifest without labels, which mean nothing in a policy."""
    manifest = found.manifest()
    meta = manifest["metadata"]
    bare = {key: meta[key] for key in ("name", "namespace") if key in meta}
    return {**manifest, "metadata": bare}


def _closed(
    manifest: Mapping[str, Any], error: PlaitError, specs: Iterable[Mapping[str, Any]]
) -> tuple[Policy | None, str]:
    """The first policy that can be read, and the problem in words."""
    said = f"{error.where}: {error.detail}"
    for spec in specs:
        try:
            policy = to_policy({**manifest, "spec": spec}, strict=False)
        except PlaitError:
            continue
        return policy, f"{said}; it denies everything to whom it selects"
    return None, f"{said}; whom it selects cannot be told, so it has no effect"


def _subjects(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What it selects, or its namespace; in its directions, or both."""
    subject = {"podSelector": spec.get("podSelector")}
    yield {**subject, "policyTypes": spec.get("policyTypes") or _TYPES}
    yield {**subject, "policyTypes": _TYPES}
    yield {"policyTypes": _TYPES}


def _cluster_subjects(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What it selects, at its own place or before all others."""
    subject = {"subject": spec.get("subject")}
    yield {**subject, "tier": spec.get("tier"), "priority": spec.get("priority")}
    yield {**subject, "tier": "Admin", "priority": 0}
