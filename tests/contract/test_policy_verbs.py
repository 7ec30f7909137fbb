"""The policy commands against a real server: it admits what they write."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from plait.__main__ import plait
from plait.cli import connect, frame
from plait.client.api import ApiClient
from plait.model.objects import Policy
from plait.server.server import Server

Run = Callable[..., "asyncio.Future[int]"]


@pytest.fixture
def run(server: Server, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command in a thread of its own, as it runs in a process of its own."""

    @contextlib.asynccontextmanager
    async def api() -> AsyncIterator[ApiClient]:
        client = ApiClient("http://localhost", unix_socket=server.config.unix_socket)
        try:
            yield client
        finally:
            await client.close()

    monkeypatch.setattr(connect, "api", api)
    return lambda *words: asyncio.to_thread(frame.run, plait, list(words))  # type: ignore[return-value]


async def names(api: ApiClient) -> set[str]:
    return {policy.metadata.name for policy in await api.list(Policy)}


WRITES = (
    ("allow", "web", "--from", "front", "--port", "80/tcp", "--port", "http"),
    ("allow", "web", "--from", "front", "--port", "8000-8080/udp", "--port", "icmp/8"),
    ("allow", "shop/app=db,tier=back", "--from", "*/app=api", "--staged"),
    ("allow", "web", "--from", "world", "--port", "443"),
    ("allow", "web", "--from", "anyone"),
    ("allow", "*.example.com", "--from", "ns:shop", "--port", "443"),
    ("allow", "2001:db8::/32", "--from", "web"),
    ("deny", "web", "--from", "network:plait", "--reject"),
    ("deny", "10.9.0.0/16", "--from", "app=front"),
    ("deny", "web", "--from", "node:h1", "--port", "sctp"),
    ("isolate", "shop"),
    ("isolate", "shop", "--egress"),
)


async def test_every_policy_that_a_verb_writes_is_admitted(
    api: ApiClient, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in WRITES:
        assert await run(*words, "--dry-run") == 0, capsys.readouterr().err
        assert await run(*words) == 0, capsys.readouterr().err
    written = await names(api)
    assert len(written) == len(WRITES) - 2
    revisions = {p.metadata.name: p.metadata.revision for p in await api.list(Policy)}
    for words in WRITES:
        assert await run(*words) == 0, capsys.readouterr().err
    assert {p.metadata.name: p.metadata.revision for p in await api.list(Policy)} == revisions


async def test_a_group_that_is_not_there_is_told(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("allow", "web", "--from", "group:office") == 0
    assert "office" in capsys.readouterr().err


async def test_from_manifest_to_words_and_away(
    api: ApiClient, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "np.yaml"
    file.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        "metadata: {name: web, namespace: shop}\n"
        "spec: {podSelector: {matchLabels: {app: web}}}\n"
    )
    assert await run("apply", "-f", str(file)) == 0
    capsys.readouterr()
    assert await run("policy", "show", "networkpolicy/shop/web") == 0
    assert "NetworkPolicy shop/web" in capsys.readouterr().out
    assert await run("policy", "preview", "--delete", "shop/web") == 0
    assert "none changes" in capsys.readouterr().out
    assert await run("policy", "stage", "shop/web") == 0
    (stored,) = await api.list(Policy)
    assert stored.spec.staged
    assert await run("policy", "enforce", "shop/web") == 0
    assert await run("policy", "rm", "shop/web") == 0
    assert await names(api) == set()


async def test_learning_from_a_log_that_is_empty(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("policy", "learn", "--json") == 0
    assert json.loads(capsys.readouterr().out)["items"] == []
