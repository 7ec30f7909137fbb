"""Images made without a registry, in the form of `docker save`."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from plait.lab.kubernetes import images


def test_an_archive_names_its_image_and_its_layer_by_digest(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        layer.addfile(tarfile.TarInfo("hello"))
    path = tmp_path / "image.tar"
    images.write_archive(path, "example.test/a:1", content.getvalue(), {"Cmd": ["sh"]})
    with tarfile.open(path) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (manifest,) = json.loads(read("manifest.json"))
        assert manifest["RepoTags"] == ["example.test/a:1"]
        config = read(manifest["Config"])
        assert manifest["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
        (layer_name,) = manifest["Layers"]
        digest = "sha256:" + hashlib.sha256(read(layer_name)).hexdigest()
    described = json.loads(config)
    assert described["rootfs"]["diff_ids"] == [digest]
    assert described["config"] == {"Cmd": ["sh"]}


def test_the_same_image_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        images.write_archive(tmp_path / name, "x:1", b"layer", {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
