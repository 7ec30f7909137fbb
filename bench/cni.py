"""Runs CNI plugins as a container runtime does: one process a call, configuration on stdin.

CNI specification 1.0, "Execution protocol". What libcni does beyond that (a cached result, the
list of plugins) is left out, in the plugins' favour.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Literal

Verb = Literal["ADD", "DEL"]
DIRECTORY = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins puts them."""


class Plugin:
    """The bridge plugin with host-local addresses: IPv4, a gateway and a default route."""

    def __init__(self, data: Path, *, bridge: str, subnet: str, masquerade: bool = False) -> None:
        self._config = json.dumps(
            {
                "cniVersion": "1.0.0",
                "name": "bench",
                "type": "bridge",
                "bridge": bridge,
                "isGateway": True,
                "ipMasq": masquerade,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": subnet}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(data),
                },
            }
        )
        self._data = data / "bench"

    def reserve(self, addresses: list[str]) -> None:
        """Reservations as host-local keeps them: a file an address, `<id>` and `<ifname>`."""
        self._data.mkdir(parents=True, exist_ok=True)
        for number, address in enumerate(addresses):
            (self._data / address).write_text(f"reserved-{number}\r\neth0")

    def call(self, verb: Verb, container: str, netns: str) -> Any:
        """One call; raises RuntimeError with the plugin's words when it fails."""
        done = subprocess.run(
            [str(DIRECTORY / "bridge")],
            input=self._config,
            env={
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": container,
                "CNI_NETNS": netns,
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(DIRECTORY),
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"bridge {verb}: {done.stdout or done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None
