"""The image of the lab's containers, made of this machine's programs: no registry is in reach.

The static busybox gives httpd and the tools. Its wget crashes in Debian's build as soon as it
looks up an address (getaddrinfo in a static glibc), and nslookup too, so wget is the real one, with
the libraries that it loads, and getent looks names up. So is the shell: busybox's runs its own
applets before it looks at the PATH, and `sh -c "wget …"` would crash again.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from plait.lab import preflight

NAME: Final = "busybox"
REAL: Final = {"wget": "wget", "sh": "dash", "getent": "getent"}
"""What is no applet of busybox: name in the image, and program of this machine."""
DIRECTORIES: Final = (
    ("bin", 0o755),
    ("etc", 0o755),
    ("tmp", 0o1777),
    ("www", 0o755),
    ("www/cgi-bin", 0o755),
)
NSSWITCH: Final = b"hosts: files dns\n"
WHO: Final = b"""\
#!/bin/sh
client=${REMOTE_ADDR#[}
client=${client%]}
printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s\\n' "$HOSTNAME" "${client#::ffff:}"
"""
"""A page of `httpd -f -p 80 -h /www`: who answers, and whose address the packet had."""


def _there(program: str) -> str:
    found = preflight.find(program)
    assert found is not None, "preflight.check has looked"
    return found


def libraries(program: Path) -> list[str]:
    """What a dynamic program loads, as absolute paths (ldd(1))."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", listed, re.MULTILINE)


def _entry(name: str, kind: bytes, mode: int = 0o755, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, target
    return entry


def write(path: Path) -> None:
    """Write the root file system as a tar file, for `docker import`."""
    busybox = Path(_there("busybox"))
    real = {name: Path(_there(program)) for name, program in REAL.items()}
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    with tarfile.open(path, "w") as archive:
        for name, mode in DIRECTORIES:
            archive.addfile(_entry(name, tarfile.DIRTYPE, mode))
        archive.add(busybox, "bin/busybox")
        for applet in applets.stdout.split():
            if applet not in {"busybox", *real}:
                archive.addfile(_entry(f"bin/{applet}", tarfile.SYMTYPE, target="busybox"))
        for name, program in real.items():
            archive.add(os.path.realpath(program), f"bin/{name}")
        for library in sorted({found for program in real.values() for found in libraries(program)}):
            archive.add(os.path.realpath(library), library[1:])
        for name, content, mode in (
            ("etc/nsswitch.conf", NSSWITCH, 0o644),
            ("www/cgi-bin/who", WHO, 0o755),
        ):
            entry = _entry(name, tarfile.REGTYPE, mode)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
