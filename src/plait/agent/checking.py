"""What the kernel lacks of one endpoint."""

from __future__ import annotations

from plait.agent import refusals
from plait.agent.loop import Loop
from plait.agent.report import one_line, words
from plait.agent.state import State


class Checking:
    """See the module's docstring."""

    def __init__(self, state: State, loop: Loop) -> None:
        self._state = state
        self._loop = loop

    def check(self, ident: str) -> tuple[str, ...]:
        """A sentence for each thing that is not as it should be; see client.agent.Agent."""
        endpoint = self._state.records.ledger.endpoints.get(ident)
        if endpoint is None:
            raise refusals.no_endpoint(ident)
        want = self._state.compute()
        if want is None:
            raise refusals.not_ready()
        named = frozenset(words(endpoint))
        due = self._loop.check(want, endpoint.interface, named)
        return tuple(f"the kernel lacks: {one_line(text)}" for text in due)
