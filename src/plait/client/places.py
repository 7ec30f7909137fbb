"""Where the endpoints of this host are: in network namespaces, by path and inode."""

from __future__ import annotations

import os

from plait.client.agent import LocalEndpoint


def stands(endpoint: LocalEndpoint) -> bool:
    """Its namespace is still where it was attached: the kernel gives a new one the lowest free
    inode, which may be that of one that has gone."""
    try:
        # A Path would cost more than the call, and it is asked of every endpoint of an inode.
        return os.stat(endpoint.request.netns).st_ino == endpoint.netns_inode  # noqa: PTH116
    except OSError:
        return False
