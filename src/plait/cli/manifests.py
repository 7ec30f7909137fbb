"""Manifests: YAML or JSON text with one or several documents, into objects of the API.

Documents are Plait's own or Kubernetes' (`plait.policy.kubernetes`, `plait.services.kubernetes`),
alone or in a List.
A mistake is reported with its file and line and the nearest right word. Text is bounded in size,
depth and number of nodes, aliases counted each time they are used, for a manifest may come from
a stranger (`plait apply -f -`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
import yaml

from plait.cli.frame import nearest
from plait.model.errors import PlaitError
from plait.model.objects import API_VERSION, KINDS, AnyObject, Group, Object, Policy
from plait.policy import kubernetes, validate
from plait.services import kubernetes as foreign_services

MAX_BYTES: Final = 8 << 20
MAX_NODES: Final = 200_000
MAX_DEPTH: Final = 64

STORED: Final = (*kubernetes.POLICIES, ("v1", "Namespace"), *foreign_services.KINDS)
"""Kinds of Kubernetes' that become objects of the server."""

STORED_WORDS: Final = ", ".join(f"{name} ({version})" for version, name in STORED)

Lines = dict[str, int]
"""Line, from 1, of each value by its path as msgspec writes it: `$.spec.pools[0]`."""


class Document(NamedTuple):
    """One document of a manifest, not yet an object."""

    source: str
    data: Any
    lines: Lines
    root: str = "$"
    """Path of the data in the text: of an item of a List, `$.items[0]`."""

    def where(self, path: str = "$") -> str:
        """`file:line` of a path, or of the nearest value around it."""
        path = self.root + path.removeprefix("$")
        while path not in self.lines and path != "$":
            path = re.sub(r"(\.[^.\[]*|\[[^\]]*\])$", "", path) or "$"
        return f"{self.source}:{self.lines.get(path, 1)}"


class _Builder:
    """Plain data out of YAML nodes, within limits."""

    def __init__(self, loader: yaml.SafeLoader, source: str) -> None:
        self.loader = loader
        self.source = source
        self.count = 0

    def build(self, node: yaml.Node, path: str, lines: Lines, depth: int) -> Any:
        self.count += 1
        line = node.start_mark.line + 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            raise _invalid(f"{self.source}:{line}", "it is nested too deep or has too many values")
        lines[path] = line
        if isinstance(node, yaml.MappingNode):
            result = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise _invalid(f"{self.source}:{line}", "a key must be a word")
                key = key_node.value
                here = f"{path}.{key}"
                if key in result:
                    raise _invalid(
                        f"{self.source}:{key_node.start_mark.line + 1}", f"`{key}` stands twice"
                    )
                result[key] = self.build(value_node, here, lines, depth + 1)
                lines[here] = key_node.start_mark.line + 1
            return result
        if isinstance(node, yaml.SequenceNode):
            return [
                self.build(item, f"{path}[{i}]", lines, depth + 1)
                for i, item in enumerate(node.value)
            ]
        # YAML 1.1 would read 2024-01-01 as a date; every such value of ours is text.
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        return self.loader.construct_object(node)


def _invalid(where: str, why: str, *fix: str) -> PlaitError:
    return PlaitError("PLAIT-CLI-004", "the manifest is not valid", where=where, why=why, fix=fix)


