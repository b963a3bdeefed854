"""The custom call itself: the layouts of XLA's C interface, what travels as text, errors, threads."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from _jax_case import make_arguments, on_jax, solve

import smnn_core as smnn
from smnn_jax import _ffi
from smnn_jax._operators import Options

STRUCTS = {name: struct for name, struct in vars(_ffi).items() if name.startswith("XLA_FFI_")}


def test_layouts_are_those_of_the_header(tmp_path):
    """Every field of every struct lies where the C compiler puts it."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler to read the header with")
    fields = [(name, field) for name, struct in STRUCTS.items() for field, _ in struct._fields_ if field[0] != "_"]
    lines = [f'  std::printf("%zu\\n", offsetof({name}, {field}));' for name, field in fields]
    lines += [f'  std::printf("%zu\\n", sizeof({name}::{field}));' for name, field in fields]
    source = tmp_path / "layout.cpp"
    source.write_text(
        '#include <cstdio>\n#include <cstddef>\n#include "xla/ffi/api/c_api.h"\n'
        "#if XLA_FFI_API_MINOR > 3  // JAX 0.12 has the struct under another name\n"
        "using XLA_FFI_Extension_Base = XLA_FFI_InternalExtension;\n#endif\nint main() {\n" + "\n".join(lines) + "\n}\n"
    )
    program = tmp_path / "layout"
    subprocess.run([compiler, "-w", "-I", jax.ffi.include_dir(), str(source), "-o", str(program)], check=True)
    found = [int(x) for x in subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()]
    ours = [getattr(getattr(STRUCTS[name], field), what) for what in ("offset", "size") for name, field in fields]
    whole = ("XLA_FFI_Metadata", "XLA_FFI_CallFrame", "XLA_FFI_Api")  # grow at their end
    assert dict(zip(fields, found[: len(fields)], strict=True)) == dict(zip(fields, ours[: len(fields)], strict=True))
    for (name, field), a, b in zip(fields, found[len(fields) :], ours[len(fields) :], strict=True):
        assert a == b or name in whole, f"{name}.{field} has {a} bytes, not {b}"


def test_a_buffer_is_six_words():
    """The light reading of buffers relies on it."""
    assert ctypes.sizeof(_ffi.XLA_FFI_Buffer) == 6 * 8
    assert [name for name, _ in _ffi.XLA_FFI_Buffer._fields_[2:]] == ["dtype", "data", "rank", "dims"]


@pytest.mark.parametrize(
    "scheme",
    [smnn.TAYLOR, smnn.HERMITE, smnn.Scheme.from_matrices(*smnn.TAYLOR.matrices(3), name="mine", citation="me")],
    ids=["taylor", "hermite", "custom"],
)
def test_the_static_part_survives_as_text(scheme):
    static = Options(7, 2, 1, scheme, "auto", wanted=(5, 0))
    operator, decoded = Options.decode(static.encode("states", 3).encode())
    assert (operator, decoded.n_steps, decoded.n_initial_steps, decoded.n_initial_orders) == ("states", 7, 2, 1)
    assert decoded.wanted == (5, 0)
    for ours, theirs in zip(decoded.scheme.matrices(3), scheme.matrices(3), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert decoded.scheme.name == ("taylor" if scheme.name == "mine" else scheme.name)  # the same matrices


def test_errors_in_the_engine_come_back_as_errors_of_xla(arguments, monkeypatch):
    def fail(static, operands):
        raise ValueError("what went wrong")

    f = jax.jit(lambda x: solve(**x))
    arguments = on_jax(arguments)
    f(arguments)
    monkeypatch.setitem(_ffi.OPERATORS, "solution", fail)
    # the type is that of the place where JAX notices: at the call or when the result is waited for
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="smnn: ValueError: what went wrong"):
        f(arguments).block_until_ready()


def test_calls_from_many_threads():
    f = jax.jit(lambda x: solve(**x))
    problems = [on_jax(make_arguments(batch=(i,), T=6)) for i in range(1, 9)]
    expected = [solve(**x) for x in problems]
    with ThreadPoolExecutor(8) as pool:
        for y, z in zip(pool.map(f, problems), expected, strict=True):
            np.testing.assert_array_equal(y, z)


def test_inputs_are_not_copied(monkeypatch, arguments):
    """The engine reads the buffers of the JAX arrays themselves."""
    seen = []
    engine = _ffi.OPERATORS["solution"]

    def look(static, operands):
        seen.extend(x.ctypes.data for x in operands)
        return engine(static, operands)

    monkeypatch.setitem(_ffi.OPERATORS, "solution", look)
    arguments = on_jax(arguments)
    jax.jit(lambda x: solve(**x))(arguments).block_until_ready()
    assert arguments["coefficients"].unsafe_buffer_pointer() in seen
    assert arguments["rhs"].unsafe_buffer_pointer() in seen
