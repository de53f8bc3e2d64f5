--@common
-- A sign of life: it proves that its instance can change what is here, and tell of it, as every writer must. By the
-- way the instances take turns in looking for repairs.
-- KEYS  1 when repairs were last looked for (hash: schema -> ms)
-- ARGV  1 channel; 2 message; 3 ms from one look to the next; then the schemas for which the caller could look now
-- Returns those of the schemas for which the caller is to look, and nobody else.
redis.call('PUBLISH', ARGV[1], ARGV[2])
-- Before any other change: a Redis that is out of memory refuses what may need some, unless the script has written.
clear_unless('hash', KEYS[1])
redis.call('PEXPIRE', KEYS[1], 60000)
local now, mine, at = now_ms(), {}, {}
for i = 4, #ARGV do
  if tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or 0) + tonumber(ARGV[3]) <= now then mine[#mine + 1] = ARGV[i] end
end
for i, schema in ipairs(mine) do
  at[2 * i - 1], at[2 * i] = schema, string.format('%d', now)
end
if #at > 0 then
  redis.call('HSET', KEYS[1], unpack(at))
  redis.call('PEXPIRE', KEYS[1], 60000)
end
return mine
