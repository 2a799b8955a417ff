#!lua
-- Takes one of what somebody may have, if one is left (a generic cell rate). Not by a full server: it counts for itself who asks.
-- KEYS: when all that was taken will have come in again, in us since the epoch
-- ARGV: us that one takes to come in, us that all together do
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local apart, whole = tonumber(ARGV[1]), tonumber(ARGV[2])
local debt = tonumber(redis.call('GET', KEYS[1]) or 0) - now
debt = math.min(math.max(debt, 0), whole) + apart
if debt > whole then
  return {0, debt - whole}
end
redis.call('SET', KEYS[1], string.format('%.0f', now + debt), 'PX', math.max(1, math.ceil(debt / 1000)))
return {1, debt}
