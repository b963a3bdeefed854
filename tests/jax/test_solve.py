"""smnn_jax.solve_ode against the core, its errors, and what it does to JAX."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _assert import eps
from _jax_case import on_jax, solve

import smnn_core as smnn
import smnn_jax

ROOT = Path(smnn.__file__).parents[1]


def ended(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a new interpreter, once that has ended, within two minutes."""
    paths = f"{ROOT}:{ROOT / 'adapters'}"
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, timeout=120)


def run(program: str, **environment: str) -> str:
    """The output of a program that succeeds."""
    done = ended(program, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("scheme", [smnn.TAYLOR, replace(smnn.HERMITE, exponent=0.0)], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_custom_call_is_the_core_on_the_same_numbers(arguments, scheme, dtype):
    """The custom call hands XLA's buffers to the engine that NumPy arrays get: not even rounding differs."""
    arguments = {name: x.astype(dtype) for name, x in arguments.items()}
    y = solve(**on_jax(arguments), scheme=scheme)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, solve(**arguments, scheme=scheme, core=True))


def test_custom_scheme_travels_with_the_call(arguments):
    scheme = smnn.Scheme.from_matrices(*(2 * M for M in smnn.HERMITE.matrices(3)), name="doubled", citation="a test")
    y = solve(**on_jax(arguments), scheme=scheme)
    np.testing.assert_array_equal(y, solve(**arguments, scheme=scheme, core=True))


def test_traced_engine_agrees(arguments):
    y = solve(**on_jax(arguments), engine="array_api")
    expected = solve(**arguments, core=True, engine="array_api")
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e3 * eps("float64") * np.abs(expected).max())


def test_jit_is_eager_and_one_custom_call(arguments):
    arguments = on_jax(arguments)
    compiled = jax.jit(solve).lower(**arguments).compile()
    np.testing.assert_array_equal(compiled(**arguments), solve(**arguments))
    assert compiled.as_text().count("custom-call(") == 1


def test_traced_engine_makes_no_call_of_ours(arguments):
    text = jax.jit(lambda **x: solve(**x, engine="array_api")).lower(**on_jax(arguments)).compile().as_text()
    assert "smnn_operator" not in text


def test_no_initial_values_and_time_invariant_inputs():
    c, b, u, s = np.ones((1, 1, 1, 2)), np.ones((1, 1)), np.ones((0, 1, 2)), np.array([0.1])
    y = smnn_jax.solve_ode(*map(jnp.asarray, (c, b, u, s)), n_steps=4)
    np.testing.assert_array_equal(y, smnn.solve_ode(c, b, u, s, n_steps=4))


def test_empty_batch():
    c, b, u, s = np.ones((0, 4, 1, 1, 2)), np.ones((4, 1)), np.ones((1, 1, 1)), np.array([0.1])
    arrays = [jnp.asarray(x) for x in (c, b, u, s)]
    assert jax.jit(smnn_jax.solve_ode)(*arrays).shape == (0, 4, 1, 2)
    gradients = jax.grad(lambda *x: smnn_jax.solve_ode(*x).sum(), (0, 1, 2, 3))(*arrays)
    for x, gradient in zip(arrays, gradients, strict=True):
        np.testing.assert_array_equal(gradient, jnp.zeros_like(x))
    assert jax.jvp(lambda c: smnn_jax.solve_ode(c, *arrays[1:]), arrays[:1], arrays[:1])[1].shape == (0, 4, 1, 2)


def test_donated_buffers(arguments):
    arguments = on_jax(arguments)
    expected = solve(**arguments)
    b = arguments.pop("rhs")
    donating = jax.jit(lambda b, rest: (solve(rhs=b, **rest), 2 * b), donate_argnums=0)
    y, twice = donating(jnp.copy(b), arguments)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(twice, 2 * b)


def test_number_weights_survive_jit(arguments):
    """Numbers in a pytree become weakly typed arrays under jit; they are numbers still."""
    arguments = on_jax(arguments)
    arguments = {name: x.astype(jnp.float32) for name, x in arguments.items()} | {"equation": 2.0}
    np.testing.assert_array_equal(jax.jit(solve)(**arguments), solve(**arguments))


