#!lua flags=allow-oom
-- Gives a lease back, if it is still its owner's. What follows the owner in it tells calls apart.
-- KEYS: the lease
-- ARGV: owner
if redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
