"""Adapters say which versions they are written for."""

from importlib.metadata import version

import pytest

from pulse_codec.installed import check_version


def test_a_version_that_is_supported_passes() -> None:
    check_version("pytest", ("1", "1000"), "no-such-distribution", "pytest")
    check_version("pytest", (version("pytest"), "1000"), "pytest")


@pytest.mark.parametrize(
    ("supported", "distribution", "says"),
    [
        (("999", "1000"), "pytest", f"from 999 to before 1000; this is {version('pytest')}"),
        (("1", version("pytest")), "pytest", f"; this is {version('pytest')}"),
        (("1", "2"), "no-such-distribution", "from 1 to before 2; it is not installed"),
    ],
)
def test_what_is_not_supported_is_told(supported: tuple[str, str], distribution: str, says: str) -> None:
    with pytest.raises(ImportError, match=says.replace(".", r"\.")):
        check_version("the engine", supported, distribution)
