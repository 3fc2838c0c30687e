-- Reads the newest entries of conversations. ARGV 4 below which number ("": the newest of all), 5 how many of each,
-- 6 of how many peers, those with the newest entries first, or "" for the peers 7 and on. Returns nothing if there is
-- no mailbox; otherwise epoch, newest number, "ok" or "more" (ask again: there is more to adopt), the peers if they
-- were asked for, and a page for each peer, as long as the answer stays small: whether it is complete, and for each
-- entry, the newest first: number, item, facts.
if not open(false) then return {} end
local all = adopt()
save()
if not all then return {epoch, int(last), 'more', {}} end
local names = {}
if ARGV[6] ~= '' then
  if tonumber(ARGV[6]) > 0 then names = redis.call('ZREVRANGE', peers, 0, int(tonumber(ARGV[6]) - 1)) end
else
  for i = 7, #ARGV do names[#names + 1] = ARGV[i] end
end
local out = {epoch, int(last), 'ok', names}
local entries, bytes = 512, 1048576
for _, peer in ipairs(names) do
  if entries <= 0 or bytes <= 0 then break end
  local low, high = '[' .. #peer .. ':' .. peer .. ':', '(' .. #peer .. ':' .. peer .. ';'
  if ARGV[4] ~= '' then high = '(' .. place(peer, tonumber(ARGV[4])) end
  local found = redis.call('ZREVRANGEBYLEX', places, high, low, 'LIMIT', 0, ARGV[5])
  local page = {1}
  for _, p in ipairs(found) do
    if entries <= 0 or bytes <= 0 then
      page[1] = 0
      break
    end
    local seq = tonumber(string.sub(p, -16))
    local item = redis.call('LINDEX', list, int(seq - first))
    if item then
      page[#page + 1] = int(seq)
      page[#page + 1] = item
      page[#page + 1] = redis.call('HGET', info, '#' .. int(seq))
      entries, bytes = entries - 1, bytes - #item
    end
  end
  out[#out + 1] = page
end
return out
