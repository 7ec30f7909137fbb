"""A call of CNI as it comes from a runtime: checked, and taken apart.

Source: CNI specification 1.1.0, and libcni's `pkg/skel` where that is silent. Every refusal is a
`CniError`. What a DEL, GC or STATUS does not need is not looked at: removing must work with any
configuration that has a name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec

from plait.wire.cni import result, wanted
from plait.wire.cni.errors import (
    BAD_CONFIGURATION,
    BAD_ENVIRONMENT,
    DECODE_FAILURE,
    INCOMPATIBLE_VERSION,
    LATEST,
    UNSUPPORTED_FIELD,
    VERSIONS,
    CniError,
)
from plait.wire.cni.result import Part, Result
from plait.wire.cni.wanted import Rates, Wanted

Verb = Literal["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]

SINCE: Final[Mapping[str, str]] = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""Version of the specification that a verb came with."""
REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
"""Variables without which a verb is refused: section 2."""
MAX_DEADLINE: Final = 100
"""Seconds: the shim waits 120, kubelet 240 (runtimeRequestTimeout, twice)."""
MAX_VALUE: Final = 256
"""Characters of a container id: runtimes have 64."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_NOT_IN_IFNAME: Final = re.compile(r"[/:%\s\0]")
"""The kernel would make a number of its own of `%d`."""
MAX_IFNAME: Final = 15
"""Bytes: IFNAMSIZ without the NUL (linux/if.h)."""


class Attachment(NamedTuple):
    """What identifies an attachment within a network configuration."""

    container: str
    ifname: str


class Settings(Part, frozen=True, kw_only=True):
    """Keys of the configuration that are Plait's own."""

    network: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] = "plait"
    """Plait's Network; the one that `plait up` makes."""
    namespace: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] = "default"
    """Plait's namespace of workloads of which no orchestrator says another."""
    identity: Literal["kubernetes", "runtime"] = "runtime"
    """Who says name and labels: the Pod that the runtime names, or the runtime itself."""
    deadline: Annotated[float, msgspec.Meta(ge=1, le=MAX_DEADLINE)] = 30
    """Seconds in which an ADD has to be done, waiting for the Pod included."""
    ifname: Annotated[str, msgspec.Meta(max_length=15)] = ""
    """Name of the interface in place of the runtime's, for a place later in a list whose first
    plugin has made an interface of that name."""
    default_route: bool | None = None
    """The interface carries the default routes. Unsaid: unless a plugin before us, or another
    attachment of the same container, has made some."""


