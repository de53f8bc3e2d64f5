--@common
--@ledger
-- L3 has these versions: what is not newer leaves the ledger, the floor rises, dead letters that are not newer go.
-- KEYS  1 dirty; 2 due; 3 claims; 4 floor0; 5 floor1; 6 dead; 7 deaths; 8 graves; 9 untold
-- ARGV  1 token of the claims, '' of who wrote around the ledger; then for each record: key, version that L3 has,
--       1 if the floor rises to it
-- Returns the number of entries that left.
local keys, versions, partial = {}, {}, {}
for i = 2, #ARGV, 3 do
  keys[#keys + 1] = ARGV[i]
  versions[#keys] = ARGV[i + 1]
  partial[#keys] = ARGV[i + 2] ~= '1'
end
even_if_full(KEYS[2])
return persisted(keys, versions, partial, ARGV[1])
