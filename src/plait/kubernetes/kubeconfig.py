"""How a Kubernetes API server is reached, and who asks: a kubeconfig, or a pod's service account.

Format: `k8s.io/client-go/tools/clientcmd/api/v1`. What Plait does not do is refused by name
(PLAIT-KUBE-001): programs that make credentials, passwords, proxies, and servers that nobody can
tell from an impostor.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import yaml

from plait.model.errors import PlaitError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet puts a pod's token and authority."""
HOST_VARIABLE: Final = "KUBERNETES_SERVICE_HOST"
PORT_VARIABLE: Final = "KUBERNETES_SERVICE_PORT"

_REFUSED_OF_CLUSTER: Final = {
    "insecure-skip-tls-verify": "name its authority with certificate-authority",
    "proxy-url": "name the API server's own address",
}
_REFUSED_OF_USER: Final = {
    "exec": "use a token of a service account",
    "auth-provider": "use a token of a service account",
    "username": "use a client certificate or a token",
    "password": "use a client certificate or a token",
    "as": "use the credentials of that user",
    "as-uid": "use the credentials of that user",
    "as-groups": "use the credentials of that user",
    "as-user-extra": "use the credentials of that user",
}


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Where and who. Bytes are the content itself, paths are read anew when the file changes."""

    server: str
    """`https://host:port[/prefix]`, without a slash at its end."""
    source: str = ""
    """Where this stood, for messages."""
    authority: bytes | Path | None = None
    """Certificates (PEM) of whom the server's must be; None: the system's roots."""
    server_name: str = ""
    """The name that the server's certificate is for, where it is not the host's."""
    certificate: bytes | Path | None = None
    """The client's certificate, PEM."""
    private_key: bytes | Path | None = None
    token: str = ""
    token_file: Path | None = None
    """Counts before `token`."""
    namespace: str = "default"

    def __repr__(self) -> str:
        # A log must not learn what opens a cluster.
        return f"Access(server={self.server!r}, source={self.source!r})"


def find(
    named: Path | None,
    environ: Mapping[str, str],
    *,
    home: Path | None = None,
    context: str = "",
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """The access that kubectl would take: the file that was named, the first one of `KUBECONFIG`,
    a pod's own service account, or `.kube/config` of the home directory.
    """
    if named is not None:
        return load(named, context=context)
    listed = [Path(each) for each in environ.get("KUBECONFIG", "").split(":") if each]
    if listed:
        return load(next((each for each in listed if each.exists()), listed[0]), context=context)
    if environ.get(HOST_VARIABLE):
        return in_cluster(environ, service_account)
    return load((home or Path("/root")) / ".kube" / "config", context=context)


def in_cluster(environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT) -> Access:
    """The access of the service account of the pod that this runs in."""
    host, port = environ.get(HOST_VARIABLE, ""), environ.get(PORT_VARIABLE, "443")
    token = service_account / "token"
    if not host or not token.exists():
        raise PlaitError(
            "PLAIT-KUBE-001",
            "this is no pod with a service account",
            where=str(service_account),
            why=f"{HOST_VARIABLE} is not set" if not host else f"there is no file {token}",
            fix=("plait kubernetes run --kubeconfig FILE",),
        )
    namespace = service_account / "namespace"
    return Access(
        server=f"https://[{host}]:{port}" if _is_v6(host) else f"https://{host}:{port}",
        source=str(service_account),
        authority=service_account / "ca.crt",
        token_file=token,
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )


def load(path: Path, *, context: str = "") -> Access:
    """The access of a context of a kubeconfig; of its current one if none is named."""
    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise _unusable(path, "cannot be read", error.strerror or str(error)) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        # The parser's own words quote the file.
        raise _unusable(path, "is not YAML") from None
    if not isinstance(content, dict):
        raise _unusable(path, "is not a kubeconfig", "it is no mapping")
    wanted = context or str(content.get("current-context") or "")
    if not wanted:
        raise _unusable(path, "names no current context")
    chosen = _named(content, "context", wanted, path)
    cluster = _named(content, "cluster", str(chosen.get("cluster") or ""), path)
    user = _named(content, "user", str(chosen["user"]), path) if chosen.get("user") else {}
    for fields, refused in ((cluster, _REFUSED_OF_CLUSTER), (user, _REFUSED_OF_USER)):
        for field, instead in refused.items():
            if fields.get(field):
                raise _unusable(path, f"asks for {field}", f"Plait does not do that: {instead}")
    certificate = _material(user, "client-certificate", path)
    private_key = _material(user, "client-key", path)
    if (certificate is None) != (private_key is None):
        raise _unusable(path, "has a client certificate without its key, or a key without it")
    access = Access(
        server=str(cluster.get("server") or "").rstrip("/"),
        source=str(path),
        authority=_material(cluster, "certificate-authority", path),
        server_name=str(cluster.get("tls-server-name") or ""),
        certificate=certificate,
        private_key=private_key,
        token=str(user.get("token") or ""),
        token_file=_path(user.get("tokenFile"), path),
        namespace=str(chosen.get("namespace") or "default"),
    )
    _check_server(access, path)
    return access


def _check_server(access: Access, path: Path) -> None:
    try:
        parts = urlsplit(access.server)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise _unusable(path, "names no server of the form https://host:port")
    if parts.scheme == "http" and not _is_loopback(host):
        raise _unusable(
            path,
            f"reaches {host} without TLS",
            "whoever is on the way could read and answer everything",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_v6(host: str) -> bool:
    return ":" in host


def _named(content: Mapping[str, Any], what: str, name: str, path: Path) -> Mapping[str, Any]:
    """The entry `name` of the list of contexts, clusters or users."""
    entries = content.get(f"{what}s")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name:
            found = entry.get(what)
            if isinstance(found, dict):
                return found
            if found is None and what == "user":
                return {}
    raise _unusable(path, f"has no {what} {name!r}")


def _material(fields: Mapping[str, Any], field: str, path: Path) -> bytes | Path | None:
    """Content of `<field>-data`, which counts first, or the file that `field` names."""
    data = fields.get(f"{field}-data")
    if not data:
        return _path(fields.get(field), path)
    try:
        return base64.b64decode(str(data), validate=True)
    except binascii.Error:
        raise _unusable(path, f"has {field}-data that is not base64") from None


def _path(value: object, kubeconfig: Path) -> Path | None:
    """A file name; relative ones count from the kubeconfig's directory."""
    return kubeconfig.parent / str(value) if value else None


def _unusable(path: Path, what: str, why: str = "") -> PlaitError:
    return PlaitError(
        "PLAIT-KUBE-001",
        f"the kubeconfig {path} {what}",
        where=str(path),
        why=why,
        fix=(
            "export KUBECONFIG=FILE   # or the option --kubeconfig FILE",
            f"kubectl config view --kubeconfig {path}",
        ),
    )
