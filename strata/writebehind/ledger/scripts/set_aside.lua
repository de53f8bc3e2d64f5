--@common
--@ledger
-- What nobody can read leaves the ledger for the dead letters, where somebody may look at it.
-- KEYS  1 dirty; 2 due; 3 claims; 4 dead; 5 deaths
-- ARGV  1 key; 2 what it holds, as it was claimed; 3 version by which the letter goes; 4 letter
-- Returns 1 if that was still there.
even_if_full(KEYS[2])
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[4], ARGV[3], ARGV[4])
redis.call('ZADD', KEYS[5], whole(now_ms()), ARGV[3])
forget(KEYS[1], KEYS[2], KEYS[3], { ARGV[1] })
return 1
