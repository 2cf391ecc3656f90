"""The tiny models of the export tests."""

from tests.deploy.conftest import make, save  # noqa: F401
