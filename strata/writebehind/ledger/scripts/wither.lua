--@common
--@ledger
-- Dead letters that nobody came for: those that are too old, and the oldest of those that are too many.
-- KEYS  1 dead; 2 deaths; 3 graves; 4 untold
-- ARGV  1 ms for which a letter is kept, 0 = for ever; 2 most letters, 0 = any number; 3 most to take out at once
-- Returns how many were taken out.
even_if_full(KEYS[2])
local old = {}
if ARGV[1] ~= '0' then
  old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', whole(now_ms() - tonumber(ARGV[1])), 'LIMIT', 0, ARGV[3])
end
local many = ARGV[2] == '0' and 0 or redis.call('ZCARD', KEYS[2]) - tonumber(ARGV[2])
if many > #old then old = redis.call('ZRANGE', KEYS[2], 0, math.min(many, tonumber(ARGV[3])) - 1) end

-- The record's key is the first thing in a letter; where that cannot be read, its grave is looked for.
local function key_of(version)
  local read, letter = pcall(cmsgpack.unpack, redis.call('HGET', KEYS[1], version) or '')
  if read and type(letter) == 'table' and type(letter[1]) == 'string' then return letter[1] end
  local graves = redis.call('HGETALL', KEYS[3])
  for i = 1, #graves, 2 do
    if string.find(graves[i + 1], version .. ' ', 1, true) then return graves[i] end
  end
end

for _, version in ipairs(old) do
  local key = key_of(version)
  local plain = string.gsub(version, '%p', '%%%0')  -- it is whatever somebody put there
  local left = key and string.gsub(redis.call('HGET', KEYS[3], key) or '', plain .. ' ', '')
  if left == '' then redis.call('HDEL', KEYS[3], key) elseif left then redis.call('HSET', KEYS[3], key, left) end
  redis.call('HDEL', KEYS[4], version)
  redis.call('HDEL', KEYS[1], version)
  redis.call('ZREM', KEYS[2], version)  -- last: see `forget`
end
return #old
