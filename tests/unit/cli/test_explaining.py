"""`plait why`, `plait policy matrix`, `plait policy test`: of manifests alone, of a server."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plait.__main__ import plait
from plait.cli import connect, frame, offline
from plait.model.errors import PlaitError
from plait.model.meta import Metadata
from plait.model.objects import Endpoint, EndpointSpec, Pod
from plait.model.paths import Paths
from plait.model.pods import PodSpec

MANIFESTS = """\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: shop, labels: {env: prod}}
- apiVersion: v1
  kind: Pod
  metadata: {name: front, namespace: shop, labels: {app: front}}
  spec: {containers: [{name: c, image: i}]}
  status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: api, namespace: shop, labels: {app: api}}
  spec:
    containers:
    - {name: c, image: i, ports: [{name: serve-81-udp, containerPort: 81, protocol: UDP}]}
  status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: done, namespace: shop}
  status: {phase: Succeeded, podIPs: [{ip: 10.0.0.2}]}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: api}
  spec: {}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: front}}}]
    ports: [{port: serve-81-udp, protocol: UDP}]
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: guard}
spec:
  tier: Admin
  priority: 3
  subject: {namespaces: {matchLabels: {env: prod}}}
  ingress:
  - name: no ssh
    action: Deny
    from: [{namespaces: {}}]
    protocols: [{tcp: {destinationPort: {number: 22}}}]
"""

EXPECTATIONS = """\
apiVersion: plait/v1
kind: PolicyTest
namespace: shop
cases:
- {name: asked, from: front, to: api, port: serve-81-udp, expect: allow, by: shop/api}
- {from: front, to: api, port: 80, expect: deny, by: shop/api}
- {from: api, to: front, port: 22, expect: deny, by: guard}
"""


def run(*args: str, code: int = 0) -> None:
    assert frame.run(plait, list(args)) == code


@pytest.fixture
def manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A directory, and no server that could be asked."""
    (tmp_path / "all.yaml").write_text(MANIFESTS)

    def never(*_args: Any) -> Any:
        raise AssertionError("nobody may be asked")

    monkeypatch.setattr(connect, "open_api", never)
    monkeypatch.setattr(connect, "agent", never)
    return str(tmp_path)


def test_what_is_expected_of_a_policy_is_told_with_its_name(
    manifests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(manifests) / "expect.yml"
    file.write_text(EXPECTATIONS.replace("by: guard", "by: guards"))
    run("policy", "test", str(file), code=1)
    assert "expected: deny by guards" in capsys.readouterr().out
    run("policy", "test", str(file), "--junit", "-", code=1)
    printed = capsys.readouterr().out
    assert printed.startswith("<?xml")
    assert 'message="expected deny by guards"' in printed
    file.write_text(EXPECTATIONS.replace("from: front", "from: frnt"))
    run("policy", "test", str(file), code=1)
    assert "nobody is called `frnt`; write shop/front" in capsys.readouterr().out
    file.write_text(EXPECTATIONS.replace("deny", "refuse"))
    run("policy", "test", str(file), code=1)
    assert "write `allow` or `deny`" in capsys.readouterr().err
    run("policy", "test", f"{manifests}/all.yaml", code=1)
    assert "`kind: PolicyTest`" in capsys.readouterr().err


def test_a_name_outside_is_told_for_both_families(
    manifests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("why", "shop/front", "example.com", "443", "-f", manifests)
    assert capsys.readouterr().out.rstrip().endswith(" to example.com")


def test_what_a_name_stands_for_is_told(
    manifests: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alias = tmp_path / "alias.yaml"
    alias.write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: old, namespace: shop},"
        " spec: {type: ExternalName, externalName: api.shop.svc.cluster.local}}"
    )
    run("why", "shop/front", "old.shop", "81/udp", "-f", manifests)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "old.shop stands for api.shop.svc.cluster.local"
    assert second.startswith("shop/front")
    assert "-> shop/api" in second


def test_who_may_not_call_a_service_is_told(
    manifests: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lb.yaml").write_text(
        "{apiVersion: plait/v1, kind: Service, metadata: {name: lb, namespace: shop},"
        " spec: {type: LoadBalancer, addresses: [10.96.0.9], ports: [{port: 80}],"
        " loadBalancerAddresses: [198.51.100.1], sourceRanges: [192.0.2.0/24],"
        " backends: [{address: 10.0.0.2}]}}"
    )
    run("why", "world", "198.51.100.1", "80", "-f", manifests)
    led, refused = capsys.readouterr().out.splitlines()
    assert led == "service shop/lb 80/tcp leads to 1 address of backends"
    assert refused == (
        "203.0.113.1 reaches none of them: 198.51.100.1 takes none but 192.0.2.0/24: dropped"
    )
    run("why", "world", "198.51.100.1", "80", "-f", manifests, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["allowed"], told["answers"], list(told["refused"])) == (False, [], ["203.0.113.1"])


def test_an_endpoint_without_a_name_is_explained_too(
    manifests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(manifests) / "nameless.yaml").write_text(
        "apiVersion: plait/v1\nkind: Endpoint\nmetadata: {name: e9, namespace: shop}\n"
        "spec: {node: h1, network: plait, addresses: [10.0.0.9]}\n"
    )
    run("why", "shop/front", "10.0.0.9", "80", "-f", manifests)
    assert "80/tcp: allowed" in capsys.readouterr().out
    run("why", "10.0.0.9", "shop/api", "80", "-f", manifests)
    assert "plait allow shop/api --from 10.0.0.9/32" in capsys.readouterr().out


def test_the_matrix_of_manifests_alone(manifests: str, capsys: pytest.CaptureFixture[str]) -> None:
    ports = ("--port", "22/tcp", "--port", "serve-81-udp")
    run("policy", "matrix", "-f", manifests, *ports, "--json")
    rows = json.loads(capsys.readouterr().out)["items"]
    assert rows == [
        {"src": "shop/api", "dst": "shop/front", "port": "22/tcp", "allowed": False},
        {
            "src": "shop/api",
            "dst": "shop/front",
            "port": "serve-81-udp",
            "allowed": False,
            "why": "the receiver has no port named serve-81-udp",
        },
        {"src": "shop/front", "dst": "shop/api", "port": "22/tcp", "allowed": False},
        {"src": "shop/front", "dst": "shop/api", "port": "serve-81-udp", "allowed": True},
    ]
    run("policy", "matrix", "-f", manifests, *ports, "--csv")
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["allowed"] for row in lines] == ["no", "no", "no", "yes"]


