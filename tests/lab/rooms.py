"""Many empty network namespaces on a lab host: `rooms.py COUNT DIRECTORY` makes them, prints
`ready`, and keeps them until it ends. Bound below DIRECTORY as `0`, `1`, …"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

CLONE_NEWNET = 0x40000000
MS_BIND = 4096


def main(count: int, directory: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    directory.mkdir()
    for number in range(count):
        target = directory / str(number)
        target.touch()
        if libc.unshare(CLONE_NEWNET) or libc.mount(
            b"/proc/self/ns/net", bytes(target), None, MS_BIND, None
        ):
            raise OSError(ctypes.get_errno(), "a namespace could not be made")
    print("ready", flush=True)
    sys.stdin.read()
    for number in range(count):
        libc.umount2(bytes(directory / str(number)), 2)
        (directory / str(number)).unlink()
    directory.rmdir()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
