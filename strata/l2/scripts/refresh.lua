-- Replace what a reader found stale, or due for a refresh, by what it loaded from below, if the key still holds that
-- very content: any write or invalidation in between has put another one, or none, in its place.
-- KEYS  the records' keys
-- ARGV  for each key: the content found, new content ('' = remove the key), px (0 = no expiry)
-- Returns for each key whether it still held what was found.
local done = {}
for i, key in ipairs(KEYS) do
  local found, content, px = ARGV[i * 3 - 2], ARGV[i * 3 - 1], ARGV[i * 3]
  done[i] = 0
  if redis.call('MGET', key)[1] == found then
    if content == '' then
      redis.call('DEL', key)
    elseif px == '0' then
      redis.call('SET', key, content)
    else
      redis.call('SET', key, content, 'PX', px)
    end
    done[i] = 1
  end
end
return done
