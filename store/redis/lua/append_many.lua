end

-- Adds entries to many mailboxes. KEYS are those of each mailbox, ARGV 1 life in ms, 2 how many entries are kept, 3 and on for
-- each: user, key, at, its data up to the number, and the rest of its facts (append.lua). Returns a line for each: what
-- append.lua does, or nothing where there was an error, which append.lua by itself is to meet again and tell, and for all that
-- follow for a list that had one, to stay in their order.
local life, limit = ARGV[1], tonumber(ARGV[2])
local function one(k, a)
  local user, key, at, head, rest = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  return usual(KEYS[k], KEYS[k + 1], life, limit, key, at, head, rest) or
    long({KEYS[k], KEYS[k + 1], KEYS[k + 2], KEYS[k + 3]}, {life, ARGV[2], user, key, at, head, '1', rest})
end
local lines, failed = {}, {}
for i = 1, #KEYS / 4 do
  local list, ok, line = KEYS[4 * i - 3], false, nil
  if not failed[list] then ok, line = pcall(one, 4 * i - 3, 5 * i - 2) end
  if not ok then failed[list], line = true, '' end
  lines[i] = line
end
return table.concat(lines, '\n')
