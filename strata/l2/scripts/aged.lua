-- As read.lua, and how many ms each key has left (-1: it does not expire), so that stale values can be told.
-- KEYS  the records' keys
-- ARGV  1 lease token; 2 lease ms, 0 = leave none
local raws, left = redis.call('MGET', unpack(KEYS)), {}
for i, key in ipairs(KEYS) do
  left[i] = raws[i] and redis.call('PTTL', key) or -2
  if not raws[i] and ARGV[2] ~= '0' then redis.call('SET', key, 'L1:' .. ARGV[1], 'PX', ARGV[2]) end
end
return { raws, left }
