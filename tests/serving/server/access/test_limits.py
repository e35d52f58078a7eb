"""Limits of a caller, on a clock that a test turns."""

import time

import pytest

from serving.base.errors import OverLimit
from serving.server.access.limits import Accounts, Rate
from serving.server.access.policy import Limits


class Clock:
    """Turns time.monotonic and time.time."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    monkeypatch.setattr(time, "time", made)
    return made


def come(rate: Rate, now: float, units: float = 1.0) -> bool:
    try:
        rate.check(now)
    except OverLimit:
        return False
    rate.took(units, now)
    return True


def test_a_second_of_a_rate_may_come_at_once_and_then_one_after_another() -> None:
    rate = Rate("requests_per_second", 10)
    assert [come(rate, 100.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [come(rate, 100.11), come(rate, 100.11)] == [True, False]
    with pytest.raises(OverLimit, match="requests_per_second 10") as refused:
        rate.check(100.11)
    assert refused.value.retry_after == pytest.approx(0.09)
    assert come(rate, 100.11 + refused.value.retry_after)
    # It does not save up more than a second's worth.
    assert sum(come(rate, 900.0) for _ in range(100)) == 10


def test_rates_below_one_a_second_let_one_through_at_a_time() -> None:
    rate = Rate("requests_per_second", 0.1)
    assert [come(rate, 5.0), come(rate, 14.9), come(rate, 15.0)] == [True, False, True]


def test_long_run_of_a_flood_has_its_rate() -> None:
    rate = Rate("requests_per_second", 50)
    assert sum(come(rate, step / 1000) for step in range(10_000)) == pytest.approx(549, abs=2)


def test_more_at_once_than_a_second_allows_is_paid_for_afterwards() -> None:
    rate = Rate("pixels_per_second", 1000)
    assert come(rate, 0.0, units=5000)
    assert not come(rate, 3.9)
    assert come(rate, 4.1)


def test_calls_streams_and_bytes_are_had_at_a_time(clock: Clock) -> None:
    limits = Limits(calls=2, streams=1, bytes_held=100)
    accounts = Accounts()
    account = accounts.of("key:a", limits)
    account.enter()
    account.enter()
    with pytest.raises(OverLimit, match="calls 2") as refused:
        accounts.of("key:a", limits).enter()
    assert refused.value.retry_after > 0
    accounts.of("key:b", limits).enter()
    account.hold(60)
    with pytest.raises(OverLimit, match="bytes_held 100"):
        account.hold(41)
    account.hold(40)
    account.leave(100)
    account.enter()
    account.hold(100)
    account.open_stream()
    with pytest.raises(OverLimit, match="streams 1"):
        account.open_stream()
    account.close_stream()
    account.open_stream()


def test_refused_call_uses_up_nothing(clock: Clock) -> None:
    account = Accounts().of("key:a", Limits(requests_per_second=1, calls=1, requests_per_day=2))
    account.enter()
    for _ in range(5):
        with pytest.raises(OverLimit):
            account.enter()
    account.leave(0)
    clock.now += 1
    account.enter()


def test_quota_begins_anew_at_midnight(clock: Clock) -> None:
    clock.now = 86_400 * 20_000 + 86_000.0
    account = Accounts().of("key:a", Limits(requests_per_day=2, images_per_day=100))
    account.enter()
    account.enter()
    with pytest.raises(OverLimit, match="requests_per_day 2") as refused:
        account.enter()
    assert refused.value.retry_after == 400
    clock.now += 400
    account.enter()
    account.images(150)
    with pytest.raises(OverLimit, match="images_per_day 100"):
        account.enter()


def test_images_and_pixels_of_a_call_count_for_the_next(clock: Clock) -> None:
    limits = Limits(images_per_second=10, pixels_per_second=1000)
    images, pixels = Accounts().of("a", limits), Accounts().of("a", limits)
    images.enter()
    images.images(30)
    pixels.enter()
    pixels.pixels(3000)
    for account in (images, pixels):
        with pytest.raises(OverLimit, match="per_second"):
            account.enter()
    clock.now += 3
    images.enter()
    pixels.enter()


def test_calls_that_began_together_take_no_more_images_than_the_day_has(clock: Clock) -> None:
    account = Accounts().of("a", Limits(images_per_day=10))
    for _ in range(5):
        account.enter()
    account.images(8)
    account.images(8)
    with pytest.raises(OverLimit, match="images_per_day 10"):
        account.images(1)


def test_account_outlives_a_policy_that_is_read_again_with_the_same_limits() -> None:
    accounts = Accounts()
    account = accounts.of("a", Limits(calls=1))
    assert accounts.of("a", Limits(calls=1)) is account
    assert accounts.of("a", Limits(calls=2)) is not account


def test_callers_who_come_and_go_take_bounded_memory_and_none_under_way_is_forgotten() -> None:
    limits = Limits(calls=1)
    accounts = Accounts()
    busy = accounts.of("busy", limits)
    busy.enter()
    for number in range(10_100):
        accounts.of(f"address {number}", limits)
    assert accounts.of("busy", limits) is busy
    assert len(accounts._all) == 10_000


def test_clock_that_is_set_back_over_midnight_begins_no_day_again(clock: Clock) -> None:
    clock.now = 86_400 * 20_000 + 1.0
    account = Accounts().of("a", Limits(requests_per_day=2))
    account.enter()
    account.enter()
    for seconds in (-10, 10):  # a clock that is corrected, and goes on
        clock.now += seconds
        with pytest.raises(OverLimit):
            account.enter()
    clock.now += 86_400
    account.enter()
    clock.now -= 86_400 * 400  # one that was wrong altogether
    account.enter()
    account.enter()
    with pytest.raises(OverLimit):
        account.enter()


def test_clock_of_the_rates_is_not_that_of_the_day(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Accounts().of("a", Limits(requests_per_second=1))
    account.enter()
    for wrong in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda wrong=wrong: wrong)
        with pytest.raises(OverLimit) as refused:
            account.enter()
        assert 0 < refused.value.retry_after <= 1


def test_delay_ends_however_far_a_caller_is_ahead(clock: Clock) -> None:
    account = Accounts().of("a", Limits(pixels_per_second=1e-6))
    account.enter()
    account.pixels(1 << 50)
    with pytest.raises(OverLimit) as refused:
        account.enter()
    assert refused.value.retry_after == 86_400
