"""Fixtures that several test folders share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def an4_dir():
    """Folder of the AN4 corpus, from the environment variable AN4_DIR; without it the test is skipped."""
    value = os.environ.get("AN4_DIR")
    if not value:
        pytest.skip("AN4_DIR is not set: needs the AN4 corpus")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"AN4_DIR={value} is not a folder")
    return folder


def pytest_collection_modifyitems(items):
    """The longest file first, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_chain.py")
