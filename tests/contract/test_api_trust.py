"""Who may do what, and who is believed: the real server over TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from plait.client import enrol
from plait.client.api import ApiClient
from plait.client.base import BatchOp
from plait.model.errors import PlaitError
from plait.model.objects import (
    KINDS,
    ORIGIN,
    AddressBlock,
    AddressBlockSpec,
    Cluster,
    Endpoint,
    EndpointSlice,
    EndpointSpec,
    Group,
    Loan,
    Metadata,
    Namespace,
    Network,
    NetworkSpec,
    Node,
    Object,
    Pod,
    Policy,
    Service,
    block_name,
    encode,
)
from plait.model.policies import GroupSpec
from plait.model.services import EndpointSliceSpec, ServicePort, ServiceSpec
from plait.server.api import ROUTES
from plait.server.route import Route
from plait.server.server import Server
from plait.wire.api import SERVER_NAME, EnrolRequest, TokenRequest

if TYPE_CHECKING:
    from tests.contract.conftest import Rig

pytestmark = pytest.mark.parametrize("rig", ["memory"], indirect=True)

SAMPLES: dict[type[Object], Object] = {
    Cluster: Cluster(metadata=Metadata(name="plait")),
    Namespace: Namespace(metadata=Metadata(name="prod")),
    Node: Node(metadata=Metadata(name="h2")),
    Network: Network(metadata=Metadata(name="shared"), spec=NetworkSpec(internal=True)),
    AddressBlock: AddressBlock(
        metadata=Metadata(name=block_name("plait", "10.112.0.64/26")),
        spec=AddressBlockSpec(network="plait", cidr="10.112.0.64/26", node="h2"),
    ),
    Endpoint: Endpoint(
        metadata=Metadata(name="abc", namespace="default"),
        spec=EndpointSpec(node="h2", network="plait"),
    ),
    Pod: Pod(metadata=Metadata(name="web-5d8f", namespace="default")),
    Service: Service(
        metadata=Metadata(name="web", namespace="default"),
        spec=ServiceSpec(addresses=("192.0.2.80",), ports=(ServicePort(port=80),)),
    ),
    EndpointSlice: EndpointSlice(
        metadata=Metadata(name="web-abc", namespace="default"),
        spec=EndpointSliceSpec(service="web"),
    ),
    Group: Group(metadata=Metadata(name="office"), spec=GroupSpec(cidrs=("192.0.2.0/24",))),
    Policy: Policy(metadata=Metadata(name="knp.default.web")),
}
"""An object of each kind that does not belong to node h1."""


def paths(route: Route) -> list[tuple[str, type[Object] | None]]:
    """A route's concrete paths, for the samples."""
    if "{plural}" not in route.path:
        return [(route.path.replace("{name}", "h2").replace("{id}", "0" * 16), None)]
    return [
        (
            route.path.replace("{plural}", kind.plural)
            .replace("{namespace}", "default")
            .replace("{name}", SAMPLES[kind].metadata.name),
            kind,
        )
        for kind in KINDS.values()
        if kind.namespaced == ("{namespace}" in route.path)
    ]


def body_of(route: Route, kind: type[Object] | None) -> bytes | None:
    if route.body is None:
        return None
    if kind is not None:
        return encode(SAMPLES[kind])
    if route.path == "/v1/batch":
        op = BatchOp(verb="update", object=SAMPLES[Cluster])  # type: ignore[arg-type]
        return msgspec.json.encode({"ops": [op]})
    return b"{}"


async def ask(
    client: ApiClient, method: str, path: str, body: bytes | None = None
) -> tuple[int, str]:
    """Status and code."""
    try:
        await client._request(method, path, body=body)
    except PlaitError as error:
        return error.status, error.code
    return 200, ""


async def refused(code: str, work: Any) -> PlaitError:
    with pytest.raises(PlaitError) as caught:
        await work
    assert caught.value.code == code, caught.value.render()
    return caught.value


@pytest.fixture
async def anonymous(rig: Rig, server: Server) -> ApiClient:
    return rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file))


