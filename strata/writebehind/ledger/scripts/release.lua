--@common
--@ledger
-- Give claims back after a failure; each is due again after a pause.
-- KEYS  1 due; 2 claims; 3 dirty
-- ARGV  1 token; then for each record: key, version, pause ms, crashes, attempts, outages
even_if_full(KEYS[1])
local now = now_ms()
for at = 2, #ARGV, 6 do
  local key, version = ARGV[at], ARGV[at + 1]
  local entry = redis.call('HGET', KEYS[3], key)
  if entry and claimed_as(entry) ~= version then
    -- A newer write came meanwhile, whose failures are not these.
    local claim = redis.call('HGET', KEYS[2], key)
    if not claim or string.sub(claim, 1, 19) ~= claimed_as(entry) then
      redis.call('HDEL', KEYS[2], key)
      redis.call('ZADD', KEYS[1], whole(now), key)
    end
  elseif entry and claim_of(redis.call('HGET', KEYS[2], key), version) == ARGV[1] then
    redis.call('HSET', KEYS[2], key,
      version .. ':-:' .. ARGV[at + 3] .. ':' .. ARGV[at + 4] .. ':' .. ARGV[at + 5])
    redis.call('ZADD', KEYS[1], whole(now + tonumber(ARGV[at + 2])), key)
  end
end
return 1
