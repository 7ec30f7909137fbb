"""Names that policies open: when, for how long, and what a name may not open."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable

import pytest

from plait.agent import domains
from plait.agent.domains import CEILING, FLOOR, Domains, Patterns
from plait.agent.fake import Clock
from plait.model.errors import PlaitError


class Door:
    """Sets of the kernel; only those that are declared can be filled."""

    def __init__(self, clock: Clock, *declared: str) -> None:
        self._clock = clock
        self.ends: dict[str, dict[str, float]] = {ident: {} for ident in declared}
        self.writes: list[tuple[str, tuple[str, ...], float]] = []
        self.fault: Exception | None = None

    def open(self, ident: str, addresses: Iterable[str], seconds: float) -> bool:
        if self.fault is not None:
            raise self.fault
        if ident not in self.ends:
            return False
        self.writes.append((ident, tuple(addresses), seconds))
        self.ends[ident].update(dict.fromkeys(self.writes[-1][1], self._clock() + seconds))
        return True

    def live(self, ident: str) -> dict[str, float]:
        now = self._clock()
        return {a: end - now for a, end in self.ends.get(ident, {}).items() if end > now}


def encoded(name: str) -> bytes:
    return b"".join(bytes((len(p),)) + p.encode() for p in name.split(".")) + b"\0"


def answer(*chain: str, address: bytes = b"\xc6\x33\x64\x09", ttl: int = 60) -> bytes:
    """A says that the first name is an alias of the next and so on, and the last's address."""
    records = [
        encoded(name) + struct.pack("!HHIH", 5, 1, ttl, len(encoded(alias))) + encoded(alias)
        for name, alias in itertools.pairwise(chain)
    ]
    records.append(encoded(chain[-1]) + struct.pack("!HHIH", 1, 1, ttl, 4) + address)
    head = struct.pack("!6H", 1, 0x8180, 1, len(records), 0, 0)
    return head + encoded(chain[0]) + struct.pack("!HH", 1, 1) + b"".join(records)


ADDRESS = "198.51.100.9"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(clock: Clock) -> Door:
    return Door(clock, "d1", "d2")


def following(door: Door, clock: Clock, wanted: dict[str, tuple[str, ...]]) -> Domains:
    made = Domains(door, clock=clock, refused=lambda address: address.startswith("10."))
    made.follow(wanted, True)
    return made


def test_patterns_match_a_name_or_all_below_it() -> None:
    patterns = Patterns({"d1": ("example.com", "*.a.org"), "d2": ("*.Example.com.",)})

    def sets(*names: str) -> set[str]:
        return set(patterns.sets(tuple(name.encode().split(b".")) for name in names))

    assert sets("example.com") == {"d1"}
    assert sets("www.example.com") == sets("a.b.example.com") == {"d2"}
    assert sets("x.a.org", "y.example.com") == {"d1", "d2"}
    assert sets("a.org") == sets("notexample.com") == sets("com") == set()


def test_an_address_is_open_for_its_time_before_the_client_hears_of_it(
    door: Door, clock: Clock
) -> None:
    made = following(door, clock, {"d1": ("example.com",)})
    made.answered(answer("other.com"), 0)
    assert door.writes == []
    made.answered(answer("example.com"), 0)
    assert door.writes == [("d1", (ADDRESS,), 60.0)]
    clock.advance(20)
    made.answered(answer("example.com"), 20)
    assert len(door.writes) == 1, "the answer from the cache has the same end"
    made.answered(answer("example.com"), 0)
    assert len(door.writes) == 2, "a new one has a later end"
    assert made.elements == 1
    clock.advance(61)
    assert made.elements == 0
    assert made.holds("d1", ADDRESS), "what began goes on"
    assert not made.holds("d2", ADDRESS)


@pytest.mark.parametrize(("ttl", "seconds"), [(0, FLOOR), (1, FLOOR), (2**31 - 1, CEILING)])
def test_times_have_bounds(door: Door, clock: Clock, ttl: int, seconds: float) -> None:
    made = following(door, clock, {"d1": ("example.com",)})
    made.answered(answer("example.com", ttl=ttl), 0)
    assert door.writes == [("d1", (ADDRESS,), seconds)]


