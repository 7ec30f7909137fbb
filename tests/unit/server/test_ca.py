"""The authority and what it signs."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plait.client import enrol
from plait.model.errors import PlaitError
from plait.server.ca import Authority, parse_node_uri
from plait.wire.api import SERVER_NAME

NOW = 1_800_000_000.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "ca", lambda: NOW)


def request_of(key: object, name: str = "node:h1") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_the_authority_is_made_once(authority: Authority, tmp_path: Path) -> None:
    again = Authority.open(tmp_path / "ca", lambda: NOW)
    assert again.pem == authority.pem
    assert again.hash == authority.hash
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "ca").iterdir()} == {0o600}


def test_a_lost_public_half_is_put_back(authority: Authority, tmp_path: Path) -> None:
    authority.ca_file.unlink()
    assert Authority.open(tmp_path / "ca", lambda: NOW).ca_file.read_text() == authority.pem


def test_the_root_signs_no_further_authorities(authority: Authority) -> None:
    root = x509.load_pem_x509_certificate(authority.pem.encode())
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca
    assert constraints.path_length == 0


def test_a_server_certificate_carries_its_names_and_the_mark(authority: Authority) -> None:
    assert authority.ensure_server(["h1.example", "192.0.2.1", "fd00::1"])
    certificate = x509.load_pem_x509_certificate(authority.server_file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME, "h1.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "fd00::1"]
    assert usages(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_server_certificate_is_made_anew_when_due_or_renamed(tmp_path: Path) -> None:
    now = [NOW]
    authority = Authority.open(tmp_path / "ca", lambda: now[0])
    assert authority.ensure_server(["a"])
    assert not authority.ensure_server(["a"])
    assert authority.ensure_server(["b"])
    now[0] += 59 * 86400
    assert not authority.ensure_server(["b"])
    now[0] += 2 * 86400
    assert authority.ensure_server(["b"])
    authority.server_file.write_text("damaged")
    assert authority.ensure_server(["b"])


def test_a_node_certificate_is_for_a_day_and_for_clients(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem, end = authority.sign_node(request_of(key, "node:somebody-else"), "h1", "uid-12345")
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert end == NOW + 86400
    assert usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert [parse_node_uri(uri) for uri in uris] == [("h1", "uid-12345")]
    assert names.get_values_for_type(x509.DNSName) == []
    assert certificate.subject.rfc4514_string() == "CN=node:h1"
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.pem.encode()))


def test_the_longest_name_can_be_signed(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem, _ = authority.sign_node(request_of(key), "h" * 63, "u" * 64)
    assert "h" * 63 in str(
        x509.load_pem_x509_certificate(pem.encode())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )


def test_bad_requests_are_refused(authority: Authority) -> None:
    good = request_of(ec.generate_private_key(ec.SECP256R1()))
    weak = request_of(rsa.generate_private_key(public_exponent=65537, key_size=2048))
    lines = good.splitlines()
    lines[-3] = lines[-3][:-6] + "AAAAA="
    for bad in ("", "nonsense", weak, "\n".join(lines), good * 100):
        with pytest.raises(PlaitError, match="PLAIT-API-002"):
            authority.sign_node(bad, "h1", "uid-12345")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "plait://node/h1",
        "plait://node//12345678",
        "plait://node/h1/x",
        "spiffe://node/h1/12345678",
    ],
)
def test_other_uris_name_no_node(uri: str) -> None:
    assert parse_node_uri(uri) is None


def test_dates_are_read_without_cryptography(authority: Authority, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem, end = authority.sign_node(request_of(key), "h1", "uid-12345")
    (tmp_path / enrol.CERT_FILE).write_text(pem)
    assert enrol.validity(tmp_path / enrol.CERT_FILE) == (NOW - 300, end)
    assert not enrol.renewal_due(tmp_path, NOW + 15 * 3600)
    assert enrol.renewal_due(tmp_path, NOW + 17 * 3600)
    assert enrol.renewal_due(tmp_path / "nothing", NOW)


def test_the_files_load_into_tls(authority: Authority) -> None:
    authority.ensure_server(["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server_file)
    context.load_verify_locations(authority.ca_file)
