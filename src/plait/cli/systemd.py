"""The systemd units of our programs (systemd.service(5)).

`Type=notify`: a unit is up when it serves, so what is ordered after it finds it ready. The
agent comes before docker.service, for dockerd asks the plug-in about its networks when it
starts. `FileDescriptorStoreMax` lets the agent park the netlink socket that owns its nftables
table across a restart. Restarts never stop the data path: it lives in the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

UNITS: Final = {
    "server": "plait-server.service",
    "agent": "plait-agent.service",
    "kubernetes": "plait-kubernetes.service",
}

_TEMPLATE = """\
[Unit]
Description=Plait {title}
Documentation=man:plait(1)
After=network-online.target{after}
Wants=network-online.target
{before}StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
{environment}Restart=always
RestartSec=250ms
RestartSteps=8
RestartMaxDelaySec=15s
TimeoutStopSec=15s
KillMode=process
UMask=0077
LimitNOFILE=65536
{extra}
[Install]
WantedBy=multi-user.target
"""

_PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "server": {"title": "server", "after": "", "before": "", "extra": "OOMScoreAdjust=-500\n"},
    "agent": {
        "title": "agent",
        "after": " plait-server.service",
        "before": "Before=docker.service kubelet.service\n",
        "extra": "FileDescriptorStoreMax=4\nFileDescriptorStorePreserve=restart\n"
        "OOMScoreAdjust=-900\n",
    },
    "kubernetes": {
        "title": "connector to Kubernetes",
        "after": " plait-server.service plait-agent.service",
        "before": "",
        "extra": "OOMScoreAdjust=-500\n",
    },
}


def quote(word: str, *, command: bool = False) -> str:
    """A word of a setting (systemd.syntax(7)), `%` standing for itself; in a `command` also `$`.

    The words are paths of this installation; control characters are refused, for a newline
    would begin another setting.
    """
    if not word.isprintable():
        raise ValueError(f"a unit cannot hold {word!r}")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + (escaped.replace("$", "$$") if command else escaped) + '"'


def unit(name: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Text of the unit of a program of `UNITS`."""
    lines = "".join(f"Environment={quote(f'{k}={v}')}\n" for k, v in sorted(environment.items()))
    return _TEMPLATE.format(
        command=" ".join(quote(word, command=True) for word in command),
        environment=lines,
        **_PARTS[name],
    )
