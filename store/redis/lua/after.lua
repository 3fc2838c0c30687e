-- Reads what follows an offset. ARGV 4 epoch ("": from the oldest), 5 number, 6 how many. Returns nothing if there is no
-- mailbox; otherwise epoch, oldest and newest number, "ok" or "unknown" or "more" (ask again: there is more to adopt),
-- and for each entry: number, item, facts.
if not open(false) then return {} end
local all = adopt()
save()
local from = first
if ARGV[4] ~= '' then
  from = tonumber(ARGV[5]) + 1
  if ARGV[4] ~= epoch or from - 1 > last or from < first then return {epoch, int(first), int(last), 'unknown'} end
end
local out = {epoch, int(first), int(last), 'ok'}
if not all and from >= seen then out[4] = 'more' end
local stop, bytes = math.min(from + tonumber(ARGV[6]), seen) - 1, 1048576
while from <= stop and bytes > 0 do
  for _, item in ipairs(redis.call('LRANGE', list, int(from - first), int(math.min(from + 15, stop) - first))) do
    out[#out + 1] = int(from)
    out[#out + 1] = item
    out[#out + 1] = redis.call('HGET', info, '#' .. int(from))
    from, bytes = from + 1, bytes - #item
  end
end
return out
