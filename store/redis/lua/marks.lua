-- Reads the marks of conversations. ARGV 4 below which number entries count as unread ("": all), 5 and on the peers. Returns
-- nothing if there is no mailbox; otherwise epoch, "ok" or "more" (ask again: there is more to adopt), and for each peer
-- the newest number, or "" for one without entries, the mark, or "", and how many entries were not read.
if not open(false) then return {} end
local all = adopt()
save()
if not all then return {epoch, 'more'} end
local out, high = {epoch, 'ok'}, last
if ARGV[4] ~= '' then high = tonumber(ARGV[4]) - 1 end
for i = 5, #ARGV do
  local newest = redis.call('ZSCORE', peers, ARGV[i])
  local mark = newest and redis.call('HGET', info, '@' .. ARGV[i]) or ''
  out[#out + 1] = newest and int(tonumber(newest)) or ''
  out[#out + 1] = mark
  out[#out + 1] = newest and received(ARGV[i], tonumber(string.match(mark, '^%d+') or 0) + 1, high) or 0
end
return out
