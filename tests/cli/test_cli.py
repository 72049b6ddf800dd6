"""The words of the command line."""

import argparse
import subprocess
import sys
from importlib import metadata

import pytest

from durableflow import cli, demo


def test_no_word_at_all_shows_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert "demo" in said
    assert "version" in said


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", {"durableflow": "1.2.3"}.__getitem__)
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == "1.2.3\n"


def test_version_of_a_source_tree_is_told_as_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", none)
    assert cli.main(["version"]) == 1
    assert "not installed" in capsys.readouterr().err


def test_the_code_of_a_command_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[argparse.Namespace]()

    def play(arguments: argparse.Namespace) -> int:
        seen.append(arguments)
        return 1

    monkeypatch.setattr(demo, "run", play)
    assert cli.main(["demo", "--store", "x.db"]) == 1
    assert seen[0].store == "x.db"


def test_an_unknown_word_is_refused_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        cli.main(["dance"])
    assert refused.value.code == 2
    assert "dance" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("module", [["durableflow", "demo"], ["durableflow.demo"]])
def test_help_tells_what_the_demo_does_and_loads_no_engine_room(module: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", *module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert "SIGKILL" in done.stdout
    assert "--store" in done.stdout
    assert "aiosqlite" not in done.stderr
    assert "durableflow.demo.play" not in done.stderr
