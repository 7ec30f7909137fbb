"""The verbs of CNI over those of the agent. One at a time for each attachment.

An ADD returns when identity and rules are in force, within the deadline of its configuration; a
DEL that comes meanwhile ends it. DELs that the shim kept are served before any ADD.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import structlog

from plait.client.agent import Agent, LocalEndpoint
from plait.client.locks import Locks
from plait.client.places import stands
from plait.cni import attachment, checking
from plait.cni.attachment import Identity, endpoint_id
from plait.cni.kept import Kept
from plait.cni.order import Order, late_del
from plait.cni.refusals import as_cni
from plait.model.errors import PlaitError
from plait.wire.cni import errors, result
from plait.wire.cni.call import Call, Verb, parse
from plait.wire.cni.errors import CniError

PATIENCE: Final[Mapping[Verb, float]] = {"GC": 100.0}
USUAL_PATIENCE: Final = 25.0
"""Seconds for a verb other than ADD, whose configuration says it; the shim waits 120 for ADD and
GC, 30 for others."""
AT_ONCE: Final = 32
"""Attachments that a GC removes at a time: one turn of the agent's loop does for all of them."""
LOOK: Final = 10.0
"""Seconds between looks for kept DELs that nobody else came upon."""
OWN_NAMESPACE: Final = "/proc/self/ns/net"

log: Final = structlog.get_logger("plait.cni")


class Answer(NamedTuple):
    """What the shim prints, and the status with which it exits."""

    body: bytes
    status: int = 0


def _never() -> bool:
    return False


