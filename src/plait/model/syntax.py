"""What a single field may hold: names, labels, addresses, CIDRs, text. Pure.

Every function returns the canonical value or raises `PlaitError` naming the field. Limits are
those of the field's source: DNS (RFC 1035, 1123), Kubernetes labels, RFC 4291 text form.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Final

from plait.model.errors import PlaitError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_LABELS_BYTES: Final = 65536
"""Of keys and values of all labels. Kubernetes bounds neither their number nor this: tools that
describe hosts give a Node hundreds."""
MAX_ANNOTATIONS_BYTES: Final = 131072
"""The keys of all labels fit in: the connector to Kubernetes notes there which are its own."""
MAX_TEXT: Final = 1024
MAX_ITEMS: Final = 1024
"""Longest list in any object."""

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_ALIAS: Final = re.compile(r"[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?", re.ASCII)
_ENDPOINT: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,62}[a-z0-9])?", re.ASCII)
_BLOCK: Final = re.compile(r"[a-z0-9][-a-z0-9]{0,62}\.[0-9a-f-]{3,64}", re.ASCII)
_LABEL_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_MAC: Final = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
NO_MAC: Final = "00:00:00:00:00:00"
"""No address: the kernel gives it to no link (is_valid_ether_addr)."""
_PORT_RANGE: Final = re.compile(r"([0-9]{1,5})-([0-9]{1,5})", re.ASCII)
_UID: Final = re.compile(r"[A-Za-z0-9][-A-Za-z0-9]{7,63}", re.ASCII)


def shown(value: str) -> str:
    """A value as an error may quote it: printable and short."""
    text = ascii(value)[1:-1]
    return f'"{text}"' if len(text) <= 80 else f'"{text[:77]}..." ({len(value)} characters)'


def printable(text: str) -> str:
    """A message that quotes what was sent, safe for any terminal and log."""
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)


def invalid(
    where: str, detail: str, *, code: str = "PLAIT-API-002", why: str = "", fix: str = ""
) -> PlaitError:
    """Refusal of a field."""
    return PlaitError(code, detail, where=where, why=why, fix=(fix,) if fix else ())


def dns_label(value: str, where: str) -> str:
    """A DNS label in lower case, 1 to 63 characters (RFC 1123)."""
    if _LABEL.fullmatch(value) is None:
        raise invalid(
            where,
            f"{shown(value)} is not a DNS label",
            code="PLAIT-NAME-001",
            why="a name has 1 to 63 characters of a-z, 0-9 and -, and no - at its ends",
        )
    return value


def dns_subdomain(value: str, where: str) -> str:
    """DNS labels in lower case joined by dots, at most 253 characters (RFC 1123)."""
    if len(value) > 253 or not all(_LABEL.fullmatch(part) for part in value.split(".")):
        raise invalid(
            where,
            f"{shown(value)} is not a name",
            code="PLAIT-NAME-001",
            why="it has at most 253 characters: parts of 1 to 63 of a-z, 0-9 and -, joined by dots",
        )
    return value


def dns_name(value: str, where: str) -> str:
    """DNS labels joined by dots, at most 253 characters; `_` is allowed, as Docker allows it."""
    if len(value) > 253 or not all(_ALIAS.fullmatch(part) for part in value.split(".")):
        raise invalid(
            where,
            f"{shown(value)} is not a DNS name",
            code="PLAIT-NAME-001",
            why="it has labels of 1 to 63 characters of a-z, 0-9, - and _, joined by dots",
        )
    return value


def endpoint_id(value: str, where: str) -> str:
    """1 to 64 characters of a-z, 0-9, `-` and `.`: a container id fits."""
    if _ENDPOINT.fullmatch(value) is None:
        raise invalid(
            where,
            f"{shown(value)} is not an endpoint id",
            code="PLAIT-NAME-001",
            why="an id has 1 to 64 characters of a-z, 0-9, - and ., a letter or digit at its ends",
        )
    return value


def block_id(value: str, where: str) -> str:
    """Form of `model.objects.block_name`."""
    if _BLOCK.fullmatch(value) is None:
        raise invalid(where, f"{shown(value)} is not a block's name", code="PLAIT-NAME-001")
    return value


def uid(value: str, where: str) -> str:
    """8 to 64 letters, digits and `-`."""
    if _UID.fullmatch(value) is None:
        raise invalid(where, f"{shown(value)} is not a uid of 8 to 64 letters, digits and -")
    return value


def mac(value: str, where: str) -> str:
    """A unicast MAC in lower case with colons."""
    if _MAC.fullmatch(value) is None or int(value[:2], 16) & 1 or value == NO_MAC:
        raise invalid(where, f"{shown(value)} is not a unicast MAC in lower case with colons")
    return value


def port_name(value: str, where: str) -> str:
    """A port's name: 1 to 63 of a-z, 0-9 and `-`, with a letter, so that it is no number.

    RFC 6335 section 5.1 allows 15 characters; ports of Kubernetes' services have up to 63.
    """
    if _LABEL.fullmatch(value) is None or "--" in value or not re.search("[a-z]", value):
        fix = f"write {value} without quotes" if value.isascii() and value.isdigit() else ""
        raise invalid(
            where,
            f"{shown(value)} is not a port's name",
            why="it has 1 to 63 characters of a-z, 0-9 and single -, at least one a letter",
            fix=fix,
        )
    return value


def text(value: str, where: str, limit: int = MAX_TEXT) -> str:
    """Printable text: no control characters (Unicode category Cc, Cf, Cs…), at most `limit`."""
    if len(value) > limit:
        raise invalid(where, f"the text has {len(value)} characters; at most {limit} are allowed")
    if not value.isprintable():
        raise invalid(where, f"{shown(value)} has characters that cannot be printed")
    return value


def items(value: Sequence[object], where: str, limit: int = MAX_ITEMS) -> None:
    """A list of at most `limit` items."""
    if len(value) > limit:
        raise invalid(where, f"the list has {len(value)} items; at most {limit} are allowed")


def number(value: int, where: str, low: int, high: int) -> int:
    """A number in a range, ends included."""
    if not low <= value <= high:
        raise invalid(where, f"{value} is not in the range {low} to {high}")
    return value


def port_range(value: str, where: str) -> range:
    """Ports as `30000-32767`, ends included."""
    found = _PORT_RANGE.fullmatch(value)
    low, high = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= low <= high <= 65535:
        raise invalid(
            where,
            f"{shown(value)} is not a range of ports",
            why="it is two numbers of 1 to 65535 with a hyphen, the lower one first",
            fix="write 30000-32767",
        )
    return range(low, high + 1)


def label_map(value: Mapping[str, str], where: str) -> None:
    """Labels in the syntax of Kubernetes, `MAX_LABELS_BYTES` in all."""
    _size(value, where, "labels", MAX_LABELS_BYTES)
    for key, val in value.items():
        label_key(key, where)
        label_value(val, f"{where}.{key}")


def annotation_map(value: Mapping[str, str], where: str) -> None:
    """Annotations: keys as labels have them, any text, `MAX_ANNOTATIONS_BYTES` in all."""
    _size(value, where, "annotations", MAX_ANNOTATIONS_BYTES)
    for key in value:
        label_key(key, where)


def _size(value: Mapping[str, str], where: str, what: str, limit: int) -> None:
    size = sum(len(key.encode()) + len(val.encode()) for key, val in value.items())
    if size > limit:
        raise invalid(where, f"the {what} have {size} bytes; {limit} are allowed")


def label_value(value: str, where: str) -> str:
    """A label's value: empty, or as a label's name."""
    if value and _LABEL_NAME.fullmatch(value) is None:
        raise invalid(
            where,
            f"{shown(value)} is not a label's value",
            why="it has at most 63 letters, digits, -, _ and ., a letter or digit at its ends",
        )
    return value


def label_key(key: str, where: str) -> None:
    """A label's key: a name, with a DNS name and a slash before it or not."""
    prefix, slash, name = key.rpartition("/")
    good = _LABEL_NAME.fullmatch(name) is not None and (
        not slash
        or (len(prefix) <= 253 and all(_LABEL.fullmatch(part) for part in prefix.split(".")))
    )
    if not good:
        raise invalid(
            where,
            f"{shown(key)} is not a label's key",
            why="it is [dns.name/]name; the name has 1 to 63 letters, digits, -, _ and .",
        )


