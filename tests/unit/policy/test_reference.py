"""How commands name the sides of a flow and ports."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.model.errors import PlaitError
from plait.model.policies import Peer, Port
from plait.model.selectors import NAMESPACE_NAME, Selector
from plait.policy.portspec import parse_port
from plait.policy.reference import Reference, parse, peers, slug, subject


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("web", Reference("endpoints", "web", "here")),
        ("shop/web", Reference("endpoints", "web", "shop")),
        ("app=web", Reference("endpoints", "", "here", (("app", "web"),))),
        ("shop/b=c,a=", Reference("endpoints", "", "shop", (("a", ""), ("b", "c")))),
        ("*/app=web", Reference("endpoints", "", "*", (("app", "web"),))),
        ("k8s.io/app=x", Reference("endpoints", "", "here", (("k8s.io/app", "x"),))),
        ("shop/k8s.io/app=x", Reference("endpoints", "", "shop", (("k8s.io/app", "x"),))),
        ("ns:shop", Reference("namespace", "shop")),
        ("namespace:shop", Reference("namespace", "shop")),
        ("group:office", Reference("group", "office")),
        ("network:db", Reference("network", "db")),
        ("node:h1", Reference("node", "h1")),
        ("10.0.0.0/8", Reference("cidr", "10.0.0.0/8")),
        ("192.0.2.7", Reference("cidr", "192.0.2.7/32")),
        ("2001:DB8::1", Reference("cidr", "2001:db8::1/128")),
        ("domain:Example.COM.", Reference("domain", "example.com")),
        ("*.example.com", Reference("domain", "*.example.com")),
        ("world", Reference("world")),
        ("anyone", Reference("anyone")),
    ],
)
def test_what_a_text_names(text: str, found: Reference) -> None:
    assert parse(text, "here") == found
    assert parse(str(found), "elsewhere") == found


@pytest.mark.parametrize(
    "text",
    ["", "/web", "shop/", "a b", "Web", "ns:", "ns:a.b", "group:A", "=x", "a=b=c!", "a=1,a=2",
     "fe80::1%eth0", "*.exa mple", "domain:", "SHOP/web", "a=b,", "10.0.0.1/8"],
)  # fmt: skip
def test_what_names_nobody(text: str) -> None:
    with pytest.raises(PlaitError) as caught:
        parse(text, "here")
    assert caught.value.code == "PLAIT-CLI-001"


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_refused_and_reads_back(text: str) -> None:
    try:
        found = parse(text, "here")
    except PlaitError:
        return
    assert parse(str(found), "elsewhere") == found


LABELS = st.sampled_from(["web", "shop", "from", "to", "world", "a-b", "web-1"])
NAMES = LABELS | st.just("x.y")
OTHERS = st.sampled_from([parse(t, "x") for t in ("world", "anyone", "10.0.0.0/8", "a=b", "a=B")])
REFERENCES = st.one_of(
    OTHERS,
    st.builds(lambda name, namespace: Reference("endpoints", name, namespace), NAMES, LABELS),
    st.builds(
        lambda kind, name: parse(f"{kind}:{name}", ""),
        st.sampled_from(["ns", "group", "network", "node", "domain"]),
        LABELS,
    ),
)


@given(REFERENCES, REFERENCES, REFERENCES, REFERENCES)
def test_two_policies_have_one_name_only_if_they_say_the_same(
    a: Reference, b: Reference, c: Reference, d: Reference
) -> None:
    assert (f"{slug(a)}.from.{slug(b)}" == f"{slug(c)}.from.{slug(d)}") == ((a, b) == (c, d))
    assert slug(a) == slug(parse(str(a), "other"))


def test_subjects_and_peers_select_what_was_named() -> None:
    web = parse("shop/web", "x")
    ruled = subject(web)
    assert ruled.namespaces is not None
    assert ruled.endpoints is not None
    assert ruled.namespaces.matches({NAMESPACE_NAME: "shop"})
    assert not ruled.namespaces.matches({NAMESPACE_NAME: "x"})
    assert ruled.endpoints.matches({"name.plait/web": ""})
    assert not ruled.endpoints.matches({"name.plait/webs": ""})
    assert peers(web) == (Peer(namespaces=ruled.namespaces, endpoints=ruled.endpoints),)
    assert peers(parse("*/app=web", "x")) == (
        Peer(namespaces=Selector(), endpoints=Selector(match_labels={"app": "web"})),
    )
    assert peers(parse("anyone", "x")) is None


def test_the_world_is_everything_but_the_pools() -> None:
    assert peers(Reference("world"), ("10.0.1.0/24", "10.0.0.0/24", "fd00::/48", "fd00::/64")) == (
        Peer(cidr="0.0.0.0/0", excepted=("10.0.0.0/23",)),
        Peer(cidr="::/0", excepted=("fd00::/48",)),
    )


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", Port(protocol="TCP", port=80)),
        ("80/udp", Port(protocol="UDP", port=80)),
        ("8000-8080/TCP", Port(protocol="TCP", port=8000, end_port=8080)),
        ("80-80/tcp", Port(protocol="TCP", port=80)),
        ("http", Port(port="http")),
        ("serve-81-udp", Port(port="serve-81-udp")),
        ("http/sctp", Port(protocol="SCTP", port="http")),
        ("tcp", Port(protocol="TCP")),
        ("icmp", Port(protocol="ICMP")),
        ("icmp/8", Port(protocol="ICMP", icmp_type=8)),
        ("icmpv6/1/4", Port(protocol="ICMPv6", icmp_type=1, icmp_code=4)),
    ],
)
def test_ports(text: str, port: Port) -> None:
    assert parse_port(text) == port


@pytest.mark.parametrize(
    "text",
    ["", "0", "65536", "9-8", "80/icmp", "/tcp", "a b", "icmp/256", "80/", "-1", "²", "http/"],
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(PlaitError) as caught:
        parse_port(text)
    assert caught.value.code == "PLAIT-CLI-001"
