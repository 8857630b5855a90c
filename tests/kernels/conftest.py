"""The order of the tests of this folder."""


def pytest_collection_modifyitems(items):
    """The longest tests first, so that no worker of several waits for them at the end."""
    items.sort(key=lambda item: "compiled" not in item.fixturenames)
