"""The manifests of docs/policy.md are valid, and mean what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plait.__main__ import plait
from plait.cli import frame

PAGE = Path(__file__).parents[3] / "docs/policy.md"
POLICIES, ENDPOINT, EXPECTATIONS = re.findall(
    r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)
NAMES = (("shop", "front"), ("shop", "api"), ("shop", "db"), ("default", "web"))
ENDPOINTS = "\n---\n".join(
    f"""\
apiVersion: plait/v1
kind: Endpoint
metadata: {{name: e{number}, namespace: {namespace}, labels: {{app: {name}}}}}
spec: {{node: h1, network: plait, name: {name}, addresses: [10.112.0.{number}]}}
"""
    for number, (namespace, name) in enumerate(NAMES, 1)
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, text in (
        ("p", POLICIES),
        ("cache", ENDPOINT),
        ("e", ENDPOINTS),
        ("expect", EXPECTATIONS),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_the_expectations_of_the_page_hold_for_its_policies(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junit = directory / "report.xml"
    code = frame.run(
        plait, ["policy", "test", str(directory / "expect.yaml"), "--junit", str(junit)]
    )
    assert code == 0, capsys.readouterr()
    assert 'failures="0"' in junit.read_text()


def test_the_expectations_of_the_page_fail_without_its_policies(directory: Path) -> None:
    (directory / "p.yaml").unlink()
    assert frame.run(plait, ["policy", "test", str(directory / "expect.yaml")]) == 1
