"""Workers of a fleet: programs that are killed as machines are lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[3] / "src"


class Workers:
    """Processes of one program, which end when their input does.

    Args:
        program: a file of Python.
        arguments: its own, unless `begin` is given others.
    """

    def __init__(self, program: Path, *arguments: str) -> None:
        self._program = program
        self._arguments = arguments
        self._env = os.environ | {"PYTHONPATH": str(SOURCE)}
        self.processes: list[subprocess.Popen[str]] = []
        self.kills = 0

    def begin(self, arguments: Sequence[str] | None = None) -> None:
        command = [sys.executable, str(self._program), *(self._arguments if arguments is None else arguments)]
        silence = subprocess.DEVNULL
        process = subprocess.Popen(
            command, env=self._env, stdin=subprocess.PIPE, stdout=silence, stderr=silence, text=True
        )
        self.processes.append(process)

    def kill(self, which: int) -> None:
        """By SIGKILL; raises if it had ended before, by itself."""
        process = self.processes.pop(which)
        assert process.poll() is None, f"a worker ended by itself, with {process.returncode}"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.kills += 1

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
