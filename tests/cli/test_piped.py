"""Files that can be read only once: stdin as ``-``, and pipes of the shell."""

import io
import os
import threading
from pathlib import Path

import pytest

from interp.cli.piped_files import as_rereadable
from interp.errors import OptionError


class Stdin:
    """Bytes that are piped in, or a terminal that nobody types at."""

    def __init__(self, content: bytes, terminal: bool = False) -> None:
        self.buffer, self._terminal = io.BytesIO(content), terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"Hello\nBye\n", "stdin.txt"), (b'\n{"prompt": "Hello"}\n', "stdin.jsonl")],
)
def test_stdin_is_kept_whole_and_named_by_what_it_holds(monkeypatch, content, name):
    monkeypatch.setattr("sys.stdin", Stdin(content))
    copy = as_rereadable(Path("-"))
    assert copy.name == name
    assert copy.read_bytes() == copy.read_bytes() == content


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "63"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"One\nTwo\n",))
    writer.start()
    copy = as_rereadable(pipe)
    writer.join()
    assert copy.name == "pipe-63.txt"
    assert copy.read_text() == copy.read_text() == "One\nTwo\n"


def test_what_can_be_read_again_is_left_alone(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Hello\n")
    assert as_rereadable(file) is file
    assert as_rereadable(tmp_path / "absent.txt") == tmp_path / "absent.txt"
    assert as_rereadable("-") == "-"


@pytest.mark.parametrize(
    ("stdin", "said"), [(Stdin(b" \n"), "stdin is empty"), (Stdin(b"", True), "pipe one in")]
)
def test_nothing_piped_in_is_refused(monkeypatch, stdin, said):
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(OptionError, match=said):
        as_rereadable(Path("-"))
