"""What is decided without asking anybody: order, ids, what a CHECK compares, what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plait.client.agent import AttachRequest, AttachResult, LocalEndpoint
from plait.cni import attachment, checking, conflist
from plait.cni import install as installing
from plait.cni.kept import STALE, Kept
from plait.cni.order import FORGET, Order, late_del
from plait.cni.refusals import CODES, as_cni
from plait.model.errors import CODES as KNOWN
from plait.model.errors import PlaitError
from plait.model.paths import Paths
from plait.wire.cni.call import Attachment, Call, Settings
from plait.wire.cni.result import Interface, Ip, Result, Route
from plait.wire.cni.wanted import Wanted

AT = Attachment("c1", "eth0")


class TestOrder:
    def test_an_add_that_began_before_a_served_del_is_late(self) -> None:
        order = Order(5)
        order.deleted("e1", 20)
        assert order.late_add("e1", 19)
        assert not order.late_add("e1", 21)
        assert not order.late_add("e1", 0)
        assert not order.late_add("e2", 19)

    def test_a_del_that_began_before_a_served_add_is_late(self) -> None:
        assert late_del(20, 19)
        assert not late_del(20, 20)
        assert not late_del(20, 21)
        assert not late_del(20, 0)
        assert not late_del(0, 19)

    def test_what_came_before_it_is_not_known(self) -> None:
        order = Order(20)
        assert order.forgotten(19)
        assert not order.forgotten(20)
        assert not order.forgotten(0)

    def test_an_earlier_del_does_not_move_the_fence_back(self) -> None:
        order = Order(5)
        order.deleted("e1", 20)
        order.deleted("e1", 10)
        assert order.late_add("e1", 15)

    def test_it_forgets_what_cannot_matter_any_more(self) -> None:
        order = Order(0)
        for number in range(5000):
            order.deleted(f"e{number}", 1 + number * FORGET // 10)
        assert len(order._deleted) < 20


class TestIds:
    def test_an_attachment_has_one_id_of_the_agent_s_form(self) -> None:
        ident = attachment.endpoint_id("podnet", AT)
        assert ident == attachment.endpoint_id("podnet", Attachment("c1", "eth0"))
        assert ident.startswith(attachment.prefix("podnet"))
        assert len(ident) <= 64
        assert ident.replace("-", "").isalnum()
        assert ident.islower()

    def test_others_have_others(self) -> None:
        others = [
            ("other", AT),
            ("podnet", Attachment("c1", "eth1")),
            ("podnet", Attachment("c1e", "th0")),
        ]
        ids = {attachment.endpoint_id(*which) for which in [("podnet", AT), *others]}
        assert len(ids) == 4


def call(**more: object) -> Call:
    said = {"verb": "ADD", "version": "1.1.0", "name": "podnet", "attachment": AT}
    return Call(**{**said, "netns": "/run/netns/c1", **more})  # type: ignore[arg-type]


def endpoint(ident: str = "e1", inode: int = 7, **more: object) -> LocalEndpoint:
    return LocalEndpoint(
        **{
            "request": AttachRequest(id=ident, network="plait"),
            "addresses": ("10.0.0.2", "fd00::2"),
            "mac": "02:00:00:00:00:02",
            "interface": "pl1",
            "phase": "ready",
            "netns_inode": inode,
            **more,
        }
    )  # type: ignore[arg-type]


RESULT = Result(
    interfaces=(Interface(name="pl1"), Interface(name="eth0", sandbox="/run/netns/c1")),
    ips=(Ip(address="10.0.0.2/32", interface=1), Ip(address="fd00::2/128", interface=1)),
)


class TestDefaultRoute:
    def test_the_first_interface_has_it(self) -> None:
        assert attachment.wants_default_route(call(), [])
        assert not attachment.wants_default_route(call(), [endpoint()])

    def test_not_beside_that_of_a_plugin_before_us(self) -> None:
        for dst, expected in (("0.0.0.0/0", False), ("::/0", False), ("10.0.0.0/8", True)):
            previous = Result(routes=(Route(dst=dst),))
            assert attachment.wants_default_route(call(previous=previous), []) is expected

    @pytest.mark.parametrize("said", [True, False])
    def test_what_is_said_counts_first(self, said: bool) -> None:
        settings = Settings(default_route=said)
        assert attachment.wants_default_route(call(settings=settings), [endpoint()]) is said


def test_routes_of_a_result_are_those_that_the_agent_makes() -> None:
    attached = AttachResult(
        id="e1", interface="pl1", peer_name="eth0", mac="02:00:00:00:00:02", mtu=1450,
        addresses=("10.0.0.2", "fd00::2"), gateways=(), pools=("10.0.0.0/24", "fd00::/64"),
    )  # fmt: skip
    routes = attachment.result(call(), attached, default_route=True).routes
    assert [route.dst for route in routes] == ["0.0.0.0/0", "::/0"]
    routes = attachment.result(call(), attached, default_route=False).routes
    assert [(route.dst, route.gw) for route in routes] == [
        ("10.0.0.0/24", "169.254.1.1"),
        ("169.254.1.1/32", ""),
        ("fd00::/64", "fe80::1"),
        ("fd70:6c61:6974::53/128", "fe80::1"),
    ]


class TestIdentity:
    def test_names_of_runtimes_become_labels_and_stay_aliases(self) -> None:
        request = attachment.request(
            call(wanted=Wanted(pod_name="My_Web", aliases=("db", "..", "db"))),
            attachment.Identity.of_runtime(call(wanted=Wanted(pod_name="My_Web"))),
            default_route=True,
        )
        assert (request.name, request.aliases) == ("my-web", ("my_web", "db"))

    def test_nothing_is_said(self) -> None:
        identity = attachment.Identity.of_runtime(call())
        assert (identity.namespace, identity.name, identity.aliases) == ("default", "", ())


class TestChecking:
    def differences(self, result: Result = RESULT, **more: object) -> list[str]:
        return list(checking.differences(call(previous=result), endpoint(**more), 7))

    def test_nothing_differs(self) -> None:
        assert self.differences() == []

    def test_later_plugins_may_add_what_they_like(self) -> None:
        more = Result(
            interfaces=(*RESULT.interfaces, Interface(name="eth9", sandbox="/run/netns/c1")),
            ips=(*RESULT.ips, Ip(address="192.0.2.1/24", interface=2)),
            routes=(Route(dst="192.0.2.0/24"),),
        )
        assert self.differences(more) == []

    @pytest.mark.parametrize(
        ("result", "more", "said"),
        [
            (RESULT, {"inode": 8}, ["another namespace"]),
            (RESULT, {"phase": "degraded", "message": "fenced"}, ["degraded: fenced"]),
            (RESULT, {"phase": "pending"}, ["pending: it has no identity yet"]),
            (RESULT, {"interface": "pl2"}, ["no interface pl2 of the host"]),
            (
                RESULT,
                {"addresses": ("10.0.0.3", "fd00::2")},
                ["the endpoint has the address 10.0.0.3", "prevResult gives 10.0.0.2"],
            ),
            (RESULT, {"addresses": ("10.0.0.2",)}, ["prevResult gives fd00::2"]),
            (Result(), {}, ["no interface eth0 in a sandbox"]),
        ],
    )
    def test_what_differs_is_said(
        self, result: Result, more: dict[str, object], said: list[str]
    ) -> None:
        found = self.differences(result, **more)
        assert len(found) == len(said)
        assert all(words in line for words, line in zip(said, found, strict=True))


def test_refusals_have_codes_that_exist() -> None:
    assert CODES.keys() <= KNOWN.keys()
    error = as_cni(PlaitError("PLAIT-IPAM-012", "no address", why="all in use", fix=("a", "b")))
    assert (error.code, error.msg) == (102, "PLAIT-IPAM-012: no address")
    assert error.details == "all in use; fix: a or: b"
    assert as_cni(PlaitError("PLAIT-KERNEL-001", "x")).code == 100


class TestKept:
    def test_no_directory_is_an_empty_one(self, tmp_path: Path) -> None:
        kept = Kept(tmp_path / "none", "boot")
        assert list(kept.calls()) == []
        assert kept.count() == 0

    def test_what_a_shim_never_finished_goes_a_while_later(self, tmp_path: Path) -> None:
        (tmp_path / ".half").write_bytes(b"PLAIT_BOOT=boot")
        written = (tmp_path / ".half").stat().st_mtime
        for later, left in ((STALE / 2, [".half"]), (STALE + 1, [])):
            kept = Kept(tmp_path, "boot", clock=lambda later=later: written + later)
            assert list(kept.calls()) == []
            assert [path.name for path in tmp_path.iterdir()] == left

    def test_a_file_that_was_replaced_meanwhile_stays(self, tmp_path: Path) -> None:
        body = b"PLAIT_BOOT=boot\0CNI_COMMAND=DEL\0CNI_CONTAINERID=c1\0CNI_IFNAME=eth0\0\0"
        body += b'{"cniVersion":"1.0.0","name":"podnet"}'
        (tmp_path / "one").write_bytes(body)
        kept = Kept(tmp_path, "boot")
        (found,) = kept.calls()
        (tmp_path / ".two").write_bytes(body)
        (tmp_path / ".two").rename(tmp_path / "one")
        kept.done(found)
        assert kept.count() == 1
        (found,) = kept.calls()
        kept.done(found)
        kept.done(found)
        assert kept.count() == 0


class TestInstalling:
    @pytest.fixture
    def paths(self, tmp_path: Path) -> Paths:
        return Paths(tmp_path)

    @pytest.fixture
    def at(self, paths: Paths) -> installing.Places:
        return installing.places(paths, "plait", None, None)

    def install(self, paths: Paths, at: installing.Places, **choices: str) -> None:
        installing.remember(paths, at)
        installing.put(at.shim, b"\x7fELF" + installing.MARK, 0o755)
        installing.put(at.conflist, conflist.render(conflist.Choices(**choices)).encode(), 0o644)

    def test_what_is_put_is_found(self, paths: Paths, at: installing.Places) -> None:
        assert installing.look(paths, at) == installing.Found()
        self.install(paths, at, network="shop", identity="kubernetes")
        found = installing.look(paths, at)
        assert (found.shim, found.conflist) == (str(at.shim), str(at.conflist))
        assert (found.network, found.identity, found.current) == ("shop", "kubernetes", False)
        assert [path.name for path in at.conflist.parent.iterdir()] == ["10-plait.conflist"]

    def test_places_are_the_same_from_everywhere(
        self, paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        at = installing.places(paths, "plait", Path("bin"), Path("conf"))
        assert at == (tmp_path / "bin/plait", tmp_path / "conf/10-plait.conflist")

    def test_putting_it_again_changes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "a/b"
        assert installing.put(path, b"x", 0o644)
        assert not installing.put(path, b"x", 0o644)
        assert installing.put(path, b"y", 0o644)
        assert installing.put(path, b"y", 0o755)
        assert path.stat().st_mode & 0o777 == 0o755

    @pytest.mark.parametrize("which", [0, 1])
    def test_files_of_others_are_refused_and_left(
        self, paths: Paths, at: installing.Places, which: int
    ) -> None:
        at[which].parent.mkdir(parents=True)
        at[which].write_text('{"type": "bridge"}')
        with pytest.raises(PlaitError) as caught:
            installing.refuse_foreign(at)
        assert caught.value.code == "PLAIT-API-005"
        assert caught.value.fix[-1].split()[-2] == ("--bin-dir", "--name")[which]
        assert not installing.remove_conflist(at)
        assert not installing.remove_shim(paths, at)
        installing.remove_all(paths)
        assert at[which].exists()

    def test_the_shim_stays_while_another_configuration_calls_it(self, paths: Paths) -> None:
        first, second = (installing.places(paths, name, None, None) for name in ("plait", "two"))
        self.install(paths, first)
        self.install(paths, second, name="two")
        assert installing.remove_conflist(first)
        assert not installing.remove_shim(paths, first)
        assert installing.remove_conflist(second)
        assert installing.remove_shim(paths, second)
        assert not paths.cni_installed.exists()

    def test_everything_goes_from_everywhere(self, paths: Paths, tmp_path: Path) -> None:
        usual = installing.places(paths, "plait", None, None)
        other = installing.places(paths, "two", tmp_path / "bin", tmp_path / "conf")
        for at in (usual, other):
            self.install(paths, at)
        installing.remove_all(paths)
        assert not any(path.parent.exists() for at in (usual, other) for path in at)

    def test_directories_of_others_stay(self, paths: Paths, at: installing.Places) -> None:
        at.shim.parent.mkdir(parents=True)
        self.install(paths, at)
        (at.conflist.parent / "99-other.conf").touch()
        installing.remove_all(paths)
        assert at.shim.parent.exists()
        assert at.conflist.parent.exists()

    def test_configurations_before_ours_are_told(self, paths: Paths, at: installing.Places) -> None:
        self.install(paths, at)
        (at.conflist.parent / "05-first.conf").write_text("{}")
        (at.conflist.parent / "99-last.conf").write_text("{}")
        (at.conflist.parent / "00-readme.txt").write_text("")
        assert installing.look(paths, at).before == ("05-first.conf",)

    @pytest.mark.parametrize("choices", [{"name": "a/b"}, {"deadline": 0}, {"deadline": 1000}])
    def test_choices_that_nobody_would_take(self, choices: dict[str, object]) -> None:
        with pytest.raises(PlaitError):
            conflist.check(conflist.Choices(**choices))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ('{"type": "plait"}', True),
            ('{"plugins": [{"type": "bridge"}, {"type": "plait"}]}', True),
            ('{"plugins": [{"type": "bridge"}]}', False),
            ('{"plugins": 3}', False),
            ("[]", False),
            ("{", False),
        ],
    )
    def test_a_configuration_is_ours_when_it_calls_our_plugin(self, text: str, found: bool) -> None:
        assert (conflist.plugin_of(text) is not None) == found
        assert json.loads(conflist.render(conflist.Choices()))["plugins"][0]["type"] == "plait"
