--@common
--@ledger
-- L3 has these versions: what is not newer leaves the ledger, the floor rises, dead letters that are not newer go.
-- The floor does not rise for a write of some columns only, and nothing but itself leaves: an older one, which may be
-- in the ledger without L3's knowing of it, still has a word on the others, and so has a dead letter. What several wrote
-- may be there once more at the same version, and not be the same: it leaves for nobody but whoever has claimed it.
-- KEYS  1 dirty; 2 due; 3 claims; 4 floor0; 5 floor1; 6 dead; 7 deaths; 8 graves; 9 untold
-- ARGV  1 token of the claims, '' of who wrote around the ledger; then for each record: key, version that L3 has,
--       1 if the floor rises to it
-- Returns the number of entries that left.
local dirty, due, claims = KEYS[1], KEYS[2], KEYS[3]
even_if_full(due)
local now = now_ms()
local keys = {}
for i = 2, #ARGV, 3 do keys[#keys + 1] = ARGV[i] end
local entries = redis.call('HMGET', dirty, unpack(keys))
local known = floors(KEYS[4], KEYS[5], keys)
local gone, up = {}, {}
local function ends(key, version)
  return ARGV[1] == '' or claim_of(redis.call('HGET', claims, key), version) == ARGV[1]
end
for i, key in ipairs(keys) do
  local version, entry = ARGV[3 * i], entries[i]
  if entry and not is_entry(entry) and version_of(entry) ~= version then entry = false end
  local all = ARGV[3 * i + 1] == '1'
  local is_same = entry and version_of(entry) == version
  if entry and (all and not older(version, version_of(entry)) or is_same and ends(key, version)) then
    gone[#gone + 1] = key
  elseif entry and older(version, version_of(entry)) then
    -- A newer write came meanwhile: it is due now, unless another worker has taken it up already.
    local claim = redis.call('HGET', claims, key)
    if not claim or string.sub(claim, 1, 19) ~= version_of(entry) then
      redis.call('HDEL', claims, key)
      redis.call('ZADD', due, whole(now), key)
    end
  end
  if all then
    up[#up + 1] = key
    up[#up + 1] = (known[i] ~= '' and older(version, known[i])) and known[i] or version
  end
end
forget(dirty, due, claims, gone)
raise(KEYS[4], KEYS[5], now, up)

if redis.call('EXISTS', KEYS[8]) == 1 then
  for i, key in ipairs(keys) do
    local left = ''
    for _, version in ipairs(buried(KEYS[8], key)) do
      if version == ARGV[3 * i] or (ARGV[3 * i + 1] == '1' and not older(ARGV[3 * i], version)) then
        redis.call('HDEL', KEYS[6], version)
        redis.call('ZREM', KEYS[7], version)
        redis.call('HDEL', KEYS[9], version)
      else
        left = left .. version .. ' '
      end
    end
    if left == '' then redis.call('HDEL', KEYS[8], key) else redis.call('HSET', KEYS[8], key, left) end
  end
end
return #gone
