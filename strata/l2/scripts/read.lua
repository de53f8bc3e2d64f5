-- What each key holds; where it holds nothing, or what is of no use to this reader, a lease is left, which alone lets it
-- fill the key.
-- KEYS  the records' keys
-- ARGV  1 lease token; 2 lease ms; then for each key the content that is of no use ('' = none)
-- Returns for each key its content, or nothing where the lease was left.
local raws = redis.call('MGET', unpack(KEYS))
for i, key in ipairs(KEYS) do
  if not raws[i] or raws[i] == ARGV[i + 2] then
    redis.call('SET', key, 'L1:' .. ARGV[1], 'PX', ARGV[2])
    raws[i] = false
  end
end
return raws
