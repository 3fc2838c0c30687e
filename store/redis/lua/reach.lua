-- Tells what a mark says that comes as far as an entry. ARGV 4 peer, 5 its number, 6 how many entries are compared. Returns
-- nothing if there is no such entry; otherwise epoch, "ok" or "more" (ask again: there is more to adopt), and the latest time
-- of the newest entries up to it that the user has not sent, 0 if there are none.
if not open(false) then return {} end
local all = adopt()
save()
if not all then return {epoch, 'more'} end
local peer, low, high = ARGV[4], first, tonumber(ARGV[5])
if not redis.call('ZSCORE', places, place(peer, high)) then return {} end
if received(peer, low, high) == 0 then return {epoch, 'ok', 0} end
local seq = high
while low < seq do
  local middle = math.ceil((low + seq) / 2)
  if received(peer, middle, high) > 0 then low = middle else seq = middle - 1 end
end
local latest, from = 0, '[' .. place(peer, seq)
for _, p in ipairs(redis.call('ZREVRANGEBYLEX', places, from, '[' .. place(peer, first), 'LIMIT', 0, ARGV[6])) do
  local v = not redis.call('ZSCORE', places, '>' .. p) and redis.call('HGET', info, '#' .. int(tonumber(string.sub(p, -16))))
  if v then latest = math.max(latest, tonumber((facts(v)))) end
end
return {epoch, 'ok', int(latest)}
