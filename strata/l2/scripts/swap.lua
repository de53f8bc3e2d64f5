--@common
-- A write to schemas whose lowest tier is L2, of what was decided on by what stood there.
-- KEYS  the records' keys
-- ARGV  1 channel, 2 key of the schemas' markers, 3 schema; then for each key: version, content, px, message, version that
--       stood there ('' = none)
-- What has a life of its own, and is to have one still, keeps what it has left of it.
-- Returns for each key '' where stored, '!' where a marker is newer, else what stands there now, by its version ('-' = none).
local answers = {}
for i, key in ipairs(KEYS) do
  local at = 3 + (i - 1) * 5
  local raw = standing(key, get(key))
  local there = holds_version(raw) and version_of(raw) or ''
  if made_before(ARGV[2], ARGV[3], ARGV[at + 2]) then
    answers[i] = '!'
  elseif there == ARGV[at + 5] and (there == '' or older(there, ARGV[at + 1])) then
    say(ARGV[1], ARGV[at + 4])
    if there ~= '' and has_own_life(raw) and has_own_life(ARGV[at + 2]) then
      redis.call('SET', key, ARGV[at + 2], 'KEEPTTL')
    else
      store(key, ARGV[at + 2], ARGV[at + 3])
    end
    answers[i] = ''
  else
    answers[i] = there == '' and '-' or there
  end
end
return answers
