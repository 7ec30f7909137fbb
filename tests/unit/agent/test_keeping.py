"""What the agent keeps: journal, ledger, snapshot and its copy, previous sysctls."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.agent import cache
from plait.agent import ledger as record
from plait.agent.journal import SLACK, Journal
from plait.agent.ledger import Ledger
from plait.agent.records import Records
from plait.agent.restore import Previous
from plait.agent.snapshot import Snapshot
from plait.client.agent import AttachRequest, LocalEndpoint
from plait.kernel.sysctl import FakeSysctl
from plait.model.errors import PlaitError
from plait.model.objects import AddressBlock, AddressBlockSpec, Metadata, Network, Node


def endpoint(ident: str, *addresses: str) -> LocalEndpoint:
    return LocalEndpoint(
        request=AttachRequest(id=ident, network="n"),
        addresses=addresses,
        mac="02:00:00:00:00:01",
        interface=f"pl{ident}",
    )


def journal(path: Path) -> Journal:
    return Journal(path, lambda: ())


class TestJournal:
    def test_survives_and_is_private(self, tmp_path: Path) -> None:
        path = tmp_path / "state" / "journal"
        first = journal(path)
        assert first.open() == []
        first.append({"t": "a"}, {"t": "b"})
        assert path.stat().st_mode & 0o777 == 0o600
        # No close: kill -9 leaves it like this.
        second = journal(path)
        assert second.open() == [{"t": "a"}, {"t": "b"}]
        second.close()
        first.close()

    @given(cut=st.integers(0, 60))
    @settings(max_examples=61)
    def test_a_torn_tail_is_a_prefix(self, cut: int) -> None:
        path = Path(os.environ.get("TMPDIR", "/tmp")) / f"plait-torn-{os.getpid()}"
        records = [{"t": "a", "n": i} for i in range(4)]
        try:
            path.unlink(missing_ok=True)
            writer = journal(path)
            writer.open()
            writer.append(*records)
            writer.close()
            os.truncate(path, min(cut, path.stat().st_size))
            reader = journal(path)
            found = reader.open()
            assert found == records[: len(found)]
            reader.append({"t": "z"})
            reader.close()
            again = journal(path)
            assert again.open() == [*found, {"t": "z"}]
            again.close()
        finally:
            path.unlink(missing_ok=True)

    def test_a_damaged_line_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        path.write_bytes(b'{"t":"a"}\n\xff\xfe{{{\n[]\n{"t":"b"}\n')
        opened = journal(path)
        assert opened.open() == [{"t": "a"}, {"t": "b"}]
        assert opened.damaged == 2
        opened.close()

    def test_it_does_not_grow_for_ever(self, tmp_path: Path) -> None:
        live = [{"t": "live"}]
        kept = Journal(tmp_path / "j", lambda: live)
        kept.open()
        for number in range(3 * SLACK):
            kept.append({"t": "x", "n": number})
        assert kept.lines <= SLACK + 5
        kept.close()
        again = journal(tmp_path / "j")
        assert again.open()[0] == {"t": "live"}
        again.close()

    def test_the_name_of_its_file_survives_the_loss_of_power(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is durable in it would be lost with it."""
        synced: list[int] = []
        real = os.fsync

        def noted(fd: int) -> None:
            synced.append(os.fstat(fd).st_ino)
            real(fd)

        monkeypatch.setattr(os, "fsync", noted)
        kept = journal(tmp_path / "state" / "j")
        kept.open()
        here = kept._path.parent.stat().st_ino
        assert synced == [here]
        kept.compact()
        assert synced == [here, here]
        kept.close()

    def test_a_full_disk_refuses_and_leaves_no_half_record(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = journal(tmp_path / "j")
        kept.open()
        kept.append({"t": "a"})
        real = os.write

        def full(fd: int, data: bytes) -> int:
            real(fd, data[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(PlaitError) as caught:
            kept.append({"t": "b"})
        assert caught.value.code == "PLAIT-STORE-001"
        monkeypatch.undo()
        kept.append({"t": "c"})
        kept.close()
        again = journal(tmp_path / "j")
        assert again.open() == [{"t": "a"}, {"t": "c"}]
        again.close()


class TestLedger:
    def test_records_fold_to_the_same_state(self) -> None:
        ledger = Ledger()
        ledger.fold(
            (
                {"t": "boot", "id": "b1"},
                record.held("n", "10.0.0.2", 1.0),
                record.attached(endpoint("e1", "10.0.0.2"), done=True),
                record.attached(endpoint("e2", "10.0.0.3"), done=False),
                record.attached(endpoint("e3", "10.0.0.4"), done=True),
                record.gone("e3", 5.0),
                record.held("n", "10.0.0.5", 2.0),
                record.resting("n", "10.0.0.6", 3.0),
                record.lent("n", "10.0.0.7", 4),
                record.lent("n", "10.0.0.8", 4),
                record.returned("n", "10.0.0.8"),
                {"t": "of-a-newer-agent"},
            )
        )
        assert set(ledger.endpoints) == {"e1", "e2"}
        assert ledger.unfinished == {"e2"}
        assert ledger.held == {("n", "10.0.0.5"): 2.0}
        assert ledger.resting == {("n", "10.0.0.4"): 5.0, ("n", "10.0.0.6"): 3.0}
        assert ledger.lent == {("n", "10.0.0.7"): 4}
        again = Ledger()
        again.fold(ledger.records())
        assert vars(again) == vars(ledger)

    def test_through_the_disk(self, tmp_path: Path) -> None:
        one = Records(tmp_path / "j")
        one.open()
        one.write(record.attached(endpoint("e1", "10.0.0.2", "fd00::2"), done=True))
        one.close()
        two = Records(tmp_path / "j")
        two.open()
        assert two.ledger.endpoints == one.ledger.endpoints
        two.close()


def node(name: str, revision: int) -> Node:
    return Node(metadata=Metadata(name=name, revision=revision))


class TestSnapshot:
    def test_an_older_fact_never_replaces_a_newer(self) -> None:
        snapshot = Snapshot()
        new, old = node("a", 5), node("a", 4)
        assert snapshot.put(new, answer=True) is None
        assert snapshot.put(old) is old
        assert snapshot.nodes["a"] is new
        assert snapshot.delete(old, 4) is None
        assert snapshot.delete(new, 6) is new
        assert snapshot.nodes == {}

    def test_a_listing_removes_what_it_does_not_name(self) -> None:
        snapshot = Snapshot()
        snapshot.put(node("stale", 3))
        snapshot.begin(10)
        snapshot.put(node("here", 4))
        # Our own write, answered while the listing was on its way.
        snapshot.put(node("fresh", 12), answer=True)
        assert [o.metadata.name for o in snapshot.synced(10)] == ["stale"]
        assert set(snapshot.nodes) == {"here", "fresh"}
        assert snapshot.ready
        assert snapshot.revision == 10

    def test_an_answer_that_comes_after_the_end_of_its_object_is_not_believed(self) -> None:
        snapshot = Snapshot()
        snapshot.begin(10)
        snapshot.put(node("a", 5))
        snapshot.synced(10)
        told = node("a", 11)
        snapshot.delete(told, 12)
        assert snapshot.put(told, answer=True) is told
        assert snapshot.nodes == {}
        assert snapshot.put(node("a", 13), answer=True) is None

    def test_an_answer_says_nothing_of_how_far_the_watch_has_come(self) -> None:
        snapshot = Snapshot()
        snapshot.begin(10)
        snapshot.synced(10)
        made = node("a", 20)
        snapshot.put(made, answer=True)
        assert snapshot.delete(made, 20, answer=True) is made
        assert snapshot.revision == 10

    def test_a_server_restored_from_a_backup_is_believed(self) -> None:
        snapshot = Snapshot()
        snapshot.begin(50)
        snapshot.put(Network(metadata=Metadata(name="n", revision=40, uid="new")))
        snapshot.put(node("later", 45))
        snapshot.synced(50)
        snapshot.begin(20)
        snapshot.put(Network(metadata=Metadata(name="n", revision=10, uid="old")))
        snapshot.synced(20)
        assert snapshot.networks["n"].metadata.uid == "old"
        assert snapshot.nodes == {}
        assert snapshot.revision == 20

    def test_through_the_disk(self, tmp_path: Path) -> None:
        path = tmp_path / "snapshot.json"
        assert cache.load(path) is None
        snapshot = Snapshot()
        snapshot.put(node("a", 3))
        snapshot.put(
            AddressBlock(
                metadata=Metadata(name="b", revision=4),
                spec=AddressBlockSpec(network="n", cidr="10.0.0.0/26"),
            )
        )
        cache.save(path, snapshot, 7)
        assert path.stat().st_mode & 0o777 == 0o600
        kept = cache.load(path)
        assert kept is not None
        again = Snapshot()
        again.restore(kept.objects, kept.revision)
        assert (again.nodes, again.blocks, again.revision) == (
            snapshot.nodes,
            snapshot.blocks,
            7,
        )
        assert again.ready
        assert not again.live
        path.write_bytes(b"{")
        assert cache.load(path) is None


def test_previous_sysctls_are_noted_once_and_put_back(tmp_path: Path) -> None:
    sysctl = FakeSysctl({"net/ipv4/ip_forward": "0", "net/x": "7"})
    wanted: dict[str, Any] = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/plait.vx/rp_filter": "2"}
    Previous(tmp_path / "r", sysctl).remember(wanted)
    sysctl.write("net/ipv4/ip_forward", "1")
    again = Previous(tmp_path / "r", sysctl)
    again.remember(wanted)
    assert again.values == {"net/ipv4/ip_forward": "0"}
    assert again.restore() == []
    assert sysctl.values["net/ipv4/ip_forward"] == "0"
    sysctl.write("net/ipv4/ip_forward", "1")
    sysctl.fail_next()
    assert len(again.restore()) == 1
