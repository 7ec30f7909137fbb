"""A container runtime's side of CNI, as small as can be: what libcni 1.2 does with a list.

Plugins one after the other with `prevResult`, DEL backwards, results cached and given to CHECK
and DEL, capabilities to those that declare them, GC with the attachments that are valid. Source:
CNI specification 1.1.0 section 3, and libcni/api.go.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

Execute = Callable[[str, Mapping[str, str], str], "subprocess.CompletedProcess[str]"]
"""Runs the plugin of a type with an environment and a standard input."""


class PluginError(Exception):
    """An error result."""

    def __init__(self, plugin: str, verb: str, code: int, msg: str, details: str) -> None:
        super().__init__(f"{plugin} {verb}: {code}: {msg}; {details}")
        self.plugin = plugin
        self.code = code
        self.msg = msg
        self.details = details


class Attachment(NamedTuple):
    container: str
    netns: str
    ifname: str = "eth0"


NO_ATTACHMENT = Attachment("", "", "")


class Cached(NamedTuple):
    """What a runtime keeps of an attachment."""

    result: Any
    args: str
    capabilities: Mapping[str, Any]


def at_least(version: str, since: str) -> bool:
    return VERSIONS.index(version) >= VERSIONS.index(since)


class Network:
    """A network configuration list, and the attachments that were made of it."""

    def __init__(
        self,
        execute: Execute,
        plugins: Sequence[Mapping[str, Any]],
        *,
        name: str = "podnet",
        version: str = "1.1.0",
        path: str = "/opt/cni/bin:/usr/lib/cni",
    ) -> None:
        self._execute = execute
        self.plugins = [dict(plugin) for plugin in plugins]
        self.name = name
        self.version = version
        self.path = path
        self.cache: dict[tuple[str, str], Cached] = {}

    # The verbs on the whole list.

    def add(self, at: Attachment, *, args: str = "", **capabilities: Any) -> Any:
        """ADD; the result of the last plugin."""
        result: Any = None
        for plugin in self.plugins:
            config = self.config(plugin, result, capabilities)
            result = self.call("ADD", plugin["type"], config, at, args)
        self.cache[at.container, at.ifname] = Cached(result, args, capabilities)
        return result

    def delete(self, at: Attachment, *, cached: bool = True) -> None:
        """DEL. Without `cached` the runtime has lost its results."""
        known = self.cache.get((at.container, at.ifname)) if cached else None
        known = known or Cached(None, "", {})
        result = known.result if at_least(self.version, "0.4.0") else None
        for plugin in reversed(self.plugins):
            config = self.config(plugin, result, known.capabilities)
            self.call("DEL", plugin["type"], config, at, known.args)
        self.cache.pop((at.container, at.ifname), None)

    def check(self, at: Attachment, *, besides: Collection[str] = ()) -> None:
        """CHECK, of all plugins but those of these types."""
        known = self.cache[at.container, at.ifname]
        for plugin in self.plugins:
            if plugin["type"] in besides:
                continue
            config = self.config(plugin, known.result, known.capabilities)
            self.call("CHECK", plugin["type"], config, at, known.args)

    def gc(self, valid: Sequence[Attachment]) -> None:
        """GC: DEL for what is cached and not valid, then GC of each plugin. All errors at once."""
        errors: list[PluginError] = []
        keep = {(at.container, at.ifname) for at in valid}
        for container, ifname in set(self.cache) - keep:
            try:
                self.delete(Attachment(container, "", ifname))
            except PluginError as error:
                errors.append(error)
        attachments = [{"containerID": at.container, "ifname": at.ifname} for at in valid]
        for plugin in self.plugins:
            config = self.config(plugin) | {"cni.dev/valid-attachments": attachments}
            try:
                self.call("GC", plugin["type"], config)
            except PluginError as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup("GC", errors)

    def status(self) -> None:
        """STATUS."""
        for plugin in self.plugins:
            self.call("STATUS", plugin["type"], self.config(plugin))

    # One call.

    def config(
        self,
        plugin: Mapping[str, Any],
        previous: Any = None,
        capabilities: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The configuration of one plugin, as it is given to it."""
        config: dict[str, Any] = {**plugin, "name": self.name, "cniVersion": self.version}
        declared = config.pop("capabilities", {})
        given = {key: val for key, val in (capabilities or {}).items() if declared.get(key)}
        if given:
            config["runtimeConfig"] = given
        if previous is not None:
            config["prevResult"] = previous
        return config

    def call(
        self,
        verb: str,
        plugin: str,
        config: Any,
        at: Attachment = NO_ATTACHMENT,
        args: str = "",
    ) -> Any:
        """Run one plugin; its result, or PluginError."""
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": at.container,
            "CNI_NETNS": at.netns,
            "CNI_IFNAME": at.ifname,
            "CNI_ARGS": args,
            "CNI_PATH": self.path,
        }
        if verb in ("GC", "STATUS", "VERSION"):
            environment = {key: environment[key] for key in ("CNI_COMMAND", "CNI_PATH")}
        done = self._execute(plugin, environment, json.dumps(config))
        return outcome(plugin, verb, done)


def outcome(plugin: str, verb: str, done: subprocess.CompletedProcess[str]) -> Any:
    """What a plugin's output and exit status say."""
    try:
        said = json.loads(done.stdout) if done.stdout.strip() else None
    except json.JSONDecodeError as error:
        raise AssertionError(f"{plugin} {verb}: {done.stdout!r} {done.stderr!r}") from error
    if done.returncode:
        assert said is not None, f"{plugin} {verb}: {done.returncode}: {done.stderr!r}"
        raise PluginError(plugin, verb, said["code"], said["msg"], said.get("details", ""))
    return said