def test_the_grid_is_for_people(manifests: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("policy", "matrix", "-f", manifests)
    assert capsys.readouterr().out.splitlines() == [
        "22/tcp: from row to column; . allowed, X denied",
        "              1 2",
        "1 shop/api      X",
        "2 shop/front  X",
        "",
        "serve-81-udp/udp: from row to column; . allowed, X denied",
        "              1 2",
        "1 shop/api      ?",
        "2 shop/front  .",
        "? the receiver has no port named serve-81-udp",
    ]


def test_why_of_manifests_alone(manifests: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("why", "front", "api", "22", "-f", manifests)
    out = capsys.readouterr().out
    assert 'denied by policy kcnp.guard (ingress rule 1 "no ssh")' in out.splitlines()[0]
    assert "ClusterNetworkPolicy guard" in out
    # Both families get the same answer, which is told once.
    assert "the same from fd00::1 to fd00::2" in out
    assert out.count("to allow it, all of these:") == 1

    run("why", "front", "api", "serve-81-udp", "-f", manifests, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["allowed"] is True
    assert [a["ingress"]["policy"] for a in found["answers"]] == ["knp.shop.api"] * 2


def test_names_that_mean_many_get_a_line_each(
    manifests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("why", "ns:shop", "anyone", "80", "-f", manifests)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "plait why shop/api@10.0.0.2" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nobody", "api", "80"), "nobody is called `nobody`"),
        (("front", "api", "http"), "its ports are called serve-81-udp (81/udp)"),
        (("api", "front", "http"), "none of its ports has a name"),
        (("front", "api", "80/gre"), "is no port"),
        (("front", "api", "80-90"), "is not one port"),
    ],
)
def test_what_why_cannot_answer(
    manifests: str, args: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("why", *args, "-f", manifests, code=1)
    assert words in capsys.readouterr().err


# Expectations


def test_expectations_stand_beside_the_manifests(
    manifests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, report = Path(manifests) / "expect.yaml", Path(manifests) / "report.xml"
    file.write_text(EXPECTATIONS)
    run("policy", "test", str(file), "--junit", str(report))
    assert "3 of 3 expectations hold (6 flows)" in capsys.readouterr().out
    assert 'tests="3" failures="0" errors="0"' in report.read_text()
    # The file is no manifest, wherever manifests are read.
    run("policy", "matrix", "-f", manifests)


def test_an_expectation_that_does_not_hold_fails_with_its_line(
    manifests: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(manifests) / "expect.yaml"
    file.write_text(EXPECTATIONS.replace("port: 80, expect: deny", "port: 80, expect: allow"))
    run("policy", "test", str(file), code=1)
    out = capsys.readouterr().out
    assert f"FAILED {file}:6 front reaches api by 80" in out
    assert "2 of 3 expectations hold" in out
    run("policy", "test", str(file), "--json", code=1)
    found = json.loads(capsys.readouterr().out)
    assert [r["passed"] for r in found["results"]] == [True, False, True]


@pytest.mark.parametrize(
    ("old", "new", "where", "words"),
    [
        ("expect: allow", "expct: allow", ":5", "write `expect`"),
        ("expect: allow", "expect: maybe", ":5", "maybe"),
        ("kind: PolicyTest", "kind: Policy", ":2", "Policy"),
        ("namespace: shop", "namespaces: shop", ":3", "write `namespace`"),
        ("cases:", "cases: [", ":", "not valid"),
    ],
)
def test_a_mistake_in_expectations_is_told_by_line(
    manifests: str, old: str, new: str, where: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(manifests) / "expect.yaml"
    file.write_text(EXPECTATIONS.replace(old, new, 1))
    run("policy", "test", str(file), code=1)
    err = capsys.readouterr().err
    assert "PLAIT-CLI-004" in err
    assert f"{file}{where}" in err
    assert words in err


def test_expectations_of_what_the_server_has(
    shop: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "expect.yaml"
    file.write_text(EXPECTATIONS.replace("serve-81-udp", "81/udp").replace(", by: shop/api", ""))
    run("policy", "test", str(file), "--server", code=1)
    assert "1 of 3 expectations hold" in capsys.readouterr().out
    run("policy", "test", str(file), "--server", "-f", str(tmp_path), code=2)


# Of a server, or of what its agent remembers


def test_why_of_a_server(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("isolate", "shop")
    run("why", "admin", "db", "5432")
    out = capsys.readouterr().out
    assert "denied by policy isolate.shop, which closes ingress (shop/db)" in out
    assert "plait allow shop/db --from ops/admin --port 5432/tcp" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("shop/agent", "db"), "the pod shop/agent is on the network of its host"),
        (("front", "agent", "-n", "shop"), "write node:h1"),
        (("front", "shop/job"), "the pod shop/job has ended"),
        (("front", "shop/late"), "nobody is called `shop/late`"),
        (("front", "shop/none"), "nobody is called `shop/none`"),
    ],
)
def test_a_pod_that_is_no_endpoint_is_told_as_one(
    shop: Any, args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, spec in {
        "agent": PodSpec(node="h1", host_network=True),
        "job": PodSpec(node="h1", finished=True),
        "late": PodSpec(node="h1"),
    }.items():
        shop.put(Pod(metadata=Metadata(name=name, namespace="shop"), spec=spec))
    run("why", *args, "80", code=1)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("src", "dst", "port"),
    [
        ("admin", "db", "5432"),
        ("front", "admin", "80/tcp"),
        ("front", "203.0.113.9", "443"),
        ("front", "example.com", "443"),
        ("admin", "front", "icmp"),
    ],
)
def test_the_commands_that_are_told_do_what_they_say(
    shop: Any, src: str, dst: str, port: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer() -> Any:
        capsys.readouterr()
        run("why", src, dst, port, "--json")
        return json.loads(capsys.readouterr().out)

    run("isolate", "shop", "--egress")
    run("isolate", "ops", "--egress")
    for wanted in (True, False):
        found = answer()
        assert found["allowed"] is not wanted
        commands = [step["command"] for each in found["answers"] for step in each["change"]]
        if dst == "example.com" and not wanted:
            # A name can be allowed, but not denied: what allows it has to change.
            assert set(commands) == {
                "plait policy show allow.shop.front.to.domain-example-com-" + commands[0][-8:]
            }
            return
        for command in commands:
            run(*shlex.split(command)[1:])
        assert answer()["allowed"] is wanted


def test_while_the_server_is_away_the_agent_s_memory_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def away() -> Any:
        raise PlaitError("PLAIT-API-012", "https://192.0.2.1:6440 does not answer")

    here = Paths.from_env({"PLAIT_ROOT": str(tmp_path)})
    monkeypatch.setattr(connect, "open_api", away)
    monkeypatch.setattr(connect, "paths", lambda: here)
    run("policy", "matrix", code=1)
    assert "PLAIT-API-012" in capsys.readouterr().err

    known = Endpoint(
        metadata=Metadata(name="e", namespace="shop"),
        spec=EndpointSpec(node="h1", network="net", name="web", addresses=("10.0.0.1",)),
    )
    kept = here.agent / "snapshot.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(b'{"revision":7,"objects":[' + msgspec.json.encode(known) + b"]}")
    assert offline.stored() == [known]
    assert "does not answer; this is what the agent" in capsys.readouterr().err
    # What was learnt after the copy counts too.
    kept.with_suffix(".trail").write_bytes(b"-" + msgspec.json.encode(known) + b"\n")
    assert offline.stored() == []
    kept.write_bytes(b"[]")
    with pytest.raises(PlaitError):
        offline.stored()


SERVED = """\
---
apiVersion: v1
kind: Service
metadata: {name: shop-api, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  selector: {app: api}
  ports: [{port: 80, targetPort: 81, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
"""


def test_why_answers_about_the_backends_of_a_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all.yaml").write_text(MANIFESTS + SERVED)
    files = ("-f", str(tmp_path))
    for name in ("shop-api", "10.96.0.7"):
        assert frame.run(plait, ["why", "shop/front", name, "80/udp", *files]) == 0
        out = capsys.readouterr().out
        assert "service shop/shop-api 80/udp leads to 2 addresses of backends" in out
        assert "shop/front -> shop/api 81/udp" in out.replace(" (10.0.0.1)", "").replace(
            " (10.0.0.2)", ""
        )
    assert frame.run(plait, ["why", "shop/front", "empty", "80", *files]) == 0
    out = capsys.readouterr().out
    assert out == "service shop/empty 80/tcp: refused, for it has no backend that is ready\n"
    assert frame.run(plait, ["why", "shop/front", "empty", "80", "--json", *files]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"allowed": False, "answers": [], "service": "shop/empty", "backends": 0}
