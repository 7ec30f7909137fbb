"""What is missing is said before anything is made."""

import pytest

from plait.lab import preflight
from plait.model.errors import PlaitError


def test_all_there() -> None:
    preflight.check(docker=True, which=lambda program: f"/bin/{program}", uid=lambda: 0)


def test_without_root() -> None:
    with pytest.raises(PlaitError, match="PLAIT-HOST-002"):
        preflight.check(docker=False, which=lambda program: f"/bin/{program}", uid=lambda: 1000)


@pytest.mark.parametrize(
    ("docker", "fix"),
    [
        (False, "apt-get install -y util-linux"),
        (True, "apt-get install -y util-linux docker.io"),
    ],
)
def test_missing_programs_are_named_with_one_command_that_mends_it(docker: bool, fix: str) -> None:
    gone = {"unshare", "nsenter", "docker", "dockerd"}
    with pytest.raises(PlaitError, match="PLAIT-HOST-001") as error:
        preflight.check(
            docker=docker, which=lambda p: None if p in gone else f"/bin/{p}", uid=lambda: 0
        )
    assert error.value.fix == (fix,)
    assert ("dockerd" in error.value.detail) == docker
