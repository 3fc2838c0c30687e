-- Moves the mark of a conversation forward. ARGV 4 peer, 5 the epoch that 6 is of, or "", 6 the number read, 7 received and
-- 8 seen (ms). Returns nothing if the mailbox has no entry of the peer, or is of another epoch; "more" behind the epoch
-- (ask again: there is more to adopt); otherwise epoch, the newest number of the conversation, the mark, whether it moved,
-- and how many entries were not read.
if not open(false) then return {} end
local all = adopt()
save()
if not all then return {epoch, 'more'} end
local peer = ARGV[4]
local newest = redis.call('ZSCORE', peers, peer)
if not newest or (ARGV[5] ~= '' and ARGV[5] ~= epoch) then return {} end
local now, moved = {}, 0
for part in string.gmatch(redis.call('HGET', info, '@' .. peer) or '0 0 0', '%d+') do now[#now + 1] = part end
for i = 1, 3 do
  if tonumber(ARGV[5 + i]) > tonumber(now[i]) then now[i], moved = ARGV[5 + i], 1 end
end
local mark = table.concat(now, ' ')
if moved == 1 then redis.call('HSET', info, '@' .. peer, mark) end
return {epoch, int(tonumber(newest)), mark, moved, received(peer, tonumber(now[1]) + 1, last)}
