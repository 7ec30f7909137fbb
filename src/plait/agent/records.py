"""The journal and the ledger as one: a record is on its way to the disk before it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import structlog

from plait.agent.journal import Journal
from plait.agent.ledger import Ledger
from plait.model.errors import PlaitError

log: Final = structlog.get_logger("plait.agent.records")


class Records:
    """Every change of the ledger goes through `write`."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger()
        self._journal = Journal(path, self.ledger.records)

    def open(self) -> None:
        """Read the journal into the ledger."""
        self.ledger.fold(self._journal.open())

    def write(self, *records: dict[str, Any], durable: bool = False) -> None:
        """Journal records, all or none, and apply them. Raises PLAIT-STORE-001. `durable` for
        promises to other nodes: those outlive the endpoints of this boot."""
        self._journal.append(*records, after=lambda: self.ledger.fold(records), durable=durable)

    def forget(self, *records: dict[str, Any]) -> None:
        """As `write`, for records that take something away: a full disk must not keep an
        endpoint alive. What could not be written is found out anew after a restart, for the
        namespace of the endpoint has gone."""
        try:
            self.write(*records)
        except PlaitError as error:
            log.error("the journal lacks a record", error=str(error))
            self.ledger.fold(records)

    @property
    def lines(self) -> int:
        """Records in the file."""
        return self._journal.lines

    @property
    def damaged(self) -> int:
        """Records that could not be read."""
        return self._journal.damaged

    def close(self) -> None:
        """Release the file."""
        self._journal.close()
