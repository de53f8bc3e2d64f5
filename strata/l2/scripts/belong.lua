-- To which database belongs what is kept here? Where it is nobody's, it becomes the caller's.
-- KEYS  1 strata:{database}:owner (hash: `owner` -> fingerprint; `at:<digest of an address>` -> fingerprint found there)
-- ARGV  1 the caller's fingerprint, '' where it is not known; 2 the digest of its address
-- Returns the owner's fingerprint, or ''; the one that was found at the caller's address, or ''; and the type that the
-- key had, where it was another one: somebody else's, it says nothing, and is renamed by whoever becomes the owner.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' or kind == 'none' then kind = '' end
if kind ~= '' then
  if ARGV[1] == '' then return {'', '', kind} end
  redis.call('RENAME', KEYS[1], KEYS[1] .. ':stray')
end
local owner = redis.call('HGET', KEYS[1], 'owner')
local found = redis.call('HGET', KEYS[1], 'at:' .. ARGV[2])
if ARGV[1] ~= '' and (not owner or (owner == ARGV[1] and found ~= owner)) then
  -- Written where it changes something only: each new connection asks.
  if not owner or redis.call('HLEN', KEYS[1]) > 100 then redis.call('DEL', KEYS[1]) end
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'at:' .. ARGV[2], ARGV[1])
  owner = ARGV[1]
  found = ARGV[1]
end
return {owner or '', found or '', kind}
