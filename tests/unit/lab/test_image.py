from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from plait.lab import image


@pytest.mark.parametrize(
    ("client", "said"),
    [("[::ffff:10.0.0.7]", "10.0.0.7"), ("[fd00::7]", "fd00::7"), ("10.0.0.7", "10.0.0.7")],
)
def test_a_page_says_who_answers_and_who_asked(client: str, said: str) -> None:
    answer = subprocess.run(
        ["/bin/sh"],
        input=image.WHO,
        env={"REMOTE_ADDR": client, "HOSTNAME": "web"},
        capture_output=True,
        check=True,
    ).stdout
    assert answer == f"Content-Type: text/plain\r\n\r\nweb {said}\n".encode()


@pytest.mark.root
def test_the_shell_finds_the_wget_that_works(tmp_path: Path) -> None:
    image.write(tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        archive.extractall(tmp_path / "root", filter="fully_trusted")
    done = subprocess.run(
        ["/bin/sh", "-c", "wget --version | head -n 1; httpd --help 2>&1 | head -n 1"],
        preexec_fn=lambda: os.chroot(tmp_path / "root"),
        env={"PATH": "/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    wget, httpd = done.stdout.splitlines()
    assert wget.startswith("GNU Wget"), done
    assert httpd.startswith("BusyBox"), done
