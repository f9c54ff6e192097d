"""What pytest finds installed: it loads ``interp.pytest_plugin`` under that name, once, whoever
asks for it first.

An entry point that is the plugin itself is registered under the entry point's name; ``-p
interp.pytest_plugin`` and ``pytest_plugins`` in a conftest, which ask by the module's name, would
then end in "already registered".
"""

from typing import Any


def pytest_addoption(parser: Any, pluginmanager: Any) -> None:
    """Load the plugin, whose own options follow, unless it is there or blocked."""
    pluginmanager.import_plugin("interp.pytest_plugin")
