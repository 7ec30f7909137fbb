"""Trust on the command line: enrol this host's node, and know a remote server by its token."""

from __future__ import annotations

from pathlib import Path

from plait.client import enrol
from plait.model.errors import PlaitError


async def enrol_node(server: str, token: str, name: str, directory: Path) -> None:
    """Get this host's node its certificate; its identity is kept when it has one already."""
    await enrol.enrol(server, token, name, directory)


def must_enrol(directory: Path, now: float) -> bool:
    """Whether the node has no certificate that is still good; `now` is Unix time.

    A host that was off for longer than its certificate lives has to show a token again.
    """
    try:
        return now >= enrol.validity(directory / enrol.CERT_FILE)[1]
    except (OSError, ValueError):
        return True


async def pinned_ca(server: str, token: str, config_file: Path) -> Path:
    """The certificate of the authority that a token pins, fetched once and kept beside the
    user's configuration. PLAIT-AUTH-005 when the server shows another one."""
    digest = enrol.pinned_hash(token)
    path = config_file.parent / f"ca-{digest[:16]}.crt"
    if not path.exists():
        pem = await enrol.fetch_ca(server, token)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = path.with_suffix(".new")
            new.write_text(pem)
            new.replace(path)
        except OSError as error:
            raise PlaitError(
                "PLAIT-CLI-002",
                "the server's certificate cannot be kept",
                where=str(path),
                why=str(error),
                fix=("export PLAIT_CA_FILE=FILE",),
            ) from None
    return path
