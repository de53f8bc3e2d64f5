--@common
--@ledger
-- Lease entries to one worker. Those that were claimed twice and then neither done nor released, as if they had
-- killed their worker, are handed out alone.
-- KEYS  1 dirty; 2 due; 3 claims; where somebody answers the bell: 4 bell, so that hand-offs after this ring again
-- ARGV  1 token; 2 most entries; 3 most bytes; 4 lease ms; then, where it is not for those that are due, the keys:
--       other leases do not stop it, but a backoff after a failure of the record's own does
-- Returns for each entry: key, entry, crashes, attempts, outages.
local dirty, due, claims = KEYS[1], KEYS[2], KEYS[3]
even_if_full(due)
local now = now_ms()
if KEYS[4] then redis.call('DEL', KEYS[4]) end
local keys = {}
if #ARGV > 4 then
  for i = 5, #ARGV do keys[#keys + 1] = ARGV[i] end
else
  keys = redis.call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', 0, ARGV[2])
end
if #keys == 0 then return {} end

local entries, held = redis.call('HMGET', dirty, unpack(keys)), redis.call('HMGET', claims, unpack(keys))
local seize = #ARGV > 4
local given, bytes, dues, marks, stray = {}, 0, {}, {}, {}
for i, key in ipairs(keys) do
  local entry = entries[i]
  if not entry then
    stray[#stray + 1] = key
  else
    local version = version_of(entry)
    local token, crashes, attempts, outages = claim_of(held[i], version)
    local at = seize and tonumber(redis.call('ZSCORE', due, key) or 0) or 0
    if token ~= '-' and at <= now then crashes = crashes + 1 end
    local resting = token == '-' and attempts > 0 and at > now
    local alone = crashes >= 2
    if not resting and not (alone and #given > 0) then
      bytes = bytes + #entry
      if #given > 0 and bytes > tonumber(ARGV[3]) then break end
      given[#given + 1] = key
      given[#given + 1] = entry
      given[#given + 1] = crashes
      given[#given + 1] = attempts
      given[#given + 1] = outages
      dues[#dues + 1] = whole(now + tonumber(ARGV[4]))
      dues[#dues + 1] = key
      marks[#marks + 1] = key
      marks[#marks + 1] = version .. ':' .. ARGV[1] .. ':' .. crashes .. ':' .. attempts .. ':' .. outages
      if alone or #given / 5 >= tonumber(ARGV[2]) then break end
    end
  end
end
if #dues > 0 then
  redis.call('ZADD', due, unpack(dues))
  redis.call('HSET', claims, unpack(marks))
end
if #stray > 0 then
  redis.call('ZREM', due, unpack(stray))
  redis.call('HDEL', claims, unpack(stray))
end
return given
