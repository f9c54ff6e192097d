"""The entry point for pytest: it loads ``interp.pytest_plugin`` once, under that name.

If the plugin itself were the entry point, it would be registered under the name of the entry point;
``-p interp.pytest_plugin`` and ``pytest_plugins`` in a conftest, which use the module's name, would
then fail with "already registered".
"""

from typing import Any


def pytest_addoption(parser: Any, pluginmanager: Any) -> None:
    """Load the plugin, which adds the options, unless it is already loaded or blocked."""
    pluginmanager.import_plugin("interp.pytest_plugin")
