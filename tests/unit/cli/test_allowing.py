"""`plait allow`, `deny`, `isolate` over a server in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plait.__main__ import plait
from plait.cli import frame
from plait.cli.reading import read_manifests
from plait.client.fake_api import FakeServer
from plait.model.policies import Policy, Port


def run(*args: str, code: int = 0) -> None:
    assert frame.run(plait, list(args)) == code


def policies(server: FakeServer) -> dict[str, Policy]:
    return {o.metadata.name: o for o in server.objects.values() if isinstance(o, Policy)}


def test_allow_makes_one_policy_and_says_who_is_closed_out_and_how_to_undo(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("allow", "db", "--from", "api", "--port", "5432/tcp", "-n", "shop")
    (name,) = policies(shop)
    assert name == "allow.shop.db.from.shop.api"
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"✓ policy {name} created",
        "  db in namespace shop:",
        "    ingress: Accept from api in namespace shop on 5432/tcp",
        "    ingress: nothing else, but what other policies accept",
        f"  undo: plait policy rm {name}",
    ]
    assert "db in namespace shop (1 endpoint) could accept anything before" in err


def test_again_changes_nothing_and_another_port_is_added(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("allow", "shop/db", "--from", "shop/api", "--port")
    run(*words, "5432")
    revision = shop.revision
    run(*words, "5432")
    assert shop.revision == revision
    assert "unchanged" in capsys.readouterr().out
    run(*words, "53/udp")
    (policy,) = policies(shop).values()
    assert policy.spec.ingress[0].ports == (
        Port(protocol="TCP", port=5432),
        Port(protocol="UDP", port=53),
    )


def test_a_dry_run_prints_what_apply_takes_and_writes_nothing(
    shop: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    revision = shop.revision
    run("allow", "shop/db", "--from", "world", "--port", "5432", "--dry-run")
    assert shop.revision == revision
    file = tmp_path / "p.yaml"
    file.write_text(capsys.readouterr().out)
    (policy,) = read_manifests([str(file)])
    assert isinstance(policy, Policy)
    peers = policy.spec.ingress[0].peers
    assert peers is not None
    assert [(p.cidr, p.excepted) for p in peers] == [
        ("0.0.0.0/0", ("10.112.0.0/16",)),
        ("::/0", ("fd00::/64",)),
    ]


def test_json_tells_policies_and_effects(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("deny", "shop/db", "--from", "nobody", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [p["result"] for p in found["policies"]] == ["created"]
    (effect,) = found["effects"]
    assert effect["warns"]
    assert "no endpoint is meant yet by nobody in namespace default" in effect["text"]


def test_a_closed_sender_is_told_and_can_be_opened(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("isolate", "ops", "--egress")
    capsys.readouterr()
    run("allow", "shop/db", "--from", "ops/admin")
    err = capsys.readouterr().err
    assert "policy isolate.ops closes the sender's egress" in err
    command = "plait allow shop/db --from ops/admin --both-sides"
    assert f"fix: {command}" in err
    run(*command.split()[1:])
    err = capsys.readouterr().err
    assert "stays closed" not in err
    assert "allow.ops.admin.to.shop.db" in policies(shop)
    assert not policies(shop)["allow.ops.admin.to.shop.db"].spec.isolates("egress")


def test_both_sides_closes_nobody_who_was_open(shop: FakeServer) -> None:
    run("allow", "shop/db", "--from", "ops/admin", "--both-sides")
    assert list(policies(shop)) == ["allow.shop.db.from.ops.admin"]


def test_what_is_denied_already_stays_so_and_is_told(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("deny", "shop/db", "--from", "ns:ops")
    run("allow", "shop/db", "--from", "ops/admin")
    err = capsys.readouterr().err
    assert "ops/admin to shop/db stays closed: policy deny.shop.db.from.ops denies it" in err
    assert "fix: plait policy show deny.shop.db.from.ops" in err


def test_nobody_of_that_name_is_told(shop: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    run("allow", "wbe", "--from", "shop/front", "--staged")
    err = capsys.readouterr().err
    assert "no endpoint is meant yet by wbe in namespace default" in err
    assert "it is staged" in err
    assert policies(shop)["allow.default.wbe.from.shop.front"].spec.staged


def test_isolating_more_keeps_what_was(shop: FakeServer) -> None:
    run("isolate", "shop", "--egress")
    run("isolate", "ns:shop")
    assert policies(shop)["isolate.shop"].spec.isolates("egress")


@pytest.mark.parametrize(
    "words",
    [
        ("allow", "10.0.0.0/8", "--from", "world"),
        ("allow", "web", "--from", "a b"),
        ("deny", "*.example.com", "--from", "web"),
        ("isolate", "Shop"),
        ("allow", "web", "--from", "x", "--port", "http/icmp"),
    ],
)
def test_what_cannot_be_said_is_refused_with_a_reason(
    shop: FakeServer, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    run(*words, code=1)
    assert capsys.readouterr().err.startswith("error[PLAIT-CLI-001]: ")
    assert policies(shop) == {}


def test_text_of_others_is_shown_harmlessly(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("allow", "\x1b[31mweb", "--from", "x", code=1)
    assert "\x1b" not in capsys.readouterr().err


def test_a_group_that_is_not_there_is_not_denied(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("deny", "shop/db", "--from", "group:tpyo", code=1)
    assert "denies everything" in capsys.readouterr().err


def test_ports_are_said_once_and_icmp_is_of_both_families(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = ("--port", "80", "--port", "80/tcp", "--port", "icmp")
    run("allow", "shop/db", "--from", "shop/api", *ports, "--dry-run")
    assert "on 80/tcp, icmp and icmpv6" in capsys.readouterr().err


def test_a_sender_alone_is_opened_and_nobody_closed(shop: FakeServer) -> None:
    run("allow", "shop/db", "--from", "shop/api", "--port", "80", "--egress")
    (written,) = policies(shop).values()
    assert not written.spec.ingress
    assert len(written.spec.egress) == 1
    assert written.spec.isolate == ()
    run("allow", "shop/db", "--from", "world", "--egress", code=1)
    run("allow", "shop/db", "--from", "shop/api", "--egress", "--both-sides", code=2)


def test_what_was_written_with_other_options_is_left_alone(
    shop: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("deny", "shop/db", "--from", "shop/api", "--port", "80", "--reject")
    run("deny", "shop/db", "--from", "shop/api", "--port", "81", code=1)
    assert "with other options or by hand" in capsys.readouterr().err