@pytest.fixture
async def h1(rig: Rig, server: Server) -> ApiClient:
    return await rig.node(server, "h1")


# Nothing is anonymous


async def test_without_credentials_only_health_and_the_authority_answer(
    rig: Rig, anonymous: ApiClient
) -> None:
    open_paths = set()
    for route in ROUTES:
        for path, kind in paths(route):
            status, code = await ask(anonymous, route.method, path, body_of(route, kind))
            if status == 200:
                open_paths.add(path)
            else:
                assert (status, code) == (401, "PLAIT-AUTH-001"), path
    assert open_paths == {"/healthz", "/readyz", "/cacerts"}
    for path in ("/", "/v1", "/nothing", "/v1/nothing/at/all/here", "/v1/%2e%2e/x"):
        assert (await ask(anonymous, "GET", path))[0] == 401, path


async def test_what_openapi_names_is_what_is_refused(
    rig: Rig, server: Server, anonymous: ApiClient
) -> None:
    document = msgspec.json.decode(server.api.description)
    assert len(document["paths"]) > 20
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            concrete = path.replace("{", "").replace("}", "")
            status, _ = await ask(anonymous, method.upper(), concrete)
            assert status == (200 if operation.get("security") == [] else 401), path


# The node authorizer


async def test_a_node_writes_nothing_that_is_not_its_own(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    admin = rig.admin(server)
    for kind, sample in SAMPLES.items():
        if kind is not Cluster:
            await admin.create(sample)
    before = rig.store.revision
    tried = 0
    for route in ROUTES:
        if not route.writes or route.path == "/v1/renew":
            continue
        for path, kind in paths(route):
            if kind is Network and route.method in ("POST", "DELETE"):
                continue  # Docker creates and removes networks; see below.
            status, code = await ask(h1, route.method, path, body_of(route, kind))
            assert (status, code) == (403, "PLAIT-AUTH-006"), f"{route.method} {path}"
            tried += 1
    assert tried > 20
    assert rig.store.revision == before


async def test_a_node_reads_everything_but_tokens(rig: Rig, server: Server, h1: ApiClient) -> None:
    for kind in KINDS.values():
        await h1.list(kind)
    error = await refused("PLAIT-AUTH-006", h1.tokens())
    assert "may not GET /v1/tokens" in error.detail


async def test_a_refusal_names_the_path_that_was_asked(rig: Rig, server: Server) -> None:
    token = await rig.token(server)
    joiner = rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file, token=token))
    error = await refused("PLAIT-AUTH-002", joiner.list(Network))
    assert error.detail == "a join token may not GET /v1/networks"
    assert error.fix[0].startswith("plait token create --role admin")


async def test_a_node_creates_networks_and_removes_those_without_endpoints(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    made = await h1.create(Network(metadata=Metadata(name="dev")))
    changed = msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, internal=True))
    await refused("PLAIT-AUTH-006", h1.update(changed))
    await h1.create(
        Endpoint(metadata=Metadata(name="e"), spec=EndpointSpec(node="h1", network="dev"))
    )
    await refused("PLAIT-API-011", h1.delete(Network, "dev"))
    await h1.delete(Endpoint, "e")
    await h1.delete(Network, "dev")


async def test_an_endpoint_does_not_change_hands(rig: Rig, server: Server, h1: ApiClient) -> None:
    h2 = await rig.node(server, "h2")
    mine = Endpoint(metadata=Metadata(name="e"), spec=EndpointSpec(node="h1", network="plait"))
    await h1.create(mine)
    theirs = msgspec.structs.replace(mine, spec=EndpointSpec(node="h2", network="plait"))
    await refused("PLAIT-AUTH-006", h2.update(theirs))
    await refused("PLAIT-AUTH-006", h1.update(theirs))
    await refused("PLAIT-AUTH-006", h2.delete(Endpoint, "e"))


