"""The compilation of the C++ kernels: the compiler, the cache, and what is said where there is none."""

import os
import shlex
import stat
import sys
import time
from pathlib import Path

import pytest
import torch

from nnunet_xattnres.ops import cpp_library
from nnunet_xattnres.ops.cpp_library import LibraryUnavailableError, find_compiler, load_library

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler")

FUNCTIONS = [f"{name}_{dtype}" for name in cpp_library._FUNCTIONS for dtype in ("float32", "float64")]
SOURCES = cpp_library._SOURCES


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, for a library whose functions do nothing, which takes less time to compile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "nothing.cpp"
    declarations = [*(f"int {name}" for name in FUNCTIONS), "int set_parallel"]
    source.write_text("\n".join(f'extern "C" {declaration}(void *) {{ return 0; }}' for declaration in declarations))
    monkeypatch.setattr(cpp_library, "_SOURCES", (source,))
    return tmp_path / "nnunet_xattnres"


@pytest.fixture
def fake_compiler(tmp_path, monkeypatch):
    """Let CXX name a program with this Python code, which takes the compiler's arguments."""

    def write(code):
        path = tmp_path / "fake c++"
        path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", shlex.quote(str(path)))
        return path

    return write


def load():
    """Load the library as a new process does."""
    return load_library.__wrapped__()


@needs_compiler
def test_the_library_is_compiled_once(cache, fake_compiler):
    counter = cache.parent / "calls"
    real = find_compiler()
    fake_compiler(
        f"import subprocess\nopen({str(counter)!r}, 'a').write('x')\nsys.exit(subprocess.call({real!r} + sys.argv[1:]))"
    )
    for _ in range(2):
        library = load()
        assert all(getattr(library, name).argtypes for name in FUNCTIONS)
    assert counter.read_text() == "x"
    (path,) = cache.iterdir()
    assert path.suffix == ".so"


@needs_compiler
def test_another_compiler_or_another_source_is_another_library(cache, tmp_path, monkeypatch):
    load()
    monkeypatch.setattr(cpp_library, "_OPTIONS", [*cpp_library._OPTIONS, "-g"])
    load()
    for name in ("_SOURCES", "_HEADERS"):
        first, *others = getattr(cpp_library, name)
        changed = tmp_path / f"changed{first.suffix}"
        changed.write_text(f'#include "{first}"\n')
        monkeypatch.setattr(cpp_library, name, (changed, *others))
        load()
    assert len(list(cache.iterdir())) == 4


@needs_compiler
def test_what_a_killed_compilation_has_left_is_removed(cache):
    left, other = cache / "compiling-left", cache / "compiling-other"
    for folder in (left, other):
        folder.mkdir(mode=0o700, parents=True)
        (folder / "cpp_kernels.so").write_text("cut off")
    an_hour_ago = time.time() - 3600
    os.utime(left, (an_hour_ago, an_hour_ago))
    load()
    assert not left.exists() and (other / "cpp_kernels.so").exists()


@needs_compiler
def test_a_cache_that_cannot_be_written(monkeypatch, cache):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cache)
    assert load().forward_float32
    assert not list(cache.iterdir())


@needs_compiler
def test_a_cache_that_is_a_file(tmp_path, monkeypatch, cache):
    cache.write_text("mine")
    assert load().forward_float32
    assert cache.read_text() == "mine"


