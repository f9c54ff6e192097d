"""Without a Chromium the browser tests are skipped and the run says so; where one is required they
fail.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser import INSTALL

ROOT = Path(__file__).parent.parent
TEST = "import pytest\n\n@pytest.mark.browser\ndef test_page(): pass\n\ndef test_other(): pass\n"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("required", [False, True])
def test_without_a_browser(tmp_path, required, workers):
    (tmp_path / "test_here.py").write_text(TEST)
    environment = {
        **os.environ,
        "PATH": str(tmp_path),
        "INTERP_REQUIRE_BROWSER": "1" if required else "",
    }
    # importing what is installed here takes most of the time
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "xdist",
            "-p",
            "tests.browser",
            "-c",
            os.devnull,
            f"--rootdir={tmp_path}",
            "-n",
            str(workers),
            "-p",
            "no:cacheprovider",
            "test_here.py",
        ],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    closing = done.stdout.strip().splitlines()[-2:]
    assert done.returncode == int(required), done.stdout + done.stderr
    if required:
        assert "1 passed" in closing[-1]
        assert "1 error" in closing[-1]
        assert f"INTERP_REQUIRE_BROWSER is set: {INSTALL}" in done.stdout
    else:
        assert "1 passed, 1 skipped" in closing[-1]
        assert closing[0].startswith("browser tests skipped: 1,")
        assert closing[0].endswith(INSTALL)
