"""Which policy somebody means: by its name, or by the object that it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from plait.model.errors import PlaitError
from plait.model.policies import Policy


def origin_texts(policy: Policy) -> tuple[str, ...]:
    """What its origin is called: `networkpolicy/shop/web`, `shop/web`, `web`."""
    origin = policy.spec.origin
    if origin is None:
        return ()
    place = f"{origin.namespace}/{origin.name}" if origin.namespace else origin.name
    return tuple(dict.fromkeys((f"{origin.kind.lower()}/{place}", place, origin.name)))


def find_policy(policies: Sequence[Policy], text: str) -> Policy:
    """The policy that a text means; PLAIT-API-004 names the nearest when there is none.

    A name comes first, then the longest way to say an origin that only one policy has.
    """
    for policy in policies:
        if policy.metadata.name == text:
            return policy
    wanted = text.lower()
    found = [policy for policy in policies if wanted in origin_texts(policy)]
    if len(found) == 1:
        return found[0]
    if found:
        raise PlaitError(
            "PLAIT-API-004",
            f"{len(found)} policies were made of an object called `{text}`",
            fix=tuple(f"plait policy show {policy.metadata.name}" for policy in found[:3]),
        )
    names = [name for p in policies for name in (p.metadata.name, *origin_texts(p))]
    hints = get_close_matches(text, names, n=2, cutoff=0.55)
    raise PlaitError(
        "PLAIT-API-004",
        f"there is no policy `{text}`",
        fix=(*(f"plait policy show {hint}" for hint in hints), "plait policy ls"),
    )


def find_policies(policies: Sequence[Policy], texts: Iterable[str]) -> list[Policy]:
    """Those that several texts mean, each once; a text with `*` means all whose name it matches.

    PLAIT-API-004 as `find_policy`, also for a pattern that matches none.
    """
    found: dict[str, Policy] = {}
    for text in texts:
        if "*" not in text:
            meant = [find_policy(policies, text)]
        elif not (meant := [p for p in policies if fnmatchcase(p.metadata.name, text)]):
            raise PlaitError(
                "PLAIT-API-004", f"no policy has a name like `{text}`", fix=("plait policy ls",)
            )
        found |= {policy.metadata.name: policy for policy in meant}
    return list(found.values())