OWN: Final = frozenset(
    field.encode_name for kind in (Settings, Rates) for field in msgspec.structs.fields(kind)
)
"""Keys of the configuration that are Plait's own."""
SPECIFIED: Final = frozenset(
    (
        *("cniVersion", "name", "type", "capabilities", "args", "ipMasq", "ipam", "dns"),
        *("runtimeConfig", "prevResult"),
    )
)
"""Keys that the specification gives a meaning, sections 1 and 3."""
_OWN_BY_LOWER: Final[Mapping[str, str]] = {key.lower(): key for key in OWN}


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call that is understood."""

    verb: Verb
    version: str
    """Of the configuration, and of the result."""
    name: str
    """Of the network configuration."""
    attachment: Attachment = Attachment("", "")
    """ADD, DEL and CHECK."""
    netns: str = ""
    """Path; for a DEL it may be empty."""
    started: int = 0
    """When the runtime started the call: nanoseconds since boot, sleep included; 0: not known."""
    boot: str = ""
    """Boot in which a DEL was kept; empty: this one."""
    settings: Settings = Settings()
    wanted: Wanted = Wanted()
    previous: Result | None = None
    valid: frozenset[Attachment] = frozenset()
    """GC: what must stay."""

    @property
    def ifname(self) -> str:
        """Name of our interface in the container."""
        return self.settings.ifname or self.attachment.ifname


def split(body: bytes) -> tuple[dict[str, str], bytes]:
    """Environment and configuration of what `native/plait-cni.c` sends: NAME=VALUE\\0 for each
    variable, \\0, the configuration."""
    head, _, config = (
        body.partition(b"\0\0") if not body.startswith(b"\0") else (b"", b"", body[1:])
    )
    pairs = (line.decode(errors="replace").partition("=") for line in head.split(b"\0") if line)
    return {name: value for name, _, value in pairs}, config


def parse(body: bytes) -> Call:
    """The call, or why it is none."""
    environment, text = split(body)
    verb = _verb(environment)
    version = LATEST
    try:
        _check_environment(verb, environment)
        config = _decode(text)
        version = _version(verb, config)
        return _parse(verb, version, environment, config)
    except CniError as error:
        error.version = version
        raise


def _parse(verb: Verb, version: str, environment: Mapping[str, str], config: Any) -> Call:
    name = "" if verb == "VERSION" else _name(config)
    call = Call(
        verb=verb,
        version=version,
        name=name,
        attachment=Attachment(
            environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
        ),
        netns=environment.get("CNI_NETNS", ""),
        started=_nanoseconds(environment.get("PLAIT_STARTED", "")),
        boot=environment.get("PLAIT_BOOT", ""),
    )
    if verb == "GC":
        return msgspec.structs.replace(call, valid=_valid(config))
    if verb not in ("ADD", "CHECK", "STATUS"):
        return call
    settings = _settings(config)
    call = msgspec.structs.replace(call, settings=settings)
    if verb == "STATUS":
        return call
    if verb == "CHECK" and config.get("prevResult") is None:
        raise CniError(BAD_CONFIGURATION, "prevResult is missing", "CHECK compares with it")
    given = config.get("prevResult")
    args = wanted.arguments(environment.get("CNI_ARGS", ""))
    return msgspec.structs.replace(
        call,
        previous=None if given is None else result.parse(given, version),
        wanted=wanted.parse(config, name, args) if verb == "ADD" else Wanted(),
    )


def _verb(environment: Mapping[str, str]) -> Verb:
    verb = environment.get("CNI_COMMAND", "")
    if not verb:
        raise CniError(BAD_ENVIRONMENT, "CNI_COMMAND is not set")
    if verb not in get_args(Verb):
        raise CniError(BAD_ENVIRONMENT, "CNI_COMMAND is not a verb of CNI", ascii(verb[:80]))
    return verb  # type: ignore[return-value]


def _check_environment(verb: Verb, environment: Mapping[str, str]) -> None:
    missing = [name for name in REQUIRED[verb] if not environment.get(name)]
    if missing:
        raise CniError(BAD_ENVIRONMENT, f"required variables are missing: {', '.join(missing)}")
    netns = environment.get("CNI_NETNS", "")
    if "CNI_NETNS" in REQUIRED[verb] and not netns.startswith("/"):
        raise CniError(BAD_ENVIRONMENT, "CNI_NETNS is no absolute path", f"{netns[:80]!a}")
    container = environment.get("CNI_CONTAINERID", "")
    if "CNI_CONTAINERID" in REQUIRED[verb] and (
        _NAME.fullmatch(container) is None or len(container) > MAX_VALUE
    ):
        raise CniError(
            BAD_ENVIRONMENT,
            "CNI_CONTAINERID is not valid",
            f"{container[:80]!a}: letters, digits, _, . and -, at most {MAX_VALUE}",
        )
    ifname = environment.get("CNI_IFNAME", "")
    if "CNI_IFNAME" in REQUIRED[verb] and not _is_ifname(ifname):
        raise CniError(
            BAD_ENVIRONMENT,
            "CNI_IFNAME is not valid",
            f"{ifname[:80]!a}: at most {MAX_IFNAME} bytes, no /, :, % or space",
        )


def _is_ifname(text: str) -> bool:
    fits = 0 < len(text.encode(errors="replace")) <= MAX_IFNAME
    return fits and text not in (".", "..") and not _NOT_IN_IFNAME.search(text)


def _decode(text: bytes) -> Any:
    try:
        config = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CniError(
            DECODE_FAILURE, "the network configuration is not valid JSON", str(error)
        ) from error
    if not isinstance(config, dict):
        raise CniError(DECODE_FAILURE, "the network configuration is not an object")
    return config


def _version(verb: Verb, config: Mapping[str, Any]) -> str:
    version = config.get("cniVersion", "0.1.0")
    if verb == "VERSION" and version not in VERSIONS:
        return LATEST
    if not isinstance(version, str):
        raise CniError(DECODE_FAILURE, "cniVersion is not a string")
    if version not in VERSIONS:
        said = "is" if "cniVersion" in config else "has no cniVersion, which means"
        raise CniError(
            INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f'config {said} "{version[:80]}", plugin supports {", ".join(VERSIONS)}',
        )
    if verb in SINCE and not result.at_least(version, SINCE[verb]):
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"the version of the configuration has no {verb}",
            f'config is "{version}"; {verb} came with {SINCE[verb]}',
        )
    return version


def _name(config: Mapping[str, Any]) -> str:
    name = config.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise CniError(
            BAD_CONFIGURATION,
            "the name of the network configuration is missing or not valid",
            f"name: {ascii(name)[:80]}; letters, digits, _, . and -",
        )
    return name


def _settings(config: Mapping[str, Any]) -> Settings:
    if plugin := wanted.section(config, "ipam").get("type"):
        raise CniError(
            UNSUPPORTED_FIELD,
            f'unsupported field ipam: {{"type": "{ascii(plugin)[1:-1][:80]}"}}',
            "Plait gives the addresses itself, out of the pools of its network; fix: remove ipam",
        )
    _refuse_misspelt(config)
    settings = wanted.convert(config, Settings, "the configuration")
    if settings.ifname and not _is_ifname(settings.ifname):
        raise CniError(BAD_CONFIGURATION, "ifname is not valid", ascii(settings.ifname))
    return settings


def _refuse_misspelt(config: Mapping[str, Any]) -> None:
    """Unknown keys are others' and passed over, but one that is nearly one of ours is a slip, and
    what it says must not go unheard: a container would be in another network than was meant."""
    for key in config.keys() - OWN - SPECIFIED:
        near = difflib.get_close_matches(key.lower(), _OWN_BY_LOWER, 1, cutoff=0.8)
        if near:
            raise CniError(
                UNSUPPORTED_FIELD,
                f"unsupported field {ascii(key[:80])[1:-1]}: {ascii(config[key])[:80]}",
                f"fix: {_OWN_BY_LOWER[near[0]]}",
            )


class _Valid(msgspec.Struct, frozen=True):
    container: str = msgspec.field(name="containerID")
    ifname: str


def _valid(config: Mapping[str, Any]) -> frozenset[Attachment]:
    """What must stay. A list that is not there would mean everything, and is refused."""
    given = wanted.convert(
        config.get("cni.dev/valid-attachments"), list[_Valid], "cni.dev/valid-attachments"
    )
    return frozenset(Attachment(item.container, item.ifname) for item in given)


def _nanoseconds(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else 0
