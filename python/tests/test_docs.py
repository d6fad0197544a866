"""The examples of the documentation: of what is Rust, of what is Python, of README.md and the chapter of the guide."""

import doctest
import inspect
import os
from pathlib import Path

import pulse_codec
import pytest
from conftest import HAS_TORCH
from pulse_codec import _pulse

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
PAGES = [Path(__file__).parents[1] / "README.md", Path(__file__).parents[2] / "docs" / "guide" / "python.md"]


def documented() -> dict[str, str]:
    """Docstrings by name."""
    found = {"pulse_codec": pulse_codec.__doc__ or ""} | {page.name: page.read_text() for page in PAGES}
    for name in pulse_codec.__all__:
        thing = getattr(pulse_codec, name)
        found[name] = inspect.getdoc(thing) or ""
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                found[f"{name}.{member}"] = inspect.getdoc(value) or ""
    return found


EXAMPLES = {name: text.replace("```", "") for name, text in documented().items() if ">>>" in text}
if not HAS_TORCH:
    EXAMPLES = {name: text for name, text in EXAMPLES.items() if "import torch" not in text}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"getfixture": request.getfixturevalue}
    example = doctest.DocTestParser().get_doctest(EXAMPLES[name], names, name, None, 0)
    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(example, out=failures.append)
    assert not failures, "".join(failures)
    assert example.examples


def test_everything_public_is_documented() -> None:
    for name, text in documented().items():
        if not name.split(".")[-1].startswith("_"):
            assert text, f"{name} has no docstring"
    assert "diff" in EXAMPLES and "Patch" in EXAMPLES and os.path.exists(_pulse.__file__)
