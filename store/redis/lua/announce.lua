-- announce publishes what other processes are told of a new entry. ARGV 9 is the channel, if there is one, and 10 to 13 the
-- parts of a message in MessagePack, between which the number, the epoch and the number belong, in the shortest form. An
-- epoch has more digits than a number in Lua can hold. If Redis refuses the message, which leaves the entry there all the
-- same, it returns '!'.
local function announce(epoch, seq)
  if not ARGV[9] then return '' end
  local function bytes(n)
    local d = n % 256
    n = (n - d) / 256
    local c = n % 256
    n = (n - c) / 256
    local b = n % 256
    return string.char((n - b) / 256, b, c, d)
  end
  local word = 4294967296
  local function natural(high, low)
    if high > 0 then return '\207' .. bytes(high) .. bytes(low) end
    if low < 128 then return string.char(low) end
    if low < 256 then return '\204' .. string.char(low) end
    if low < 65536 then return '\205' .. string.sub(bytes(low), 3) end
    return '\206' .. bytes(low)
  end
  local low = seq % word
  local number = natural((seq - low) / word, low)
  local thousands = tonumber(string.sub(epoch, 1, -4)) or 0
  low = thousands % word
  local product = low * 1000 + tonumber(string.sub(epoch, -3))
  local rest = product % word
  local incarnation = natural((thousands - low) / word * 1000 + (product - rest) / word, rest)
  local told = redis.pcall('PUBLISH', ARGV[9], ARGV[10] .. number .. ARGV[11] .. incarnation .. ARGV[12] .. number .. ARGV[13])
  return type(told) == 'table' and told.err and '!' or ''
end
