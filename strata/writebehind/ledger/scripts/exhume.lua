--@common
--@ledger
-- Take a dead letter out: it was discarded, or is pending once more.
-- KEYS  1 dead; 2 deaths; 3 graves; 4 untold
-- ARGV  1 key; 2 version
-- Returns 1 if it was there.
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[4], ARGV[2])
local left = ''
for _, version in ipairs(buried(KEYS[3], ARGV[1])) do
  if version ~= ARGV[2] then left = left .. version .. ' ' end
end
if left == '' then redis.call('HDEL', KEYS[3], ARGV[1]) else redis.call('HSET', KEYS[3], ARGV[1], left) end
return redis.call('HDEL', KEYS[1], ARGV[2])  -- last: see `forget`
