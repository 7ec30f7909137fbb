from __future__ import annotations

from plait.dns.cache import Cache
from plait.wire.dns import Response


def response(ttl: int, size: int = 100, rcode: int = 0) -> Response:
    return Response(1, rcode, False, b"k", bytes(size), (), ttl)


def test_an_answer_lives_as_long_as_it_allows_and_says_its_age() -> None:
    cache = Cache()
    cache.put("a", response(10), now=100.0)
    hit = cache.get("a", now=109.5)
    assert hit is not None
    assert hit.age == 9
    assert cache.get("a", now=110.0) is None
    assert (len(cache), cache.size) == (0, 0)


def test_what_may_not_be_kept_is_not() -> None:
    cache = Cache()
    cache.put("a", response(0), now=0.0)
    assert cache.get("a", now=0.0) is None


def test_times_are_bounded_and_refusals_more_so() -> None:
    cache = Cache()
    cache.put("yes", response(1 << 30), now=0.0)
    cache.put("no", response(1 << 30, rcode=3), now=0.0)
    assert cache.get("yes", now=3599.0)
    assert cache.get("no", now=299.0)
    assert cache.get("no", now=300.0) is None
    assert cache.get("yes", now=3600.0) is None


def test_the_least_recently_used_go_first_when_bytes_run_out() -> None:
    cache = Cache(max_bytes=3 * 700)
    for key in "abc":
        cache.put(key, response(60, size=150), now=0.0)
    cache.get("a", now=1.0)
    cache.put("d", response(60, size=150), now=1.0)
    assert [key for key in "abcd" if cache.get(key, now=1.0)] == ["a", "c", "d"]
    cache.put("huge", response(60, size=5000), now=1.0)
    assert len(cache) == 3
    cache.put("a", response(60, size=1500), now=1.0)
    assert cache.get("a", now=1.0)
    assert cache.size <= 3 * 700
    cache.clear()
    assert (len(cache), cache.size) == (0, 0)
