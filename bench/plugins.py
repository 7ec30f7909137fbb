"""Runs CNI plugins as a container runtime does: one process a plugin, configuration on stdin.

CNI specification 1.0, "Execution protocol". What libcni does beyond that (its cache on disk) is
left out, in the favour of who has more plugins.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final, Literal

Verb = Literal["ADD", "DEL"]
Keys = dict[str, Any]
DIRECTORY: Final = Path("/usr/lib/cni")
"""Where Debian's containernetworking-plugins puts them."""


class Chain:
    """A network configuration list: one plugin after the other, each with the last one's result."""

    def __init__(self, name: str, plugins: list[tuple[Path, Keys]]) -> None:
        self._name = name
        self._plugins = plugins
        self._results: dict[str, Any] = {}

    def call(self, verb: Verb, container: str, netns: str, **runtime: Any) -> Any:
        """One call of the whole list; raises RuntimeError with a plugin's words when it fails.

        `runtime` are the capabilities' arguments (`runtimeConfig`).
        """
        result = self._results.pop(container, None) if verb == "DEL" else None
        for program, keys in self._plugins if verb == "ADD" else reversed(self._plugins):
            config = {"cniVersion": "1.0.0", "name": self._name, "type": program.name, **keys}
            if runtime:
                config["runtimeConfig"] = runtime
            if result is not None:
                config["prevResult"] = result
            said = self._run(program, json.dumps(config), verb, container, netns)
            result = said if verb == "ADD" else result
        if verb == "ADD":
            self._results[container] = result
        return result

    def _run(self, program: Path, config: str, verb: Verb, container: str, netns: str) -> Any:
        done = subprocess.run(
            [str(program)],
            input=config,
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
            raise RuntimeError(f"{program.name} {verb}: {done.stdout or done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None


class HostLocal:
    """Addresses of the host-local plugin: IPv4, a gateway and a default route."""

    def __init__(self, data: Path, name: str, subnet: str) -> None:
        self.keys: Keys = {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(data),
        }
        self._files = data / name

    def reserve(self, addresses: list[str]) -> None:
        """Reservations as host-local keeps them: a file an address, `<id>` and `<ifname>`."""
        self._files.mkdir(parents=True, exist_ok=True)
        for number, address in enumerate(addresses):
            (self._files / address).write_text(f"reserved-{number}\r\neth0")


def bridge(name: str, ipam: HostLocal, *, masquerade: bool) -> tuple[Path, Keys]:
    """Debian's bridge plugin."""
    keys = {"bridge": name, "isGateway": True, "ipMasq": masquerade, "ipam": ipam.keys}
    return DIRECTORY / "bridge", keys


def debian(plugin: str, *capabilities: str) -> tuple[Path, Keys]:
    """Another of Debian's plugins, which takes these capabilities."""
    return DIRECTORY / plugin, {"capabilities": dict.fromkeys(capabilities, True)}
