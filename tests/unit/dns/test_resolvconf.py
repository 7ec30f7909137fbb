from __future__ import annotations

from pathlib import Path

from plait.dns.resolvconf import ResolvConf, parse


def test_nameserver_lines_are_read_as_libc_reads_them() -> None:
    text = """# comment
nameserver 192.0.2.1
 nameserver   2001:DB8::1  # trailing
nameserver fe80::1%eth0
nameserver
nameserver not-an-address
search example.org
nameserver 192.0.2.1
nameserver 192.0.2.4
"""
    assert parse(text) == (("192.0.2.1", 53), ("2001:db8::1", 53), ("fe80::1%eth0", 53))
    assert parse("") == ()


def test_the_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "resolv.conf"
    conf = ResolvConf(path, lambda: now)
    assert conf() == ()
    path.write_text("nameserver 192.0.2.1\n")
    assert conf() == ()
    now += 1
    assert conf() == (("192.0.2.1", 53),)
    path.write_bytes(b"nameserver 192.0.2.22\n\xff\xfe\n")
    now += 1
    assert conf() == (("192.0.2.22", 53),)
    path.unlink()
    now += 1
    assert conf() == ()
