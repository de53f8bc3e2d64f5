-- What each key holds; where it holds nothing, a lease is left, which alone lets this reader fill it.
-- KEYS  the records' keys
-- ARGV  1 lease token; 2 lease ms, 0 = leave none
local raws = redis.call('MGET', unpack(KEYS))
if ARGV[2] ~= '0' then
  for i, key in ipairs(KEYS) do
    if not raws[i] then redis.call('SET', key, 'L1:' .. ARGV[1], 'PX', ARGV[2]) end
  end
end
return raws
