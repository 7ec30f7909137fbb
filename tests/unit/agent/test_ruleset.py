"""The ruleset of a Filter: what its pure part promises."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.agent.desired import filter_chains, filter_sets, policy_rules, ruleset
from plait.model.flows import REASONS
from plait.model.hoststate import Filter, FilterEndpoint, FilterNetwork, PortMap
from plait.model.marks import LOG_PREFIX
from plait.model.ruleset import PolicyClass
from plait.wire import nft
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.nft_effects import Log

NETWORK = FilterNetwork(pools=("10.0.0.0/24",))


def all_chains() -> list[nft.Chain]:
    base = filter_chains.base_chains(4789, 0x706C, dns=True)
    return [*base, *ruleset.network_chains("n", NETWORK)]


@given(st.text())
def test_no_name_of_a_network_reaches_the_ruleset(name: str) -> None:
    rules = ruleset.network_rules(name, NETWORK)
    plain = ruleset.network_rules("plain", NETWORK)
    suffix, plain_suffix = ruleset.chain_suffix(name), ruleset.chain_suffix("plain")
    assert set(suffix) <= set("0123456789abcdef")
    assert len(suffix) == 12
    # Apart from the hash, the text is that of any other name.
    ours = [nft.AddRules(c.chain).text("t").replace(suffix, "#") for c in rules.chains]
    theirs = [nft.AddRules(c.chain).text("t").replace(plain_suffix, "#") for c in plain.chains]
    assert ours == theirs


def test_every_drop_and_accept_is_counted() -> None:
    for chain in all_chains():
        for rule in chain.rules:
            # What is established has been counted by the networks' chains.
            again = chain.name.startswith("policy-") and rule.why == "established"
            if rule.statements[-1] in (e.ACCEPT, e.DROP) and not again:
                assert e.Counter() in rule.statements, (chain.name, rule.why)


def test_every_word_of_a_log_prefix_has_its_reason_and_every_reason_its_rule() -> None:
    internal = FilterNetwork(pools=NETWORK.pools, internal=True)
    guarded = PolicyClass(direction="egress", tiers=(), guard=True)
    chains = [
        *all_chains(),
        *ruleset.network_chains("n", internal),
        *(made.chain for made in policy_rules.class_chains("k", guarded, {}, log=True).chains),
    ]
    statements = [s for chain in chains for rule in chain.rules for s in rule.statements]
    found = [LOG_PREFIX.fullmatch(s.prefix) for s in statements if isinstance(s, Log)]
    assert {match[1] for match in found if match} == set(REASONS)
    assert all(found)


def test_every_path_of_an_endpoint_ends_in_a_verdict() -> None:
    ends = {"source", "egress", "ingress", "host-in", "host-out", "foreign"}
    for chain in all_chains():
        if chain.name in ends:
            statements = chain.rules[-1].statements
            assert (statements[0], statements[-1]) == (e.Counter(), e.DROP)


def test_every_packet_meets_these_chains_and_only_first_packets_more() -> None:
    """Each costs every packet of every flow something; `nat` only the first one."""
    hooks = Counter(
        chain.hook.name
        for chain in filter_chains.base_chains(4789, 0x706C, dns=True)
        if chain.hook is not None and chain.hook.type != "nat"
    )
    assert hooks == {"prerouting": 2, "forward": 3, "input": 1, "output": 2}


def test_without_dns_no_packet_is_proxied() -> None:
    chains = {c.name: c for c in filter_chains.base_chains(4789, 0x706C, dns=False)}
    assert "dns" not in [rule.why for rule in chains["mangle"].rules]


def test_an_internal_network_has_no_published_ports() -> None:
    internal = FilterNetwork(pools=NETWORK.pools, internal=True)
    egress, ingress = ruleset.network_chains("n", internal)
    assert [r.why for r in egress.rules] == ["own network", "internal network"]
    assert [r.why for r in ingress.rules] == ["own network", "not from own network"]


def test_an_endpoints_elements_begin_with_its_link() -> None:
    endpoint = FilterEndpoint(network="n", addresses=("10.0.0.1", "fd00::1"))
    found = ruleset.endpoint_elements("pl0123456789a", endpoint)
    assert {x.set for x in found} == {"known", "src4", "src6"}
    assert {ruleset.link_of(x.key) for x in found} == {"pl0123456789a"}
    may_call = msgspec.structs.replace(endpoint, to_host=True)
    (more,) = ruleset.endpoint_elements("pl0123456789a", may_call) - found
    assert (more.set, ruleset.link_of(more.key)) == ("tohost", "pl0123456789a")


def test_pools_inside_each_other_become_one_range() -> None:
    wanted = Filter(
        pools=("10.0.0.0/8", "10.1.0.0/16", "fd00::/64"),
        networks={"n": FilterNetwork(pools=("10.0.0.0/16", "11.0.0.0/16"))},
        vteps=("192.0.2.1", "2001:db8::1"),
    )
    found = ruleset.base_elements(wanted)
    assert set(found["pools4"]) == {
        k.cidr_range("10.0.0.0/8"),
        k.cidr_range("11.0.0.0/16"),
    }
    assert set(found["pools6"]) == {k.cidr_range("fd00::/64")}
    assert (len(found["vteps4"]), len(found["vteps6"])) == (1, 1)


@pytest.mark.parametrize(
    ("host_ip", "text"),
    [
        ("", "udp . 53 : 10.0.0.1 . 5353"),
        ("192.0.2.1", "192.0.2.1 . udp . 53 : 10.0.0.1 . 5353"),
    ],
)
def test_a_published_port_is_one_element(host_ip: str, text: str) -> None:
    element = ruleset.port_element(
        PortMap(
            family=4, protocol="udp", host_ip=host_ip, host_port=53, address="10.0.0.1", port=5353
        )
    )
    assert filter_sets.SETS[element.set].show(element.key, element.data) == text
