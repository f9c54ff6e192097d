"""Memory and processor time of a command, of its own process alone."""

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# A process starts with the largest resident memory of the one that started it (Linux keeps it over
# exec), and a benchmark that has loaded models is large: a process that holds nothing starts it.
_LAUNCHER = """
import json, os, subprocess, sys
process = subprocess.Popen(
    json.loads(sys.argv[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
)
_, status, used = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_maxrss, used.ru_utime + used.ru_stime]))
"""


def resources(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> tuple[float, float]:
    """Largest resident memory, GB, and CPU seconds of a command; stops where it fails."""
    launched = subprocess.run(
        [sys.executable, "-I", "-c", _LAUNCHER, json.dumps(list(command))],
        cwd=cwd,
        env=dict(environment),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    code, kilobytes, seconds = json.loads(launched.stdout)
    if code:
        raise SystemExit(f"{shlex.join(command)} ended with {code}")
    return kilobytes * (1 if sys.platform == "darwin" else 1 << 10) / 1e9, seconds
