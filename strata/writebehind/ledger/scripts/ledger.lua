-- What the ledger of one shard holds, and what its scripts share. The shard's keys have one hash tag, so that they
-- are on one node of a Cluster:
--   strata:{<schema>:<shard>}:dirty    hash: key -> entry, what L3 does not have yet
--   strata:{<schema>:<shard>}:due      sorted set: key -> ms from which it may be claimed
--   strata:{<schema>:<shard>}:claims   hash: key -> claim
--   strata:{<schema>:<shard>}:floor0   hash: key -> version that L3 is known to have; of even minutes ...
--   strata:{<schema>:<shard>}:floor1   ... and of odd ones; each expires two minutes after it began
--   strata:{<schema>:<shard>}:epoch    text: changes when the ledger was lost
--   strata:{<schema>:<shard>}:bell     text: a doorbell is under way
--   strata:{<schema>:<shard>}:dead     hash: version -> dead letter
--   strata:{<schema>:<shard>}:deaths   sorted set: version -> ms of its burial
--   strata:{<schema>:<shard>}:graves   hash: key -> versions of its dead letters, each followed by a blank
--   strata:{<schema>:<shard>}:untold   hash: version -> key, buried but not made known yet
--   strata:{<schema>:0}:outage         text: those who wrote in this schema were told of the outage under way
--   strata:{<schema>:<shard>}:told     sorted set: version -> ms at which its failure was told
--   strata:{<schema>:<shard>}:spans    list: <version> <span that wrote it>, where writers are traced; see spans.py
--
-- entry   E1:<version>:<s|d|p|m>:<ms of its first write>:<origin>:<packed row>     set, delete, partial, mixed
--         E2:<version>:a:<ms of its first write>:<origin>:<body>                   adds to columns
--         (the version stands where it does in an L2 value, so that version_of serves both)
-- claim   <version>:<token, - if not held>:<crashes>:<attempts>:<outages>     held: wide, see below

-- What takes entries out of the ledger must not be refused by a Redis that is out of memory, or nothing would ever free
-- any: such a one refuses a command that may need some, unless the script has written before.
local function even_if_full(due) redis.call('ZREMRANGEBYSCORE', due, 1, 0) end

-- Whether a field of `dirty` holds an entry, of this format or of a later one. What holds none is nobody's: it gives way
-- to a write, and whoever claims it sets it aside.
local OURS = '^E1:' .. VERSION .. ':[sdpm]:' .. string.rep('%d', 13) .. ':[^:]*:'
local LATER = '^E%d:' .. VERSION .. ':'
local function is_entry(raw)
  local pattern = string.sub(raw, 1, 3) == 'E1:' and OURS or LATER
  return string.find(raw, pattern) ~= nil and not is_beyond(version_of(raw))
end

-- The version by which what a field of `dirty` holds is claimed and released: that of an entry, else 0.
local NOBODYS = string.rep('0', 19)
local function claimed_as(raw)
  local version = version_of(raw)
  return string.find(version, WHOLLY) and version or NOBODYS
end

-- The claim of an entry as token, crashes, attempts, outages; that of another version counts for nothing.
local function claim_of(raw, version)
  if raw then
    local v, token, crashes, attempts, outages = string.match(raw, '^(%d+):([^:]+):(%d+):(%d+):(%d+)$')
    if v == version then return token, tonumber(crashes), tonumber(attempts), tonumber(outages) end
  end
  return '-', 0, 0, 0
end

local function whole(number) return string.format('%.0f', number) end

-- For each of the keys the highest version that L3 is known to have, '' where none is known. One of the far future
-- would refuse every write for ever.
local function floors(even, odd, keys)
  local a, b = redis.call('HMGET', even, unpack(keys)), redis.call('HMGET', odd, unpack(keys))
  local found = {}
  for i = 1, #keys do
    local x, y = a[i] or '', b[i] or ''
    if x ~= '' and is_beyond(x) then x = '' end
    if y ~= '' and is_beyond(y) then y = '' end
    if x == '' then found[i] = y
    elseif y == '' then found[i] = x
    else found[i] = older(x, y) and y or x end
  end
  return found