def documents(text: str, source: str) -> Iterator[Document]:
    """The documents of a text; empty ones are left out."""
    if len(text) > MAX_BYTES:
        raise _invalid(source, f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        loader = yaml.SafeLoader(text)
        builder = _Builder(loader, source)
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            lines: Lines = {}
            data = builder.build(node, "$", lines, 0)
            if data is not None:
                yield from _items(Document(source, data, lines))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise _invalid(where, error.problem or str(error)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise _invalid(source, str(error).splitlines()[0]) from None
    except RecursionError:
        raise _invalid(source, "it is nested too deep") from None


def _items(document: Document) -> Iterator[Document]:
    """The items of a List, as `kubectl get` and `plait get` print it, or the document itself.

    Items of a `NetworkPolicyList`, as an API server sends it, do not say what they are."""
    data = document.data
    kind = str(data.get("kind", "")) if isinstance(data, dict) else ""
    if not kind.endswith("List") or not isinstance(data.get("items"), list):
        yield document
        return
    known = {"apiVersion": data.get("apiVersion"), "kind": kind.removesuffix("List")}
    for i, item in enumerate(data["items"]):
        if kind != "List" and isinstance(item, dict):
            item = known | item
        yield document._replace(data=item, root=f"{document.root}.items[{i}]")


def _known_words(path: str, kind: type[Object]) -> tuple[str, ...]:
    """What may stand at a path: `$.spec` has names of fields, `$.spec.tier` values."""
    names: tuple[str, ...] = ()
    current: Any = msgspec.inspect.type_info(kind)
    for step in re.findall(r"\.([^.\[]+)|\[", path):
        if isinstance(current, msgspec.inspect.UnionType):
            current = current.types[0]
        if not step:
            current = getattr(current, "item_type", None)
        elif isinstance(current, msgspec.inspect.StructType):
            fields = {f.encode_name: f.type for f in current.fields}
            current = fields.get(step)
    if isinstance(current, msgspec.inspect.LiteralType):
        return tuple(map(str, current.values))
    if isinstance(current, msgspec.inspect.VarTupleType):
        current = current.item_type
    if isinstance(current, msgspec.inspect.StructType):
        names = tuple(f.encode_name for f in current.fields)
        if current.tag_field:
            names += (current.tag_field,)
    return names


def to_object(document: Document) -> AnyObject:
    """The object of a document that can be stored; PLAIT-CLI-004 names file, line and the nearest
    right word."""
    data = document.data
    if not isinstance(data, dict):
        raise _invalid(document.where(), "a document must be a mapping with `kind`")
    if kubernetes.key_of(data) in STORED:
        found = _translated(document)
        assert found is not None
        return found
    version = data.get("apiVersion")
    if version != API_VERSION:
        raise _foreign(document, version)
    kind = KINDS.get(str(data.get("kind", "")))
    if kind is None:
        word = str(data.get("kind", ""))
        hints = nearest(word, list(KINDS))
        raise _invalid(
            document.where("$.kind"),
            f"there is no kind `{word}`" if word else "`kind` is missing",
            f"write `kind: {hints[0] if hints else ' or '.join(KINDS)}`",
        )
    if kind.namespaced and isinstance(data.get("metadata"), dict):
        metadata = {"namespace": "default", **data["metadata"]}
        data = {**data, "metadata": metadata}
    try:
        return _checked(msgspec.convert(data, type=AnyObject))
    except msgspec.ValidationError as error:
        raise _explained(document, kind, str(error)) from None
    except PlaitError as error:
        raise _refused(document, error) from None


def to_known(document: Document) -> AnyObject | None:
    """The object of a document that has a part in policy, for answers without a server.

    Pods and nodes of Kubernetes count too. None for what has no part: a Deployment, a pod without
    an address of its own. Network policies of kinds that are not known are refused, for without
    them the answer would be another."""
    if isinstance(document.data, dict):
        if _is_service(document.data) or kubernetes.understood(document.data):
            return _translated(document)
        if _has_no_part(*kubernetes.key_of(document.data)):
            return None
    return to_object(document)


def _has_no_part(version: str, kind: str) -> bool:
    """Whether it is somebody else's kind, and not one of ours with a mistake in its version."""
    if not version or not kind or version.startswith("plait/") or "NetworkPolicy" in kind:
        return False
    # Others have kinds called Policy or Cluster, too, in groups that are DNS names.
    return kind not in KINDS or "." in version


def _is_service(data: dict[str, Any]) -> bool:
    return kubernetes.key_of(data) in foreign_services.KINDS


def _translated(document: Document) -> AnyObject | None:
    try:
        if _is_service(document.data):
            return foreign_services.to_object(document.data)
        return kubernetes.to_object(document.data)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at ")
        path = at.strip("`") or "$"
        inside = path.removeprefix("$.") if path != "$" else str(document.data.get("kind"))
        raise _invalid(document.where(path), f"{inside}: {text}") from None
    except PlaitError as error:
        raise _refused(document, error) from None


def _checked(obj: AnyObject) -> AnyObject:
    """What the server would refuse of a policy is refused here, where its line is known; what it
    would write in another way is written so, for the two to be equal."""
    if isinstance(obj, Policy):
        return msgspec.structs.replace(obj, spec=validate.policy(obj.spec))
    if isinstance(obj, Group):
        return msgspec.structs.replace(obj, spec=validate.group(obj.spec))
    return obj


def _refused(document: Document, error: PlaitError) -> PlaitError:
    """A refusal of a field, by its line."""
    why = f"{error.where}: {error.detail}" + (f"; {error.why}" if error.why else "")
    return _invalid(document.where(f"$.{error.where}"), why, *error.fix)


def _foreign(document: Document, version: Any) -> PlaitError:
    data = document.data
    if kubernetes.understood(data):
        return _invalid(
            document.where("$.kind"),
            f"a {data['kind']} is read, but not stored: Kubernetes keeps it",
            "plait policy matrix -f FILE   # answers from it",
        )
    kind = str(data.get("kind", ""))
    stored = {name for _, name in STORED}
    if version and kind and kind not in {*KINDS, *stored} and not str(version).startswith("plait/"):
        newer = "ClusterNetworkPolicy" if "AdminNetworkPolicy" in kind else ""
        return _invalid(
            document.where("$.kind"),
            f"kind `{kind}` of {version} is no object of the network",
            f"write it as a {newer}"
            if newer
            else f"take it out; of others, {STORED_WORDS} are taken",
        )
    return _invalid(
        document.where("$.apiVersion"),
        f"`apiVersion` is {version!r}" if version is not None else "`apiVersion` is missing",
        _right_version(kind),
    )


def _right_version(kind: str) -> str:
    """What to write as `apiVersion` of a kind."""
    versions = {name: group for group, name in STORED if name not in KINDS}
    return f"write `apiVersion: {versions.get(kind, API_VERSION)}`"


def _explained(document: Document, kind: type[Object], message: str) -> PlaitError:
    text, _, at = message.partition(" - at ")
    path = at.strip("`") or "$"
    if wrong := re.fullmatch(r"Invalid enum value '(.*)'", text):
        words = _known_words(path, kind)
        folded = {word.lower(): word for word in words}
        near = tuple(folded[word] for word in nearest(wrong.group(1).lower(), list(folded)))
        return _invalid(
            document.where(path),
            f"{path.removeprefix('$.')}: there is no `{wrong.group(1)}`",
            f"write `{near[0]}`" if near else "values are " + ", ".join(words),
        )
    inside = path.removeprefix("$").removeprefix(".") or kind.__name__
    if missing := re.search(r"missing required field `(.+)`", text):
        return _invalid(document.where(path), f"`{missing.group(1)}` is missing in {inside}")
    unknown = re.search(r"unknown field `(.+)`", text)
    if unknown is None:
        return _invalid(document.where(path), f"{path.removeprefix('$.')}: {text}")
    field = unknown.group(1)
    known = _known_words(path, kind)
    hints = nearest(field, known)
    fix = f"write `{hints[0]}`" if hints else "fields are " + ", ".join(known)
    return _invalid(
        document.where(f"{path}.{field}"), f"there is no field `{field}` in {inside}", fix
    )


def objects(text: str, source: str) -> list[AnyObject]:
    """Every object of a text."""
    return [to_object(document) for document in documents(text, source)]
