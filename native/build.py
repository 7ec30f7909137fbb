"""Hatchling hook: build the C shim and put it in the wheel, which is then for one platform.

`python -m ziglang cc` is a cross compiler that comes from PyPI, so no machine needs a C tool
chain; the static musl binary runs on any Linux. `native/build.py OUT` builds it by hand.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).with_name("plait-cni.c")
OUTPUT = "src/plait/native/plait-cni"
TARGETS = {"x86_64": "x86_64-linux-musl", "aarch64": "aarch64-linux-musl"}
"""Zig's name of a machine's target, by `uname -m`."""
FLAGS = ("-std=c11", "-Os", "-s", "-static", "-Wall", "-Wextra", "-Werror")


def build(output: Path, machine: str) -> None:
    """Compile the shim for a machine; it appears whole, or not at all."""
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    argv = [sys.executable, "-m", "ziglang", "cc", "-target", TARGETS[machine], *FLAGS]
    try:
        # Zig does not start in a directory whose name it cannot find, as / of a lab host.
        subprocess.run([*argv, "-o", str(fresh), str(SOURCE)], check=True, cwd=SOURCE.parent)
        fresh.rename(output)
    finally:
        fresh.unlink(missing_ok=True)


class CustomBuildHook(BuildHookInterface[Any]):
    """Called by hatchling before it packs a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        machine = platform.machine()
        if self.target_name != "wheel" or machine not in TARGETS:
            return
        # An editable install runs from the source tree, where tests build the shim themselves:
        # the compiler's first run takes a minute.
        if version == "editable":
            return
        output = Path(self.root) / OUTPUT
        if not output.exists() or output.stat().st_mtime < SOURCE.stat().st_mtime:
            build(output, machine)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"
        build_data["force_include"][str(output)] = "plait/native/plait-cni"


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1] if len(sys.argv) > 1 else OUTPUT), platform.machine())
    except subprocess.CalledProcessError as failed:
        sys.exit(failed.returncode)  # The compiler has said why.
