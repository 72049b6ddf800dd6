"""What people look at with any tool: instances with moments instead of microseconds, events as JSON with names.

Events are stored as MessagePack. `unpack` reads it, all of it but what our own encoder never writes (extensions, and
keys of maps that are no text). Bytes inside are payloads: shown as the JSON that they are, else as hexadecimal digits.

Source: the format's own description, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from typing import Any, Final, get_args

from durableflow.model import events as ev

_NUMBER: Final = """
create or replace function {s}.unpack_number(data bytea, begins integer, size integer) returns numeric
language plpgsql immutable as $$
declare
    number numeric := 0;
begin
    for i in 0 .. size - 1 loop
        number := number * 256 + get_byte(data, begins + i);
    end loop;
    return number;
end $$
"""

_FLOAT: Final = """
create or replace function {s}.unpack_float(data bytea, begins integer, exponent_bits integer, fraction_bits integer)
returns double precision language plpgsql immutable as $$
declare
    size integer := (1 + exponent_bits + fraction_bits) / 8;
    bits numeric := {s}.unpack_number(data, begins, size);
    fraction double precision := mod(bits, power(2::numeric, fraction_bits))::double precision;
    exponent integer := mod(div(bits, power(2::numeric, fraction_bits)), power(2::numeric, exponent_bits))::integer;
    sign integer := case when get_byte(data, begins) >= 128 then -1 else 1 end;
    bias integer := power(2::numeric, exponent_bits - 1)::integer - 1;
begin
    if exponent = 0 then
        return sign * fraction * power(2::double precision, 1 - bias - fraction_bits);
    end if;
    return sign * (1 + fraction / power(2::double precision, fraction_bits))
        * power(2::double precision, exponent - bias);
end $$
"""

_BYTES: Final = """
create or replace function {s}.unpack_bytes(data bytea) returns jsonb language plpgsql immutable as $$
begin
    return convert_from(data, 'UTF8')::jsonb;
exception when others then
    return to_jsonb('0x' || encode(data, 'hex'));
end $$
"""

_UNPACK: Final = """
create or replace function {s}.unpack(data bytea, begins integer, out value jsonb, out ends integer)
language plpgsql immutable as $$
declare
    head integer := get_byte(data, begins);
    size integer := 0;
    width integer := 0;
    kind text;
    number numeric;
    fraction double precision;
    part jsonb;
    name jsonb;
begin
    case
        when head < 128 then kind := 'number'; number := head;
        when head < 144 then kind := 'map'; size := head - 128;
        when head < 160 then kind := 'array'; size := head - 144;
        when head < 192 then kind := 'text'; size := head - 160;
        when head >= 224 then kind := 'number'; number := head - 256;
        when head = 192 then kind := 'null';
        when head in (194, 195) then kind := 'boolean';
        when head in (196, 197, 198) then kind := 'bytes'; width := power(2, head - 196)::integer;
        when head = 202 then kind := 'float'; fraction := {s}.unpack_float(data, begins + 1, 8, 23); width := 4;
        when head = 203 then kind := 'float'; fraction := {s}.unpack_float(data, begins + 1, 11, 52); width := 8;
        when head between 204 and 207 then
            kind := 'number'; width := power(2, head - 204)::integer;
            number := {s}.unpack_number(data, begins + 1, width);
        when head between 208 and 211 then
            kind := 'number'; width := power(2, head - 208)::integer;
            number := {s}.unpack_number(data, begins + 1, width);
            if get_byte(data, begins + 1) >= 128 then
                number := number - power(256::numeric, width);
            end if;
        when head in (217, 218, 219) then kind := 'text'; width := power(2, head - 217)::integer;
        when head in (220, 221) then kind := 'array'; width := power(2, head - 219)::integer;
        when head in (222, 223) then kind := 'map'; width := power(2, head - 221)::integer;
        else raise exception 'byte % begins nothing that durableflow writes', head;
    end case;
    ends := begins + 1 + width;
    if width > 0 and kind not in ('number', 'float') then
        size := {s}.unpack_number(data, begins + 1, width)::integer;
    end if;
    case kind
        when 'number' then value := to_jsonb(number);
        when 'float' then value := to_jsonb(fraction);
        when 'null' then value := 'null'::jsonb;
        when 'boolean' then value := to_jsonb(head = 195);
        when 'text' then
            value := to_jsonb(convert_from(substring(data from ends + 1 for size), 'UTF8'));
            ends := ends + size;
        when 'bytes' then
            value := {s}.unpack_bytes(substring(data from ends + 1 for size));
            ends := ends + size;
        when 'array' then
            value := '[]'::jsonb;
            for i in 1 .. size loop
                select u.value, u.ends into part, ends from {s}.unpack(data, ends) as u;
                value := value || jsonb_build_array(part);
            end loop;
        else
            value := jsonb_build_object();
            for i in 1 .. size loop
                select u.value, u.ends into name, ends from {s}.unpack(data, ends) as u;
                select u.value, u.ends into part, ends from {s}.unpack(data, ends) as u;
                value := value || jsonb_build_object(name #>> array[]::text[], part);
            end loop;
    end case;
end $$
"""

_INSTANCES: Final = """
create or replace view {s}.instances_view as
    select i.id, i.workflow, i.version, i.status,
        to_timestamp(i.created_us / 1000000.0) as created_at,
        to_timestamp(i.finished_us / 1000000.0) as finished_at,
        case when i.wake_us > 0 then to_timestamp(i.wake_us / 1000000.0) end as wakes_at,
        i.parent, i.tags, {s}.unpack_bytes(i.custom_status) as custom_status, i.stall_reason,
        i.owner as worker, w.name as worker_name
    from {s}.instances i left join {s}.workers w on w.id = i.owner
"""

_EVENTS: Final = """
create or replace view {s}.events_view as
    select i.id as instance, h.first_seq + e.place - 1 as seq, to_timestamp(h.at_us / 1000000.0) as at,
        e.event ->> 0 as kind,
        (
            select coalesce(jsonb_object_agg(f.name, e.event -> f.place::integer), jsonb_build_object())
            from unnest({s}.event_fields(e.event ->> 0)) with ordinality as f(name, place)
            where e.event -> f.place::integer is not null
        ) as event
    from {s}.instances i join {s}.history h on h.instance_number = i.number
        cross join lateral {s}.unpack(h.events, 0) as u
        cross join lateral jsonb_array_elements(u.value) with ordinality as e(event, place)
"""


def _tag_and_fields(event: type[Any]) -> tuple[str, tuple[str, ...]]:
    return event.__struct_config__.tag, event.__struct_fields__


def _event_fields() -> str:
    """The function that names the fields of each kind of event, in their order."""
    cases = " ".join(
        f"when '{tag}' then array[{', '.join(repr(name) for name in fields)}]::text[]"
        for tag, fields in map(_tag_and_fields, get_args(ev.Event))
    )
    return (
        "create or replace function {s}.event_fields(kind text) returns text[] language sql immutable as "
        f"$$ select case kind {cases} end $$"
    )


VIEWS: Final = (_NUMBER, _FLOAT, _BYTES, _UNPACK, _event_fields(), _INSTANCES, _EVENTS)
"""In an order in which they can be made; `{s}` stands for the schema, quoted."""
