"""Whatever is delivered, repeated, lost or overtaken: the books end the same, to the cent.

A story is told with what guests, staff and banks do in the same order each time, and with every
delivery of its news, webhooks, polls and answers, mixed anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from tests.support.house import Act, House, Link, Provider

from maitred.server.domain import returns, settlement
from maitred.server.domain.evolve import fold_session
from maitred.server.domain.snapshots import ProviderSnapshot
from maitred.server.domain.tab import Tab
from maitred.v1.state_pb2 import (
    PAYMENT_STATUS_OPEN,
    PAYMENT_STATUS_SUCCEEDED,
    Payment,
    Session,
)

CASES = 20_000
SHARES = 4
TELLINGS = 5

LATE = ("late", "dispute", "dashboard", "refund_fails")
ACTS = ("add", "create", "create_lost", "cancel", "cash", "pay", "pay", "decline", "pay_slowly")
MORE_ACTS = ("settle", "fail_slowly", "time", "discount", "refund", "refund_lost", "refund_settles")


def story_of(random: Random) -> list[Act]:
    """Think up what happens: commands and guests first, what comes late at the end."""
    acts = [Act("create" if random.random() < 0.8 else "create_lost", 0)]
    kinds = random.choices(ACTS + MORE_ACTS, k=random.randrange(1, 6))
    kinds += random.choices(LATE, k=random.randrange(0, 3))
    return [*acts, *(Act(kind, random.randrange(600)) for kind in kinds)]


def told_at_once(story: list[Act]) -> House:
    """Tell a story in which every piece of news is heard at once, and once."""
    house = House()
    for act in story:
        house.happen(act)
        for name in list(house.payments):
            house.ask(name)
    house.check()
    return house


def told_badly(story: list[Act], random: Random) -> House:
    """Tell it with news that is late, repeated, lost, and overtaken by newer news."""
    house = House()
    news: list[ProviderSnapshot] = []
    for act in story:
        house.happen(act)
        links = list(house.provider.links.values())
        news += [link.snapshot() for link in links if random.random() < 0.6]
        for _ in range(random.randrange(0, 4)):
            if news:
                told = random.choice(news)
                house.hear(told)
                if random.random() < 0.3:
                    news.remove(told)
    random.shuffle(news)
    for told in news[: random.randrange(0, 4)]:
        house.hear(told)
    names = list(house.payments)
    random.shuffle(names)
    for name in names:
        house.ask(name)
        house.ask(name)
    for told in news[:2]:
        house.hear(told)
    house.check()
    return house


def tell(seed: int, stories: int, tellings: int) -> Counter[str]:
    """Tell many stories, each well once and badly several times; answers counts."""
    random = Random(seed)
    counts: Counter[str] = Counter()
    for _ in range(stories):
        story = story_of(random)
        well = told_at_once(story)
        books = well.books()
        for _ in range(tellings):
            badly = told_badly(story, random)
            assert badly.books() == books, story
            counts["cases"] += 1
            counts["events"] += len(badly.events)
        counts["payments"] += len(well.payments)
        counts["settled"] += sum(well.successes.values())
        counts["refunds"] += sum(len(each.refunds) for each in well.payments.values())
    assert fold_session(iter(badly.events)) == badly.session
    return counts


@pytest.mark.parametrize("share", range(SHARES))
def test_the_books_do_not_depend_on_how_the_news_travels(share: int) -> None:
    """20 000 tellings, over all shares, of 4 000 stories: the same provider, the same end."""
    counts = tell(1000 + share, CASES // SHARES // TELLINGS, TELLINGS)
    print(dict(counts))  # noqa: T201 - shown with -s: how much was tried

    assert counts["cases"] >= CASES // SHARES
    assert counts["settled"] > 300
    assert counts["refunds"] > 80


class _Anything(int):
    """A rank above every other, whichever way it is asked."""

    def __le__(self, other: object) -> bool:
        return False


def _without_ranks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(settlement, "RANK", dict.fromkeys(settlement.RANK, _Anything()))


def _settling_again(patch: pytest.MonkeyPatch) -> None:
    take_money = settlement._take_money

    def mutant(
        session: Session, tab: Tab, after: Payment, snapshot: ProviderSnapshot, now_ns: int
    ) -> None:
        if after.status == PAYMENT_STATUS_SUCCEEDED:
            after.status = PAYMENT_STATUS_OPEN
        take_money(session, tab, after, snapshot, now_ns)

    patch.setattr(settlement, "_take_money", mutant)


def _forgetting_refunds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(returns, "_find_refund", lambda _payment, _news: None)


def _with_a_key_for_each_try(patch: pytest.MonkeyPatch) -> None:
    create = Provider.create

    def mutant(provider: Provider, payment: Payment) -> Link:
        again = Payment()
        again.CopyFrom(payment)
        again.request.key += f":{provider.calls}"
        return create(provider, again)

    patch.setattr(Provider, "create", mutant)


@pytest.mark.parametrize(
    "break_it",
    [_without_ranks, _settling_again, _forgetting_refunds, _with_a_key_for_each_try],
)
def test_a_reducer_that_is_broken_is_noticed(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A property that nothing can violate would prove nothing."""
    break_it(monkeypatch)
    with pytest.raises(AssertionError):
        tell(1, 300, TELLINGS)
