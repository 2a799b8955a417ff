#!lua flags=allow-oom
-- Ends a claim on making a picture, or lets a finished picture live on; each leaves the other alone.
-- KEYS: the picture
-- ARGV: what a claim begins with, the finished picture's life in ms or '' to end a claim
local is_claim = redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1) == ARGV[1]
if ARGV[2] == '' then
  if is_claim then
    redis.call('DEL', KEYS[1])
  end
elseif not is_claim then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