async def test_a_node_claims_no_address_of_anothers_block(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    h2 = await rig.node(server, "h2")
    cidr = "10.112.0.64/26"
    name = block_name("plait", cidr)

    def held(*loans: Loan) -> AddressBlock:
        return AddressBlock(
            metadata=Metadata(name=name),
            spec=AddressBlockSpec(network="plait", cidr=cidr, node="h2", loans=loans),
        )

    thief = Endpoint(
        metadata=Metadata(name="e"),
        spec=EndpointSpec(node="h1", network="plait", addresses=("10.112.0.70",)),
    )
    await h2.create(held())
    await refused("PLAIT-AUTH-006", h1.create(thief))
    asked = Loan(address="10.112.0.70", node="h1")
    granted = Loan(address="10.112.0.70", node="h1", state="granted")
    await refused("PLAIT-AUTH-006", h1.update(held(granted)))
    await h1.update(held(asked))
    await refused("PLAIT-AUTH-006", h1.create(thief))
    await h2.update(held(granted))
    await h1.create(thief)
    await refused("PLAIT-AUTH-006", h2.update(held()))
    await h1.update(held())


async def test_a_node_writes_its_own_node_and_is_seen(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    rig.time.ahead += 100
    before = await h1.get(Node, "h1")
    after = await h1.update(before)
    assert after.status.last_seen > before.status.last_seen
    assert after.metadata.uid == enrol.read_identity(rig.path / "h1").uid  # type: ignore[union-attr]


# Tokens


async def test_an_admin_token_administers(rig: Rig, server: Server) -> None:
    token = await rig.token(server, role="admin")
    remote = rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file, token=token))
    await remote.create(Namespace(metadata=Metadata(name="prod")))
    infos = await remote.tokens()
    assert [info.role for info in infos] == ["admin"]
    secret = token.rsplit(".", 1)[1]
    assert secret not in msgspec.json.encode(infos).decode()
    for value, _ in server.service.mirror.state.records.values():
        assert secret.encode() not in value
    await remote.revoke_token(infos[0].id)
    await refused("PLAIT-AUTH-003", remote.tokens())


async def test_a_connector_writes_what_carries_its_mark_and_nothing_else(
    rig: Rig, server: Server
) -> None:
    admin = rig.admin(server)
    token = await rig.token(server, role="connector")
    connector = rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file, token=token))
    marked = {ORIGIN: "kubernetes"}

    def its(sample: Object) -> Any:
        metadata = msgspec.structs.replace(sample.metadata, annotations=marked)
        return msgspec.structs.replace(sample, metadata=metadata)

    own: tuple[type[Object], ...] = (Namespace, Pod, Service, EndpointSlice, Policy, Group)
    for kind in own:
        made = await connector.create(its(SAMPLES[kind]))
        await connector.update(made)
        if kind is not Namespace:
            await refused("PLAIT-AUTH-002", connector.update(SAMPLES[kind]))
        await connector.delete(kind, made.metadata.name, made.metadata.namespace)
    for kind, sample in SAMPLES.items():
        if kind not in own:
            await refused("PLAIT-AUTH-002", connector.update(its(sample)))
        if kind is not Cluster:
            await admin.create(sample)
        name, namespace = sample.metadata.name, sample.metadata.namespace
        await refused("PLAIT-AUTH-002", connector.delete(kind, name, namespace))
        await connector.list(kind)
    await refused("PLAIT-AUTH-002", connector.tokens())
    await refused("PLAIT-AUTH-002", connector.forget_node("h2", force=True))


