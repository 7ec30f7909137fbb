"""The CNI shim, run as a runtime runs it, with an agent that is a few lines of this file."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import shim as shims

from plait.wire.cni.call import Call, parse, split

pytestmark = pytest.mark.skipif(not shims.COMPILER, reason=shims.NO_COMPILER)

DEL = {
    "CNI_COMMAND": "DEL",
    "CNI_CONTAINERID": "c1",
    "CNI_IFNAME": "eth0",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = b'{"cniVersion":"1.1.0","name":"podnet","type":"plait"}'
SILENT = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\n",
    "no CNI": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
    "no status": b"HTTP/1.1 200 OK\r\nPlait-CNI-Exit:\r\nContent-Length: 2\r\n\r\n{}",
    "negative": b"HTTP/1.1 200 OK\r\nPlait-CNI-Exit: 0\r\nContent-Length: -2\r\n\r\n{}",
    "large": b"HTTP/1.1 200 OK\r\nPlait-CNI-Exit: 0\r\nContent-Length: 9223372036854775807\r\n\r\n",
}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shims.build(tmp_path_factory.mktemp("native"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """PLAIT_ROOT; short, for sun_path holds 108 bytes."""
    return tmp_path


def call(
    shim: Path, root: Path, environ: dict[str, str], config: bytes = CONFIG
) -> tuple[int, Any]:
    done = subprocess.run(
        [str(shim)],
        env={**environ, "PLAIT_ROOT": str(root)},
        input=config,
        capture_output=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None


class Agent:
    """Answers one call with these bytes, in as many pieces."""

    def __init__(self, root: Path, *pieces: bytes, takes: bool = True) -> None:
        directory = root / "run/plait"
        directory.mkdir(parents=True, exist_ok=True)
        self.heard = b""
        self._pieces = pieces
        self._takes = takes
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / "agent.sock"))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        link, _ = self._listener.accept()
        with link, contextlib.suppress(ConnectionError):
            if self._takes:
                self.heard = read_call(link)
            for piece in self._pieces:
                link.sendall(piece)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        self._listener.close()


def read_call(link: socket.socket) -> bytes:
    """The body of one HTTP request."""
    with link.makefile("rb") as stream:
        head = b"".join(iter(stream.readline, b"\r\n")).decode()
        size = next(line for line in head.splitlines() if line.startswith("Content-Length: "))
        return stream.read(int(size.partition(": ")[2]))


def answer(body: bytes, status: int = 0) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nPlait-CNI-Exit: {status}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.fixture
def queue(root: Path) -> Path:
    return root / "var/lib/plait/cni/queue"


def kept(queue: Path) -> list[Call]:
    return [parse(path.read_bytes()) for path in queue.iterdir()]


def test_it_is_small_and_needs_no_library(shim: Path) -> None:
    data = shim.read_bytes()
    assert data[:4] == b"\x7fELF"
    assert len(data) < 64 << 10
    # A dynamic program names its loader.
    assert b"ld-musl" not in data
    assert b"ld-linux" not in data


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (b'{"cniVersion":"1.1.0"}', "1.1.0"),
        (b'{ "cniVersion" :\n "0.4.0" }', "0.4.0"),
        (b'{"cniVersion":"' + b"9" * 500, "9" * 15),
        (b'{"cniVersion":', "1.1.0"),
        (b'{"cniVersion":"\0\xff"}', "1.1.0"),
        (b"", "1.1.0"),
    ],
)
def test_version_needs_no_agent(shim: Path, root: Path, asked: bytes, named: str) -> None:
    code, said = call(shim, root, {"CNI_COMMAND": "VERSION"}, asked)
    assert (code, said["cniVersion"]) == (0, named)
    assert said["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@pytest.mark.parametrize("environ", [{}, {"CNI_COMMAND": "FLY"}, {"CNI_COMMAND": '"\\\n'}])
def test_a_call_that_is_no_cni_is_refused_with_code_four(
    shim: Path, root: Path, environ: dict[str, str]
) -> None:
    code, said = call(shim, root, environ)
    assert (code, said["code"]) == (4, 4)


class TestCarrying:
    def test_environment_and_configuration_arrive_as_they_are(self, shim: Path, root: Path) -> None:
        odd = {**DEL, "CNI_ARGS": 'A="\n\\;B=\xe4', "CNI_IFNAME": "", "OTHER": "not ours"}
        with Agent(root, answer(b"")) as agent:
            assert call(shim, root, odd, b'\0\0{"x": "\xff\0"}') == (0, None)
        environment, config = split(agent.heard)
        assert config == b'\0\0{"x": "\xff\0"}'
        assert environment.pop("PLAIT_STARTED").isdigit()
        assert environment == {
            key: value.encode().decode() for key, value in odd.items() if key != "OTHER"
        }

    def test_it_says_when_it_began(self, shim: Path, root: Path) -> None:
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with Agent(root, answer(b"")) as agent:
            call(shim, root, DEL)
        after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert before < parse(agent.heard).started < after

    def test_the_answer_and_its_status_come_back(self, shim: Path, root: Path) -> None:
        whole = answer(b'{"code":102}' + b" " * 100_000, 102)
        pieces = [whole[:7], whole[7:60], whole[60:61], whole[61:]]
        with Agent(root, *pieces):
            assert call(shim, root, {**DEL, "CNI_COMMAND": "ADD"}) == (102, {"code": 102})

    def test_a_large_configuration_goes_through(self, shim: Path, root: Path) -> None:
        config = b'{"x": "' + b"x" * 900_000 + b'"}'
        with Agent(root, answer(b"")) as agent:
            assert call(shim, root, DEL, config)[0] == 0
        assert split(agent.heard)[1] == config

    def test_one_without_end_is_refused(self, shim: Path, root: Path) -> None:
        code, said = call(shim, root, DEL, b"x" * 2_000_000)
        assert (code, said["code"]) == (6, 6)


class TestWithoutAnAgent:
    @pytest.mark.parametrize(
        ("verb", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)]
    )
    def test_nobody_listens(self, shim: Path, root: Path, verb: str, code: int) -> None:
        status, said = call(shim, root, {**DEL, "CNI_COMMAND": verb})
        assert (status, said["code"]) == (code, code)
        assert said["msg"] == "the agent of this host does not answer"
        assert said["details"] == (
            "/run/plait/agent.sock: No such file or directory; fix: plait status"
        )

    @pytest.mark.parametrize("said", SILENT.values(), ids=SILENT)
    def test_half_an_answer_is_none(self, shim: Path, root: Path, said: bytes) -> None:
        with Agent(root, said):
            assert call(shim, root, {**DEL, "CNI_COMMAND": "ADD"})[0] == 11

    def test_half_a_body_is_none(self, shim: Path, root: Path) -> None:
        with Agent(root, answer(b'{"cniVersion":"1.1.0"}')[:-5]):
            status, said = call(shim, root, {**DEL, "CNI_COMMAND": "ADD"})
        assert status == 11
        assert "it ended in the middle of its answer" in said["details"]

    def test_an_agent_that_dies_at_once_is_none(self, shim: Path, root: Path) -> None:
        with Agent(root, takes=False):
            assert call(shim, root, {**DEL, "CNI_COMMAND": "ADD"}, CONFIG * 10_000)[0] == 11


class TestKeeping:
    def test_a_del_is_kept_as_it_is(self, shim: Path, root: Path, queue: Path) -> None:
        assert call(shim, root, DEL) == (0, None)
        (found,) = kept(queue)
        assert found.verb == "DEL"
        assert found.attachment == ("c1", "eth0")
        assert found.name == "podnet"
        assert found.started > 0
        assert found.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def test_only_root_reads_it(self, shim: Path, root: Path, queue: Path) -> None:
        call(shim, root, DEL)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (queue.parent, queue)]
        assert modes == [0o700, 0o700]
        assert [stat.S_IMODE(path.stat().st_mode) for path in queue.iterdir()] == [0o600]

    def test_five_dels_of_an_attachment_are_one_file(
        self, shim: Path, root: Path, queue: Path
    ) -> None:
        for _ in range(5):
            assert call(shim, root, DEL)[0] == 0
        assert call(shim, root, {**DEL, "CNI_IFNAME": "eth1"})[0] == 0
        assert call(shim, root, {**DEL, "CNI_CONTAINERID": "c1eth", "CNI_IFNAME": "0"})[0] == 0
        assert len(kept(queue)) == 3

    def test_another_configuration_may_have_an_interface_of_that_name(
        self, shim: Path, root: Path, queue: Path
    ) -> None:
        for config in (CONFIG, CONFIG.replace(b"podnet", b"other")):
            assert call(shim, root, DEL, config)[0] == 0
        assert {found.name for found in kept(queue)} == {"podnet", "other"}

    @pytest.mark.parametrize("said", [*SILENT.values()][:2], ids=["nothing", "half a head"])
    def test_so_it_is_when_the_agent_dies_in_the_middle(
        self, shim: Path, root: Path, queue: Path, said: bytes
    ) -> None:
        with Agent(root, said):
            assert call(shim, root, DEL) == (0, None)
        assert len(kept(queue)) == 1

    def test_what_cannot_be_kept_is_to_be_tried_again(self, shim: Path, root: Path) -> None:
        (root / "var").touch()
        status, said = call(shim, root, DEL)
        assert (status, said["code"]) == (11, 11)
        assert "cannot be kept" in said["msg"]
        assert said["details"].endswith("/var/lib/plait/cni/queue: Not a directory")

    def test_a_del_of_nothing_is_not_kept(self, shim: Path, root: Path, queue: Path) -> None:
        assert call(shim, root, {**DEL, "CNI_CONTAINERID": ""})[0] == 4
        assert not queue.exists()


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


def test_a_runtime_that_has_gone_is_an_error(shim: Path, root: Path, closed_pipe: int) -> None:
    with Agent(root, answer(b'{"cniVersion":"1.1.0"}')):
        done = subprocess.run(
            [str(shim)],
            env={**DEL, "CNI_COMMAND": "ADD", "PLAIT_ROOT": str(root)},
            input=CONFIG,
            stdout=closed_pipe,
            check=False,
        )
    assert done.returncode == 5
