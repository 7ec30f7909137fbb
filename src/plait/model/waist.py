"""What the structs of the waist share: see `hoststate`."""

from __future__ import annotations

import msgspec


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Common options of the structs of the waist."""
