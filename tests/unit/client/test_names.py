from __future__ import annotations

import pytest

from plait.client.api import ApiClient
from plait.model.errors import PlaitError
from plait.model.objects import Endpoint, Network


async def test_a_name_without_end_is_refused_before_it_is_sent() -> None:
    async with ApiClient("http://127.0.0.1:1") as client:
        with pytest.raises(PlaitError, match="PLAIT-NAME-001") as caught:
            await client.get(Network, "a" * 10_000)
        assert len(caught.value.render()) < 500
        with pytest.raises(PlaitError, match="PLAIT-NAME-001"):
            await client.delete(Endpoint, "web", "n" * 10_000)
