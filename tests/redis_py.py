"""redis-py's RedisCluster against a cluster; driven by redis_tools.rs.

Usage: redis_py.py PORT. Prints "ready" when the leader may be killed, waits for a line on standard input, and goes on.
"""

import sys
import time

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, RedisError

PATIENCE_SECONDS = 30


def until_done(command, *arguments):
    """What redis-py has given up is called again: it is less patient than an election may take."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return command(*arguments)
        except (RedisError, RedisClusterException):
            if time.monotonic() > until:
                raise


def expect(what, value, expected):
    assert value == expected, f"{what}: {value!r}, not {expected!r}"


cluster = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", int(sys.argv[1]))])
print("redis-py", redis.__version__, file=sys.stderr)

expect("SET", until_done(cluster.set, "a", "1"), True)
expect("GET", cluster.get("a"), b"1")
expect("INCR", cluster.incr("n"), 1)
expect("MSET", cluster.mset({"{m}a": "1", "{m}b": "2"}), True)
expect("MGET", cluster.mget(["{m}a", "{m}b", "{m}c"]), [b"1", b"2", None])
expect("SET EX", cluster.set("e", "1", ex=100), True)
expect("TTL", cluster.ttl("e") in (99, 100), True)
expect("DEL", cluster.delete("e"), 1)

pipeline = cluster.pipeline()
for number in range(100):
    pipeline.set(f"key-{number}", number)
    pipeline.get(f"key-{number}")
answers = [[True, str(number).encode()] for number in range(100)]
expect("a pipeline", pipeline.execute(), sum(answers, []))

# Transactions: as the cluster client sends them, and as one that knows nothing of clusters does.
with cluster.pipeline(transaction=True) as transaction:
    transaction.incr("{t}n")
    transaction.get("{t}n")
    expect("MULTI/EXEC in a cluster", transaction.execute(), [1, b"1"])
leader = cluster.get_node_from_key("a")
single = redis.Redis(host=leader.host, port=leader.port)
with single.pipeline(transaction=True) as transaction:
    transaction.watch("a")
    transaction.multi()
    transaction.incr("a")
    transaction.get("a")
    expect("MULTI/EXEC", transaction.execute(), [2, b"2"])
with single.pipeline(transaction=True) as transaction:
    transaction.watch("a")
    single.set("a", "5")
    transaction.multi()
    transaction.incr("a")
    try:
        transaction.execute()
        raise AssertionError("a watched key had changed")
    except redis.WatchError:
        pass

replicas = RedisCluster(startup_nodes=[ClusterNode("127.0.0.1", int(sys.argv[1]))], read_from_replicas=True)
for _ in range(6):
    expect("GET from a replica", replicas.get("key-1"), b"1")

print("ready", flush=True)
sys.stdin.readline()

expect("SET without the old leader", until_done(cluster.set, "b", "2"), True)
expect("GET without the old leader", until_done(cluster.get, "b"), b"2")
expect("GET of what was there", until_done(cluster.get, "key-7"), b"7")
print("done", flush=True)
