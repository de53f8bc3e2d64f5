-- What an L2 key may hold, as text. Versions are 19 digits, zero-padded, so that text order is number order
-- (Lua's own < follows the locale, and its numbers lose bits above 2^53: both are avoided by `older`).
--   V1:<version>:<s|p>:<codec's bytes>      value, settled or pending; with ; before the bytes, of a life of its own
--   T1:<version>:<s|p>:                     tombstone, settled or pending
--   V2: T2:<version>:<s|p>:<16 digits>:     the same with the number of the last marker heard of before it was read
--   L1:<token>                              lease of a reader that missed
--   I1:<c|s>:<token>=<deadline ms>;...      intents of writers whose commit is under way, clean or spoiled

local function kind(raw)
  if not raw then return '' end
  return string.sub(raw, 1, 1)
end

-- A key of another type is nobody's: it is removed where it is met, since no text could ever take its place.
local function text_by(command, key)
  local raw = redis.pcall(command, key)
  if type(raw) ~= 'table' then return raw end
  if not string.find(raw.err, 'WRONGTYPE', 1, true) then return redis.call(command, key) end
  redis.call('DEL', key)
  return false
end

-- The same where it is no text that is to be kept.
local function clear_unless(kind, key)
  local found = redis.call('TYPE', key).ok
  if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
end

local function get(key) return text_by('GET', key) end

-- As get. A Redis that is out of memory refuses a command that may need some, unless the script has written before, as
-- this does without changing anything: for scripts that take away, or put what is smaller in the place of a value.
local function get_even_if_full(key) return text_by('GETEX', key) end

local function holds_version(raw)
  local k = kind(raw)
  return k == 'V' or k == 'T'
end

local function version_of(raw) return string.sub(raw, 4, 22) end

local function has_own_life(raw) return string.sub(raw, 25, 25) == ';' end

-- A value, whose life is its own or, after ':', that of all.
local function living(raw, mark) return string.sub(raw, 1, 24) .. mark .. string.sub(raw, 26) end

local function is_pending(raw) return string.sub(raw, 24, 24) == 'p' end

-- Whether version a is below version b, both 19 digits: two halves, each exact as a double.
local function older(a, b)
  local ah, bh = tonumber(string.sub(a, 1, 10)), tonumber(string.sub(b, 1, 10))
  if ah ~= bh then return ah < bh end
  return tonumber(string.sub(a, 11)) < tonumber(string.sub(b, 11))
end

-- Whether a version is nobody's: more than 60 s ahead of this server's clock (`strata/protocol/versions.py` has the same bound),
-- or not of 19 digits. A double is exact enough for that.
local bound
local VERSION = string.rep('%d', 19)
local WHOLLY = '^' .. VERSION .. '$'
local function is_beyond(version)
  if not bound then bound = (tonumber(redis.call('TIME')[1]) + 60) * 1000000 * 2048 end
  return not string.find(version, WHOLLY) or tonumber(version) > bound
end

-- What a key holds, as far as it counts: a value or tombstone of the far future is removed where it is met, since no
-- write could ever take its place.
local function standing(key, raw)
  if not holds_version(raw) or not is_beyond(version_of(raw)) then return raw end
  redis.call('DEL', key)
  return false
end

-- Whether what is to be kept was made before the schema's last marker was set, of which its writer has not heard yet.
-- `set` is the key of the markers, '' on a Cluster, where it is of another slot.
local function made_before(set, schema, content)
  local number = set ~= '' and content ~= '' and redis.call('ZSCORE', set, schema)
  if not number then return false end
  local since = string.sub(content, 2, 2) == '2' and tonumber(string.sub(content, 26, 41)) or 0
  return tonumber(number) > since
end

local function store(key, content, px)
  if px == '0' then redis.call('SET', key, content) else redis.call('SET', key, content, 'PX', px) end
end

-- Before any change: a user who may not publish then changes nothing, and nothing changes that nobody was told of.
local function say(channel, message)
  if message ~= '' then redis.call('PUBLISH', channel, message) end
end

-- The same in one message, of keys and their versions in turn: `head` is all of it but these, and the last brace.
local function say_of(channel, head, said)
  if head == '' or #said == 0 then return end
  local rest = ',"many":' .. cjson.encode(said)
  if #said == 2 then rest = ',"id":' .. cjson.encode(said[1]) .. ',"v":"' .. said[2] .. '"' end
  redis.call('PUBLISH', channel, head .. rest .. '}')
end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- The writers of an intent whose deadline has not passed: list of {token, deadline}. No commit takes a day.
local function writers(raw, now)
  local list = {}
  for token, deadline in string.gmatch(string.sub(raw, 6), '([^=;]+)=(%d+);') do
    local ends = tonumber(deadline)
    if ends > now and ends < now + 86400000 then list[#list + 1] = { token, ends } end
  end
  return list
end

local function keep_intent(key, list, spoiled, now)
  local latest, parts = 0, {}
  for i, w in ipairs(list) do
    if w[2] > latest then latest = w[2] end
    parts[i] = w[1] .. '=' .. string.format('%d', w[2]) .. ';'
  end
  redis.call('SET', key, 'I1:' .. (spoiled and 's' or 'c') .. ':' .. table.concat(parts), 'PX', latest - now)
end

-- Make sure that no writer whose intent stands here stores its value.
local function spoil(key, raw)
  if string.sub(raw, 4, 4) ~= 's' then
    redis.call('SET', key, 'I1:s:' .. string.sub(raw, 6), 'KEEPTTL')
  end
end

-- Put a pending value, or tombstone, of a write-behind write that the ledger has accepted, where the key holds `raw`.
-- Creates the key; an intent that it meets is spoiled, not replaced. An empty content (a partial record) only removes
-- what is older, or, where px is -1, whatever there is, since it has not what was added. Returns whether it met an intent.
local function pend(key, raw, version, content, px)
  if not raw then
    if content ~= '' then store(key, content, px) end
    return false
  end
  raw = standing(key, raw)
  local k = kind(raw)
  if k == 'I' then spoil(key, raw) return true end
  if px ~= '-1' and holds_version(raw) and not older(version_of(raw), version) then return false end
  if content == '' then redis.call('DEL', key) else store(key, content, px) end
  return false
end

-- L3 has `version` of what the key holds as `raw`, and `content` in its place ('' = as it is, '-' = none).
local function settle(key, raw, version, content, px)
  if raw and version_of(raw) ~= version then raw = standing(key, raw) end
  local k = kind(raw)
  if k == 'L' then
    redis.call('DEL', key)
  elseif k == 'I' then
    spoil(key, raw)
  elseif raw and version_of(raw) == version then
    if content == '-' then
      redis.call('DEL', key)
    elseif content ~= '' and has_own_life(raw) then
      redis.call('SET', key, living(content, ';'), 'KEEPTTL')
    elseif content ~= '' then
      store(key, content, px)
    elseif is_pending(raw) then
      redis.call('SETRANGE', key, 23, 's')
    end
  elseif raw and (older(version_of(raw), version) or (content == '-' and is_pending(raw))) then
    redis.call('DEL', key)
  end
end
