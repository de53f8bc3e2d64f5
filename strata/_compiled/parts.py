"""What the compiled part is made of: its modules, and the source of each. Read by setup.py too, so nothing is imported
here."""

PARTS = {
    "hits": "strata/_compiled/hits.pyx",
    "store": "strata/l1/store.py",
    "lru": "strata/l1/eviction/lru.py",
    "lfu": "strata/l1/eviction/lfu.py",
    "fifo": "strata/l1/eviction/fifo.py",
    "ghosts": "strata/l1/eviction/ghosts.py",
    "stamped": "strata/l1/eviction/stamped.py",
    "claims": "strata/l1/claims.py",
    "tier": "strata/l1/tier.py",
    "versions": "strata/protocol/versions.py",
    "buffer": "strata/writebehind/dirty/buffer.py",
    "gate": "strata/writebehind/dirty/gate.py",
    "queues": "strata/writebehind/dirty/queues.py",
    "observed": "strata/engine/observed.py",
}
