"""What real runtimes put into `runtimeConfig`."""

from plait.wire.cni import wanted


def parse(**runtime: object) -> wanted.Wanted:
    return wanted.parse({"runtimeConfig": runtime}, "plait", {})


def test_containerd_writes_the_names_of_fields_of_go() -> None:
    """go-cni 1.1, PortMapping, BandWidth, IPRanges and DNS have no JSON names."""
    go = parse(
        portMappings=[{"HostPort": 80, "ContainerPort": 8080, "Protocol": "udp", "HostIP": "::1"}],
        bandwidth={"IngressRate": 8, "IngressBurst": 16, "EgressRate": 0, "EgressBurst": 0},
        ipRanges=[[{"Subnet": "10.0.0.0/24", "RangeStart": "10.0.0.128"}]],
        dns={"Servers": ["192.0.2.1"], "Searches": [], "Options": None},
    )
    assert go == parse(
        portMappings=[{"hostPort": 80, "containerPort": 8080, "protocol": "udp", "hostIP": "::1"}],
        bandwidth={"ingressRate": 8, "ingressBurst": 16},
        ipRanges=[[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.128"}]],
        dns={"servers": ["192.0.2.1"]},
    )
    assert go.ports[0].host_port == 80
    assert go.rates == wanted.Rates(ingress_rate=8, ingress_burst=16)


def test_names_of_networks_keep_their_case() -> None:
    assert parse(aliases={"Plait": ["a"], "plait": ["b"]}).aliases == ("b",)