def address(value: str, where: str) -> Address:
    """An address without zone or prefix."""
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        raise invalid(where, f"{shown(value)} is not an IP address") from None
    if "%" in value:
        raise invalid(where, f"{shown(value)} has a zone")
    return parsed


def interface(value: str, where: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    """An address with its prefix length."""
    try:
        parsed = ipaddress.ip_interface(value)
    except ValueError:
        raise invalid(where, f"{shown(value)} is not an address with a prefix length") from None
    if "%" in value or "/" not in value:
        raise invalid(where, f"{shown(value)} is not an address with a prefix length")
    return parsed


def cidr(value: str, where: str, *, code: str = "PLAIT-NET-004") -> Cidr:
    """A CIDR with no host bits set; a bare address is its own /32 or /128."""
    if "%" in value:
        raise PlaitError(
            code, f"{shown(value)} is not a valid CIDR", where=where, why="it has a zone"
        )
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        try:
            fix: tuple[str, ...] = (f"use {ipaddress.ip_network(value, strict=False)}",)
            why = "it has bits set beyond its prefix length"
        except ValueError:
            fix, why = (), "it is neither IPv4 nor IPv6"
        raise PlaitError(
            code, f"{shown(value)} is not a valid CIDR", where=where, why=why, fix=fix
        ) from None
