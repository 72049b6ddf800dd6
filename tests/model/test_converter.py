"""Payloads: what goes in comes out the same, or is refused at the door."""

import enum
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durableflow import PayloadError, UsageError
from durableflow.model.converter import Arguments, digest, dump, loader


class Colour(enum.Enum):
    RED = "red"


class Size(enum.IntEnum):
    BIG = 3


class Mode(enum.StrEnum):
    FAST = "fast"


@dataclass
class Line:
    item: str
    price: Decimal
    tags: set[str] = field(default_factory=set)


@attrs.define
class Parcel:
    lines: list[Line]
    sent: datetime | None = None


class Order(msgspec.Struct):
    id: UUID
    parcels: tuple[Parcel, ...]
    colour: Colour = Colour.RED


class Point(NamedTuple):
    x: int
    y: float


class Movie(TypedDict):
    title: str
    year: int


class Address(pydantic.BaseModel):
    street: str
    zip_code: str = pydantic.Field(alias="zipCode")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def label(self) -> str:
        return f"{self.street}, {self.zip_code}"

    model_config = pydantic.ConfigDict(extra="forbid")


class Customer(pydantic.BaseModel):
    address: Address
    since: datetime


LINE = Line("lamp", Decimal("9.90"), {"b", "a"})
NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, UTC)
ADDRESS = Address(street="Elm", zipCode="1234")

SAME: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, -(2**63)),
    (int, 10**100),
    (float, 1e308),
    (float, -0.0),
    (str, "é \U0001f600 \x7f"),
    (bytes, b"\0\xff"),
    (datetime, NOON),
    (datetime, NOON.astimezone(timezone(timedelta(hours=-5, minutes=-30)))),
    (datetime, NOON.replace(tzinfo=None)),
    (date, NOON.date()),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (UUID, UUID(int=5)),
    (Decimal, Decimal("1.10")),
    (Colour, Colour.RED),
    (Size, Size.BIG),
    (Mode, Mode.FAST),
    (Literal["a", 1], 1),
    (Annotated[int, msgspec.Meta(gt=0)], 5),
    (int | str | None, "x"),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[str], {"b", "a"}),
    (frozenset[int], frozenset({3, 1})),
    (dict[str, list[int]], {"b": [1], "a": []}),
    (Point, Point(1, 2.5)),
    (Movie, {"title": "M", "year": 1931}),
    (Line, LINE),
    (Parcel, Parcel([LINE], NOON)),
    (Order, Order(UUID(int=7), (Parcel([LINE]),))),
    (list[Order | None], [None, Order(UUID(int=7), ())]),
    (Address, ADDRESS),
    (Customer, Customer(address=ADDRESS, since=NOON)),
    (list[Customer], [Customer(address=ADDRESS, since=NOON)]),
    (Customer | None, None),
    (dict[str, Address], {"home": ADDRESS}),
]


@pytest.mark.parametrize(("kind", "value"), SAME, ids=[f"{n}-{kind!r:.30}" for n, (kind, _) in enumerate(SAME)])
def test_a_value_comes_back_as_the_annotated_type(kind: Any, value: Any) -> None:
    back = loader(kind)(dump(value))
    assert back == value
    assert type(back) is type(value)
    assert dump(back) == dump(value), "so that a value that was read can be compared with its record"


def test_without_an_annotation_plain_json_comes_back() -> None:
    assert loader(Any)(dump([LINE, (1, 2), {3, 1}, Colour.RED, NOON])) == [
        {"item": "lamp", "price": "9.90", "tags": ["a", "b"]},
        [1, 2],
        [1, 3],
        "red",
        "2026-01-02T12:00:00.123456Z",
    ]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_every_json_value_comes_back_the_same(value: Any) -> None:
    data = dump(value)
    back = loader(Any)(data)
    assert back == value
    assert dump(back) == data
    assert json.loads(data) == value, "and any other language can read it"


@settings(max_examples=50)
@given(st.dictionaries(st.text("abcde", min_size=1, max_size=2), JSON_VALUES, min_size=2, max_size=5))
def test_equal_dicts_have_equal_bytes_in_whatever_order_they_were_filled(value: dict[str, Any]) -> None:
    turned = dict(reversed(list(value.items())))
    assert dump(turned) == dump(value)
    assert digest(dump(turned)) == digest(dump(value))


@given(JSON_VALUES, JSON_VALUES)
def test_digests_tell_inputs_apart(one: Any, two: Any) -> None:
    assert (digest(dump(one)) == digest(dump(two))) == (dump(one) == dump(two))


class Opaque:
    pass