async def test_a_connector_learns_when_its_token_ends_and_takes_up_the_next_one_from_its_file(
    rig: Rig, server: Server
) -> None:
    admin = rig.admin(server)
    request = TokenRequest(role="connector", ttl=7200.0)
    first = await admin.create_token(request)
    file = rig.path / "token"
    file.write_text(first.token + "\n")
    connector = rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file, token_file=file))
    stream = connector.watch([Network])
    events = aiter(stream)

    async def until(word: str) -> None:
        async with asyncio.timeout(10):
            while (await anext(events)).type != word:
                pass

    await until("synced")
    assert connector.expires == pytest.approx(rig.time.now() + 7200, abs=60)
    assert [(info.id, info.in_use) for info in await admin.tokens()] == [(first.info.id, True)]
    rig.time.ahead += 3600
    second = await admin.create_token(request)
    new = file.with_suffix(".new")
    new.write_text(second.token)
    new.replace(file)
    # What is sent is known by the new one at once; the watch, when the old one ends.
    await connector.list(Network)
    rig.time.ahead += 3660
    await until("disconnected")
    await until("bookmark")
    assert connector.expires == pytest.approx(rig.time.now() + 3540, abs=60)
    used = {info.id: info.in_use for info in await admin.tokens()}
    assert used == {first.info.id: False, second.info.id: True}
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_connector_labels_nodes_and_namespaces_of_others(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    token = await rig.token(server, role="connector")
    connector = rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file, token=token))
    kinds: tuple[tuple[type[Object], str], ...] = ((Node, "h1"), (Namespace, "default"))
    for kind, name in kinds:
        found = await connector.get(kind, name)
        metadata = msgspec.structs.replace(found.metadata, labels={"zone": "b"})
        await connector.update(msgspec.structs.replace(found, metadata=metadata))
        assert (await connector.get(kind, name)).metadata.labels == {"zone": "b"}
    node = await connector.get(Node, "h1")
    changed = msgspec.structs.replace(node, spec=msgspec.structs.replace(node.spec, mtu=1400))
    await refused("PLAIT-AUTH-002", connector.update(changed))


async def test_a_join_token_is_good_for_enrolment_only(rig: Rig, server: Server) -> None:
    token = await rig.token(server)
    joiner = rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file, token=token))
    for route in ROUTES:
        if route.access in ("public", "join"):
            continue
        for path, kind in paths(route):
            status, code = await ask(joiner, route.method, path, body_of(route, kind))
            assert (status, code) == (403, "PLAIT-AUTH-002"), path


async def test_expired_wrong_short_and_used_tokens_are_refused(rig: Rig, server: Server) -> None:
    url = rig.url(server)
    token = await rig.token(server, ttl=60.0)
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    await refused("PLAIT-AUTH-003", enrol.enrol(url, wrong, "h1", rig.path / "h1"))
    await refused("PLAIT-AUTH-003", enrol.enrol(url, token[:-20], "h1", rig.path / "h1"))
    await refused("PLAIT-AUTH-003", enrol.enrol(url, "hello", "h1", rig.path / "h1"))
    rig.time.ahead += 61
    error = await refused("PLAIT-AUTH-004", enrol.enrol(url, token, "h1", rig.path / "h1"))
    assert error.fix == ("plait token create",)
    assert not (rig.path / "h1/node.crt").exists()
    once = await rig.token(server, single_use=True)
    await enrol.enrol(url, once, "h1", rig.path / "h1")
    await refused("PLAIT-AUTH-003", enrol.enrol(url, once, "h2", rig.path / "h2"))


async def test_a_single_use_token_admits_one_of_many(rig: Rig, server: Server) -> None:
    once = await rig.token(server, single_use=True)
    outcomes = await asyncio.gather(
        *(enrol.enrol(rig.url(server), once, f"h{i}", rig.path / f"h{i}") for i in range(5)),
        return_exceptions=True,
    )
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1


@pytest.mark.parametrize(
    "request_", [{"ttl": 1.0}, {"ttl": 1e12}, {"ttl": float("nan")}, {"description": "a\nb"}]
)
async def test_a_token_has_sensible_settings(
    rig: Rig, server: Server, request_: dict[str, Any]
) -> None:
    work = rig.admin(server).create_token(TokenRequest(**request_))
    with pytest.raises(PlaitError) as caught:
        await work
    assert caught.value.status in (400, 422)


# Enrolment


async def test_a_token_of_another_authority_reveals_nothing(rig: Rig, server: Server) -> None:
    token = await rig.token(server)
    other = "plait1." + "0" * 64 + token[token.index(".", 8) :]
    error = await refused(
        "PLAIT-AUTH-005", enrol.enrol(rig.url(server), other, "h1", rig.path / "h1")
    )
    assert "pins" in error.why
    assert not (rig.path / "h1").exists()