@needs_compiler
@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2"])
def test_every_capability_of_a_cpu_compiles_without_warnings(monkeypatch, cache, capability):
    """AVX512 has the options of AVX2. Other processors than those of x86-64 have none."""
    if capability == "AVX2" and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this CPU has no AVX2")
    monkeypatch.setattr(cpp_library, "_SOURCES", SOURCES)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    # without AVX, GCC remarks that vectors are passed in another way than with it, which matters between libraries only
    options = [option for option in cpp_library._OPTIONS if option != "-O3"]  # takes less time
    monkeypatch.setattr(cpp_library, "_OPTIONS", [*options, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wno-psabi"])
    assert load().backward_float64


def test_the_compiler_of_the_environment(monkeypatch):
    monkeypatch.setenv("CXX", "ccache 'my compiler'")
    assert find_compiler() == ["ccache", "my compiler"]
    monkeypatch.setenv("CXX", "")
    found = find_compiler()
    assert found is None or Path(found[0]).is_absolute()


def test_no_compiler(monkeypatch, cache, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None
    with pytest.raises(LibraryUnavailableError, match=r"no C\+\+ compiler"):
        load()


@pytest.mark.parametrize(
    "code",
    [
        "sys.exit('cpp_kernels.cpp:12:3: error: unknown attribute\\nand more')",
        "sys.exit('first line: error: unknown attribute')",
    ],
)
def test_a_compiler_that_fails(cache, fake_compiler, code):
    compiler = fake_compiler(code)
    with pytest.raises(LibraryUnavailableError) as error:
        load()
    message = str(error.value)
    assert str(compiler) in message and "error: unknown attribute" in message
    assert "\n" not in message
    assert not list(cache.iterdir())


def test_a_compiler_that_does_not_exist(monkeypatch, cache):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(LibraryUnavailableError, match=r"/nowhere/g\+\+"):
        load()
    assert not list(cache.iterdir())


def test_a_library_that_cannot_be_loaded(cache, fake_compiler):
    fake_compiler("open(sys.argv[sys.argv.index('-o') + 1], 'w').write('this is no library')")
    with pytest.raises(LibraryUnavailableError, match=r"cannot be compiled or loaded: .*\.so"):
        load()


@needs_compiler
@pytest.mark.parametrize("damage", ["empty", "cut off", "other content"])
def test_a_damaged_library_is_compiled_again(cache, tmp_path, monkeypatch, damage):
    """Loading a file that is cut off would end the process."""
    load()
    (path,) = cache.iterdir()
    content = path.read_bytes()
    damaged = {
        "empty": b"",
        "cut off": content[: len(content) // 2],
        "other content": b"x" * len(content),
    }[damage]
    # in another folder, because a process does not open a file again that it has loaded
    other = tmp_path / "other" / cache.name
    other.mkdir(parents=True, mode=0o700)
    (other / path.name).write_bytes(damaged)
    monkeypatch.setenv("XDG_CACHE_HOME", str(other.parent))
    assert load().forward_float32
    (path,) = other.iterdir()
    assert path.read_bytes() not in (damaged, b"")


@needs_compiler
def test_two_processes_compile_at_the_same_time(cache, fake_compiler):
    """The first to end wins, and its file stays the same one, because it may have been loaded."""
    real = find_compiler()
    fake_compiler(
        "import os, shutil, subprocess\n"
        f"status = subprocess.call({real!r} + sys.argv[1:])\n"
        "out = sys.argv[sys.argv.index('-o') + 1]\n"
        "folder = os.path.dirname(os.path.dirname(out))\n"
        "name = os.environ['NAME_OF_THE_OTHER'] + '-' + str(os.path.getsize(out)) + '.so'\n"
        "shutil.copy(out, os.path.join(folder, name))\n"
        "sys.exit(status)"
    )
    names = []

    def link(source, target, original=os.link):
        names.append(os.stat(target).st_ino)
        return original(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", link)
        patch.setattr(
            cpp_library, "_find_library", lambda folder, key: patch.setenv("NAME_OF_THE_OTHER", f"cpp_kernels-{key}")
        )
        assert load().forward_float32
    (path,) = cache.iterdir()
    assert [path.stat().st_ino] == names


@needs_compiler
@pytest.mark.skipif(os.name != "posix", reason="the folder's mode is that of POSIX")
def test_a_cache_that_others_can_write_is_not_used(cache, caplog):
    cache.mkdir()
    cache.chmod(0o777)
    assert load().forward_float32
    assert not list(cache.iterdir())
    assert str(cache) in caplog.text


@pytest.mark.parametrize("value", ["g++ '", "'"])
def test_a_compiler_with_a_quotation_that_is_not_closed(monkeypatch, cache, value):
    monkeypatch.setenv("CXX", value)
    with pytest.raises(LibraryUnavailableError, match="quotation"):
        load()


@needs_compiler
def test_a_source_that_is_missing(monkeypatch, cache, tmp_path):
    monkeypatch.setattr(cpp_library, "_SOURCES", (tmp_path / "missing.cpp",))
    with pytest.raises(LibraryUnavailableError, match=r"missing\.cpp"):
        load()
