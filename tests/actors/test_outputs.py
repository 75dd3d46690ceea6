"""Where a command will write is looked at, and nothing of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.wiring.outputs import check_directory, check_file
from domain.errors import OperatorError


def test_a_link_to_a_file_that_is_not_there_yet_stays(tmp_path: Path) -> None:
    link = tmp_path / "report.html"
    link.symlink_to("today.html")
    check_file(link, "--report")
    assert link.is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("target", ["report.html", "none/today.html"])
def test_a_link_that_leads_nowhere_is_refused_by_its_own_name(target: str, tmp_path: Path) -> None:
    link = tmp_path / "report.html"
    link.symlink_to(target)
    with pytest.raises(OperatorError, match="cannot be written") as refused:
        check_file(link, "--report")
    assert (refused.value.where, refused.value.exit_code) == (str(link), 2)
    assert link.is_symlink()


def test_a_directory_is_made_and_what_is_in_it_stays(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    check_directory(place, "--work-dir")
    assert not list(place.iterdir())
    for name in (".writable", "ES.html"):
        (place / name).write_text("mine")
    check_directory(place, "--work-dir")
    assert {path.name: path.read_text() for path in place.iterdir()} == {".writable": "mine", "ES.html": "mine"}


def test_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OperatorError, match="cannot be written") as refused:
            check_directory(place, "--work-dir")
        assert (refused.value.where, refused.value.exit_code) == (str(place), 2)