class CniPlugin:
    """See the module's docstring."""

    def __init__(
        self,
        agent: Agent,
        kept: Kept,
        *,
        network: Callable[[str], Awaitable[object]],
        boottime: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        """`network` raises the PlaitError with which an attachment to a network of that name would
        be refused; `boottime` gives nanoseconds since boot, sleep included."""
        self._agent = agent
        self._kept = kept
        self._network = network
        self._boottime = boottime
        self.served: Counter[tuple[str, int]] = Counter()
        """Calls by verb and code, 0 for success; `none` is the verb of what is no call."""
        self._order = Order(boottime())
        self._locks = Locks()
        self._adding: dict[str, dict[asyncio.Task[Answer], int]] = {}
        """ADDs under way, with their beginnings."""
        self._emptying = asyncio.Lock()
        self._serving: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._verbs: dict[Verb, Callable[[Call], Awaitable[Answer]]] = {
            "DEL": self._del,
            "CHECK": self._check,
            "GC": self._gc,
            "STATUS": self._status,
            "VERSION": self._version,
        }

    async def handle(self, body: bytes, gone: Callable[[], bool] = _never) -> Answer:
        """The answer to a call, an error being one, too. `gone` says that nobody waits for it any
        more: what an ADD has made is then taken away."""
        call: Call | None = None
        patience = USUAL_PATIENCE
        try:
            call = parse(body)
            patience = PATIENCE.get(call.verb, USUAL_PATIENCE)
            answer = await self._serve(call, gone, patience)
            self.served[call.verb, 0] += 1
            return answer
        except CniError as error:
            refusal = error
        except PlaitError as error:
            refusal = as_cni(error)
        except TimeoutError:
            refusal = CniError(errors.TRY_AGAIN, f"it was not done within {patience:g} s")
        except Exception:
            log.exception("a call of CNI failed")
            refusal = CniError(errors.FAILED, "the agent failed", "see /var/log/plait/agent.log")
        verb = "none"
        if call is not None:
            verb, refusal.version = call.verb, call.version
        self.served[verb, refusal.code] += 1
        log.warning(
            "refused", verb=verb, code=refusal.code, msg=refusal.msg, details=refusal.details
        )
        return Answer(refusal.encode(), min(refusal.code, 255))

    async def _serve(self, call: Call, gone: Callable[[], bool], patience: float) -> Answer:
        if call.verb == "ADD":
            return await self._add(call, gone)
        async with asyncio.timeout(patience):
            return await self._verbs[call.verb](call)

    @property
    def waiting(self) -> int:
        """DELs that are kept."""
        return self._kept.count()

    async def run(self) -> None:
        """Serve the DELs that are kept, now and whenever some are found, until cancelled."""
        while True:
            await self._serve_kept()
            await asyncio.sleep(LOOK)

    async def stop(self) -> None:
        """End the ADDs under way, and begin no others: the runtime asks again."""
        self._stopping = True
        tasks = [task for tasks in self._adding.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._serving, return_exceptions=True)

    async def empty(self) -> None:
        """Serve the DELs that are kept. One that fails stays, and holds nobody up."""
        if not self._kept.count():
            return
        # Whoever waits for it may be cut off; a DEL is not left half done.
        serving = asyncio.create_task(self._serve_kept())
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        await asyncio.shield(serving)

    async def _serve_kept(self) -> None:
        async with self._emptying:
            for kept in tuple(self._kept.calls()):
                try:
                    await self._del(kept.call)
                except Exception:
                    log.exception("a kept DEL failed", file=kept.path.name)
                else:
                    self._kept.done(kept)
                    log.info("a kept DEL was served", container=kept.call.attachment.container)

    # ADD.

    async def _add(self, call: Call, gone: Callable[[], bool]) -> Answer:
        ident = endpoint_id(call.name, call.attachment)
        if self._stopping:
            raise CniError(errors.TRY_AGAIN, "the agent stops")
        if self._order.forgotten(call.started):
            raise CniError(errors.TRY_AGAIN, "the ADD began before this agent, which has restarted")
        began = call.started or self._boottime()
        left = call.settings.deadline - (self._boottime() - began) / 1e9
        task = asyncio.create_task(self._attach(ident, call, left))
        under_way = self._adding.setdefault(ident, {})
        under_way[task] = began
        try:
            answer = await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            why = "the agent stops" if self._stopping else "a DEL of the attachment came"
            raise CniError(errors.TRY_AGAIN, f"the ADD was ended: {why}") from None
        except TimeoutError:
            raise CniError(
                errors.TRY_AGAIN,
                f"the attachment was not made within {call.settings.deadline:g} s",
                "the deadline of the configuration",
            ) from None
        finally:
            del under_way[task]
            if not under_way:
                self._adding.pop(ident, None)
        if gone():
            log.warning("nobody waits for the result of an ADD; undone", endpoint=ident)
            await self._undo(ident, call)
        return answer

    async def _undo(self, ident: str, call: Call) -> None:
        """Take away what this ADD made, unless a later one has its place by now."""
        async with self._locks.hold(ident):
            for endpoint in await self._agent.endpoints():
                request = endpoint.request
                if (request.id, request.netns) == (ident, call.netns):
                    await self._agent.detach(ident)

    async def _attach(self, ident: str, call: Call, left: float) -> Answer:
        async with asyncio.timeout(max(left, 0.0)) as deadline:
            await self.empty()
            async with self._locks.hold(ident):
                if self._order.late_add(ident, call.started):
                    raise CniError(
                        errors.UNKNOWN_CONTAINER, "a DEL that began after this ADD has been served"
                    )
                inode = self._namespace(call)
                present = await self._agent.endpoints()
                self._refuse_existing(ident, call, inode, present)
                inside = [e for e in present if e.netns_inode == inode and stands(e)]
                default_route = attachment.wants_default_route(call, inside)
                identity = await self._identity(call, (deadline.when() or 0.0))
                attached = await self._agent.attach(
                    attachment.request(call, identity, default_route=default_route)
                )
                try:
                    ours = attachment.result(call, attached, default_route=default_route)
                    body = result.encode(result.merge(call.previous, ours), call.version)
                except BaseException:
                    await self._agent.detach(ident)
                    raise
        return Answer(body)

    def _namespace(self, call: Call) -> int:
        """Inode of the namespace; code 4 when there is none, or when it is the host's own."""
        try:
            inode = os.stat(call.netns).st_ino  # noqa: PTH116 - a Path would cost more than this
        except (OSError, ValueError) as error:
            raise CniError(
                errors.BAD_ENVIRONMENT, "CNI_NETNS leads to no network namespace", str(error)
            ) from error
        if inode == os.stat(OWN_NAMESPACE).st_ino:  # noqa: PTH116
            raise CniError(
                errors.BAD_ENVIRONMENT,
                "CNI_NETNS is the network namespace of the host itself",
                call.netns,
            )
        return inode

    def _refuse_existing(
        self, ident: str, call: Call, inode: int, present: tuple[LocalEndpoint, ...]
    ) -> None:
        """The same attachment in another namespace is its former life, which has gone. The kernel
        gives a new namespace the inode of one that has gone, so its path counts, too."""
        place = (ident, call.netns, inode)
        for endpoint in present:
            if (endpoint.request.id, endpoint.request.netns, endpoint.netns_inode) == place:
                raise CniError(
                    errors.INTERFACE_EXISTS,
                    f"the container has an interface {call.ifname} of this network already",
                    f"endpoint {ident}",
                )

    async def _identity(self, call: Call, deadline: float) -> Identity:
        """Whose the endpoint is; `deadline` by the clock of the event loop."""
        wanted = call.wanted
        if call.settings.identity == "runtime" or not wanted.pod_namespace:
            return Identity.of_runtime(call)
        # A little before the deadline, so that the refusal says what was waited for.
        patience = (deadline - asyncio.get_running_loop().time()) * 0.95
        pod = await self._agent.pod(
            wanted.pod_namespace, wanted.pod_name, wanted.pod_uid, wait=max(patience, 0.0)
        )
        return Identity.of_pod(pod)

    # The other verbs.

    async def _del(self, call: Call) -> Answer:
        """Remove the attachment; no error when there is none."""
        ident = endpoint_id(call.name, call.attachment)
        present = await self._agent.endpoints()
        under_way = tuple(self._adding.get(ident, {}).items())
        begun = [began for _, began in under_way]
        begun += [found.request.began for found in present if found.request.id == ident]
        if any(late_del(began, call.started) for began in begun):
            log.warning("a DEL that began before the ADD came after it", endpoint=ident)
            return Answer(b"")
        self._order.deleted(ident, call.started)
        for task, _ in under_way:
            task.cancel()
        async with self._locks.hold(ident):
            await self._agent.detach(ident)
        return Answer(b"")

    async def _check(self, call: Call) -> Answer:
        ident = endpoint_id(call.name, call.attachment)
        inode = self._namespace(call)
        found = [e for e in await self._agent.endpoints() if e.request.id == ident]
        if not found:
            raise CniError(errors.UNKNOWN_CONTAINER, "there is no such attachment", ident)
        wrong = [
            *checking.differences(call, found[0], inode),
            *await self._agent.check(ident),
        ]
        if wrong:
            raise CniError(errors.DIFFERS, "the attachment is not as it was made", "; ".join(wrong))
        return Answer(b"")

    async def _gc(self, call: Call) -> Answer:
        """Remove every attachment of this network configuration that is not valid any more."""
        await self.empty()
        own = attachment.prefix(call.name)
        valid = {endpoint_id(call.name, item) for item in call.valid}
        garbage = [
            endpoint
            for endpoint in await self._agent.endpoints()
            if endpoint.request.id.startswith(own) and endpoint.request.id not in valid
        ]
        few = asyncio.Semaphore(AT_ONCE)
        results = await asyncio.gather(*(self._remove(endpoint, few) for endpoint in garbage))
        failed = [why for why in results if why]
        if failed:
            raise CniError(
                errors.FAILED, f"{len(failed)} attachments cannot be removed", "; ".join(failed)
            )
        return Answer(b"")

    async def _remove(self, endpoint: LocalEndpoint, few: asyncio.Semaphore) -> str:
        """Detach; why that failed, or empty."""
        ident = endpoint.request.id
        async with few, self._locks.hold(ident):
            log.info("garbage", endpoint=ident, container=endpoint.request.workload.id)
            try:
                await self._agent.detach(ident)
            except PlaitError as error:
                return f"{ident}: {error}"
        return ""

    async def _status(self, call: Call) -> Answer:
        """Whether an ADD would be served now."""
        status = await self._agent.status()
        why = "; ".join(status.problems)
        if status.forgotten:
            raise CniError(
                errors.LIMITED_CONNECTIVITY, "the server does not know this node any more", why
            )
        if not status.ready:
            raise CniError(errors.NOT_AVAILABLE, "the agent does not know the network yet", why)
        if call.settings.identity == "kubernetes" and not status.server_connected:
            raise CniError(
                errors.NOT_AVAILABLE,
                "the server is away: who new pods are cannot be known",
                why,
            )
        try:
            await self._network(call.settings.network)
        except PlaitError as error:
            refusal = as_cni(error)
            raise CniError(errors.NOT_AVAILABLE, refusal.msg, refusal.details) from error
        return Answer(b"")

    async def _version(self, call: Call) -> Answer:
        # The shim answers this itself; here for whoever asks the socket.
        return Answer(errors.versions(call.version))
