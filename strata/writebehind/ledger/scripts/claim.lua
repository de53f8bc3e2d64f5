--@common
--@ledger
-- Lease entries to one worker. Those that were claimed twice and then neither done nor released, as if they had
-- killed their worker, are handed out alone.
-- KEYS  1 dirty; 2 due; 3 claims; 4 bell, which need not be rung while somebody is at it, and must be afterwards
-- ARGV  1 token; 2 most entries; 3 most bytes; 4 lease ms; 5 ms for which whoever claims is at it; then, where it is not
--       for those that are due, the keys: other leases do not stop it, but a backoff after a failure of the record's
--       own does
-- Returns for each entry: key, entry, '<crashes>:<attempts>:<outages>' where earlier claims ended in some, or ''.
local dirty, due, claims = KEYS[1], KEYS[2], KEYS[3]
even_if_full(due)
local now = now_ms()
local seize = #ARGV > 5
local keys = {}
if seize then
  for i = 6, #ARGV do keys[#keys + 1] = ARGV[i] end
else
  keys = redis.call('ZRANGEBYSCORE', due, '-inf', whole(now), 'LIMIT', 0, ARGV[2])
end
if #keys == 0 then
  redis.call('DEL', KEYS[4])
  return {}
end

local entries, held = redis.call('HMGET', dirty, unpack(keys)), redis.call('HMGET', claims, unpack(keys))
local given, bytes, dues, marks, stray = {}, 0, {}, {}, {}
local count, most, most_bytes = 0, tonumber(ARGV[2]), tonumber(ARGV[3])
local ends, mine = whole(now + tonumber(ARGV[4])), ':' .. ARGV[1] .. ':'
local anew = mine .. '0:0:0'
for i, key in ipairs(keys) do
  local entry = entries[i]
  if not entry then
    stray[#stray + 1] = key
  else
    local version = claimed_as(entry)
    local token, crashes, attempts, outages = '-', 0, 0, 0
    if held[i] then token, crashes, attempts, outages = claim_of(held[i], version) end
    local at = seize and tonumber(redis.call('ZSCORE', due, key) or 0) or 0
    if token ~= '-' and at <= now then crashes = crashes + 1 end
    local resting = token == '-' and attempts > 0 and at > now
    local alone = crashes >= 2
    if not resting and not (alone and count > 0) then
      bytes = bytes + #entry
      if count > 0 and bytes > most_bytes then break end
      count = count + 1
      local counts = (crashes + attempts + outages > 0) and crashes .. ':' .. attempts .. ':' .. outages or ''
      given[3 * count - 2], given[3 * count - 1], given[3 * count] = key, entry, counts
      dues[2 * count - 1], dues[2 * count] = ends, key
      marks[2 * count - 1] = key
      marks[2 * count] = version .. (counts == '' and anew or mine .. counts)
      if alone or count >= most then break end
    end
  end
end
if count > 0 then
  redis.call('ZADD', due, unpack(dues))
  redis.call('HSET', claims, unpack(marks))
end
if not seize then
  if count > 0 then redis.call('SET', KEYS[4], '1', 'PX', ARGV[5]) else redis.call('DEL', KEYS[4]) end
end
if #stray > 0 then
  redis.call('ZREM', due, unpack(stray))
  redis.call('HDEL', claims, unpack(stray))
end
return given
