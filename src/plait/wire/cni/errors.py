"""Error results of CNI: specification 1.1.0, section 5, and codes of our own from 100 on."""

from __future__ import annotations

from typing import Final

import msgspec

VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Of the specification, oldest first."""
LATEST: Final = VERSIONS[-1]

INCOMPATIBLE_VERSION: Final = 1
UNSUPPORTED_FIELD: Final = 2
UNKNOWN_CONTAINER: Final = 3
"""Nothing of the container is here, so nothing needs to be cleaned up."""
BAD_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
DECODE_FAILURE: Final = 6
BAD_CONFIGURATION: Final = 7
TRY_AGAIN: Final = 11
NOT_AVAILABLE: Final = 50
"""STATUS: no ADD can be served."""
LIMITED_CONNECTIVITY: Final = 51
"""STATUS: no ADD can be served, and containers that are attached may lack traffic as well."""
FAILED: Final = 100
INTERFACE_EXISTS: Final = 101
NO_ADDRESS: Final = 102
PORT_TAKEN: Final = 103
DIFFERS: Final = 104
"""CHECK: the kernel lacks something of the attachment."""


class CniError(Exception):
    """A refusal. `version` is that of the configuration, once it is known."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(f"{code}: {msg}")
        self.code = code
        self.msg = msg
        self.details = details
        self.version = LATEST

    def encode(self) -> bytes:
        """The error result."""
        return msgspec.json.encode(
            {
                "cniVersion": self.version,
                "code": self.code,
                "msg": self.msg,
                "details": self.details,
            }
        )


def versions(asked: str = LATEST) -> bytes:
    """The answer to VERSION, section 4: it names the version in which it was asked."""
    return msgspec.json.encode({"cniVersion": asked, "supportedVersions": VERSIONS})
