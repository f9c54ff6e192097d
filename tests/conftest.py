"""What all tests share: no network, and nothing of this user's machine read or written."""

import os
import tempfile

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HOME=tempfile.mkdtemp(prefix="interp-tests-hub-"),
    INTERP_CACHE=tempfile.mkdtemp(prefix="interp-tests-cache-"),
    TOKENIZERS_PARALLELISM="false",
)
