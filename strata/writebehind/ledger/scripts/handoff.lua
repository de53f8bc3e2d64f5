--@common
--@ledger
-- Take over deferred writes of one kind: into the ledger, and, where L2 is on this server, into L2 as pending values.
-- KEYS  1 dirty; 2 due; 3 claims; 4 floor0; 5 floor1; 6 epoch; 7 bell; then each record's L2 key, if ARGV 4 is 1
-- ARGV  1 epoch for a ledger that has none; 2 ms for which a bell counts as rung; 3 most entries of a shard;
--       4 whether there are L2 keys (1 or 0); 5 channel; 6 ms of Redis's clock after which nobody waits for the answer
--       any more (0 = none), so that a script which a frozen server runs late does nothing; 7 the head of a message about
--       those that are taken ('' = none); 8 expected version ('*' any, '' no entry, '-' never); then for each record, no
--       key twice: key, entry, L2 content, px
-- Returns the ms of its clock alone where nobody waits any more; else epoch; 1 if the bell is to be rung; then, unless all
-- were taken and nothing else is to be said, for each record: '+' taken, '=' there already, both followed by 'I' where L2
-- holds a synchronous writer's intent instead, '<' and a version that L3 has, '>' and the newer version that is pending,
-- '?' and the pending entry that was not expected, or that is newer but carries, or adds to, some columns only, '!' full.
local dirty, due, claims = KEYS[1], KEYS[2], KEYS[3]
local call, now = redis.call, now_ms()
local at_once = whole(now)
if ARGV[6] ~= '0' and now > tonumber(ARGV[6]) then return now end
local n = (#ARGV - 8) / 4
local keys = {}
for i = 1, n do keys[i] = ARGV[4 * i + 5] end
local entries = call('HMGET', dirty, unpack(keys))
local known = floors(KEYS[4], KEYS[5], keys)
local room = tonumber(ARGV[3]) - call('HLEN', dirty)
local in_l2 = ARGV[4] == '1' and call('MGET', unpack(KEYS, 8))
local expected = ARGV[8]

-- What becomes of a record for whose key something is known, or expected.
local function judged(old, floor, entry)
  local version, there = version_of(entry), old and version_of(old) or ''
  if floor ~= '' and not older(floor, version) then return '<' .. floor end
  if there == version then return '=' end
  if old and older(version, there) then
    -- A newer one of some columns only: the caller lays it over its own.
    local in_parts = string.find(string.sub(old, 24, 24), '[pma]') and string.sub(entry, 24, 24) ~= 'd'
    return in_parts and '?' .. old or '>' .. there
  end
  if expected ~= '*' and expected ~= there then return '?' .. (old or '') end
  return '+'
end

local function again_due(key)
  -- A held claim, of whatever version, keeps its time: its holder, or the end of its lease, makes the key due.
  -- A pause after a failure ends, since the failure was that of another version.
  local held = call('HGET', claims, key)
  if held and string.match(held, '^%d+:([^:]+):') ~= '-' then return false end
  return tonumber(call('ZSCORE', due, key) or now + 1) > now
end

local answers, puts, dues, said, plain = {}, {}, {}, {}, true
for i = 1, n do
  local key, entry, old = keys[i], ARGV[4 * i + 6], entries[i]
  if old and not is_entry(old) then old = false end  -- it gives way
  local answer = '+'
  if old or known[i] ~= '' or expected ~= '*' then answer = judged(old, known[i], entry) end
  if answer == '+' and not old then
    if room <= 0 then answer = '!' else
      room = room - 1
      dues[#dues + 1] = at_once
      dues[#dues + 1] = key
    end
  elseif answer == '+' then
    if string.sub(old, 26, 38) < string.sub(entry, 26, 38) then
      entry = string.sub(entry, 1, 25) .. string.sub(old, 26, 38) .. string.sub(entry, 39)
    end
    if again_due(key) then dues[#dues + 1] = at_once dues[#dues + 1] = key end
  end
  answers[i] = answer
  if answer == '+' then
    puts[#puts + 1] = key
    puts[#puts + 1] = entry
    said[#said + 1] = key
    said[#said + 1] = version_of(entry)
  else
    plain = false
  end
end
say_of(ARGV[5], ARGV[7], said)
if #puts > 0 then call('HSET', dirty, unpack(puts)) end
if #dues > 0 then call('ZADD', due, unpack(dues)) end

if in_l2 then
  for i = 1, n do
    local at, answer = 4 * i + 5, answers[i]
    if (answer == '+' or answer == '=')
        and pend(KEYS[7 + i], in_l2[i], version_of(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]) then
      answers[i] = answer .. 'I'
      plain = false
    end
  end
end

local epoch = call('GET', KEYS[6])
if not epoch then
  epoch = ARGV[1]
  call('SET', KEYS[6], epoch)
end
local ring = 0
if #dues > 0 and call('SET', KEYS[7], '1', 'NX', 'PX', ARGV[2]) then ring = 1 end
if plain then return { epoch, ring } end
return { epoch, ring, unpack(answers) }
