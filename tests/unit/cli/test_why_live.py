"""`plait why --live`: the kernel's answer beside the model's, and where they differ."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from plait.__main__ import plait
from plait.cli import connect, frame
from plait.model.traces import Trace, TracedSide, TraceQuery


class Kernel:
    """An agent that answers as the kernel of h1 is told to."""

    def __init__(self) -> None:
        self.asked: list[TraceQuery] = []
        self.sides: list[TracedSide] = []

    async def trace(self, query: TraceQuery) -> Trace:
        self.asked.append(query)
        return Trace(node="h1", sides=tuple(self.sides), applied=42)


@pytest.fixture
def kernel(shop: Any, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(connect, "agent", lambda: made)
    return made


def run(*words: str, code: int = 0) -> None:
    assert frame.run(plait, list(words)) == code


PASSES = TracedSide(direction="egress", allowed=True, reason="no policy decided")
ACCEPTED = TracedSide(
    direction="ingress", allowed=True, policy="allow.shop.db", rule=0, rule_name="by name"
)


def test_the_kernel_s_answer_stands_beside_the_model_s(
    kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel.sides = [PASSES, ACCEPTED]
    run("why", "front", "db", "5432", "--live")
    out = capsys.readouterr().out
    assert "kernel of h1, as it is now:" in out
    assert "egress   accepts: no policy decided, as the model says" in out
    assert 'ingress  accepts: policy allow.shop.db, ingress rule 1 "by name", as' in out
    first = kernel.asked[0]
    assert (first.src, first.dst, first.port) == ("10.112.0.1", "10.112.0.3", 5432)


@pytest.mark.parametrize(
    "side",
    [
        msgspec.structs.replace(ACCEPTED, allowed=False, reason="isolated"),
        msgspec.structs.replace(ACCEPTED, agrees=False, expected="accepts: no policy decided"),
    ],
)
def test_a_difference_is_told_and_fails(
    kernel: Kernel, capsys: pytest.CaptureFixture[str], side: TracedSide
) -> None:
    kernel.sides = [PASSES, side]
    run("why", "front", "db", "5432", "--live", code=1)
    told = capsys.readouterr()
    assert "THE MODEL SAYS OTHERWISE: it accepts" in told.out
    assert "mended within 10 s" in told.err


def test_who_decides_elsewhere_is_named(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.sides = []
    run("why", "front", "db", "5432", "--live")
    told = capsys.readouterr()
    assert "kernel of" not in told.out
    assert "decided on h1: run the same command there" in told.err


def test_programs_get_it_as_data(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.sides = [PASSES]
    run("why", "front", "db", "5432", "--live", "--json")
    live = json.loads(capsys.readouterr().out)["live"]
    assert (live["node"], live["applied"], live["agrees"]) == ("h1", 42, True)
    assert {side["direction"] for side in live["sides"]} == {"egress"}
    assert all(side["model"] for side in live["sides"])


def test_what_cannot_be_asked_is_not(
    kernel: Kernel, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    run("why", "front", "www.example.com", "443", "--live")
    assert kernel.asked == []
    assert "give an address in place of a name" in capsys.readouterr().err
    run("why", "front", "db", "80", "--live", "-f", str(tmp_path), code=2)
    assert "knows nothing of -f" in capsys.readouterr().err
