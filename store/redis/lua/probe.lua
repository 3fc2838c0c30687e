-- Reports whether the keys are where this script is. ARGV 1 what they hold.
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) ~= ARGV[1] then return 0 end
end
return 1
