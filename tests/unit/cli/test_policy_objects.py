"""`plait policy ls`, `show`, `rm`, `stage`, `preview`, `learn` over a server in memory."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from plait.__main__ import plait
from plait.cli import frame
from plait.cli.previewing import after
from plait.cli.reading import read_manifests
from plait.model.errors import PlaitError
from plait.model.flows import FlowEnd, FlowRecord, RuleCount
from plait.model.objects import Metadata
from plait.model.policies import Origin, Peer, Policy, PolicySpec, Rule
from plait.policy.find_policy import find_policy


def run(*args: str, code: int = 0) -> None:
    assert frame.run(plait, list(args)) == code


def policies(server: Any) -> dict[str, Policy]:
    return {o.metadata.name: o for o in server.objects.values() if isinstance(o, Policy)}


@pytest.fixture
def ruled(shop: Any) -> Any:
    """The shop, isolated, db open for api, and a policy made of a Kubernetes one."""
    run("isolate", "shop")
    run("allow", "shop/db", "--from", "shop/api", "--port", "5432")
    origin = Origin(kind="NetworkPolicy", name="web", namespace="shop")
    shop.put(
        Policy(
            metadata=Metadata(name="knp.shop.web"),
            spec=PolicySpec(isolate=("ingress",), staged=True, origin=origin),
        )
    )
    return shop


def record(seq: int, src: int, dst: int, port: int) -> FlowRecord:
    def end(number: int) -> FlowEnd:
        namespace, name = [("shop", "front"), ("shop", "api"), ("shop", "db"), ("ops", "admin")][
            number - 1
        ]
        address = f"10.112.0.{number}"
        return FlowEnd(address=address, namespace=namespace, name=name, id=f"e{number}")

    return FlowRecord(
        seq=seq,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        node="h1",
        decision="accept",
        direction="ingress",
        protocol="tcp",
        src=end(src),
        dst=end(dst),
        src_port=40000 + seq // 2,
        dst_port=port,
    )


def test_the_list_tells_order_subject_and_origin(
    ruled: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run("policy", "ls")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:4] == ["TIER", "PRIO", "NAME", "STATE"]
    assert [(line[2], line[3]) for line in lines[1:]] == [
        ("allow.shop.db.from.shop.api", "enforced"),
        ("isolate.shop", "enforced"),
        ("knp.shop.web", "staged"),
    ]
    assert lines[3][-2:] == ["NetworkPolicy", "shop/web"]
    run("policy", "ls", "-n", "ops", "--json")
    items = json.loads(capsys.readouterr().out)["items"]
    assert [item["metadata"]["name"] for item in items] == ["knp.shop.web"]


def test_a_rule_that_cannot_be_understood_is_told(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = Rule(peers=(Peer(group="nobody"),))
    shop.put(Policy(metadata=Metadata(name="p"), spec=PolicySpec(ingress=(rule,))))
    for words in (("policy", "ls"), ("policy", "show", "p")):
        run(*words)
        assert "ingress rule 1: there is no group `nobody`" in capsys.readouterr().err


def test_show_says_it_in_words_with_the_counts_of_all_hosts(
    ruled: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "allow.shop.db.from.shop.api"
    accepts = [
        RuleCount(
            id="r1", policy=name, index=0, direction="ingress", action="Accept", packets=n, bytes=60
        )
        for n in (3, 4)
    ]
    refuses = RuleCount(
        id="i1",
        policy="isolate.shop",
        isolating=("isolate.shop", name),
        direction="ingress",
        action="Deny",
        packets=9,
        bytes=0,
    )
    ruled.counts = (*accepts, refuses)
    capsys.readouterr()
    run("policy", "show", name)
    out = capsys.readouterr().out
    assert "db in namespace shop" in out
    assert "endpoints  1: shop/db" in out
    rows = [line.split("  ") for line in out.splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["ingress", "1", "Accept", "api in namespace shop", "5432/tcp", "7", "120"] in rows
    assert [row[-2:] for row in rows if row[1:2] == ["rest"]] == [["9", "0"]]
    run("policy", "show", name, "--json")
    found = json.loads(capsys.readouterr().out)
    assert [count["packets"] for count in found["counts"]] == [7, 9]
    assert [count["bytes"] for count in found["counts"]] == [120, 0]
    assert found["endpoints"] == ["shop/db"]


def test_show_as_yaml_is_what_apply_takes(
    ruled: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    run("policy", "show", "isolate.shop", "-o", "yaml")
    file = tmp_path / "p.yaml"
    file.write_text(capsys.readouterr().out)
    (found,) = read_manifests([str(file)])
    assert found.spec == policies(ruled)["isolate.shop"].spec  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text", ["knp.shop.web", "networkpolicy/shop/web", "NetworkPolicy/shop/web", "shop/web", "web"]
)
def test_a_policy_is_found_by_its_name_and_its_origin(ruled: Any, text: str) -> None:
    assert find_policy(list(policies(ruled).values()), text).metadata.name == "knp.shop.web"
    run("policy", "rm", text)
    assert "knp.shop.web" not in policies(ruled)


def test_an_unknown_policy_is_answered_with_the_nearest(
    ruled: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run("policy", "rm", "isolate.shop", "isolate.shpo", code=1)
    assert "fix: plait policy show isolate.shop" in capsys.readouterr().err
    assert "isolate.shop" in policies(ruled)
    run("policy", "rm", "isolate.shop", "--dry-run")
    assert "isolate.shop" in policies(ruled)


def test_an_origin_that_several_policies_have_is_a_question(ruled: Any) -> None:
    origin = Origin(kind="ClusterNetworkPolicy", name="web")
    ruled.put(Policy(metadata=Metadata(name="kcnp.web"), spec=PolicySpec(origin=origin)))
    with pytest.raises(PlaitError) as caught:
        find_policy(list(policies(ruled).values()), "web")
    assert len(caught.value.fix) == 2
    found = find_policy(list(policies(ruled).values()), "clusternetworkpolicy/web")
    assert found.metadata.name == "kcnp.web"


def test_staging_and_enforcing(ruled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run("policy", "stage", "isolate.shop", "--dry-run")
    assert "ops/admin -> shop/api, shop/front" in capsys.readouterr().out
    assert not policies(ruled)["isolate.shop"].spec.staged
    run("policy", "stage", "isolate.shop")
    assert policies(ruled)["isolate.shop"].spec.staged
    assert "undo: plait policy enforce isolate.shop" in capsys.readouterr().out
    run("policy", "enforce", "isolate.shop")
    run("policy", "enforce", "isolate.shop")
    assert not policies(ruled)["isolate.shop"].spec.staged
    assert "is enforced already" in capsys.readouterr().out


def test_policies_that_belong_together_are_enforced_together(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run("allow", "shop/db", "--from", "shop/api", "--staged")
    run("isolate", "shop", "--staged")
    capsys.readouterr()
    run("policy", "enforce", "isolate.shop", "--dry-run")
    err = capsys.readouterr().err
    assert "staged policies accept nothing of what this closes: allow.shop.db.from.shop.api" in err
    assert "fix: plait policy enforce allow.shop.db.from.shop.api" in err
    run("policy", "enforce", "*shop*")
    assert not any(policy.spec.staged for policy in policies(shop).values())
    out, err = capsys.readouterr()
    assert "undo: plait policy stage allow.shop.db.from.shop.api isolate.shop" in out
    assert "staged policies" not in err
    run("policy", "stage", "isolate.shop", "nosuch", code=1)
    assert not policies(shop)["isolate.shop"].spec.staged, "all of them or none"
    run("policy", "rm", "nosuch*", code=1)
    run("policy", "rm", "*.shop*")
    assert not policies(shop)


def test_preview_of_a_file_says_pairs_and_flows(
    shop: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run("isolate", "shop", "--dry-run")
    file = tmp_path / "new.yaml"
    file.write_text(capsys.readouterr().out)
    shop.records = (
        record(1, 4, 3, 5432),
        record(2, 4, 3, 5432),
        record(3, 4, 3, 5432),
        record(4, 1, 3, 5432),
    )
    revision = shop.revision
    run("policy", "preview", "-f", str(file))
    out = capsys.readouterr().out
    assert "would be denied:" in out
    assert "ops/admin -> shop/api, shop/db, shop/front" in out
    assert "2 × ops/admin -> shop/db 5432/tcp would be denied (policy isolate.shop)" in out
    assert "of 3 flows" in out
    assert shop.revision == revision
    run("policy", "preview", "-f", str(file), "--json")
    found = json.loads(capsys.readouterr().out)
    assert {(c["src"], c["dst"]) for c in found["pairs"]} == {
        ("ops/admin", f"shop/{name}") for name in ("front", "api", "db")
    }
    assert [c["times"] for c in found["flows"]] == [2]


def test_preview_of_a_deletion(ruled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run("policy", "preview", "--delete", "isolate.shop")
    out = capsys.readouterr().out
    denied, _, allowed = out.partition("would be allowed:")
    assert "shop/front -> shop/db  every port" in denied
    assert "shop/api -> shop/db  other tcp, other udp, icmp" in denied
    assert "ops/admin -> shop/api, shop/front" in allowed
    assert "shop/db" not in allowed
    run("policy", "preview", "--delete", "nobody", code=1)
    run("policy", "preview", code=2)


def test_preview_over_manifests_needs_no_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "pods.yaml").write_text(
        "\n---\n".join(
            f"apiVersion: plait/v1\nkind: Endpoint\n"
            f"metadata: {{name: e{i}, namespace: shop}}\n"
            f"spec: {{node: h, network: n, name: {name}, addresses: [10.0.0.{i}]}}"
            for i, name in enumerate(("a", "b"), 1)
        )
    )
    new = tmp_path / "new.yaml"
    new.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: closed, namespace: shop}\nspec: {podSelector: {}}\n"
    )
    run("policy", "preview", "-f", str(new), "--base", str(base), "--json")
    found = json.loads(capsys.readouterr().out)
    assert {(c["src"], c["dst"], c["allowed"]) for c in found["pairs"]} == {
        ("shop/a", "shop/b", False),
        ("shop/b", "shop/a", False),
        ("outside", "shop/a", False),
        ("outside", "shop/b", False),
    }


def test_staged_policies_are_previewed_as_enforced_on_request(
    shop: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run("isolate", "shop", "--staged", "--dry-run")
    file = tmp_path / "new.yaml"
    file.write_text(capsys.readouterr().out)
    run("policy", "preview", "-f", str(file))
    out, err = capsys.readouterr()
    assert "no pair of endpoints changes" in out
    assert "policy isolate.shop is staged" in err
    run("policy", "preview", "-f", str(file), "--enforced")
    assert "ops/admin -> shop/api, shop/db, shop/front" in capsys.readouterr().out


def test_a_previewed_object_takes_the_place_of_the_stored_one(ruled: Any) -> None:
    stored = list(ruled.objects.values())
    wider = Policy(metadata=Metadata(name="isolate.shop"), spec=PolicySpec())
    found = {o.key: o for o in after(stored, [wider], [])}
    assert found[wider.key].spec == wider.spec  # type: ignore[union-attr]
    assert len(found) == len(stored)


def test_learning_prints_what_apply_takes(
    shop: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shop.records = (record(1, 1, 2, 80), record(2, 2, 3, 5432))
    run("policy", "learn", "--from", "30m", "-n", "shop", "--staged")
    out, err = capsys.readouterr()
    assert "4 policies out of 2 flows" in err
    file = tmp_path / "learned.yaml"
    file.write_text(out)
    found = read_manifests([str(file)])
    assert all(isinstance(o, Policy) and o.spec.staged for o in found)
    assert {o.metadata.name for o in found} >= {"learned.shop"}
    run("policy", "learn", "--json")
    assert json.loads(capsys.readouterr().out)["flows"] == 2


def test_learning_tells_of_whom_nothing_was_seen(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.records = (record(1, 1, 2, 80),)
    run("policy", "learn")
    assert "no flow was seen of shop/db: they would be closed" in capsys.readouterr().err


def test_nothing_is_learnt_of_a_namespace_that_is_not_there(
    shop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run("policy", "learn", "-n", "shpo")
    err = capsys.readouterr().err
    assert "there is no endpoint in namespace shpo" in err
    assert "1 policy out of 0 flows" in err