async def test_a_name_is_kept_from_others(rig: Rig, server: Server, h1: ApiClient) -> None:
    token = await rig.token(server)
    error = await refused(
        "PLAIT-AUTH-002", enrol.enrol(rig.url(server), token, "h1", rig.path / "thief")
    )
    assert "plait node forget h1" in error.fix
    again = await enrol.enrol(rig.url(server), token, "h1", rig.path / "h1")
    assert again == enrol.read_identity(rig.path / "h1")
    await rig.admin(server).forget_node("h1", force=True)
    await enrol.enrol(rig.url(server), token, "h1", rig.path / "thief")
    await refused("PLAIT-AUTH-007", h1.list(Network))


async def test_the_files_of_a_node_are_private(rig: Rig, h1: ApiClient) -> None:
    for directory in (rig.path / "h1", rig.path / "ca"):
        assert directory.stat().st_mode & 0o777 == 0o700
        for path in directory.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600, path


async def test_a_certificate_is_renewed_and_taken_up_without_a_new_client(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    directory = rig.path / "h1"
    before = (directory / "node.crt").read_text()
    assert not enrol.renewal_due(directory)
    assert enrol.renewal_due(directory, rig.time.now() + 17 * 3600)
    assert not await enrol.renew_if_due(h1, directory)
    assert await enrol.renew_if_due(h1, directory, rig.time.now() + 17 * 3600)
    assert (directory / "node.crt").read_text() != before
    await h1.list(Network)
    contexts = h1._tls._context
    await enrol.renew(h1, directory)
    await h1.list(Network)
    assert h1._tls._context is not contexts


async def test_a_node_that_was_off_for_long_comes_back_by_its_secret(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    directory = rig.path / "h1"
    before = (directory / "node.crt").read_text()
    await enrol.renew(h1, directory, rig.time.now() + 30 * 86400)
    assert (directory / "node.crt").read_text() != before
    await h1.list(Network)
    identity = enrol.read_identity(directory)
    assert identity is not None
    own = f"h1.{identity.uid}.{identity.secret}"

    def by_secret(text: str) -> ApiClient:
        return rig.keep(
            ApiClient(
                rig.url(server), ca_file=rig.authority.ca_file, token=text, scheme="Plait-Node"
            )
        )

    await refused("PLAIT-AUTH-002", by_secret(own).list(Network))
    other = EnrolRequest(
        name="h2",
        uid=identity.uid,
        secret=identity.secret,
        csr=enrol.signing_request(directory, "h2"),
    )
    await refused("PLAIT-AUTH-002", by_secret(own).enrol(other))
    for wrong in (own + "x", own.replace("h1.", "h2.", 1), "h1", "", "..", "h1.." + "x" * 43):
        await refused("PLAIT-AUTH-007", by_secret(wrong or " ").enrol(other))
    await rig.admin(server).forget_node("h1", force=True)
    await refused("PLAIT-AUTH-007", by_secret(own).enrol(other))


async def test_an_expired_certificate_is_refused_and_its_watch_cut(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    stream = h1.watch([Network])
    events = aiter(stream)
    while (await anext(events)).type != "synced":
        pass
    rig.time.ahead += 25 * 3600
    async with asyncio.timeout(10):
        while (await anext(events)).type != "disconnected":
            pass
    await refused("PLAIT-AUTH-001", h1.list(Network))
    await stream.aclose()  # type: ignore[attr-defined]


async def test_a_node_of_another_version_is_told_so(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    h1._headers["Plait-Version"] = "7.3.0"
    await h1.close()
    error = await refused("PLAIT-AGENT-002", h1.list(Network))
    assert "7.3.0" in error.detail


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../etc"},
        {"name": "h1\n"},
        {"uid": "x y z"},
        {"secret": "short"},
        {"csr": "nonsense"},
        {"csr": "x" * 100_000},
    ],
)
async def test_a_bad_enrolment_is_refused_and_costs_no_token(
    rig: Rig, server: Server, tmp_path: Path, change: dict[str, str]
) -> None:
    token = await rig.token(server, single_use=True)
    joiner = rig.keep(ApiClient(rig.url(server), ca_file=rig.authority.ca_file, token=token))
    enrol.prepare(tmp_path / "n")
    good = EnrolRequest(
        name="h1",
        uid="12345678-aaaa",
        secret="s" * 43,
        csr=enrol.signing_request(tmp_path / "n", "h1"),
    )
    with pytest.raises(PlaitError) as caught:
        await joiner.enrol(msgspec.structs.replace(good, **change))
    assert caught.value.code in ("PLAIT-NAME-001", "PLAIT-API-002")
    await joiner.enrol(good)


# TLS and sockets


async def test_a_node_certificate_cannot_pose_as_a_server(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    """CVE-2021-37219: a client of ours meets somebody who holds a node's certificate."""
    directory = rig.path / "h1"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "node.crt", directory / "node.key")

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    impostor = await asyncio.start_server(never, "127.0.0.1", 0, ssl=context)
    port = impostor.sockets[0].getsockname()[1]
    client = rig.keep(ApiClient(f"https://127.0.0.1:{port}", ca_file=directory / "ca.crt"))
    await refused("PLAIT-AUTH-005", client.list(Network))
    impostor.close()
    await impostor.wait_closed()


async def test_a_server_certificate_is_no_node(rig: Rig, server: Server) -> None:
    pem = rig.authority.server_file
    client = rig.keep(
        ApiClient(rig.url(server), ca_file=rig.authority.ca_file, cert_file=pem, key_file=pem)
    )
    with pytest.raises(PlaitError) as caught:
        await client.list(Network)
    assert caught.value.code in ("PLAIT-API-012", "PLAIT-AUTH-001", "PLAIT-AUTH-005")


@pytest.fixture
async def raw(rig: Rig, server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cafile=rig.authority.ca_file)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "a b", "[::1"])
async def test_a_foreign_host_header_is_refused(
    rig: Rig, server: Server, raw: aiohttp.ClientSession, host: str
) -> None:
    async with raw.get(
        rig.url(server) + "/healthz", headers={"Host": host}, server_hostname=SERVER_NAME
    ) as response:
        assert response.status == 421
        assert (await response.json(content_type=None))["code"] == "PLAIT-API-016"


