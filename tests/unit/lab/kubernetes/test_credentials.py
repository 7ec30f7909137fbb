"""Certificates and kubeconfigs of a lab's cluster, as TLS and Kubernetes read them."""

import base64
import datetime
import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from plait.lab import topology
from plait.lab.kubernetes import credentials, layout, pki

NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, str]]:
    plan = topology.plan("t", 3)
    return credentials.credentials(
        plan.hosts["h1"], {name: plan.hosts[name] for name in ("h1", "h2")}, NOW
    )


def certificate(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode())


def user_of(kubeconfig: str) -> tuple[str, list[str]]:
    """The user and the groups that a kubeconfig speaks for."""
    user = yaml.safe_load(kubeconfig)["users"][0]["user"]
    name = certificate(base64.b64decode(user["client-certificate-data"]).decode()).subject
    return (
        str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
        [str(entry.value) for entry in name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)],
    )


def test_every_node_speaks_for_itself(files: dict[str, dict[str, str]]) -> None:
    for name in ("h1", "h2"):
        user, groups = user_of(files[name][layout.KUBELET])
        assert (user, groups) == (f"system:node:{name}", ["system:nodes"])
        assert user_of(files[name][layout.ADMIN]) == ("admin", ["system:masters"])
        assert files[name]["/root/.kube/config"] == files[name][layout.ADMIN]


def test_keys_of_the_control_plane_are_on_its_host_alone(files: dict[str, dict[str, str]]) -> None:
    assert f"{layout.ETC}/service-accounts.key" in files["h1"]
    assert not [path for path in files["h2"] if path.endswith(".key")]


@pytest.mark.parametrize("name", ["100.64.1.11", "fd64:1::b", "10.96.0.1", "fd00:96::1"])
def test_the_api_server_is_trusted_under_every_address(
    files: dict[str, dict[str, str]], name: str
) -> None:
    of_host = files["h1"]
    serving = certificate(of_host[f"{layout.ETC}/apiserver.crt"])
    names = serving.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name in [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    assert "kubernetes.default.svc.cluster.local" in names.get_values_for_type(x509.DNSName)
    serving.verify_directly_issued_by(certificate(of_host[f"{layout.ETC}/ca.crt"]))


def test_openssl_reads_certificate_and_key(
    files: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    pair = tmp_path / "pair.pem"
    of_host = files["h1"]
    pair.write_text(of_host[f"{layout.ETC}/apiserver.key"] + of_host[f"{layout.ETC}/apiserver.crt"])
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair)


def test_two_authorities_do_not_trust_each_other() -> None:
    one, other = pki.Authority(NOW), pki.Authority(NOW)
    stranger = certificate(other.client("admin", ["system:masters"]).certificate)
    with pytest.raises(InvalidSignature):
        stranger.verify_directly_issued_by(certificate(one.pem))
