"""Tests of other modules define workflows too; here each module sees its own."""

import pytest

from durableflow.authoring.registry import DEFAULT


@pytest.fixture(autouse=True)
def registry_of_this_module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name = request.module.__name__
    for kind in ("workflows", "activities"):
        known = getattr(DEFAULT, kind)
        own = {each.name: each for each in known.values() if each.function.__module__ == name}
        monkeypatch.setattr(DEFAULT, kind, own)
