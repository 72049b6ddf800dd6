"""A slower disk: a library, built here by the machine's C compiler, that makes a server's syncs take longer."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")


class NoCompilerError(Exception):
    """There is no C compiler here, or it could not build the library; the message says which."""


def environment(directory: Path, sync_ms: float) -> dict[str, str]:
    """What a server must find in its environment for each of its syncs to take at least `sync_ms`.

    Args:
        directory: where the library goes; whoever runs the server must be able to read there.
        sync_ms: 0 for the disk as it is.

    Raises:
        NoCompilerError: see there.
    """
    if not sync_ms:
        return {}
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        message = "there is no C compiler here: apt-get install gcc"
        raise NoCompilerError(message)
    library = directory / "slow_sync.so"
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        message = f"{SOURCE.name} could not be built: {built.stderr.strip()}"
        raise NoCompilerError(message)
    return {"LD_PRELOAD": str(library), "SLOW_SYNC_US": f"{sync_ms * 1000:.0f}"}
