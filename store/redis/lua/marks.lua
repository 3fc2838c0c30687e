-- Reads the marks of conversations. ARGV 4 and on the peers. Returns nothing if there is no mailbox; otherwise epoch, and
-- for each peer the newest number, or "" for one without entries, and the mark, or "".
if not open(false) then return {} end
adopt()
save()
local out = {epoch}
for i = 4, #ARGV do
  local newest = redis.call('ZSCORE', peers, ARGV[i])
  out[#out + 1] = newest and int(tonumber(newest)) or ''
  out[#out + 1] = newest and redis.call('HGET', info, '@' .. ARGV[i]) or ''
end
return out
