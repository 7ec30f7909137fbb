"""From flows to rules and back on three hosts: learn, apply, stage, enforce, allow, deny."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.conftest import eventually

from plait.lab import daemons, workloads
from plait.lab.lab import Lab
from plait.lab.state import WorkloadState
from plait.lab.workloads import Order

pytestmark = pytest.mark.root

HOSTS = {"front": "h1", "api": "h2", "db": "h3", "other": "h2"}
PATIENCE = 0.4
"""Seconds for which a probe waits."""
USED = (("front", "api"), ("api", "db"))
"""Who talks to whom, in both families."""
OTHERS = tuple(
    (src, dst) for src in HOSTS for dst in HOSTS if src != dst and (src, dst) not in USED
)

Pairs = tuple[tuple[str, str], ...]


class Shop:
    """Four workloads in a namespace of their own, and the words of an administrator."""

    def __init__(self, lab: Lab, namespace: str, loads: dict[str, WorkloadState]) -> None:
        self.lab = lab
        self.namespace = namespace
        self.loads = loads

    def plait(self, *words: str) -> str:
        return daemons.plait(self.lab, "h1", *words)

    def json(self, *words: str) -> Any:
        return json.loads(self.plait(*words, "--json"))

    def called(self, name: str) -> str:
        return f"{self.namespace}/{name}"

    def results(self, pairs: Pairs) -> dict[tuple[str, str], set[str]]:
        """What came of a probe of each pair, in both families; those of one sender at once."""
        found: dict[tuple[str, str], set[str]] = {pair: set() for pair in pairs}
        for src in {src for src, _ in pairs}:
            asked = [
                (dst, address)
                for sender, dst in pairs
                if sender == src
                for address in self.loads[dst].addresses
            ]
            orders = [Order(ip=ip, port=80, proto="tcp", timeout=PATIENCE) for _, ip in asked]
            answers = workloads.probe(self.lab, self.loads[src], orders)
            for (dst, _), answer in zip(asked, answers, strict=True):
                found[src, dst].add(answer.result)
        return found

    def are(self, pairs: Pairs, result: str) -> bool:
        return all(found == {result} for found in self.results(pairs).values())

    def policies(self) -> list[str]:
        items = self.json("policy", "ls")["items"]
        return [name for i in items if self.namespace in (name := i["metadata"]["name"])]

    def denied(self) -> set[tuple[str, str, str]]:
        """Sender, receiver and decision of the flows of this namespace that were not accepted."""
        words = ("flows", "--denied", "--json", "--since", "1h", "-n", self.namespace)
        records = map(json.loads, self.plait(*words).splitlines())
        return {(r["src"]["name"], r["dst"]["name"], r["decision"]) for r in records}


@pytest.fixture
def shop(policy_lab: Lab) -> Iterator[Shop]:
    namespace = f"shop-{secrets.token_hex(2)}"
    loads: dict[str, WorkloadState] = {}
    made = Shop(policy_lab, namespace, loads)
    try:
        for name, host in HOSTS.items():
            loads[name] = workloads.run(
                policy_lab,
                host,
                name,
                namespace=namespace,
                labels=[f"app={name}"],
                listen=["80/tcp"],
            )
        # No other flow than those in use: nothing else is to be learnt.
        eventually("they talk", lambda: made.are(USED, "connected"))
        yield made
    finally:
        if names := made.policies():
            made.plait("policy", "rm", *names)
        for load in loads.values():
            workloads.remove(policy_lab, load)


def comes(shop: Shop, *, open_: Pairs = (), shut: Pairs = ()) -> None:
    """Soon these pairs reach each other, and those do not."""

    def look() -> bool:
        return shop.are(open_, "connected") and shop.are(shut, "timed out")

    eventually(f"{open_} open, {shut} shut", look, shop.policies())


def test_learn_apply_stage_and_enforce(shop: Shop, tmp_path: Path) -> None:
    def learnt() -> bool:
        found = shop.json("policy", "learn", "-n", shop.namespace)
        return bool(found["flows"] == len(USED)) and found["silent"] == [shop.called("other")]

    # A server with an hour of a busy lab gives all of it for one answer.
    eventually("the flows are told", learnt)
    file = tmp_path / "learned.yaml"
    file.write_text(shop.plait("policy", "learn", "-n", shop.namespace))
    preview = shop.json("policy", "preview", "-f", str(file))
    denied = {(p["src"], p["dst"]) for p in preview["pairs"] if p["port"] == "80/tcp"}
    assert {(shop.called(src), shop.called(dst)) for src, dst in OTHERS} <= denied
    assert preview["flows"] == []

    shop.plait("apply", "-f", str(file))
    comes(shop, open_=USED, shut=OTHERS)
    eventually("denials are told", lambda: ("other", "db", "deny") in shop.denied())

    for name in shop.policies():
        shop.plait("policy", "stage", name)
    comes(shop, open_=USED + OTHERS)
    eventually("what would be denied is told", lambda: ("other", "db", "staged") in shop.denied())
    closing = f"learned.{shop.namespace}"
    eventually("and counted", lambda: counted(shop, closing))
    shop.plait("policy", "enforce", closing)
    comes(shop, shut=(("other", "db"), ("front", "db")))


def counted(shop: Shop, policy: str) -> bool:
    counts = shop.json("policy", "show", policy)["counts"]
    return any(count.get("index", -1) == -1 and count.get("packets") for count in counts)


def test_isolate_allow_and_deny(shop: Shop) -> None:
    outsider = workloads.run(shop.lab, "h3", "outsider", namespace=f"{shop.namespace}-x")
    shop.loads["outsider"] = outsider
    comes(shop, open_=(("outsider", "front"),))
    shop.plait("isolate", shop.namespace)
    comes(shop, open_=USED, shut=(("outsider", "front"), ("outsider", "db")))
    src = f"{shop.namespace}-x/outsider"
    shop.plait("allow", shop.called("front"), "--from", src, "--port", "80/tcp")
    comes(shop, open_=(("outsider", "front"), *USED), shut=(("outsider", "db"),))
    shop.plait("deny", shop.called("db"), "--from", f"ns:{shop.namespace}", "--reject")
    eventually("refused", lambda: shop.are((("api", "db"),), "refused"))
    shop.plait("policy", "rm", *shop.policies())
    comes(shop, open_=(("outsider", "db"), *USED))