class TestErrors:
    def test_shapes(self, arguments):
        arguments = on_jax(arguments) | {"rhs": jnp.ones((8, 4, 2))}
        with pytest.raises(smnn.ShapeError, match="rhs implies T = 4"):
            jax.jit(solve)(**arguments)

    def test_numpy_arrays_among_jax_arrays(self, arguments):
        arguments = on_jax(arguments) | {"rhs": arguments["rhs"]}
        with pytest.raises(smnn.NamespaceError, match="rhs is an array of numpy"):
            solve(**arguments)

    def test_dtypes(self, arguments):
        arguments = on_jax(arguments)
        with pytest.raises(smnn.DTypeError, match="rhs has dtype float32"):
            solve(**arguments | {"rhs": arguments["rhs"].astype(jnp.float32)})

    def test_engine(self, arguments):
        with pytest.raises(smnn.EngineError, match="unknown engine 'fast'"):
            solve(**on_jax(arguments), engine="fast")

    def test_zero_step_that_is_traced_makes_its_system_nan(self, arguments):
        """An error of one device would leave the others waiting."""
        x = on_jax(arguments)
        steps = jnp.broadcast_to(x["step_sizes"], (8, x["step_sizes"].size))
        good = jax.jit(lambda s: solve(**(x | {"step_sizes": s})))
        y = good(steps.at[3, 1].set(0))
        others = np.delete(np.arange(8), 3)
        np.testing.assert_array_equal(y[others], good(steps)[others])
        assert jnp.isnan(y[3]).all()
        gradient = jax.jit(jax.grad(lambda s: jnp.sum(solve(**(x | {"step_sizes": s})))))(steps.at[3, 1].set(0))
        assert jnp.isnan(gradient).any(axis=1).tolist() == [i == 3 for i in range(8)]

    def test_zero_step_known_under_jit(self, arguments):
        arguments = on_jax(arguments)
        s = arguments.pop("step_sizes").at[1].set(0)
        with pytest.raises(smnn.ArgumentError, match="step_sizes contains a zero"):
            jax.jit(lambda rest: solve(step_sizes=s, **rest))(arguments)


def test_weights_pass_through_transforms(arguments):
    x = on_jax(arguments)
    weights = smnn_jax.Weights(x.pop("equation"), x.pop("initial"), x.pop("smoothness"))
    f = lambda weights: jnp.sum(smnn_jax.solve_ode(**x, weights=weights))  # noqa: E731
    np.testing.assert_allclose(jax.jit(f)(weights), f(weights), rtol=1e-12)
    gradient = jax.grad(f)(weights)
    assert {k: g.shape for k, g in vars(gradient).items()} == {k: w.shape for k, w in vars(weights).items()}
    assert jax.tree.map(lambda w: 2 * w, smnn_jax.Weights(1.0, 2.0, 3.0)) == smnn_jax.Weights(2.0, 4.0, 6.0)


def test_a_compiled_program_that_was_saved_runs_after_the_import_alone(tmp_path):
    begin = (
        "import pickle, jax, numpy as np; import smnn_jax; from jax.experimental import serialize_executable as se; "
    )
    begin += "x = [np.ones(shape, np.float32) for shape in ((4, 1, 1, 3), (4, 1), (1, 1, 2), (3,))]; "
    path = str(tmp_path / "program")
    run(f"{begin}pickle.dump(se.serialize(jax.jit(smnn_jax.solve_ode).lower(*x).compile()), open({path!r}, 'wb'))")
    loaded = f"{begin}print(se.deserialize_and_load(*pickle.load(open({path!r}, 'rb')))(*x).shape)"
    assert run(loaded) == "(4, 1, 3)"


