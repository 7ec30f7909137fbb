"""`plait cni`: put the plugin where container runtimes look for it, and take it away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from plait.cli.frame import Group
from plait.cli.options import F, dry_run_option, json_option

if TYPE_CHECKING:
    from plait.client.agent import LocalEndpoint
    from plait.cni.install import Places

PATIENCE: Final = 5.0
"""Seconds in which the agent must become ready."""
DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)


@click.group(cls=Group, examples=["plait cni install", "plait cni install --kubernetes"])
def cni() -> None:
    """The CNI plugin, for containerd, podman and Kubernetes."""


def place_options(function: F) -> F:
    """Where the files are."""
    for option in (
        click.option("--name", default="plait", show_default=True, help="Of the configuration."),
        click.option(
            "--conf-dir", type=DIRECTORY, metavar="DIR", help="Configurations [/etc/cni/net.d]."
        ),
        click.option("--bin-dir", type=DIRECTORY, metavar="DIR", help="Plugins [/opt/cni/bin]."),
    ):
        option(function)
    return function


@cni.command(
    examples=[
        "plait cni install",
        "plait cni install --network shop --name shop",
        "plait cni install --kubernetes --deadline 60",
    ]
)
@click.option("--network", default="plait", show_default=True, help="Network that containers join.")
@click.option("--kubernetes", is_flag=True, help="Names and labels are those of Kubernetes' pods.")
@click.option(
    "--deadline",
    type=click.IntRange(1, 100),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="In which a container must be connected.",
)
@place_options
@dry_run_option
def install(
    network: str,
    kubernetes: bool,
    deadline: int,
    bin_dir: Path | None,
    conf_dir: Path | None,
    name: str,
    dry_run: bool,
) -> None:
    """Install the CNI plugin and a configuration that uses it.

    The configuration comes last, once the agent answers: with it, runtimes begin to call. Run it
    again to change it.
    """
    from plait.cli import connect, lifecycle, output
    from plait.cni import conflist
    from plait.cni import install as installing

    lifecycle.require_root("plait cni install")
    paths = connect.paths()
    identity: Literal["kubernetes", "runtime"] = "kubernetes" if kubernetes else "runtime"
    choices = conflist.Choices(name, network, identity, deadline)
    conflist.check(choices)
    at = installing.places(paths, name, bin_dir, conf_dir)
    installing.refuse_foreign(at)
    if dry_run:
        output.good(f"{at.shim} and {at.conflist} would be written")
        return
    shim = installing.read_shim()
    _wait_until_ready()
    installing.remember(paths, at)
    _say(installing.put(at.shim, shim, 0o755), at.shim)
    _say(installing.put(at.conflist, conflist.render(choices).encode(), 0o644), at.conflist)
    _warn_of_others(at, kubernetes=kubernetes)
    _warn_of_no_network(network)


def _say(written: bool, path: Path) -> None:
    from plait.cli import output

    output.good(f"{path} {'written' if written else 'is as it should be'}")


def _warn_of_others(at: Places, *, kubernetes: bool) -> None:
    from plait.cli import connect, output
    from plait.cni import install as installing

    before = installing.look(connect.paths(), at).before
    if kubernetes and not at.shim.with_name("loopback").exists():
        output.warn(f"{at.shim.parent} lacks the plugin `loopback`")
        output.say("    why: containerd starts no pod without it", err=True)
        output.say("    fix: apt-get install containernetworking-plugins", err=True)
        output.say(f"     or: ln -s /usr/lib/cni/loopback {at.shim.parent}/", err=True)
    if before:
        output.warn(f"{before[0]} comes before {at.conflist.name}")
        output.say(
            "    why: containerd and Kubernetes use the first file of the directory", err=True
        )
        first = at.conflist.with_name(before[0])
        output.say(f"    fix: mv {first} {first}.before-plait", err=True)


def _wait_until_ready() -> None:
    """PLAIT-AGENT-001 or 008 when the agent is not ready in time."""
    from plait.cli import connect
    from plait.client.polling import poll
    from plait.model.errors import PlaitError

    refusals: list[PlaitError] = []

    def ready() -> bool:
        try:
            return connect.wait_for(connect.agent().status()).ready
        except PlaitError as error:
            refusals[:] = [error]
            return False

    if poll(ready, seconds=PATIENCE):
        return
    if refusals:
        raise refusals[0]
    raise PlaitError(
        "PLAIT-AGENT-008",
        f"the agent did not become ready within {PATIENCE:g} s",
        fix=("plait status",),
    )


def _warn_of_no_network(name: str) -> None:
    """It may be made later; while the server is away nobody can say."""
    from plait.cli import connect, output
    from plait.model.errors import PlaitError
    from plait.model.objects import Network

    async def look() -> None:
        async with connect.api() as client:
            await client.get(Network, name)

    try:
        connect.wait_for(look())
    except PlaitError as error:
        if error.code == "PLAIT-API-004":
            output.warn(f"there is no network {name}: no container can join it")
            output.say(f"    fix: plait network create {name}", err=True)


@cni.command(examples=["plait cni uninstall", "plait cni uninstall --force"])
@click.option("--force", is_flag=True, help="Also while containers are attached.")
@place_options
@dry_run_option
def uninstall(
    force: bool, bin_dir: Path | None, conf_dir: Path | None, name: str, dry_run: bool
) -> None:
    """Take the configuration and the plugin away.

    Refused while containers are attached: their runtime needs both to remove them.
    """
    from plait.cli import connect, lifecycle, output
    from plait.cni import install as installing

    lifecycle.require_root("plait cni uninstall")
    paths = connect.paths()
    at = installing.places(paths, name, bin_dir, conf_dir)
    attached = [] if force else _attached()
    _refuse_attached(attached, name)
    if dry_run:
        output.good(f"{at.conflist} and {at.shim} would be removed")
        return
    removed = installing.remove_conflist(at)
    if at.conflist.exists():
        output.warn(f"{at.conflist} stays: it is not of Plait")
    else:
        output.good(f"{at.conflist} {'removed' if removed else 'is not there'}")
    if attached:
        output.say(f"{at.shim} stays: containers of other configurations are attached")
        return
    said = "removed" if installing.remove_shim(paths, at) else "is not there, or used by others"
    output.good(f"{at.shim} {said}")


def _refuse_attached(attached: list[LocalEndpoint] | None, name: str) -> None:
    """PLAIT-API-011 while containers of that configuration are, or may be, attached: containerd
    deletes no pod without one ("cni plugin not initialized")."""
    from plait.cni.attachment import prefix
    from plait.model.errors import PlaitError

    if attached is None:
        what = "the agent does not say whether containers are attached"
    elif many := sum(1 for one in attached if one.request.id.startswith(prefix(name))):
        what = f"attached through {name}: {many} container{'' if many == 1 else 's'}"
    else:
        return
    raise PlaitError(
        "PLAIT-API-011",
        what,
        why="their runtime removes them with the plugin and its configuration",
        fix=("plait ps", f"plait cni uninstall --name {name} --force"),
    )


def _missing(path: Path) -> str:
    return f"{path} is not of Plait" if path.exists() else f"not in {path.parent}"


def _attached() -> list[LocalEndpoint] | None:
    """Endpoints of CNI; None when there is an agent that does not say."""
    from plait.cli import connect
    from plait.model.errors import PlaitError

    try:
        found = connect.wait_for(connect.agent().endpoints())
    except PlaitError:
        return None if connect.paths().agent_config.exists() else []
    return [endpoint for endpoint in found if endpoint.request.workload.runtime == "cni"]


@cni.command(examples=["plait cni status", "plait cni status --json"])
@place_options
@json_option
def status(bin_dir: Path | None, conf_dir: Path | None, name: str, as_json: bool) -> None:
    """Show whether the plugin is installed, and what uses it."""
    from plait.cli import connect, output
    from plait.cni import install as installing

    paths = connect.paths()
    at = installing.places(paths, name, bin_dir, conf_dir)
    found = installing.look(paths, at)
    attached = _attached()
    if as_json:
        count = None if attached is None else len(attached)
        output.json_out({"installed": found, "attached": count})
        return
    old = "" if found.current or not found.shim else " (of another version: plait cni install)"
    output.facts(
        [
            ("plugin", f"{found.shim}{old}" if found.shim else _missing(at.shim)),
            ("configuration", found.conflist or _missing(at.conflist)),
            ("network", found.network),
            ("identity", found.identity),
            ("comes after", ", ".join(found.before)),
            ("attached", "the agent does not answer" if attached is None else str(len(attached))),
            ("DELs that wait", str(found.kept)),
        ]
    )
