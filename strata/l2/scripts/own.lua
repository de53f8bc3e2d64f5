--@common
-- A write to schemas whose lowest tier is L2: stored if it is newer than what is there.
-- KEYS  the records' keys
-- ARGV  1 channel, 2 key of the schemas' markers, 3 schema; then for each key: version, content, px, message
-- Returns for each key '' where stored, '!' where a marker is newer, else the version that stands in the way.
local answers = {}
for i, key in ipairs(KEYS) do
  local at = 3 + (i - 1) * 4
  local raw = standing(key, get(key))
  if holds_version(raw) and not older(version_of(raw), ARGV[at + 1]) then
    answers[i] = version_of(raw)
  elseif made_before(ARGV[2], ARGV[3], ARGV[at + 2]) then
    answers[i] = '!'
  else
    say(ARGV[1], ARGV[at + 4])
    store(key, ARGV[at + 2], ARGV[at + 3])
    answers[i] = ''
  end
end
return answers
