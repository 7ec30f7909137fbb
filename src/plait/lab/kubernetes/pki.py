"""Certificates of a lab's cluster: one authority, and what it signs.

ECDSA P-256 (RFC 5480). They are made when the lab is, and outlive every lab that is not forgotten
for a year.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plait.server.ca import key_usage

LIFE: Final = datetime.timedelta(days=365)
BACKDATE: Final = datetime.timedelta(minutes=5)
"""Before they are made, for clocks that disagree."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as PEM, in the form that Go's older programs read too (RFC 5915)."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


def subject(user: str, groups: Sequence[str] = ()) -> x509.Name:
    """A user as Kubernetes reads it: common name, and each group an organisation."""
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def alternative(name: str) -> x509.GeneralName:
    """A DNS name or an address, as a certificate names it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Pair:
    """A certificate and its key, PEM."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.key = key_pem(key)


class Authority:
    """A root that signs; its key is kept nowhere but in this object."""

    def __init__(self, now: datetime.datetime) -> None:
        self._now = now
        self._key = new_key()
        self._name = subject("plait-lab-kubernetes")
        self._certificate = self._sign(
            self._name,
            self._key.public_key(),
            [
                (x509.BasicConstraints(ca=True, path_length=0), True),
                (key_usage(signs_certificates=True), True),
            ],
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, user: str, names: Sequence[str]) -> Pair:
        """A server's certificate for DNS names and addresses."""
        key = new_key()
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.SubjectAlternativeName([alternative(name) for name in names]), False),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (key_usage(signs_certificates=False), True),
        ]
        return Pair(self._sign(subject(user), key.public_key(), extensions), key)

    def client(self, user: str, groups: Sequence[str] = ()) -> Pair:
        """A user's certificate."""
        key = new_key()
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (key_usage(signs_certificates=False), True),
        ]
        return Pair(self._sign(subject(user, groups), key.public_key(), extensions), key)

    def _sign(
        self,
        name: x509.Name,
        public: ec.EllipticCurvePublicKey,
        extensions: Sequence[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - BACKDATE)
            .not_valid_after(self._now + LIFE)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())
