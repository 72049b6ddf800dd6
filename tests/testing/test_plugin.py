"""The pytest plugin, as a project that has the library installed meets it."""

import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points

import pytest

from durableflow.testing import plugin

# Projects under test that share this process forget, when they end, what they imported: had they been the first to
# import a room of the library, the next one would get another copy of it.
for room in ("aiosqlite", "anyio._backends._asyncio", "durableflow.backends.memory", "durableflow.backends.sqlite",
             "durableflow.testing.blocking"):  # fmt: skip
    import_module(room)

pytest_plugins = ("pytester",)


def shop(prefix: str) -> str:
    """A module of a project under test; names differ because all such projects share this process."""
    return f"""
        from datetime import timedelta
        from durableflow import Context, EventTimeout, activity, workflow
        from durableflow.testing import BlockingEnvironment, WorkflowEnvironment

        @activity
        def {prefix}_charge(item: str) -> str:
            raise ConnectionError("a test must not come here")

        @workflow
        async def {prefix}_sell(ctx: Context, item: str) -> str:
            try:
                await ctx.wait_for_event("approved", timeout=timedelta(days=30))
            except EventTimeout:
                return "too late"
            return await ctx.call_activity({prefix}_charge, item)
    """


def test_pytest_finds_the_plugin_by_itself() -> None:
    (found,) = entry_points(group="pytest11", name="durableflow")
    assert found.load() is plugin


@pytest.mark.slow
def test_the_plugin_brings_nothing_of_the_library_before_a_fixture_is_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def ours():
            return {name for name in sys.modules if name.startswith("durableflow")}

        def test_nothing():
            assert ours() == {"durableflow", "durableflow.testing", "durableflow.testing.plugin"}
            assert "msgspec" not in sys.modules

        def test_asking_for_the_store_brings_nothing_either(df_store):
            assert df_store == "memory://"
            assert "durableflow.engine" not in sys.modules

        def test_the_fixture_brings_it(df):
            assert "durableflow.engine" in sys.modules
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


@pytest.mark.slow
def test_importing_the_front_doors_alone_brings_no_room_behind_them() -> None:
    program = "import sys, durableflow.testing; print(*sorted(name for name in sys.modules if 'durableflow' in name))"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout.split() == ["durableflow", "durableflow.testing"]


def test_a_plain_test_has_an_engine_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        shop("plain")
        + """
        def test_sale(df: BlockingEnvironment) -> None:
            df.mock(plain_charge, raises=[ConnectionError()], returns="receipt")
            sale = df.start(plain_sell.options(instance_id="sale"), "lamp")
            df.advance(days=29)
            sale.raise_event("approved")
            assert sale.result() == "receipt"
            assert [call.attempt for call in df.calls(plain_charge)] == [1, 2]
            sale.assert_replays()

        def test_another_sale(df: BlockingEnvironment) -> None:
            assert df.run(plain_sell.options(instance_id="sale"), "lamp") == "too late"
            assert df.calls() == []
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_an_async_test_has_one_too(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n")
    pytester.makepyfile(
        shop("other")
        + """
        import pytest

        pytestmark = pytest.mark.anyio

        async def test_sale(df_env: WorkflowEnvironment) -> None:
            df_env.mock(other_charge, returns="receipt")
            sale = await df_env.start(other_sell, "lamp")
            await df_env.advance(days=29)
            await sale.raise_event("approved")
            assert await sale.result() == "receipt"

        @pytest.mark.df_backends("memory", "sqlite")
        async def test_sale_on_all(df_env: WorkflowEnvironment, df_store: str) -> None:
            assert df_store.partition(":")[0] in repr(df_env).lower()
            assert await df_env.run(other_sell, "lamp") == "too late"

        async def test_the_other_fixture_works_here_as_well(df: BlockingEnvironment) -> None:
            assert df.run(other_sell, "lamp") == "too late"
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)


def test_a_marked_test_is_called_once_on_each_store(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        shop("stores")
        + """
        import pytest

        SEEN = []

        @pytest.mark.df_backends("memory", "sqlite")
        def test_sale(df, df_store):
            SEEN.append(df_store.partition(":")[0])
            assert df.run(stores_sell, "lamp") == "too late"

        @pytest.mark.df_backends("memory", "sqlite")
        class TestSales:
            def test_sale(self, df):
                assert df.run(stores_sell, "lamp") == "too late"

        def test_all_were_seen():
            assert SEEN == ["memory", "sqlite"]
        """
    )
    result = pytester.runpytest_inprocess("-v", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*test_sale?memory? PASSED*", "*test_sale?sqlite? PASSED*"])


def test_a_url_is_a_store_too_and_an_unknown_name_is_none(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.df_backends("sqlite:///here.db")
        def test_url(df_store):
            assert df_store == "sqlite:///here.db"

        @pytest.mark.df_backends("oracle")
        def test_unknown(df_store):
            pass
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(['*df_backends knows "memory", "sqlite" and URLs, not \'oracle\'*'])


@pytest.mark.parametrize(
    ("marked", "says"),
    [
        ('@pytest.mark.df_backends("memory")\ndef test_it(): ...', "*uses neither df nor df_env*"),
        ("@pytest.mark.df_backends()\ndef test_it(df): ...", "*write @pytest.mark.df_backends(?stores)*"),
    ],
)
def test_a_marker_that_does_nothing_is_refused(pytester: pytest.Pytester, marked: str, says: str) -> None:
    pytester.makepyfile("import pytest\n" + marked)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([says])


def test_the_marker_is_known_to_a_strict_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.df_backends('memory')\ndef test_it(df_store): ...")
    pytester.runpytest_inprocess("--strict-markers", "-p", "no:cacheprovider").assert_outcomes(passed=1)
    result = pytester.runpytest_inprocess("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.df_backends(?stores): call the test once on each of these stores*"])


def test_a_workflow_that_is_not_deterministic_fails_its_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import itertools
        from durableflow import Context, workflow

        COUNT = itertools.count(1)

        @workflow
        async def drifting(ctx: Context) -> None:
            await ctx.sleep(next(COUNT))

        def test_that_waits(df):
            df.run(drifting)

        def test_that_does_not_look(df):
            df.start(drifting)
            df.settle()
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["E *durableflow.errors.NondeterminismError: history #2 of instance * recorded timer due *"]
    )


def test_saved_histories_of_production_are_replayed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        shop("golden")
        + """
        import pytest
        from durableflow import NondeterminismError, UsageError, workflow

        def test_save(df, pytestconfig):
            directory = pytestconfig.rootpath / "histories"
            directory.mkdir()
            sale = df.start(golden_sell, "lamp")
            sale.result()
            sale.save_history(directory / "sale.jsonl")

        def test_directory_and_file(df_replay):
            (report,) = df_replay("histories")
            assert (report.workflow, report.status) == ("golden_sell", "COMPLETED")
            assert df_replay("histories/sale.jsonl") == [report]

        def test_other_code(df_replay):
            @workflow(name="golden_sell")
            async def changed(ctx: Context, item: str) -> str:
                await ctx.sleep(5)
                return item

            with pytest.raises(NondeterminismError):
                df_replay("histories/sale.jsonl", changed)
            with pytest.raises(ExceptionGroup):
                df_replay("histories", changed)

        def test_nothing_to_replay(df_replay, pytestconfig):
            (pytestconfig.rootpath / "nothing").mkdir()
            with pytest.raises(UsageError):
                df_replay("nothing")
            with pytest.raises(FileNotFoundError):
                df_replay("nowhere")
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=4)