def nest(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@attrs.define
class Measured:
    value: float


@attrs.define
class Private:
    value: int
    _secret: int


class Struct(msgspec.Struct, array_like=True):
    value: Any


class Measure(pydantic.BaseModel):
    value: float


class Bad(enum.Enum):
    NAN = math.nan
    NUL = "a\0b"


REFUSED: list[tuple[str, Any, str]] = [
    ("nan", math.nan, r"the value is nan, which JSON cannot hold; store None or a string instead"),
    ("infinity", [1.0, -math.inf], r"the value\[1\] is -inf"),
    ("nan in a dict", {"a": {"b": [math.nan]}}, r"the value\['a'\]\['b'\]\[0\] is nan"),
    ("nan in a dataclass", Point(1, math.nan), r"the value\[1\] is nan"),
    ("nan in attrs", [Measured(math.inf)], r"the value\[0\]\.value is inf"),
    ("a private field of attrs", {"a": Private(1, 2)}, r"the value\['a'\] is of the attrs class Private, .* '_secret'"),
    ("nan in an array struct", Struct([math.nan]), r"the value\.value\[0\] is nan"),
    ("nan in pydantic", Measure(value=math.nan), r"the value\.value is nan"),
    ("nan in an enum", Bad.NAN, r"the value is nan"),
    ("nul in an enum", [Bad.NUL], r"the value\[0\] contains NUL"),
    ("int keys", {"a": {1: 2}}, r"the value\['a'\] has the key 1, but JSON keys are strings; use str\(key\), or pairs"),
    ("bool keys", {True: 2}, r"has the key True"),
    ("none keys", {None: 2}, r"has the key None"),
    ("uuid keys", {UUID(int=1): 2}, r"JSON keys are strings"),
    ("enum keys", {Mode.FAST: 1}, r"JSON keys are strings"),
    ("nul", "a\0b", r"the value contains NUL, which not every store can hold"),
    ("nul in a key", {"a\0": 1}, r"has the key 'a\\x00', which contains NUL"),
    ("nul deep down", [("x", {"y": Line("\0", Decimal(1))})], r"the value\[0\]\[1\]\['y'\]\.item contains NUL"),
    ("a lone surrogate", ["\ud800"], r"the value cannot be stored as JSON: .*surrogates"),
    ("a key with a lone surrogate", {"\ud800": 1}, r"surrogates"),
    ("a number of 5,000 digits", 10**5000, r"cannot be stored as JSON"),
    ("lists too deep", nest(201), r"is nested more than 200 deep"),
    ("lists far too deep", nest(100_000), r"cannot be stored as JSON|is nested more than 200 deep"),
    ("dicts too deep", json.loads('{"a":' * 300 + "1" + "}" * 300), r"is nested more than 200 deep"),
    ("an object", {"a": Opaque()}, r"Opaque cannot be stored as JSON: .*; pass a dataclass, attrs class, msgspec"),
    ("a class", Opaque, r"cannot be stored as JSON"),
    ("a function", len, r"builtin_function_or_method cannot be stored"),
    ("a generator", (x for x in "ab"), r"generator cannot be stored"),
    ("an exception", ValueError("x"), r"ValueError cannot be stored"),
    ("a complex number", 1j, r"complex cannot be stored"),
    ("a set of mixed kinds", {1, "a"}, r"cannot be stored as JSON"),
]


@pytest.mark.parametrize(("value", "text"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_json_would_change_is_refused_with_the_path_to_it(value: Any, text: str) -> None:
    with pytest.raises(PayloadError, match=text) as caught:
        dump(value)
    assert str(caught.value).startswith("the value")
    assert isinstance(caught.value, ValueError)


def test_a_list_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(PayloadError):
        dump(value)


def test_what_is_as_deep_as_allowed_comes_back() -> None:
    assert loader(Any)(dump(nest(200))) == nest(200)
    wide = [[n] for n in range(1_000)]
    assert loader(Any)(dump(wide)) == wide


def test_texts_that_only_look_dangerous_are_kept() -> None:
    for value in ("null", "{", "\\u0000", 'a"\\u0000', ["null", {"{": "null"}]):
        assert loader(Any)(dump(value)) == value


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        (int, b'"x"', "does not fit int: Expected `int`, got `str`; it is b'\"x\"'"),
        (list[int], b"[1,null]", r"at `\$\[1\]`"),
        (Line, b'{"item":1}', r"does not fit Line: Expected `str`, got `int` - at `\$.item`"),
        (Address, b'{"street":"x"}', "does not fit Address"),
        (bool, b"1", "does not fit bool"),
        (int, b"1.5", "does not fit int"),
        (Any, b"{", "does not fit JSON"),
        (Any, b"", "does not fit JSON"),
        (Any, b"nan", "does not fit JSON"),
        (Opaque, b"{}", "Opaque cannot be read back from JSON"),
    ],
)
def test_bytes_that_do_not_fit_are_refused_with_the_place(kind: Any, data: bytes, text: str) -> None:
    with pytest.raises(PayloadError, match=text):
        loader(kind)(data)


def test_an_annotation_that_json_cannot_tell_apart_is_refused_when_it_is_first_used() -> None:
    with pytest.raises(PayloadError, match="is not a type that can be read from JSON"):
        loader(list[int] | set[str])


# -- arguments ------------------------------------------------------------------------------------------------


def plain(a: int, b: Line, c: str = "c") -> None: ...
def variadic(a: int, *rest: Decimal, flag: bool = False, **named: date) -> None: ...
def positional(a: UUID, /, b: set[int]) -> None: ...
def keyword(*, when: datetime, what: Any = None) -> None: ...
def nothing() -> None: ...


class Calls:
    def __call__(self, a: Decimal, b: date = date(2020, 1, 1)) -> None: ...

    def method(self, a: Decimal) -> None: ...


DAY = date(2026, 1, 2)
CALLS: list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]] = [
    (plain, (1, LINE), {}),
    (plain, (1, LINE, "x"), {}),
    (plain, (1,), {"b": LINE}),
    (plain, (), {"c": "x", "b": LINE, "a": 1}),
    (variadic, (1,), {}),
    (variadic, (1, Decimal("1.5"), Decimal("2.5")), {}),
    (variadic, (1, Decimal("1.5")), {"flag": True, "on": DAY, "until": DAY}),
    (positional, (UUID(int=1), {3, 1}), {}),
    (positional, (UUID(int=1),), {"b": {3, 1}}),
    (keyword, (), {"when": NOON}),
    (keyword, (), {"when": NOON, "what": {"x": [1]}}),
    (nothing, (), {}),
    (Calls(), (Decimal("1.5"),), {}),
    (Calls(), (Decimal("1.5"), DAY), {}),
    (Calls().method, (Decimal("1.5"),), {}),
]


