"""Enrolment: how a host gets its certificate, and the next one.

The authority's certificate is fetched without trust and compared with the hash in the token;
only then is the token's secret sent, over TLS that this authority vouches for. The private key
is made here and never leaves. `cryptography` is imported when it is needed, for it is large.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import ssl
import time
import uuid
from pathlib import Path
from typing import Final

import msgspec

from plait.client.api import ApiClient
from plait.client.files import write_private
from plait.model.errors import PlaitError
from plait.wire.api import NODE_SCHEME, Enrolled, EnrolRequest, split_token

CA_FILE: Final = "ca.crt"
CERT_FILE: Final = "node.crt"
KEY_FILE: Final = "node.key"
NODE_FILE: Final = "node.json"


class NodeIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this host is; `node.json`. Made at the first enrolment and kept for ever."""

    name: str
    uid: str
    secret: str
    """Shown at every enrolment: it keeps the name from others who hold a join token."""


def read_identity(directory: Path) -> NodeIdentity | None:
    """This host's identity, or None where it never enrolled."""
    try:
        return msgspec.json.decode((directory / NODE_FILE).read_bytes(), type=NodeIdentity)
    except FileNotFoundError:
        return None


def pinned_hash(token: str) -> str:
    """The CA hash of a token; PLAIT-AUTH-003 for what is no token."""
    try:
        return split_token(token)[0]
    except ValueError as error:
        raise PlaitError(
            "PLAIT-AUTH-003", "that is no token", why=str(error), fix=("plait token create",)
        ) from None


async def fetch_ca(url: str, token: str) -> str:
    """The server's authority (PEM), checked against the token; PLAIT-AUTH-005 if it differs."""
    import aiohttp

    from plait.client.reasons import reason

    expected = pinned_hash(token)
    timeout = aiohttp.ClientTimeout(total=15, sock_connect=5)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # No trust yet: what comes back counts only if its hash is the token's.
            session.get(
                url.rstrip("/") + "/cacerts", ssl=False, headers={"Host": "localhost"}
            ) as response,
        ):
            text = (await response.content.read(65536)).decode("ascii", "replace")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise PlaitError(
            "PLAIT-API-012",
            f"the server at {url} cannot be reached",
            where=url,
            why=reason(error),
            fix=("plait status   # on the server",),
        ) from None
    try:
        found = hashlib.sha256(_der(text)).hexdigest()
    except ValueError:
        found = "no certificate"
    if found != expected:
        raise PlaitError(
            "PLAIT-AUTH-005",
            f"the authority of {url} is not the one that made the token",
            where=url,
            why=f"its hash is {found[:16]}…, the token pins {expected[:16]}…",
            fix=("plait token create   # on the server",),
        )
    return text


def _der(pem: str) -> bytes:
    begin, _, rest = pem.strip().partition("-----BEGIN CERTIFICATE-----")
    body, end, after = rest.partition("-----END CERTIFICATE-----")
    if begin or not end or after:
        raise ValueError("not exactly one certificate")
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


async def enrol(url: str, token: str, name: str, directory: Path) -> NodeIdentity:
    """Make this host the node `name`; its files are in `directory` afterwards.

    May be repeated: the identity and the key are kept, so an enrolment that broke off half-way
    is finished by the next. PLAIT-AUTH-002 when the name is another node's.
    """
    pem = await fetch_ca(url, token)
    prepare(directory)
    # Written aside until the server has accepted: a refused join leaves a good identity alone.
    candidate = directory / (CA_FILE + ".join")
    write_private(candidate, pem.encode())
    try:
        identity = read_identity(directory)
        if identity is None or identity.name != name:
            identity = NodeIdentity(
                name=name, uid=str(uuid.uuid4()), secret=secrets.token_urlsafe(32)
            )
        write_private(directory / NODE_FILE, msgspec.json.encode(identity))
        request = EnrolRequest(
            name=name,
            uid=identity.uid,
            secret=identity.secret,
            csr=signing_request(directory, name),
        )
        async with ApiClient(url, ca_file=candidate, token=token) as api:
            enrolled = await api.enrol(request)
        _install(directory, enrolled)
    finally:
        candidate.unlink(missing_ok=True)
    return identity


async def renew(api: ApiClient, directory: Path, now: float | None = None) -> None:
    """Get the next certificate; `api` picks it up by itself. `now` is Unix time.

    The present certificate vouches for the node, or, when it has lapsed because host or server
    were down for long, the node's secret does.
    """
    identity = read_identity(directory)
    if identity is None:
        raise PlaitError(
            "PLAIT-HOST-005", "this host is no node", fix=("plait join SERVER --token TOKEN",)
        )
    csr = signing_request(directory, identity.name)
    if not _lapsed(directory, time.time() if now is None else now):
        _install(directory, await api.renew(csr))
        return
    secret = f"{identity.name}.{identity.uid}.{identity.secret}"
    ca_file = directory / CA_FILE
    async with ApiClient(api.url, ca_file=ca_file, token=secret, scheme=NODE_SCHEME) as alone:
        request = EnrolRequest(
            name=identity.name, uid=identity.uid, secret=identity.secret, csr=csr
        )
        _install(directory, await alone.enrol(request))


async def renew_if_due(api: ApiClient, directory: Path, now: float | None = None) -> bool:
    """Renew at two thirds of the certificate's life; call it now and then, True if it did."""
    if not renewal_due(directory, now):
        return False
    await renew(api, directory, now)
    return True


def _lapsed(directory: Path, now: float) -> bool:
    try:
        return now >= validity(directory / CERT_FILE)[1]
    except (OSError, ValueError):
        return True


def renewal_due(directory: Path, now: float | None = None) -> bool:
    """Whether two thirds of the certificate's life have passed; `now` is Unix time.

    An unreadable or missing certificate is due.
    """
    try:
        start, end = validity(directory / CERT_FILE)
    except (OSError, ValueError):
        return True
    return (time.time() if now is None else now) >= start + (end - start) * 2 / 3


def validity(path: Path) -> tuple[float, float]:
    """Begin and end of a certificate's life, Unix time; ValueError if it cannot be read."""
    # The one reader of dates in the standard library; private, but it needs no 15 MiB of
    # libraries in an agent that looks once an hour.
    decoded = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]
    return (
        float(ssl.cert_time_to_seconds(decoded["notBefore"])),
        float(ssl.cert_time_to_seconds(decoded["notAfter"])),
    )


def signing_request(directory: Path, name: str) -> str:
    """PKCS #10 (PEM) for the host's key, which is made where there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    path = directory / KEY_FILE
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        write_private(
            path,
            made.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"node:{name}"[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    signed = request.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


def prepare(directory: Path) -> None:
    """The directory of an identity, mode 0700."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)


def _install(directory: Path, enrolled: Enrolled) -> None:
    write_private(directory / CA_FILE, enrolled.authority.encode())
    write_private(directory / CERT_FILE, enrolled.certificate.encode())
