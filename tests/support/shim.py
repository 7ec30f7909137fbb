"""The CNI shim, compiled as the wheel's build hook compiles it."""

from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
COMPILER = importlib.util.find_spec("ziglang") is not None
NO_COMPILER = "the C compiler is not installed: scripts/setup --shim"


def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("native_build", ROOT / "native/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["native_build"] = module
    spec.loader.exec_module(module)
    return module


def build(directory: Path) -> Path:
    """The shim in that directory, under the name by which configurations call it."""
    output = directory / "plait"
    hook().build(output, platform.machine())
    return output
