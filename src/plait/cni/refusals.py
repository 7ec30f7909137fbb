"""The agent's refusals as errors of CNI. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from plait.model.errors import PlaitError
from plait.wire.cni import errors
from plait.wire.cni.errors import CniError

CODES: Final[Mapping[str, int]] = {
    "PLAIT-AGENT-001": errors.TRY_AGAIN,
    "PLAIT-AGENT-003": errors.UNKNOWN_CONTAINER,
    # Of CNI_NETNS: the specification has no other code for a variable that leads nowhere.
    "PLAIT-AGENT-004": errors.BAD_ENVIRONMENT,
    "PLAIT-AGENT-005": errors.INTERFACE_EXISTS,
    "PLAIT-AGENT-006": errors.TRY_AGAIN,
    "PLAIT-AGENT-007": errors.PORT_TAKEN,
    "PLAIT-AGENT-008": errors.TRY_AGAIN,
    "PLAIT-AGENT-009": errors.TRY_AGAIN,
    "PLAIT-API-002": errors.BAD_CONFIGURATION,
    "PLAIT-API-012": errors.TRY_AGAIN,
    "PLAIT-IPAM-010": errors.NO_ADDRESS,
    "PLAIT-IPAM-011": errors.BAD_CONFIGURATION,
    "PLAIT-IPAM-012": errors.NO_ADDRESS,
    "PLAIT-IPAM-013": errors.TRY_AGAIN,
    "PLAIT-IPAM-014": errors.BAD_CONFIGURATION,
    "PLAIT-IPAM-015": errors.NO_ADDRESS,
    "PLAIT-NAME-001": errors.BAD_CONFIGURATION,
    "PLAIT-NET-004": errors.BAD_CONFIGURATION,
    "PLAIT-NET-006": errors.BAD_CONFIGURATION,
    "PLAIT-STORE-001": errors.IO_FAILURE,
}
"""What is not here is a failure, code 100."""


def as_cni(error: PlaitError) -> CniError:
    """The same refusal, with our code in its message."""
    words = [error.why] if error.why else []
    if error.fix:
        words.append("fix: " + " or: ".join(error.fix))
    variable = "CNI_NETNS: " if error.code == "PLAIT-AGENT-004" else ""
    return CniError(
        CODES.get(error.code, errors.FAILED),
        f"{error.code}: {variable}{error.detail}",
        "; ".join(words),
    )