class TestSingular:
    @pytest.fixture
    def singular(self, arguments):
        """Batch member 3 has no equations, and only its first derivative is given."""
        arguments["equation"] = np.ones((8, 5, 1))
        arguments["equation"][3] = 0
        arguments["initial"] = np.array([0.0, 1.0])
        return arguments

    def test_eager_says_where(self, singular):
        with pytest.raises(smnn.SingularSystemError, match=r"batch member \(3,\)"):
            solve(**on_jax(singular))

    @pytest.mark.parametrize("engine", ["auto", "array_api"])
    def test_jit_gives_nan_to_that_member_only(self, singular, engine):
        y = jax.jit(lambda x: solve(**x, engine=engine))(on_jax(singular))
        np.testing.assert_array_equal(jnp.isnan(y).any(axis=(1, 2, 3)), np.arange(8) == 3)

    def test_check_needs_values(self, singular):
        with pytest.raises(smnn.ArgumentError, match="check=True needs values"):
            jax.jit(lambda x: solve(**x, check=True))(on_jax(singular))


def test_import_switches_nothing():
    changed = run(
        "import jax; before = dict(jax.config.values); import smnn_jax; "
        "print([k for k, v in jax.config.values.items() if before[k] != v])"
    )
    assert changed == "[]"


def test_float32_without_x64():
    program = (
        "import jax, jax.numpy as jnp, smnn_jax\n"
        "f = lambda s: smnn_jax.solve_ode(jnp.ones((1, 1, 1, 2)), jnp.ones((6, 1)), jnp.ones((1, 1, 1)), s)\n"
        "y, dy = jax.jvp(f, (jnp.array([0.1]),), (jnp.array([1.0]),))\n"
        "print(jax.config.jax_enable_x64, y.dtype, dy.dtype, bool(jnp.allclose(y[:, 0, 0], 1, atol=1e-5)))"
    )
    assert run(program) == "False float32 float32 True"


def test_interpreter_ends_while_calls_are_pending():
    """A handler that could not start because the interpreter is gone would keep XLA, and the process, waiting."""
    program = (
        "import jax, jax.numpy as jnp, smnn_jax\n"
        "mesh = jax.make_mesh((4,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))\n"
        "P = jax.sharding.PartitionSpec\n"
        "f = lambda b: jax.lax.psum(smnn_jax.solve_ode(jnp.ones((1, 1, 1, 2)), b, jnp.ones((1, 1, 1)),"
        " jnp.array([0.1])).sum(), 'x')\n"
        "g = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=P('x'), out_specs=P()))\n"
        "g(jnp.ones((4, 50000, 1)))\n"
        "print('end')"
    )
    assert run(program, XLA_FLAGS="--xla_force_host_platform_device_count=4") == "end"


def test_interpreter_ends_while_a_daemon_thread_goes_on_calling():
    """It must not hang. JAX itself, which waits for the interpreter's lock in C++, may abort there, on busy cores more
    often than not: so does the same program with `jnp.cumsum` in place of the solver."""
    program = """
import threading, time
import jax, jax.numpy as jnp, smnn_jax
f = jax.jit(lambda c: smnn_jax.solve_ode(c, jnp.zeros((1, 1)), jnp.ones((1, 1, 2)), 0.1))
c = jnp.ones((8, 1000, 1, 1, 3))
f(c).block_until_ready()
def work():
    while True:
        f(c).block_until_ready()
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
print("done", flush=True)
"""
    done = ended(program)
    assert done.stdout.strip() == "done"
    assert done.returncode == 0 or "exception not rethrown" in done.stderr, done.stderr


def test_the_package_is_typed():
    assert Path(smnn_jax.__file__).with_name("py.typed").exists()


def test_missing_values_masks_and_a_number_as_step(arguments):
    """Traced or not, as in the core."""
    given = arguments["initial_values"].copy()
    given[..., 0, 0, 0] = np.nan
    weights = {"initial": np.ones((1, 2, 2), bool), "equation": np.ones((5, 1), bool)}
    of_core = arguments | weights | {"initial_values": given}
    expected = solve(**of_core, core=True)
    on_device = on_jax(of_core)
    for y in (solve(**on_device), jax.jit(lambda x: solve(**x))(on_device)):
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e3 * eps("float64") * np.abs(expected).max())
    number = solve(**on_device | {"step_sizes": 0.3, "smoothness": 1.0})
    once = solve(**on_device | {"step_sizes": jnp.full(1, 0.3), "smoothness": 1.0})
    np.testing.assert_array_equal(number, once)