def test_a_name_on_the_way_counts(door: Door, clock: Clock) -> None:
    made = following(door, clock, {"d1": ("www.example.com",), "d2": ("*.cdn.net",)})
    made.answered(answer("www.example.com", "x.cdn.net", "y.akam.org"), 0)
    assert {write[0] for write in door.writes} == {"d1", "d2"}


def test_a_name_outside_opens_nothing_of_ours(door: Door, clock: Clock) -> None:
    made = following(door, clock, {"d1": ("example.com",)})
    made.answered(answer("example.com", address=b"\x0a\x09\0\x01"), 0)
    assert door.writes == []


def test_a_policy_opens_what_clients_had_resolved_before(door: Door, clock: Clock) -> None:
    made = following(door, clock, {})
    made.answered(answer("example.com"), 0)
    made.answered(answer("old.example.com", ttl=6), 0)
    clock.advance(10)
    made.follow({"d2": ("example.com", "*.example.com")}, False)
    assert door.writes == [("d2", (ADDRESS,), 50.0)]
    assert made.holds("d2", ADDRESS)


def test_a_set_that_is_not_there_yet_is_filled_when_it_is(door: Door, clock: Clock) -> None:
    made = following(door, clock, {})
    made.answered(answer("example.com"), 0)
    del door.ends["d1"]
    made.follow({"d1": ("example.com",)}, False)
    assert made.elements == 0
    door.ends["d1"] = {}
    made.follow(dict(made._wanted), True)
    assert made.elements == 1


def test_after_a_restart_the_kernel_says_what_is_open(door: Door, clock: Clock) -> None:
    following(door, clock, {"d1": ("example.com",)}).answered(answer("example.com"), 0)
    again = following(door, clock, {"d1": ("example.com",)})
    assert again.holds("d1", ADDRESS)
    again.answered(answer("example.com"), 0)
    assert len(door.writes) == 1


def test_after_damage_what_was_open_is_opened_again(door: Door, clock: Clock) -> None:
    made = following(door, clock, {"d1": ("example.com",)})
    made.answered(answer("example.com"), 0)
    door.ends["d1"].clear()
    clock.advance(10)
    made.follow(made._wanted, True)
    assert door.writes[1:] == [("d1", (ADDRESS,), 50.0)]


@pytest.mark.parametrize("fault", [OSError(12, "no"), PlaitError("PLAIT-KERNEL-003", "no")])
def test_a_kernel_that_refuses_does_not_keep_the_answer_from_the_client(
    door: Door, clock: Clock, fault: Exception
) -> None:
    made = following(door, clock, {"d1": ("example.com",)})
    door.fault = fault
    made.answered(answer("example.com"), 0)
    assert made.error
    door.fault = None
    made.answered(answer("example.com"), 0)
    assert made.error == ""
    assert made.elements == 1


def test_memory_is_bounded(door: Door, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "REMEMBERED", 8)
    made = following(door, clock, {"d1": ("*.example.com",)})
    for number in range(30):
        made.answered(answer(f"n{number}.example.com", address=bytes((198, 51, 100, number))), 0)
    assert len(made._recent) == len(made._held["d1"]) == 8
    assert len(door.ends["d1"]) == 8, "nor does the kernel hold more"
    assert "8 addresses" in made.error
    clock.now += 30
    made.answered(answer("n0.example.com", address=bytes((198, 51, 100, 0))), 0)
    assert door.live("d1")["198.51.100.0"] == 60, "what is open stays so"
    clock.now += 31
    made.answered(answer("n29.example.com", address=bytes((198, 51, 100, 29))), 0)
    assert made.holds("d1", "198.51.100.29")
    assert made.error == ""
    assert len(made._held["d1"]) == 8
    made.follow({}, False)
    assert made._held == {}
