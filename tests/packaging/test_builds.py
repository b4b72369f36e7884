"""An editable install, a wheel, and a wheel made from the sdist: each is built, installed and imported from elsewhere.

Builds use the test environment's hatchling and dependencies, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("attnengine", "attnengine_kernels", "attnengine_explorer")
WHERE = f"import {', '.join(PACKAGES)}\nfor package in ({', '.join(PACKAGES)}):\n    print(package.__file__)"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(root: Path, out: Path, *kind: str) -> Path:
    """The one wheel that `python -m build` leaves in ``out``."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *kind, root, cwd=out)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(root, tmp_path_factory.mktemp("wheel"), "--wheel")


@pytest.fixture(scope="module")
def wheel_from_sdist(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(root, tmp_path_factory.mktemp("sdist"))  # without a kind: the sdist, then the wheel from the sdist


def files_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_three_packages_and_neither_tests_nor_a_top_level_kernels(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in files_in(wheel)}
    assert tops == {*PACKAGES, f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"}


def test_the_wheel_holds_every_file_of_the_packages_scripts_styles_and_tables_included(root: Path, wheel: Path) -> None:
    expected = set()
    for container, package in zip((".", "kernels", "explorer"), PACKAGES, strict=True):
        base = root / container
        paths = (path for path in (base / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        expected |= {path.relative_to(base).as_posix() for path in paths}
    assert expected == {name for name in files_in(wheel) if ".dist-info/" not in name}


def test_the_wheel_made_from_the_sdist_holds_the_same_files_as_the_wheel(wheel: Path, wheel_from_sdist: Path) -> None:
    assert files_in(wheel_from_sdist) == files_in(wheel)


def test_the_sdist_carries_what_its_tests_and_its_readme_need(root: Path, wheel_from_sdist: Path) -> None:
    import tarfile

    (sdist,) = wheel_from_sdist.parent.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert {"tests", "Makefile", "README.md", "LICENSE", "CHANGELOG.md"} <= tops


def test_an_installed_wheel_imports_from_its_own_folder(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel, cwd=tmp_path)
    found = run(sys.executable, "-c", WHERE, cwd=tmp_path, PYTHONPATH=str(target)).split()
    assert found == [str(target / package / "__init__.py") for package in PACKAGES]
    assert (target / "bin" / "attnengine").exists()


def test_an_editable_install_imports_from_the_checkout_and_its_command_answers(root: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    # The new environment borrows this one's libraries by path; .pth files in there (another editable install) stay off.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ("install", "-q", "--no-deps", "--no-build-isolation", "--ignore-installed", "-e", root)
    run(sys.executable, "-m", "pip", "--python", python, *install, cwd=tmp_path)

    found = run(python, "-c", WHERE, cwd=tmp_path).split()

    folders = (root / "attnengine", root / "kernels/attnengine_kernels", root / "explorer/attnengine_explorer")
    assert found == [str(folder / "__init__.py") for folder in folders]
    assert "Usage" in run(home / "bin" / "attnengine", "--help", cwd=tmp_path)
