--@common
--@ledger
-- A write that is given up becomes a dead letter, unless a newer one of its key is pending or persisted.
-- KEYS  1 dirty; 2 due; 3 claims; 4 floor0; 5 floor1; 6 dead; 7 deaths; 8 graves; 9 untold
-- ARGV  1 key; 2 version; 3 letter
-- Returns 1 if it was buried, or is buried already.
local key, version = ARGV[1], ARGV[2]
even_if_full(KEYS[2])
local entry = redis.call('HGET', KEYS[1], key)
local known = floors(KEYS[4], KEYS[5], { key })[1]
if entry and is_entry(entry) and older(version, version_of(entry)) then return 0 end
if entry and version_of(entry) == version then forget(KEYS[1], KEYS[2], KEYS[3], { key }) end
if known ~= '' and not older(known, version) then return 0 end
local graves = redis.call('HGET', KEYS[8], key) or ''
if not string.find(graves, version .. ' ', 1, true) then redis.call('HSET', KEYS[8], key, graves .. version .. ' ') end
redis.call('HSET', KEYS[6], version, ARGV[3])
redis.call('ZADD', KEYS[7], whole(now_ms()), version)
redis.call('HSET', KEYS[9], version, key)
return 1
