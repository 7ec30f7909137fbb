"""Shapers: how fast endpoints may receive and send."""

from __future__ import annotations

from typing import Final

from plait.model.hoststate import Shaper

UNSAID: Final = frozenset(((1 << 31) - 1, (1 << 32) - 1))
"""Bursts, in bits, that nobody chose: CRI-O and containerd write them because the reference
plugin takes no rate without a burst, and half a gigabyte would pass unshaped."""
DEFAULT_TIME: Final = 100
"""Part of a second of which the rate's bytes may pass at once where no burst is said: at 1 Gbit/s
a smaller bucket is empty before the kernel's timer fills it again."""
LEAST: Final = 64 * 1024 * 8
"""Bits of the smallest burst by default: one segment as TCP hands it down (GSO)."""
FLOOR: Final = 16 * 1024 * 8
"""Bits below which a burst is raised: what is larger than the bucket never passes."""
LONGEST: Final = 60
"""Seconds of its rate that a burst may be: the kernel tells it as a time of at most 274 s."""
LARGEST: Final = ((1 << 32) - 1) * 8
"""Bits: the kernel keeps the bytes in 32 bits."""


def shaper(asked: Shaper) -> Shaper:
    """With bursts that the kernel can keep."""
    return Shaper(
        to_rate=asked.to_rate,
        to_burst=burst(asked.to_rate, asked.to_burst),
        from_rate=asked.from_rate,
        from_burst=burst(asked.from_rate, asked.from_burst),
    )


def burst(rate: int, said: int) -> int:
    """Bits that may pass at once; 0 without a rate."""
    if not rate:
        return 0
    if not said or said in UNSAID:
        said = max(rate // DEFAULT_TIME, LEAST)
    return max(min(said, rate * LONGEST, LARGEST), FLOOR)
