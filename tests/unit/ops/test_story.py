"""The story: it fills its time, breaks providers one after the other, and always leaves one up."""

from __future__ import annotations

import itertools

import pytest

from resilience.ops.cli import DEFAULT_SECONDS, LONGEST_SECONDS, SHORTEST_SECONDS
from resilience.ops.story import PLAYERS, Story
from resilience.settings import Settings

LENGTHS = [SHORTEST_SECONDS, DEFAULT_SECONDS, LONGEST_SECONDS]


@pytest.mark.parametrize("seconds", LENGTHS)
def test_phases_follow_each_other_and_fill_the_time(seconds: float) -> None:
    phases = Story(seconds).phases
    assert phases[0].starts == 0.0
    assert phases[-1].ends == pytest.approx(seconds)
    assert all(one.ends == following.starts for one, following in itertools.pairwise(phases))


def test_somebody_is_up_in_every_phase() -> None:
    everybody = {cast.provider for cast in PLAYERS}
    assert all(everybody - phase.broken.keys() for phase in Story(40).phases)


def test_the_promised_faults_all_happen_and_the_end_is_calm() -> None:
    faults = [breakage.fault for phase in Story(40).phases for breakage in phase.broken.values()]
    assert {"refuse", "hang", "cut"} <= {fault.name for fault in faults}
    limited = next(fault for fault in faults if fault.status == 429)
    assert float(dict(limited.headers)["retry-after"]) > 0
    assert Story(40).phases[-1].broken == {}


def test_no_provider_that_was_never_told_to_is_broken() -> None:
    names = {cast.provider for cast in PLAYERS}
    assert all(phase.broken.keys() <= names for phase in Story(40).phases)


@pytest.mark.parametrize("seconds", LENGTHS)
def test_the_settings_are_valid_at_every_length(seconds: float) -> None:
    settings = Settings.load(Story(seconds).settings({cast.provider: "http://127.0.0.1:1" for cast in PLAYERS}))
    names = [target.name for target in settings.route().targets]
    assert names == [cast.target for cast in PLAYERS]
    assert settings.breaker.open_seconds < seconds / 10
