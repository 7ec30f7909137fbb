"""Statements that choose: what they pack to, told by the machine that executes them, and their
text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from plait.wire import nft, nft_machine
from plait.wire import nft_expr as e
from plait.wire import nft_keys as k
from plait.wire.nft_choice import (
    BACKEND,
    BACKEND_PORT,
    CALLED,
    CALLED_PORT,
    CLIENT,
    CT_DIRECTION,
    REPLY,
    MapIs,
    UpdateMap,
    random,
)
from plait.wire.nft_effects import RejectPort
from plait.wire.nft_rewrite import DnatByMap

CALLED_KEY: Final = (e.DADDR[4], e.L4PROTO, e.DPORT)
KEY: Final = k.concat(bytes((10, 96, 0, 1)), e.byte(6), e.port(80))


class Table:
    """A chain of one rule, and maps."""

    def __init__(self, *statements: e.Statement, **maps: dict[bytes, bytes]) -> None:
        self._packed = nft.Rule("why", statements).packed
        self._maps = maps

    def hooked(self, _hook: int, _kind: str) -> Sequence[str]:
        return ("chain",)

    def rules(self, _chain: str) -> Sequence[nft_machine.Rule]:
        return (nft_machine.Rule("why", nft_machine.expressions(memoryview(self._packed))),)

    def lookup(self, name: str, key: bytes) -> tuple[bool, nft.Data]:
        return next(
            ((True, data) for held, data in self._maps[name].items() if key.startswith(held)),
            (False, None),
        )


def probe() -> nft_machine.Probe:
    return nft_machine.Probe(src="10.1.0.2", dst="10.96.0.1", protocol=6, dport=80)


@pytest.mark.parametrize(("held", "verdict"), [(7, "drop"), (8, "accept"), (None, "accept")])
def test_a_number_that_a_map_holds_is_compared(held: int | None, verdict: str) -> None:
    elements = {} if held is None else {KEY: e.host32(held)}
    table = Table(MapIs(CALLED_KEY, "shapes", 7), e.DROP, shapes=elements)
    assert nft_machine.Machine(table).hook(0, probe()).verdict == verdict


def test_a_slot_is_drawn_and_leads_to_a_backend() -> None:
    backend = k.concat(bytes((10, 1, 0, 9)), e.port(8080))
    fields = (*CALLED_KEY, random(4, 16))
    table = Table(DnatByMap(4, fields, "backends"), backends={KEY + e.host32(16): backend})
    packet = probe()
    assert nft_machine.Machine(table).hook(0, packet).verdict == "accept"
    assert (packet.dst, packet.dport, packet.translated) == ("10.1.0.9", 8080, True)


def test_a_first_packet_is_no_answer() -> None:
    table = Table(e.Match(CT_DIRECTION, REPLY), e.DROP)
    assert nft_machine.Machine(table).hook(0, probe()).verdict == "accept"


def test_a_port_is_refused() -> None:
    assert nft_machine.Machine(Table(RejectPort())).hook(0, probe()).verdict == "reject"


def test_they_read_as_nft_writes_them() -> None:
    assert random(2).name == "numgen random mod 2"
    assert random(2, 5).name == "numgen random mod 2 offset 5"
    assert RejectPort().text() == "reject with icmpx port-unreachable"
    is_seven = MapIs(CALLED_KEY, "shapes", 7)
    assert is_seven.text() == "ip daddr . meta l4proto . th dport map @shapes 7"
    update = UpdateMap("stay", (CALLED[4], CALLED_PORT, CLIENT[4]), (BACKEND[4], BACKEND_PORT), 9)
    assert update.text() == (
        "update @stay { ct original ip daddr . ct original proto-dst . ct original ip saddr"
        " timeout 9ms : ct reply ip saddr . ct reply proto-src }"
    )
