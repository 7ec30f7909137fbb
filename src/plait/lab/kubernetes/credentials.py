"""Who may do what in a lab's cluster: certificates, and the kubeconfig files that hold them."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping

import yaml

from plait.lab.kubernetes import layout, pki
from plait.lab.topology import HostPlan


def _data(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()


def kubeconfig(server: str, authority: str, user: pki.Pair) -> str:
    """A kubeconfig file with certificate and key in it."""
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "lab",
                    "cluster": {"server": server, "certificate-authority-data": _data(authority)},
                }
            ],
            "users": [
                {
                    "name": "lab",
                    "user": {
                        "client-certificate-data": _data(user.certificate),
                        "client-key-data": _data(user.key),
                    },
                }
            ],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
            "current-context": "lab",
        },
        sort_keys=False,
    )


def credentials(
    control: HostPlan, nodes: Mapping[str, HostPlan], now: datetime.datetime
) -> dict[str, dict[str, str]]:
    """Certificates, keys and kubeconfigs of all nodes: host -> path inside it -> content.

    The control plane's own programs act as administrators; a kubelet acts as its node, within
    what NodeRestriction lets it.
    """
    authority = pki.Authority(now)
    server = f"https://{layout.address4(control)}:{layout.PORT}"
    admin = kubeconfig(server, authority.pem, authority.client("admin", ["system:masters"]))
    names = [control.name, "localhost"]
    names += [f"kubernetes{rest}" for rest in ("", ".default", ".default.svc")]
    names += [f"kubernetes.default.svc.{layout.DOMAIN}"]
    names += [
        layout.address4(control),
        layout.address6(control),
        "127.0.0.1",
        "::1",
        *layout.FIRST_SERVICE,
    ]
    serving = authority.server("kube-apiserver", names)
    calling = authority.client("kube-apiserver-kubelet-client", ["system:masters"])
    files: dict[str, dict[str, str]] = {
        name: {
            f"{layout.ETC}/ca.crt": authority.pem,
            layout.ADMIN: admin,
            "/root/.kube/config": admin,
            layout.KUBELET: kubeconfig(
                server, authority.pem, authority.client(f"system:node:{name}", ["system:nodes"])
            ),
        }
        for name in nodes
    }
    files[control.name] |= {
        layout.CONNECTOR: admin,
        f"{layout.ETC}/apiserver.crt": serving.certificate,
        f"{layout.ETC}/apiserver.key": serving.key,
        f"{layout.ETC}/apiserver-kubelet.crt": calling.certificate,
        f"{layout.ETC}/apiserver-kubelet.key": calling.key,
        f"{layout.ETC}/service-accounts.key": pki.key_pem(pki.new_key()),
    }
    return files
