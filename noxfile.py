"""One session per question; `nox -s lint` asks one, `nox` asks all but the benchmarks."""

import nox

nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.error_on_missing_interpreters = True


def install(session: nox.Session) -> None:
    session.install("-e", ".[dev]")


@nox.session
def lint(session: nox.Session) -> None:
    install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    install(session)
    session.run("mypy")
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    install(session)
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def contract(session: nox.Session) -> None:
    install(session)
    session.run("pytest", "tests/backends", *session.posargs)


@nox.session
def fleet(session: nox.Session) -> None:
    install(session)
    session.run("pytest", "tests/fleet", *session.posargs, env={"DURABLEFLOW_FLEET_ROUNDS": "3"})


@nox.session
def crashes(session: nox.Session) -> None:
    install(session)
    # A whole sweep takes longer than any test that hangs elsewhere.
    whole = ("-s", "-o", "faulthandler_timeout=7200")
    session.run("pytest", "tests/crashes", *whole, *session.posargs, env={"DURABLEFLOW_CRASHES": "all"})
    session.run(
        "pytest",
        "tests/fuzz",
        "-o",
        "faulthandler_timeout=7200",
        "--hypothesis-profile=explore",
        env={"DURABLEFLOW_CRASHES": "all"},
    )


@nox.session
def kubernetes(session: nox.Session) -> None:
    """Builds a control plane if none is cached (two minutes on two cores), starts it, tests against it, stops it."""
    install(session)
    session.run("python", "tests/kubernetes/planekit/binaries.py")
    session.run("pytest", "tests/kubernetes", *session.posargs)


@nox.session
def simulate(session: nox.Session) -> None:
    """`nox -s simulate -- --minutes 10`: universes by seed on all cores, and the numbers in docs/reliability.md."""
    install(session)
    numbers = ("--numbers", "docs/reliability.md")
    session.run("python", "-m", "durableflow.testing.simulation", *numbers, *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """`nox -s soak -- --minutes 60`: load and faults on Postgres, and what must not grow meanwhile."""
    install(session)
    session.run("python", "-m", "benchmarks.soak", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    install(session)
    session.run("pytest", "tests/docs", "tests/architecture/test_surface.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    install(session)
    session.run("python", "-m", "benchmarks", *session.posargs)