@pytest.mark.parametrize("host", ["127.0.0.1:6440", "[::1]:80", "localhost", SERVER_NAME])
async def test_our_names_and_addresses_are_accepted(
    rig: Rig, server: Server, raw: aiohttp.ClientSession, host: str
) -> None:
    async with raw.get(
        rig.url(server) + "/healthz", headers={"Host": host}, server_hostname=SERVER_NAME
    ) as response:
        assert response.status == 200


async def test_old_tls_is_refused(rig: Rig, server: Server) -> None:
    context = ssl.create_default_context(cafile=rig.authority.ca_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(
            "127.0.0.1", server.ports[0], ssl=context, server_hostname=SERVER_NAME
        )


async def test_the_socket_is_for_root_only(rig: Rig) -> None:
    server = await rig.serve(allowed_uids=frozenset({4242}))
    assert server.config.unix_socket is not None
    assert server.config.unix_socket.stat().st_mode & 0o777 == 0o600
    await refused("PLAIT-AUTH-002", rig.admin(server).list(Network))


async def test_a_stale_socket_is_replaced_and_removed_at_the_end(rig: Rig) -> None:
    first = await rig.serve(unix_socket=rig.path / "s.sock", listen=())
    (rig.path / "kept").write_bytes(b"")
    for listener in first._servers:
        listener.close()
    again = await rig.serve(unix_socket=rig.path / "s.sock", listen=())
    await rig.admin(again).list(Network)
    await again.stop()
    assert not (rig.path / "s.sock").exists()


async def test_the_server_renews_its_own_certificate(
    rig: Rig, server: Server, h1: ApiClient
) -> None:
    before = rig.authority.server_file.read_bytes()
    assert not server.renew_certificate()
    rig.time.ahead += 61 * 86400
    assert server.renew_certificate()
    assert rig.authority.server_file.read_bytes() != before
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", server.ports[0], ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    assert ssl.DER_cert_to_PEM_cert(shown).encode() in rig.authority.server_file.read_bytes()
    writer.close()
    await writer.wait_closed()
