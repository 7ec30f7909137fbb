"""The CNI shim, compiled as the wheel's build hook compiles it, and run as a runtime runs it."""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None,
    reason="the C compiler is not installed: scripts/setup --shim",
)


def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("native_build", ROOT / "native/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["native_build"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("native") / "plait-cni"
    hook().build(output, platform.machine())
    return output


def call(shim: Path, environ: dict[str, str], config: bytes = b"{}") -> tuple[int, Any]:
    done = subprocess.run([str(shim)], env=environ, input=config, capture_output=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_it_is_small_and_needs_no_library(shim: Path) -> None:
    data = shim.read_bytes()
    assert data[:4] == b"\x7fELF"
    assert len(data) < 64 << 10
    # A dynamic program names its loader.
    assert b"ld-musl" not in data
    assert b"ld-linux" not in data


def test_version_lists_what_the_specification_has(shim: Path) -> None:
    code, answer = call(shim, {"CNI_COMMAND": "VERSION"}, b'{"cniVersion":"1.1.0"}')
    assert code == 0
    assert "1.1.0" in answer["supportedVersions"]
    assert "0.3.0" in answer["supportedVersions"]


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "STATUS", "GC"])
def test_the_other_verbs_ask_to_try_again_later(shim: Path, verb: str) -> None:
    code, answer = call(shim, {"CNI_COMMAND": verb}, b"x" * (1 << 20))
    assert (code, answer["code"]) == (11, 11)
    assert answer["msg"] == "agent does not serve CNI yet"


@pytest.mark.parametrize("environ", [{}, {"CNI_COMMAND": "FLY"}, {"CNI_COMMAND": '"\\\n'}])
def test_a_call_that_is_no_cni_is_refused_with_code_four(
    shim: Path, environ: dict[str, str]
) -> None:
    code, answer = call(shim, environ)
    assert (code, answer["code"]) == (4, 4)