end

-- A hash of short values is a list, searched from its start, until it has 128 or 512 fields; one value of more than 64
-- bytes makes it a table, whose look-ups cost a tenth.
local WIDE = string.rep('.', 65)

-- Remember {key, version, ...} for at least a minute.
local function raise(even, odd, now, pairs)
  if #pairs == 0 then return end
  local minute = math.floor(now / 60000)
  local key = minute % 2 == 0 and even or odd
  redis.call('HSET', key, '', WIDE, unpack(pairs))
  redis.call('PEXPIREAT', key, whole((minute + 2) * 60000))
end

-- The versions of a key's dead letters.
local function buried(graves, key)
  local versions = {}
  for version in string.gmatch(redis.call('HGET', graves, key) or '', '%d+') do
    if #version == 19 then versions[#versions + 1] = version end
  end
  return versions
end

-- Take entries out, last of all from `dirty`: where one of the keys is of another type, the script is run once more when
-- that is put aside, and is to find what it has not ended.
local function forget(dirty, due, claims, gone)
  if #gone == 0 then return end
  redis.call('ZREM', due, unpack(gone))
  redis.call('HDEL', claims, unpack(gone))
  redis.call('HDEL', dirty, unpack(gone))
end

-- L3 has these versions: what is not newer leaves the ledger, the floor rises, dead letters that are not newer go.
-- Nothing rises for a write of some columns only, where `partial` says so, and nothing but itself leaves: an older one,
-- which may be in the ledger without L3's knowing of it, still has a word on the others, and so has a dead letter. What
-- several wrote may be there once more at the same version, and not be the same: it leaves for nobody but whoever has
-- claimed it, by `token`. KEYS are, and begin with, those of `done.lua`. Returns the number of entries that left.
local function persisted(keys, versions, partial, token)
  local call, dirty, due, claims, graves = redis.call, KEYS[1], KEYS[2], KEYS[3], KEYS[8]
  local now = now_ms()
  local entries, known = call('HMGET', dirty, unpack(keys)), floors(KEYS[4], KEYS[5], keys)
  local gone, up = {}, {}
  for i, key in ipairs(keys) do
    local version, entry, floor = versions[i], entries[i], known[i]
    local there = entry and version_of(entry)
    if there == version then
      if not partial[i] or token == '' or claim_of(call('HGET', claims, key), version) == token then
        gone[#gone + 1] = key
      end
    elseif entry and is_entry(entry) then
      if older(version, there) then
        -- A newer write came meanwhile: it is due now, unless another worker has taken it up already.
        local claim = call('HGET', claims, key)
        if not claim or string.sub(claim, 1, 19) ~= there then
          call('HDEL', claims, key)
          call('ZADD', due, whole(now), key)
        end
      elseif not partial[i] then
        gone[#gone + 1] = key
      end
    end
    if not partial[i] then
      up[#up + 1] = key
      up[#up + 1] = (floor ~= '' and older(version, floor)) and floor or version
    end
  end
  forget(dirty, due, claims, gone)
  raise(KEYS[4], KEYS[5], now, up)

  if call('EXISTS', graves) == 1 then
    for i, key in ipairs(keys) do
      local left = ''
      for _, version in ipairs(buried(graves, key)) do
        if version == versions[i] or (not partial[i] and not older(versions[i], version)) then
          call('HDEL', KEYS[6], version)
          call('ZREM', KEYS[7], version)
          call('HDEL', KEYS[9], version)
        else
          left = left .. version .. ' '
        end
      end
      if left == '' then call('HDEL', graves, key) else call('HSET', graves, key, left) end
    end
  end
  return #gone
end
