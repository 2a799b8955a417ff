#!lua flags=allow-oom
-- Keeps a new access_token, unless its bringer came too late.
-- KEYS: the token, the lease on fetching it
-- ARGV: owner of the lease, generation that was read or '', token, its life in ms
local stored = redis.call('HMGET', KEYS[1], 'sealed', 'generation')
local sealed, generation = stored[1], stored[2]
-- Each sealing is unlike any other, so this very call has happened and only its reply was lost.
if sealed == ARGV[3] then
  return 1
end
if redis.call('GETRANGE', KEYS[2], 0, #ARGV[1] - 1) ~= ARGV[1] then
  return 0
end
if sealed and (generation ~= ARGV[2] or redis.call('PTTL', KEYS[1]) > tonumber(ARGV[4])) then
  return 0
end
-- The clock, so that the generation rises even over a token that expired and left no trace.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local next = math.max(tonumber(generation or 0) + 1, now)
redis.call('HSET', KEYS[1], 'sealed', ARGV[3], 'generation', string.format('%.0f', next))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
