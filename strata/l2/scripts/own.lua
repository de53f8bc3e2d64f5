--@common
-- A write to schemas whose lowest tier is L2: stored if it is newer than what is there.
-- KEYS  the records' keys
-- ARGV  1 channel, 2 key of the schemas' markers, 3 schema, 4 version; then for each key: content, px, message
-- Returns for each key '' where stored, '!' where a marker is newer, else the version that stands in the way.
local call = redis.call
local held, answers, stored = call('MGET', unpack(KEYS)), {}, false
for i, key in ipairs(KEYS) do
  local raw = held[i] and standing(key, held[i])
  if holds_version(raw) and not older(version_of(raw), ARGV[4]) then
    answers[i] = version_of(raw)
  elseif made_before(ARGV[2], ARGV[3], ARGV[2 + i * 3]) then
    answers[i] = '!'
  else
    answers[i] = ''
    stored = true
  end
end
if not stored then return answers end
for i in ipairs(KEYS) do say(ARGV[1], ARGV[4 + i * 3]) end
for i, key in ipairs(KEYS) do
  if answers[i] == '' then store(key, ARGV[2 + i * 3], ARGV[3 + i * 3]) end
end
return answers
