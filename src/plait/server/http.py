"""Reading requests and writing answers: the limits, the queries, the problem form."""

from __future__ import annotations

import asyncio
import difflib
import re
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from plait.model.errors import PlaitError
from plait.model.objects import KINDS, PLURALS, Object
from plait.model.syntax import printable
from plait.server.config import Config

T = TypeVar("T")

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
MAX_PATH: Final = 1024

_encode = msgspec.json.Encoder().encode
_UNKNOWN_KIND: Final = re.compile(r"Invalid value '(.{0,80})' - at `\$.*kind`")


def answer(value: object, status: int = 200) -> web.Response:
    """A JSON answer; bytes are JSON already."""
    body = value if isinstance(value, bytes) else _encode(value)
    return web.Response(body=body, status=status, content_type=JSON, headers=HEADERS)


def problem(error: PlaitError) -> web.Response:
    """An error in the form of RFC 9457."""
    response = web.Response(
        body=_encode(error.problem()), status=error.status, content_type=PROBLEM, headers=HEADERS
    )
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    elif error.status in (429, 503):
        response.headers["Retry-After"] = "1"
    if error.status in (408, 413):
        response.force_close()  # What remains of the body is not read.
    return response


def check_length(request: web.Request, config: Config) -> None:
    """Refuse a body by what its header says, before a byte of it is read."""
    if (request.content_length or 0) > config.max_body:
        raise too_large(config)


def too_large(config: Config) -> PlaitError:
    """PLAIT-API-007."""
    return PlaitError("PLAIT-API-007", f"a body has at most {config.max_body} bytes")


async def read(request: web.Request, decoder: msgspec.json.Decoder[T], config: Config) -> T:
    """The body, decoded and checked against its type."""
    check_length(request, config)
    if request.content_type != JSON:
        raise PlaitError("PLAIT-API-015", f"a body is {JSON}")
    if "Content-Encoding" in request.headers:
        raise PlaitError("PLAIT-API-015", "a body is not compressed")
    try:
        async with asyncio.timeout(config.body_timeout):
            body = await request.read()
    except TimeoutError:
        raise PlaitError(
            "PLAIT-API-017", f"the body did not come within {config.body_timeout:g} s"
        ) from None
    except web.HTTPRequestEntityTooLarge:
        raise too_large(config) from None
    return decode(body, decoder)


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Typed JSON, or PLAIT-API-001, -002 or -003."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message = str(error)
        unknown = _UNKNOWN_KIND.fullmatch(message)
        if unknown is not None and unknown[1] not in KINDS:
            raise no_such_kind(unknown[1], KINDS) from None
        detail, _, where = message.partition(" - at `")
        raise PlaitError(
            "PLAIT-API-002",
            printable(detail[:1].lower() + detail[1:512]),
            where=printable(where.rstrip("`").removeprefix("$.")[:256]),
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlaitError("PLAIT-API-001", "the body is not valid JSON", why=str(error)) from None


def no_such_kind(name: str, known: dict[str, type[Object]]) -> PlaitError:
    """PLAIT-API-003, with the nearest one that there is."""
    shown = ascii(name[:80])
    near = difflib.get_close_matches(name[:80], known, 1)
    hint = (f"use {near[0]}",) if near else ()
    return PlaitError(
        "PLAIT-API-003", f"there is no kind {shown}", why="there are " + ", ".join(known), fix=hint
    )


def kind_of(request: web.Request) -> type[Object]:
    """The kind that the path names; PLAIT-API-003 when there is none."""
    plural = request.match_info["plural"]
    kind = PLURALS.get(plural)
    if kind is None:
        raise no_such_kind(plural, PLURALS)
    scoped = "namespace" in request.match_info
    if scoped and not kind.namespaced:
        raise PlaitError("PLAIT-API-014", f"{kind.plural} belong to no namespace")
    if kind.namespaced and not scoped and "name" in request.match_info:
        raise PlaitError(
            "PLAIT-API-014",
            f"{kind.plural} belong to a namespace",
            fix=(f"use /v1/namespaces/NAMESPACE/{kind.plural}/NAME",),
        )
    return kind


class Query:
    """The query of a request: each name once, and no name that is not known."""

    def __init__(self, request: web.Request, *names: str) -> None:
        self._values: dict[str, str] = {}
        for name, value in request.query.items():
            if name not in names or name in self._values:
                known = ", ".join(names) or "none"
                raise PlaitError(
                    "PLAIT-API-002",
                    f"the query has {name[:40]!a}, or has it twice",
                    why=f"known are {known}",
                )
            self._values[name] = value

    @property
    def values(self) -> dict[str, str]:
        """Every value, by name."""
        return dict(self._values)

    def flag(self, name: str) -> bool:
        """`true` or `false`; false when absent."""
        value = self._values.get(name, "false")
        if value not in ("true", "false"):
            raise PlaitError("PLAIT-API-002", f"{name} is true or false", where=name)
        return value == "true"

    def number(self, name: str) -> int:
        """A whole number from 0 to 2^63 - 1; 0 when absent."""
        value = self._values.get(name, "0")
        if not (value.isascii() and value.isdigit() and len(value) <= 19):
            raise PlaitError("PLAIT-API-002", f"{name} is a whole number", where=name)
        number = int(value)
        if number >= 1 << 63:
            raise PlaitError("PLAIT-API-002", f"{name} is too large", where=name)
        return number

    def text(self, name: str) -> str:
        """Any text; empty when absent."""
        return self._values.get(name, "")


def from_http(error: web.HTTPException, request: web.Request) -> PlaitError:
    """What aiohttp refuses, in our form."""
    if error.status == 404:
        return PlaitError("PLAIT-API-014", f"there is no path {request.path[:200]!a}")
    if error.status == 405:
        allowed = error.headers.get("Allow", "")
        return PlaitError(
            "PLAIT-API-010", f"{request.method[:20]} is not allowed here", why=f"allowed: {allowed}"
        )
    if error.status == 413:
        return PlaitError("PLAIT-API-007", "the body is too large")
    return PlaitError("PLAIT-API-001", f"the request is not valid: {error.reason}")


def quote(value: Any) -> str:
    """A value for a log: printable and short."""
    return ascii(value)[:200]
