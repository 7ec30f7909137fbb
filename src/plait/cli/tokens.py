"""`plait token`: invitations for hosts, keys for remote command lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from plait.cli.frame import Group
from plait.cli.options import Duration, dry_run_option, json_option

if TYPE_CHECKING:
    from plait.wire.api import Role

USES: Final[dict[Role, str]] = {
    "join": "plait join {} --token TOKEN",
    "admin": "export PLAIT_SERVER=https://{} PLAIT_TOKEN=TOKEN",
    "connector": "plait kubernetes run --server https://{} --token TOKEN",
}
"""What one does with a token of a role; the server's address goes in."""


@click.group(cls=Group, examples=["plait token create", "plait token ls"])
def token() -> None:
    """Tokens: invitations for hosts, and keys for remote command lines."""


@token.command(
    examples=[
        "plait token create",
        "plait token create --ttl 15m --single-use",
        "plait token create --role admin --description laptop",
        "plait token create --role connector --ttl 365d --description kubernetes",
    ]
)
@click.option(
    "--role",
    type=click.Choice(list(USES)),
    default="join",
    show_default=True,
    help="join: a host may join; admin: all that root may; connector: read all, and write what "
    "Kubernetes says.",
)
@click.option("--ttl", type=Duration(), default="24h", show_default=True, help="90s, 30m, 24h, 7d.")
@click.option("--single-use", is_flag=True, help="Good for one host.")
@click.option("--description", default="", help="A note for `plait token ls`.")
@dry_run_option
@json_option
def create(
    role: Role, ttl: float, single_use: bool, description: str, dry_run: bool, as_json: bool
) -> None:
    """Create a token and print it; it is shown this once."""
    from plait.cli import connect, output
    from plait.wire.api import TokenCreated, TokenRequest

    request = TokenRequest(
        role=role,
        ttl=ttl,
        single_use=single_use,
        description=description,
    )
    if dry_run:
        output.good(f"a {role} token for {ttl:.0f} seconds would be created")
        return

    async def work() -> tuple[TokenCreated, str]:
        async with connect.api() as client:
            return await client.create_token(request), await connect.server_address(client)

    made, address = connect.wait_for(work())
    if as_json:
        output.json_out(made)
        return
    output.say(made.token)
    use = USES[role].format(address)
    output.say(f"good until {made.info.expires_at}; use: {use}", err=True)


@token.command("ls", examples=["plait token ls", "plait token ls --json"])
@json_option
def list_(as_json: bool) -> None:
    """List tokens, without their secrets."""
    from plait.cli import connect, output

    async def ask() -> Any:
        async with connect.api() as client:
            return await client.tokens()

    found = connect.wait_for(ask())
    if as_json:
        output.json_out({"kind": "List", "items": found})
        return
    rows = [
        [
            info.id,
            info.role,
            "expired" if info.expired else info.expires_at,
            "once" if info.single_use else "many times",
            "now" if info.in_use else "",
            info.description,
        ]
        for info in found
    ]
    columns = ["id", "role", "until", "use", "in use", "description"]
    output.table(columns, rows, empty="there is no token")


@token.command(examples=["plait token rm 3f2a91c04d7e8b16"])
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@dry_run_option
def rm(ids: tuple[str, ...], dry_run: bool) -> None:
    """Revoke tokens by their ids.

    Hosts that joined with one stay; `plait node forget` removes a host.
    """
    from plait.cli import connect, output
    from plait.model.errors import PlaitError

    async def work() -> None:
        async with connect.api() as client:
            known = {info.id for info in await client.tokens()}
            for ident in ids:
                if ident not in known:
                    raise PlaitError(
                        "PLAIT-API-004", f"there is no token `{ident}`", fix=("plait token ls",)
                    )
                if not dry_run:
                    await client.revoke_token(ident)
                output.good(f"token {ident} {'would be revoked' if dry_run else 'revoked'}")

    connect.wait_for(work())
