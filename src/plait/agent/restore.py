"""What sysctls were before us, so that `plait down --purge` can put them back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from plait.kernel.sysctl import Sysctl
from plait.model.marks import VXLAN_LINK


class Previous:
    """The first value that was seen of each key; never overwritten, also not after a restart."""

    def __init__(self, path: Path, sysctl: Sysctl) -> None:
        self._path = path
        self._sysctl = sysctl
        self.values: dict[str, str] = {}
        self._loaded = False

    def remember(self, wanted: Mapping[str, str]) -> None:
        """Note the present values of keys that are about to be set for the first time."""
        self._load()
        fresh = {
            key: value
            for key in wanted
            # A device of ours takes its settings with it.
            if key not in self.values and f"/{VXLAN_LINK}/" not in key
            if (value := self._sysctl.read(key)) is not None
        }
        if fresh:
            self.values |= fresh
            new = self._path.with_suffix(".new")
            new.write_bytes(msgspec.json.encode(self.values))
            new.chmod(0o600)
            new.rename(self._path)

    def restore(self) -> list[str]:
        """Put the values back; returns what failed."""
        self._load()
        failed: list[str] = []
        for key, value in self.values.items():
            try:
                if self._sysctl.read(key) not in (None, value):
                    self._sysctl.write(key, value)
            except OSError as error:
                failed.append(f"sysctl {key}={value}: {error.strerror}")
        return failed

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            try:
                self.values = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
            except (OSError, msgspec.DecodeError):
                self.values = {}
