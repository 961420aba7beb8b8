"""The kernels are compiled once into the cache, and where they cannot be, that is one line and no traceback.

Most tests give a script as the compiler: it notes its arguments and copies the kernels that are there already.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from metarun.engine.kernels import build
from metarun.engine.kernels.build import NotBuilt, library
from metarun.engine.over_tasks import Compile, Engine, Vectorize

Script = Callable[..., Path]


@pytest.fixture(scope="module")
def compiled() -> Path:
    """The kernels as the rest of the tests use them."""
    return library().path


@pytest.fixture(autouse=True)
def fresh(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and nothing loaded."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("METARUN_CACHE", str(folder))
    library.cache_clear()
    yield folder
    library.cache_clear()  # the next test loads the kernels from the cache that is set then


@pytest.fixture
def compiler(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Make a script that is CXX from then on; ``first`` is what it does before it notes, and makes, its output."""

    def make(first: str = "", made: Path = compiled, name: str = "compiler") -> Path:
        script = tmp_path / name
        script.write_text(
            f'#!/bin/sh\n{first}\necho "$0 $@" >> {tmp_path}/log\n'
            f'while [ $# -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done\ncp {made} "$out"\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("CXX", str(script))
        return script

    return make


def runs(tmp_path: Path) -> list[str]:
    """The compiler's command lines so far."""
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


def reason() -> str:
    """Why there are no kernels: one line."""
    with pytest.raises(NotBuilt) as caught:
        library()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def loads() -> None:
    """The kernels are there and compute something."""
    library.cache_clear()
    assert library().width >= 4
    x, w = torch.randn(1, 2, 8, 4, 4).double(), torch.randn(1, 8, 8, 3, 3).double()
    got = torch.ops.metarun.convolve(x, w, 1, 1, False)[0]
    assert torch.allclose(got, torch.conv2d(x[0], w[0], padding=1))


def test_compiled_once(fresh: Path, tmp_path: Path, compiler: Script) -> None:
    compiler()
    loads()
    first = runs(tmp_path)
    assert any("native.cpp" in line for line in first) and any("-shared" in line for line in first)
    assert library() is library()
    loads()
    assert runs(tmp_path) == first
    (made,) = fresh.rglob("*.so")
    assert not any(path.is_dir() for path in made.parent.iterdir())
    made.unlink()
    loads()
    assert len(runs(tmp_path)) == 2 * len(first)


def test_another_compiler_or_machine_compiles_anew(
    tmp_path: Path, compiler: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler()
    loads()
    each = len(runs(tmp_path))
    compiler(name="other")
    loads()
    assert len(runs(tmp_path)) == 2 * each and "/other " in runs(tmp_path)[-1]
    monkeypatch.setattr(build, "_processor", lambda: b"flags: none")
    loads()
    assert len(runs(tmp_path)) == 3 * each


def test_other_flags_compile_anew(tmp_path: Path, compiler: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler()
    loads()
    each = len(runs(tmp_path))
    monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-g"])
    loads()
    assert len(runs(tmp_path)) == 2 * each


def test_another_source_compiles_anew(tmp_path: Path, compiler: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in build.HERE.iterdir():
        if path.suffix in (".h", ".cpp"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(build, "HERE", tmp_path)
    compiler()
    loads()
    each = len(runs(tmp_path))
    (tmp_path / "norm.h").write_text("// changed\n")
    loads()
    assert len(runs(tmp_path)) == 2 * each


def test_the_compiler_of_the_environment_is_used(tmp_path: Path, compiler: Script, fresh: Path) -> None:
    script = compiler(name="mine")
    loads()
    assert all(line.startswith(f"{script} ") for line in runs(tmp_path))


def test_it_may_be_a_name_on_the_path(tmp_path: Path, compiler: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script = compiler(name="mine++")
    monkeypatch.setenv("CXX", "mine++")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    loads()
    assert all(line.startswith(f"{script} ") for line in runs(tmp_path))


def test_it_may_have_arguments(tmp_path: Path, compiler: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """As make and CMake allow: ``CXX="ccache g++"``."""
    script = compiler()
    monkeypatch.setenv("CXX", f"{script} -pipe")
    loads()
    assert all(line.startswith(f"{script} -pipe ") for line in runs(tmp_path))


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert reason() == "no C++ compiler here (looked for no-such-compiler)"
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reason() == "no C++ compiler here (looked for c++, g++, clang++)"


FAILURES = {
    "an error": "echo 'native.h:1: error: no such thing' >&2; echo 'note: more' >&2; exit 1",
    "silence": "exit 1",
    "another language's letters": r"printf 'native.h: erreur: \351\n' >&2; exit 1",
    "a signal": "kill -9 $$",
    "nothing made": "exit 0",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_compiler_that_fails(failure: str, compiler: Script, fresh: Path) -> None:
    script = compiler(FAILURES[failure])
    said = reason()
    assert str(script) in said
    assert said.endswith("no such thing") == (failure == "an error")
    assert [path for path in fresh.rglob("*") if path.is_file()] == []


def test_a_compiler_that_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "compiler"
    script.write_bytes(b"\0\1\2")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert str(script) in reason()


def test_a_compiler_that_hangs(compiler: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: float) -> None:
        raise subprocess.TimeoutExpired(command, options["timeout"])

    compiler()
    monkeypatch.setattr(subprocess, "run", hang)
    assert "timed out" in reason()


def test_without_openmp(tmp_path: Path, compiler: Script) -> None:
    compiler('case "$*" in *-fopenmp*) exit 1;; esac')
    loads()
    assert runs(tmp_path) and not any("-fopenmp" in line for line in runs(tmp_path))


def test_an_openmp_that_is_not_torchs(tmp_path: Path, compiler: Script) -> None:
    """clang's names are others than those of GCC's library, which torch's wheels for Linux bring along."""
    source, foreign = tmp_path / "foreign.cpp", tmp_path / "foreign.so"
    source.write_text(
        'extern "C" { void __kmpc_no_such_call(); int vector_width() { __kmpc_no_such_call(); return 8; } }'
    )
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", foreign], check=True)
    compiler(
        f'case "$*" in *-fopenmp*) touch {tmp_path}/openmp;; *-c*) rm -f {tmp_path}/openmp;; esac\n'
        f'if [ -e {tmp_path}/openmp ]; then while [ $# -gt 1 ]; do shift; done; cp {foreign} "$1"; exit; fi'
    )
    loads()


@pytest.mark.parametrize("where", ["a file", "inside a file", "/proc/nothing", "a name too long", "read-only"])
def test_a_cache_that_cannot_be_written(
    where: str, tmp_path: Path, compiler: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler()
    (tmp_path / "file").touch()
    places = {
        "a file": tmp_path / "file",
        "inside a file": tmp_path / "file/cache",
        "a name too long": tmp_path / ("x" * 300),
    }
    monkeypatch.setenv("METARUN_CACHE", str(places.get(where, where)))
    if where == "read-only":  # a folder's permissions do not hold root back

        def refuse(*_: str, **__: str) -> str:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

        monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
        monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert str(places.get(where, tmp_path if where == "read-only" else where)) in reason()


def test_a_run_goes_on_with_a_cache_that_cannot_be_written(
    tmp_path: Path, compiler: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler()
    (tmp_path / "file").touch()
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="device.compile: .*several times slower"):
        cpu, conv = torch.device("cpu"), nn.Conv2d(1, 8, 3)
        engine = Engine.choose(Vectorize.auto, None, Compile.auto, cpu, conv, examples=1, width=1, run=lambda: None)
    assert engine.native is None and engine.how is Vectorize.loop


@pytest.mark.parametrize("folder", [".", "here", "./here"])
def test_a_cache_relative_to_where_one_is(
    folder: str, tmp_path: Path, compiler: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARUN_CACHE", folder)
    loads()


def flipped(whole: bytes) -> bytes:
    middle = len(whole) // 2
    return whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "its first bytes": lambda whole: whole[:100],
    "its first half": lambda whole: whole[: len(whole) // 2],  # the header is whole: loading it kills the process
    "all but its last byte": lambda whole: whole[:-1],
    "one byte more": lambda whole: whole + b"\0",
    "one bit": flipped,
    "zeros": lambda whole: bytes(len(whole)),
    "text": lambda whole: b"not a library\n" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_made_again(damage: str, compiler: Script, fresh: Path, tmp_path: Path) -> None:
    compiler()
    loads()
    each = len(runs(tmp_path))
    (made,) = fresh.rglob("*.so")
    whole = made.read_bytes()
    made.unlink()  # it is mapped into this process: not to be written over
    made.write_bytes(DAMAGES[damage](whole))
    made.chmod(0o600)
    with pytest.warns(UserWarning, match="damaged; compiling the kernels again"):
        loads()
    (again,) = fresh.rglob("*.so")
    assert again.read_bytes() == whole and len(runs(tmp_path)) == 2 * each


def test_only_the_user_can_read_or_write_what_is_made(compiler: Script, fresh: Path) -> None:
    compiler()
    before = os.umask(0o002)
    try:
        loads()
    finally:
        os.umask(before)
    (made,) = fresh.rglob("*.so")
    assert made.stat().st_mode & 0o777 == 0o600 and made.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o020, 0o002, 0o022])
@pytest.mark.parametrize("what", ["library", "folder"])
def test_what_others_can_write_is_refused(what: str, mode: int, compiler: Script, fresh: Path) -> None:
    compiler()
    loads()
    (made,) = fresh.rglob("*.so")
    path = made if what == "library" else made.parent
    path.chmod(path.stat().st_mode | mode)
    library.cache_clear()
    assert reason().startswith(f"other users can write {path}: ")
    path.chmod(path.stat().st_mode & ~mode)
    loads()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["library", "folder"])
def test_what_belongs_to_others_is_refused(what: str, compiler: Script, fresh: Path) -> None:
    compiler()
    loads()
    (made,) = fresh.rglob("*.so")
    path = made if what == "library" else made.parent
    os.chown(path, 12345, -1)
    library.cache_clear()
    assert reason().startswith(f"other users can write {path}: ")


@pytest.mark.parametrize(("mode", "well"), [(0o777, False), (0o1777, True), (0o775, True)])
def test_a_shared_cache(mode: int, well: bool, compiler: Script, fresh: Path) -> None:
    """In one that everybody can write to, another user could put a folder in the place of this user's; not if it is
    sticky, as /tmp is. A group may: many systems give each user a group of his own."""
    compiler()
    fresh.mkdir()
    fresh.chmod(mode)
    if well:
        loads()
    else:
        assert reason().startswith(f"everybody can write to {fresh}: ")
    fresh.chmod(0o755)
    loads()


def test_what_is_loaded_is_what_was_checked(
    tmp_path: Path, compiler: Script, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that takes its place afterwards is not looked at."""
    source, planted = tmp_path / "other.cpp", tmp_path / "other.so"
    source.write_text('extern "C" int vector_width() { return 123; }')
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", planted], check=True)
    checked = build._opened

    def then_swapped(path: Path, start: str) -> object:
        found = checked(path, start)
        os.replace(planted, path)
        return found

    compiler()
    monkeypatch.setattr(build, "_opened", then_swapped)
    assert library().width != 123


def test_a_library_of_something_else_is_given_up(tmp_path: Path, compiler: Script) -> None:
    source, other = tmp_path / "other.cpp", tmp_path / "other.so"
    source.write_text("int other() { return 1; }")
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", other], check=True)
    compiler(made=other)
    assert "vector_width" in reason()


LOAD = """
from metarun.engine.kernels.build import NotBuilt, library
try:
    print("width", library().width)
except NotBuilt as error:
    print("not built:", error)
"""


@pytest.mark.full
def test_two_processes_compile_at_once(tmp_path: Path, compiler: Script, fresh: Path) -> None:
    """Each compiler waits until the other process's has begun too."""
    compiler(
        f"touch {tmp_path}/begun.$PPID\n"
        f"for i in $(seq 600); do [ $(ls {tmp_path}/begun.* | wc -l) -ge 2 ] && break; sleep 0.1; done"
    )
    both = [subprocess.Popen([sys.executable, "-c", LOAD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=100)[0] for process in both]
    assert all(line.startswith("width") for line in said)
    assert len(runs(tmp_path)) == 4 and len(list(fresh.rglob("*.so"))) == 1
