#!lua flags=allow-oom
-- Gives back one of what was taken, if it is still owed.
-- KEYS: when all that was taken will have come in again, in us since the epoch
-- ARGV: us that one takes to come in
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local debt = tonumber(redis.call('GET', KEYS[1]) or 0) - now - tonumber(ARGV[1])
if debt > 0 then
  redis.call('SET', KEYS[1], string.format('%.0f', now + debt), 'PX', math.max(1, math.ceil(debt / 1000)))
else
  redis.call('DEL', KEYS[1])
end
