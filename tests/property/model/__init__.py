"""An explicit-state model of the coherence and write-behind protocol: one key, a few processes, every interleaving.

`rules` names the protocol's rules, `state` is what there is, `redis`, `postgres`, `ledger`, `memory` and `buffer` are
the atomic steps (a script, a statement, an action on L1), `through` and `behind` the programs that the engine's
threads run, `surroundings` what happens to them, `promises` what must hold, `explore` the search.
"""
