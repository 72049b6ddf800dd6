"""Who writes what, by the server's own clock: a table of all writes, kept by triggers.

Each worker has a user of the database of its own, so what it writes can be told from what others do.
"""

from fleetkit.processes import Fleet

_TABLES = {"instances": "id", "history": "instance_number", "inbox": "instance", "heartbeats": "instance"}
"""And the column that says whose a row is."""

_MAKE = """
create table public.audit (what text, of text, who text, at timestamptz, instance text, first_seq bigint);
create table public.lives (worker bigint, who text, began timestamptz, ended timestamptz);
create function public.note() returns trigger language plpgsql as $$
declare
    r record := case when tg_op = 'DELETE' then old else new end;
begin
    insert into public.audit values (tg_op, tg_table_name, session_user, clock_timestamp(),
        to_jsonb(r) ->> tg_argv[0], (to_jsonb(r) ->> 'first_seq')::bigint);
    return null;
end $$;
create function public.note_life() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into public.lives values (new.id, session_user, clock_timestamp(), null);
    else
        update public.lives set ended = clock_timestamp() where worker = old.id;
    end if;
    return null;
end $$;
create trigger life after insert or delete on durableflow.workers for each row execute function public.note_life();
"""

# An application whose lease is lost may still start instances and send messages, as any client.
_OF_THE_DEAD = """
select a.who || ' did ' || a.what || ' of ' || a.of || ' for ' || a.instance || ' at ' || a.at
from public.audit a
where a.who like '%\\_w%' and not (a.what = 'INSERT' and a.of in ('instances', 'inbox')) and not exists (
    select 1 from public.lives l where l.who = a.who and l.began <= a.at and a.at <= coalesce(l.ended, 'infinity')
) limit 5
"""


async def audit(fleet: Fleet) -> None:
    """From here on every write is written down."""
    await fleet.run(_MAKE)
    for table, column in _TABLES.items():
        await fleet.run(
            f"create trigger noted after insert or update or delete on durableflow.{table} "
            f"for each row execute function public.note('{column}')"
        )


async def user_of(fleet: Fleet, number: int) -> str:
    """A user of the database for one worker."""
    user = f"{fleet.database}_w{number}"
    await fleet.run(f"create role {user} superuser login password '{fleet.password}'")
    return user


async def writes_of_the_dead(fleet: Fleet) -> list[str]:
    """What a worker has written while it had no lease that the server knew of."""
    return [line for (line,) in await fleet.sql(_OF_THE_DEAD)]
