--@common
-- A writer of the schema is about to commit, or has: the generation ends.
-- KEYS  1 the schema's generation; 2 its writers (sorted set: token, deadline in ms)
-- ARGV  1 the writer's token; 2 ms until its commit has surely ended, 0 = it has
redis.call('DEL', KEYS[1])
clear_unless('zset', KEYS[2])
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[2], string.format('%d', now_ms() + tonumber(ARGV[2])), ARGV[1])
  -- Once the last writer's time is up, nobody is left; another writer's is never shortened.
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
end
return 1
