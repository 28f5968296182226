"""What opening a Redis means: recognising it, its settings, whose data it is; and damage."""

from __future__ import annotations

import pytest
from tests.support.redis import RedisServer, opened_redis

from maitred.server.stores.base import (
    Committed,
    CorruptData,
    SchemaTooNew,
    StoreError,
    StoreUnavailable,
)
from maitred.server.stores.redis import RedisStore
from maitred.server.testing.samples import new_commit, new_ref, put


async def refused(url: str, words: str, error: type[StoreError] = StoreError) -> None:
    """Expect that a store cannot be opened, and is told why in one line without a password."""
    store = RedisStore(url)
    with pytest.raises(error, match=words) as caught:
        await store.open()
    await store.close()

    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------- what is refused at open


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("appendfsync", "no", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ],
)
async def test_unsafe_settings_are_refused_unless_accepted(
    own_redis: RedisServer, name: str, value: str, wanted: str
) -> None:
    """The line says what to set; accepting loss opens it all the same."""
    await own_redis.ask("CONFIG", "SET", name, value)
    await refused(own_redis.url(), rf"set {name} {wanted} \(it is {value}\); .*--accept-data-loss")

    async with opened_redis(own_redis.url(), accept_data_loss=True) as store:
        assert await put(store, new_commit(new_ref(), 0)) == Committed()


async def test_a_server_that_hides_its_settings_is_refused_unless_accepted() -> None:
    """Managed servers forbid CONFIG: what cannot be seen is not promised."""
    with RedisServer(rename_command="CONFIG HIDDEN") as hidden:
        await refused(hidden.url(), "does not show its settings")
        async with opened_redis(hidden.url(), accept_data_loss=True) as store:
            assert await put(store, new_commit(new_ref(), 0)) == Committed()


async def test_a_cluster_is_refused() -> None:
    """A commit spans keys of several slots."""
    with RedisServer(cluster_enabled="yes") as cluster:
        await refused(cluster.url(), "is a cluster")


async def test_a_replica_is_refused(own_redis: RedisServer) -> None:
    """Whoever is not the primary cannot acknowledge."""
    with RedisServer(replicaof=f"127.0.0.1 {own_redis.port}") as replica:
        await refused(replica.url(), "is a replica", StoreUnavailable)


async def test_a_user_who_may_not_do_everything_is_refused(own_redis: RedisServer) -> None:
    """A forbidden command is found at open, not in the middle of a commit; hints may be missing."""
    everything = ("on", ">secret", "~*", "+@all")
    await own_redis.ask("ACL", "SETUSER", "lame", *everything, "&*", "-xdel")
    await own_redis.ask("ACL", "SETUSER", "mute", *everything, "resetchannels")
    await refused(f"redis://lame:secret@{own_redis.address}", "refuses a command", StoreUnavailable)
    await refused(f"redis://lame:wrong@{own_redis.address}", "cannot be reached", StoreUnavailable)

    async with opened_redis(f"redis://mute:secret@{own_redis.address}") as store:
        assert await put(store, new_commit(new_ref(), 0)) == Committed()


async def test_nothing_there_is_one_clear_line(own_redis: RedisServer) -> None:
    """The line names the address and not the password."""
    own_redis.stop()

    await refused(f"redis://:secret@{own_redis.address}/0", own_redis.address, StoreUnavailable)


async def test_a_newer_schema_is_refused(own_redis: RedisServer) -> None:
    """An older maitred does not touch what a newer one wrote."""
    await own_redis.ask("HSET", "maitred:meta", "schema", "999")
    await refused(own_redis.url(), "schema 999", SchemaTooNew)

    assert await own_redis.ask("HKEYS", "maitred:meta") == [b"schema"]


async def test_a_newer_schema_is_noticed_while_running(own_redis: RedisServer) -> None:
    """A server that was outgrown finds out when it asks."""
    async with opened_redis(own_redis.url()) as store:
        await store.check()
        await own_redis.ask("HSET", "maitred:meta", "schema", "999")
        with pytest.raises(SchemaTooNew, match="schema 999"):
            await store.check()


async def test_damage_is_never_read_as_absence(own_redis: RedisServer) -> None:
    """An event, a part of a head, or a key of another type raise."""
    async with opened_redis(own_redis.url()) as store:
        gap, torn, mixed = (new_ref() for _ in range(3))
        for ref in (gap, torn, mixed):
            for base in range(3):
                await put(store, new_commit(ref, base))
        await own_redis.ask("HDEL", f"maitred:log:01:{gap.id}", "2")
        await own_redis.ask("HDEL", f"maitred:head:01:{torn.id}", "k")
        await own_redis.ask("SET", f"maitred:head:01:{mixed.id}", "text")

        for reading in (
            store.events(gap, 0, 9),
            store.feed(b"", 99),
            store.load(torn),
            store.load(mixed),
        ):
            with pytest.raises(CorruptData):
                await reading
        assert isinstance(await put(store, new_commit(mixed, 3)), CorruptData)
