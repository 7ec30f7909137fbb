"""The supervisor, on real processes; no test waits for a time, only for a state."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from tests.support.waiting import until

from plait.cli.rotation import RotatingLog
from plait.cli.supervisor import Backoff, Program, Supervisor

SLEEP = (
    sys.executable,
    "-S",
    "-E",
    "-c",
    "import signal; print('begun', flush=True); signal.pause()",
)


def program(tmp_path: Path, argv: tuple[str, ...] = SLEEP, **options: object) -> Program:
    backoff = Backoff(base=0.001, cap=0.002)
    log = RotatingLog(tmp_path / "p.log")
    return Program("p", argv, log, env=os.environ, backoff=backoff, **options)  # type: ignore[arg-type]


def log_of(tmp_path: Path) -> str:
    path = tmp_path / "p.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    ("failures", "jitter", "delay"),
    [(0, 0.0, 0.5), (0, 1.0, 1.0), (1, 1.0, 2.0), (3, 1.0, 8.0), (4, 1.0, 10.0), (9999, 1.0, 10.0)],
)
def test_delays_double_up_to_the_cap(failures: int, jitter: float, delay: float) -> None:
    assert Backoff(base=1.0, cap=10.0).delay(failures, jitter) == delay


async def test_what_dies_is_started_again(tmp_path: Path) -> None:
    kept = program(tmp_path)
    kept.start()
    for lives in (1, 2, 3):
        await until(lambda lives=lives: log_of(tmp_path).count("begun") == lives)
        assert kept.process is not None
        os.kill(kept.process.pid, signal.SIGKILL)
    await until(lambda: kept.restarts == 3)
    await kept.stop()
    assert kept.state == "down"
    assert kept.exit_code is not None


async def test_failures_count_only_while_lives_are_short(tmp_path: Path) -> None:
    now = 0.0
    waits: list[int] = []

    class Watched(Backoff):
        def delay(self, failures: int, jitter: float) -> float:
            waits.append(failures)
            return 0.001

    kept = program(tmp_path, (sys.executable, "-S", "-E", "-c", ""), clock=lambda: now)
    kept.backoff = Watched(stable=20.0)
    kept.start()
    await until(lambda: len(waits) >= 3)
    assert waits[:3] == [0, 1, 2]
    await kept.stop()


async def test_a_stop_ends_it_for_good_and_a_start_begins_anew(tmp_path: Path) -> None:
    kept = program(tmp_path)
    kept.start()
    await until(lambda: "begun" in log_of(tmp_path))
    assert kept.process is not None
    pid = kept.process.pid
    await kept.stop()
    assert not Path(f"/proc/{pid}").exists()
    await kept.stop()
    kept.start()
    await until(lambda: log_of(tmp_path).count("begun") == 2)
    await kept.stop()


async def test_a_program_that_is_missing_is_tried_again_and_said(tmp_path: Path) -> None:
    kept = program(tmp_path, ("/nonexistent/program",))
    kept.start()
    await until(lambda: kept.restarts >= 2)
    assert kept.exit_code == 127
    assert "cannot be started" in log_of(tmp_path)
    await kept.stop()


async def ask(path: Path, line: bytes) -> dict[str, object]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line)
    reply = await reader.readline()
    writer.close()
    return json.loads(reply)  # type: ignore[no-any-return]


async def test_the_socket_steers_and_bad_requests_do_no_harm(tmp_path: Path) -> None:
    socket, pid = tmp_path / "s.sock", tmp_path / "s.pid"
    keeper = Supervisor({"p": program(tmp_path)}, socket, pid)
    running = asyncio.create_task(keeper.run(["p"]))
    await until(lambda: "begun" in log_of(tmp_path))
    assert socket.stat().st_mode & 0o777 == 0o600
    assert pid.read_text() == f"{os.getpid()}\n"
    for bad in (
        b"\n",
        b"[]\n",
        b'{"verb":"fly"}\n',
        b'{"verb":"stop","name":"q"}\n',
        b"[" * 3000 + b"\n",
    ):
        assert "error" in await ask(socket, bad)
    stopped = await ask(socket, b'{"verb":"stop","name":"p"}\n')
    assert stopped["programs"][0]["state"] == "down"  # type: ignore[index]
    await ask(socket, b'{"verb":"restart","name":"p"}\n')
    await until(lambda: log_of(tmp_path).count("begun") == 2)
    with pytest.raises(BlockingIOError):
        await Supervisor({}, socket, pid).run([])
    await ask(socket, b'{"verb":"shutdown"}\n')
    await running
    assert not socket.exists()
    assert not pid.exists()


def test_a_log_keeps_within_its_bounds(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "x.log", limit=100, keep=2)
    for number in range(100):
        log.write(f"line {number:03}\n".encode())
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["x.log", "x.log.1", "x.log.2"]
    assert all(f.stat().st_size <= 100 for f in files)
    assert files[0].read_text().endswith("line 099\n")
    assert files[1].read_text() + files[0].read_text() == "".join(
        f"line {n:03}\n"
        for n in range(99 - len((files[1].read_text() + files[0].read_text()).split("\n")) + 2, 100)
    )


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = RotatingLog(tmp_path / "file" / "x.log")
    log.write(b"lost\n")
    log.close()
