--@common
-- A write to schemas whose lowest tier is L2, of what was decided on by what stood there.
-- KEYS  the records' keys
-- ARGV  1 channel; then for each key: version, content, px, message, version that stood there ('' = none)
-- Returns for each key '' where stored, else what stands there now, by its version ('-' = none).
local answers = {}
for i, key in ipairs(KEYS) do
  local at = 1 + (i - 1) * 5
  local raw = standing(key, get(key))
  local there = holds_version(raw) and version_of(raw) or ''
  if there == ARGV[at + 5] and (there == '' or older(there, ARGV[at + 1])) then
    say(ARGV[1], ARGV[at + 4])
    store(key, ARGV[at + 2], ARGV[at + 3])
    answers[i] = ''
  else
    answers[i] = there == '' and '-' or there
  end
end
return answers
