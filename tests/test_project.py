"""The project's own files agree with each other."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sdiff
from pipelines import demo

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked() -> dict[str, str]:
    """Name and version of every pinned package."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_the_lock_pins_what_the_project_asks_for() -> None:
    pins = locked()
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        asked = Requirement(text)
        assert asked.specifier.contains(pins[canonicalize_name(asked.name)]), text


def test_no_pin_is_a_build_of_one_machine() -> None:
    assert [name for name, version in locked().items() if "+" in version] == []


def test_the_package_and_the_project_have_one_version_and_the_changelog_begins_with_it_or_with_the_next() -> None:
    assert PROJECT["version"] == sdiff.__version__
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert versions[0] in ("Unreleased", sdiff.__version__)


def test_links_between_the_docs_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_demo_finds_its_jobs_in_an_installed_package() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"] == {"examples": "sdiff/examples"}
    assert demo.PACKAGE / "examples" in demo.PLACES and ROOT / "examples" in demo.PLACES
    assert [name for name in demo.JOBS if not (ROOT / "examples" / f"{name}.yaml").is_file()] == []
    container = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    assert 0 < container.index("COPY examples examples") < container.index("pip install --no-deps .")
