"""A package or file that shadows one of ours: one line and exit code 2 before anything is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

import atft_engine

ROOT = Path(atft_engine.__file__).parent


@pytest.fixture
def start(tmp_path):
    """Start Python in a folder of its own, by default as the console script does: without the working folder on its
    path. `path` is PYTHONPATH."""

    def run(*arguments, path=(), script="import atft_engine; atft_engine.main()"):
        program = f"import sys; sys.path[:] = [part for part in sys.path if part]\n{script}"
        arguments = arguments or ("-c", program, "--version")
        environment = {"PATH": "", "PYTHONPATH": ":".join(map(str, path))}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    return run


def package(folder, name):
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise SystemError('imported')\n")
    return folder / name


def refused(result, name, place):
    code, _, err = result
    assert code == 2, err
    assert len(err.splitlines()) == 1
    assert err.startswith(f"error: {name!r} is {place}, which shadows {ROOT / name}. ")


@pytest.mark.parametrize("name", atft_engine.PACKAGES)
def test_a_package_on_pythonpath(start, tmp_path, name):
    place = package(tmp_path / "other", name)
    refused(start(path=[tmp_path / "other"]), name, place)


def test_a_distribution_of_the_same_name(start, tmp_path):
    folder = tmp_path / "site-packages"
    result = start(path=[package(folder, "kernels").parent])
    refused(result, "kernels", folder / "kernels")
    assert "Uninstall the distribution" in result[2]


def test_a_file_in_the_working_folder(start, tmp_path):
    (tmp_path / "engine.py").write_text("raise SystemError('imported')\n")
    assert start()[0] == 0  # the command's path does not hold the working folder
    refused(start("-m", "atft_engine", "--version"), "engine", tmp_path / "engine.py")
    (tmp_path / "engine.py").rename(tmp_path / "kernels.py")
    for module in ("engine", "hpo"):  # which are found where they belong, and look before they import more
        refused(start("-m", module, "--version", path=[ROOT]), "kernels", tmp_path / "kernels.py")


def test_a_folder_without_modules_counts_where_python_takes_it(start, tmp_path):
    (tmp_path / "hpo").mkdir()  # what `atft-engine hpo` writes by default
    assert start()[0] == 0


def test_workers_have_the_path_of_the_command(start, tmp_path):
    """Workers of hpo are processes that multiprocessing spawns: their path is the command's, not the working folder."""
    package(tmp_path, "engine")
    program = tmp_path / "bin" / "command"
    program.parent.mkdir()
    program.write_text(
        "import multiprocessing, sys\n"
        "import atft_engine\n"
        "if __name__ == '__main__':\n"
        "    atft_engine.refuse_clashes()\n"
        "    process = multiprocessing.get_context('spawn').Process(target=atft_engine.refuse_clashes)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    print(process.exitcode)\n"
    )
    assert start(str(program)) == (0, "0\n", "")


def test_a_missing_package(monkeypatch, capsys):
    monkeypatch.setattr(atft_engine, "PACKAGES", ("engine", "no_such_package"))
    with pytest.raises(SystemExit, match="2"):
        atft_engine.refuse_clashes()
    assert "no_such_package" in capsys.readouterr().err


def test_windows_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="2"):
        atft_engine.main()
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "WSL2" in err
