"""The certificate authority: one root, server certificates, node certificates.

ECDSA P-256 throughout (RFC 5480). The root may sign no further authorities. A server's
certificate has EKU serverAuth and the DNS name `wire.api.SERVER_NAME`; a node's has EKU
clientAuth, the common name `node:<name>` and the URI `plait://node/<name>/<uid>`, and no DNS
name: neither can pose as the other (compare CVE-2021-37219).
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plait.client.files import write_private
from plait.model.errors import PlaitError
from plait.wire.api import SERVER_NAME

ROOT_LIFE: Final = 10 * 365 * 86400.0
SERVER_LIFE: Final = 90 * 86400.0
NODE_LIFE: Final = 86400.0
"""Seconds."""
BACKDATE: Final = 300.0
"""Seconds that a certificate is valid before it is made, for clocks that disagree."""
MAX_CSR: Final = 16384

_NODE_URI: Final = re.compile(r"plait://node/([a-z0-9-]{1,63})/([A-Za-z0-9-]{8,64})", re.ASCII)


def node_uri(name: str, uid: str) -> str:
    """Subject alternative name of a node's certificate."""
    return f"plait://node/{name}/{uid}"


def parse_node_uri(uri: str) -> tuple[str, str] | None:
    """(name, uid) of a node's URI, or None."""
    match = _NODE_URI.fullmatch(uri)
    return None if match is None else (match[1], match[2])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class Authority:
    """The root, kept in a directory: `ca.pem` holds key and certificate, `ca.crt` the latter."""

    def __init__(
        self,
        directory: Path,
        key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        now: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._key = key
        self._certificate = certificate
        self._now = now
        self.pem = _pem(certificate).decode()
        """Certificate of the root."""
        der = certificate.public_bytes(serialization.Encoding.DER)
        self.hash = hashlib.sha256(der).hexdigest()
        """SHA-256 of the certificate (DER), in hex: what a token pins."""

    @classmethod
    def open(cls, directory: Path, now: Callable[[], float]) -> Authority:
        """Load the authority, or make one where there is none.

        The directory gets mode 0700. Key and certificate are one file, so that a crash leaves
        both or neither.
        """
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        path = directory / "ca.pem"
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(path, _key_pem(key) + _pem(_root(key, now())))
        data = path.read_bytes()
        key_found = serialization.load_pem_private_key(data, password=None)
        assert isinstance(key_found, ec.EllipticCurvePrivateKey)
        certificate = x509.load_pem_x509_certificate(data)
        authority = cls(directory, key_found, certificate, now)
        public = directory / "ca.crt"
        if not public.exists() or public.read_text() != authority.pem:
            write_private(public, authority.pem.encode())
        return authority

    @property
    def ca_file(self) -> Path:
        """Certificate of the root, PEM."""
        return self._directory / "ca.crt"

    @property
    def server_file(self) -> Path:
        """Key and certificate of the server, PEM."""
        return self._directory / "server.pem"

    def ensure_server(self, names: Sequence[str]) -> bool:
        """See that the server's certificate is good for these names and addresses.

        A new one is made at two thirds of its life or when the names differ; True if so.
        """
        wanted = [SERVER_NAME, *(name for name in names if name != SERVER_NAME)]
        try:
            present = x509.load_pem_x509_certificate(self.server_file.read_bytes())
        except (FileNotFoundError, ValueError):
            present = None
        if present is not None and _names(present) == set(wanted):
            issued_here = present.issuer == self._certificate.subject
            if issued_here and self._now() < renew_at(present):
                return False
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(
            key.public_key(),
            "plait server",
            [_general_name(name) for name in wanted],
            ExtendedKeyUsageOID.SERVER_AUTH,
            SERVER_LIFE,
        )
        write_private(self.server_file, _key_pem(key) + _pem(certificate))
        return True

    def sign_node(self, csr: str, name: str, uid: str) -> tuple[str, float]:
        """Certificate of a node (PEM) and its end (Unix time). PLAIT-API-002 for a bad request."""
        try:
            if len(csr) > MAX_CSR:
                raise ValueError("it is too long")
            request = x509.load_pem_x509_csr(csr.encode())
            if not request.is_signature_valid:
                raise ValueError("its signature is not valid")
            public = request.public_key()
        except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise PlaitError(
                "PLAIT-API-002", "the signing request is not valid", where="csr", why=str(error)
            ) from None
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.key_size < 256:
            raise PlaitError(
                "PLAIT-API-002", "the key of a node is on the curve P-256 or larger", where="csr"
            )
        certificate = self._sign(
            public,
            f"node:{name}",
            [x509.UniformResourceIdentifier(node_uri(name, uid))],
            ExtendedKeyUsageOID.CLIENT_AUTH,
            NODE_LIFE,
        )
        return _pem(certificate).decode(), certificate.not_valid_after_utc.timestamp()

    def _sign(
        self,
        public: ec.EllipticCurvePublicKey,
        common_name: str,
        names: list[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        life: float,
    ) -> x509.Certificate:
        now = self._now()
        end = min(now + life, self._certificate.not_valid_after_utc.timestamp())
        return (
            x509.CertificateBuilder()
            .subject_name(_common_name(common_name))
            .issuer_name(self._certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_utc(now - BACKDATE))
            .not_valid_after(_utc(end))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def renew_at(certificate: x509.Certificate) -> float:
    """Unix time of two thirds of a certificate's life."""
    start = certificate.not_valid_before_utc.timestamp()
    end = certificate.not_valid_after_utc.timestamp()
    return start + (end - start) * 2 / 3


def _root(key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    name = _common_name(f"Plait CA {os.urandom(4).hex()}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_utc(now - BACKDATE))
        .not_valid_after(_utc(now + ROOT_LIFE))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _common_name(text: str) -> x509.Name:
    # 64 characters is the upper bound of a common name (RFC 5280 appendix A); "node:" and a
    # name of 63 exceed it, and the URI is what counts.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What a key is for: to sign certificates, or to prove who holds it (RFC 5280 4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        value = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in value}
