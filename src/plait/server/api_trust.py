"""Routes about who belongs to the network: certificates, tokens, and nodes that are forgotten."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

from plait.model import syntax
from plait.model.errors import PlaitError
from plait.server import http, pools
from plait.server.clock import rfc3339
from plait.server.route import Call, check_version
from plait.server.service import Service
from plait.wire import api as wire

_enrol: Final = msgspec.json.Decoder(wire.EnrolRequest)
_renew: Final = msgspec.json.Decoder(wire.RenewRequest)
_token: Final = msgspec.json.Decoder(wire.TokenRequest)


async def enrol(call: Call) -> web.Response:
    """A joining node gets its certificate for a token."""
    service = call.service
    request = await http.read(call.request, _enrol, service.config)
    check_version(call.request, service.version)
    syntax.dns_label(request.name, "name")
    syntax.uid(request.uid, "uid")
    if not 32 <= len(request.secret) <= 256:
        raise PlaitError(
            "PLAIT-API-002", "a node's secret has 32 to 256 characters", where="secret"
        )
    # Signed before the token is used up, so that a bad request costs no token.
    certificate, expires = service.authority.sign_node(request.csr, request.name, request.uid)
    await service.trust.admit_node(call.actor, request)
    return http.answer(_enrolled(service, certificate, expires), 201)


async def renew(call: Call) -> web.Response:
    """A node gets its next certificate for its present one."""
    request = await http.read(call.request, _renew, call.service.config)
    certificate, expires = call.service.authority.sign_node(
        request.csr, call.actor.name, call.actor.uid
    )
    return http.answer(_enrolled(call.service, certificate, expires))


def _enrolled(service: Service, certificate: str, expires: float) -> wire.Enrolled:
    return wire.Enrolled(
        certificate=certificate, authority=service.authority.pem, expires_at=rfc3339(expires)
    )


async def list_pools(call: Call) -> web.Response:
    """What a joining host must not use for anything else."""
    return http.answer(wire.PoolList(items=tuple(pools.in_use(call.service.mirror.state))))


async def list_tokens(call: Call) -> web.Response:
    """All tokens, without their secrets."""
    trust, hub = call.service.trust, call.service.hub
    items = (
        msgspec.structs.replace(info, in_use=hub.watched_by(info.id, info.role))
        for info in trust.tokens()
    )
    return http.answer(wire.TokenList(items=tuple(items)))


async def create_token(call: Call) -> web.Response:
    """A new token; its secret is shown this once."""
    request = await http.read(call.request, _token, call.service.config)
    return http.answer(await call.service.trust.create_token(request), 201)


async def revoke_token(call: Call) -> web.Response:
    """End a token."""
    await call.service.trust.revoke_token(call.request.match_info["id"])
    return http.answer(b"{}")


async def forget_node(call: Call) -> web.Response:
    """Take a lost node out, with its endpoints, blocks and loans."""
    query = http.Query(call.request, "force", "dryRun")
    name = call.request.match_info["name"]
    return http.answer(
        await call.service.forgetter.forget(
            call.actor,
            name,
            heard=call.service.heard(name),
            force=query.flag("force"),
            dry_run=query.flag("dryRun"),
        )
    )
