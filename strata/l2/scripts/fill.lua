-- Store what a reader loaded from below, if its very lease is still there; with an empty content, end the lease.
-- KEYS  the records' keys
-- ARGV  1 lease token; then for each key: content, px (0 = no expiry)
-- Returns for each key whether the lease was there.
local lease = 'L1:' .. ARGV[1]
local held, filled = redis.call('MGET', unpack(KEYS)), {}
for i, key in ipairs(KEYS) do
  filled[i] = 0
  if held[i] == lease then
    local content, px = ARGV[i * 2], ARGV[i * 2 + 1]
    if content == '' then
      redis.call('DEL', key)
    elseif px == '0' then
      redis.call('SET', key, content)
    else
      redis.call('SET', key, content, 'PX', px)
    end
    filled[i] = 1
  end
end
return filled