@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_arguments_come_back_as_the_types_of_their_parameters(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    arguments = Arguments(function)
    data = arguments.dump(args, kwargs, "the arguments")
    back_args, back_kwargs = arguments.load(data)
    assert (tuple(back_args), dict(back_kwargs)) == (args, kwargs)
    assert [type(each) for each in back_args] == [type(each) for each in args]
    function(*back_args, **back_kwargs)


def test_one_reader_reads_calls_of_different_lengths_in_any_order() -> None:
    arguments = Arguments(variadic)
    for count in (1, 3, 2, 3, 1, 0):
        args = (1, Decimal(1), Decimal(2))[:count]
        data = dump(args)
        assert tuple(arguments.load(data)[0]) == args


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (plain, (), {}, "missing a required argument: 'a'"),
        (plain, (1, LINE, "x", "y"), {}, "too many positional arguments"),
        (plain, (1, LINE), {"d": 1}, "got an unexpected keyword argument 'd'"),
        (plain, (1, LINE), {"a": 1}, "multiple values for argument 'a'"),
        (keyword, (), {}, "missing a required.* argument: 'when'"),
        (keyword, (NOON,), {}, "too many positional arguments"),
        (nothing, (1,), {}, r"too many positional arguments; it is nothing\(\)"),
        (Calls(), (), {}, r"missing a required argument: 'a'; it is Calls\(a: "),
    ],
)
def test_a_call_that_python_would_refuse_is_refused_where_it_is_made(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=r"^the arguments: " + text):
        Arguments(function).dump(args, kwargs, "the arguments")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'["x",{},"c"]', "does not fit"),
        (b"[1,2,3,4,5]", r"plain\(\) takes 3 arguments, but 5 were stored for it"),
        (b'{"args":[1],"kwargs":{"z":1}}', r"plain\(\) has no parameter 'z'"),
        (b'{"args":[1],"kwargs":{"c":5}}', "does not fit str"),
        (b'{"args":5}', "does not fit"),
        (b"5", "does not fit"),
        (b"[1", "does not fit"),
    ],
)
def test_stored_arguments_that_do_not_fit_the_function_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(PayloadError, match=text):
        Arguments(plain).load(data)


def test_the_leading_context_of_a_workflow_is_no_argument() -> None:
    def flow(ctx: Any, a: Decimal, *rest: date) -> None: ...

    def bag(*everything: Decimal) -> None: ...

    arguments = Arguments(flow, skip=1)
    assert arguments.load(arguments.dump((Decimal(1), DAY), {}, "x"))[0] == (Decimal(1), DAY)
    assert tuple(Arguments(bag, skip=1).load(b'["1.5"]')[0]) == (Decimal("1.5"),)


def make(source: str) -> Any:
    """A function from source whose annotations stay texts until somebody asks."""
    names: dict[str, Any] = {"__name__": "elsewhere"}
    exec(compile(f"from __future__ import annotations\n{source}", "elsewhere.py", "exec"), names)
    return names["function"]


def test_annotations_that_exist_only_for_type_checkers_are_told_at_the_first_call() -> None:
    function = make("def function(ctx: Context, order: Order) -> Receipt: ...")
    with pytest.raises(PayloadError, match=r"annotations of function cannot be resolved: name 'Order'.*TYPE_CHECKING"):
        Arguments(function, skip=1).dump((1,), {}, "x")
    with pytest.raises(PayloadError, match="name 'Context' is not defined"):
        Arguments(function).dump((1, 2), {}, "x")


def test_the_annotation_of_the_context_is_nobodys_business() -> None:
    function = make("from decimal import Decimal\ndef function(ctx: Context, price: Decimal) -> Decimal: ...")
    arguments = Arguments(function, skip=1)
    assert arguments.load(b'["1.5"]')[0] == (Decimal("1.5"),)
    assert arguments.result_type() is Decimal
