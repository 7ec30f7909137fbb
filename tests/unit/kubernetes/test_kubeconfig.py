from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from plait.kubernetes import kubeconfig
from plait.kubernetes.credentials import Credentials
from plait.model.errors import PlaitError


def written(
    path: Path,
    cluster: dict[str, Any] | None = None,
    user: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    content = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "shop"}}],
        "clusters": [
            {"name": "other", "cluster": {"server": "https://other:1"}},
            {"name": "k", "cluster": {"server": "https://k:6443/", **(cluster or {})}},
        ],
        "users": [{"name": "u", "user": {"token": "secret"} if user is None else user}],
        **more,
    }
    file = path / "config"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_token(tmp_path: Path) -> None:
    access = kubeconfig.load(written(tmp_path))
    assert access.server == "https://k:6443"
    assert access.token == "secret"
    assert access.namespace == "shop"
    assert "secret" not in repr(access)
    assert "secret" not in f"{access}"


def test_files_count_from_the_kubeconfig_and_data_before_them(tmp_path: Path) -> None:
    data = base64.b64encode(b"CERT").decode()
    file = written(
        tmp_path,
        {"certificate-authority": "pki/ca.crt", "tls-server-name": "kubernetes"},
        {
            "client-certificate-data": data,
            "client-certificate": "unused",
            "client-key": "/abs/key",
            "tokenFile": "token",
        },
    )
    access = kubeconfig.load(file)
    assert access.authority == tmp_path / "pki/ca.crt"
    assert access.server_name == "kubernetes"
    assert access.certificate == b"CERT"
    assert access.private_key == Path("/abs/key")
    assert access.token_file == tmp_path / "token"


def test_another_context(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        contexts=[
            {"name": "c", "context": {"cluster": "k", "user": "u"}},
            {"name": "d", "context": {"cluster": "other"}},
        ],
    )
    access = kubeconfig.load(file, context="d")
    assert (access.server, access.token, access.namespace) == ("https://other:1", "", "default")


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({"insecure-skip-tls-verify": True}, None, "insecure-skip-tls-verify"),
        ({"proxy-url": "http://p"}, None, "proxy-url"),
        ({}, {"exec": {"command": "aws"}}, "exec"),
        ({}, {"auth-provider": {"name": "gcp"}}, "auth-provider"),
        ({}, {"username": "u", "password": "hush"}, "username"),
        ({}, {"token": "t", "as": "root"}, "as"),
        ({}, {"client-certificate": "c"}, "without its key"),
        ({"certificate-authority-data": "%%"}, None, "base64"),
        ({"server": ""}, None, "no server"),
        ({"server": "ftp://k"}, None, "no server"),
        ({"server": "https://u:hush@k"}, None, "no server"),
        ({"server": "https://k:notaport"}, None, "no server"),
        ({"server": "http://k:8080"}, None, "without TLS"),
    ],
)
def test_what_is_refused_is_named_and_no_secret_is(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any] | None, words: str
) -> None:
    with pytest.raises(PlaitError) as refused:
        kubeconfig.load(written(tmp_path, cluster, user))
    assert refused.value.code == "PLAIT-KUBE-001"
    text = refused.value.render()
    assert words in text
    assert "hush" not in text
    assert "secret" not in text


@pytest.mark.parametrize("server", ["http://127.0.0.1:8080", "http://[::1]:1", "http://localhost"])
def test_loopback_needs_no_tls(tmp_path: Path, server: str) -> None:
    assert kubeconfig.load(written(tmp_path, {"server": server})).server == server


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "is not YAML"),
        ("just text", "is not a kubeconfig"),
        ("{}", "no current context"),
        ("current-context: c", "has no context 'c'"),
        ("current-context: c\ncontexts: [{name: c, context: {cluster: x}}]", "has no cluster 'x'"),
        ("current-context: c\ncontexts: 7", "has no context 'c'"),
    ],
)
def test_what_is_no_kubeconfig(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(PlaitError, match="PLAIT-KUBE-001") as refused:
        kubeconfig.load(file)
    assert words in refused.value.detail


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PlaitError, match="cannot be read"):
        kubeconfig.load(tmp_path / "none")


def test_the_service_account_of_a_pod(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("plait-system")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    access = kubeconfig.in_cluster(environ, tmp_path)
    assert access.server == "https://[fd00::1]:443"
    assert access.token_file == tmp_path / "token"
    assert access.authority == tmp_path / "ca.crt"
    assert access.namespace == "plait-system"
    with pytest.raises(PlaitError, match="PLAIT-KUBE-001"):
        kubeconfig.in_cluster({}, tmp_path)


def test_which_one_is_taken(tmp_path: Path) -> None:
    file = written(tmp_path)
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("t")
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    written(home / ".kube", {"server": "https://home:1"})

    def found(named: Path | None, environ: dict[str, str]) -> str:
        return kubeconfig.find(named, environ, home=home, service_account=account).server

    assert found(file, pod) == "https://k:6443"
    assert found(None, {**pod, "KUBECONFIG": f"{tmp_path}/none:{file}"}) == "https://k:6443"
    assert found(None, pod) == "https://10.0.0.1:443"
    assert found(None, {}) == "https://home:1"


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"certificate-authority": "gone"}, {"token": "secret"}),
        ({}, {"client-certificate": "gone", "client-key": "gone"}),
        ({}, {"tokenFile": "gone"}),
    ],
)
def test_a_file_that_a_kubeconfig_names_and_that_is_not_there_is_named(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any]
) -> None:
    credentials = Credentials(kubeconfig.load(written(tmp_path, cluster, user)))
    with pytest.raises(PlaitError, match="PLAIT-KUBE-001") as refused:
        (credentials.tls(), credentials.token())
    assert refused.value.where == str(tmp_path / "gone")
    assert refused.value.why == "No such file or directory"
