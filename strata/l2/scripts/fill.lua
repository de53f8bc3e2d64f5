-- Store what a reader loaded from below, if its very lease is still there; with an empty content, end the lease.
-- KEYS  the records' keys
-- ARGV  1 lease token; 2 px, 0 = no expiry; then for each key its content
local lease = 'L1:' .. ARGV[1]
local filled = {}
for i, key in ipairs(KEYS) do
  filled[i] = 0
  if redis.call('GET', key) == lease then
    local content = ARGV[2 + i]
    if content == '' then
      redis.call('DEL', key)
    else
      if ARGV[2] == '0' then redis.call('SET', key, content) else redis.call('SET', key, content, 'PX', ARGV[2]) end
      filled[i] = 1
    end
  end
end
return filled
