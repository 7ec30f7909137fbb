"""Any bytes on the agent's path for CNI: a call or an error of CNI, never anything else."""

from __future__ import annotations

import json
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from plait.wire.cni.call import Verb, parse, split
from plait.wire.cni.errors import CniError
from plait.wire.cni.result import encode

KEYS = st.sampled_from(
    [
        "cniVersion", "name", "type", "ipam", "dns", "args", "cni", "runtimeConfig", "prevResult",
        "interfaces", "ips", "routes", "address", "gateway", "interface", "mac", "portMappings",
        "hostPort", "HostPort", "containerPort", "protocol", "hostIP", "bandwidth", "ingressRate",
        "ingressBurst", "ipRanges", "subnet", "rangeStart", "rangeEnd", "aliases", "labels", "key",
        "value", "network", "deadline", "identity", "ifname", "defaultRoute", "servers",
        "cni.dev/valid-attachments", "containerID",
    ]
)  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(
        ["10.0.0.1", "10.0.0.0/24", "fd00::1/64", "02:00:00:00:00:01", "tcp", "1.1.0"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
VALUES = st.text(max_size=20) | st.sampled_from(
    ["c1", "eth0", "/run/netns/c1", "IgnoreUnknown=1;IP=10.0.0.1", "MAC=x", ";;=;", "../x"]
)


@st.composite
def calls(draw: st.DrawFn) -> bytes:
    """A call that is nearly right."""
    environment = {
        "CNI_COMMAND": draw(st.sampled_from(get_args(Verb)) | VALUES),
        "CNI_CONTAINERID": draw(st.just("c1") | VALUES),
        "CNI_NETNS": draw(VALUES),
        "CNI_IFNAME": draw(st.just("eth0") | VALUES),
        "CNI_ARGS": draw(st.just("") | VALUES),
        "CNI_PATH": draw(VALUES),
        "PLAIT_STARTED": draw(VALUES),
    }
    config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "podnet"}
    config |= draw(st.dictionaries(KEYS, JSON, max_size=5))
    head = "".join(f"{name}={value}\0" for name, value in environment.items())
    return head.encode(errors="surrogatepass") + b"\0" + json.dumps(config).encode()


@settings(max_examples=600)
@given(st.one_of(st.binary(max_size=400), calls()))
def test_a_call_or_an_error(body: bytes) -> None:
    split(body)
    try:
        call = parse(body)
    except CniError as error:
        said = json.loads(error.encode())
        assert 0 < said["code"] < 100
        assert said["msg"]
        return
    assert call.name or call.verb == "VERSION"
    if call.previous is not None:
        encode(call.previous, call.version)
